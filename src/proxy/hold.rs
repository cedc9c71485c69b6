//! Clients that wait for a target: first come, first served, each until its own deadline.
//!
//! A table never wakes everybody. [`Registry::release`] takes clients from the head of the queue
//! while there is a target for them and fewer than [`CONNECTS_IN_FLIGHT_MAX`] connects under way to
//! it; each of those that finishes lets the next one go.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::decide::Target;
use crate::decide::balance::Balancer;
use crate::model::{MemberName, Reason};
use crate::runtime::clock;

use super::sessions::{Choice, Registry, Service};
use super::stats::ServiceSnapshot;

/// Held clients on their way to one target, from release to the server's first answer.
pub const CONNECTS_IN_FLIGHT_MAX: usize = 100;
/// A client whose target failed waits for a new table, and when none comes, this long.
pub const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// The queue of one service. Locked before the gate of the registry, never after it.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    last_number: u64,
    balancer: Balancer,
    queue: BTreeMap<u64, Waiter>,
    connecting: HashMap<MemberName, usize>,
}

#[derive(Debug)]
struct Waiter {
    entered: Instant,
    tried: Vec<MemberName>,
    /// Its target failed it in the table of this generation: an older or equal one does not help.
    failed_in: Option<u64>,
    verdict: oneshot::Sender<Verdict>,
}

/// What one client brings along from one wait to the next: its place and its deadline.
#[derive(Debug)]
pub struct Ticket {
    arrived: Instant,
    number: Option<u64>,
    deadline: Option<Instant>,
    was_held: bool,
    /// Members that this client could not reach just now.
    pub tried: Vec<MemberName>,
    pub failed_in: Option<u64>,
}

impl Ticket {
    pub fn new(arrived: Instant) -> Ticket {
        Ticket { arrived, number: None, deadline: None, was_held: false, tried: Vec::new(), failed_in: None }
    }

    /// It was served for now. If it has to wait later, its time begins anew, unless it waited before.
    pub fn answered(&mut self) {
        if !self.was_held {
            self.arrived = clock::now();
        }
    }

    pub fn arrived(&self) -> Instant {
        self.arrived
    }
}

/// The answer to a client that asked, or waited.
#[derive(Debug)]
pub enum Verdict {
    Go(Grant),
    /// There are targets, and this client has tried them all.
    Exhausted,
}

/// A target, and the right to connect to it now.
#[derive(Debug)]
pub struct Grant {
    pub target: Target,
    pub generation: u64,
    pub permit: Permit,
}

#[derive(Debug)]
pub enum Admission {
    Now(Verdict),
    Wait(Place),
    /// `why` it may not wait, and what it would have waited for.
    Refused {
        why: Reason,
        reason: Reason,
        since: Instant,
    },
}

/// One connect under way. Its drop lets the next held client go.
#[derive(Debug)]
pub struct Permit {
    registry: Arc<Registry>,
    service: Arc<Service>,
    member: MemberName,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut waiting = self.service.waiting.lock();
        if let Some(count) = waiting.connecting.get_mut(&self.member) {
            *count -= 1;
            if *count == 0 {
                waiting.connecting.remove(&self.member);
            }
        }
        let idle = waiting.queue.is_empty();
        drop(waiting);
        if !idle {
            self.registry.release(&self.service);
        }
    }
}

/// A place in the queue. Its drop leaves the queue.
#[derive(Debug)]
pub struct Place {
    registry: Arc<Registry>,
    service: Arc<Service>,
    number: u64,
    entered: Instant,
    pub deadline: Instant,
    pub verdict: oneshot::Receiver<Verdict>,
}

impl Place {
    /// The pause after a failure is over: the same table may be tried again.
    pub fn forgive(&self) {
        if let Some(waiter) = self.service.waiting.lock().queue.get_mut(&self.number) {
            waiter.failed_in = None;
        }
        self.registry.release(&self.service);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let (left, idle) = {
            let mut waiting = self.service.waiting.lock();
            (waiting.queue.remove(&self.number), waiting.queue.is_empty())
        };
        self.service.counters.add_hold(clock::now().saturating_duration_since(self.entered));
        // Whoever stood behind a client that had to pause need not wait for it any longer.
        if left.is_some_and(|waiter| waiter.failed_in.is_some()) && !idle {
            self.registry.release(&self.service);
        }
    }
}

