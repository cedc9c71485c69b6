//! The line under every mixture of arrivals, tables, failures and ends.

use std::sync::atomic::AtomicUsize;

use super::*;
use crate::decide::balance::{Balancer, client_hash};
use crate::decide::{Caller, Pick, Routes, ServiceRoutes};
use crate::model::{Balance, HoldSpec, HostPort, QueueSpec, Role, ServiceSpec};
use proptest::prelude::*;

const HOUR: Duration = Duration::from_secs(3600);
const MEMBERS: [&str; 3] = ["a", "b", "c"];

/// Times are nothing or an hour: what is over is over at once.
fn spec() -> impl Strategy<Value = ServiceSpec> {
    let role = prop_oneof![Just(Role::Primary), Just(Role::Replica)];
    let balance = prop::sample::select(Balance::ALL.to_vec());
    let maxconn = prop_oneof![2 => Just(0usize), 3 => 1..4usize, 1 => Just(150usize)];
    let hold = prop_oneof![
        3 => Just(HoldSpec::On { timeout: Some(HOUR), max: 100_000 }),
        1 => Just(HoldSpec::On { timeout: Some(HOUR), max: 20 }),
        1 => Just(HoldSpec::Off),
    ];
    let queue = (any::<bool>(), prop_oneof![Just(0usize), Just(5), Just(100_000)]);
    (role, balance, maxconn, hold, queue).prop_map(|(role, balance, maxconn, hold, (patient, max))| {
        let mut spec = ServiceSpec::new("service", role);
        let timeout = if patient { HOUR } else { Duration::ZERO };
        (spec.balance, spec.maxconn, spec.hold, spec.queue) = (balance, maxconn, hold, QueueSpec { timeout, max });
        spec
    })
}

fn routes(spec: &Arc<ServiceSpec>, members: &[&str]) -> ServiceRoutes {
    let target = |name: &&str| {
        Arc::new(Target {
            member: (*name).into(),
            address: HostPort::new("127.0.0.1", 5432),
            role: spec.role,
            needs_confirmation: spec.role == Role::Primary,
            weight: 100,
            risen_at: None,
        })
    };
    ServiceRoutes {
        spec: spec.clone(),
        targets: members.iter().map(target).collect(),
        wait: members.is_empty().then(|| (Reason::NoLeaderKey, clock::now())),
        hold_limit: spec.hold.limit(HOUR),
        cancel: Vec::new(),
        standings: Vec::new(),
    }
}

fn publish(registry: &Arc<Registry>, generation: u64, routes: ServiceRoutes) {
    registry.publish(Arc::new(Routes { cluster: "test".into(), generation, services: vec![routes] }));
}

#[derive(Debug, Clone)]
enum Step {
    Arrive(u8),
    Leave(u16),
    /// So many targets; perhaps with another `maxconn`.
    Publish(usize, Option<usize>),
    Confirm(bool),
    /// So many connects become sessions.
    Open(u8),
    /// So many connects end without a session.
    GiveUp(u8),
    /// So many sessions end.
    End(u8),
    /// The target failed one that connects: back to its place.
    Fail,
    Forgive(u16),
    Ask(u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (1..60u8).prop_map(Step::Arrive),
        2 => any::<u16>().prop_map(Step::Leave),
        2 => (0..=MEMBERS.len(), prop::option::weighted(0.3, 0..6usize)).prop_map(|(n, max)| Step::Publish(n, max)),
        1 => any::<bool>().prop_map(Step::Confirm),
        3 => (1..60u8).prop_map(Step::Open),
        1 => (1..60u8).prop_map(Step::GiveUp),
        3 => (1..60u8).prop_map(Step::End),
        1 => Just(Step::Fail),
        1 => any::<u16>().prop_map(Step::Forgive),
        2 => any::<u16>().prop_map(Step::Ask),
    ]
}

