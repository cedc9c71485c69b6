//! One virtual address: when to claim, announce, renew and release it. Pure; `vip/` carries it out.
//!
//! Contract: call [`Vip::handle`] for an event or [`Vip::handle_timeout`] when the instant of
//! [`Vip::poll_timeout`] has come (a spurious call is safe), then carry out every effect of
//! [`Vip::poll_effect`] in order before the next event. A failed effect comes back as an event; behind a Put that
//! failed, the listeners and announcements of the same batch are not carried out.
//!
//! The rules:
//!
//! * **Whoever may not be believed to lead holds nothing.** An address is put on the interface only with
//!   a lifetime that ends before the right to it does ([`Vip::handle`] of a right computes it), so that
//!   the kernel takes it away from a holder that crashed, hangs or is cut off.
//! * **Nobody claims what another still has**: at once only behind the deletion of the previous holder's
//!   mark, else after probing. An occupant is told that the address is another's when no view of its own can
//!   be fresh any more, which makes it let go if it hears; over one that does not, only when its lease must be over.
//! * **Sessions end before the address goes**: no RST can be sent from an address that is gone.

mod announce;
mod claim;
mod hold;
mod interface;
mod leave;
mod marks;
#[cfg(test)]
#[path = "vip/properties/tests.rs"]
mod properties;
mod right;
#[cfg(test)]
mod tests;
mod told;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::model::{Mac, MemberName, Reason, VipEntry, VipLink, VipRight, VipSpec};

use announce::Announcer;
use claim::Claim;
use hold::Hold;
use interface::OnInterface;
use leave::Leave;
use marks::Marks;
use right::Facts;
use told::Told;

/// One event is settled in fewer rounds than this: starting, claiming, put; or releasing, released, claiming.
const ROUNDS_MAX: usize = 8;

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum VipEvent {
    /// The configuration was read again. Address, interface and role are the same.
    Spec(Arc<VipSpec>),
    Right(VipRight),
    /// Everything the kernel has under this address, on any interface; told at the start and at each change.
    Entries(Vec<VipEntry>),
    /// The interface as it is; None: there is none of this name. `notify` is the kernel's own wish that
    /// neighbours be told (NETDEV_NOTIFY_PEERS, such as a bond's failover). Told at the start and at each change.
    Link {
        link: Option<VipLink>,
        notify: bool,
    },
    /// A frame of another host that says that it has the address.
    Heard {
        mac: Mac,
    },
    /// Outcome of [`VipEffect::Put`] or [`VipEffect::Remove`] with this number.
    Done {
        number: u64,
        problem: Option<String>,
    },
    /// All sessions on the address have ended, or had their time ([`VipEffect::CloseSessions`]).
    SessionsClosed {
        number: u64,
    },
    /// Outcome of [`VipEffect::WriteMark`]: the revision of what was written.
    MarkWritten {
        number: u64,
        outcome: Result<i64, String>,
    },
    /// The machine was suspended for so long: no clock of ours ran, nor the kernel's that removes addresses.
    Slept(Duration),
    /// The process is to end.
    Exit,
}

/// How long an address is to live without being renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ValidFor(pub Duration);

/// What to do, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum VipEffect {
    /// Add the address, or renew it: netlink's replace. Whole seconds, at least one.
    Put {
        number: u64,
        valid: ValidFor,
    },
    /// Delete every entry of ours with this address. One that is gone already is well deleted.
    Remove {
        number: u64,
    },
    /// Clients come in by the address (again).
    OpenListeners,
    /// No new client is let in by the address, those that wait are told, the sessions on it end. Answered by
    /// [`VipEvent::SessionsClosed`] in bounded time.
    CloseSessions {
        number: u64,
        reason: Reason,
    },
    /// Reset other programs' connections on the address.
    DestroySockets,
    /// One ARP probe or neighbour solicitation.
    Probe,
    /// ARP request and reply, or one neighbour advertisement: of what we hold, or to one that holds what is ours.
    Announce,
    /// Write the hand-over key. `take`: only where there is none, and bound to a lease of the DCS that is kept
    /// alive as long as this process lives; a failure to keep it alive ends it.
    WriteMark {
        number: u64,
        take: bool,
    },
    /// Delete the hand-over key if it still is what was written at this revision.
    DeleteMark {
        mod_revision: i64,
    },
    Log(VipTransition),
}

