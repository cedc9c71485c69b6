//! What the operator asked for, as meant: clusters, services, timings.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::check::TagFilter;
use super::{ApiAddress, CheckSpec, Cidr, Expect, ListenAddress, MemberName, Observe};

/// A service's name in the configuration, such as `primary`; cheap to clone.
pub type ServiceName = Arc<str>;

/// Whom a service wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Holds the leader key and is out of recovery.
    Primary,
    /// In recovery, neither `noloadbalance` nor offline.
    Replica,
    /// A replica flagged offline.
    Offline,
    /// A synchronous standby that is not `noloadbalance`.
    Sync,
    /// Any other standby that is not `noloadbalance`.
    Async,
    /// The primary, or any standby that is not `noloadbalance`.
    ReadOnly,
    /// Whoever runs: the primary and every standby.
    Any,
    /// The leader of a standby cluster.
    StandbyLeader,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Primary => "primary",
            Role::Replica => "replica",
            Role::Offline => "offline",
            Role::Sync => "sync",
            Role::Async => "async",
            Role::ReadOnly => "read_only",
            Role::Any => "any",
            Role::StandbyLeader => "standby_leader",
        }
    }

    pub const ALL: [Role; 8] = [
        Role::Primary,
        Role::Replica,
        Role::Offline,
        Role::Sync,
        Role::Async,
        Role::ReadOnly,
        Role::Any,
        Role::StandbyLeader,
    ];

    /// The path of Patroni's REST API that answers 200 for members of this role (patroni/api.py, `do_GET`).
    pub fn path(self) -> &'static str {
        match self {
            Role::Primary => "/primary",
            Role::Replica | Role::Offline => "/replica",
            Role::Sync => "/sync",
            Role::Async => "/async",
            Role::ReadOnly => "/read-only",
            Role::Any => "/health",
            Role::StandbyLeader => "/standby-leader",
        }
    }

    /// Whether the primary is one of its members.
    pub fn includes_primary(self) -> bool {
        matches!(self, Role::Primary | Role::ReadOnly | Role::Any)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balance {
    /// Fewest sessions for its weight.
    LeastConn,
    /// In turn, by weight, smoothly.
    RoundRobin,
    /// The less loaded of two drawn by weight.
    Random,
    /// The first with a free place, in order of names.
    First,
    /// By the client's address: the same choice in every router.
    Source,
}

impl Balance {
    pub fn as_str(self) -> &'static str {
        match self {
            Balance::LeastConn => "leastconn",
            Balance::RoundRobin => "roundrobin",
            Balance::Random => "random",
            Balance::First => "first",
            Balance::Source => "source",
        }
    }

    pub const ALL: [Balance; 5] =
        [Balance::LeastConn, Balance::RoundRobin, Balance::Random, Balance::First, Balance::Source];
}

/// Whose word decides who may serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// The leader key in the DCS, and the member's own proof.
    Confirm,
    /// HTTP checks alone, as HAProxy does it.
    Rest,
}

/// HAProxy's largest weight.
pub const WEIGHT_MAX: u32 = 256;
/// A member's weight where none is given (Pigsty's `pg_weight`).
pub const WEIGHT_DEFAULT: u32 = 100;

/// What to do when the DCS cannot be read and the leader's lease has run out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDcsLoss {
    /// Go on while the leader's REST API says 200.
    Keep,
    /// Cut at the end of the lease whatever REST says.
    Close,
}

/// HAProxy's check timings (`inter`, `fastinter`, `downinter`, `rise`, `fall`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CheckTiming {
    pub inter: Duration,
    pub fastinter: Duration,
    pub downinter: Duration,
    pub rise: u32,
    pub fall: u32,
    /// For one check: from connect to answer with `trust: confirm`, after the connect otherwise.
    pub timeout: Duration,
}

impl Default for CheckTiming {
    fn default() -> Self {
        CheckTiming {
            inter: Duration::from_secs(3),
            fastinter: Duration::from_secs(1),
            downinter: Duration::from_secs(5),
            rise: 3,
            fall: 3,
            timeout: Duration::from_secs(3),
        }
    }
}

