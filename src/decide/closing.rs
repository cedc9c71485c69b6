//! Sessions of members that go down: cut at once, after a grace, or not at all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use crate::model::{CloseOnDown, MemberName, Reason, Role, ServiceName, ServiceSpec, Trust};

use super::Effect;
use super::router::Router;
use super::track::MemberTrack;

/// Services that a reload removed and whose sessions go on; beyond this the oldest are left alone.
pub const RETIRED_MAX: usize = 256;

/// How a member's checks stood to a service the last time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    Alive,
    /// Its sessions are cut at that time.
    Down {
        cut_at: Instant,
    },
    Cut,
}

pub type Lives = BTreeMap<(ServiceName, MemberName), Life>;

/// Where sessions of ours may be: opened by a table, and not closed since.
pub type Opened = BTreeSet<(ServiceName, MemberName)>;

/// Whether its checks say that this member is down for this service. A reader that is healthy in another
/// role is not: its sessions stay.
fn is_down(trust: Trust, spec: &ServiceSpec, track: &MemberTrack) -> Option<bool> {
    if trust == Trust::Confirm {
        return track.health.is_known().then(|| !track.health.is_up());
    }
    let checks: Vec<_> = spec.tiers().filter_map(|role| track.check_like(&spec.check_of(role))).collect();
    if checks.iter().any(|check| check.is_up()) {
        return Some(false);
    }
    // On its way up: neither is news.
    if checks.iter().any(|check| check.passes()) {
        return None;
    }
    if checks.iter().any(|check| check.says_running()) && spec.role != Role::Primary {
        return Some(false);
    }
    checks.iter().any(|check| check.last.is_some()).then_some(true)
}

impl Router {
    /// Notes who went down since the last call, and cuts those whose grace is over.
    pub(super) fn close_those_down(&mut self, now: Instant) {
        let mut due: BTreeMap<MemberName, Vec<ServiceName>> = BTreeMap::new();
        let services: Vec<Arc<ServiceSpec>> = self.all_services().cloned().collect();
        for spec in &services {
            for (member, track) in &self.tracks {
                let Some(down) = is_down(self.spec.trust, spec, track) else { continue };
                let life = self.lives.entry((spec.name.clone(), member.clone())).or_insert(if down {
                    Life::Cut
                } else {
                    Life::Alive
                });
                *life = next(*life, down, spec.close_on_down, now);
                if matches!(life, Life::Down { cut_at } if *cut_at <= now) {
                    *life = Life::Cut;
                    due.entry(member.clone()).or_default().push(spec.name.clone());
                }
            }
        }
        for (member, names) in due {
            if names.len() == services.len() {
                self.writers.remove(&member);
            }
            self.closes.push(Effect::CloseSessions { member, services: Some(names), reason: Reason::MemberDown });
        }
        self.forget_lives(&services);
    }

    fn forget_lives(&mut self, services: &[Arc<ServiceSpec>]) {
        let names: BTreeSet<&ServiceName> = services.iter().map(|s| &s.name).collect();
        let tracks = &self.tracks;
        self.lives.retain(|(service, member), _| names.contains(service) && tracks.contains_key(member));
    }

    /// Orders a close or a drain, and notes whose sessions are gone with it.
    pub(super) fn send_close(&mut self, close: Effect) {
        if let Effect::CloseSessions { member, services, .. } = &close {
            let is_hit = |name: &ServiceName| services.as_ref().is_none_or(|names| names.contains(name));
            self.opened.retain(|(service, of)| of != member || !is_hit(service));
            if services.is_none() {
                self.drains.remove(member);
            }
        }
        self.effects.push_back(close);
    }

    /// Services that nobody remembers have no listener to take cancel requests.
    pub(super) fn forget_opened(&mut self) {
        let names: BTreeSet<ServiceName> = self.all_services().map(|service| service.name.clone()).collect();
        self.opened.retain(|(service, _)| names.contains(service));
    }

    pub(super) fn graces(&self) -> impl Iterator<Item = Instant> + '_ {
        self.lives.values().filter_map(|life| if let Life::Down { cut_at } = life { Some(*cut_at) } else { None })
    }
}

fn next(life: Life, down: bool, policy: CloseOnDown, now: Instant) -> Life {
    match (life, down, policy) {
        (_, false, _) => Life::Alive,
        (Life::Alive, true, CloseOnDown::Cut { grace }) => Life::Down { cut_at: now + grace },
        (Life::Alive, true, CloseOnDown::Stay) => Life::Cut,
        (life, true, _) => life,
    }
}
