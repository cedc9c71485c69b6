//! Whose a virtual address is, by what the router of its cluster knows.
//!
//! Facts only: how old they may be, and what a lost DCS means for the address, is decided by
//! [`super::vip::Vip`]. Routes, sessions and addresses follow one decision: an address is claimed by the key that
//! opens the routes, and is lost in the same call that cuts its member's sessions.

use core::net::IpAddr;
use std::time::{Duration, Instant};

use crate::model::{
    ClusterView, LeaderKey, MemberName, Reason, RestRole, Role, ServiceSpec, Trust, VipClaim, VipRight,
};

use super::lead::{KEYLESS_PROOF_MAX, Keep};
use super::router::Router;
use super::routes::TargetState;
use super::select::Tier;
use super::track::MemberTrack;
use super::view::Freshness;

/// A leader without a key is believed for as long as its own word is this young.
const KEYLESS_WORD_MAX: Duration = KEYLESS_PROOF_MAX;

type Claim = (VipClaim, Reason);

impl Router {
    /// Whether `member` has `role`, as known at `now`. `member` is the one on this host, if there is one. To be
    /// asked after the effects of an event were carried out, so that nobody claims before sessions are closed.
    ///
    /// Roles that follow the leader key belong to one member; of all others this tells that the member is fit,
    /// and the mark says whose turn it is ([`crate::model::VipSpec::is_exclusive_by_mark`]). Without a DCS
    /// (`trust: rest`) nothing is ever confirmed.
    pub fn vip_right(&self, role: Role, member: Option<&MemberName>, ip: IpAddr, now: Instant) -> VipRight {
        let view = self.keeper.current();
        let key = view.and_then(|view| view.leader.as_ref()).filter(|_| follows_key(role));
        let (claim, reason) = match member {
            None => (VipClaim::NotOurs, Reason::MemberNotHere),
            Some(member) => self.vip_claim(role, member, now),
        };
        VipRight {
            claim,
            reason,
            leader: key.map(|key| key.name.clone()),
            confirmed_at: self.keeper.confirmed_at(),
            lease_end: key.filter(|key| key.lease != 0).and_then(|_| self.keeper.lease_end()),
            is_lease_known: key.is_none_or(|key| key.lease == 0 || self.keeper.is_lease_known()),
            vouched_at: member.and_then(|member| self.tracks.get(member)).and_then(|track| vouched_at(role, track)),
            mark: view.and_then(|view| view.vips.get(&ip).cloned()),
        }
    }

    fn vip_claim(&self, role: Role, member: &MemberName, now: Instant) -> Claim {
        if self.spec.trust == Trust::Rest {
            return if follows_key(role) {
                self.claim_by_checks(member)
            } else {
                self.claim_by_fitness(role, member, now)
            };
        }
        let Some(view) = self.keeper.current() else { return (VipClaim::Unknown, Reason::Starting) };
        // Neither its key nor its marks are to be believed.
        if self.replaced {
            return (VipClaim::Unknown, Reason::DcsReplaced);
        }
        match &view.leader {
            _ if !follows_key(role) => self.claim_by_fitness(role, member, now),
            Some(key) if key.name != *member => (VipClaim::NotOurs, Reason::RoleElsewhere),
            Some(key) => self.claim_by_key(role, view, key, now),
            None => self.claim_without_key(member, now),
        }
    }

    /// The key names it. It need not have proved itself: its clients are held meanwhile, and find the address
    /// where they will be served. Nor does an operator's order move the address, which nobody else may have.
    fn claim_by_key(&self, role: Role, view: &ClusterView, key: &LeaderKey, now: Instant) -> Claim {
        if let Some(refusal) = self.refuse_key_holder(role, view, key, now) {
            return (VipClaim::NotOurs, refusal);
        }
        match self.keeper.freshness(now) {
            Freshness::Fresh { .. } => (VipClaim::Ours, Reason::RoleHeld),
            _ if self.keeps_sessions(&key.name) => (VipClaim::Ours, Reason::DcsStale),
            _ => (VipClaim::NotOurs, self.lead.cut),
        }
    }

    fn refuse_key_holder(&self, role: Role, view: &ClusterView, key: &LeaderKey, now: Instant) -> Option<Reason> {
        let promoted = self.tracks.get(&key.name).is_some_and(MemberTrack::says_writable);
        if role == Role::StandbyLeader && promoted {
            return Some(Reason::NotMyRole);
        }
        let doubt = self.facts(now).leader_doubt(view, key);
        doubt.filter(|doubt| matches!(doubt, Reason::BelowTimelineMark | Reason::OtherSystem))
    }

    /// Failsafe mode, a pause, or the moment between two keys.
    fn claim_without_key(&self, member: &MemberName, now: Instant) -> Claim {
        if self.last_leader.as_ref() != Some(member) {
            return (VipClaim::NotOurs, Reason::RoleVacant);
        }
        if !self.keeps_sessions(member) {
            return (VipClaim::NotOurs, self.lead.cut);
        }
        let word = self.tracks.get(member).and_then(|track| track.last_200);
        let is_young = word.is_some_and(|at| now <= at + KEYLESS_WORD_MAX);
        if is_young { (VipClaim::Ours, Reason::NoLeaderKey) } else { (VipClaim::NotOurs, Reason::RoleVacant) }
    }

    /// Whether sessions that may write to it live on.
    fn keeps_sessions(&self, member: &MemberName) -> bool {
        match &self.lead.keep {
            Keep::All => true,
            Keep::Only(one) => one == member,
            Keep::Nobody => false,
        }
    }

    /// Whoever the write services are open to, and to whom their sessions live on.
    fn claim_by_checks(&self, member: &MemberName) -> Claim {
        let kept = || self.writers.contains(member) && self.keeps_sessions(member);
        match &self.lead.open {
            Some(open) if open == member => (VipClaim::Ours, Reason::RoleHeld),
            Some(_) => (VipClaim::NotOurs, Reason::RoleElsewhere),
            None if kept() => (VipClaim::Ours, self.lead.reason),
            None => (VipClaim::NotOurs, Reason::RoleVacant),
        }
    }

    /// Whether a service of this role, with no wishes of its own, would send it new sessions.
    fn claim_by_fitness(&self, role: Role, member: &MemberName, now: Instant) -> Claim {
        let Some(track) = self.tracks.get(member) else { return (VipClaim::NotOurs, Reason::MemberGone) };
        let service = ServiceSpec::new("vip", role);
        let tier = Tier::new(&service, role, self.spec.trust);
        match self.ingredients(&self.lead, &[], now).judge(&tier, member, track) {
            (TargetState::Open, _) => (VipClaim::Ours, Reason::RoleHeld),
            (TargetState::Unknown, reason) => (VipClaim::Unknown, reason),
            (_, reason) => (VipClaim::NotOurs, reason),
        }
    }
}

fn follows_key(role: Role) -> bool {
    matches!(role, Role::Primary | Role::StandbyLeader)
}

/// Send time of the last question that its REST API answered with what Patroni's path of this role answers 200 to
/// (patroni/api.py, `do_GET`). Only `/primary` is asked; its body tells the rest.
fn vouched_at(role: Role, track: &MemberTrack) -> Option<Instant> {
    if role == Role::Primary {
        return track.last_200;
    }
    let (sent_at, answer) = track.answer.as_ref()?;
    let vouches = match role {
        Role::StandbyLeader => answer.role == RestRole::StandbyLeader,
        _ => answer.is_in_recovery() || (role.includes_primary() && answer.is_writable()),
    };
    vouches.then_some(*sent_at)
}

#[cfg(test)]
mod tests;
