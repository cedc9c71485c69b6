//! One virtual address: when to claim, announce, renew and release it. Pure; `vip/` carries it out.
//!
//! Contract: call [`Vip::handle`] for an event or [`Vip::handle_timeout`] when the instant of
//! [`Vip::poll_timeout`] has come (a spurious call is safe), then carry out every effect of
//! [`Vip::poll_effect`] in order before the next event. A failed effect comes back as an event.
//!
//! The rules:
//!
//! * **Whoever may not be believed to lead holds nothing.** An address is put on the interface only with
//!   a lifetime that ends before the right to it does ([`Vip::handle`] of a right computes it), so that
//!   the kernel takes it away from a holder that crashed, hangs or is cut off.
//! * **Nobody claims what another still has**: at once only behind the deletion of the previous holder's
//!   mark, else after probing, and over an occupant only when its lease must be over.
//! * **Sessions end before the address goes**: no RST can be sent from an address that is gone.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::model::{Mac, MemberName, Reason, VipEntry, VipLink, VipMark, VipRight, VipSpec};

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum VipEvent {
    /// The configuration was read again. Address, interface and role are the same.
    Spec(Arc<VipSpec>),
    Right(VipRight),
    /// Everything the kernel has under this address, on any interface; told at the start and at each change.
    Entries(Vec<VipEntry>),
    /// The interface as it is; None: there is none of this name. `notify` is the kernel's own wish that
    /// neighbours be told (NETDEV_NOTIFY_PEERS, such as a bond's failover).
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
    /// ARP request and reply, or one neighbour advertisement.
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

/// Decides about one address.
#[derive(Debug, Clone)]
pub struct Vip {
    spec: Arc<VipSpec>,
    /// Us, as marks name holders.
    me: MemberName,
    state: VipState,
    since: Instant,
    reason: Reason,
    effects: VecDeque<VipEffect>,
    mark: Option<VipMark>,
}

impl Vip {
    /// `me` is what marks call this holder: the member's name.
    pub fn new(spec: Arc<VipSpec>, me: MemberName, now: Instant) -> Vip {
        let effects = VecDeque::new();
        Vip { spec, me, state: VipState::Starting, since: now, reason: Reason::Starting, effects, mark: None }
    }

    pub fn handle(&mut self, event: VipEvent, now: Instant) {
        let _ = (event, now, &self.me, &self.mark);
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        let _ = now;
    }

    #[must_use]
    pub fn poll_effect(&mut self) -> Option<VipEffect> {
        self.effects.pop_front()
    }

    /// When to call [`Vip::handle_timeout`] next, and why.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        None
    }

    pub fn spec(&self) -> &Arc<VipSpec> {
        &self.spec
    }

    /// After [`VipEvent::Exit`]: nothing is left to be done.
    pub fn is_done(&self) -> bool {
        false
    }

    pub fn snapshot(&self) -> VipSnapshot {
        VipSnapshot {
            spec: self.spec.clone(),
            state: self.state,
            reason: self.reason,
            since: self.since,
            holder: self.mark.as_ref().map(|mark| mark.holder.clone()),
            lease_end: None,
            is_unfenced: false,
            announced_at: None,
            announcements: 0,
            claims: 0,
            releases: 0,
            repairs: 0,
            conflicts: 0,
            conflict_mac: None,
            mac: None,
            problem: None,
        }
    }
}
