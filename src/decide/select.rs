//! Who may serve a role: the verdict about one member in one tier of a service, by both trusts.
//!
//! A session to a member that is out of recovery can write, whatever the service is called. So in
//! every tier such a member is a target only as the open leader (`lead.open`).

use crate::model::member::{tag_is_true, tags_say_offline};
use crate::model::{AdminState, CheckSpec, MemberFacts, MemberName, Reason, RestRole, Role, ServiceSpec, Tags, Trust};

use super::checks::CheckTrack;
use super::lag;
use super::lead::Keep;
use super::routes::TargetState;
use super::table::Ingredients;
use super::track::MemberTrack;

pub(super) type Verdict = (TargetState, Reason);

const NOT_MY_ROLE: Verdict = (TargetState::Standby, Reason::NotMyRole);

/// A service's own role or one of its backups.
pub(super) struct Tier<'a> {
    pub spec: &'a ServiceSpec,
    pub role: Role,
    /// The HTTP check that its members have to pass. None: the question that serves all services.
    check: Option<CheckSpec>,
}

impl<'a> Tier<'a> {
    pub fn new(spec: &'a ServiceSpec, role: Role, trust: Trust) -> Tier<'a> {
        let wanted = trust == Trust::Rest || (spec.check.path.is_some() && role == spec.role);
        Tier { spec, role, check: wanted.then(|| spec.check_of(role)) }
    }

    pub fn check_of<'t>(&self, track: &'t MemberTrack) -> Option<&'t CheckTrack> {
        track.checks.get(self.check.as_ref()?)
    }
}

