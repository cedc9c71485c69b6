//! HAProxy's arithmetic of checks, written once more from its source: which check comes when, and
//! what it does to the server. Milliseconds everywhere.

use crate::script::Script;
use crate::stand::node::State;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    pub inter: u64,
    pub fastinter: u64,
    pub downinter: u64,
    pub rise: u32,
    pub fall: u32,
    /// For what follows the connect.
    pub timeout: u64,
}

impl Timing {
    /// A check's length, and whether it passes.
    fn outcome(&self, state: State) -> (u64, bool) {
        match state {
            State::Status(status) => (0, status == 200),
            State::Refused | State::Reset | State::Garbage => (0, false),
            State::Hung => (self.timeout, false),
            State::Slow(by) if by < self.timeout => (by, true),
            State::Slow(_) => (self.timeout, false),
        }
    }

    /// HAProxy's words for it.
    pub fn words(&self) -> String {
        let Timing { inter, fastinter, downinter, rise, fall, .. } = self;
        format!("inter {inter} fastinter {fastinter} downinter {downinter} rise {rise} fall {fall}")
    }

    /// pgvane's.
    pub fn yaml(&self) -> String {
        let Timing { inter, fastinter, downinter, rise, fall, timeout } = self;
        format!(
            "path: /check, inter: {inter}ms, fastinter: {fastinter}ms, downinter: {downinter}ms, rise: {rise}, \
             fall: {fall}, timeout: {timeout}ms, observe: off"
        )
    }

    /// When the first check of each of so many servers comes: below a second there is no smallest
    /// interval that spreads them, so it is their own (src/check.c, `start_checks`).
    pub fn first_checks(&self, servers: u64) -> impl Iterator<Item = u64> + use<> {
        let fastinter = self.fastinter;
        (0..servers).map(move |number| fastinter * number / servers)
    }
}

/// One server's check: its counter and its next start.
#[derive(Debug, Clone)]
pub struct Checker {
    timing: Timing,
    health: u32,
    pub next: u64,
}

impl Checker {
    /// As HAProxy starts: up, and one failure is enough to change that.
    pub fn new(timing: Timing, first: u64) -> Checker {
        Checker { timing, health: timing.rise, next: first }
    }

    /// The next check, meeting this. When it was done and what the server became, where that is news.
    pub fn check(&mut self, state: State) -> Option<(u64, bool)> {
        let Timing { rise, fall, .. } = self.timing;
        let (length, passed) = self.timing.outcome(state);
        let (was_up, full) = (self.health >= rise, rise + fall - 1);
        if passed {
            self.health = (self.health + 1).min(full);
            if self.health >= rise {
                self.health = full;
            }
        } else {
            self.health = self.health.saturating_sub(1);
            if self.health < rise {
                self.health = 0;
            }
        }
        let done = self.next + length;
        self.next = done + self.interval(full);
        let is_up = self.health >= rise;
        (is_up != was_up).then_some((done, is_up))
    }

    fn interval(&self, full: u32) -> u64 {
        match self.health {
            health if health == full => self.timing.inter,
            0 => self.timing.downinter,
            _ => self.timing.fastinter,
        }
    }
}

/// What one server's checks come to.
#[derive(Debug, Default, PartialEq)]
pub struct Course {
    pub starts: Vec<(u64, State)>,
    pub moves: Vec<(u64, bool)>,
}

impl Course {
    /// Starts of the checks that reach a listener.
    pub fn seen(&self) -> impl Iterator<Item = u64> {
        self.starts.iter().filter(|(_, state)| *state != State::Refused).map(|(at, _)| *at)
    }
}

pub fn course(script: &Script, timing: Timing, first: u64, end: u64) -> Course {
    let mut checker = Checker::new(timing, first);
    let mut course = Course::default();
    while checker.next < end {
        let state = script.at(checker.next);
        course.starts.push((checker.next, state));
        course.moves.extend(checker.check(state));
    }
    course
}
