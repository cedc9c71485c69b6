//! Members that behave by themselves: Patroni's cycle, simplified, with measured timings.

use pgvane::model::Timeline;

use super::etcd::EtcdState;
use super::member::{Agent, Pg, Rest};
use super::world::{Act, World};
use super::{MS, Micros, SEC};

/// Without etcd and without failsafe mode PostgreSQL is stopped this long after the fault.
const DEMOTE_AFTER: Micros = 16_800 * MS;
/// ... and its REST API says 200 so much longer.
const STOP_TAKES: Micros = 1_500 * MS;
const START_TAKES: Micros = 1_800 * MS;

impl World {
    /// Every running Patroni that watches etcd looks again when a key changed.
    pub fn wake_agents(&mut self) {
        if !self.alive {
            return;
        }
        for m in 0..self.members.len() {
            if self.reaches_etcd(m) && self.members[m].agent == Agent::Running {
                let epoch = self.members[m].loop_epoch;
                let wanted = self.etcd.leader() != Some(&self.members[m].name);
                let delay = self.rng.between(5 * MS, 50 * MS);
                if wanted {
                    self.push(self.now + delay, Act::Cycle { member: m, epoch });
                }
            }
        }
    }

    fn reaches_etcd(&self, m: usize) -> bool {
        let member = &self.members[m];
        self.etcd.state == EtcdState::Up && member.host_up && !member.cut_from_etcd
    }

    pub fn cycle(&mut self, m: usize) {
        if self.members[m].agent != Agent::Running || !self.members[m].host_up {
            return;
        }
        self.members[m].loop_epoch += 1;
        let epoch = self.members[m].loop_epoch;
        let next = if self.reaches_etcd(m) { 10 * SEC } else { SEC };
        self.push(self.now + next, Act::Cycle { member: m, epoch });
        if !self.reaches_etcd(m) {
            if self.alive {
                self.without_etcd(m);
            }
            return;
        }
        self.members[m].dcs_ok_at = self.now;
        self.keep_lease(m);
        if self.alive {
            self.members[m].failsafe_active = false;
            self.with_etcd(m);
            self.publish_member(m);
        }
    }

    fn keep_lease(&mut self, m: usize) {
        let (lease, ttl) = (self.members[m].lease, self.etcd.keys.settings.ttl.as_micros() as Micros);
        self.etcd.keys.leases.insert(lease, self.now + ttl);
    }

    fn publish_member(&mut self, m: usize) {
        let member = &self.members[m];
        let (name, lease, mut facts) = (member.name.clone(), member.lease, member.facts());
        // Positions change all the time; a change of them alone is not worth a revision here.
        if let Some(old) = self.etcd.keys.members.get(&name) {
            (facts.state, facts.role) = (old.state.clone(), old.role.clone());
        }
        let same = self.etcd.keys.members.get(&name) == Some(&facts)
            && self.etcd.keys.member_leases.get(&name) == Some(&lease);
        if !same {
            self.commit(|keys| {
                keys.members.insert(name.clone(), facts);
                keys.member_leases.insert(name, lease);
            });
        }
    }

    fn with_etcd(&mut self, m: usize) {
        let name = self.members[m].name.clone();
        match self.etcd.leader().cloned() {
            Some(leader) if leader == name => self.lead(m),
            Some(_) => self.follow(m),
            None => self.race(m),
        }
    }

    fn lead(&mut self, m: usize) {
        let (lease, ttl) = (self.members[m].lease, self.etcd.keys.settings.ttl.as_micros() as Micros);
        let name = self.members[m].name.clone();
        if self.etcd.keys.leader.as_ref().is_some_and(|l| l.lease != lease) {
            self.commit(|keys| keys.put_leader(&name, lease));
        }
        let now = self.now;
        let member = &mut self.members[m];
        (member.leads, member.leads_until) = (true, now + ttl);
        match member.pg {
            Pg::Primary | Pg::Stopped if member.switching => {}
            Pg::Primary => self.maybe_switch_over(m),
            Pg::Recovery => self.promote(m),
            Pg::Stopped => {
                self.members[m].timeline = self.members[m].timeline.max(1);
                self.set_pg(m, Pg::Starting);
                self.later(m, START_TAKES, Pg::Primary);
            }
            Pg::Starting => {}
        }
    }

    fn later(&mut self, m: usize, after: Micros, to: Pg) {
        let epoch = self.members[m].epoch;
        self.push(self.now + after, Act::Pg { member: m, epoch, to });
    }

    fn promote(&mut self, m: usize) {
        let pending = self.members[m].leads_until > self.now && self.members[m].switching;
        if pending {
            return;
        }
        let takes = self.promote_takes.take().unwrap_or_else(|| self.rng.between(76 * MS, 171 * MS));
        self.members[m].switching = true;
        self.later(m, takes, Pg::Primary);
        // The timeline is there with the end of recovery, not before.
        let top = self.members.iter().map(|o| o.timeline).max().unwrap_or(1);
        self.push(self.now + takes, Act::Fault(super::faults::Fault::Timeline(m, top + 1)));
        self.push(self.now + takes, Act::Fault(super::faults::Fault::Promoted(m)));
    }