/// A registry and its clients, in one thread.
struct World {
    registry: Arc<Registry>,
    service: Arc<Service>,
    routes: ServiceRoutes,
    generation: u64,
    confirmed: bool,
    arrivals: u32,
    waiting: Vec<(Ticket, Place)>,
    connecting: Vec<(Ticket, Grant)>,
    sessions: Vec<(MemberName, TargetSlot)>,
}

impl World {
    fn new(spec: ServiceSpec) -> World {
        let spec = Arc::new(spec);
        let registry = Registry::new("test".into(), std::slice::from_ref(&spec), 100_000);
        let service = registry.service("service").unwrap().clone();
        publish(&registry, 0, routes(&spec, &[]));
        World {
            registry,
            service,
            routes: routes(&spec, &[]),
            generation: 0,
            confirmed: false,
            arrivals: 0,
            waiting: Vec::new(),
            connecting: Vec::new(),
            sessions: Vec::new(),
        }
    }

    fn is_available(&self) -> bool {
        !self.routes.targets.is_empty() && (self.routes.spec.role != Role::Primary || self.confirmed)
    }

    fn taken(&self, member: &MemberName) -> usize {
        let connecting = self.connecting.iter().filter(|(_, grant)| grant.target.member == *member);
        connecting.count() + self.sessions.iter().filter(|(of, _)| of == member).count()
    }

    fn has_room(&self, member: &MemberName) -> bool {
        let maxconn = self.routes.spec.maxconn;
        let connecting = self.connecting.iter().filter(|(_, grant)| grant.target.member == *member).count();
        connecting < CONNECTS_IN_FLIGHT_MAX && (maxconn == 0 || self.taken(member) < maxconn)
    }

    fn is_paused(&self, ticket: &Ticket) -> bool {
        ticket.failed_in.is_some_and(|generation| self.generation <= generation)
    }

    /// Whether this client would go there if there was room.
    fn accepts(&self, ticket: &Ticket, member: &MemberName) -> bool {
        let caller = Caller { client: ticket.client, draw: 0, tried: &ticket.tried, now: clock::now() };
        let own = match self.routes.pick(&mut Balancer::default(), caller, |_| 0) {
            Pick::Target(target) => target.member.clone(),
            _ => return false,
        };
        let is_source = self.routes.spec.balance == Balance::Source;
        !ticket.tried.contains(member) && (!is_source || own == *member)
    }

    fn went(&mut self, ticket: Ticket, grant: Grant) {
        let member = &grant.target.member;
        for (earlier, _) in self.waiting.iter().filter(|(other, _)| other.number < ticket.number) {
            assert!(!self.is_paused(earlier) && !self.accepts(earlier, member), "{earlier:?} was overtaken");
        }
        self.connecting.push((ticket, grant));
        let (maxconn, taken) = (self.routes.spec.maxconn, self.taken(&self.connecting.last().unwrap().1.target.member));
        assert!(maxconn == 0 || taken <= maxconn, "{taken} of {maxconn}");
    }

    fn admit(&mut self, mut ticket: Ticket) {
        let (waiting, spec) = (self.waiting.len(), self.routes.spec.clone());
        match self.registry.admit(&self.service, &mut ticket) {
            Admission::Now(Verdict::Go(grant)) => self.went(ticket, grant),
            Admission::Now(Verdict::Exhausted) => assert!(self.has_tried_all(&ticket)),
            Admission::Wait(place) => {
                self.waiting.push((ticket, place));
                self.waiting.sort_by_key(|(ticket, _)| ticket.number);
            }
            Admission::Refused { why, crowd } => {
                match why {
                    Reason::TargetsFull => assert_eq!(spec.queue.max, 0),
                    Reason::QueueFull => assert!(spec.queue.max > 0 && waiting >= spec.queue.max),
                    Reason::HoldFull => assert!(waiting >= self.service.hold_max()),
                    Reason::HoldOff => assert_eq!(spec.hold, HoldSpec::Off),
                    other => panic!("{other}"),
                }
                let for_slot = matches!(why, Reason::TargetsFull | Reason::QueueFull);
                let queue_max = spec.queue.max;
                assert_eq!(crowd, for_slot.then_some(Crowd { maxconn: spec.maxconn, waiting, queue_max }));
            }
        }
    }

