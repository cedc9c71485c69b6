//! A real router machine with a model of everything around it: reads, watch, probes, data plane.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use pgvane::decide::balance::Balancer;
use pgvane::decide::{Caller, Effect, Event, Memory, Pick, Router, Routes, Suspicion, Target};
use pgvane::model::{AdminState, ClusterSpec, MemberName, Order, ProbeOutcome, Reason, ServiceName};

use super::member::Pg;
use super::world::{Act, Core, World};
use super::{MS, Micros};

/// Sessions of one service to one member that the model keeps open; later clients leave at once.
const KEPT_MAX: usize = 3;
/// A task that runs this late takes its own time-out for its own lateness.
const LATE: Micros = 50 * MS;

#[derive(Debug, Clone)]
pub struct Session {
    pub service: ServiceName,
    pub member: usize,
    /// Picked as a write target.
    pub writes: bool,
    pub opened_at: Micros,
    /// A transaction is open: it does not end when asked.
    pub busy: bool,
    /// It was asked to end when it is idle.
    pub asked: bool,
}

#[derive(Debug, Clone)]
pub struct Hold {
    pub service: ServiceName,
    pub since: Micros,
    pub deadline: Micros,
}

/// What this router was told about the leader key, kept apart from the router's own idea.
#[derive(Debug, Clone)]
pub struct Knowledge {
    pub cluster_id: u64,
    pub revision: i64,
    pub leader: Option<MemberName>,
}

/// Sessions that a close or a drain took, for the expectations of scenarios.
#[derive(Debug, Clone)]
pub struct Closed {
    pub at: Micros,
    pub member: usize,
    pub service: ServiceName,
    pub reason: Reason,
    pub writes: bool,
    /// It was idle when it ended.
    pub idle: bool,
}

pub struct Shell {
    pub spec: Arc<ClusterSpec>,
    pub router: Router,
    pub memory: Memory,
    /// Grows with every restart: what was meant for an earlier life is not delivered.
    pub life: u64,
    pub routes: Arc<Routes>,
    pub confirmed: Option<Instant>,
    pub sessions: Vec<Session>,
    pub holds: Vec<Hold>,
    pub expired: usize,
    pub closed: Vec<Closed>,
    /// The way to etcd.
    pub link: bool,
    pub link_since: Micros,
    pub watching: bool,
    /// The watch died and nobody noticed.
    pub watch_silent: bool,
    pub watch_since: Micros,
    pub stream: u64,
    pub watch_last: Micros,
    pub paused_until: Micros,
    pub started_at: Micros,
    pub unreachable: BTreeSet<usize>,
    pub reach_since: Micros,
    pub knowledge: Option<Knowledge>,
    pub timer: Option<Micros>,
    pub balancers: BTreeMap<ServiceName, Balancer>,
    pub clients: bool,
    /// What an operator ordered of members, and when.
    pub ordered: BTreeMap<usize, (AdminState, Micros)>,
}

impl Shell {
    pub fn new(spec: Arc<ClusterSpec>, memory: Memory, now: Micros, instant: Instant) -> Shell {
        let router = Router::new(spec.clone(), memory.clone(), instant);
        Shell {
            routes: Arc::new(Routes { cluster: spec.name.clone(), generation: 0, services: Vec::new() }),
            router,
            spec,
            memory,
            life: 0,
            confirmed: None,
            sessions: Vec::new(),
            holds: Vec::new(),
            expired: 0,
            closed: Vec::new(),
            link: true,
            link_since: now,
            watching: false,
            watch_silent: false,
            watch_since: now,
            stream: 0,
            watch_last: now,
            paused_until: 0,
            started_at: now,
            unreachable: BTreeSet::new(),
            reach_since: now,
            knowledge: None,
            timer: None,
            balancers: BTreeMap::new(),
            clients: true,
            ordered: BTreeMap::new(),
        }
    }

    /// Members that take new sessions of a service.
    pub fn targets(&self, service: &str) -> Vec<&str> {
        let targets = self.routes.service(service).map_or(&[][..], |s| &s.targets);
        targets.iter().map(|t| t.member.as_str()).collect()
    }

    pub fn write_target(&self) -> Option<&str> {
        self.targets("primary").first().copied()
    }
}

