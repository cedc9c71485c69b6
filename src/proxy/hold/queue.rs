//! The line in front of one service, and who of it goes next.
//!
//! **The check and the count are one step.** A slot under `maxconn` is taken under the lock of the line,
//! and goes from the grant to the session and back as one value, so it is neither counted twice nor lost
//! in between. Whoever gives one back looks whether somebody waits, and whoever begins to wait is counted
//! before it looks for a slot: one of the two sees the other.

use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::oneshot;

use super::slots::{Book, Slots};
use super::wait::Wait;
use super::{Grant, Verdict};
use crate::decide::balance::Balancer;
use crate::decide::{Caller, Target};
use crate::model::{Balance, MemberName};
use crate::proxy::sessions::{Choice, Registry, Service};
use crate::proxy::stats::ServiceSnapshot;
use crate::runtime::clock;

/// The line of one service, and how many stand in it. Locked before the gate of the registry, never after it.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Queue {
    line: Mutex<Line>,
    waiting: Arc<AtomicUsize>,
}

impl Queue {
    pub(in crate::proxy) fn lock(&self) -> MutexGuard<'_, Line> {
        self.line.lock()
    }

    /// To be called with the line locked, whenever its length has changed.
    pub(super) fn count(&self, line: &Line) {
        self.waiting.store(line.clients.len(), Ordering::SeqCst);
    }
}

#[derive(Debug, Default)]
pub(in crate::proxy) struct Line {
    last_number: u64,
    balancer: Balancer,
    draws: Draws,
    pub(super) clients: BTreeMap<u64, Waiter>,
    book: Book,
    /// Since when there have been targets and none of them had a slot for the first who waits.
    pub(super) full_since: Option<Instant>,
    /// What the first one waits for is a slot.
    pub(super) wants_slot: bool,
    queued_most: usize,
}

#[derive(Debug)]
pub(super) struct Waiter {
    pub entered: Instant,
    pub wait: Wait,
    pub asker: Asker,
    pub verdict: oneshot::Sender<Verdict>,
}

/// What matters of a client when a target is chosen for it.
#[derive(Debug, Clone, Default)]
pub(super) struct Asker {
    pub client: u64,
    pub tried: Vec<MemberName>,
    /// Its target failed it in the table of this generation: an older or equal one does not help.
    pub failed_in: Option<u64>,
}

impl Line {
    pub(in crate::proxy) fn describe(&self, snapshot: &mut ServiceSnapshot) {
        let count = self.clients.len();
        (snapshot.held, snapshot.queued) = if self.wants_slot { (0, count) } else { (count, 0) };
        snapshot.queued_most = self.queued_most;
        let longest = self.clients.first_key_value().filter(|_| !self.wants_slot);
        let longest = longest.map(|(_, first)| clock::now().saturating_duration_since(first.entered));
        snapshot.held_longest = longest.unwrap_or_default();
        snapshot.connecting = self.book.connecting();
    }

    pub(super) fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    pub(super) fn remove(&mut self, number: u64) -> Option<Waiter> {
        let removed = self.clients.remove(&number);
        if self.clients.is_empty() {
            (self.full_since, self.wants_slot) = (None, false);
        }
        removed
    }

    /// The highest number that ever waited for a slot at once.
    pub(super) fn note_most(&mut self) {
        if self.wants_slot {
            self.queued_most = self.queued_most.max(self.clients.len());
        }
    }

    fn blocked_by(&mut self, obstacle: Option<Obstacle>, now: Instant) {
        match obstacle {
            None | Some(Obstacle::NoTarget) => self.full_since = None,
            Some(Obstacle::NoSlot) => _ = self.full_since.get_or_insert(now),
            Some(Obstacle::Pause | Obstacle::Busy) => {}
        }
        self.wants_slot = obstacle == Some(Obstacle::NoSlot);
    }
}

/// Why the first of the line stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Obstacle {
    /// There is no target, or none that may be used now.
    NoTarget,
    /// Its target has as many sessions as `maxconn` allows.
    NoSlot,
    /// It pauses after a failure.
    Pause,
    /// Enough others are on their way to its target.
    Busy,
}

enum Next {
    Go(Chosen),
    Exhausted,
    Wait(Obstacle),
}

/// Where one client goes.
#[derive(Debug, Clone)]
pub(in crate::proxy) struct Chosen {
    pub target: Arc<Target>,
    pub generation: u64,
    pub slots: Arc<Slots>,
}

/// One who leaves the line.
pub(super) struct Called {
    pub number: u64,
    pub verdict: Verdict,
    to: oneshot::Sender<Verdict>,
}

/// Not with the line locked: what a client that has just left does not take goes back, and takes the lock.
pub(super) fn deliver(called: Vec<Called>) {
    for Called { verdict, to, .. } in called {
        drop(to.send(verdict));
    }
}

impl Registry {
    /// Lets waiting clients of every service go, as far as there are targets for them.
    pub(in crate::proxy) fn release_all(self: &Arc<Self>) {
        for service in self.services() {
            self.release(&service);
        }
    }

    /// Lets those go who can. Costs what it releases, not what waits; only with `balance: source` it looks
    /// at those who wait for other targets, too.
    pub(in crate::proxy) fn release(self: &Arc<Self>, service: &Arc<Service>) {
        let called = {
            let mut line = service.waiting.lock();
            let called = self.call(service, &mut line, clock::now());
            line.note_most();
            called
        };
        deliver(called);
    }