    fn has_tried_all(&self, ticket: &Ticket) -> bool {
        !self.routes.targets.is_empty() && self.routes.targets.iter().all(|t| ticket.tried.contains(&t.member))
    }

    fn collect(&mut self) {
        let mut called = Vec::new();
        let mut index = 0;
        while index < self.waiting.len() {
            match self.waiting[index].1.verdict.try_recv() {
                Ok(verdict) => called.push((self.waiting.remove(index).0, verdict)),
                Err(_) => index += 1,
            }
        }
        for (ticket, verdict) in called {
            match verdict {
                Verdict::Go(grant) => self.went(ticket, grant),
                Verdict::Exhausted => assert!(self.has_tried_all(&ticket)),
            }
        }
    }

    fn ask(&mut self, which: usize) {
        let (available, spec) = (self.is_available(), self.routes.spec.clone());
        let was_held = self.waiting[which].1.was_held;
        let patience = self.waiting[which].1.patience();
        match (&spec.hold, available, was_held) {
            (HoldSpec::Off, false, _) => {
                assert_eq!(patience, Patience::Over { why: Reason::HoldOff, crowd: None });
            }
            (HoldSpec::On { .. }, false, _) | (HoldSpec::On { .. }, true, true) => {
                assert!(matches!(patience, Patience::Until(_)), "{patience:?}");
            }
            // It came for a slot, and has not been without a target since; or it has, and its time goes on.
            (_, true, _) if spec.queue.timeout == HOUR => assert!(matches!(patience, Patience::Until(_))),
            (_, true, _) => {
                if let Patience::Over { why, crowd } = patience {
                    assert_eq!(
                        (why, crowd.map(|crowd| crowd.waiting)),
                        (Reason::QueueExpired, Some(self.waiting.len() - 1))
                    );
                }
            }
        }
        if let Patience::Over { .. } = patience {
            self.waiting.remove(which);
        }
    }

    fn apply(&mut self, step: Step) {
        match step {
            Step::Arrive(count) => {
                for _ in 0..count {
                    self.arrivals += 1;
                    let client = client_hash(&self.arrivals.to_be_bytes());
                    self.admit(Ticket::new(clock::now(), client));
                }
            }
            Step::Leave(which) if !self.waiting.is_empty() => {
                drop(self.waiting.remove(usize::from(which) % self.waiting.len()));
            }
            Step::Publish(count, maxconn) => {
                let mut spec = (*self.routes.spec).clone();
                spec.maxconn = maxconn.unwrap_or(spec.maxconn);
                self.routes = routes(&Arc::new(spec), &MEMBERS[..count]);
                self.generation += 1;
                publish(&self.registry, self.generation, self.routes.clone());
            }
            Step::Confirm(confirmed) => {
                self.confirmed = confirmed;
                let ahead = if confirmed { HOUR } else { Duration::ZERO };
                self.registry.confirm(clock::now() + ahead);
            }
            Step::Open(count) => {
                let count = usize::from(count).min(self.connecting.len());
                for (_, Grant { target, permit, slot, .. }) in self.connecting.drain(..count).collect::<Vec<_>>() {
                    self.sessions.push((target.member.clone(), slot));
                    drop(permit);
                    self.collect();
                }
            }
            Step::GiveUp(count) => {
                let count = usize::from(count).min(self.connecting.len());
                drop(self.connecting.drain(..count).collect::<Vec<_>>());
            }
            Step::End(count) => {
                let count = usize::from(count).min(self.sessions.len());
                drop(self.sessions.drain(..count).collect::<Vec<_>>());
            }
            Step::Fail => {
                if let Some((mut ticket, grant)) = self.connecting.pop() {
                    if grant.target.needs_confirmation {
                        ticket.failed_in = Some(grant.generation);
                    } else {
                        ticket.tried.push(grant.target.member.clone());
                    }
                    drop(grant);
                    self.collect();
                    self.admit(ticket);
                }
            }
            Step::Forgive(which) if !self.waiting.is_empty() => {
                let which = usize::from(which) % self.waiting.len();
                self.waiting[which].0.failed_in = None;
                self.waiting[which].1.forgive();
            }
            Step::Ask(which) if !self.waiting.is_empty() => self.ask(usize::from(which) % self.waiting.len()),
            Step::Leave(_) | Step::Forgive(_) | Step::Ask(_) => {}
        }
        self.collect();
    }

