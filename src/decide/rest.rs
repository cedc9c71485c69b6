//! Who may take writes with `trust: rest`: HTTP checks alone, as HAProxy does it, except that two
//! members that both answer are never both used.
//!
//! A member *claims* the lead when its last `/primary` check passed, and is *up* by HAProxy's counter.
//! Whoever is up keeps its clients until the counter says down, as long as nobody else claims. A member in
//! maintenance is not asked, so what it said last is no claim.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::model::{AdminState, CheckSpec, ClusterSpec, MemberName, Reason, Role, Timeline};

use super::lead::{Keep, Lead};
use super::track::MemberTrack;

/// A check whose answer is this late means that this router itself was stopped: it looks before it
/// opens another write session.
const LATE_MAX: Duration = Duration::from_secs(1);

/// The facts that the rules look at.
pub struct Facts<'a> {
    pub now: Instant,
    pub tracks: &'a BTreeMap<MemberName, MemberTrack>,
    /// The check that tells the primary; None: no service wants one, and the answers' bodies tell.
    pub check: Option<&'a Arc<CheckSpec>>,
    /// Who takes new write sessions until now.
    pub open: Option<&'a MemberName>,
    /// Why that is so.
    pub reason: Reason,
}

/// The check that tells the primary of this cluster: that of the first service that wants it.
pub fn primary_check(spec: &ClusterSpec) -> Option<CheckSpec> {
    let own = spec.services.iter().find(|service| service.role == Role::Primary);
    let any = || spec.services.iter().find(|service| service.tiers().any(|role| role == Role::Primary));
    own.or_else(any).map(|service| service.check_of(Role::Primary))
}

impl Facts<'_> {
    pub fn decide(&self) -> Lead {
        let claims: Vec<&MemberName> = self.members(Self::claims).collect();
        match claims[..] {
            [] => self.unclaimed(),
            [one] => self.claimed_by(one),
            _ => match self.latest(&claims) {
                Some(one) => self.claimed_by(one),
                None => self.hold(Reason::OtherClaims, Keep::All),
            },
        }
    }

    fn members(&self, rule: impl Fn(&Self, &MemberTrack) -> bool) -> impl Iterator<Item = &MemberName> {
        self.tracks.iter().filter(move |(_, track)| rule(self, track)).map(|(name, _)| name)
    }

    /// Nobody else is used while somebody claims: it would be the one that was deposed.
    fn claimed_by(&self, name: &MemberName) -> Lead {
        let up = self.tracks.get(name).is_some_and(|track| self.is_up(track));
        if !up {
            return self.hold(Reason::Rising, Keep::All);
        }
        self.open(name)
    }

    /// Every check of a primary fails or has not come yet.
    fn unclaimed(&self) -> Lead {
        let Some(open) = self.open else { return self.hold(self.why_nobody(), Keep::All) };
        match self.tracks.get(open) {
            // It answers, and its SQL says that it replays: HAProxy would send writers there until `fall`.
            Some(track) if track.says_in_recovery() => {
                Lead { cut: Reason::InRecovery, ..self.hold(Reason::NoTarget, Keep::Nobody) }
            }
            Some(track) if self.is_up(track) => self.open(open),
            // Its services cut its sessions, each by its own rule.
            _ => self.hold(self.why_nobody(), Keep::All),
        }
    }

    fn why_nobody(&self) -> Reason {
        let is_kept_out = |track: &MemberTrack| is_in_maintenance(track) && self.passes(track);
        if self.reason == Reason::Maintenance && self.tracks.values().any(is_kept_out) {
            return Reason::Maintenance;
        }
        let checked = |track: &MemberTrack| match self.check {
            Some(check) => track.checks.get(check).is_some_and(|c| c.last.is_some()),
            None => track.checks.values().any(|c| c.last.is_some()),
        };
        if self.tracks.values().all(|track| is_in_maintenance(track) || checked(track)) {
            Reason::NoTarget
        } else {
            Reason::Starting
        }
    }

    fn claims(&self, track: &MemberTrack) -> bool {
        !is_in_maintenance(track) && self.passes(track)
    }

    /// Its last check said that it is the primary.
    fn passes(&self, track: &MemberTrack) -> bool {
        match self.check {
            Some(check) => track.checks.get(check).is_some_and(|c| c.passes()),
            None => track.checks.values().any(|c| c.passes()) && track.says_writable(),
        }
    }

    fn is_up(&self, track: &MemberTrack) -> bool {
        match self.check {
            Some(check) => track.checks.get(check).is_some_and(|c| c.is_up()),
            None => track.checks.values().any(|c| c.is_up()),
        }
    }

    /// The one on a strictly higher timeline than all others.
    fn latest<'a>(&self, claims: &[&'a MemberName]) -> Option<&'a MemberName> {
        let timeline = |name: &MemberName| self.tracks.get(name).and_then(|track| self.timeline(track));
        let highest = claims.iter().copied().max_by_key(|name| timeline(name))?;
        let alone = claims.iter().filter(|name| timeline(name) >= timeline(highest)).count() == 1;
        let all_told = claims.iter().all(|name| timeline(name).is_some());
        (alone && all_told).then_some(highest)
    }

    fn timeline(&self, track: &MemberTrack) -> Option<Timeline> {
        let told = match self.check {
            Some(check) => track.checks.get(check)?.last.as_ref()?.answer.as_deref(),
            None => track.answer.as_ref().map(|(_, answer)| answer),
        };
        told?.timeline
    }

    fn open(&self, name: &MemberName) -> Lead {
        let until = self.tracks.get(name).map_or(self.now, |track| self.answers_until(track));
        let (reason, cut) = (Reason::CheckPassed, Reason::OtherClaims);
        Lead { open: Some(name.clone()), until, reason, keep: Keep::Only(name.clone()), cut }
    }

    /// Until then the next check must have been done, if this router is running at all.
    fn answers_until(&self, track: &MemberTrack) -> Instant {
        let next = |spec: &CheckSpec, done: Instant| {
            let gap = spec.timing.inter.max(spec.timing.fastinter).max(spec.timing.downinter);
            done + gap + spec.connect_limit() + spec.timing.timeout + LATE_MAX
        };
        let relevant = track.checks.iter().filter(|(spec, _)| self.check.is_none_or(|check| check == *spec));
        relevant.filter_map(|(spec, check)| Some(next(spec, check.done_at?))).max().unwrap_or(self.now)
    }

    fn hold(&self, reason: Reason, keep: Keep) -> Lead {
        Lead { open: None, until: self.now, reason, keep, cut: Reason::OtherClaims }
    }
}

fn is_in_maintenance(track: &MemberTrack) -> bool {
    track.orders.state == AdminState::Maint
}
