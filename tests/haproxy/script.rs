//! Timelines: what three members do, what an operator orders and when clients come. Milliseconds
//! from the first check, which is each checker's own.

use crate::arithmetic::{Checker, Timing, course};
use crate::prng::Prng;
use crate::stand::node::State;

pub const MEMBERS: usize = 3;
/// No member changes closer than this to the start of a check, as far as arithmetic tells.
const GUARD: u64 = 80;
/// What a check takes beside its waits.
const ROUNDING: u64 = 1;
/// The first checks of all members fall into the first state of each.
const SETTLED: u64 = 1200;
const BATCHES_EVERY: u64 = 550;

/// States of one REST API, each from its moment on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script(pub Vec<(u64, State)>);

impl Script {
    pub fn at(&self, moment: u64) -> State {
        self.0.iter().rev().find(|(from, _)| *from <= moment).map_or(self.0[0].1, |(_, state)| *state)
    }
}

/// A change of state: so many milliseconds after the check with this number has come. So the lateness of
/// a busy machine does not move it from one check to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    pub check: usize,
    pub after: u64,
    pub state: State,
}

impl Script {
    /// Every change by the last check before it that its listener sees.
    pub fn changes(&self, timing: Timing, first: u64, end: u64) -> Vec<Change> {
        let seen: Vec<u64> = course(self, timing, first, end).seen().collect();
        let change = |(at, state): &(u64, State)| {
            let check = seen.iter().rposition(|start| start <= at)?;
            Some(Change { check, after: at - seen[check], state: *state })
        };
        self.0[1..].iter().filter_map(change).collect()
    }
}

/// One seed's story.
#[derive(Debug, Clone)]
pub struct Timeline {
    pub seed: u64,
    pub timing: Timing,
    pub scripts: Vec<Script>,
    /// When, which member, and `ready`, `drain` or `maint`.
    pub orders: Vec<(u64, usize, &'static str)>,
    pub batches: Vec<u64>,
    pub end: u64,
}

impl Timeline {
    pub fn random(seed: u64, end: u64) -> Timeline {
        let mut prng = Prng::new(seed);
        let inter = prng.between(300, 501);
        let timing = Timing {
            inter,
            fastinter: prng.between(200, inter.min(300)),
            downinter: prng.between(300, 601),
            rise: 2 + prng.below(3) as u32,
            fall: 2 + prng.below(3) as u32,
            // HAProxy 2.6 keeps to a time-out only where it is not below `inter`, as in everybody's
            // configuration; see `deviations`.
            timeout: inter + prng.between(20, 150),
        };
        let wanted = if prng.chance(40) { roles(&mut prng, timing, end) } else { faults(&mut prng, timing, end) };
        let firsts = timing.first_checks(MEMBERS as u64);
        let scripts = wanted.iter().zip(firsts).map(|(wanted, first)| place(wanted, timing, first, end)).collect();
        let orders = orders(&mut prng, end);
        let batches = (0..).map(|n| SETTLED / 2 + n * BATCHES_EVERY).take_while(|at| at + 400 < end).collect();
        Timeline { seed, timing, scripts, orders, batches, end }
    }
}

/// Every member on its own: healthy, then something, then something else.
fn faults(prng: &mut Prng, timing: Timing, end: u64) -> Vec<Vec<(u64, State)>> {
    let mut member = || {
        let mut states = vec![(0, State::Status(if prng.chance(75) { 200 } else { 503 }))];
        let mut at = SETTLED + prng.below(800);
        while at < end {
            let last = states[states.len() - 1].1;
            let state = if last == State::Status(200) { fault(prng, timing) } else { recovery(prng, timing) };
            states.push((at, state));
            at += prng.between(150, 2200);
        }
        states
    };
    (0..MEMBERS).map(|_| member()).collect()
}

fn fault(prng: &mut Prng, timing: Timing) -> State {
    match prng.below(8) {
        0 | 1 => State::Status(503),
        2 => State::Refused,
        3 => State::Hung,
        4 => State::Slow(timing.timeout + prng.between(60, 400)),
        5 => State::Slow(prng.between(20, timing.timeout - 60)),
        6 => State::Garbage,
        _ => State::Reset,
    }
}

fn recovery(prng: &mut Prng, timing: Timing) -> State {
    if prng.chance(75) { State::Status(200) } else { fault(prng, timing) }
}

/// One 200 that moves from member to member, as the leader's does.
fn roles(prng: &mut Prng, timing: Timing, end: u64) -> Vec<Vec<(u64, State)>> {
    let mut leader = prng.below(MEMBERS as u64) as usize;
    let status = |is_leader| State::Status(if is_leader { 200 } else { 503 });
    let mut members: Vec<_> = (0..MEMBERS).map(|member| vec![(0, status(member == leader))]).collect();
    let mut at = SETTLED + prng.below(800);
    while at < end {
        let next = (leader + 1 + prng.below(2) as usize) % MEMBERS;
        // Most leaders step down; some just vanish.
        let farewell = if prng.chance(60) { State::Status(503) } else { fault(prng, timing) };
        members[leader].push((at, farewell));
        let gap = if prng.chance(50) { 0 } else { prng.below(1500) };
        members[next].push((at + gap, State::Status(200)));
        leader = next;
        at += gap + prng.between(800, 3000);
    }
    members
}

/// The wanted states, moved away from the starts of checks.
fn place(wanted: &[(u64, State)], timing: Timing, first: u64, end: u64) -> Script {
    let mut placed = vec![wanted[0]];
    let mut coming = wanted[1..].iter().copied().peekable();
    let mut checker = Checker::new(timing, first);
    while checker.next < end {
        let start = checker.next;
        checker.check(placed[placed.len() - 1].1);
        checker.next += ROUNDING;
        // Of several that fall between two checks, the last is the one that matters.
        let mut last = None;
        while let Some(next) = coming.next_if(|(at, _)| *at + GUARD < checker.next) {
            last = Some((next.0.max(start + GUARD), next.1));
        }
        placed.extend(last);
    }
    Script(placed)
}

/// A drain that ends again in half of the seeds, and a maintenance that does not in some.
fn orders(prng: &mut Prng, end: u64) -> Vec<(u64, usize, &'static str)> {
    let mut orders = Vec::new();
    let drained = prng.below(MEMBERS as u64) as usize;
    if prng.chance(50) {
        let from = prng.between(SETTLED, end / 2);
        orders.push((from, drained, "drain"));
        orders.push((from + prng.between(600, 3000), drained, "ready"));
    }
    if prng.chance(40) {
        let member = (drained + 1) % MEMBERS;
        orders.push((prng.between(end * 6 / 10, end - 1000), member, "maint"));
    }
    orders
}
