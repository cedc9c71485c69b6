//! What the router machine knows, as one value for the status page, the metrics and the logs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::model::{
    AdminState, ApiAddress, CheckSpec, CheckStatus, HostPort, KeyProblem, MemberName, Reason, RestRole, ServiceName,
    ServiceSpec, Tags, Timeline, Trust,
};

use super::checks::{CheckTrack, Tally};
use super::health::Health;
use super::lag::{LeaderPosition, lag};
use super::lead::PLANNED_HOLD_MAX;
use super::router::Router;
use super::track::{MemberTrack, Proof};
use super::view::Freshness;
use super::{Routes, Suspicion};

/// How much the view is to be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DcsState {
    Starting,
    Fresh,
    Lost,
    Replaced,
}

impl DcsState {
    pub const ALL: [DcsState; 4] = [DcsState::Starting, DcsState::Fresh, DcsState::Lost, DcsState::Replaced];

    pub fn as_str(self) -> &'static str {
        match self {
            DcsState::Starting => "starting",
            DcsState::Fresh => "fresh",
            DcsState::Lost => "lost",
            DcsState::Replaced => "replaced",
        }
    }
}

#[derive(Debug, Clone)]
pub struct Snapshot {
    pub routes: Arc<Routes>,
    pub dcs: DcsSnapshot,
    pub lead: LeadSnapshot,
    pub trust: Trust,
    pub members: Vec<MemberSnapshot>,
    /// Highest proven timeline by system identifier.
    pub marks: BTreeMap<String, Timeline>,
    pub problems: Vec<KeyProblem>,
}

#[derive(Debug, Clone)]
pub struct DcsSnapshot {
    pub state: DcsState,
    pub cluster_id: Option<u64>,
    pub revision: Option<i64>,
    /// Send time of the last read that agreed with the view.
    pub confirmed_at: Option<Instant>,
    pub lease_end: Option<Instant>,
    pub pause: bool,
}

#[derive(Debug, Clone)]
pub struct LeadSnapshot {
    /// Whom the leader key names.
    pub key: Option<MemberName>,
    /// Who takes new write sessions.
    pub open: Option<MemberName>,
    pub reason: Reason,
    pub since: Instant,
    pub proof: Option<Proof>,
    /// A requested switchover holds new sessions until then.
    pub planned_until: Option<Instant>,
}

/// One check as HAProxy would show it.
#[derive(Debug, Clone)]
pub struct CheckSnapshot {
    /// None: the question that serves all services of a cluster with `trust: confirm`.
    pub spec: Option<Arc<CheckSpec>>,
    /// None: not checked yet.
    pub up: Option<bool>,
    pub status: CheckStatus,
    pub code: Option<u16>,
    pub took: Duration,
    /// The counter, from 0 to rise + fall - 1.
    pub points: u32,
    pub rise: u32,
    pub fall: u32,
    /// Failures that moved the counter.
    pub failures: u64,
    /// Changes from up to down.
    pub downs: u64,
    /// Time spent down since the start, the present one included.
    pub down_for: Duration,
    /// Last change between up and down.
    pub since: Instant,
    pub reason: Reason,
    pub problem: String,
}

#[derive(Debug, Clone)]
pub struct MemberSnapshot {
    pub name: MemberName,
    pub conn: Option<HostPort>,
    pub api: Option<ApiAddress>,
    pub has_key: bool,
    /// None: not checked yet.
    pub up: Option<bool>,
    pub reason: Reason,
    pub since: Instant,
    pub role: Option<RestRole>,
    pub state: Option<String>,
    pub timeline: Option<Timeline>,
    /// Bytes behind the leader.
    pub lag: Option<u64>,
    pub proof: Option<Proof>,
    /// Why it is not proven to accept writes.
    pub doubt: Reason,
    pub tags: Tags,
    pub admin: AdminState,
    /// As configured or ordered.
    pub weight: u32,
    /// The question that serves all services; None with `trust: rest`.
    pub check: Option<CheckSnapshot>,
    /// Checks of their own, by path.
    pub checks: Vec<CheckSnapshot>,
}

impl MemberSnapshot {
    /// The check that decides for this service in its own role.
    pub fn check_of(&self, service: &ServiceSpec) -> Option<&CheckSnapshot> {
        let wanted = service.check_of(service.role);
        let own = self.checks.iter().find(|check| check.spec.as_deref() == Some(&wanted));
        own.or(self.check.as_ref())
    }
}

/// What the data plane counted for one target of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetSnapshot {
    pub member: MemberName,
    /// Open sessions.
    pub sessions: usize,
    pub sessions_most: usize,
    pub sessions_total: u64,
    pub bytes_to_server: u64,
    pub bytes_to_client: u64,
    pub connects_failed: u64,
}