    fn check(&self) {
        let line = self.service.waiting.lock();
        assert_eq!(line.clients.len(), self.waiting.len());
        let mut snapshot = crate::proxy::stats::of("service".into(), &self.service.counters);
        line.describe(&mut snapshot);
        drop(line);
        assert_eq!(snapshot.held + snapshot.queued, self.waiting.len());
        assert_eq!(snapshot.connecting.iter().map(|(_, count)| count).sum::<usize>(), self.connecting.len());
        assert!(snapshot.queued <= snapshot.queued_most);
        if !self.is_available() {
            return;
        }
        // Nobody waits while there is a target, a confirmation and a slot.
        for (ticket, _) in self.waiting.iter().take_while(|(ticket, _)| !self.is_paused(ticket)) {
            let free = self.routes.targets.iter().find(|t| self.accepts(ticket, &t.member) && self.has_room(&t.member));
            assert_eq!(free, None, "{ticket:?} waits in vain");
        }
    }
}

proptest! {
    #[test]
    fn nobody_waits_in_vain_and_nobody_overtakes(spec in spec(), steps in prop::collection::vec(step(), 1..60)) {
        let mut world = World::new(spec);
        for step in steps {
            world.apply(step);
            world.check();
        }
        // And what was taken is given back.
        world.apply(Step::GiveUp(u8::MAX));
        world.waiting.clear();
        world.collect();
        world.connecting.clear();
        world.sessions.clear();
        prop_assert_eq!(Arc::strong_count(&world.service), 2);
    }
}

/// Who comes back from a failure with the table already changed pauses no more, and holds nobody up.
#[test]
fn one_that_failed_in_an_older_table_lets_others_pass() {
    let mut spec = ServiceSpec::new("service", Role::Primary);
    (spec.maxconn, spec.balance) = (1, Balance::Source);
    let mut world = World::new(spec);
    let steps = [Step::Arrive(10), Step::Publish(2, None), Step::Confirm(true), Step::Fail, Step::Publish(3, None)];
    for step in steps {
        world.apply(step);
        world.check();
    }
    assert_eq!(world.connecting.len(), 3);
}

/// A slot that is given back at the very moment in which somebody begins to wait is found, and by that one.
#[test]
fn no_slot_is_lost_between_two_threads() {
    const ROUNDS: usize = 1000;
    let mut spec = ServiceSpec::new("service", Role::Replica);
    (spec.maxconn, spec.queue) = (1, QueueSpec { timeout: HOUR, max: 1 });
    let mut world = World::new(spec);
    publish(&world.registry, 1, routes(&world.routes.spec, &["a"]));
    let (sender, slots) = std::sync::mpsc::channel::<TargetSlot>();
    let round = Arc::new(AtomicUsize::new(0));
    let started = round.clone();
    let other = std::thread::spawn(move || {
        for (number, slot) in slots.iter().enumerate() {
            while started.load(Ordering::SeqCst) <= number {
                std::hint::spin_loop();
            }
            drop(slot);
        }
    });
    for number in 0..ROUNDS {
        world.admit(Ticket::new(clock::now(), 0));
        sender.send(world.connecting.pop().unwrap().1.slot).unwrap();
        round.store(number + 1, Ordering::SeqCst);
        world.admit(Ticket::new(clock::now(), 0));
        let until = clock::now() + Duration::from_secs(20);
        while world.connecting.is_empty() {
            world.collect();
            assert!(clock::now() < until, "a slot is free and somebody waits");
        }
        world.connecting.clear();
    }
    drop(sender);
    other.join().unwrap();
}
