//! The second half of the router machine: from facts to effects.

use std::sync::Arc;
use std::time::Instant;

use crate::model::{AdminState, MemberName, Reason, ServiceName, Trust};

use super::lead::{Facts, KEYLESS_PROOF_MAX, Keep, Lead, PLANNED_HOLD_MAX, STALE_KEYLESS_GRACE, START_BY_REST_AFTER};
use super::router::Router;
use super::table::Ingredients;
use super::track::{MemberTrack, Urgency};
use super::view::{FRESH_FOR, Freshness, LATE_AFTER};
use super::{Effect, Memory, RememberedMember, Routes, ServiceRoutes, Standing, TargetState, Transition};

impl Router {
    /// Draws the conclusions from what is known now. Every call from outside ends here.
    pub(super) fn settle(&mut self, now: Instant) {
        self.now = now;
        if self.spec.trust == Trust::Confirm {
            self.note_freshness(now);
            self.forget_dead_members(now);
            self.believe_leader(now);
        }
        self.renew_checks(now);
        self.close_those_down(now);
        self.close_drained(now);
        let lead = match self.spec.trust {
            Trust::Confirm => self.facts(now).decide(),
            Trust::Rest => self.decide_by_rest(now),
        };
        let lead = self.by_order(lead);
        let cuts = self.cuts(&lead);
        if !cuts.is_empty() || !self.closes.is_empty() {
            // Nobody is opened before everybody else is closed; who is open already stays so.
            let open = lead.open.clone().filter(|open| self.lead.open.as_ref() == Some(open));
            self.publish(&Lead { open, ..lead.clone() }, &cuts, now);
            std::mem::take(&mut self.closes).into_iter().for_each(|close| self.send_close(close));
            self.cut(cuts, lead.cut);
        }
        self.note_lead(&lead, now);
        self.publish(&lead, &[], now);
        self.confirm(&lead);
        if self.spec.trust == Trust::Confirm {
            self.send_probes(now);
            self.remember(now);
        }
        self.send_checks(now);
        debug_assert_eq!(self.broken_invariant(), None);
    }

