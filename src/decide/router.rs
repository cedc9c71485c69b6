//! Root machine of one Patroni cluster: events and time in, effects out.
//!
//! Contract: call [`Router::handle`] for an event or [`Router::handle_timeout`] when the instant of
//! [`Router::poll_timeout`] has come (a spurious call is safe), then carry out every effect of
//! [`Router::poll_effect`] in order before the next event. Nothing here blocks or fails.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use crate::model::{
    CheckSpec, ClusterSpec, ClusterView, FailoverRequest, HostPort, LeaderKey, MemberFacts, MemberName, Reason,
    ServiceSpec, Timeline, Trust,
};

use super::checking::wanted;
use super::closing::{Lives, Opened};
use super::draining::Drains;
use super::lead::{Keep, Lead};
use super::rest;
use super::track::{Change, MemberTrack};
use super::view::{Verdict, ViewKeeper};
use super::{Effect, Event, Memory, Routes, Suspicion, Transition, ViewSource};

/// Key problems logged per view; all of them are in the status.
const PROBLEMS_LOGGED_MAX: usize = 5;

/// Decides for one Patroni cluster who is reached through which service.
#[derive(Debug, Clone)]
pub struct Router {
    pub(super) spec: Arc<ClusterSpec>,
    pub(super) started_at: Instant,
    pub(super) keeper: ViewKeeper,
    pub(super) tracks: BTreeMap<MemberName, MemberTrack>,
    pub(super) marks: BTreeMap<String, Timeline>,
    pub(super) writers: BTreeSet<MemberName>,
    pub(super) last_leader: Option<MemberName>,
    pub(super) replaced: bool,
    /// Leader keys created up to this revision came with a replaced DCS.
    pub(super) replaced_revision: i64,
    /// A request to leave the leader, and when it was first seen.
    pub(super) planned: Option<(FailoverRequest, Instant)>,
    pub(super) remembered: bool,
    pub(super) lead: Lead,
    pub(super) lead_since: Instant,
    pub(super) routes: Arc<Routes>,
    pub(super) confirmed_until: Option<Instant>,
    pub(super) was_fresh: Option<bool>,
    pub(super) memory: Memory,
    pub(super) probe_number: u64,
    /// Time of the latest call.
    pub(super) now: Instant,
    /// The HTTP checks that members have to pass, beside the common question.
    pub(super) wanted_checks: Vec<Arc<CheckSpec>>,
    /// With `trust: rest`, the one that tells the primary.
    pub(super) primary_check: Option<Arc<CheckSpec>>,
    /// Services that a reload removed; their sessions go on.
    pub(super) retired: Vec<Arc<ServiceSpec>>,
    pub(super) lives: Lives,
    pub(super) drains: Drains,
    pub(super) opened: Opened,
    /// Closes and drains that wait for the table that comes before them.
    pub(super) closes: Vec<Effect>,
    pub(super) effects: VecDeque<Effect>,
}

impl Router {
    pub fn new(spec: Arc<ClusterSpec>, memory: Memory, now: Instant) -> Router {
        let routes = Routes { cluster: spec.name.clone(), generation: 0, services: Vec::new() };
        let lead = Lead { open: None, until: now, reason: Reason::Starting, keep: Keep::All, cut: Reason::Starting };
        let mut router = Router {
            started_at: now,
            keeper: ViewKeeper::default(),
            tracks: BTreeMap::new(),
            marks: memory.marks.clone(),
            writers: BTreeSet::new(),
            last_leader: None,
            replaced: false,
            replaced_revision: 0,
            planned: None,
            remembered: !memory.members.is_empty(),
            lead,
            lead_since: now,
            routes: Arc::new(routes),
            confirmed_until: None,
            was_fresh: None,
            probe_number: 0,
            now,
            wanted_checks: wanted(&spec, &[]),
            primary_check: rest::primary_check(&spec).map(Arc::new),
            retired: Vec::new(),
            lives: Lives::new(),
            drains: Drains::new(),
            opened: Opened::new(),
            closes: Vec::new(),
            effects: VecDeque::new(),
            spec,
            memory,
        };
        router.recall(now);
        router.spread_checks(now);
        router.settle(now);
        router
    }

