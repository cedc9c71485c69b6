//! One HTTP check of one member: HAProxy's counter, and when it runs next.
//!
//! Intervals are gaps after completion (HAProxy src/check.c, `process_chk_conn`): a check that lasts
//! three seconds makes the period `interval + 3 s`.

use std::time::{Duration, Instant};

use crate::model::{CheckOutcome, CheckSpec, CheckStatus, OnError, Reason, RestAnswer};

use super::health::Health;

/// A check whose outcome was never told is given up this long after its deadline.
const CHECK_LOST_AFTER: Duration = Duration::from_secs(1);
/// Only checks that run this rarely spread the first ones (HAProxy src/check.c, `SRV_CHK_INTER_THRES`).
const SPREAD_INTERVAL_MIN: Duration = Duration::from_secs(1);

/// What HAProxy counts of a check, whoever asks and however.
#[derive(Debug, Clone)]
pub struct Tally {
    pub status: CheckStatus,
    pub code: Option<u16>,
    pub took: Duration,
    pub problem: String,
    /// Failures that moved the counter.
    pub failures: u64,
    /// Changes from up to down.
    pub downs: u64,
    /// Time spent down before the present time of it.
    pub down_before: Duration,
    /// Last change between up and down.
    pub since: Instant,
}

impl Tally {
    pub fn new(now: Instant) -> Tally {
        Tally {
            status: CheckStatus::Initializing,
            code: None,
            took: Duration::ZERO,
            problem: String::new(),
            failures: 0,
            downs: 0,
            down_before: Duration::ZERO,
            since: now,
        }
    }

    pub fn went_up(&mut self, after_down: bool, now: Instant) {
        if after_down {
            self.down_before += now.saturating_duration_since(self.since);
        }
        self.since = now;
    }

    pub fn went_down(&mut self, now: Instant) {
        self.downs += 1;
        self.since = now;
    }

    /// Time spent down, the present one included.
    pub fn down_for(&self, is_down: bool, now: Instant) -> Duration {
        let present = if is_down { now.saturating_duration_since(self.since) } else { Duration::ZERO };
        self.down_before + present
    }
}

#[derive(Debug, Clone, PartialEq)]
struct InFlight {
    number: u64,
    deadline: Instant,
}

/// The history of one check.
#[derive(Debug, Clone)]
pub struct CheckTrack {
    pub health: Health,
    /// The last outcome; None: not checked yet.
    pub last: Option<CheckOutcome>,
    /// Why it is up or down.
    pub reason: Reason,
    /// When it came back from being down; None before it ever was.
    pub risen_at: Option<Instant>,
    pub tally: Tally,
    /// When the last check was done.
    pub done_at: Option<Instant>,
    due: Instant,
    in_flight: Option<InFlight>,
    /// It was up once, or is in maintenance's wake: the next rise is a return.
    returns: bool,
    /// Failed connects of clients ask for one sooner check.
    sooner: bool,
}

/// What one outcome changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    None,
    Up,
    Down,
}

impl CheckTrack {
    /// The first check is due at `due`.
    pub fn new(spec: &CheckSpec, due: Instant, now: Instant) -> CheckTrack {
        CheckTrack {
            health: Health::new(&spec.timing),
            last: None,
            reason: Reason::NotChecked,
            risen_at: None,
            tally: Tally::new(now),
            done_at: None,
            due,
            in_flight: None,
            returns: false,
            sooner: false,
        }
    }

    /// The same check after a reload changed its timings: what is known stays.
    pub fn retuned(&self, spec: &CheckSpec, now: Instant) -> CheckTrack {
        let mut track = CheckTrack { in_flight: None, due: now, ..self.clone() };
        track.health.retune(&spec.timing);
        track
    }

    /// Up by the counter: its last few outcomes may have failed.
    pub fn is_up(&self) -> bool {
        self.health.is_up()
    }

    /// The last check passed, whatever the counter says.
    pub fn passes(&self) -> bool {
        self.last.as_ref().is_some_and(|last| last.status == CheckStatus::L7Ok)
    }

    /// Its Patroni answered another status than wanted, and PostgreSQL runs.
    pub fn says_running(&self) -> bool {
        let refused = self.last.as_ref().filter(|last| last.status == CheckStatus::L7Sts);
        let runs = |answer: &RestAnswer| answer.location.is_some() || answer.is_in_recovery();
        refused.and_then(|last| last.answer.as_deref()).is_some_and(runs)
    }

    /// When to check, or to give up a check that was lost.
    pub fn due(&self) -> Instant {
        self.in_flight.as_ref().map_or(self.due, |flight| flight.deadline)
    }

    /// Notes that the check goes out.
    pub fn send(&mut self, number: u64, spec: &CheckSpec, now: Instant) {
        let deadline = now + spec.connect_limit() + spec.timing.timeout + CHECK_LOST_AFTER;
        self.in_flight = Some(InFlight { number, deadline });
    }