impl Waiting {
    pub(super) fn describe(&self, snapshot: &mut ServiceSnapshot) {
        let now = clock::now();
        let longest = self.queue.first_key_value().map(|(_, waiter)| now.saturating_duration_since(waiter.entered));
        snapshot.held = self.queue.len();
        snapshot.held_longest = longest.unwrap_or_default();
        snapshot.connecting = self.connecting.iter().map(|(member, count)| (member.clone(), *count)).collect();
        snapshot.connecting.sort();
    }

    fn is_full(&self, member: &MemberName) -> bool {
        self.connecting.get(member).is_some_and(|count| *count >= CONNECTS_IN_FLIGHT_MAX)
    }

    fn full_members(&self) -> Vec<MemberName> {
        self.connecting.keys().filter(|member| self.is_full(member)).cloned().collect()
    }
}

/// A [`Choice`] that knows the bound on connects under way.
enum Next {
    Go { target: Target, generation: u64 },
    Wait { reason: Reason, since: Instant },
    Exhausted,
}

impl Registry {
    /// Where this client goes now: to a target, to its place in the queue, or away.
    pub fn admit(self: &Arc<Self>, service: &Arc<Service>, ticket: &mut Ticket) -> Admission {
        let mut waiting = service.waiting.lock();
        let number = match ticket.number {
            Some(number) => number,
            None => {
                waiting.last_number += 1;
                *ticket.number.insert(waiting.last_number)
            }
        };
        let is_first = waiting.queue.first_key_value().is_none_or(|(first, _)| number < *first);
        let bounded = ticket.was_held || !waiting.queue.is_empty();
        let (reason, since) = match self.next_for(service, &mut waiting, ticket.failed_in, &ticket.tried, bounded) {
            Next::Go { target, generation } if is_first => {
                let grant = self.grant(service, &mut waiting, target, generation);
                return Admission::Now(Verdict::Go(grant));
            }
            Next::Go { .. } => (Reason::NoTarget, clock::now()),
            Next::Exhausted => return Admission::Now(Verdict::Exhausted),
            Next::Wait { reason, since } => (reason, since),
        };
        let Some(limit) = self.hold_limit(&service.spec.name) else {
            return Admission::Refused { why: Reason::HoldOff, reason, since };
        };
        // Whoever was held before counts as being inside already.
        if waiting.queue.len() >= service.hold_max && !ticket.was_held {
            return Admission::Refused { why: Reason::HoldFull, reason, since };
        }
        ticket.was_held = true;
        let deadline = *ticket.deadline.get_or_insert(ticket.arrived + limit);
        let (verdict, receiver) = oneshot::channel();
        let entered = clock::now();
        let waiter = Waiter { entered, tried: ticket.tried.clone(), failed_in: ticket.failed_in, verdict };
        waiting.queue.insert(number, waiter);
        let (registry, service) = (self.clone(), service.clone());
        Admission::Wait(Place { registry, service, number, entered, deadline, verdict: receiver })
    }

    /// Lets held clients of every service go, as far as there are targets for them.
    pub(super) fn release_all(self: &Arc<Self>) {
        for service in self.services() {
            self.release(&service);
        }
    }

    /// Costs what it releases, not what waits.
    pub(super) fn release(self: &Arc<Self>, service: &Arc<Service>) {
        let released = {
            let mut waiting = service.waiting.lock();
            self.take_releasable(service, &mut waiting)
        };
        // Outside of the lock: the grant of a client that has just left takes it again to go back.
        for (to, verdict) in released {
            drop(to.send(verdict));
        }
    }