/// How an address stands. The same words in status, metrics and log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VipState {
    /// Nothing is known yet; what an earlier process left is left.
    Starting,
    /// Not ours.
    Released,
    /// Ours, and not put on the interface yet: no carrier, or probing, or another host answers for it.
    Claiming,
    Held,
    /// Sessions on it are ending; then it goes.
    Releasing,
}

impl VipState {
    pub const ALL: [VipState; 5] =
        [VipState::Starting, VipState::Released, VipState::Claiming, VipState::Held, VipState::Releasing];

    pub fn as_str(self) -> &'static str {
        match self {
            VipState::Starting => "starting",
            VipState::Released => "released",
            VipState::Claiming => "claiming",
            VipState::Held => "held",
            VipState::Releasing => "releasing",
        }
    }
}

/// A change worth a log line.
#[derive(Debug, Clone, PartialEq)]
pub enum VipTransition {
    /// The first one of a claim or release: `IP address A is down, must be up`, and the other way round.
    Wanted {
        up: bool,
        reason: Reason,
    },
    State {
        from: VipState,
        to: VipState,
        reason: Reason,
    },
    /// Another host answers for the address that is ours to claim.
    Occupied {
        mac: Mac,
    },
    /// Another host answers for the address that we hold.
    Conflict {
        mac: Mac,
        released: bool,
    },
    /// It was found on the interface and is taken over as it is.
    Adopted,
    /// Somebody deleted it, or changed its lifetime; it is back.
    Repaired {
        deleted: bool,
    },
    /// It is on the interface, and not ours to touch.
    Foreign {
        interface: Arc<str>,
        prefix: u8,
    },
    /// Held without a view of the DCS: on Patroni's word, or on nobody's (`hold`).
    Unconfirmed {
        fenced: bool,
    },
    Confirmed,
    /// Something could not be done. The same problem again and again is told rarely.
    Problem {
        what: &'static str,
        problem: String,
    },
    /// The machine slept.
    Slept {
        for_: Duration,
    },
}

/// What the machine knows, for status, metrics and page.
#[derive(Debug, Clone, PartialEq)]
pub struct VipSnapshot {
    pub spec: Arc<VipSpec>,
    pub state: VipState,
    pub reason: Reason,
    pub since: Instant,
    /// Who holds it by the mark in the DCS.
    pub holder: Option<Arc<str>>,
    /// When the kernel takes it away unless it is renewed. None: not on the interface.
    pub lease_end: Option<Instant>,
    /// Held without any bound on what happens elsewhere (`on_dcs_loss: hold` and no view).
    pub is_unfenced: bool,
    pub announced_at: Option<Instant>,
    pub announcements: u64,
    /// Claims that led to the address being held.
    pub claims: u64,
    pub releases: u64,
    pub repairs: u64,
    pub conflicts: u64,
    pub conflict_mac: Option<Mac>,
    pub mac: Option<Mac>,
    pub problem: Option<String>,
}

#[derive(Debug, Clone)]
enum Phase {
    Starting,
    Released,
    Claiming(Claim),
    Held(Hold),
    Releasing(Leave),
    /// The process ends and leaves the address to the next one.
    Kept {
        until: Instant,
    },
}

#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    claims: u64,
    releases: u64,
    repairs: u64,
    conflicts: u64,
}

/// After [`VipEvent::Exit`].
#[derive(Debug, Clone, Copy)]
struct Exiting {
    /// Nothing is waited for beyond this.
    until: Instant,
    is_done: bool,
}

/// Decides about one address.
#[derive(Debug, Clone)]
pub struct Vip {
    spec: Arc<VipSpec>,
    /// Us, as marks name holders.
    me: MemberName,
    phase: Phase,
    since: Instant,
    reason: Reason,
    facts: Facts,
    marks: Marks,
    interface: OnInterface,
    /// None: not told yet.
    link: Option<Option<VipLink>>,
    announcer: Announcer,
    told: Told,
    counts: Counts,
    conflict_mac: Option<Mac>,
    exiting: Option<Exiting>,
    last_number: u64,
    settled_at: Instant,
    effects: VecDeque<VipEffect>,
}