/// How long and how many clients may wait for a target.
#[derive(Debug, Clone, PartialEq)]
pub enum HoldSpec {
    /// Refuse at once.
    Off,
    On {
        /// None: `auto`, the cluster's ttl + 15 s.
        timeout: Option<Duration>,
        max: usize,
    },
}

impl HoldSpec {
    /// The longest a client may wait in a cluster with this `ttl`; None when holding is off.
    pub fn limit(&self, ttl: Duration) -> Option<Duration> {
        match self {
            HoldSpec::Off => None,
            HoldSpec::On { timeout: Some(limit), .. } => Some(*limit),
            HoldSpec::On { timeout: None, .. } => Some(ttl + Duration::from_secs(15)),
        }
    }
}

/// TCP keepalive and user time-out, set on both sides of every session.
#[derive(Debug, Clone, PartialEq)]
pub struct TcpSpec {
    pub keepalive_idle: Duration,
    pub keepalive_interval: Duration,
    pub keepalive_count: u32,
    pub user_timeout: Duration,
}

impl Default for TcpSpec {
    fn default() -> Self {
        TcpSpec {
            keepalive_idle: Duration::from_secs(30),
            keepalive_interval: Duration::from_secs(10),
            keepalive_count: 3,
            user_timeout: Duration::from_secs(30),
        }
    }
}

/// Sessions of a target that goes down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseOnDown {
    Stay,
    /// Cut when it has been down for so long; zero is at once.
    Cut {
        grace: Duration,
    },
}

/// Clients that wait for a free place under `maxconn`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueSpec {
    pub timeout: Duration,
    pub max: usize,
}

impl Default for QueueSpec {
    fn default() -> Self {
        QueueSpec { timeout: Duration::from_secs(3), max: 128 }
    }
}

/// New connections per second; 0: no limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateSpec {
    /// Of all clients of one listener; further ones wait in the kernel's backlog (HAProxy's `rate-limit sessions`).
    pub max: u32,
    /// Of one address; further ones are told 53300.
    pub per_client_max: u32,
    /// Cancel requests of one address; further ones are dropped.
    pub cancels_max: u32,
}

impl Default for RateSpec {
    fn default() -> Self {
        RateSpec { max: 0, per_client_max: 0, cancels_max: 100 }
    }
}

/// Which members of a role are good enough (`where:`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    /// Tags it must have; not asked of the primary, as in Patroni.
    pub tags: TagFilter,
    /// Only these; empty: all. For backups, too.
    pub members: Vec<MemberName>,
    /// Bytes of replay lag above which a reader gets no new sessions.
    pub max_lag: Option<u64>,
    /// Readers must be streaming.
    pub streaming: bool,
}

/// One named entry: a listener, whom it wants, and how it treats its clients.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceSpec {
    pub name: ServiceName,
    pub listen: Vec<ListenAddress>,
    /// Listen on addresses that this machine does not have yet (IP_FREEBIND).
    pub freebind: bool,
    /// Clients at a time; with more, the listener stops accepting (HAProxy's `maxconn` of a frontend). 0: no limit.
    pub clients_max: usize,
    pub role: Role,
    /// Used in order, each only when nothing before it has a target.
    pub backup: Vec<Role>,
    pub filter: Filter,
    /// Another port on the member, such as PgBouncer's; None is the member's own.
    pub port: Option<u16>,
    pub check: ServiceCheck,
    pub balance: Balance,
    pub hold: HoldSpec,
    pub connect_timeout: Duration,
    /// Further targets tried after the first failed connect.
    pub retries: u32,
    /// Sessions per target, counting those on their way; 0: no limit.
    pub maxconn: usize,
    pub queue: QueueSpec,
    /// A reader that returns gets its full weight after so long. Zero: at once.
    pub slowstart: Duration,
    pub startup_timeout: Duration,
    pub close_on_down: CloseOnDown,
    /// How long sessions in a transaction may go on when their member is taken out on purpose; idle
    /// ones end at once. A deposed leader gets none of it.
    pub drain: Duration,
    /// Clients by TCP must come from one of these; empty: from anywhere.
    pub allow: Vec<Cidr>,
    pub rate: RateSpec,
    /// A client that was held longer than this is told so by a NOTICE, once it is served. None: never.
    pub hold_notice: Option<Duration>,
    pub session_log: SessionLog,
    pub tcp: TcpSpec,
}

