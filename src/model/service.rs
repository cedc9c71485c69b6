//! What the operator asked for, as meant: clusters, services, timings.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::{ApiAddress, HostPort, MemberName};

/// A service's name in the configuration, such as `primary`; cheap to clone.
pub type ServiceName = Arc<str>;

/// Whom a service wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    Primary,
    Replica,
    Offline,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Primary => "primary",
            Role::Replica => "replica",
            Role::Offline => "offline",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balance {
    LeastConn,
    RoundRobin,
}

impl Balance {
    pub fn as_str(self) -> &'static str {
        match self {
            Balance::LeastConn => "leastconn",
            Balance::RoundRobin => "roundrobin",
        }
    }
}

/// What to do when the DCS cannot be read and the leader's lease has run out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDcsLoss {
    /// Go on while the leader's REST API says 200.
    Keep,
    /// Cut at the end of the lease whatever REST says.
    Close,
}

/// HAProxy's check timings (`inter`, `fastinter`, `downinter`, `rise`, `fall`).
#[derive(Debug, Clone, PartialEq)]
pub struct CheckTiming {
    pub inter: Duration,
    pub fastinter: Duration,
    pub downinter: Duration,
    pub rise: u32,
    pub fall: u32,
    /// For one check, from connect to answer.
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

/// One named entry: a listener, whom it wants, and how it treats its clients.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceSpec {
    pub name: ServiceName,
    /// Addresses to listen on; host `*` is every IPv4 and IPv6 address.
    pub listen: Vec<HostPort>,
    pub role: Role,
    /// Used in order, each only when nothing before it has a target.
    pub backup: Vec<Role>,
    /// Another port on the member, such as PgBouncer's; None is the member's own.
    pub port: Option<u16>,
    /// Bytes of replay lag above which a reader gets no new sessions.
    pub max_lag: Option<u64>,
    /// Readers must be streaming.
    pub streaming: bool,
    pub balance: Balance,
    pub hold: HoldSpec,
    pub connect_timeout: Duration,
    /// Further targets tried after the first failed connect.
    pub retries: u32,
    pub startup_timeout: Duration,
    /// Cut sessions of a target whose checks say down.
    pub close_on_down: bool,
    pub tcp: TcpSpec,
}

/// Static facts about one member, given in the configuration.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StaticMember {
    pub offline: Option<bool>,
    pub host: Option<String>,
    pub port: Option<u16>,
    pub api: Option<ApiAddress>,
}

/// One Patroni cluster with `trust: confirm`.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterSpec {
    /// Patroni's scope.
    pub name: Arc<str>,
    /// Patroni's namespace, without slashes at its ends.
    pub namespace: String,
    pub on_dcs_loss: OnDcsLoss,
    pub check: CheckTiming,
    pub members: BTreeMap<MemberName, StaticMember>,
    pub services: Vec<Arc<ServiceSpec>>,
}

impl ClusterSpec {
    /// `/<namespace>/<scope>/`, as Patroni builds it (patroni/dcs/__init__.py, `client_path`).
    pub fn prefix(&self) -> String {
        if self.namespace.is_empty() {
            format!("/{}/", self.name)
        } else {
            format!("/{}/{}/", self.namespace, self.name)
        }
    }
}