    fn take_releasable(
        self: &Arc<Self>,
        service: &Arc<Service>,
        waiting: &mut Waiting,
    ) -> Vec<(oneshot::Sender<Verdict>, Verdict)> {
        let mut released = Vec::new();
        while let Some((number, first)) = waiting.queue.first_key_value() {
            let (number, failed_in, tried) = (*number, first.failed_in, first.tried.clone());
            let next = self.next_for(service, waiting, failed_in, &tried, true);
            let verdict = match next {
                Next::Go { target, generation } => Verdict::Go(self.grant(service, waiting, target, generation)),
                Next::Exhausted => Verdict::Exhausted,
                Next::Wait { .. } => break,
            };
            if let Some(waiter) = waiting.queue.remove(&number) {
                released.push((waiter.verdict, verdict));
            }
        }
        released
    }

    fn next_for(
        &self,
        service: &Service,
        waiting: &mut Waiting,
        failed_in: Option<u64>,
        tried: &[MemberName],
        bounded: bool,
    ) -> Next {
        let full = if bounded { waiting.full_members() } else { Vec::new() };
        let Waiting { connecting, balancer, .. } = waiting;
        let connecting = |member: &MemberName| connecting.get(member).copied().unwrap_or(0);
        let mut choose = |tried: &[MemberName]| self.choose(&service.spec.name, connecting, balancer, tried);
        if failed_in.is_some_and(|generation| self.generation() <= generation) {
            return match choose(&[]) {
                Choice::Wait { reason, since } => Next::Wait { reason, since },
                _ => Next::Wait { reason: Reason::RetriesExhausted, since: clock::now() },
            };
        }
        if !full.is_empty()
            && let Choice::Target { target, generation } = choose(&[tried, &full].concat())
        {
            return Next::Go { target, generation };
        }
        match choose(tried) {
            Choice::Target { target, .. } if full.contains(&target.member) => {
                Next::Wait { reason: Reason::NoTarget, since: clock::now() }
            }
            Choice::Target { target, generation } => Next::Go { target, generation },
            Choice::Wait { reason, since } => Next::Wait { reason, since },
            Choice::Exhausted => Next::Exhausted,
            Choice::Full => Next::Wait { reason: Reason::TargetsFull, since: clock::now() },
        }
    }

    fn grant(
        self: &Arc<Self>,
        service: &Arc<Service>,
        waiting: &mut Waiting,
        target: Target,
        generation: u64,
    ) -> Grant {
        *waiting.connecting.entry(target.member.clone()).or_default() += 1;
        let permit = Permit { registry: self.clone(), service: service.clone(), member: target.member.clone() };
        Grant { target, generation, permit }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::{Routes, ServiceRoutes};
    use crate::model::{HoldSpec, HostPort, Role, ServiceSpec};
    use proptest::prelude::*;

    fn spec() -> Arc<ServiceSpec> {
        let mut spec = ServiceSpec::new("primary", Role::Primary);
        spec.hold = HoldSpec::On { timeout: None, max: 100_000 };
        Arc::new(spec)
    }

    fn table(spec: &Arc<ServiceSpec>, generation: u64, open: bool) -> Arc<Routes> {
        let target = Target {
            member: "a".into(),
            address: HostPort::new("127.0.0.1", 5432),
            role: Role::Primary,
            needs_confirmation: true,
            weight: 100,
            risen_at: None,
        };
        let service = ServiceRoutes {
            spec: spec.clone(),
            targets: if open { vec![target] } else { Vec::new() },
            wait: (!open).then(|| (Reason::NoLeaderKey, clock::now())),
            hold_limit: Some(Duration::from_secs(45)),
            cancel: Vec::new(),
            standings: Vec::new(),
        };
        Arc::new(Routes { cluster: "test".into(), generation, services: vec![service] })
    }

    #[derive(Debug, Clone)]
    enum Step {
        Arrive(u8),
        Leave(u16),
        Publish(bool),
        Confirm(bool),
        Finish(u8),
        /// The target failed one that connects: back to its place.
        Fail,
        Forgive(u16),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (1..60u8).prop_map(Step::Arrive),
            2 => any::<u16>().prop_map(Step::Leave),
            2 => any::<bool>().prop_map(Step::Publish),
            1 => any::<bool>().prop_map(Step::Confirm),
            3 => (1..60u8).prop_map(Step::Finish),
            1 => Just(Step::Fail),
            1 => any::<u16>().prop_map(Step::Forgive),
        ]
    }

