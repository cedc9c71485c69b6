//! Derives the table: how every member stands to every service.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::model::member::{tag_is_true, tags_say_offline};
use crate::model::{
    ClusterView, HostPort, Lsn, MemberFacts, MemberName, Reason, RestRole, Role, ServiceSpec, Tags, Trust,
};

use super::lead::Lead;
use super::routes::{Routes, ServiceRoutes, Standing, Target, TargetState};
use super::track::MemberTrack;

/// A lagging member is a target again below this share of `max_lag`, so that it does not flap.
const LAG_RETURN: (u64, u64) = (3, 4);

/// What a table is made from.
pub struct Ingredients<'a> {
    pub now: Instant,
    pub trust: Trust,
    pub cluster: &'a Arc<str>,
    pub services: &'a [Arc<ServiceSpec>],
    pub view: Option<&'a ClusterView>,
    pub tracks: &'a BTreeMap<MemberName, MemberTrack>,
    pub lead: &'a Lead,
    /// Members whose sessions are all about to be closed: nobody is sent there before that.
    pub cutting: &'a [MemberName],
    /// Members that may have write sessions; cancel requests go there too.
    pub writers: &'a BTreeSet<MemberName>,
    pub ttl: Duration,
    pub previous: &'a Routes,
}

type Verdict = (TargetState, Reason);

impl Ingredients<'_> {
    /// A table without a generation number of its own: it takes the previous one's.
    pub fn table(&self) -> Routes {
        let services = self.services.iter().map(|spec| self.service(spec)).collect();
        Routes { cluster: self.cluster.clone(), generation: self.previous.generation, services }
    }

    fn service(&self, spec: &Arc<ServiceSpec>) -> ServiceRoutes {
        let before = self.previous.service(&spec.name);
        let tiers: Vec<Role> = spec.tiers().collect();
        let verdicts: Vec<Vec<(&MemberName, Verdict)>> = tiers
            .iter()
            .map(|role| self.tracks.iter().map(|(name, track)| (name, self.judge(spec, *role, name, track))).collect())
            .collect();
        let open = |tier: &Vec<(&MemberName, Verdict)>| tier.iter().any(|(_, v)| v.0 == TargetState::Open);
        let used = verdicts.iter().position(open);
        let targets = used.map_or_else(Vec::new, |tier| self.targets(spec, tiers[tier], &verdicts[tier]));
        let wait = targets.is_empty().then(|| {
            let reason = if spec.role == Role::Primary { self.lead.reason } else { Reason::NoTarget };
            let since = before.and_then(|b| b.wait).filter(|w| w.0 == reason).map_or(self.now, |w| w.1);
            (reason, since)
        });
        ServiceRoutes {
            hold_limit: spec.hold.limit(self.ttl),
            cancel: self.cancel(spec),
            standings: self.standings(&verdicts, used, before),
            spec: spec.clone(),
            targets,
            wait,
        }
    }

    fn targets(&self, spec: &ServiceSpec, role: Role, tier: &[(&MemberName, Verdict)]) -> Vec<Target> {
        let open = tier.iter().filter(|(_, v)| v.0 == TargetState::Open);
        open.filter_map(|(name, _)| {
            let address = self.tracks.get(*name).and_then(|t| address(t, spec))?;
            let needs_confirmation = role == Role::Primary;
            let weight = crate::model::service::WEIGHT_DEFAULT;
            Some(Target { member: (*name).clone(), address, role, needs_confirmation, weight, risen_at: None })
        })
        .collect()
    }

    fn standings(
        &self,
        tiers: &[Vec<(&MemberName, Verdict)>],
        used: Option<usize>,
        before: Option<&ServiceRoutes>,
    ) -> Vec<Standing> {
        let Some(own) = tiers.first() else { return Vec::new() };
        let standing = |index: usize, name: &MemberName, own: Verdict| {
            let (state, reason) = match tiers.iter().position(|tier| tier[index].1.0 == TargetState::Open) {
                Some(tier) if Some(tier) == used => tiers[tier][index].1,
                Some(_) => (TargetState::Standby, Reason::BackupUnused),
                None => own,
            };
            let same = before.and_then(|b| b.standings.iter().find(|s| s.member == *name));
            let since = same.filter(|s| s.state == state && s.reason == reason).map_or(self.now, |s| s.since);
            Standing { member: name.clone(), state, reason, since }
        };
        own.iter().enumerate().map(|(index, (name, verdict))| standing(index, name, *verdict)).collect()
    }

    fn judge(&self, spec: &ServiceSpec, role: Role, name: &MemberName, track: &MemberTrack) -> Verdict {
        if address(track, spec).is_none() {
            return (TargetState::Excluded, Reason::NoAddress);
        }
        if role == Role::Primary {
            return self.judge_primary(name, track);
        }
        if self.cutting.contains(name) {
            return (TargetState::Standby, Reason::NotMyRole);
        }
        if !track.health.is_up() {
            return down_or_unknown(track);
        }
        let Some((_, answer)) = &track.answer else { return (TargetState::Unknown, Reason::NotChecked) };
        if answer.is_writable() || answer.role == RestRole::StandbyLeader {
            return (TargetState::Standby, Reason::NotMyRole);
        }
        // Live SQL answered, which is more than the cached `state` knows.
        if !answer.is_in_recovery() {
            return (TargetState::Excluded, Reason::NotRunning);
        }
        self.judge_reader(spec, role, name, track)
    }

    fn judge_reader(&self, spec: &ServiceSpec, role: Role, name: &MemberName, track: &MemberTrack) -> Verdict {
        let no_tags = Tags::new();
        let answered = track.answer.as_ref().map_or(&no_tags, |(_, a)| &a.tags);
        // A key that nobody could read says nothing about tags.
        let written = track.facts.as_ref().filter(|f| **f != MemberFacts::default());
        let tags = written.map_or(answered, |f| &f.tags);
        let offline = track.offline.unwrap_or_else(|| tags_say_offline(tags));
        match role {
            Role::Offline if !offline => return (TargetState::Standby, Reason::NotMyRole),
            Role::Replica if offline => return (TargetState::Standby, Reason::Offline),
            Role::Replica if tag_is_true(tags, "noloadbalance") => {
                return (TargetState::Excluded, Reason::NoLoadBalance);
            }
            _ => {}
        }
        if spec.filter.streaming && !is_streaming(track) {
            return (TargetState::Excluded, Reason::NotStreaming);
        }
        match spec.filter.max_lag {
            Some(max) if self.is_lagging(spec, name, track, max) => (TargetState::Excluded, Reason::Lagging),
            _ => (TargetState::Open, Reason::InService),
        }
    }

    fn judge_primary(&self, name: &MemberName, track: &MemberTrack) -> Verdict {
        let lead = self.lead;
        if lead.open.as_ref() == Some(name) {
            return (TargetState::Open, lead.reason);
        }
        let named = self.view.and_then(|v| v.leader.as_ref()).is_some_and(|l| l.name == *name);
        if named || lead.keep == super::lead::Keep::Only(name.clone()) {
            return (TargetState::Waiting, lead.reason);
        }
        if track.health.is_up() { (TargetState::Standby, Reason::NotMyRole) } else { down_or_unknown(track) }
    }

    fn is_lagging(&self, spec: &ServiceSpec, name: &MemberName, track: &MemberTrack, max: u64) -> bool {
        let was = self
            .previous
            .service(&spec.name)
            .is_some_and(|s| s.standings.iter().any(|s| s.member == *name && s.reason == Reason::Lagging));
        let limit = if was { max / LAG_RETURN.1 * LAG_RETURN.0 } else { max };
        lag(self.view, track).is_some_and(|bytes| bytes > limit)
    }

    fn cancel(&self, spec: &ServiceSpec) -> Vec<HostPort> {
        let reached = |(name, track): (&MemberName, &MemberTrack)| {
            let wanted = match spec.role {
                Role::Primary => self.lead.open.as_ref() == Some(name) || self.writers.contains(name),
                _ => track.health.is_up(),
            };
            if wanted { address(track, spec) } else { None }
        };
        self.tracks.iter().filter_map(reached).collect()
    }
}

