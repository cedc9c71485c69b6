//! What a right is worth at an instant: freshness, fence and lifetimes.

use std::time::{Duration, Instant};

use crate::decide::view::FRESH_FOR;
use crate::model::{Reason, VIP_LEASE_MARGIN, VipClaim, VipMark, VipOnDcsLoss, VipRight, VipSpec};

/// How old the local Patroni's last 200 may be when an address is renewed by it.
pub(super) const VOUCHED_FOR: Duration = Duration::from_secs(1);
/// So long before the kernel would take the address away it is let go in order, sessions first.
pub(super) const LET_GO_BEFORE: Duration = Duration::from_secs(1);
/// Nothing is put for less: it would have to be let go at once ([`LET_GO_BEFORE`]).
pub(super) const LIFETIME_MIN: Duration = Duration::from_secs(2);

/// What a renewal rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ground {
    /// A linearizable read, sent then.
    Read(Instant),
    /// The local Patroni's 200, asked for then.
    Patroni(Instant),
    /// Nothing (`on_dcs_loss: hold`).
    Policy,
}

/// The last right, and since when rights count.
#[derive(Debug, Clone, Default)]
pub(super) struct Facts {
    right: Option<VipRight>,
    /// What was confirmed or vouched for before is not believed: the machine slept since.
    not_before: Option<Instant>,
}

impl Facts {
    pub(super) fn learn(&mut self, right: VipRight) {
        self.right = Some(right);
    }

    /// Everything is old at `now`, whatever comes late.
    pub(super) fn forget(&mut self, now: Instant) {
        self.right = None;
        self.not_before = Some(now);
    }

    pub(super) fn claim(&self) -> VipClaim {
        self.right.as_ref().map_or(VipClaim::Unknown, |right| right.claim)
    }

    pub(super) fn is_ours(&self) -> bool {
        self.claim() == VipClaim::Ours
    }

    pub(super) fn reason(&self) -> Reason {
        let unknown = if self.not_before.is_some() { Reason::MachineSlept } else { Reason::Starting };
        self.right.as_ref().map_or(unknown, |right| right.reason)
    }

    pub(super) fn mark(&self) -> Option<&VipMark> {
        self.right.as_ref().and_then(|right| right.mark.as_ref())
    }

    pub(super) fn lease_end(&self) -> Option<Instant> {
        self.right.as_ref().and_then(|right| right.lease_end)
    }

    /// Else nothing is put by the right, and what is held stays under the lifetime that it has.
    pub(super) fn is_lease_known(&self) -> bool {
        self.right.as_ref().is_none_or(|right| right.is_lease_known)
    }

    pub(super) fn fresh_until(&self) -> Option<Instant> {
        self.counts(self.right.as_ref()?.confirmed_at).map(|at| at + FRESH_FOR)
    }

    pub(super) fn is_fresh(&self, now: Instant) -> bool {
        self.fresh_until().is_some_and(|until| now < until)
    }

    pub(super) fn is_confirmed_within(&self, span: Duration, now: Instant) -> bool {
        self.fresh_until().is_some_and(|until| now + FRESH_FOR <= until + span)
    }

    /// How long an address may be put for, of `wished`, by a fresh right. None: not at all.
    pub(super) fn lifetime(&self, wished: Duration, now: Instant) -> Option<Duration> {
        if !self.is_lease_known() {
            return None;
        }
        let left = match self.lease_end() {
            Some(end) => whole_seconds(end.saturating_duration_since(now)).saturating_sub(VIP_LEASE_MARGIN),
            None => wished,
        };
        let lifetime = whole_seconds(wished).min(left);
        (lifetime >= LIFETIME_MIN).then_some(lifetime)
    }

    /// What an address that is held may be renewed by now, and for how long.
    pub(super) fn renewal(&self, spec: &VipSpec, now: Instant) -> Option<(Ground, Duration)> {
        let right = self.right.as_ref().filter(|right| right.claim == VipClaim::Ours)?;
        if let Some(at) = self.counts(right.confirmed_at).filter(|at| now < *at + FRESH_FOR) {
            return self.lifetime(spec.lease, now).map(|lifetime| (Ground::Read(at), lifetime));
        }
        // The mark that decides can only be seen in the DCS.
        let ground = match spec.on_dcs_loss {
            _ if spec.is_exclusive_by_mark() => None,
            VipOnDcsLoss::Release => None,
            VipOnDcsLoss::KeepWhilePatroniLeads => {
                let vouched = self.counts(right.vouched_at).filter(|at| now <= *at + VOUCHED_FOR);
                vouched.map(Ground::Patroni)
            }
            VipOnDcsLoss::Hold => Some(Ground::Policy),
        };
        ground.map(|ground| (ground, whole_seconds(spec.lease)))
    }

    /// The instant at which it goes because nothing was confirmed for `grace`. None: no such policy.
    pub(super) fn released_at(&self, spec: &VipSpec) -> Option<Instant> {
        let releases = spec.on_dcs_loss == VipOnDcsLoss::Release
            || spec.is_exclusive_by_mark() && spec.on_dcs_loss == VipOnDcsLoss::KeepWhilePatroniLeads;
        self.fresh_until().filter(|_| releases).map(|until| until + spec.grace)
    }

    fn counts(&self, at: Option<Instant>) -> Option<Instant> {
        at.filter(|at| self.not_before.is_none_or(|from| *at >= from))
    }
}

pub(super) fn whole_seconds(span: Duration) -> Duration {
    Duration::from_secs(span.as_secs())
}

/// How soon after a Put the next renewal may come. Reads come each second, so that whatever comes next
/// after this is within a third of the lease.
pub(super) fn renewal_pause(spec: &VipSpec) -> Duration {
    (spec.lease / 3).saturating_sub(Duration::from_secs(1))
}
