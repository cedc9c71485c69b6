//! Two records of one timeline, side by side.

use std::fmt;

use crate::record::{Batch, Moment, Record};
use crate::script::Timeline;

/// Two checkers that do the same may differ by this many milliseconds, and by what the machine lagged.
pub const TOLERANCE: f64 = 60.0;
/// And by this share of the time: each rounds the wait for every check up to a millisecond of its own.
pub const DRIFT: f64 = 0.004;

#[derive(Debug)]
pub enum Outcome {
    Same(Figures),
    /// The machine was too slow, or the two were not asked the same: says nothing.
    Unfit(String),
    Different(Vec<String>),
}

/// How much was compared, and the worst differences in milliseconds.
#[derive(Debug, Default, Clone, Copy)]
pub struct Figures {
    pub checks: usize,
    pub moves: usize,
    pub batches: usize,
    /// Clients that came beside a transition.
    pub skipped: usize,
    /// Batches of which HAProxy gave more to one server than to another.
    pub uneven: usize,
    pub kills: usize,
    pub worst_check: f64,
    pub worst_move: f64,
    pub worst_kill: f64,
    pub worst_lag: f64,
}

impl Figures {
    pub fn add(&mut self, other: Figures) {
        self.checks += other.checks;
        self.moves += other.moves;
        self.batches += other.batches;
        self.skipped += other.skipped;
        self.uneven += other.uneven;
        self.kills += other.kills;
        self.worst_check = self.worst_check.max(other.worst_check);
        self.worst_move = self.worst_move.max(other.worst_move);
        self.worst_kill = self.worst_kill.max(other.worst_kill);
        self.worst_lag = self.worst_lag.max(other.worst_lag);
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Figures { checks, moves, batches, skipped, uneven, kills, .. } = self;
        let (check, moved, kill, lag) = (self.worst_check, self.worst_move, self.worst_kill, self.worst_lag);
        write!(
            f,
            "{checks} checks, {moves} transitions, {batches} batches of clients ({skipped} more came beside a \
             transition; {uneven} spread unevenly by HAProxy), {kills} kills; worst differences: checks {check:.0} ms, transitions {moved:.0} ms, kills {kill:.0} ms; \
             worst lag {lag:.0} ms"
        )
    }
}

struct Comparison<'a> {
    timeline: &'a Timeline,
    left: &'a Record,
    right: &'a Record,
    lag: f64,
    figures: Figures,
    different: Vec<String>,
}

pub fn compare(timeline: &Timeline, left: &Record, right: &Record) -> Outcome {
    let lag = left.lag.max(right.lag);
    if lag > TOLERANCE {
        return Outcome::Unfit(format!("the machine was late by {lag:.0} ms"));
    }
    let figures = Figures { worst_lag: lag, ..Figures::default() };
    let mut both = Comparison { timeline, left, right, lag, figures, different: Vec::new() };
    for member in 0..timeline.scripts.len() {
        if let Err(unfit) = both.checks(member) {
            return Outcome::Unfit(unfit);
        }
        both.moves(member);
    }
    both.batches();
    if both.different.is_empty() { Outcome::Same(both.figures) } else { Outcome::Different(both.different) }
}