/// Where this service reaches the member.
pub fn address(track: &MemberTrack, spec: &ServiceSpec) -> Option<HostPort> {
    let conn = track.conn.as_ref()?;
    Some(HostPort::new(conn.host.clone(), spec.port.unwrap_or(conn.port)))
}

/// Bytes of replay lag: the leader's position in the DCS against the latest known of the member.
/// None when either is unknown.
pub fn lag(view: Option<&ClusterView>, track: &MemberTrack) -> Option<u64> {
    let view = view?;
    let leader = view.leader.as_ref().and_then(|l| view.members.get(&l.name)).and_then(|m| m.xlog_location);
    let ahead: Lsn = view.optime.max(leader)?;
    let told = track.answer.as_ref().and_then(|(_, a)| a.replayed);
    let written = track.facts.as_ref().and_then(|f| f.replay_lsn.or(f.xlog_location));
    Some(told.max(written)?.behind(ahead))
}

fn is_streaming(track: &MemberTrack) -> bool {
    let told = track.answer.as_ref().map(|(_, a)| a.replication_state.as_deref());
    let written = track.facts.as_ref().and_then(|f| f.replication_state.as_deref());
    told.unwrap_or(written) == Some("streaming")
}

fn down_or_unknown(track: &MemberTrack) -> Verdict {
    let state = if track.health.is_known() { TargetState::Down } else { TargetState::Unknown };
    (state, track.health_reason)
}
