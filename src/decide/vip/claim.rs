//! From a right to an address on the interface: what stands in the way, probing, and taking it.

use std::time::{Duration, Instant};

use crate::decide::view::FRESH_FOR;
use crate::model::{Reason, VIP_LEASE_DEFAULT, VipClaim};

use super::hold::Hold;
use super::right::Ground;
use super::{Phase, ValidFor, Vip, VipEffect, VipTransition};

/// An address is free when so many probes in a row had no answer, and so long after the first of them.
/// (n-acd's reasoning: a round trip on a link takes less than 3 ms, rarely more than 10.)
const PROBES: u32 = 3;
const SILENCE: Duration = Duration::from_millis(75);
const PROBE_PAUSE: Duration = Duration::from_millis(25);
/// A verdict that comes so long after the last probe says nothing of now: we were stopped, or starved.
const LATE: Duration = Duration::from_millis(100);
/// Over an occupant: so fast at first, because most are about to release, then slower. Not slower than this, or
/// the end of the occupant's lease is noticed late: 50 + 75 ms.
const FAST_FOR: Duration = Duration::from_millis(500);
const SLOW_PAUSE: Duration = Duration::from_millis(50);
/// The kernel removes an address up to a second late (net/ipv4/devinet.c, `check_lifetime`).
const KERNEL_LATE: Duration = Duration::from_secs(1);
/// An occupant is told that the address is another's as soon as no view of its own can still be fresh
/// ([`FRESH_FOR`]): who holds on Patroni's word alone lets go when it hears this. From then on only those who
/// cannot hear have it, and their lease runs out. So soon again at first, because frames get lost, then slower.
const DEMAND_PAUSE: Duration = Duration::from_millis(250);
const DEMANDS_FAST: u32 = 3;
const DEMAND_PAUSE_SLOW: Duration = Duration::from_secs(1);
/// What a mark may say of its holder's lease.
const MARK_LEASE_MAX: Duration = Duration::from_secs(300);

/// Asking whether another host has the address.
#[derive(Debug, Clone)]
pub(super) struct Probing {
    /// Since the last answer.
    sent: u32,
    first_at: Instant,
    last_at: Instant,
    occupied_since: Option<Instant>,
    demands: Option<Demands>,
}

#[derive(Debug, Clone, Copy)]
struct Demands {
    first_at: Instant,
    last_at: Instant,
    sent: u32,
}

#[derive(Debug, Clone)]
pub(super) enum Claim {
    /// Something stands in the way, as the reason says.
    Waiting,
    /// The mark that decides is asked for.
    Taking,
    Probing(Probing),
    /// Put, and no outcome yet.
    Putting,
}

impl Claim {
    /// Another host answers; true: it matters.
    pub(super) fn hear(&mut self, now: Instant) -> bool {
        let Claim::Probing(probing) = self else { return false };
        probing.sent = 0;
        probing.occupied_since.get_or_insert(now);
        true
    }
}

impl Probing {
    fn new(now: Instant) -> Probing {
        Probing { sent: 0, first_at: now, last_at: now, occupied_since: None, demands: None }
    }

    /// None: enough were sent, the silence decides.
    fn next_at(&self) -> Option<Instant> {
        let is_fast = self.occupied_since.is_none_or(|since| self.last_at < since + FAST_FOR);
        match self.sent {
            0 if self.occupied_since.is_none() => Some(self.last_at),
            0 if !is_fast => Some(self.last_at + SLOW_PAUSE),
            sent if sent >= PROBES => None,
            _ => Some(self.last_at + PROBE_PAUSE),
        }
    }

    fn sent(&mut self, now: Instant) {
        if self.sent == 0 {
            self.first_at = now;
        }
        self.last_at = now;
        self.sent += 1;
    }

    fn demand_at(&self) -> Option<Instant> {
        match self.demands {
            None => self.occupied_since.map(|since| since + FRESH_FOR),
            Some(demands) if demands.sent < DEMANDS_FAST => Some(demands.last_at + DEMAND_PAUSE),
            Some(demands) => Some(demands.last_at + DEMAND_PAUSE_SLOW),
        }
    }

    fn demand(&mut self, now: Instant) {
        let demands = self.demands.get_or_insert(Demands { first_at: now, last_at: now, sent: 0 });
        demands.last_at = now;
        demands.sent += 1;
    }

    fn free_at(&self) -> Option<Instant> {
        (self.sent >= PROBES).then_some((self.first_at + SILENCE).max(self.last_at + PROBE_PAUSE))
    }
}

