//! What is held: renewed, repaired, defended, or let go in time.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::model::{Mac, Reason, VIP_LEASE_MARGIN, VipOnDcsLoss};

use super::right::{Ground, LET_GO_BEFORE, renewal_pause};
use super::{Phase, Vip, VipTransition};

/// So many repairs in [`REPAIRS_IN`] are done at once; against a program that always deletes it, the next waits.
const REPAIRS_AT_ONCE: usize = 5;
const REPAIRS_IN: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
pub(super) struct Hold {
    /// Held without a fresh view: whether something bounds it all the same.
    unconfirmed: Option<bool>,
    repairs: VecDeque<Instant>,
}

impl Hold {
    pub(super) fn new() -> Hold {
        Hold { unconfirmed: None, repairs: VecDeque::new() }
    }

    pub(super) fn is_unfenced(&self) -> bool {
        self.unconfirmed == Some(false)
    }

    fn may_repair_at(&self) -> Option<Instant> {
        self.repairs.front().filter(|_| self.repairs.len() >= REPAIRS_AT_ONCE).map(|at| *at + REPAIRS_IN)
    }

    fn repaired(&mut self, now: Instant) {
        self.repairs.push_back(now);
        while self.repairs.len() > REPAIRS_AT_ONCE {
            self.repairs.pop_front();
        }
    }
}

impl Vip {
    pub(super) fn advance_held(&mut self, now: Instant) -> bool {
        if let Some(reason) = self.lost_right(now) {
            return self.release(reason, now);
        }
        self.tell_confirmation(now);
        if self.interface.is_putting() {
            return false;
        }
        self.repair(now);
        self.renew(now);
        if self.interface.is_putting() {
            return false;
        }
        let is_gone = !self.interface.is_present() && self.facts.renewal(&self.spec, now).is_none();
        // Made permanent, and nothing to put over it: nobody would end it but us.
        let is_endless = self.interface.is_altered() && self.facts.renewal(&self.spec, now).is_none();
        if is_gone || is_endless || self.is_beyond_leader(now) || self.let_go_at().is_some_and(|at| now >= at) {
            return self.release(self.why_unrenewed(now), now);
        }
        false
    }

    /// Why it may not be held for one more moment.
    fn lost_right(&mut self, now: Instant) -> Option<Reason> {
        if !self.facts.is_ours() {
            return Some(self.facts.reason());
        }
        if self.marks.is_overwritten_by_namesake(&self.me) {
            self.marks.note_namesake();
            return Some(Reason::MarkElsewhere);
        }
        if self.spec.is_exclusive_by_mark() && !self.marks.is_ours() {
            let is_gone = self.facts.mark().is_none();
            return Some(if is_gone { Reason::MarkLost } else { Reason::MarkElsewhere });
        }
        // The kernel has taken it away, or is about to: whoever slept through this may not put it again.
        if self.interface.deadline().is_none_or(|end| now >= end) {
            return Some(self.why_unrenewed(now));
        }
        if self.interface.is_failed() {
            return Some(Reason::Occupied);
        }
        if self.interface.deadline().is_some() && self.link == Some(None) && !self.interface.is_present() {
            return Some(Reason::LinkMissing);
        }
        self.facts.released_at(&self.spec).is_some_and(|at| now >= at).then_some(Reason::DcsLost)
    }

    fn why_unrenewed(&self, now: Instant) -> Reason {
        match self.facts.is_fresh(now) {
            true if self.told.problem().is_some() => Reason::NoRight,
            true => Reason::LeaseEnded,
            false => Reason::DcsLost,
        }
    }

    fn let_go_at(&self) -> Option<Instant> {
        self.interface.deadline().map(|end| end.checked_sub(LET_GO_BEFORE).unwrap_or(end))
    }

    /// Says once that the view was lost or is back.
    fn tell_confirmation(&mut self, now: Instant) {
        let is_fresh = self.facts.is_fresh(now);
        let ground = self.facts.renewal(&self.spec, now).map(|(ground, _)| ground);
        let standing = match ground {
            _ if is_fresh => None,
            Some(Ground::Policy) => Some((false, Reason::Unfenced)),
            Some(Ground::Patroni(_)) => Some((true, Reason::VouchedByPatroni)),
            // Under what is left of its lease.
            _ => Some((true, Reason::DcsStale)),
        };
        let Phase::Held(hold) = &mut self.phase else { return };
        let was = hold.unconfirmed;
        // Between two words of Patroni it is not told each time that there is none just now.
        if let Some((fenced, reason)) = standing {
            let is_worse = reason == Reason::DcsStale && was.is_some();
            hold.unconfirmed = Some(fenced);
            self.reason = if is_worse { self.reason } else { reason };
            if was != Some(fenced) {
                self.log(VipTransition::Unconfirmed { fenced });
            }
            return;
        }
        hold.unconfirmed = None;
        self.reason = self.facts.reason();
        if was.is_some() {
            self.log(VipTransition::Confirmed);
        }
    }

