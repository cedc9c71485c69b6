//! The router machine and HTTP checks: which there are, when they run, what their outcomes change.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use crate::model::{
    AdminState, ApiAddress, CheckOutcome, CheckSpec, CheckStatus, ClusterSpec, HostPort, MemberName, Reason, Role,
    ServiceName, ServiceSpec, Trust,
};

use super::checks::{CheckTrack, Turn, spread};
use super::rest;
use super::router::Router;
use super::track::MemberTrack;
use super::{Effect, Transition};

/// The checks that members of this cluster have to pass, in the order in which services ask for them.
/// Sessions of `retired` services need theirs, too, where nobody else asks the same.
pub fn wanted(spec: &ClusterSpec, retired: &[Arc<ServiceSpec>]) -> Vec<Arc<CheckSpec>> {
    let mut all: Vec<Arc<CheckSpec>> = Vec::new();
    for service in spec.services.iter().chain(retired) {
        let is_retired = retired.iter().any(|one| Arc::ptr_eq(one, service));
        let asked: Vec<Role> = match spec.trust {
            Trust::Rest => service.tiers().collect(),
            // The common question tells the role; a path of its own is a further condition.
            Trust::Confirm if service.check.path.is_some() => vec![service.role],
            Trust::Confirm => Vec::new(),
        };
        for check in asked.into_iter().map(|role| service.check_of(role)) {
            if !all.iter().any(|known| **known == check || is_retired && known.asks_like(&check)) {
                all.push(Arc::new(check));
            }
        }
    }
    all
}

/// Where a check of this member goes.
fn address(track: &MemberTrack, check: &CheckSpec) -> Option<ApiAddress> {
    let api = track.api.as_ref()?;
    let port = check.port.unwrap_or(api.at.port);
    Some(ApiAddress { tls: api.tls, at: HostPort::new(api.at.host.clone(), port) })
}

impl Router {
    /// At the start of the process: the first checks of all members, spread over one interval.
    pub(super) fn spread_checks(&mut self, now: Instant) {
        let wanted = self.wanted_checks.clone();
        let names: Vec<MemberName> = self.tracks.keys().cloned().collect();
        let all = wanted.iter().flat_map(|check| names.iter().map(move |name| (check, name)));
        let dues = spread(all.clone().map(|(check, _)| &**check), now);
        for ((check, name), due) in all.zip(dues) {
            if let Some(track) = self.tracks.get_mut(name) {
                track.checks.insert(check.clone(), CheckTrack::new(check, due, now));
            }
        }
    }

    /// Gives every member the checks that are wanted now, and takes others away. A check that only
    /// changed its timings keeps its history.
    pub(super) fn renew_checks(&mut self, now: Instant) {
        let wanted = &self.wanted_checks;
        for track in self.tracks.values_mut() {
            let missing: Vec<_> = wanted.iter().filter(|check| !track.checks.contains_key(*check)).cloned().collect();
            if missing.is_empty() && track.checks.len() == wanted.len() {
                continue;
            }
            for check in missing {
                let kept = track.check_like(&check).map(|history| history.retuned(&check, now));
                let history = kept.unwrap_or_else(|| CheckTrack::new(&check, now, now));
                track.checks.insert(check, history);
            }
            track.checks.retain(|check, _| wanted.contains(check));
        }
    }

    pub(super) fn send_checks(&mut self, now: Instant) {
        for (member, track) in &mut self.tracks {
            if track.orders.state == AdminState::Maint {
                continue;
            }
            let due: Vec<_> =
                track.checks.iter().filter(|(_, c)| c.due() <= now).map(|(spec, _)| spec.clone()).collect();
            for check in due {
                let Some(address) = address(track, &check) else { continue };
                self.probe_number += 1;
                let number = self.probe_number;
                if let Some(history) = track.checks.get_mut(&check) {
                    history.send(number, &check, now);
                }
                let connect_limit = check.connect_limit();
                self.effects.push_back(Effect::Check { member: member.clone(), number, check, address, connect_limit });
            }
        }
    }

    pub(super) fn on_check(&mut self, member: &MemberName, number: u64, outcome: CheckOutcome, now: Instant) {
        let Some(track) = self.tracks.get_mut(member) else { return };
        let Some((check, history)) = track.checks.iter_mut().find(|(_, history)| history.awaits(number)) else {
            return;
        };
        let check = check.clone();
        let sent_at = now.checked_sub(outcome.took).unwrap_or(now);
        let told = outcome.answer.clone().filter(|_| outcome.status != CheckStatus::SockErr);
        let turn = history.done(outcome, &check, now);
        let reason = history.reason;
        if let Some(answer) = told.filter(|_| self.spec.trust == Trust::Rest) {
            track.answer = Some((sent_at, *answer));
        }
        self.note_turn(member, &check, turn, reason);
    }

    /// Connects of clients to this member failed, too many in a row.
    pub(super) fn on_error_limit(&mut self, service: &ServiceName, member: &MemberName, now: Instant) {
        let Some(spec) = self.spec.services.iter().find(|s| s.name == *service).cloned() else { return };
        let used = self.routes.service(service).and_then(|routes| routes.targets.iter().find(|t| t.member == *member));
        let check = Arc::new(spec.check_of(used.map_or(spec.role, |target| target.role)));
        let Some(track) = self.tracks.get_mut(member) else { return };
        track.hurry();
        let Some(history) = track.checks.get_mut(&check) else { return };
        let turn = history.observed(&check, now);
        let reason = history.reason;
        self.note_turn(member, &check, turn, reason);
    }

    fn note_turn(&mut self, member: &MemberName, check: &CheckSpec, turn: Turn, reason: Reason) {
        if turn != Turn::None {
            let path = check.path.clone();
            self.log(Transition::Check { member: member.clone(), path, up: turn == Turn::Up, reason });
        }
    }

    pub(super) fn decide_by_rest(&self, now: Instant) -> super::lead::Lead {
        let check = self.primary_check.as_ref();
        let (open, reason) = (self.lead.open.as_ref(), self.lead.reason);
        rest::Facts { now, tracks: &self.tracks, check, open, reason }.decide()
    }

    /// Members that the configuration alone knows, and does not name any more.
    pub(super) fn forget_unnamed(&mut self) {
        let named: BTreeSet<&MemberName> = self.spec.members.keys().collect();
        let in_dcs =
            |track: &MemberTrack| self.spec.trust == Trust::Confirm && (track.facts.is_some() || !track.is_static);
        let gone = |(name, track): &(&MemberName, &MemberTrack)| !named.contains(*name) && !in_dcs(track);
        let gone: Vec<MemberName> = self.tracks.iter().filter(gone).map(|(name, _)| name.clone()).collect();
        for member in gone {
            self.tracks.remove(&member);
            self.writers.remove(&member);
            self.last_leader.take_if(|leader| *leader == member);
            self.log(Transition::Member { member: member.clone(), known: false });
            self.closes.push(Effect::CloseSessions { member, services: None, reason: Reason::MemberGone });
        }
    }
}

#[cfg(test)]
#[path = "checking/tests.rs"]
pub(super) mod tests;
