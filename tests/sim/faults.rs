//! What goes wrong, and comes right again.

use std::sync::Arc;

use pgvane::decide::Event;
use pgvane::model::{AdminState, ClusterSpec, FailoverRequest, MemberName, Order};

use super::etcd::EtcdState;
use super::member::{Agent, Pg, Rest};
use super::shell::Shell;
use super::world::{Core, World};
use super::{MS, Micros};

#[derive(Debug, Clone)]
pub enum Fault {
    Etcd(EtcdState),
    CopyEtcd,
    /// The copy comes back in the place of etcd, perhaps as another cluster.
    ReplaceEtcd {
        other_id: bool,
    },
    Link {
        router: usize,
        up: bool,
    },
    SilenceWatch(usize),
    Pause {
        router: usize,
        span: Micros,
    },
    Restart(usize),
    Reach {
        router: usize,
        member: usize,
        reached: bool,
    },
    CutMember {
        member: usize,
        cut: bool,
    },
    Agent(usize, Agent),
    Rest(usize, Rest),
    Blip(usize, Micros),
    Pg(usize, Pg),
    Host {
        member: usize,
        up: bool,
    },
    /// The timeline is there with the promotion; see `Promoted`.
    Timeline(usize, u32),
    Promoted(usize),
    /// The next promotion takes this long.
    SlowPromotion(Micros),
    Switchover,
    DropLeaderKey,
    ClusterPause(bool),
    Failsafe(bool),
    /// An operator's word, to every router.
    Order {
        member: usize,
        state: AdminState,
    },
    /// The configuration is read again.
    Reload {
        router: usize,
        spec: Arc<ClusterSpec>,
    },
}

impl World {
    pub fn happen(&mut self, fault: Fault) {
        if !matches!(fault, Fault::Timeline(..) | Fault::Promoted(_)) {
            self.note(|| format!("fault {fault:?}"));
        }
        match fault {
            Fault::Etcd(state) => self.set_etcd(state),
            Fault::CopyEtcd => self.etcd.copy = Some(self.etcd.keys.clone()),
            Fault::ReplaceEtcd { other_id } => self.replace_etcd(other_id),
            Fault::Link { router, up } => {
                self.routers[router].link = up;
                self.routers[router].link_since = self.now;
                self.break_watch(router);
            }
            Fault::SilenceWatch(r) => self.routers[r].watch_silent = true,
            Fault::Pause { router, span } => self.routers[router].paused_until = self.now + span,
            Fault::Restart(r) => self.restart(r),
            Fault::Reach { router, member, reached } => {
                let shell = &mut self.routers[router];
                shell.reach_since = self.now;
                if reached {
                    shell.unreachable.remove(&member);
                } else {
                    shell.unreachable.insert(member);
                }
            }
            Fault::CutMember { member, cut } => {
                self.members[member].cut_from_etcd = cut;
                self.recycle(member);
            }
            Fault::Agent(m, agent) => self.set_agent(m, agent),
            Fault::Rest(m, rest) => self.set_rest(m, rest),
            Fault::Blip(m, span) => self.members[m].blip_until = self.now + span,
            Fault::Pg(m, to) => self.set_pg(m, to),
            Fault::Host { member, up } => self.set_host(member, up),
            Fault::Timeline(m, timeline) => self.set_timeline(m, timeline),
            Fault::Promoted(m) => self.members[m].switching = false,
            Fault::SlowPromotion(span) => self.promote_takes = Some(span),
            Fault::Switchover => self.ask_switchover(),
            Fault::Order { member, state } => (0..self.routers.len()).for_each(|r| self.order(r, member, state)),
            Fault::Reload { router, spec } => self.push_core(router, self.now, Core::Event(Event::Spec(spec))),
            // Keys change through etcd, or not at all.
            Fault::DropLeaderKey | Fault::ClusterPause(_) | Fault::Failsafe(_) if !self.etcd.is_up() => {}
            Fault::DropLeaderKey => self.commit(|keys| keys.leader = None),
            Fault::ClusterPause(on) => self.commit(|keys| keys.settings.pause = on),
            Fault::Failsafe(on) => self.commit(|keys| keys.settings.failsafe_mode = on),
        }
    }