impl Vip {
    /// Whether the address is to be claimed, else why not.
    pub(super) fn wanted(&self, now: Instant) -> Result<(), Reason> {
        match self.facts.claim() {
            VipClaim::Ours if !self.facts.is_fresh(now) => Err(Reason::DcsStale),
            VipClaim::Ours if !self.facts.is_lease_known() => Err(Reason::LeaseUnknown),
            VipClaim::Ours if self.facts.lifetime(self.spec.lease, now).is_none() => Err(Reason::LeaseEnded),
            VipClaim::Ours if self.is_marked_by_another(now) => Err(Reason::MarkElsewhere),
            VipClaim::Ours => Ok(()),
            VipClaim::NotOurs | VipClaim::Unknown => Err(self.facts.reason()),
        }
    }

    fn is_marked_by_another(&self, now: Instant) -> bool {
        // A mark that was written and not told as written yet may be ours.
        let is_undecided = self.marks.is_pending(now);
        self.spec.is_exclusive_by_mark() && self.facts.mark().is_some() && !self.marks.is_ours() && !is_undecided
    }

    pub(super) fn is_putting(&self) -> bool {
        matches!(self.phase, Phase::Claiming(Claim::Putting))
    }

    pub(super) fn advance_starting(&mut self, now: Instant) -> bool {
        if !self.interface.is_told() || self.link.is_none() {
            return false;
        }
        match (self.interface.endless(&self.spec), self.facts.claim()) {
            // Without a lease it would stay for ever if we end now; with another prefix it cannot be given one.
            (Some(true), VipClaim::Unknown) => return self.release(Reason::Starting, now),
            (Some(false), VipClaim::Unknown) if self.interface.may_put(now) => {
                self.put(self.spec.lease, Ground::Policy, false, now);
            }
            _ => {}
        }
        match self.wanted(now) {
            Ok(()) => self.begin_claim(now),
            // An own leftover stays under its kernel lease until somebody knows.
            Err(Reason::DcsStale | Reason::LeaseUnknown) if self.facts.is_ours() => false,
            Err(_) if self.facts.claim() == VipClaim::Unknown => false,
            Err(reason) => self.release(reason, now),
        }
    }

    pub(super) fn advance_released(&mut self, now: Instant) -> bool {
        if self.interface.may_be_there() {
            return self.release(self.reason, now);
        }
        // The segment can be asked before it is known how long the answer will be of use.
        let is_wanted = matches!(self.wanted(now), Ok(()) | Err(Reason::LeaseUnknown));
        self.exiting.is_none() && is_wanted && self.begin_claim(now)
    }

    fn begin_claim(&mut self, now: Instant) -> bool {
        let reason = self.facts.reason();
        if !self.interface.is_present() {
            self.log(VipTransition::Wanted { up: true, reason });
        }
        self.told.forget_occupants();
        self.enter(Phase::Claiming(Claim::Waiting), reason, now);
        true
    }

    pub(super) fn advance_claiming(&mut self, now: Instant) -> bool {
        if let Err(reason) = self.wanted(now)
            && reason != Reason::LeaseUnknown
        {
            return self.release(reason, now);
        }
        if self.interface.has_misplaced(&self.spec) && !self.is_putting() {
            return self.release(self.facts.reason(), now);
        }
        if self.is_putting() {
            return self.watch_put(now);
        }
        if let Some(obstacle) = self.obstacle(now) {
            self.reason = obstacle;
            self.phase = Phase::Claiming(Claim::Waiting);
            return false;
        }
        if self.spec.is_exclusive_by_mark() && !self.marks.is_ours() {
            self.take_mark(now);
            return false;
        }
        if self.interface.adoptable(&self.spec).is_some() {
            self.log(VipTransition::Adopted);
            return self.take(now);
        }
        if self.is_handed_over(now) {
            return self.take(now);
        }
        self.probe(now)
    }

    /// Nobody has it, without asking. A word that was waiting for us while we were stopped may be overtaken by now:
    /// so a read must have been sent a moment ago, in less time than asking takes.
    fn is_handed_over(&self, now: Instant) -> bool {
        // Whoever lost a mark that decides may be alive and on its way out.
        let can_be = self.marks.is_handed_over() && !self.spec.is_exclusive_by_mark();
        can_be && self.facts.is_confirmed_within(SILENCE, now)
    }

    /// What keeps us from claiming at all.
    fn obstacle(&mut self, now: Instant) -> Option<Reason> {
        let foreign = self.interface.foreign(&self.spec).map(|entry| (entry.interface.clone(), entry.prefix));
        if self.told.is_new_foreign(foreign.clone())
            && let Some((interface, prefix)) = foreign.clone()
        {
            self.log(VipTransition::Foreign { interface, prefix });
        }
        if foreign.is_some() {
            return Some(Reason::ForeignAddress);
        }
        // What is there already is taken over, whatever its link does.
        if self.interface.adoptable(&self.spec).is_none()
            && let Some(problem) = self.link_problem()
        {
            return Some(problem);
        }
        let is_blocked = !self.interface.may_put(now) || self.marks.deleting_until().is_some_and(|until| now < until);
        is_blocked.then(|| self.facts.reason())
    }

