//! The table that clients are routed by: immutable, with a generation number.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::model::{HostPort, MemberName, Reason, Role, ServiceName, ServiceSpec};

use super::balance::{Balancer, Candidate};

/// One member that takes new sessions of one service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub member: MemberName,
    pub address: HostPort,
    /// The role it was chosen for: the service's own or one of its backups.
    pub role: Role,
    /// A write target may be used only until the deadline of the last [`super::Effect::Confirm`].
    pub needs_confirmation: bool,
    /// 1 to 256, before `slowstart`.
    pub weight: u32,
    /// When it came back, where `slowstart` applies to it.
    pub risen_at: Option<Instant>,
}

impl Target {
    /// The same place in the same role, whatever its weight. A reader that leads by now is another target.
    pub fn is_same_as(&self, other: &Target) -> bool {
        let same_place = (&self.member, &self.address) == (&other.member, &other.address);
        same_place && (self.role, self.needs_confirmation) == (other.role, other.needs_confirmation)
    }
}

/// How a member stands to a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TargetState {
    /// Takes new sessions.
    Open,
    /// Would be the target, and new sessions wait for it.
    Waiting,
    /// Healthy, but in another role, or a backup that is not needed.
    Standby,
    /// Has the role, and a rule keeps new sessions away.
    Excluded,
    /// An operator drains it, or its weight is 0.
    Drain,
    /// An operator put it into maintenance.
    Maint,
    /// Its checks fail.
    Down,
    /// Nothing is known yet.
    Unknown,
}

impl TargetState {
    pub const ALL: [TargetState; 8] = [
        TargetState::Open,
        TargetState::Waiting,
        TargetState::Standby,
        TargetState::Excluded,
        TargetState::Drain,
        TargetState::Maint,
        TargetState::Down,
        TargetState::Unknown,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            TargetState::Open => "open",
            TargetState::Waiting => "waiting",
            TargetState::Standby => "standby",
            TargetState::Excluded => "excluded",
            TargetState::Drain => "drain",
            TargetState::Maint => "maint",
            TargetState::Down => "down",
            TargetState::Unknown => "unknown",
        }
    }
}

/// Why a member is or is not a target of a service, for people.
#[derive(Debug, Clone, PartialEq)]
pub struct Standing {
    pub member: MemberName,
    pub state: TargetState,
    pub reason: Reason,
    pub since: Instant,
}

/// One service's part of the table.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceRoutes {
    pub spec: Arc<ServiceSpec>,
    /// All of one role: the first of role and backups that has any.
    pub targets: Vec<Target>,
    /// Why there is no target, and since when; None exactly when `targets` is not empty.
    pub wait: Option<(Reason, Instant)>,
    /// The longest a client may be held; None: refuse at once.
    pub hold_limit: Option<Duration>,
    /// Where a CancelRequest goes.
    pub cancel: Vec<HostPort>,
    pub standings: Vec<Standing>,
}

/// Every service of one Patroni cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct Routes {
    pub cluster: Arc<str>,
    /// Grows by one with every table.
    pub generation: u64,
    pub services: Vec<ServiceRoutes>,
}

/// The choice for one client.
#[derive(Debug, Clone, PartialEq)]
pub enum Pick<'a> {
    Target(&'a Target),
    /// Wait at most this long, counted from the client's arrival.
    Hold {
        limit: Duration,
        reason: Reason,
        since: Instant,
    },
    Refuse {
        reason: Reason,
        since: Instant,
    },
    /// There are targets, and this client has tried them all.
    Exhausted,
    /// Every target it could go to has as many sessions as `maxconn` allows.
    Full,
}

/// Who asks for a target.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    /// A number made from the client's address alone, see [`super::balance::client_hash`].
    pub client: u64,
    /// Drawn anew for every choice.
    pub draw: u64,
    /// Members that this client could not reach just now.
    pub tried: &'a [MemberName],
    pub now: Instant,
}

impl Routes {
    pub fn service(&self, name: &str) -> Option<&ServiceRoutes> {
        self.services.iter().find(|s| &*s.spec.name == name)
    }

    /// Whether a session that was picked from an older table may still open on this one.
    pub fn still_opens(&self, service: &ServiceName, target: &Target) -> bool {
        self.service(service).is_some_and(|s| s.targets.iter().any(|t| t.is_same_as(target)))
    }
}

impl ServiceRoutes {
    /// Chooses for one client. `load` tells a member's sessions of this service, those on their way
    /// included; `balancer` is this service's own.
    pub fn pick(&self, balancer: &mut Balancer, caller: Caller<'_>, load: impl Fn(&MemberName) -> usize) -> Pick<'_> {
        let untried: Vec<&Target> = self.targets.iter().filter(|t| !caller.tried.contains(&t.member)).collect();
        if untried.is_empty() {
            return self.without_target();
        }
        let candidate = |target: &&Target| {
            let load = load(&target.member);
            let weight = target.weight;
            Candidate { member: target.member.clone(), weight, load }
        };
        let is_free = |target: &&&Target| self.spec.maxconn == 0 || load(&target.member) < self.spec.maxconn;
        let free: Vec<&Target> = untried.iter().filter(is_free).copied().collect();
        let candidates: Vec<Candidate> = free.iter().map(candidate).collect();
        match balancer.choose(self.spec.balance, &candidates, caller.client, caller.draw) {
            Some(index) => free.get(index).map_or(Pick::Full, |target| Pick::Target(target)),
            None => Pick::Full,
        }
    }

    fn without_target(&self) -> Pick<'_> {
        match (self.wait, self.hold_limit) {
            (None, _) => Pick::Exhausted,
            (Some((reason, since)), Some(limit)) => Pick::Hold { limit, reason, since },
            (Some((reason, since)), None) => Pick::Refuse { reason, since },
        }
    }
}