    /// What must always hold; the name of the first thing that does not.
    pub fn broken_invariant(&self) -> Option<&'static str> {
        if self.writers.len() > 1 {
            return Some("two members may have write sessions");
        }
        let open = self.lead.open.as_ref()?;
        if self.writers.iter().any(|w| w != open) {
            return Some("a writer other than the open one");
        }
        let proven = self.tracks.get(open).is_some_and(|t| t.proof.is_some());
        if !proven && self.spec.trust == Trust::Confirm {
            return Some("open to a member without proof");
        }
        let elsewhere = |s: &ServiceRoutes| s.targets.iter().any(|t| t.needs_confirmation && t.member != *open);
        self.routes.services.iter().any(elsewhere).then_some("the table has another write target")
    }

    /// An operator's word about the leader: no new sessions.
    fn by_order(&self, lead: Lead) -> Lead {
        let Some(track) = lead.open.as_ref().and_then(|open| self.tracks.get(open)) else { return lead };
        let reason = match track.orders.state {
            AdminState::Maint => Reason::Maintenance,
            AdminState::Drain => Reason::Drained,
            AdminState::Ready if track.weight_now() == 0 => Reason::Drained,
            AdminState::Ready => return lead,
        };
        Lead { open: None, reason, ..lead }
    }

    pub(super) fn facts(&self, now: Instant) -> Facts<'_> {
        Facts {
            now,
            started_at: self.started_at,
            policy: self.spec.on_dcs_loss,
            keeper: &self.keeper,
            tracks: &self.tracks,
            marks: &self.marks,
            writers: &self.writers,
            last_leader: self.last_leader.as_ref(),
            replaced: self.replaced,
            planned_until: self.planned.as_ref().map(|(_, since)| *since + PLANNED_HOLD_MAX),
            remembered: self.remembered,
        }
    }

    fn note_freshness(&mut self, now: Instant) {
        let fresh = match self.keeper.freshness(now) {
            Freshness::Never => return,
            Freshness::Fresh { .. } => true,
            Freshness::Lost { .. } => false,
        };
        if self.was_fresh != Some(fresh) {
            self.was_fresh = Some(fresh);
            let reason = if fresh { Reason::CheckPassed } else { Reason::DcsStale };
            self.log(Transition::Dcs { fresh, reason });
        }
    }

    /// A member whose key vanished goes when its checks are down too.
    fn forget_dead_members(&mut self, now: Instant) {
        if !matches!(self.keeper.freshness(now), Freshness::Fresh { .. }) || self.replaced {
            return;
        }
        let last_leader = self.last_leader.as_ref();
        let is_dead = |(name, track): &(&MemberName, &MemberTrack)| {
            let answered = track.asked || track.api.is_none();
            track.facts.is_none() && !track.is_static && !track.health.is_up() && answered && last_leader != Some(*name)
        };
        let dead: Vec<MemberName> = self.tracks.iter().filter(is_dead).map(|(name, _)| name.clone()).collect();
        for member in dead {
            self.tracks.remove(&member);
            self.writers.remove(&member);
            self.log(Transition::Member { member: member.clone(), known: false });
            self.closes.push(Effect::CloseSessions { member, services: None, reason: Reason::MemberGone });
        }
    }

    /// A key holder that proved itself ends the doubt about a replaced DCS and moves the mark.
    fn believe_leader(&mut self, now: Instant) {
        if !matches!(self.keeper.freshness(now), Freshness::Fresh { .. }) {
            return;
        }
        let Some(view) = self.keeper.current().cloned() else { return };
        let Some(key) = &view.leader else { return };
        if self.facts(now).leader_doubt(&view, key).is_some() {
            return;
        }
        self.replaced = false;
        let proof = self.tracks.get(&key.name).and_then(|t| t.proof.as_ref());
        let Some((system, timeline)) = proof.and_then(|p| Some((p.system_id.clone()?, p.timeline?))) else { return };
        if self.marks.get(&system).is_none_or(|mark| *mark < timeline) {
            self.marks.insert(system.clone(), timeline);
            self.log(Transition::TimelineMark { system_id: system, timeline });
        }
    }

    fn cuts(&self, lead: &Lead) -> Vec<MemberName> {
        let kept = |member: &MemberName| match &lead.keep {
            Keep::All => true,
            Keep::Only(one) => one == member,
            Keep::Nobody => false,
        };
        self.writers.iter().filter(|w| !kept(w)).cloned().collect()
    }

    /// Readers on a deposed primary are cut with the writers: their sessions could write, too.
    fn cut(&mut self, members: Vec<MemberName>, reason: Reason) {
        for member in members {
            self.writers.remove(&member);
            self.send_close(Effect::CloseSessions { member, services: None, reason });
        }
    }

    fn note_lead(&mut self, lead: &Lead, now: Instant) {
        if let Some(open) = &lead.open {
            self.writers.insert(open.clone());
            // Served by REST since the start: when the DCS comes back without a key, this is who led.
            self.last_leader.get_or_insert_with(|| open.clone());
        }
        if self.lead.open != lead.open || self.lead.reason != lead.reason {
            let (from, to) = (self.lead.open.clone(), lead.open.clone());
            self.log(Transition::Lead { from, to, reason: lead.reason });
            self.lead_since = now;
        }
        self.lead = lead.clone();
    }

    pub(super) fn ingredients<'a>(
        &'a self,
        lead: &'a Lead,
        cutting: &'a [MemberName],
        now: Instant,
    ) -> Ingredients<'a> {
        let view = self.keeper.current().map(Arc::as_ref).filter(|_| self.spec.trust == Trust::Confirm);
        Ingredients {
            now,
            trust: self.spec.trust,
            cluster: &self.spec.name,
            services: &self.spec.services,
            ttl: view.map_or_else(|| crate::model::ClusterSettings::default().ttl, |v| v.settings.ttl),
            view,
            tracks: &self.tracks,
            lead,
            cutting,
            opened: &self.opened,
            previous: &self.routes,
        }
    }

    fn publish(&mut self, lead: &Lead, cutting: &[MemberName], now: Instant) {
        let mut table = self.ingredients(lead, cutting, now).table();
        if table == *self.routes {
            return;
        }
        table.generation += 1;
        let table = Arc::new(table);
        self.log_targets(&table);
        for service in &table.services {
            self.opened.extend(service.targets.iter().map(|target| (service.spec.name.clone(), target.member.clone())));
        }
        self.routes = table.clone();
        self.effects.push_back(Effect::PublishRoutes(table));
    }

    fn log_targets(&mut self, table: &Routes) {
        let mut lines = Vec::new();
        for service in &table.services {
            let before = self.routes.service(&service.spec.name);
            for standing in &service.standings {
                let old = before.and_then(|b| b.standings.iter().find(|s| s.member == standing.member));
                if is_news(old, standing) {
                    lines.push(Transition::Target {
                        service: ServiceName::clone(&service.spec.name),
                        member: standing.member.clone(),
                        from: old.map_or("absent", |o| o.state.as_str()),
                        to: standing.state.as_str(),
                        reason: standing.reason,
                    });
                }
            }
        }
        lines.into_iter().for_each(|line| self.log(line));
    }

    fn confirm(&mut self, lead: &Lead) {
        let until = lead.open.is_some().then_some(lead.until);
        if let Some(until) = until.filter(|_| until != self.confirmed_until) {
            self.effects.push_back(Effect::Confirm { until });
        }
        self.confirmed_until = until;
    }

    fn send_probes(&mut self, now: Instant) {
        let timing = self.spec.check.clone();
        let names: Vec<MemberName> = self.tracks.keys().cloned().collect();
        for member in names {
            let urgency = self.urgency(&member, now);
            let number = self.probe_number + 1;
            let Some(track) = self.tracks.get_mut(&member) else { continue };
            if track.due(urgency, &timing, now).is_none_or(|at| at > now) {
                continue;
            }
            if let Some((address, limit)) = track.send(number, urgency, &timing, now) {
                self.probe_number = number;
                self.effects.push_back(Effect::Probe { member, number, address, limit });
            }
        }
    }

    fn urgency(&self, member: &MemberName, now: Instant) -> Urgency {
        let leads = self.last_leader.as_ref() == Some(member);
        let proven = self.tracks.get(member).is_some_and(|t| t.proof.is_some());
        let keyed = self.keeper.current().is_some_and(|v| v.leader.is_some());
        let late = self.keeper.confirmed_at().is_none_or(|at| now >= at + LATE_AFTER);
        match (leads, late) {
            (true, _) if keyed && !proven => Urgency::Proving,
            (true, _) if !keyed => Urgency::Keyless,
            (true, true) => Urgency::Vouching,
            (true, false) => Urgency::Routine,
            (false, true) => Urgency::Watching,
            (false, false) if !keyed || self.replaced => Urgency::Watching,
            (false, false) => Urgency::Routine,
        }
    }

    fn remember(&mut self, now: Instant) {
        if !matches!(self.keeper.freshness(now), Freshness::Fresh { .. }) {
            return;
        }
        let known = || self.tracks.iter().filter(|(_, t)| t.conn.is_some() && t.api.is_some());
        let is_same = |((name, track), (known, as_known)): ((&MemberName, &MemberTrack), (_, &RememberedMember))| {
            (name, &track.conn, &track.api) == (known, &as_known.conn, &as_known.api)
        };
        let same_members =
            known().count() == self.memory.members.len() && known().zip(&self.memory.members).all(is_same);
        if same_members && self.marks == self.memory.marks {
            return;
        }
        let members = known()
            .map(|(name, t)| (name.clone(), RememberedMember { conn: t.conn.clone(), api: t.api.clone() }))
            .collect();
        let memory = Memory { members, marks: self.marks.clone(), orders: self.memory.orders.clone() };
        self.memory = memory.clone();
        self.effects.push_back(Effect::Remember(memory));
    }

    pub(super) fn deadlines(&self) -> Vec<(Instant, &'static str)> {
        let mut all = Vec::new();
        if let Some(at) = self.keeper.confirmed_at() {
            all.push((at + LATE_AFTER, "the DCS read is late"));
            all.push((at + FRESH_FOR, "the view goes stale"));
            all.push((at + FRESH_FOR + STALE_KEYLESS_GRACE, "a stale view without a leader key ends"));
        } else {
            all.push((self.started_at + START_BY_REST_AFTER, "remembered members may be served by REST"));
        }
        all.extend(self.keeper.lease_end().map(|at| (at, "the leader's lease ends")));
        all.extend(
            self.planned.as_ref().map(|(_, since)| (*since + PLANNED_HOLD_MAX, "a requested switchover took too long")),
        );
        all.extend(self.graces().map(|at| (at, "the grace of a member that is down ends")));
        all.extend(self.drain_ends().map(|at| (at, "the drain of a member in maintenance ends")));
        for track in self.tracks.values().filter(|track| track.orders.state != AdminState::Maint) {
            all.extend(track.checks.values().map(|check| (check.due(), "a check is due")));
        }
        if self.spec.trust == Trust::Rest {
            return all;
        }
        for (member, track) in &self.tracks {
            let urgency = self.urgency(member, self.now);
            all.extend(track.due(urgency, &self.spec.check, self.now).map(|at| (at, "a probe is due")));
            all.extend(track.deadlines());
            all.extend(track.proof.as_ref().map(|p| (p.at + KEYLESS_PROOF_MAX, "a proof grows old")));
        }
        all
    }

    pub(super) fn track(&mut self, name: &MemberName, now: Instant) -> &mut MemberTrack {
        let timing = &self.spec.check;
        let orders = self.memory.orders.get(name).copied().unwrap_or_default();
        self.tracks.entry(name.clone()).or_insert_with(|| {
            let mut track = MemberTrack::new(timing, now);
            track.orders = orders;
            track
        })
    }

    pub(super) fn is_vouched_by_key(&self, member: &MemberName) -> bool {
        self.last_leader.as_ref() == Some(member) || self.tracks.get(member).is_some_and(|t| t.facts.is_some())
    }

    pub(super) fn next_number(&mut self) -> u64 {
        self.probe_number += 1;
        self.probe_number
    }

    pub(super) fn log(&mut self, transition: Transition) {
        self.effects.push_back(Effect::Log(transition));
    }
}

/// A member that is down may be so for one reason after the other; that is no transition.
fn is_news(old: Option<&Standing>, new: &Standing) -> bool {
    let quiet = matches!(new.state, TargetState::Down | TargetState::Unknown);
    old.is_none_or(|old| old.state != new.state || (old.reason != new.reason && !quiet))
}
