//! Moves time and carries things between etcd, members and routers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pgvane::decide::{Effect, Event, Memory, ViewSource};
use pgvane::model::{ApiAddress, ClusterSpec, ClusterView, MemberName, ProbeOutcome};
use pgvane::runtime::clock;

use super::etcd::{Etcd, EtcdState, Keys};
use super::faults::Fault;
use super::member::{Agent, Member, Pg, Rest};
use super::prng::Prng;
use super::shell::Shell;
use super::{MS, Micros, SEC};

/// What happens at an instant.
pub enum Act {
    Core {
        router: usize,
        life: u64,
        what: Core,
    },
    /// The instant at which etcd takes a read's snapshot.
    ReadServed {
        router: usize,
        life: u64,
        sent: Micros,
        answered: Micros,
    },
    /// The instant at which a member looks at a probe.
    Probe {
        router: usize,
        life: u64,
        member: MemberName,
        number: u64,
        limit: Duration,
        address: ApiAddress,
    },
    Clients {
        router: usize,
    },
    Leases,
    /// One cycle of a member's Patroni.
    Cycle {
        member: usize,
        epoch: u64,
    },
    /// A change of PostgreSQL that was begun earlier, unless something came between.
    Pg {
        member: usize,
        epoch: u64,
        to: Pg,
    },
    /// The rest of a switchover, once the old primary has stopped.
    HandOver {
        member: usize,
    },
    Fault(Fault),
}

/// What reaches a router's core.
pub enum Core {
    Tick,
    ReadNow,
    Timer(Micros),
    Event(Event),
    Read { view: Arc<ClusterView>, source: ViewSource },
    Watched { view: Arc<ClusterView>, stream: u64 },
    Probed { member: MemberName, number: u64, outcome: ProbeOutcome, due: Micros },
}

pub struct World {
    base: Instant,
    pub now: Micros,
    order: u64,
    queue: BTreeMap<(Micros, u64), Act>,
    pub etcd: Etcd,
    pub members: Vec<Member>,
    pub routers: Vec<Shell>,
    pub rng: Prng,
    /// Members behave by themselves, as Patroni makes them.
    pub alive: bool,
    pub journal: Vec<String>,
    pub failures: Vec<String>,
    /// No fault is under way since then.
    pub calm_since: Micros,
    pub promote_takes: Option<Micros>,
}

impl World {
    pub fn new(seed: u64, members: usize, specs: &[Arc<ClusterSpec>], alive: bool) -> World {
        let mut world = World {
            base: clock::now(),
            now: 0,
            order: 0,
            queue: BTreeMap::new(),
            etcd: Etcd::new(),
            members: (0..members).map(Member::new).collect(),
            routers: Vec::new(),
            rng: Prng::new(seed),
            alive,
            journal: Vec::new(),
            failures: Vec::new(),
            calm_since: 0,
            promote_takes: None,
        };
        world.found_cluster();
        for spec in specs {
            let instant = world.instant();
            world.routers.push(Shell::new(spec.clone(), Memory::default(), 0, instant));
            let r = world.routers.len() - 1;
            let first = world.rng.between(MS, 900 * MS);
            world.push_core(r, first, Core::Tick);
            world.push(first + 5 * MS, Act::Clients { router: r });
            world.carry_out(r);
        }
        world
    }

    /// n1 leads on timeline 5, the others stream.
    fn found_cluster(&mut self) {
        self.members[0].pg = Pg::Primary;
        self.members[0].leads = true;
        let (members, rng) = (&self.members, &mut self.rng);
        self.etcd.commit(0, |keys| {
            for member in members {
                keys.leases.insert(member.lease, 30 * SEC + rng.below(SEC));
                keys.members.insert(member.name.clone(), member.facts());
                keys.member_leases.insert(member.name.clone(), member.lease);
            }
            keys.put_leader(&members[0].name, members[0].lease);
        });
        for member in 0..self.members.len() {
            let first = self.rng.between(MS, 10 * SEC);
            self.push(first, Act::Cycle { member, epoch: 0 });
        }
        self.push(SEC, Act::Leases);
    }

    // -- time -------------------------------------------------------------------------------------

    pub fn instant(&self) -> Instant {
        self.base + Duration::from_micros(self.now)
    }

    pub fn micros(&self, at: Instant) -> Micros {
        at.saturating_duration_since(self.base).as_nanos().div_ceil(1000) as Micros
    }

    pub fn push(&mut self, at: Micros, act: Act) {
        self.order += 1;
        self.queue.insert((at.max(self.now), self.order), act);
    }

    pub fn push_core(&mut self, router: usize, at: Micros, what: Core) {
        let life = self.routers[router].life;
        self.push(at, Act::Core { router, life, what });
    }

    pub fn run_until(&mut self, end: Micros) {
        while self.step(end) {}
        self.now = self.now.max(end);
    }

    /// One act; false when nothing more happens up to `end`, or something forbidden was seen.
    pub fn step(&mut self, end: Micros) -> bool {
        let Some((&(at, order), _)) = self.queue.first_key_value() else { return false };
        if at > end || !self.failures.is_empty() {
            return false;
        }
        let act = self.queue.remove(&(at, order));
        self.now = at;
        if let Some(act) = act {
            self.act(act, order);
        }
        true
    }

