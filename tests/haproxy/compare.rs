//! Two records of one timeline, side by side.

use std::fmt;

use crate::record::{Batch, Moment, Record};
use crate::script::Timeline;

/// Two checkers that do the same may differ by this many milliseconds in one step.
pub const TOLERANCE: f64 = 60.0;
/// Counted from the first check, each adds this share of the time (it rounds every wait up to a
/// millisecond of its own), and all the lateness of the machine: an interval starts where a check ended.
pub const DRIFT: f64 = 0.004;
/// Differences are looked at once more when a program waited longer than this for a processor.
pub const LATE: f64 = 15.0;

#[derive(Debug)]
pub enum Outcome {
    Same(Figures),
    /// The machine was late, or the two were not asked the same: says nothing.
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
    /// From one check to the next, and from the first check.
    pub worst_gap: f64,
    pub worst_check: f64,
    /// From the last check before it.
    pub worst_move: f64,
    /// From the transition to its sessions' end.
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
        self.worst_gap = self.worst_gap.max(other.worst_gap);
        self.worst_check = self.worst_check.max(other.worst_check);
        self.worst_move = self.worst_move.max(other.worst_move);
        self.worst_kill = self.worst_kill.max(other.worst_kill);
        self.worst_lag = self.worst_lag.max(other.worst_lag);
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Figures { checks, moves, batches, skipped, uneven, kills, .. } = self;
        let (gap, check, moved, kill) = (self.worst_gap, self.worst_check, self.worst_move, self.worst_kill);
        write!(
            f,
            "{checks} checks, {moves} transitions, {batches} batches of clients ({skipped} more came beside a \
             transition; {uneven} spread unevenly by HAProxy), {kills} kills; worst differences in ms: from check to \
             check {gap:.0}, since the first {check:.0}, transitions {moved:.0}, kills {kill:.0}; worst lag {:.0}",
            self.worst_lag
        )
    }
}

struct Comparison<'a> {
    timeline: &'a Timeline,
    left: &'a Record,
    right: &'a Record,
    figures: Figures,
    different: Vec<String>,
}

pub fn compare(timeline: &Timeline, left: &Record, right: &Record) -> Outcome {
    let lag = left.late.most.max(right.late.most);
    let figures = Figures { worst_lag: lag, ..Figures::default() };
    let mut both = Comparison { timeline, left, right, figures, different: Vec::new() };
    for member in 0..timeline.scripts.len() {
        if let Err(unfit) = both.checks(member).and_then(|()| both.moves(member)) {
            return Outcome::Unfit(unfit);
        }
    }
    both.batches();
    match both.different {
        none if none.is_empty() => Outcome::Same(both.figures),
        lines if lag > LATE => Outcome::Unfit(format!("the machine was late by {lag:.0} ms, and {}", lines.join("; "))),
        lines => Outcome::Different(lines),
    }
}

