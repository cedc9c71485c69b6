//! What one question to one member brought back.

use super::{Lsn, Tags, Timeline};

/// `role` in Patroni's JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RestRole {
    Primary,
    Replica,
    StandbyLeader,
    /// `demoted`, `promoted`, `uninitialized`, or a word we do not know.
    Other,
}

/// The answer to `GET /primary`: Patroni sends the same JSON with 200 and with 503.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestAnswer {
    /// 200 exactly when this Patroni believes that it holds the leader key.
    pub status: u16,
    pub role: RestRole,
    pub state: String,
    /// `xlog.location`: present only when a live SQL query said "not in recovery".
    pub location: Option<Lsn>,
    /// `xlog.replayed_location`: present only when a live SQL query said "in recovery".
    pub replayed: Option<Lsn>,
    pub received: Option<Lsn>,
    pub timeline: Option<Timeline>,
    pub replication_state: Option<String>,
    pub system_id: Option<String>,
    pub failsafe_active: bool,
    pub cluster_unlocked: bool,
    pub pause: bool,
    pub tags: Tags,
}

impl RestAnswer {
    /// Out of recovery by live SQL. The status code alone proves nothing (Patroni issue 2756), and
    /// without `xlog.location` the role is only the one it remembers.
    pub fn is_writable(&self) -> bool {
        self.role == RestRole::Primary && self.location.is_some()
    }

    /// In recovery by live SQL.
    pub fn is_in_recovery(&self) -> bool {
        self.location.is_none() && (self.replayed.is_some() || self.received.is_some())
    }

    /// This Patroni believes that it holds the leader key.
    pub fn claims_lead(&self) -> bool {
        self.status == 200
    }
}

/// How a REST probe ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbeOutcome {
    Answer(Box<RestAnswer>),
    /// Connected or not, no answer within the limit.
    TimedOut,
    Refused,
    /// Any other network error, such as no route or a reset.
    Unreachable(String),
    /// An answer that is not Patroni's.
    Garbled(String),
    /// The checker itself ran late: says nothing about the member.
    CheckerLate,
}

/// How an SSLRequest to the PostgreSQL port ended. A kernel's accept proves nothing; a byte does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortOutcome {
    Answered,
    TimedOut,
    Refused,
    Unreachable(String),
    CheckerLate,
}
