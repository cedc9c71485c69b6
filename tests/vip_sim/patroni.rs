//! Patroni, as far as it moves the leader key: leases, refreshes, and who acquires it next.

use super::world::{Act, World};
use super::{MS, Micros, SEC};

const TTL: Micros = 14 * SEC;
const LOOP: Micros = 3 * SEC;
/// A Patroni that cannot refresh its key stops being primary so long before the key is gone.
const DEMOTES_BEFORE: Micros = SEC;

impl World {
    /// The DCS's clock of leases.
    pub fn leases(&mut self) {
        self.push(self.now + 100 * MS, Act::Leases);
        if !self.dcs.answers {
            // etcd gives every lease its whole time again when it comes back.
            self.dcs.lease_end = self.dcs.lease_end.map(|end| end + 100 * MS);
            if let Some(mark) = &mut self.dcs.mark {
                mark.ends = mark.ends.map(|end| end + 100 * MS);
            }
            return;
        }
        self.keep_marks();
        let now = self.now;
        if self.dcs.mark.as_ref().and_then(|mark| mark.ends).is_some_and(|end| now >= end) {
            self.commit(|dcs| dcs.mark = None);
        }
        if self.dcs.leader.is_some() && self.dcs.lease_end.is_some_and(|end| now >= end) {
            self.vacate();
        }
    }

    /// A process keeps the lease of its mark alive as long as it runs.
    fn keep_marks(&mut self) {
        let Some((host, life)) = self.dcs.mark.as_ref().and_then(|mark| mark.bound) else { return };
        let h = &self.hosts[host];
        let ttl = 2 * h.spec.lease.as_micros() as Micros + 2 * SEC;
        if h.is_running() && h.life == life && self.reaches_dcs(host) {
            let end = self.now + ttl;
            self.dcs.mark.iter_mut().for_each(|mark| mark.ends = Some(end));
        }
    }

    /// The leader key goes; others see it and are quick.
    pub fn vacate(&mut self) {
        if let Some(leader) = self.dcs.leader {
            self.hosts[leader].believes_until = self.now;
        }
        self.commit(|dcs| {
            dcs.leader = None;
            dcs.lease_end = None;
        });
        if self.alive {
            for host in 0..self.hosts.len() {
                let (delay, revision) = (self.rng.between(10 * MS, 500 * MS), self.dcs.revision);
                self.push(self.now + delay, Act::Acquire { host, revision });
            }
        }
    }

    pub fn cycle(&mut self, host: usize) {
        self.push(self.now + LOOP, Act::Cycle { host });
        if !self.alive || !self.hosts[host].patroni_runs || !self.reaches_dcs(host) {
            return;
        }
        if self.dcs.leader == Some(host) {
            self.dcs.lease_end = Some(self.now + TTL);
            self.hosts[host].believes_until = self.now + TTL - DEMOTES_BEFORE;
        } else {
            self.hosts[host].believes_until = self.now;
            if self.dcs.leader.is_none() {
                let delay = self.rng.between(10 * MS, 500 * MS);
                self.push(self.now + delay, Act::Acquire { host, revision: -1 });
            }
        }
    }

    pub fn acquire(&mut self, host: usize, revision: i64) {
        let is_late = revision >= 0 && revision != self.dcs.revision && self.dcs.leader.is_some();
        let can = self.hosts[host].patroni_runs && self.reaches_dcs(host) && self.dcs.leader.is_none();
        if self.alive && can && !is_late {
            self.lead(host);
        }
    }

    pub fn lead(&mut self, host: usize) {
        let alive = self.alive;
        let end = self.now + TTL;
        if let Some(before) = self.dcs.leader.filter(|before| *before != host) {
            // Deposed by somebody's hand: it notices when it reads the key.
            let knows = self.reaches_dcs(before);
            self.hosts[before].believes_until = if knows { self.now } else { self.hosts[before].believes_until };
        }
        self.hosts[host].believes_until = end - DEMOTES_BEFORE;
        self.commit(|dcs| {
            dcs.leader = Some(host);
            dcs.lease_end = alive.then_some(end);
        });
    }
}