/// What the data plane counted for one service.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceSnapshot {
    pub service: ServiceName,
    /// Connected clients, served or not.
    pub clients: usize,
    pub clients_most: usize,
    pub clients_total: u64,
    pub sessions_total: u64,
    /// Open sessions by member; a member without any may be missing.
    pub sessions: Vec<(MemberName, usize)>,
    /// Sessions that ended, by why.
    pub closed: Vec<(Reason, u64)>,
    /// Clients that ended without an answer from a server, by why.
    pub refused: Vec<(Reason, u64)>,
    /// Errors that clients were told by the router itself, by SQLSTATE.
    pub told: Vec<(&'static str, u64)>,
    /// Startups that were sent to another target, or to the same one again.
    pub replays_total: u64,
    pub cancels_total: u64,
    pub bytes_to_server: u64,
    pub bytes_to_client: u64,
    pub connects_failed: Vec<(Suspicion, u64)>,
    /// Every member that ever was a target here.
    pub targets: Vec<TargetSnapshot>,
    /// Clients that wait for a free place under `maxconn`.
    pub queued: usize,
    pub queued_most: usize,
    pub queued_total: u64,
    pub held: usize,
    /// How long the client that has waited longest is waiting now.
    pub held_longest: Duration,
    pub held_total: u64,
    pub hold_sum: Duration,
    pub hold_max: Duration,
    /// Connects under way, by member.
    pub connecting: Vec<(MemberName, usize)>,
}

impl ServiceSnapshot {
    pub fn sessions_open(&self) -> usize {
        self.sessions.iter().map(|(_, open)| open).sum()
    }
}

impl Router {
    pub fn snapshot(&self) -> Snapshot {
        let view = self.keeper.current();
        Snapshot {
            routes: self.routes.clone(),
            dcs: self.dcs_snapshot(),
            lead: self.lead_snapshot(),
            trust: self.spec.trust,
            members: self.tracks.iter().map(|(name, track)| self.member_snapshot(name, track)).collect(),
            marks: self.marks.clone(),
            problems: view.map_or_else(Vec::new, |v| v.problems.clone()),
        }
    }

    fn dcs_snapshot(&self) -> DcsSnapshot {
        let view = self.keeper.current();
        let state = match self.keeper.freshness(self.now) {
            Freshness::Never => DcsState::Starting,
            Freshness::Lost { .. } => DcsState::Lost,
            Freshness::Fresh { .. } if self.replaced => DcsState::Replaced,
            Freshness::Fresh { .. } => DcsState::Fresh,
        };
        let led = view.is_some_and(|v| v.leader.is_some());
        DcsSnapshot {
            state,
            cluster_id: view.map(|v| v.cluster_id),
            revision: view.map(|v| v.revision),
            confirmed_at: self.keeper.confirmed_at(),
            lease_end: self.keeper.lease_end().filter(|_| led),
            pause: view.is_some_and(|v| v.settings.pause),
        }
    }

    fn lead_snapshot(&self) -> LeadSnapshot {
        let key = self.keeper.current().and_then(|v| v.leader.as_ref()).map(|l| l.name.clone());
        let proven = self.lead.open.as_ref().or(key.as_ref()).and_then(|name| self.tracks.get(name));
        LeadSnapshot {
            open: self.lead.open.clone(),
            reason: self.lead.reason,
            since: self.lead_since,
            proof: proven.and_then(|t| t.proof.clone()),
            planned_until: self.planned.as_ref().map(|(_, since)| *since + PLANNED_HOLD_MAX),
            key,
        }
    }

    fn member_snapshot(&self, name: &MemberName, track: &MemberTrack) -> MemberSnapshot {
        let answer = track.answer.as_ref().map(|(_, answer)| answer);
        let facts = track.facts.as_ref();
        let view = self.keeper.current().map(Arc::as_ref);
        MemberSnapshot {
            name: name.clone(),
            conn: track.conn.clone(),
            api: track.api.clone(),
            has_key: facts.is_some(),
            up: track.health.is_known().then(|| track.health.is_up()),
            reason: track.health_reason,
            since: track.health_since,
            role: answer.map(|a| a.role),
            state: answer.map(|a| a.state.clone()),
            timeline: answer.and_then(|a| a.timeline).or(facts.and_then(|f| f.timeline)),
            lag: lag(LeaderPosition::known(self.spec.trust, view, &self.lead, &self.tracks), track),
            proof: track.proof.clone(),
            doubt: track.doubt,
            tags: facts.map_or_else(Tags::new, |f| f.tags.clone()),
            admin: track.orders.state,
            weight: track.weight_now(),
            check: (self.spec.trust == Trust::Confirm).then(|| self.common_check(track)),
            checks: track.checks.iter().map(|(spec, check)| self.own_check(spec, check)).collect(),
        }
    }

    fn common_check(&self, track: &MemberTrack) -> CheckSnapshot {
        let known = track.health.is_known();
        self.check_snapshot(None, &track.health, known, &track.tally, track.health_reason)
    }

    fn own_check(&self, spec: &Arc<CheckSpec>, check: &CheckTrack) -> CheckSnapshot {
        let known = check.last.is_some();
        self.check_snapshot(Some(spec.clone()), &check.health, known, &check.tally, check.reason)
    }

    fn check_snapshot(
        &self,
        spec: Option<Arc<CheckSpec>>,
        health: &Health,
        known: bool,
        tally: &Tally,
        reason: Reason,
    ) -> CheckSnapshot {
        CheckSnapshot {
            spec,
            up: known.then(|| health.is_up()),
            status: tally.status,
            code: tally.code,
            took: tally.took,
            points: health.points(),
            rise: health.rise(),
            fall: health.fall(),
            failures: tally.failures,
            downs: tally.downs,
            down_for: tally.down_for(known && !health.is_up() && tally.downs > 0, self.now),
            since: tally.since,
            reason,
            problem: tally.problem.clone(),
        }
    }
}
