//! Inputs and outputs of the router machine.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::model::{
    AdminState, ApiAddress, CheckOutcome, CheckSpec, ClusterSpec, ClusterView, HostPort, MemberName, Order,
    PortOutcome, ProbeOutcome, Reason, ServiceName, Timeline,
};

use super::Routes;

/// Where a view came from, and so what it proves.
#[derive(Debug, Clone, PartialEq)]
pub enum ViewSource {
    /// A linearizable read: proves that nothing newer existed when it was sent.
    Read {
        sent_at: Instant,
        /// What remained of the leader's lease when that was asked, at or after `sent_at`;
        /// None when there is no leader key or the question was not answered.
        lease_left: Option<Duration>,
    },
    /// Watch events: act at once, prove nothing about what did not arrive.
    Watch,
}

/// What a client's connection attempt or session saw of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suspicion {
    ConnectRefused,
    ConnectTimedOut,
    ConnectFailed,
    /// EOF or reset before the first byte of an answer to the startup packet.
    StartupEof,
    /// FATAL 57P03 before Authentication.
    StartupRejected,
    ServerReset,
}

impl Suspicion {
    pub fn reason(self) -> Reason {
        match self {
            Suspicion::ConnectRefused => Reason::ConnectRefused,
            Suspicion::ConnectTimedOut => Reason::ConnectTimedOut,
            Suspicion::ConnectFailed => Reason::ConnectFailed,
            Suspicion::StartupEof => Reason::StartupEof,
            Suspicion::StartupRejected => Reason::StartupRejected,
            Suspicion::ServerReset => Reason::ServerReset,
        }
    }
}

/// What the data plane tells of members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    Suspected(MemberName, Suspicion),
    /// As many connects in a row failed as the service's `observe` allows.
    ErrorLimit(ServiceName, MemberName),
}

#[derive(Debug, Clone)]
pub enum Event {
    View {
        view: Arc<ClusterView>,
        source: ViewSource,
    },
    ProbeDone {
        member: MemberName,
        number: u64,
        outcome: ProbeOutcome,
    },
    PortProbeDone {
        member: MemberName,
        number: u64,
        outcome: PortOutcome,
    },
    CheckDone {
        member: MemberName,
        number: u64,
        outcome: CheckOutcome,
    },
    Suspected {
        member: MemberName,
        suspicion: Suspicion,
    },
    ErrorLimit {
        service: ServiceName,
        member: MemberName,
    },
    /// The configuration was read again; facts, proofs, counters and orders stay.
    Spec(Arc<ClusterSpec>),
    /// An operator's word about one member.
    Order {
        member: MemberName,
        order: Order,
    },
}

impl From<Report> for Event {
    fn from(report: Report) -> Self {
        match report {
            Report::Suspected(member, suspicion) => Event::Suspected { member, suspicion },
            Report::ErrorLimit(service, member) => Event::ErrorLimit { service, member },
        }
    }
}

/// Orders to the shell, carried out in the order in which they are polled.
///
/// A table that takes a target away comes before the close of that target's sessions (a client that
/// reconnects meets the new table), and the close comes before any table that opens another writer.
#[derive(Debug, Clone)]
pub enum Effect {
    /// Swap the table; wakes held clients.
    PublishRoutes(Arc<Routes>),
    /// Write targets of the current table may be used for new sessions until then. A paused router
    /// must not open sessions on what it knew before.
    Confirm { until: Instant },
    /// Fence every session to this member of these services (None: of all), then close them. When
    /// this effect has been carried out, no further byte is forwarded by any of them.
    CloseSessions { member: MemberName, services: Option<Vec<ServiceName>>, reason: Reason },
    /// A planned close: every session to this member of these services (None: of all) ends when it is
    /// idle, which is at once for most, and is told so. Those in a transaction go on until they are idle
    /// or a `CloseSessions` comes. Sessions that open later are not meant.
    DrainSessions { member: MemberName, services: Option<Vec<ServiceName>>, reason: Reason },
    /// `GET /primary`; a newer number for the same member replaces an older probe.
    Probe { member: MemberName, number: u64, address: ApiAddress, limit: Duration },
    /// One HTTP check: `connect_limit` for the connect, `check.timing.timeout` for what follows it.
    Check { member: MemberName, number: u64, check: Arc<CheckSpec>, address: ApiAddress, connect_limit: Duration },
    /// SSLRequest to the PostgreSQL port.
    ProbePort { member: MemberName, number: u64, address: HostPort, limit: Duration },
    /// Resolve this host name anew at its next use.
    ForgetAddress { host: String },
    /// Read the DCS now rather than at the next second.
    ReadNow,
    /// Keep this for the next start.
    Remember(Memory),
    /// One line in the log.
    Log(Transition),
}

/// A change worth a log line.
#[derive(Debug, Clone, PartialEq)]
pub enum Transition {
    /// `from` and `to` are members that take writes, None is "new sessions wait".
    Lead {
        from: Option<MemberName>,
        to: Option<MemberName>,
        reason: Reason,
    },
    LeaderKey {
        from: Option<MemberName>,
        to: Option<MemberName>,
        revision: i64,
    },
    Target {
        service: ServiceName,
        member: MemberName,
        from: TargetStateWord,
        to: TargetStateWord,
        reason: Reason,
    },
    Health {
        member: MemberName,
        up: bool,
        reason: Reason,
    },
    Dcs {
        fresh: bool,
        reason: Reason,
    },
    /// A check of its own went up or down.
    Check {
        member: MemberName,
        path: Arc<str>,
        up: bool,
        reason: Reason,
    },
    Order {
        member: MemberName,
        order: Order,
    },
    TimelineMark {
        system_id: String,
        timeline: Timeline,
    },
    Member {
        member: MemberName,
        known: bool,
    },
    KeyProblem {
        key: String,
        problem: String,
    },
}

/// A target state as the word that logs and metrics use.
pub type TargetStateWord = &'static str;

/// What survives a restart.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Memory {
    pub members: BTreeMap<MemberName, RememberedMember>,
    /// Highest timeline a leader proved, by system identifier.
    pub marks: BTreeMap<String, Timeline>,
    /// Members that an operator took out or weighed.
    pub orders: BTreeMap<MemberName, Orders>,
}

/// The orders that hold for one member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Orders {
    pub state: AdminState,
    pub weight: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RememberedMember {
    pub conn: Option<HostPort>,
    pub api: Option<ApiAddress>,
}
