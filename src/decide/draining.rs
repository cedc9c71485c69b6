//! Planned closes: sessions of a member in maintenance end when they are idle, and those that are still
//! in a transaction when the `drain` of their service is over.
//!
//! **A member that drains is still a writer** if it was one: its last sessions can write. So whatever
//! cuts a writer (the key names another, its lease ends, it replays) cuts it at once and ends the drain.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::model::{MemberName, Reason, ServiceName, ServiceSpec};

use super::Effect;
use super::router::Router;

/// Members whose sessions were asked to end.
pub type Drains = BTreeMap<MemberName, Drain>;

/// The deadlines follow from the configuration of the moment: a reload that shortens `drain` shortens
/// what is under way, too.
#[derive(Debug, Clone)]
pub struct Drain {
    since: Instant,
    /// Those that may have sessions left.
    services: BTreeSet<ServiceName>,
}

impl Router {
    /// Asks the member's sessions to end; those of services without a `drain` are cut.
    pub(super) fn begin_drain(&mut self, member: &MemberName, now: Instant) {
        let reason = Reason::Maintenance;
        let (at_once, slow): (Vec<_>, Vec<_>) = self.all_services().partition(|service| service.drain.is_zero());
        let names = |services: Vec<&Arc<ServiceSpec>>| services.into_iter().map(|s| s.name.clone()).collect::<Vec<_>>();
        let (at_once, slow) = (names(at_once), names(slow));
        if slow.is_empty() {
            return self.end_sessions(member, reason);
        }
        let drained = (!at_once.is_empty()).then(|| slow.clone());
        self.closes.push(Effect::DrainSessions { member: member.clone(), services: drained, reason });
        if !at_once.is_empty() {
            self.closes.push(Effect::CloseSessions { member: member.clone(), services: Some(at_once), reason });
        }
        self.drains.insert(member.clone(), Drain { since: now, services: slow.into_iter().collect() });
    }

    /// Cuts those whose time is over. The last close of a member is of all services: nobody is left then,
    /// not even of one that the configuration forgot meanwhile.
    pub(super) fn close_drained(&mut self, now: Instant) {
        let mut over: Vec<(MemberName, Vec<ServiceName>)> = Vec::new();
        for (member, drain) in &self.drains {
            let due = drain.services.iter().filter(|name| self.drain_end(drain, name) <= now);
            over.push((member.clone(), due.cloned().collect()));
        }
        for (member, names) in over {
            let Some(drain) = self.drains.get_mut(&member) else { continue };
            drain.services.retain(|name| !names.contains(name));
            if drain.services.is_empty() {
                self.end_sessions(&member, Reason::Maintenance);
            } else if !names.is_empty() {
                let reason = Reason::Maintenance;
                self.closes.push(Effect::CloseSessions { member, services: Some(names), reason });
            }
        }
    }

    fn end_sessions(&mut self, member: &MemberName, reason: Reason) {
        self.drains.remove(member);
        self.writers.remove(member);
        self.closes.push(Effect::CloseSessions { member: member.clone(), services: None, reason });
    }

    /// When the sessions of this service are cut.
    fn drain_end(&self, drain: &Drain, name: &ServiceName) -> Instant {
        let spec = self.all_services().find(|service| service.name == *name);
        drain.since + spec.map_or(Duration::ZERO, |service| service.drain)
    }

    pub(super) fn drain_ends(&self) -> impl Iterator<Item = Instant> + '_ {
        self.drains.values().flat_map(|drain| drain.services.iter().map(|name| self.drain_end(drain, name)))
    }

    /// Those of the configuration, and those that a reload removed and whose sessions go on.
    pub(super) fn all_services(&self) -> impl Iterator<Item = &Arc<ServiceSpec>> {
        self.spec.services.iter().chain(&self.retired)
    }
}

#[cfg(test)]
#[path = "draining/tests.rs"]
mod tests;