impl World {
    /// What reaches the router's core.
    pub fn core(&mut self, r: usize, what: Core) {
        match what {
            Core::Tick => {
                self.push_core(r, self.now + super::SEC, Core::Tick);
                self.send_read(r);
            }
            Core::ReadNow => self.send_read(r),
            Core::Timer(at) => {
                if self.routers[r].timer == Some(at) {
                    self.routers[r].timer = None;
                    let now = self.instant();
                    self.routers[r].router.handle_timeout(now);
                    self.carry_out(r);
                }
            }
            Core::Event(event) => self.tell(r, event),
            Core::Read { view, source } => {
                self.rejoin_watch(r, view.revision);
                self.tell(r, Event::View { view, source });
            }
            Core::Watched { view, stream } => {
                if self.routers[r].stream == stream {
                    self.tell(r, Event::View { view, source: pgvane::decide::ViewSource::Watch });
                }
            }
            Core::Probed { member, number, outcome, due } => {
                let late = outcome == ProbeOutcome::TimedOut && self.now > due + LATE;
                let outcome = if late { ProbeOutcome::CheckerLate } else { outcome };
                self.tell(r, Event::ProbeDone { member, number, outcome });
            }
        }
    }

    fn tell(&mut self, r: usize, event: Event) {
        self.note(|| format!("r{r} < {}", super::world::describe_event(&event)));
        self.learn(r, &event);
        let now = self.instant();
        if let Event::Spec(spec) = &event {
            self.routers[r].spec = spec.clone();
        }
        if let Event::Order { member, order: Order::State(state) } = &event
            && let Some(m) = self.member_named(member)
        {
            let now = self.now;
            self.routers[r].ordered.insert(m, (*state, now));
        }
        self.routers[r].router.handle(event, now);
        self.carry_out(r);
    }

    /// Carries out every effect, then asks what must not be.
    pub fn carry_out(&mut self, r: usize) {
        while let Some(effect) = self.routers[r].router.poll_effect() {
            self.note(|| format!("r{r} > {}", super::world::describe_effect(&effect)));
            self.execute(r, effect);
        }
        self.arm(r);
        self.check_router(r);
    }

    fn arm(&mut self, r: usize) {
        let next = self.routers[r].router.poll_timeout().map(|(at, _)| self.micros(at).max(self.now + 1));
        if next != self.routers[r].timer {
            self.routers[r].timer = next;
            if let Some(at) = next {
                self.push_core(r, at, Core::Timer(at));
            }
        }
    }

    fn execute(&mut self, r: usize, effect: Effect) {
        match effect {
            Effect::PublishRoutes(table) => {
                self.check_table(r, &table);
                self.routers[r].routes = table;
                self.newcomers(r);
                self.wake(r);
            }
            Effect::Confirm { until } => {
                self.routers[r].confirmed = Some(until);
                self.wake(r);
            }
            Effect::CloseSessions { member, services, reason } => self.close(r, &member, services.as_deref(), reason),
            Effect::DrainSessions { member, services, reason } => self.drain(r, &member, services.as_deref(), reason),
            Effect::Probe { member, number, limit, address } => {
                let served_at = self.now + 400;
                let life = self.routers[r].life;
                self.push(served_at, Act::Probe { router: r, life, member, number, limit, address });
            }
            Effect::ProbePort { member, number, limit, address } => {
                let (after, outcome) = match self.member_at(&address.host) {
                    Some(m) if !self.routers[r].unreachable.contains(&m) => self.members[m].port_outcome(limit),
                    _ => (limit.as_micros() as Micros, pgvane::model::PortOutcome::TimedOut),
                };
                let event = Event::PortProbeDone { member, number, outcome };
                self.push_core(r, self.now + after, Core::Event(event));
            }
            Effect::Check { member, number, check, address, connect_limit } => {
                let (after, outcome) = match self.member_at(&address.at.host) {
                    Some(m) if !self.routers[r].unreachable.contains(&m) => {
                        self.members[m].check_outcome(self.now, &check, connect_limit)
                    }
                    _ => super::member::black_hole(connect_limit),
                };
                let event = Event::CheckDone { member, number, outcome };
                self.push_core(r, self.now + after, Core::Event(event));
            }
            Effect::ReadNow => self.push_core(r, self.now + 50, Core::ReadNow),
            Effect::Remember(memory) => self.routers[r].memory = memory,
            Effect::ForgetAddress { .. } | Effect::Log(_) => {}
        }
    }