    pub fn handle(&mut self, event: Event, now: Instant) {
        match event {
            // The last word of a DCS that a reload took away.
            Event::View { .. } if self.spec.trust == Trust::Rest => {}
            Event::View { view, source } => self.on_view(view, &source, now),
            Event::ProbeDone { member, number, outcome } => {
                let timing = &self.spec.check;
                let track = self.tracks.get_mut(&member);
                if let Some(change) = track.and_then(|t| t.probe_done(number, outcome, timing, now)) {
                    self.on_change(&member, change, now);
                }
            }
            Event::PortProbeDone { member, number, outcome } => {
                let vouched = self.is_vouched_by_key(&member);
                let track = self.tracks.get_mut(&member);
                if let Some(change) = track.and_then(|t| t.port_done(number, outcome, vouched, now)) {
                    self.on_change(&member, change, now);
                }
            }
            Event::Suspected { member, suspicion } => self.on_suspicion(&member, suspicion, now),
            Event::CheckDone { member, number, outcome } => self.on_check(&member, number, outcome, now),
            Event::ErrorLimit { service, member } => self.on_error_limit(&service, &member, now),
            Event::Order { member, order } => self.on_order(&member, order, now),
            Event::Spec(spec) => self.on_spec(spec, now),
        }
        self.settle(now);
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        self.settle(now);
    }

    #[must_use]
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When to call [`Router::handle_timeout`] next, and why.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let future = |(at, _): &(Instant, &'static str)| *at > self.now;
        self.deadlines().into_iter().filter(future).min()
    }

    pub fn routes(&self) -> &Arc<Routes> {
        &self.routes
    }

    pub fn spec(&self) -> &Arc<ClusterSpec> {
        &self.spec
    }

    /// Where each member's PostgreSQL is.
    pub fn hosts(&self) -> impl Iterator<Item = (&MemberName, &str)> {
        self.tracks.iter().filter_map(|(name, track)| Some((name, track.conn.as_ref()?.host.as_str())))
    }

    // -- what comes in ----------------------------------------------------------------------------

    fn recall(&mut self, now: Instant) {
        for (name, remembered) in self.memory.members.clone() {
            let track = self.track(&name, now);
            track.conn = remembered.conn;
            track.api = remembered.api;
        }
        self.apply_static(now);
    }

    fn on_view(&mut self, view: Arc<ClusterView>, source: &ViewSource, now: Instant) {
        let before = self.keeper.current().cloned();
        match self.keeper.offer(view, source, now) {
            Verdict::Ignored | Verdict::Refreshed => return,
            Verdict::Accepted => {}
            Verdict::Replaced => {
                self.replaced = true;
                self.replaced_revision = self.keeper.current().map_or(0, |v| v.revision);
                self.tracks.values_mut().for_each(|t| t.doubt(Reason::DcsReplaced, now));
                self.log(Transition::Dcs { fresh: false, reason: Reason::DcsReplaced });
            }
        }
        let Some(view) = self.keeper.current().cloned() else { return };
        self.update_members(&view, now);
        self.note_leader(before.as_deref(), &view, source, now);
        self.note_request(&view, now);
        let old = before.as_ref().map_or(&[][..], |b| &b.problems);
        let news: Vec<_> = view.problems.iter().filter(|p| !old.contains(p)).take(PROBLEMS_LOGGED_MAX).collect();
        for problem in news {
            self.log(Transition::KeyProblem { key: problem.key.clone(), problem: problem.problem.clone() });
        }
    }

    fn update_members(&mut self, view: &ClusterView, now: Instant) {
        for (name, facts) in &view.members {
            let known = self.tracks.contains_key(name);
            let track = self.track(name, now);
            let moved = (facts.conn.is_some() && track.conn != facts.conn)
                || (facts.api.is_some() && track.api != facts.api)
                || track.facts.is_none();
            // A malformed key comes without any fact: the member stays what it was.
            if track.facts.is_none() || *facts != MemberFacts::default() {
                track.facts = Some(facts.clone());
            }
            track.conn = facts.conn.clone().or(track.conn.take());
            track.api = facts.api.clone().or(track.api.take());
            if moved {
                track.hurry();
                let hosts: BTreeSet<String> = [track.conn.as_ref(), track.api.as_ref().map(|a| &a.at)]
                    .into_iter()
                    .flatten()
                    .map(|at| at.host.clone())
                    .collect();
                self.effects.extend(hosts.into_iter().map(|host| Effect::ForgetAddress { host }));
            }
            if !known {
                self.log(Transition::Member { member: name.clone(), known: true });
            }
        }
        for (name, track) in &mut self.tracks {
            if !view.members.contains_key(name) && track.facts.take().is_some() {
                track.hurry();
            }
        }
        self.apply_static(now);
    }