impl Vip {
    /// `me` is what marks call this holder: the member's name.
    pub fn new(spec: Arc<VipSpec>, me: MemberName, now: Instant) -> Vip {
        Vip {
            announcer: Announcer::new(&spec),
            spec,
            me,
            phase: Phase::Starting,
            since: now,
            reason: Reason::Starting,
            facts: Facts::default(),
            marks: Marks::default(),
            interface: OnInterface::default(),
            link: None,
            told: Told::default(),
            counts: Counts::default(),
            conflict_mac: None,
            exiting: None,
            last_number: 0,
            settled_at: now,
            effects: VecDeque::new(),
        }
    }

    pub fn handle(&mut self, event: VipEvent, now: Instant) {
        match event {
            VipEvent::Spec(spec) => self.on_spec(spec),
            VipEvent::Right(right) => self.on_right(right, now),
            VipEvent::Entries(entries) => self.interface.show(entries, &self.spec, now),
            VipEvent::Link { link, notify } => self.on_link(link, notify, now),
            VipEvent::Heard { mac } => self.on_heard(mac, now),
            VipEvent::Done { number, problem } => self.on_done(number, problem, now),
            VipEvent::SessionsClosed { number } => self.on_sessions_closed(number, now),
            VipEvent::MarkWritten { number, outcome } => self.on_mark_written(number, outcome, now),
            VipEvent::Slept(span) => self.on_slept(span, now),
            VipEvent::Exit => self.on_exit(now),
        }
        self.settle(now);
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        self.settle(now);
    }

    #[must_use]
    pub fn poll_effect(&mut self) -> Option<VipEffect> {
        self.effects.pop_front()
    }