    fn close(&mut self, r: usize, member: &MemberName, services: Option<&[ServiceName]>, reason: Reason) {
        let hit = |s: &ServiceName| services.is_none_or(|wanted| wanted.contains(s));
        let Some(m) = self.member_named(member) else { return };
        self.check_closing(r, m, services, reason);
        for session in self.end(r, reason, false, |s| s.member == m && hit(&s.service)) {
            self.check_cut(r, &session, reason);
        }
    }

    /// Whoever is idle ends at once; the others when their transaction does.
    fn drain(&mut self, r: usize, member: &MemberName, services: Option<&[ServiceName]>, reason: Reason) {
        let hit = |s: &ServiceName| services.is_none_or(|wanted| wanted.contains(s));
        let Some(m) = self.member_named(member) else { return };
        self.check_closing(r, m, services, reason);
        for session in self.routers[r].sessions.iter_mut().filter(|s| s.member == m && hit(&s.service)) {
            session.asked = true;
        }
        // Once asked, it is no news when it ends.
        for session in self.routers[r].sessions.clone().iter().filter(|s| s.member == m && hit(&s.service)) {
            self.check_cut(r, session, reason);
        }
        self.end(r, reason, true, |s| s.member == m && s.asked && !s.busy);
    }

    fn end(&mut self, r: usize, reason: Reason, idle: bool, which: impl Fn(&Session) -> bool) -> Vec<Session> {
        let now = self.now;
        let shell = &mut self.routers[r];
        let (gone, kept) = shell.sessions.drain(..).partition(which);
        let gone: Vec<Session> = gone;
        shell.sessions = kept;
        let closed = |s: &Session| Closed {
            at: now,
            member: s.member,
            service: s.service.clone(),
            reason,
            writes: s.writes,
            idle,
        };
        shell.closed.extend(gone.iter().map(closed));
        gone
    }

    /// Transactions on this member end now; those sessions that were asked to end do so.
    pub fn end_transactions(&mut self, r: usize, m: usize) {
        self.routers[r].sessions.iter_mut().filter(|s| s.member == m).for_each(|s| s.busy = false);
        self.end(r, Reason::Maintenance, true, |s| s.asked && !s.busy);
    }

    /// Transactions begin and end; one that is all that keeps its session takes a while.
    fn transactions(&mut self, r: usize) {
        let (rng, sessions) = (&mut self.rng, &mut self.routers[r].sessions);
        for session in sessions {
            session.busy = if session.asked { session.busy && rng.chance(97) } else { rng.chance(50) };
        }
        self.end(r, Reason::Maintenance, true, |s| s.asked && !s.busy);
    }

    // -- clients ----------------------------------------------------------------------------------

    /// Held clients race for every new table, before the next effect is carried out.
    fn wake(&mut self, r: usize) {
        for hold in std::mem::take(&mut self.routers[r].holds) {
            self.arrive(r, hold.service, hold.since);
        }
    }

    /// A round of clients: writes on open sessions, expired holds, newcomers for every service.
    pub fn clients(&mut self, r: usize) {
        let every = self.client_gap();
        self.push(self.now + every, Act::Clients { router: r });
        self.write_all(r);
        if self.alive {
            self.transactions(r);
        }
        let now = self.now;
        let shell = &mut self.routers[r];
        let (over, waiting): (Vec<Hold>, Vec<Hold>) = shell.holds.drain(..).partition(|h| h.deadline <= now);
        shell.holds = waiting;
        shell.expired += over.len();
        self.wake(r);
        self.newcomers(r);
        self.check_liveness(r);
    }

    fn newcomers(&mut self, r: usize) {
        if self.routers[r].clients {
            for service in self.routers[r].spec.services.clone() {
                self.arrive(r, service.name.clone(), self.now);
            }
        }
    }