impl Comparison<'_> {
    fn tolerance(&self, at: Moment) -> f64 {
        TOLERANCE + self.lag + DRIFT * at.max(0.0)
    }

    /// Where the comparison of a member's checks ends: HAProxy pauses them in maintenance.
    fn end(&self, member: usize) -> Moment {
        let maint = self.timeline.orders.iter().find(|(_, who, order)| *who == member && *order == "maint");
        maint.map_or(self.timeline.end, |(at, _, _)| *at) as f64
    }

    fn checks(&mut self, member: usize) -> Result<(), String> {
        let (left, right) = (&self.left.checks[member], &self.right.checks[member]);
        let end = self.end(member);
        for (number, ((at, met), (other_at, other_met))) in left.iter().zip(right).enumerate() {
            let tolerance = self.tolerance(*at);
            if at.max(*other_at) > end - tolerance {
                return Ok(());
            }
            let difference = (at - other_at).abs();
            if difference > tolerance {
                let line = format!("check {number} of m{}: {at:.0} and {other_at:.0}", member + 1);
                self.different.push(line);
                return Ok(());
            }
            if met != other_met {
                return Err(format!("check {number} of m{} met {met:?} and {other_met:?}", member + 1));
            }
            self.figures.checks += 1;
            self.figures.worst_check = self.figures.worst_check.max(difference);
        }
        let next = left.get(right.len()).or(right.get(left.len()));
        if let Some((at, _)) = next.filter(|(at, _)| *at < end - self.tolerance(*at)) {
            self.different.push(format!("m{} was checked by one of them only at {at:.0}", member + 1));
        }
        Ok(())
    }

    /// Without what the first check did: HAProxy's servers start up, pgvane's down.
    fn moves(&mut self, member: usize) {
        let later = |record: &Record| -> Vec<(Moment, bool)> {
            let second = record.checks[member].get(1).map_or(0.0, |(at, _)| *at);
            record.moves[member].iter().copied().filter(|(at, _)| *at >= second).collect()
        };
        let (left, right) = (later(self.left), later(self.right));
        let end = self.end(member);
        let name = format!("m{}", member + 1);
        for number in 0..left.len().max(right.len()) {
            let (one, other) = (left.get(number), right.get(number));
            let earliest = one.iter().chain(&other).map(|(at, _)| *at).fold(f64::MAX, f64::min);
            let tolerance = self.tolerance(earliest);
            if earliest > end - tolerance {
                return;
            }
            match (one, other) {
                (Some(one), Some(other)) if one.1 == other.1 && (one.0 - other.0).abs() <= tolerance => {
                    self.figures.moves += 1;
                    self.figures.worst_move = self.figures.worst_move.max((one.0 - other.0).abs());
                }
                _ => {
                    self.different.push(format!("transition {number} of {name}: {one:?} and {other:?}"));
                    return;
                }
            }
        }
    }

    fn batches(&mut self) {
        let (left, right) = (self.left, self.right);
        for (number, (one, other)) in left.batches.iter().zip(&right.batches).enumerate() {
            if self.is_beside(one, left) || self.is_beside(other, right) {
                self.figures.skipped += 1;
                continue;
            }
            // After a change HAProxy's tree sometimes favours one server for a round.
            self.figures.uneven += usize::from(!one.is_even());
            let same = one.served.keys().eq(other.served.keys()) && one.nobody == other.nobody && other.is_even();
            if !same || !one.strange.is_empty() || !other.strange.is_empty() {
                let line = format!("clients {number} at {:.0}: {one:?} and {other:?}", one.from);
                self.different.push(line);
                continue;
            }
            self.figures.batches += 1;
            for (member, closed) in &one.closed {
                self.closed(number, member, *closed, other.closed[member]);
            }
        }
    }

    /// Whether anything happened around the time of these clients.
    fn is_beside(&self, batch: &Batch, record: &Record) -> bool {
        let tolerance = self.tolerance(batch.to);
        let near = |at: Moment| at > batch.from - tolerance && at < batch.to + tolerance;
        let ordered = self.timeline.orders.iter().any(|(at, _, _)| near(*at as f64));
        ordered || record.moves.iter().flatten().any(|(at, _)| near(*at))
    }

    fn closed(&mut self, number: usize, member: &str, one: Option<Moment>, other: Option<Moment>) {
        let end = self.timeline.end as f64;
        let earliest = one.into_iter().chain(other).fold(f64::MAX, f64::min);
        let tolerance = self.tolerance(earliest.min(end));
        if earliest > end - tolerance {
            return;
        }
        match (one, other) {
            (Some(one), Some(other)) if (one - other).abs() <= tolerance => {
                self.figures.kills += 1;
                self.figures.worst_kill = self.figures.worst_kill.max((one - other).abs());
            }
            _ => {
                let line = format!("a session of {member} from batch {number} was closed at {one:?} and {other:?}");
                self.different.push(line);
            }
        }
    }
}