    pub fn awaits(&self, number: u64) -> bool {
        self.in_flight.as_ref().is_some_and(|flight| flight.number == number)
    }

    /// Takes in the outcome of the check that is under way.
    pub fn done(&mut self, outcome: CheckOutcome, spec: &CheckSpec, now: Instant) -> Turn {
        self.in_flight = None;
        self.done_at = Some(now);
        // Our own trouble says nothing about the member, and is over soon.
        if outcome.status == CheckStatus::SockErr {
            self.due = now + spec.timing.fastinter;
            return Turn::None;
        }
        let reason = reason_of(outcome.status);
        self.tally.status = outcome.status;
        self.tally.code = outcome.code;
        self.tally.took = outcome.took;
        self.tally.problem.clone_from(&outcome.problem);
        let passed = outcome.status == CheckStatus::L7Ok;
        self.last = Some(outcome);
        let turn = if passed { self.pass(now) } else { self.fail(reason, now, Health::fail) };
        let sooner = std::mem::take(&mut self.sooner);
        let gap = if sooner { spec.timing.fastinter } else { self.health.interval(&spec.timing) };
        self.due = now + gap;
        turn
    }

    fn pass(&mut self, now: Instant) -> Turn {
        let rose = self.health.pass();
        self.reason = if self.is_up() { Reason::CheckPassed } else { Reason::Rising };
        if !rose {
            return Turn::None;
        }
        self.tally.went_up(self.tally.downs > 0, now);
        if self.returns {
            self.risen_at = Some(now);
        }
        self.returns = true;
        Turn::Up
    }

    fn fail(&mut self, reason: Reason, now: Instant, how: impl FnOnce(&mut Health) -> bool) -> Turn {
        if self.health.can_fall() {
            self.tally.failures += 1;
        }
        self.reason = reason;
        if !how(&mut self.health) {
            return Turn::None;
        }
        self.tally.went_down(now);
        Turn::Down
    }

    /// Too many connects of clients failed in a row (HAProxy src/check.c, `__health_adjust`).
    pub fn observed(&mut self, spec: &CheckSpec, now: Instant) -> Turn {
        let turn = match spec.observe.on_error {
            OnError::FastInter => Turn::None,
            OnError::FailCheck => self.fail(Reason::ErrorLimit, now, Health::fail),
            OnError::SuddenDeath => self.fail(Reason::ErrorLimit, now, Health::sudden_death),
            OnError::MarkDown => self.fail(Reason::ErrorLimit, now, Health::mark_down),
        };
        match &self.in_flight {
            Some(_) => self.sooner = true,
            None => self.due = self.due.min(now + spec.timing.fastinter),
        }
        turn
    }

    /// Maintenance ends: down until the first success, which is looked for at once.
    pub fn restart(&mut self, spec: &CheckSpec, now: Instant) {
        self.health = Health::new(&spec.timing);
        self.in_flight = None;
        self.last = None;
        self.reason = Reason::NotChecked;
        self.returns = true;
        self.due = now;
    }

    /// Its member moved: what follows is asked there, and at once.
    pub fn hurry(&mut self, now: Instant) {
        self.in_flight = None;
        self.due = now;
    }

    /// Maintenance begins: whatever is under way does not count.
    pub fn forget(&mut self) {
        self.in_flight = None;
    }
}

/// HAProxy's word as the reason that everything else uses.
fn reason_of(status: CheckStatus) -> Reason {
    match status {
        CheckStatus::L7Ok => Reason::CheckPassed,
        CheckStatus::L7Sts => Reason::CheckStatus,
        CheckStatus::L7Rsp => Reason::RestGarbled,
        CheckStatus::L7Tout | CheckStatus::L4Tout | CheckStatus::L6Tout => Reason::RestTimedOut,
        CheckStatus::L6Rsp => Reason::RestTls,
        CheckStatus::L4Con => Reason::RestRefused,
        CheckStatus::Initializing | CheckStatus::SockErr => Reason::CheckerLate,
    }
}

/// When the first check of each of `specs` is due: spread, so that a start does not ask everything at
/// once (HAProxy src/check.c, `start_checks` and `start_check_task`).
pub fn spread<'a>(specs: impl Iterator<Item = &'a CheckSpec>, now: Instant) -> Vec<Instant> {
    let first_gap = |spec: &CheckSpec| Health::new(&spec.timing).interval(&spec.timing);
    let gaps: Vec<Duration> = specs.map(first_gap).collect();
    let smallest = gaps.iter().copied().filter(|gap| *gap >= SPREAD_INTERVAL_MIN).min().unwrap_or_default();
    let count = u32::try_from(gaps.len()).unwrap_or(u32::MAX).max(1);
    let place = |index: usize| u32::try_from(index).unwrap_or(u32::MAX);
    gaps.iter().enumerate().map(|(index, gap)| now + smallest.max(*gap) * place(index) / count).collect()
}