    fn act(&mut self, act: Act, order: u64) {
        match act {
            Act::Core { router, life, what } => {
                let paused_until = self.routers[router].paused_until;
                if life != self.routers[router].life {
                } else if paused_until > self.now {
                    // Late, and in the order in which it came.
                    self.queue.insert((paused_until, order), Act::Core { router, life, what });
                } else {
                    self.core(router, what);
                }
            }
            Act::ReadServed { router, life, sent, answered } => self.serve_read(router, life, sent, answered),
            Act::Probe { router, life, member, number, limit, address } => {
                if life == self.routers[router].life {
                    self.serve_probe(router, member, number, limit, &address);
                }
            }
            Act::Clients { router } => self.clients(router),
            Act::Leases => {
                self.push(self.now + 100 * MS, Act::Leases);
                self.expire_leases();
            }
            Act::Cycle { member, epoch } => {
                if self.members[member].loop_epoch == epoch {
                    self.cycle(member);
                }
            }
            Act::Pg { member, epoch, to } => {
                if self.members[member].epoch == epoch && self.members[member].host_up {
                    self.set_pg(member, to);
                }
            }
            Act::HandOver { member } => self.hand_over(member),
            Act::Fault(fault) => self.happen(fault),
        }
    }

    pub fn note(&mut self, line: impl FnOnce() -> String) {
        let (seconds, rest) = (self.now / SEC, self.now % SEC);
        self.journal.push(format!("{seconds}.{rest:06} {}", line()));
    }

    pub fn fail(&mut self, what: String) {
        self.note(|| format!("FORBIDDEN {what}"));
        self.failures.push(what);
    }

    pub fn client_gap(&mut self) -> Micros {
        if self.alive { self.rng.between(40 * MS, 60 * MS) } else { 5 * MS }
    }

    // -- etcd -------------------------------------------------------------------------------------

    pub fn commit(&mut self, change: impl FnOnce(&mut Keys)) {
        self.etcd.commit(self.now, change);
        let view = self.etcd.view();
        let leader = self.etcd.leader().map_or("-", MemberName::as_str).to_owned();
        self.note(|| format!("etcd revision {} leader {leader}", view.revision));
        for r in 0..self.routers.len() {
            self.push_watch(r, view.clone());
        }
        self.wake_agents();
    }

    fn push_watch(&mut self, r: usize, view: Arc<ClusterView>) {
        let delay = self.rng.between(MS, 3 * MS);
        let shell = &mut self.routers[r];
        if self.etcd.state == EtcdState::Up && shell.link && shell.watching && !shell.watch_silent {
            shell.watch_last = (shell.watch_last + 1).max(self.now + delay);
            let (at, stream) = (shell.watch_last, shell.stream);
            self.push_core(r, at, Core::Watched { view, stream });
        }
    }

    pub fn break_watch(&mut self, r: usize) {
        self.routers[r].watching = false;
        self.routers[r].stream += 1;
    }

    /// A read was answered: a lost watch starts again, after the revision that was read.
    pub fn rejoin_watch(&mut self, r: usize, read: i64) {
        let shell = &mut self.routers[r];
        let missed = shell.knowledge.as_ref().is_none_or(|k| k.revision < read);
        if self.etcd.state != EtcdState::Up || !shell.link {
            return;
        }
        if !shell.watching || (shell.watch_silent && missed) {
            (shell.watching, shell.watch_silent) = (true, false);
            shell.watch_since = self.now;
            shell.stream += 1;
            if self.etcd.keys.revision > read {
                self.push_watch(r, self.etcd.view());
            }
        }
    }

    pub fn send_read(&mut self, r: usize) {
        let served = self.now + self.rng.between(MS / 2, 2 * MS);
        let answered = served + self.rng.between(MS / 2, 3 * MS);
        let life = self.routers[r].life;
        self.push(served, Act::ReadServed { router: r, life, sent: self.now, answered });
    }

    fn serve_read(&mut self, r: usize, life: u64, sent: Micros, answered: Micros) {
        if !self.etcd.is_up() || !self.routers[r].link || life != self.routers[r].life {
            return;
        }
        let view = self.etcd.view();
        let lease_left = self.etcd.lease_left(self.now).map(Duration::from_secs);
        let sent_at = self.base + Duration::from_micros(sent);
        // The view goes first; the answer about the lease comes with a second question.
        let plain = Core::Read { view: view.clone(), source: ViewSource::Read { sent_at, lease_left: None } };
        self.push_core(r, answered, plain);
        if lease_left.is_some() {
            self.push_core(r, answered + MS, Core::Read { view, source: ViewSource::Read { sent_at, lease_left } });
        }
    }

    fn expire_leases(&mut self) {
        if self.etcd.is_up() {
            for lease in self.etcd.expired(self.now) {
                self.commit(|keys| keys.drop_lease(lease));
            }
        }
    }

    // -- members ----------------------------------------------------------------------------------

