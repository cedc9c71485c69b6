//! The table that clients are routed by: immutable, with a generation number.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::model::{HostPort, MemberName, Reason, Role, ServiceName, ServiceSpec};

use super::balance;

/// One member that takes new sessions of one service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub member: MemberName,
    pub address: HostPort,
    /// The role it was chosen for: the service's own or one of its backups.
    pub role: Role,
    /// A write target may be used only until the deadline of the last [`super::Effect::Confirm`].
    pub needs_confirmation: bool,
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
    /// Its checks fail.
    Down,
    /// Nothing is known yet.
    Unknown,
}

impl TargetState {
    pub const ALL: [TargetState; 6] = [
        TargetState::Open,
        TargetState::Waiting,
        TargetState::Standby,
        TargetState::Excluded,
        TargetState::Down,
        TargetState::Unknown,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            TargetState::Open => "open",
            TargetState::Waiting => "waiting",
            TargetState::Standby => "standby",
            TargetState::Excluded => "excluded",
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
}

impl Routes {
    pub fn service(&self, name: &str) -> Option<&ServiceRoutes> {
        self.services.iter().find(|s| &*s.spec.name == name)
    }

    /// Whether a session that was picked from an older table may still open on this one.
    pub fn still_opens(&self, service: &ServiceName, target: &Target) -> bool {
        self.service(service).is_some_and(|s| s.targets.contains(target))
    }
}

impl ServiceRoutes {
    /// Chooses for one client. `load` tells a member's sessions of this service, `turn` is a counter
    /// that grows with every pick (it breaks ties and drives roundrobin), `tried` are members that
    /// this client could not reach just now.
    pub fn pick(&self, load: impl Fn(&MemberName) -> usize, turn: usize, tried: &[MemberName]) -> Pick<'_> {
        let untried = |t: &&Target| !tried.contains(&t.member);
        let candidates: Vec<&Target> = self.targets.iter().filter(untried).collect();
        let loads = candidates.iter().map(|t| load(&t.member));
        match balance::choose(self.spec.balance, loads, turn) {
            Some(index) => Pick::Target(candidates[index]),
            None => self.without_target(),
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