    fn order(&mut self, r: usize, member: usize, state: AdminState) {
        let name = self.members[member].name.clone();
        self.push_core(r, self.now, Core::Event(Event::Order { member: name, order: Order::State(state) }));
    }

    fn set_etcd(&mut self, state: EtcdState) {
        let before = self.etcd.state;
        self.etcd.state = state;
        self.etcd.up_since = self.now;
        for r in 0..self.routers.len() {
            self.break_watch(r);
        }
        if before == EtcdState::Down && state == EtcdState::Up {
            // A new etcd leader restarts the countdown of every lease.
            let ttl = self.etcd.keys.settings.ttl.as_micros() as Micros;
            let now = self.now;
            self.etcd.keys.leases.values_mut().for_each(|end| *end = now + ttl);
        }
        for m in 0..self.members.len() {
            self.recycle(m);
        }
    }

    fn replace_etcd(&mut self, other_id: bool) {
        let Some(mut copy) = self.etcd.copy.clone() else { return };
        if other_id {
            copy.cluster_id += 1;
        }
        let ttl = copy.settings.ttl.as_micros() as Micros;
        let now = self.now;
        copy.leases.values_mut().for_each(|end| *end = now + ttl);
        self.etcd.keys = copy;
        self.etcd.replaced_at = Some(now);
        self.etcd.leader_since = now;
        self.etcd.last_leader = self.etcd.leader().cloned();
        for r in 0..self.routers.len() {
            self.break_watch(r);
        }
        for m in 0..self.members.len() {
            self.recycle(m);
        }
    }

    /// Its Patroni notices something soon.
    fn recycle(&mut self, m: usize) {
        if self.members[m].agent == Agent::Running {
            self.members[m].loop_epoch += 1;
            let epoch = self.members[m].loop_epoch;
            let soon = self.now + self.rng.between(20 * MS, 500 * MS);
            self.push(soon, super::world::Act::Cycle { member: m, epoch });
        }
    }

    fn restart(&mut self, r: usize) {
        let instant = self.instant();
        let old = &self.routers[r];
        let mut shell = Shell::new(old.spec.clone(), old.memory.clone(), self.now, instant);
        shell.life = old.life + 1;
        shell.link = old.link;
        shell.link_since = old.link_since;
        shell.unreachable = old.unreachable.clone();
        shell.reach_since = old.reach_since;
        shell.clients = old.clients;
        shell.ordered = old.ordered.clone();
        self.routers[r] = shell;
        self.push_core(r, self.now + MS, Core::Tick);
        self.carry_out(r);
    }

    fn set_host(&mut self, m: usize, up: bool) {
        let now = self.now;
        self.members[m].host_up = up;
        self.members[m].host_since = now;
        self.members[m].rest_since = now;
        if up {
            self.members[m].leads = false;
            self.set_agent(m, Agent::Running);
        } else {
            self.set_pg(m, Pg::Stopped);
            self.members[m].switching = false;
        }
    }

    fn ask_switchover(&mut self) {
        let Some(leader) = self.etcd.leader().cloned() else { return };
        if !self.etcd.is_up() {
            return;
        }
        let request = FailoverRequest { leader: Some(leader.clone()), candidate: None, scheduled_at: None };
        self.commit(|keys| keys.failover = Some(request));
        if let Some(m) = self.member_named(&leader) {
            self.recycle(m);
        }
    }

    pub fn empty_failover(&mut self) {
        let nobody = FailoverRequest { leader: None, candidate: None, scheduled_at: None };
        self.commit(|keys| keys.failover = Some(nobody));
    }

    pub fn ask_failover(&mut self, leader: Option<MemberName>, scheduled_at: Option<String>) {
        let request = leader.map(|name| FailoverRequest { leader: Some(name), candidate: None, scheduled_at });
        self.commit(|keys| keys.failover = request);
    }
}