    fn arrive(&mut self, r: usize, service: ServiceName, since: Micros) {
        let mut balancer = self.routers[r].balancers.remove(&service).unwrap_or_default();
        let shell = &self.routers[r];
        let load = |m: &MemberName| {
            shell.sessions.iter().filter(|s| s.service == service && self.members[s.member].name == *m).count()
        };
        let Some(routes) = shell.routes.service(&service).cloned() else { return };
        let load = |place: usize| load(&routes.targets[place].member);
        let limit = routes.hold_limit;
        let caller = Caller { client: 0, draw: 0, tried: &[], now: self.instant() };
        match routes.pick(&mut balancer, caller, load) {
            Pick::Target(target) => {
                let target = target.clone();
                let confirmed = shell.confirmed.is_some_and(|until| self.instant() < until);
                if target.needs_confirmation && !confirmed {
                    self.hold(r, service.clone(), since, limit.map(|l| l.as_micros() as Micros));
                } else {
                    self.connect(r, service.clone(), since, &target, limit.map(|l| l.as_micros() as Micros));
                }
            }
            Pick::Hold { limit, .. } => self.hold(r, service.clone(), since, Some(limit.as_micros() as Micros)),
            Pick::Refuse { .. } | Pick::Exhausted | Pick::Full => {}
        }
        self.routers[r].balancers.insert(service, balancer);
    }

    fn hold(&mut self, r: usize, service: ServiceName, since: Micros, limit: Option<Micros>) {
        let Some(limit) = limit else { return };
        let shell = &mut self.routers[r];
        // A handful stands for all of them: the one that waits longest, and the latest.
        let same = shell.holds.iter().filter(|h| h.service == service).count();
        if same < 2 || since < self.now {
            shell.holds.push(Hold { service, since, deadline: since + limit });
        }
    }

    fn connect(&mut self, r: usize, service: ServiceName, since: Micros, target: &Target, limit: Option<Micros>) {
        let Some(m) = self.member_at(&target.address.host) else {
            self.fail(format!("r{r} was sent to {}, where nobody lives", target.address));
            return;
        };
        let member = &self.members[m];
        let cut = self.routers[r].unreachable.contains(&m) || !member.host_up || member.pg_hung;
        let refusal = match member.pg {
            _ if cut => Some((self.routers[r].spec.services[0].connect_timeout, Suspicion::ConnectTimedOut)),
            Pg::Stopped => Some((std::time::Duration::from_micros(300), Suspicion::ConnectRefused)),
            Pg::Starting => Some((std::time::Duration::from_micros(600), Suspicion::StartupRejected)),
            Pg::Recovery | Pg::Primary => None,
        };
        if let Some((after, suspicion)) = refusal {
            let event = Event::Suspected { member: target.member.clone(), suspicion };
            self.push_core(r, self.now + after.as_micros() as Micros, Core::Event(event));
            return self.hold(r, service, since, limit);
        }
        let same = self.routers[r].sessions.iter().filter(|s| s.service == service && s.member == m).count();
        let session = Session {
            service,
            member: m,
            writes: target.needs_confirmation,
            opened_at: self.now,
            // One in a scenario, any in the simulation.
            busy: if self.alive { self.rng.chance(50) } else { same == 0 },
            asked: false,
        };
        self.check_opening(r, &session);
        if same < KEPT_MAX {
            self.routers[r].sessions.push(session);
        }
    }

    fn write_all(&mut self, r: usize) {
        let mut reset = BTreeSet::new();
        for session in self.routers[r].sessions.clone() {
            let member = &self.members[session.member];
            let reached = member.host_up && !self.routers[r].unreachable.contains(&session.member);
            if reached && session.opened_at < member.pg_lost_at {
                reset.insert(session.member);
            } else if reached && session.writes && member.pg == Pg::Primary {
                self.check_write(r, &session);
            }
        }
        for m in reset {
            self.reset_sessions(r, m);
        }
    }

    /// PostgreSQL is gone under its sessions and the kernel says so.
    pub fn reset_sessions(&mut self, r: usize, m: usize) {
        let lost_at = self.members[m].pg_lost_at;
        let shell = &mut self.routers[r];
        let before = shell.sessions.len();
        shell.sessions.retain(|s| s.member != m || s.opened_at >= lost_at);
        if shell.sessions.len() < before {
            let event = Event::Suspected { member: self.members[m].name.clone(), suspicion: Suspicion::ServerReset };
            self.push_core(r, self.now + 300, Core::Event(event));
        }
    }
}
