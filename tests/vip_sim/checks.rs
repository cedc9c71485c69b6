//! What must never be seen, and what must be seen once all is well.

use pgvane::decide::vip::{Vip, VipState};
use pgvane::model::VipOnDcsLoss;

use super::world::World;
use super::{Micros, SEC};

/// From the last confirmation to the end of an address: it may be 2 s old when the address is renewed, and the
/// kernel is up to 1 s late.
const BEYOND_LEASE: Micros = 3 * SEC;

impl World {
    /// After every act.
    pub fn check(&mut self) {
        let holds = |w: &World, h: usize| w.hosts[h].has_address() && w.hosts[h].address.is_some();
        for a in 0..self.hosts.len() {
            for b in a + 1..self.hosts.len() {
                let are_apart = !self.connects(a, b);
                if are_apart {
                    self.apart.insert((a, b), self.now);
                }
                if holds(self, a) && holds(self, b) && !self.may_both_hold(a, b) {
                    let (left, right) = (self.hosts[a].name.clone(), self.hosts[b].name.clone());
                    self.failures.push(format!("two holders: {left} and {right}"));
                }
            }
        }
    }

    /// Neither could hear the other, and the older is under its lease still; or the policy asks for it.
    fn may_both_hold(&self, a: usize, b: usize) -> bool {
        let policy = |h: usize| self.hosts[h].spec.on_dcs_loss == VipOnDcsLoss::Hold;
        let lease = self.hosts[a].spec.lease.as_micros() as Micros;
        let older = self.hosts[a].confirmed.min(self.hosts[b].confirmed);
        let were_apart = self.apart.get(&(a, b)).is_some_and(|at| self.now <= at + lease + BEYOND_LEASE);
        self.two_allowed || policy(a) || policy(b) || were_apart && self.now <= older + lease + BEYOND_LEASE
    }

    /// Some time after everything was mended.
    pub fn check_quiet(&mut self) {
        let held: Vec<usize> = (0..self.hosts.len()).filter(|h| self.hosts[*h].address.is_some()).collect();
        let by_mark = self.hosts[0].spec.is_exclusive_by_mark();
        let due: Vec<usize> = match self.dcs.leader {
            _ if by_mark => (0..self.hosts.len()).filter(|h| self.dcs.fit[*h]).collect(),
            leader => leader.into_iter().collect(),
        };
        let is_well = if due.is_empty() { held.is_empty() } else { held.len() == 1 && due.contains(&held[0]) };
        if !is_well {
            self.failures.push(format!("quiet, and {held:?} have the address instead of one of {due:?}"));
        }
        for h in held {
            let snapshot = self.hosts[h].vip.as_ref().map(Vip::snapshot);
            let is_sound = snapshot.is_some_and(|s| s.state == VipState::Held && !s.is_unfenced);
            if !is_sound {
                self.failures.push(format!("{} has the address, and does not say so", self.hosts[h].name));
            }
        }
    }
}