impl Comparison<'_> {
    /// Counted from the first check.
    fn drift(&self, at: Moment) -> f64 {
        TOLERANCE + DRIFT * at.max(0.0) + self.left.late.total.max(self.right.late.total)
    }

    /// Where the comparison of a member ends: HAProxy pauses its checks in maintenance.
    fn end(&self, member: usize) -> Moment {
        let maint = self.timeline.orders.iter().find(|(_, who, order)| *who == member && *order == "maint");
        maint.map_or(self.timeline.end, |(at, _, _)| *at) as f64
    }

    fn is_at_the_end(&self, member: usize, at: Moment) -> bool {
        at > self.end(member) - self.drift(at)
    }

    fn checks(&mut self, member: usize) -> Result<(), String> {
        let (left, right) = (&self.left.checks[member], &self.right.checks[member]);
        let name = format!("m{}", member + 1);
        let mut before = (0.0, 0.0);
        for (number, ((at, met), (other_at, other_met))) in left.iter().zip(right).enumerate() {
            if self.is_at_the_end(member, at.max(*other_at)) {
                return Ok(());
            }
            let (gap, other_gap) = (at - before.0, other_at - before.1);
            let differences = ((gap - other_gap).abs(), (at - other_at).abs());
            if differences.0 > TOLERANCE || differences.1 > self.drift(*at) {
                let what = format!("check {number} of {name}: at {at:.0} after {gap:.0}");
                self.different.push(format!("{what}, and at {other_at:.0} after {other_gap:.0}"));
                return Ok(());
            }
            if met != other_met {
                return Err(format!("check {number} of {name} met {met:?} and {other_met:?}"));
            }
            self.figures.checks += 1;
            self.figures.worst_gap = self.figures.worst_gap.max(differences.0);
            self.figures.worst_check = self.figures.worst_check.max(differences.1);
            before = (*at, *other_at);
        }
        let next = left.get(right.len()).or(right.get(left.len()));
        if let Some((at, _)) = next.filter(|(at, _)| !self.is_at_the_end(member, *at)) {
            self.different.push(format!("{name} was checked by one of them only at {at:.0}"));
        }
        Ok(())
    }

    fn moves(&mut self, member: usize) -> Result<(), String> {
        let (left, right) = (later_moves(self.left, member), later_moves(self.right, member));
        for number in 0..left.len().max(right.len()) {
            let (one, other) = (left.get(number), right.get(number));
            let earliest = one.iter().chain(&other).map(|moved| moved.at).fold(f64::MAX, f64::min);
            if self.is_at_the_end(member, earliest) {
                return Ok(());
            }
            let both = format!("transition {number} of m{}: {one:?} and {other:?}", member + 1);
            let Some((one, other)) = one.zip(other).filter(|(one, other)| one.up == other.up) else {
                self.different.push(both);
                return Ok(());
            };
            // A listener that closes a moment too late hears of one check more.
            if one.checks != other.checks {
                return Err(both);
            }
            let difference = (one.after - other.after).abs();
            if difference > TOLERANCE {
                self.different.push(both);
                return Ok(());
            }
            self.figures.moves += 1;
            self.figures.worst_move = self.figures.worst_move.max(difference);
        }
        Ok(())
    }

    fn batches(&mut self) {
        let (left, right) = (self.left, self.right);
        for (number, (one, other)) in left.batches.iter().zip(&right.batches).enumerate() {
            let members = 0..self.timeline.scripts.len();
            let passed = |batch: &Batch, record| -> Vec<usize> {
                let moves = |member| later_moves(record, member).iter().filter(|moved| moved.at < batch.from).count();
                members.clone().map(moves).collect()
            };
            let beside = self.is_beside(one, left) || self.is_beside(other, right);
            if beside || passed(one, left) != passed(other, right) {
                self.figures.skipped += 1;
                continue;
            }
            let usable = left.usable(self.timeline, one.from);
            let mut alike = usable == right.usable(self.timeline, other.from);
            for (record, batch) in [(left, one), (right, other)] {
                let is_even = batch.is_even(&usable);
                // After a change HAProxy's tree sometimes favours one server for a round or two.
                self.figures.uneven += usize::from(record.is_haproxy && !is_even);
                alike &= batch.is_within(&usable) && (record.is_haproxy || is_even);
            }
            if !alike {
                self.different.push(format!("clients {number} of {usable:?}: {one:?} and {other:?}"));
                continue;
            }
            self.figures.batches += 1;
            self.kills(number, one, other);
        }
    }

    /// Whether anything happened around the time of these clients.
    fn is_beside(&self, batch: &Batch, record: &Record) -> bool {
        let near = |at: Moment| at > batch.from - TOLERANCE && at < batch.to + TOLERANCE;
        let ordered = self.timeline.orders.iter().any(|(at, _, _)| near(*at as f64));
        ordered || record.moves.iter().flatten().any(|(at, _)| near(*at))
    }

    /// A session ends when its member goes down, and not otherwise.
    fn kills(&mut self, number: usize, one: &Batch, other: &Batch) {
        for member in 0..self.timeline.scripts.len() {
            let name = format!("m{}", member + 1);
            let (Some(closed), Some(other_closed)) = (one.closed.get(&name), other.closed.get(&name)) else { continue };
            let ends = [(self.left, one, closed), (self.right, other, other_closed)].map(|(record, batch, closed)| {
                let cause = self.cause(record, member, batch.to);
                match (cause, closed) {
                    (Some(cause), Some(closed)) => Ok(closed - cause),
                    (None, None) => Err(true),
                    // Too late to be seen.
                    (Some(cause), None) if cause > self.timeline.end as f64 - TOLERANCE => Err(true),
                    _ => Err(false),
                }
            });
            match ends {
                [Ok(after), Ok(other_after)] if after.abs().max(other_after.abs()) <= TOLERANCE => {
                    self.figures.kills += 1;
                    self.figures.worst_kill = self.figures.worst_kill.max((after - other_after).abs());
                }
                // What only one of them lived to see is at the end of the timeline.
                [Err(true), Err(true) | Ok(_)] | [Ok(_), Err(true)] => {}
                _ => {
                    let line =
                        format!("a session of {name} from batch {number} ended at {closed:?} and {other_closed:?}");
                    self.different.push(line);
                }
            }
        }
    }

    /// When a session of this member has to end.
    fn cause(&self, record: &Record, member: usize, from: Moment) -> Option<Moment> {
        let down = record.moves[member].iter().find(|(at, up)| !up && *at > from).map(|(at, _)| *at);
        let maint = Some(self.end(member)).filter(|end| *end < self.timeline.end as f64);
        down.into_iter().chain(maint).reduce(f64::min)
    }
}

/// A transition, by the checks that came before it.
#[derive(Debug)]
struct Move {
    at: Moment,
    up: bool,
    /// How many, and how long after the last of them.
    checks: usize,
    after: f64,
}

/// Without what the first check did: HAProxy's servers start up, pgvane's down.
fn later_moves(record: &Record, member: usize) -> Vec<Move> {
    let checks = &record.checks[member];
    let second = checks.get(1).map_or(0.0, |(at, _)| *at);
    let placed = record.moves[member].iter().filter(|(at, _)| *at >= second).map(|(at, up)| {
        let checks: Vec<_> = checks.iter().take_while(|(check, _)| check <= at).collect();
        Move { at: *at, up: *up, checks: checks.len(), after: checks.last().map_or(0.0, |(last, _)| at - last) }
    });
    placed.collect()
}
