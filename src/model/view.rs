//! What the DCS says about one Patroni cluster at one revision.

use core::net::IpAddr;
use std::collections::BTreeMap;
use std::time::Duration;

use super::{Lsn, MemberFacts, MemberName, VipMark};

/// The `leader` key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaderKey {
    pub name: MemberName,
    /// New on every acquisition.
    pub create_revision: i64,
    /// etcd's lease id; 0 when the key carries none.
    pub lease: i64,
}

/// The `failover` key: a switchover when `leader` is given, else a failover.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailoverRequest {
    /// Who is to leave.
    pub leader: Option<MemberName>,
    pub candidate: Option<MemberName>,
    /// As written; a request with a date waits for it.
    pub scheduled_at: Option<String>,
}

/// The parts of Patroni's dynamic configuration that matter here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterSettings {
    pub ttl: Duration,
    pub loop_wait: Duration,
    pub retry_timeout: Duration,
    pub pause: bool,
    pub failsafe_mode: bool,
}

impl Default for ClusterSettings {
    /// Patroni's own defaults (patroni/config.py).
    fn default() -> Self {
        ClusterSettings {
            ttl: Duration::from_secs(30),
            loop_wait: Duration::from_secs(10),
            retry_timeout: Duration::from_secs(10),
            pause: false,
            failsafe_mode: false,
        }
    }
}

/// A key whose value could not be understood. The rest of the view stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyProblem {
    /// Below the cluster's prefix, such as `members/n1`.
    pub key: String,
    pub problem: String,
}

/// Everything known from the DCS, consistent at `revision`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClusterView {
    /// etcd's cluster id: a different one means a different etcd.
    pub cluster_id: u64,
    pub revision: i64,
    pub leader: Option<LeaderKey>,
    pub members: BTreeMap<MemberName, MemberFacts>,
    /// The leader's position, from `status`.
    pub optime: Option<Lsn>,
    pub failover: Option<FailoverRequest>,
    pub settings: ClusterSettings,
    /// Names and REST addresses in `failsafe`.
    pub failsafe: BTreeMap<MemberName, String>,
    pub sync_standbys: Vec<MemberName>,
    /// From `initialize`.
    pub system_id: Option<String>,
    /// Who holds which virtual address, by what its holder wrote.
    pub vips: BTreeMap<IpAddr, VipMark>,
    pub problems: Vec<KeyProblem>,
}