impl Ingredients<'_> {
    pub(super) fn leads(&self, name: &MemberName) -> bool {
        self.lead.open.as_ref() == Some(name)
    }

    pub(super) fn judge(&self, tier: &Tier<'_>, name: &MemberName, track: &MemberTrack) -> Verdict {
        if track.conn.is_none() {
            return (TargetState::Excluded, Reason::NoAddress);
        }
        if track.orders.state == AdminState::Maint {
            return (TargetState::Maint, Reason::Maintenance);
        }
        let verdict = match self.trust {
            Trust::Confirm => self.judge_confirmed(tier, name, track),
            Trust::Rest => self.judge_checked(tier, name, track),
        };
        if is_drained(track) {
            return if verdict.0 == TargetState::Down { verdict } else { (TargetState::Drain, Reason::Drained) };
        }
        let members = &tier.spec.filter.members;
        if !members.is_empty() && !members.contains(name) {
            return (TargetState::Excluded, Reason::NotSelected);
        }
        verdict
    }

    // -- trust: confirm ---------------------------------------------------------------------------

    fn judge_confirmed(&self, tier: &Tier<'_>, name: &MemberName, track: &MemberTrack) -> Verdict {
        if tier.role == Role::Primary {
            return self.judge_primary(name, track);
        }
        if tier.role.includes_primary() && self.leads(name) {
            return (TargetState::Open, self.lead.reason);
        }
        if self.cutting.contains(name) {
            return NOT_MY_ROLE;
        }
        if !track.health.is_up() {
            return down_or_unknown(track);
        }
        let Some((_, answer)) = &track.answer else { return (TargetState::Unknown, Reason::NotChecked) };
        if answer.location.is_some() {
            return NOT_MY_ROLE;
        }
        // Live SQL answered, which is more than the cached `state` knows.
        if !answer.is_in_recovery() {
            return (TargetState::Excluded, Reason::NotRunning);
        }
        let refusal = self.refuse_role(tier, name, track, answer.role);
        let refusal = refusal.or_else(|| self.refuse_by_filter(tier, name, track));
        refusal.or_else(|| refuse_by_own_check(tier, track)).unwrap_or((TargetState::Open, Reason::InService))
    }

    fn judge_primary(&self, name: &MemberName, track: &MemberTrack) -> Verdict {
        if self.leads(name) {
            return (TargetState::Open, self.lead.reason);
        }
        if self.key_names(name) || self.lead.keep == Keep::Only(name.clone()) {
            return (TargetState::Waiting, self.lead.reason);
        }
        if track.health.is_up() { NOT_MY_ROLE } else { down_or_unknown(track) }
    }

    fn key_names(&self, name: &MemberName) -> bool {
        self.view.and_then(|v| v.leader.as_ref()).is_some_and(|l| l.name == *name)
    }

    /// Why a member in recovery is not of this role, as Patroni's paths mean it (patroni/api.py, `do_GET`).
    fn refuse_role(&self, tier: &Tier<'_>, name: &MemberName, track: &MemberTrack, said: RestRole) -> Option<Verdict> {
        let tags = self.tags(track);
        let offline = track.offline.unwrap_or_else(|| tags_say_offline(tags));
        let leads_standbys = said == RestRole::StandbyLeader && self.key_names(name);
        match tier.role {
            Role::StandbyLeader => return (!leads_standbys).then_some(NOT_MY_ROLE),
            Role::Replica | Role::Offline | Role::Sync | Role::Async if said != RestRole::Replica => {
                return Some(NOT_MY_ROLE);
            }
            Role::Offline => return (!offline).then_some(NOT_MY_ROLE),
            Role::Replica if offline => return Some((TargetState::Standby, Reason::Offline)),
            Role::Sync | Role::Async => match self.view.map(|v| v.sync_standbys.contains(name)) {
                None => return Some((TargetState::Unknown, Reason::Starting)),
                Some(sync) if sync != (tier.role == Role::Sync) => return Some(NOT_MY_ROLE),
                Some(_) => {}
            },
            // To `/read-only` it counts like a leader, whatever its tags.
            Role::ReadOnly if leads_standbys => return None,
            Role::Any | Role::Primary => return None,
            Role::Replica | Role::ReadOnly => {}
        }
        tag_is_true(tags, "noloadbalance").then_some((TargetState::Excluded, Reason::NoLoadBalance))
    }

    // -- trust: rest ------------------------------------------------------------------------------

    fn judge_checked(&self, tier: &Tier<'_>, name: &MemberName, track: &MemberTrack) -> Verdict {
        let Some(check) = tier.check_of(track).filter(|check| check.health.is_known()) else {
            return (TargetState::Unknown, Reason::NotChecked);
        };
        if !check.is_up() {
            return if check.says_running() { NOT_MY_ROLE } else { (TargetState::Down, check.reason) };
        }
        if tier.role == Role::Primary {
            let state = if self.leads(name) { TargetState::Open } else { TargetState::Waiting };
            return (state, self.lead.reason);
        }
        if tier.role.includes_primary() && self.leads(name) {
            return (TargetState::Open, self.lead.reason);
        }
        // Its check may still pass by the counter.
        let writable = track.answer.as_ref().is_some_and(|(_, a)| a.location.is_some());
        if writable || self.cutting.contains(name) {
            return NOT_MY_ROLE;
        }
        // Both have the path `/replica`.
        match (tier.role, track.offline.unwrap_or_else(|| tags_say_offline(self.tags(track)))) {
            (Role::Replica, true) => return (TargetState::Standby, Reason::Offline),
            (Role::Offline, false) => return NOT_MY_ROLE,
            _ => {}
        }
        self.refuse_by_filter(tier, name, track).unwrap_or((TargetState::Open, Reason::InService))
    }

    // -- filters ----------------------------------------------------------------------------------

    /// What a service asks of readers beyond their role; never of the primary.
    fn refuse_by_filter(&self, tier: &Tier<'_>, name: &MemberName, track: &MemberTrack) -> Option<Verdict> {
        let filter = &tier.spec.filter;
        let tags = self.tags(track);
        if filter.tags.iter().any(|(key, wanted)| tags.get(key) != Some(wanted)) {
            return Some((TargetState::Excluded, Reason::TagMismatch));
        }
        if filter.streaming && !self.is_streaming(track) {
            return Some((TargetState::Excluded, Reason::NotStreaming));
        }
        let lagging = filter.max_lag.is_some_and(|max| self.is_lagging(tier.spec, name, track, max));
        lagging.then_some((TargetState::Excluded, Reason::Lagging))
    }

    fn is_lagging(&self, spec: &ServiceSpec, name: &MemberName, track: &MemberTrack, max: u64) -> bool {
        let before = self.previous.service(&spec.name);
        let was = before.is_some_and(|s| s.standings.iter().any(|s| s.member == *name && s.reason == Reason::Lagging));
        let leader = lag::LeaderPosition::known(self.trust, self.view, self.lead, self.tracks);
        lag::exceeds(leader, track, max, was)
    }

    /// The member key; without one, or without a DCS, the tags of its latest answer.
    fn tags<'t>(&self, track: &'t MemberTrack) -> &'t Tags {
        // A key that nobody could read says nothing about tags.
        let written = self.facts(track).filter(|f| **f != MemberFacts::default());
        let answered = || track.answer.as_ref().map_or(const { &Tags::new() }, |(_, a)| &a.tags);
        written.map_or_else(answered, |f| &f.tags)
    }

    fn is_streaming(&self, track: &MemberTrack) -> bool {
        let told = track.answer.as_ref().map(|(_, a)| a.replication_state.as_deref());
        let written = || self.facts(track).and_then(|f| f.replication_state.as_deref());
        told.unwrap_or_else(written) == Some("streaming")
    }

    fn facts<'t>(&self, track: &'t MemberTrack) -> Option<&'t MemberFacts> {
        track.facts.as_ref().filter(|_| self.trust == Trust::Confirm)
    }
}

/// Where this service reaches the member.
pub(super) fn place<'a>(track: &'a MemberTrack, spec: &ServiceSpec) -> Option<(&'a str, u16)> {
    let conn = track.conn.as_ref()?;
    Some((&conn.host, spec.port.unwrap_or(conn.port)))
}

fn is_drained(track: &MemberTrack) -> bool {
    track.orders.state == AdminState::Drain || track.weight_now() == 0
}

fn down_or_unknown(track: &MemberTrack) -> Verdict {
    let state = if track.health.is_known() { TargetState::Down } else { TargetState::Unknown };
    (state, track.health_reason)
}

/// With `trust: confirm`, a check that the service itself asks for.
fn refuse_by_own_check(tier: &Tier<'_>, track: &MemberTrack) -> Option<Verdict> {
    tier.check.as_ref()?;
    match tier.check_of(track).filter(|check| check.health.is_known()) {
        None => Some((TargetState::Unknown, Reason::NotChecked)),
        Some(check) if !check.is_up() => Some((TargetState::Down, check.reason)),
        Some(_) => None,
    }
}
