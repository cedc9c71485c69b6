//! Derives the table: how every member stands to every service, and who takes its new sessions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::model::{ClusterView, HostPort, MemberName, Reason, Role, ServiceSpec, Trust};

use super::checks::CheckTrack;
use super::closing::Opened;
use super::lead::Lead;
use super::routes::{Routes, ServiceRoutes, Standing, Target, TargetState};
use super::select::{Tier, Verdict, place};
use super::track::MemberTrack;

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
    /// Where sessions of ours may be; cancel requests go there, too.
    pub opened: &'a Opened,
    pub ttl: Duration,
    pub previous: &'a Routes,
}

/// Every member's verdict in one tier, in the order of the tracks.
type Verdicts<'a> = Vec<(&'a MemberName, Verdict)>;

impl Ingredients<'_> {
    /// A table without a generation number of its own: it takes the previous one's.
    pub fn table(&self) -> Routes {
        let services = self.services.iter().map(|spec| self.service(spec)).collect();
        Routes { cluster: self.cluster.clone(), generation: self.previous.generation, services }
    }

    fn service(&self, spec: &Arc<ServiceSpec>) -> ServiceRoutes {
        let before = self.previous.service(&spec.name);
        let tiers: Vec<Tier<'_>> = spec.tiers().map(|role| Tier::new(spec, role, self.trust)).collect();
        let judged = |tier| self.tracks.iter().map(|(name, track)| (name, self.judge(tier, name, track))).collect();
        let verdicts: Vec<Verdicts<'_>> = tiers.iter().map(judged).collect();
        let open = |tier: &Verdicts<'_>| tier.iter().any(|(_, v)| v.0 == TargetState::Open);
        let used = verdicts.iter().position(open);
        let targets = used.map_or_else(Vec::new, |tier| self.targets(&tiers[tier], &verdicts[tier], before));
        let wait = targets.is_empty().then(|| {
            let reason = self.wait_reason(spec, verdicts.first());
            let since = before.and_then(|b| b.wait).filter(|w| w.0 == reason).map_or(self.now, |w| w.1);
            (reason, since)
        });
        ServiceRoutes {
            hold_limit: spec.hold.limit(self.ttl),
            cancel: self.cancel(spec, &targets),
            standings: self.standings(&verdicts, used, before),
            spec: spec.clone(),
            targets,
            wait,
        }
    }

    fn targets(&self, tier: &Tier<'_>, verdicts: &Verdicts<'_>, before: Option<&ServiceRoutes>) -> Vec<Arc<Target>> {
        let open = verdicts.iter().filter(|(_, v)| v.0 == TargetState::Open);
        let known = before.map_or(&[][..], |before| &before.targets);
        open.enumerate()
            .filter_map(|(index, (name, _))| {
                let track = self.tracks.get(*name)?;
                let (host, port) = place(track, tier.spec)?;
                let needs_confirmation = self.needs_confirmation(tier.role, name, track);
                let (weight, risen_at) = (track.weight_now(), self.risen_at(tier, name, track));
                let is_same = |known: &Arc<Target>| {
                    let same_place =
                        known.member == **name && (&*known.address.host, known.address.port) == (host, port);
                    let same_right = (known.role, known.needs_confirmation) == (tier.role, needs_confirmation);
                    same_place && same_right && (known.weight, known.risen_at) == (weight, risen_at)
                };
                // Most tables change nothing, and every session of a target holds this one.
                if let Some(same) = found(known, index, is_same) {
                    return Some(same.clone());
                }
                let (member, address, role) = ((*name).clone(), HostPort::new(host, port), tier.role);
                Some(Arc::new(Target { member, address, role, needs_confirmation, weight, risen_at }))
            })
            .collect()
    }

    /// The leader's sessions can write, also where readers are welcome.
    fn needs_confirmation(&self, role: Role, name: &MemberName, track: &MemberTrack) -> bool {
        match (role, self.trust) {
            (Role::Primary, _) => true,
            (role, _) if !role.includes_primary() => false,
            (_, Trust::Confirm) => self.leads(name),
            // Where nothing but a status is known, the status decides.
            (_, Trust::Rest) => self.leads(name) && track.answer.is_some(),
        }
    }

    /// When the check that decides about a reader came back. A leader has nobody to share with.
    fn risen_at(&self, tier: &Tier<'_>, name: &MemberName, track: &MemberTrack) -> Option<Instant> {
        let single = matches!(tier.role, Role::Primary | Role::StandbyLeader) || self.leads(name);
        if tier.spec.slowstart.is_zero() || single {
            return None;
        }
        let own = tier.check_of(track).and_then(|check| check.risen_at);
        match self.trust {
            Trust::Confirm => track.risen_at.max(own),
            Trust::Rest => own,
        }
    }

    /// Why there is no target: of a write service, what is known of the leader.
    fn wait_reason(&self, spec: &ServiceSpec, own: Option<&Verdicts<'_>>) -> Reason {
        if spec.role != Role::Primary {
            return Reason::NoTarget;
        }
        let key = || self.view.and_then(|v| v.leader.as_ref()).map(|l| &l.name);
        let leader = self.lead.open.as_ref().or_else(key);
        let verdict = own.and_then(|own| own.iter().find(|(name, _)| Some(*name) == leader)).map(|(_, v)| *v);
        match verdict {
            Some((TargetState::Maint | TargetState::Drain, reason) | (_, reason @ Reason::NotSelected)) => reason,
            // It takes writes, and not of this service.
            Some((_, reason)) if self.lead.open.is_some() => reason,
            _ => self.lead.reason,
        }
    }

    fn standings(&self, tiers: &[Verdicts<'_>], used: Option<usize>, before: Option<&ServiceRoutes>) -> Vec<Standing> {
        let Some(own) = tiers.first() else { return Vec::new() };
        let standing = |index: usize, name: &MemberName, own: Verdict| {
            let (state, reason) = match tiers.iter().position(|tier| tier[index].1.0 == TargetState::Open) {
                Some(tier) if Some(tier) == used => tiers[tier][index].1,
                Some(_) => (TargetState::Standby, Reason::BackupUnused),
                None => own,
            };
            let known = before.map_or(&[][..], |before| &before.standings);
            let same = found(known, index, |known| known.member == *name);
            let since = same.filter(|s| s.state == state && s.reason == reason).map_or(self.now, |s| s.since);
            Standing { member: name.clone(), state, reason, since }
        };
        own.iter().enumerate().map(|(index, (name, verdict))| standing(index, name, *verdict)).collect()
    }

    /// Wherever a session of this service may be: those of ours, and those of another router whose client
    /// sent its cancel request here. Whoever does not know the key ignores it.
    fn cancel(&self, spec: &ServiceSpec, targets: &[Arc<Target>]) -> Vec<HostPort> {
        let writes = spec.tiers().any(Role::includes_primary);
        let reads = spec.tiers().any(|role| role != Role::Primary);
        let reached = |(name, track): (&MemberName, &MemberTrack)| {
            let opens = targets.iter().any(|target| target.member == *name);
            let ours = opens || self.opened.contains(&(spec.name.clone(), name.clone()));
            let wanted = ours || (writes && self.may_be_written_to(name, track)) || (reads && self.is_up(track));
            if wanted { place(track, spec).map(|(host, port)| HostPort::new(host, port)) } else { None }
        };
        self.tracks.iter().filter_map(reached).collect()
    }

    /// By any router: the open leader, else whom the key names, else, where no key is known, whoever says so.
    fn may_be_written_to(&self, name: &MemberName, track: &MemberTrack) -> bool {
        let key = self.view.and_then(|view| view.leader.as_ref());
        self.leads(name) || key.map_or(self.is_up(track) && track.says_writable(), |key| key.name == *name)
    }

    fn is_up(&self, track: &MemberTrack) -> bool {
        match self.trust {
            Trust::Confirm => track.health.is_up(),
            Trust::Rest => track.checks.values().any(CheckTrack::is_up),
        }
    }
}

/// The one that is meant, which is where it was in the table before unless members came or went: a look at every
/// other one would make a table cost the square of its members.
fn found<T>(known: &[T], index: usize, is_meant: impl Fn(&T) -> bool) -> Option<&T> {
    let here = known.get(index).filter(|known| is_meant(known));
    here.or_else(|| known.iter().find(|known| is_meant(known)))
}
