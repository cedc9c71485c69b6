//! What an operator tells the router machine: orders about members, and a new configuration.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use crate::model::{AdminState, ClusterSpec, MemberName, Order};

use super::checking::wanted;
use super::closing::RETIRED_MAX;
use super::rest;
use super::router::Router;
use super::track::MemberTrack;
use super::{Effect, Orders, Transition};

impl Router {
    pub(super) fn on_order(&mut self, member: &MemberName, order: Order, now: Instant) {
        // A member that is not known now is met by its orders when it comes.
        let before = self.memory.orders.get(member).copied().unwrap_or_default();
        let after = match order {
            Order::State(state) => Orders { state, ..before },
            Order::Weight(weight) => Orders { weight, ..before },
        };
        if after == before {
            return;
        }
        if let Some(track) = self.tracks.get_mut(member) {
            track.orders = after;
        }
        if after == Orders::default() {
            self.memory.orders.remove(member);
        } else {
            self.memory.orders.insert(member.clone(), after);
        }
        self.effects.push_back(Effect::Remember(self.memory.clone()));
        self.log(Transition::Order { member: member.clone(), order });
        match (before.state, after.state) {
            (AdminState::Maint, AdminState::Maint) => {}
            (_, AdminState::Maint) => self.begin_maintenance(member, now),
            (AdminState::Maint, _) => self.end_maintenance(member, now),
            _ => {}
        }
    }

    fn begin_maintenance(&mut self, member: &MemberName, now: Instant) {
        if let Some(track) = self.tracks.get_mut(member) {
            track.checks.values_mut().for_each(|check| check.forget());
        }
        self.begin_drain(member, now);
    }

    /// Whatever was known of it is too old: down until the first success. Sessions that are still in a
    /// transaction go on without a deadline.
    fn end_maintenance(&mut self, member: &MemberName, now: Instant) {
        self.drains.remove(member);
        let timing = self.spec.check.clone();
        if let Some(track) = self.tracks.get_mut(member) {
            track.checks.iter_mut().for_each(|(spec, check)| check.restart(spec, now));
            track.restart(&timing, now);
        }
    }

    /// The configuration was read again. Everything known stays, and is looked at by the new rules.
    pub(super) fn on_spec(&mut self, spec: Arc<ClusterSpec>, now: Instant) {
        let old = std::mem::replace(&mut self.spec, spec);
        let kept = |name: &str| self.spec.services.iter().any(|service| &*service.name == name);
        self.retired.retain(|service| !kept(&service.name));
        let removed: Vec<_> = old.services.iter().filter(|service| !kept(&service.name)).cloned().collect();
        self.retired.extend(removed);
        let excess = self.retired.len().saturating_sub(RETIRED_MAX);
        self.retired.drain(..excess);
        self.wanted_checks = wanted(&self.spec, &self.retired);
        self.primary_check = rest::primary_check(&self.spec).map(Arc::new);
        self.forget_unnamed();
        self.forget_opened();
        let place = |track: &MemberTrack| (track.conn.clone(), track.api.clone());
        let before: BTreeMap<_, _> = self.tracks.iter().map(|(name, track)| (name.clone(), place(track))).collect();
        for track in self.tracks.values_mut() {
            track.health.retune(&self.spec.check);
            track.is_static = false;
            (track.offline, track.weight) = (None, None);
            if let Some(facts) = &track.facts {
                track.conn = facts.conn.clone().or(track.conn.take());
                track.api = facts.api.clone().or(track.api.take());
            }
        }
        self.apply_static(now);
        for (name, track) in &mut self.tracks {
            if before.get(name).is_some_and(|before| *before != place(track)) {
                track.hurry();
                track.checks.values_mut().for_each(|check| check.hurry(now));
            }
        }
    }
}