    /// Puts back what somebody deleted or changed.
    fn repair(&mut self, now: Instant) {
        let deleted = !self.interface.is_present();
        let Phase::Held(hold) = &mut self.phase else { return };
        let is_early = hold.may_repair_at().is_some_and(|at| now < at);
        if is_early || !(deleted || self.interface.is_altered()) || !self.interface.may_put(now) {
            return;
        }
        let Some((ground, lifetime)) = self.facts.renewal(&self.spec, now) else { return };
        hold.repaired(now);
        self.counts.repairs += 1;
        self.log(VipTransition::Repaired { deleted });
        self.put(lifetime, ground, false, now);
        if deleted {
            self.announcer.start(now);
        }
    }

    fn renew(&mut self, now: Instant) {
        let is_due = self.renewed_at(now).is_some_and(|at| now >= at) || self.is_beyond_fence(now);
        if !is_due || !self.interface.is_present() || !self.interface.may_put(now) {
            return;
        }
        if let Some((ground, lifetime)) = self.facts.renewal(&self.spec, now) {
            let is_newer = match (ground, self.interface.ground()) {
                (Ground::Read(at) | Ground::Patroni(at), Some(Ground::Read(last) | Ground::Patroni(last))) => at > last,
                _ => true,
            };
            if is_newer || self.is_beyond_fence(now) {
                self.put(lifetime, ground, false, now);
            }
        }
    }

    /// When the next renewal may come, as seen at `now`.
    fn renewed_at(&self, now: Instant) -> Option<Instant> {
        // By mere policy no reads set the pace.
        let is_by_policy = self.spec.on_dcs_loss == VipOnDcsLoss::Hold && !self.facts.is_fresh(now);
        let pause = if is_by_policy { self.spec.lease / 3 } else { renewal_pause(&self.spec) };
        self.interface.put_at().map(|at| at + pause)
    }

    /// The leader's lease or ours has become shorter than when the address was put.
    fn is_beyond_fence(&self, now: Instant) -> bool {
        self.is_beyond_leader(now) || self.interface.deadline().is_some_and(|end| end > now + self.spec.lease)
    }

    fn is_beyond_leader(&self, now: Instant) -> bool {
        let is_known = self.facts.is_fresh(now) && self.facts.is_lease_known();
        let leader = self.facts.lease_end().filter(|_| is_known);
        leader.zip(self.interface.deadline()).is_some_and(|(leader, end)| end + VIP_LEASE_MARGIN > leader)
    }

    pub(super) fn on_conflict(&mut self, mac: Mac, now: Instant) {
        self.counts.conflicts += 1;
        self.conflict_mac = Some(mac);
        let released = !self.facts.is_fresh(now);
        if released || self.told.is_new_conflict(now) {
            self.log(VipTransition::Conflict { mac, released });
        }
        if released {
            self.release(Reason::Conflict, now);
        } else {
            self.announcer.defend(now);
        }
    }

    pub(super) fn hold_timers(&self, timers: &mut Vec<(Instant, &'static str)>) {
        let Phase::Held(hold) = &self.phase else { return };
        timers.extend(self.facts.fresh_until().map(|at| (at, "stale")));
        timers.extend(self.facts.released_at(&self.spec).map(|at| (at, "grace")));
        timers.extend(self.let_go_at().map(|at| (at, "let go")));
        timers.extend(self.interface.deadline().map(|at| (at, "lease")));
        timers.extend(self.renewed_at(self.settled_at).map(|at| (at, "renew")));
        timers.extend(self.interface.again_at().map(|at| (at, "put again")));
        timers.extend(hold.may_repair_at().map(|at| (at, "repair")));
        if self.link_problem().is_none() {
            timers.extend(self.announcer.next().map(|at| (at, "announce")));
        }
    }
}