    /// Takes from the line whoever can go now, in order. One that could go nowhere but to a full target lets
    /// others pass to the rest; one that pauses after a failure does not, so that a target that fails is
    /// tried by one client at a time.
    pub(super) fn call(self: &Arc<Self>, service: &Arc<Service>, line: &mut Line, now: Instant) -> Vec<Called> {
        let (mut called, mut obstacle, mut after) = (Vec::new(), None, 0);
        while let Some((&number, waiter)) = line.clients.range((Bound::Excluded(after), Bound::Unbounded)).next() {
            let asker = waiter.asker.clone();
            let verdict = match self.next_for(service, line, &asker, true) {
                Next::Go(chosen) => Verdict::Go(self.grant(service, chosen)),
                Next::Exhausted => Verdict::Exhausted,
                Next::Wait(why) => {
                    obstacle.get_or_insert(why);
                    if !self.may_be_passed(service, line, &asker, why) {
                        break;
                    }
                    after = number;
                    continue;
                }
            };
            if let Some(waiter) = line.remove(number) {
                called.push(Called { number, verdict, to: waiter.verdict });
            }
        }
        line.blocked_by(obstacle, now);
        service.waiting.count(line);
        called
    }

    /// Whether one behind a client that stays might find what that one did not.
    fn may_be_passed(&self, service: &Service, line: &Line, asker: &Asker, why: Obstacle) -> bool {
        if matches!(why, Obstacle::NoTarget | Obstacle::Pause) {
            return false;
        }
        let routes = self.routes();
        let Some(routes) = routes.service(&service.name) else { return false };
        let (spec, targets) = (&routes.spec, &routes.targets);
        let has_slot = |member: &MemberName| spec.maxconn == 0 || line.book.taken(member) < spec.maxconn;
        let is_choosy = spec.balance == Balance::Source || !asker.tried.is_empty();
        is_choosy && targets.iter().any(|target| !line.book.is_busy(&target.member) && has_slot(&target.member))
    }

    /// Whether a client could go, and where; nothing is taken yet but a turn of the balancer, and that only
    /// for one who goes. `bounded`: it is one of many, who go [`CONNECTS_IN_FLIGHT_MAX`] at a time.
    fn next_for(&self, service: &Service, line: &mut Line, asker: &Asker, bounded: bool) -> Next {
        let busy = if bounded { line.book.busy_members() } else { Vec::new() };
        let (draw, now) = (line.draws.next(), clock::now());
        let Line { balancer, book, .. } = line;
        let mut choose = |balancer: &mut Balancer, tried: &[MemberName]| {
            self.choose(&service.name, balancer, book, Caller { client: asker.client, draw, tried, now })
        };
        if asker.failed_in.is_some_and(|generation| self.generation() <= generation) {
            return match choose(&mut balancer.clone(), &[]) {
                Choice::Wait => Next::Wait(Obstacle::NoTarget),
                _ => Next::Wait(Obstacle::Pause),
            };
        }
        if busy.is_empty() {
            return Next::from(choose(balancer, &asker.tried));
        }
        let mut trial = balancer.clone();
        let first = choose(&mut trial, &asker.tried);
        let Choice::Target(Chosen { target, .. }) = &first else { return Next::from(first) };
        if !busy.contains(&target.member) {
            *balancer = trial;
            return Next::from(first);
        }
        // With `source` there is no other for this client.
        let is_source = self.terms(&service.name).is_some_and(|terms| terms.spec.balance == Balance::Source);
        if is_source {
            return Next::Wait(Obstacle::Busy);
        }
        match choose(balancer, &[&asker.tried, &busy[..]].concat()) {
            Choice::Target(chosen) => Next::Go(chosen),
            _ => Next::Wait(Obstacle::Busy),
        }
    }

    /// For one who finds the line empty; None: it has to wait.
    pub(super) fn verdict_now(
        self: &Arc<Self>,
        service: &Arc<Service>,
        line: &mut Line,
        asker: &Asker,
        bounded: bool,
    ) -> Option<Verdict> {
        match self.next_for(service, line, asker, bounded) {
            Next::Go(chosen) => Some(Verdict::Go(self.grant(service, chosen))),
            Next::Exhausted => Some(Verdict::Exhausted),
            Next::Wait(_) => None,
        }
    }

    fn grant(self: &Arc<Self>, service: &Arc<Service>, Chosen { target, generation, slots }: Chosen) -> Grant {
        let (permit, slot) = slots.take(self, service, &service.waiting.waiting);
        Grant { target, generation, permit, slot }
    }
}

impl From<Choice> for Next {
    fn from(choice: Choice) -> Next {
        match choice {
            Choice::Target(chosen) => Next::Go(chosen),
            Choice::Exhausted => Next::Exhausted,
            Choice::Full => Next::Wait(Obstacle::NoSlot),
            Choice::Wait => Next::Wait(Obstacle::NoTarget),
        }
    }
}

/// Numbers for `balance: random` (splitmix64), other ones in every run.
#[derive(Debug)]
struct Draws(u64);

impl Default for Draws {
    fn default() -> Self {
        Draws(RandomState::new().build_hasher().finish())
    }
}

impl Draws {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}