    /// A registry and its clients, in one thread.
    struct World {
        registry: Arc<Registry>,
        service: Arc<Service>,
        generation: u64,
        open: bool,
        confirmed: bool,
        waiting: Vec<(Ticket, Place)>,
        connecting: Vec<(Ticket, Grant)>,
    }

    impl World {
        fn admit(&mut self, mut ticket: Ticket) {
            match self.registry.admit(&self.service, &mut ticket) {
                Admission::Now(Verdict::Go(grant)) => self.connecting.push((ticket, grant)),
                Admission::Wait(place) => {
                    ticket.failed_in = None;
                    self.waiting.push((ticket, place));
                }
                other => panic!("{other:?}"),
            }
        }

        fn collect(&mut self) {
            self.waiting.sort_by_key(|(_, place)| place.number);
            let mut last_released = None;
            let mut index = 0;
            while index < self.waiting.len() {
                match self.waiting[index].1.verdict.try_recv() {
                    Ok(Verdict::Go(grant)) => {
                        let (ticket, place) = self.waiting.remove(index);
                        last_released = Some(place.number);
                        self.connecting.push((ticket, grant));
                    }
                    Ok(Verdict::Exhausted) => panic!("nothing was tried"),
                    Err(_) => index += 1,
                }
            }
            // First come, first served.
            if let (Some(last), Some((_, first))) = (last_released, self.waiting.first()) {
                assert!(first.number > last);
            }
        }

        fn apply(&mut self, step: Step) {
            match step {
                Step::Arrive(count) => (0..count).for_each(|_| self.admit(Ticket::new(clock::now()))),
                Step::Leave(which) if !self.waiting.is_empty() => {
                    drop(self.waiting.remove(usize::from(which) % self.waiting.len()));
                }
                Step::Publish(open) => {
                    (self.open, self.generation) = (open, self.generation + 1);
                    self.registry.publish(table(&self.service.spec, self.generation, open));
                }
                Step::Confirm(confirmed) => {
                    self.confirmed = confirmed;
                    let ahead = if confirmed { Duration::from_secs(3600) } else { Duration::ZERO };
                    self.registry.confirm(clock::now() + ahead);
                }
                Step::Finish(count) => {
                    let count = usize::from(count).min(self.connecting.len());
                    self.connecting.drain(..count);
                }
                Step::Fail => {
                    if let Some((mut ticket, grant)) = self.connecting.pop() {
                        ticket.failed_in = Some(grant.generation);
                        drop(grant);
                        self.collect();
                        self.admit(ticket);
                    }
                }
                Step::Forgive(which) if !self.waiting.is_empty() => {
                    self.waiting[usize::from(which) % self.waiting.len()].1.forgive();
                }
                Step::Leave(_) | Step::Forgive(_) => {}
            }
            self.collect();
        }

        fn check(&self) {
            let waiting = self.service.waiting.lock();
            assert_eq!(waiting.queue.len(), self.waiting.len());
            assert_eq!(waiting.connecting.values().sum::<usize>(), self.connecting.len());
            let Some((_, first)) = waiting.queue.first_key_value() else { return };
            let paused = first.failed_in.is_some_and(|generation| self.generation <= generation);
            // Nobody waits while there is a target, a confirmation and room.
            assert!(!self.open || !self.confirmed || paused || self.connecting.len() >= CONNECTS_IN_FLIGHT_MAX);
        }
    }

    proptest! {
        #[test]
        fn nobody_waits_in_vain_and_nobody_overtakes(steps in prop::collection::vec(step(), 1..60)) {
            let spec = spec();
            let registry = Registry::new("test".into(), std::slice::from_ref(&spec), 100_000);
            let service = registry.service("primary").unwrap().clone();
            let (waiting, connecting) = (Vec::new(), Vec::new());
            let mut world =
                World { registry, service, generation: 0, open: false, confirmed: false, waiting, connecting };
            for step in steps {
                world.apply(step);
                world.check();
            }
        }
    }
}