    fn maybe_switch_over(&mut self, m: usize) {
        let name = self.members[m].name.clone();
        let asked = self.etcd.keys.failover.as_ref().is_some_and(|f| f.leader.as_ref() == Some(&name));
        if asked {
            self.members[m].switching = true;
            let checkpoint = self.rng.between(150 * MS, 250 * MS);
            self.later(m, checkpoint, Pg::Stopped);
            self.push(self.now + checkpoint + 2_200 * MS, Act::HandOver { member: m });
        }
    }

    /// The second half of a switchover: the key goes, and two seconds later a replica starts.
    pub fn hand_over(&mut self, m: usize) {
        self.members[m].switching = false;
        let name = self.members[m].name.clone();
        if self.members[m].agent != Agent::Running || !self.members[m].host_up {
            return;
        }
        self.members[m].leads = false;
        if self.reaches_etcd(m) && self.etcd.leader() == Some(&name) {
            self.commit(|keys| keys.leader = None);
        }
    }

    fn follow(&mut self, m: usize) {
        self.members[m].switching = false;
        self.members[m].leads = false;
        let leader = self.etcd.leader().and_then(|l| self.member_named(l));
        let tip = leader.map_or(1, |l| self.members[l].timeline);
        match self.members[m].pg {
            Pg::Primary => {
                self.set_pg(m, Pg::Stopped);
            }
            Pg::Stopped => {
                self.set_pg(m, Pg::Starting);
                let takes = self.rng.between(2 * SEC, 4 * SEC);
                self.later(m, takes, Pg::Recovery);
            }
            Pg::Recovery if leader.is_some_and(|l| self.members[l].pg == Pg::Primary) => self.members[m].timeline = tip,
            Pg::Recovery | Pg::Starting => {}
        }
    }

    /// No leader key: the running primary takes it back, else the healthiest replica does.
    fn race(&mut self, m: usize) {
        if self.etcd.keys.settings.pause && self.members[m].pg != Pg::Primary {
            return;
        }
        let top = self.members.iter().map(|o| o.timeline).max().unwrap_or(1);
        let member = &self.members[m];
        let held_back = match member.pg {
            Pg::Primary | Pg::Recovery => member.timeline < top,
            Pg::Stopped | Pg::Starting => {
                if member.pg == Pg::Stopped && !member.switching {
                    self.set_pg(m, Pg::Starting);
                    self.later(m, START_TAKES, Pg::Recovery);
                }
                true
            }
        };
        if held_back || self.members[m].switching {
            return;
        }
        let peer_leads = self.members.iter().any(|o| {
            let answers = o.host_up && o.agent == Agent::Running && o.rest == Rest::Answers;
            o.index != m && answers && o.pg == Pg::Primary && o.timeline >= top
        });
        if peer_leads && self.members[m].pg != Pg::Primary {
            return;
        }
        self.take_key(m);
    }

    fn take_key(&mut self, m: usize) {
        let (name, lease) = (self.members[m].name.clone(), self.members[m].lease);
        let left = |f: &pgvane::model::FailoverRequest| f.leader.as_ref() == Some(&name);
        if self.etcd.keys.failover.as_ref().is_some_and(left) {
            return;
        }
        let returns = self.members[m].pg == Pg::Primary && self.members[m].leads;
        self.commit(|keys| {
            keys.put_leader(&name, lease);
            keys.failover = None;
        });
        if returns {
            // One answer of 503 while it takes the key again.
            self.members[m].blip_until = self.now + 152 * MS;
        }
        self.lead(m);
    }

    fn without_etcd(&mut self, m: usize) {
        let (now, failsafe) = (self.now, self.etcd.keys.settings.failsafe_mode);
        let ttl = self.etcd.keys.settings.ttl.as_micros() as Micros;
        let peers_answer = self.members.iter().all(|o| o.host_up && o.agent == Agent::Running);
        let member = &mut self.members[m];
        if member.pg != Pg::Primary || !member.leads {
            return;
        }
        let silence = now - member.dcs_ok_at;
        if failsafe && peers_answer {
            member.failsafe_active = silence > 6 * SEC;
            member.leads_until = now + ttl;
        } else if silence >= DEMOTE_AFTER {
            member.failsafe_active = false;
            member.leads_until = now + STOP_TAKES;
            self.set_pg(m, Pg::Stopped);
            self.later(m, 2 * STOP_TAKES, Pg::Recovery);
        }
    }

    pub fn set_timeline(&mut self, m: usize, timeline: u32) {
        if self.members[m].pg == Pg::Primary {
            self.members[m].timeline = timeline;
            let name = self.members[m].name.clone();
            if let Some(facts) = self.etcd.keys.members.get_mut(&name) {
                facts.timeline = Some(Timeline(timeline));
            }
        }
    }
}