    /// The configuration's facts about members come on top of the DCS's.
    pub(super) fn apply_static(&mut self, now: Instant) {
        for (name, given) in self.spec.clone().members.iter() {
            let complete = given.host.is_some() && given.api.is_some();
            if !complete && !self.tracks.contains_key(name) {
                continue;
            }
            let track = self.track(name, now);
            track.is_static = complete;
            track.offline = given.offline;
            track.weight = given.weight;
            if let Some(host) = &given.host {
                let port = track.conn.as_ref().map_or(5432, |c| c.port);
                track.conn = Some(HostPort::new(host.clone(), port));
            }
            if let (Some(port), Some(conn)) = (given.port, &mut track.conn) {
                conn.port = port;
            }
            if given.api.is_some() {
                track.api = given.api.clone();
            }
        }
    }

    fn note_leader(&mut self, before: Option<&ClusterView>, view: &ClusterView, source: &ViewSource, now: Instant) {
        let old = before.and_then(|v| v.leader.as_ref());
        let new = view.leader.as_ref();
        if let Some(key) = new {
            // Whoever takes the key now does so in the DCS as it is.
            self.replaced &= key.create_revision <= self.replaced_revision;
            let taken = old.is_none_or(|old| old.create_revision != key.create_revision);
            let previous = self.last_leader.replace(key.name.clone());
            let again = previous.as_ref() == Some(&key.name);
            if let Some(previous) = previous.filter(|_| !again) {
                self.close_readers_of_deposed(previous);
            }
            let track = self.track(&key.name, now);
            match (again, taken) {
                (false, _) => track.named(now),
                (true, true) if track.proof.is_none() => track.named(now),
                // Deleted and created again by the same member: its proof stands, and is looked at.
                (true, true) if old.is_none() => track.hurry(),
                // Who held it in between was not seen.
                (true, true) => track.doubt(Reason::LeaderUnproven, now),
                (true, false) => {}
            }
        } else if let Some(track) = self.last_leader.as_ref().and_then(|n| self.tracks.get_mut(n)) {
            track.hurry();
        }
        if old.map(|l| (&l.name, l.create_revision)) != new.map(|l| (&l.name, l.create_revision)) {
            let name = |key: Option<&LeaderKey>| key.map(|l| l.name.clone());
            self.log(Transition::LeaderKey { from: name(old), to: name(new), revision: view.revision });
            if *source == ViewSource::Watch {
                self.effects.push_back(Effect::ReadNow);
            }
        }
    }

    /// A member may have been promoted without ever having been opened here; sessions that came to
    /// it as readers could write by now.
    fn close_readers_of_deposed(&mut self, member: MemberName) {
        let harmless = self.tracks.get(&member).is_none_or(MemberTrack::is_harmless);
        if !harmless && !self.replaced && !self.writers.contains(&member) {
            let reason = Reason::LeaderMoved;
            self.closes.push(Effect::CloseSessions { member, services: None, reason });
        }
    }

    fn note_request(&mut self, view: &ClusterView, now: Instant) {
        let leader = view.leader.as_ref().map(|l| &l.name);
        let leaves = view.failover.as_ref().filter(|f| f.scheduled_at.is_none());
        let leaves = leaves.filter(|f| f.leader.is_some() && f.leader.as_ref() == leader);
        self.planned = leaves.map(|request| match self.planned.take() {
            Some((known, since)) if known == *request => (known, since),
            _ => (request.clone(), now),
        });
    }

    fn on_suspicion(&mut self, member: &MemberName, suspicion: Suspicion, now: Instant) {
        let leads = self.last_leader.as_ref() == Some(member) || self.lead.open.as_ref() == Some(member);
        let Some(track) = self.tracks.get_mut(member) else { return };
        if leads && track.proof.is_some() {
            track.doubt(suspicion.reason(), now);
        } else {
            track.hurry();
        }
    }

    fn on_change(&mut self, member: &MemberName, change: Change, now: Instant) {
        if change.ask_port {
            self.ask_port(member, now);
        }
        let Some(track) = self.tracks.get(member) else { return };
        if change.went_up || change.went_down {
            let (up, reason) = (change.went_up, track.health_reason);
            self.log(Transition::Health { member: member.clone(), up, reason });
        }
    }

    fn ask_port(&mut self, member: &MemberName, now: Instant) {
        let number = self.next_number();
        let timing = self.spec.check.clone();
        let Some(track) = self.tracks.get_mut(member) else { return };
        if let Some((address, limit)) = track.send_port(number, &timing, now) {
            self.effects.push_back(Effect::ProbePort { member: member.clone(), number, address, limit });
        }
    }
}