    /// When to call [`Vip::handle_timeout`] next, and why.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let mut timers = Vec::new();
        self.claim_timers(&mut timers);
        self.hold_timers(&mut timers);
        self.leave_timers(&mut timers);
        timers.extend(self.interface.timers());
        // What was due when we looked the last time was dealt with then.
        timers.into_iter().filter(|(at, _)| *at > self.settled_at).min_by_key(|(at, _)| *at)
    }

    pub fn spec(&self) -> &Arc<VipSpec> {
        &self.spec
    }

    /// After [`VipEvent::Exit`]: nothing is left to be done.
    pub fn is_done(&self) -> bool {
        self.exiting.is_some_and(|exiting| exiting.is_done)
    }

    pub fn snapshot(&self) -> VipSnapshot {
        let is_on = self.interface.is_present();
        VipSnapshot {
            spec: self.spec.clone(),
            state: self.state(),
            reason: self.reason,
            since: self.since,
            holder: self.marks.seen().map(|mark| mark.holder.clone()),
            lease_end: self.interface.deadline().filter(|_| is_on),
            is_unfenced: matches!(&self.phase, Phase::Held(hold) if hold.is_unfenced()),
            announced_at: self.announcer.last(),
            announcements: self.announcer.count(),
            claims: self.counts.claims,
            releases: self.counts.releases,
            repairs: self.counts.repairs,
            conflicts: self.counts.conflicts,
            conflict_mac: self.conflict_mac,
            mac: self.link.flatten().map(|link| link.mac),
            problem: self.told.problem().map(str::to_owned),
        }
    }

    // -- events that are not one phase's alone ----------------------------------------------------

    fn on_spec(&mut self, spec: Arc<VipSpec>) {
        self.announcer.adjust(&spec);
        self.spec = spec;
    }

    fn on_right(&mut self, right: VipRight, now: Instant) {
        let without_gap = self.facts.is_fresh(now);
        self.marks.see(&right, &self.me, without_gap);
        self.facts.learn(right);
        if matches!(self.phase, Phase::Starting | Phase::Released)
            && let Err(reason) = self.wanted(now)
        {
            self.reason = reason;
        }
    }

    fn on_link(&mut self, link: Option<VipLink>, notify: bool, now: Instant) {
        let is_running = |link: Option<VipLink>| link.is_some_and(|link| link.is_running);
        let before = self.link.flatten();
        self.link = Some(link);
        let moved = before.zip(link).is_some_and(|(before, link)| before.mac != link.mac);
        let returned = is_running(link) && !is_running(before);
        if returned {
            // What could not be put while it was down may be tried at once.
            self.interface.allow_now();
        }
        if is_running(link) && (returned || moved || notify) {
            self.announcer.start(now);
        }
    }

    fn on_heard(&mut self, mac: Mac, now: Instant) {
        if let Phase::Held(_) = self.phase {
            return self.on_conflict(mac, now);
        }
        let Phase::Claiming(claim) = &mut self.phase else { return };
        if claim.hear(now) {
            self.conflict_mac = Some(mac);
            self.marks.note_occupant(&self.me);
            if self.told.is_new_occupant(mac) {
                self.log(VipTransition::Occupied { mac });
            }
        }
    }

    fn on_done(&mut self, number: u64, problem: Option<String>, now: Instant) {
        if let Phase::Releasing(leave) = &mut self.phase
            && leave.is_removing(number)
        {
            return self.on_removed(problem, now);
        }
        let Some(is_claim) = self.interface.finish_put(number, problem.is_none(), now) else { return };
        match problem {
            None => self.told.forget_problem(),
            Some(problem) => {
                if is_claim {
                    self.announcer.take_back();
                }
                self.complain("put the address", problem, now);
            }
        }
    }

    // -- common to the phases ---------------------------------------------------------------------

    fn state(&self) -> VipState {
        match self.phase {
            Phase::Starting => VipState::Starting,
            Phase::Released => VipState::Released,
            Phase::Claiming(_) => VipState::Claiming,
            Phase::Held(_) | Phase::Kept { .. } => VipState::Held,
            Phase::Releasing(_) => VipState::Releasing,
        }
    }

    fn settle(&mut self, now: Instant) {
        if self.interface.give_up_put(now) {
            self.complain("put the address", "the kernel did not answer".to_owned(), now);
        }
        let mut rounds = 0;
        while self.advance(now) && rounds < ROUNDS_MAX {
            rounds += 1;
        }
        debug_assert!(rounds < ROUNDS_MAX, "{:?} does not settle", self.phase);
        self.announce(now);
        self.finish_exit(now);
        self.settled_at = now;
        debug_assert_eq!(self.contradiction(now), None, "{self:?}");
    }

    /// One step of the phase; true: it is another one now, to be looked at again.
    fn advance(&mut self, now: Instant) -> bool {
        match self.phase {
            Phase::Starting => self.advance_starting(now),
            Phase::Released => self.advance_released(now),
            Phase::Claiming(_) => self.advance_claiming(now),
            Phase::Held(_) => self.advance_held(now),
            Phase::Releasing(_) => self.advance_releasing(now),
            Phase::Kept { .. } => self.advance_kept(now),
        }
    }

    fn enter(&mut self, phase: Phase, reason: Reason, now: Instant) {
        let from = self.state();
        self.phase = phase;
        self.reason = reason;
        let to = self.state();
        if from != to {
            self.since = now;
            self.log(VipTransition::State { from, to, reason });
        }
    }

    fn announce(&mut self, now: Instant) {
        let is_there = self.interface.is_present() || self.interface.is_putting();
        let is_out = is_there && matches!(&self.phase, Phase::Held(_)) || self.is_putting();
        if is_out && self.link_problem().is_none() && self.announcer.is_due(now) {
            self.announcer.sent(now);
            self.effects.push_back(VipEffect::Announce);
        }
    }

    fn link_problem(&self) -> Option<Reason> {
        match self.link.flatten() {
            None => Some(Reason::LinkMissing),
            Some(link) if !link.is_running => Some(Reason::LinkDown),
            Some(_) => None,
        }
    }

    fn number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    fn log(&mut self, transition: VipTransition) {
        self.effects.push_back(VipEffect::Log(transition));
    }

    fn complain(&mut self, what: &'static str, problem: String, now: Instant) {
        if self.told.is_new_problem(what, &problem, now) {
            self.log(VipTransition::Problem { what, problem });
        }
    }

    /// What may never be, in words.
    fn contradiction(&self, now: Instant) -> Option<&'static str> {
        let is_ours = self.facts.is_ours();
        match &self.phase {
            Phase::Claiming(_) if !is_ours || !self.facts.is_fresh(now) => Some("claims without a fresh right"),
            Phase::Held(_) if !is_ours => Some("holds what is not ours"),
            Phase::Held(_) if self.interface.deadline().is_none_or(|end| now >= end) => Some("holds beyond its lease"),
            Phase::Claiming(_) | Phase::Held(_) | Phase::Starting if self.exiting.is_some() => Some("stays on exit"),
            Phase::Released if self.interface.may_be_there() => Some("released, and still there"),
            Phase::Released if self.marks.written().is_some() => Some("released, and its mark stands"),
            _ => None,
        }
    }
}