    pub fn member_named(&self, name: &MemberName) -> Option<usize> {
        self.members.iter().position(|m| m.name == *name)
    }

    pub fn member_at(&self, host: &str) -> Option<usize> {
        (0..self.members.len()).find(|&m| Member::host(m) == host)
    }

    fn serve_probe(&mut self, r: usize, name: MemberName, number: u64, limit: Duration, address: &ApiAddress) {
        let latency = self.rng.between(MS / 2, MS);
        let (after, outcome) = match self.member_at(&address.at.host) {
            Some(m) if !self.routers[r].unreachable.contains(&m) => {
                self.members[m].rest_outcome(self.now, limit, latency)
            }
            _ => (limit.as_micros() as Micros, ProbeOutcome::TimedOut),
        };
        let due = self.now + after;
        self.push_core(r, due, Core::Probed { member: name, number, outcome, due });
    }

    /// PostgreSQL changes; sessions do not outlive a stop.
    pub fn set_pg(&mut self, m: usize, to: Pg) {
        let now = self.now;
        let member = &mut self.members[m];
        let from = member.pg;
        if from == to {
            return;
        }
        member.pg = to;
        member.epoch += 1;
        member.pg_since = now;
        let promoted = from == Pg::Recovery && to == Pg::Primary;
        if !promoted && matches!(from, Pg::Recovery | Pg::Primary) {
            member.pg_lost_at = now;
            if from == Pg::Primary {
                member.primary_lost_at = now;
            }
        }
        let (name, reached) = (member.name.clone(), member.host_up);
        self.note(|| format!("{name} postgres {from:?} -> {to:?}"));
        if reached && !promoted {
            for r in 0..self.routers.len() {
                if !self.routers[r].unreachable.contains(&m) {
                    self.reset_sessions(r, m);
                }
            }
        }
    }

    pub fn set_rest(&mut self, m: usize, rest: Rest) {
        self.members[m].rest = rest;
        self.members[m].rest_since = self.now;
    }

    pub fn set_agent(&mut self, m: usize, agent: Agent) {
        self.members[m].agent = agent;
        self.members[m].rest_since = self.now;
        if agent == Agent::Running {
            self.members[m].loop_epoch += 1;
            let epoch = self.members[m].loop_epoch;
            self.push(self.now + 50 * MS, Act::Cycle { member: m, epoch });
        }
    }
}

pub fn describe_event(event: &Event) -> String {
    match event {
        Event::View { view, source } => {
            let leader = view.leader.as_ref().map_or("-", |l| l.name.as_str());
            let kind = if *source == ViewSource::Watch { "watch" } else { "read" };
            format!("{kind} revision {} leader {leader}", view.revision)
        }
        Event::ProbeDone { member, outcome, .. } => match outcome {
            ProbeOutcome::Answer(a) => {
                let role = if a.is_writable() { "writable" } else { "not writable" };
                format!("rest {member} {} {role} timeline {:?}", a.status, a.timeline.map(|t| t.0))
            }
            other => format!("rest {member} {other:?}"),
        },
        Event::PortProbeDone { member, outcome, .. } => format!("port {member} {outcome:?}"),
        Event::Suspected { member, suspicion } => format!("suspected {member} {suspicion:?}"),
        Event::CheckDone { member, outcome, .. } => format!("check {member} {}", outcome.status.as_str()),
        Event::ErrorLimit { service, member } => format!("error limit {service} {member}"),
        Event::Spec(_) => "a new configuration".to_owned(),
        Event::Order { member, order } => format!("order {member} {order:?}"),
    }
}

pub fn describe_effect(effect: &Effect) -> String {
    match effect {
        Effect::PublishRoutes(table) => {
            let service = |s: &pgvane::decide::ServiceRoutes| {
                let targets: Vec<_> = s.targets.iter().map(|t| t.member.as_str()).collect();
                let wait = s.wait.map_or("", |(reason, _)| reason.as_str());
                format!("{}=[{}]{wait}", s.spec.name, targets.join(" "))
            };
            format!("publish {} {}", table.generation, table.services.iter().map(service).collect::<Vec<_>>().join(" "))
        }
        Effect::Confirm { .. } => "confirm".to_owned(),
        Effect::CloseSessions { member, services, reason } => {
            let services = services.as_ref().map_or("all".to_owned(), |s| s.join(" "));
            format!("close {member} {services} {reason}")
        }
        Effect::DrainSessions { member, services, reason } => {
            let services = services.as_ref().map_or("all".to_owned(), |s| s.join(" "));
            format!("drain {member} {services} {reason}")
        }
        Effect::Probe { member, limit, .. } => format!("probe {member} {limit:?}"),
        Effect::Check { member, check, .. } => format!("check {member} {}", check.path),
        Effect::ProbePort { member, .. } => format!("probe port {member}"),
        Effect::ForgetAddress { host } => format!("forget {host}"),
        Effect::ReadNow => "read now".to_owned(),
        Effect::Remember(memory) => format!("remember {} members", memory.members.len()),
        Effect::Log(transition) => format!("log {transition:?}"),
    }
}