    fn take_mark(&mut self, now: Instant) {
        self.phase = Phase::Claiming(Claim::Taking);
        self.reason = self.facts.reason();
        let is_early = self.marks.take_again_at().is_some_and(|at| now < at);
        if !is_early && !self.marks.is_pending(now) {
            self.write_mark(true, now);
        }
    }

    fn probe(&mut self, now: Instant) -> bool {
        let mut probing = match &self.phase {
            Phase::Claiming(Claim::Probing(probing)) => probing.clone(),
            _ => Probing::new(now),
        };
        if now > probing.last_at + LATE {
            probing.sent = 0;
        }
        let is_current = now <= probing.last_at + LATE;
        if is_current && self.taken_at(&probing).is_some_and(|at| now >= at) {
            return self.take(now);
        }
        if probing.free_at().is_some_and(|at| now >= at) {
            return self.take(now);
        }
        if self.demand_at(&probing).is_some_and(|at| now >= at) {
            probing.demand(now);
            self.announcer.sent(now);
            self.effects.push_back(VipEffect::Announce);
        }
        if probing.next_at().is_some_and(|at| now >= at) {
            probing.sent(now);
            self.effects.push_back(VipEffect::Probe);
        }
        self.reason = if probing.occupied_since.is_some() { Reason::Occupied } else { Reason::Probing };
        self.phase = Phase::Claiming(Claim::Probing(probing));
        false
    }

    /// Two hosts of one name are both right by what the DCS says, so the one that has it keeps it.
    fn demand_at(&self, probing: &Probing) -> Option<Instant> {
        probing.demand_at().filter(|_| !self.marks.has_namesake())
    }

    /// When the lease of an occupant that was told, and could not hear it, must be over.
    fn taken_at(&self, probing: &Probing) -> Option<Instant> {
        let told_at = probing.demands.filter(|_| !self.marks.has_namesake())?.first_at;
        let marked = self.facts.mark().and_then(|mark| mark.lease);
        let lease = marked.unwrap_or(VIP_LEASE_DEFAULT).min(MARK_LEASE_MAX).max(self.spec.lease);
        Some(told_at + lease + KERNEL_LATE)
    }

    fn take(&mut self, now: Instant) -> bool {
        let Some(lifetime) = self.facts.lifetime(self.spec.lease, now) else { return false };
        let Some((ground, _)) = self.facts.renewal(&self.spec, now) else { return false };
        if !self.marks.is_ours() {
            self.write_mark(false, now);
        }
        self.put(lifetime, ground, true, now);
        self.effects.push_back(VipEffect::OpenListeners);
        self.announcer.start(now);
        self.phase = Phase::Claiming(Claim::Putting);
        self.reason = self.facts.reason();
        true
    }

    pub(super) fn put(&mut self, valid: Duration, ground: Ground, is_claim: bool, now: Instant) {
        let number = self.number();
        self.interface.put(number, valid, ground, is_claim, now);
        self.effects.push_back(VipEffect::Put { number, valid: ValidFor(valid) });
    }

    /// The Put has its outcome: held, or what was in the way is asked for again.
    fn watch_put(&mut self, now: Instant) -> bool {
        if self.interface.is_putting() {
            return false;
        }
        if !self.interface.is_present() || self.interface.deadline().is_none_or(|end| now >= end) {
            self.announcer.stop();
            self.phase = Phase::Claiming(Claim::Waiting);
            return true;
        }
        self.counts.claims += 1;
        self.enter(Phase::Held(Hold::new()), self.facts.reason(), now);
        true
    }

    pub(super) fn claim_timers(&self, timers: &mut Vec<(Instant, &'static str)>) {
        let Phase::Claiming(claim) = &self.phase else {
            if matches!(self.phase, Phase::Starting) {
                timers.extend(self.interface.again_at().map(|at| (at, "put again")));
            }
            return;
        };
        timers.extend(self.facts.fresh_until().map(|at| (at, "stale")));
        match claim {
            Claim::Waiting => {
                timers.extend(self.interface.again_at().map(|at| (at, "put again")));
                timers.extend(self.marks.deleting_until().map(|at| (at, "mark undeleted")));
            }
            Claim::Taking => {
                timers.extend(self.marks.take_again_at().map(|at| (at, "take the mark")));
                timers.extend(self.marks.pending_until().map(|at| (at, "mark unanswered")));
            }
            Claim::Probing(probing) => {
                timers.extend(probing.next_at().map(|at| (at, "probe")));
                timers.extend(probing.free_at().map(|at| (at, "silence")));
                timers.extend(self.demand_at(probing).map(|at| (at, "tell the occupant")));
                timers.extend(self.taken_at(probing).map(|at| (at, "occupant's lease")));
            }
            Claim::Putting => timers.extend(self.announcer.next().map(|at| (at, "announce"))),
        }
    }
}