/// Which sessions get a line in the log when they end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionLog {
    Off,
    /// Those that did not end by their client's or their server's ordinary close.
    Errors,
    All,
}

impl SessionLog {
    pub const ALL: [SessionLog; 3] = [SessionLog::Off, SessionLog::Errors, SessionLog::All];

    pub fn as_str(self) -> &'static str {
        match self {
            SessionLog::Off => "off",
            SessionLog::Errors => "errors",
            SessionLog::All => "all",
        }
    }
}

/// How a service's members are checked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServiceCheck {
    /// None: the role's own.
    pub path: Option<Arc<str>>,
    pub port: Option<u16>,
    pub expect: Expect,
    pub timing: CheckTiming,
    pub observe: Observe,
}

impl ServiceSpec {
    /// A service with every default.
    pub fn new(name: &str, role: Role) -> ServiceSpec {
        ServiceSpec {
            name: name.into(),
            listen: Vec::new(),
            freebind: false,
            clients_max: 0,
            role,
            backup: Vec::new(),
            filter: Filter::default(),
            port: None,
            check: ServiceCheck::default(),
            balance: Balance::LeastConn,
            hold: HoldSpec::On { timeout: None, max: 10_000 },
            connect_timeout: Duration::from_secs(3),
            retries: 3,
            maxconn: 0,
            queue: QueueSpec::default(),
            slowstart: Duration::ZERO,
            startup_timeout: Duration::from_secs(60),
            close_on_down: CloseOnDown::Cut { grace: Duration::ZERO },
            drain: Duration::from_secs(3),
            allow: Vec::new(),
            rate: RateSpec::default(),
            hold_notice: None,
            session_log: SessionLog::Errors,
            tcp: TcpSpec::default(),
        }
    }

    /// The check that a member of `role` (the service's own or one of its backups) has to pass.
    pub fn check_of(&self, role: Role) -> CheckSpec {
        let own = self.check.path.as_ref().filter(|_| role == self.role);
        CheckSpec {
            path: own.cloned().unwrap_or_else(|| role.path().into()),
            port: self.check.port,
            expect: self.check.expect.clone(),
            timing: self.check.timing.clone(),
            connect_timeout: self.connect_timeout,
            observe: self.check.observe,
        }
    }

    /// The service's own role and its backups, in order.
    pub fn tiers(&self) -> impl Iterator<Item = Role> + '_ {
        std::iter::once(self.role).chain(self.backup.iter().copied())
    }
}

/// Static facts about one member, given in the configuration.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StaticMember {
    pub offline: Option<bool>,
    pub host: Option<String>,
    pub port: Option<u16>,
    pub api: Option<ApiAddress>,
    /// 0 to [`WEIGHT_MAX`]; None: [`WEIGHT_DEFAULT`].
    pub weight: Option<u32>,
}

/// One Patroni cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterSpec {
    /// What logs, metrics and the API call it: `alias`, or the scope with the Citus group; unique.
    pub name: Arc<str>,
    /// Patroni's scope.
    pub scope: Arc<str>,
    /// Patroni's namespace, without slashes at its ends.
    pub namespace: String,
    /// Citus only.
    pub group: Option<u32>,
    pub trust: Trust,
    pub on_dcs_loss: OnDcsLoss,
    pub check: CheckTiming,
    pub members: BTreeMap<MemberName, StaticMember>,
    pub services: Vec<Arc<ServiceSpec>>,
}

impl ClusterSpec {
    /// `/<namespace>/<scope>/`, as Patroni builds it (patroni/dcs/__init__.py, `client_path`); with
    /// Citus `/<namespace>/<scope>/<group>/`.
    pub fn prefix(&self) -> String {
        let group = self.group.map_or_else(String::new, |group| format!("{group}/"));
        if self.namespace.is_empty() {
            format!("/{}/{group}", self.scope)
        } else {
            format!("/{}/{}/{group}", self.namespace, self.scope)
        }
    }
}
