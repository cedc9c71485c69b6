//! One HTTP check of one member, in HAProxy's terms.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::{CheckTiming, RestAnswer};

/// What is asked of a member's REST API, how often, and which answer passes. Services whose checks are
/// equal share one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CheckSpec {
    /// Path and query, such as `/replica?replication_state=streaming`.
    pub path: Arc<str>,
    /// Another port than the REST API's own.
    pub port: Option<u16>,
    pub expect: Expect,
    pub timing: CheckTiming,
    /// A check's connect gets the smaller of this and `inter` (HAProxy src/tcpcheck.c,
    /// `tcpcheck_eval_connect`); what follows gets `timing.timeout`.
    pub connect_timeout: Duration,
    pub observe: Observe,
}

impl CheckSpec {
    /// The same question with the same right answer, whatever its timings.
    pub fn asks_like(&self, other: &CheckSpec) -> bool {
        (&self.path, self.port, &self.expect) == (&other.path, other.port, &other.expect)
    }

    pub fn connect_limit(&self) -> Duration {
        self.connect_timeout.min(self.timing.inter)
    }
}

/// HTTP status codes that pass, as inclusive ranges; never empty.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Expect(pub Vec<(u16, u16)>);

impl Default for Expect {
    fn default() -> Self {
        Expect(vec![(200, 200)])
    }
}

impl Expect {
    pub fn accepts(&self, status: u16) -> bool {
        self.0.iter().any(|(from, to)| (*from..=*to).contains(&status))
    }
}

impl fmt::Display for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (from, to)) in self.0.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            if from == to { write!(f, "{comma}{from}")? } else { write!(f, "{comma}{from}-{to}")? }
        }
        Ok(())
    }
}

/// What failed connects of clients do to the counter (HAProxy's `observe layer4`, `error-limit`, `on-error`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Observe {
    /// So many failed connects in a row, with no good one between them, count; 0: none ever does.
    pub error_limit: u32,
    pub on_error: OnError,
}

impl Default for Observe {
    fn default() -> Self {
        Observe { error_limit: 10, on_error: OnError::FailCheck }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OnError {
    /// The next check comes after `fastinter`.
    FastInter,
    /// The same, and one failed check is counted.
    FailCheck,
    /// The same, and the next failed check makes it down.
    SuddenDeath,
    /// Down at once.
    MarkDown,
}

impl OnError {
    pub const ALL: [OnError; 4] = [OnError::FastInter, OnError::FailCheck, OnError::SuddenDeath, OnError::MarkDown];

    pub fn as_str(self) -> &'static str {
        match self {
            OnError::FastInter => "fastinter",
            OnError::FailCheck => "fail_check",
            OnError::SuddenDeath => "sudden_death",
            OnError::MarkDown => "mark_down",
        }
    }
}

/// How one check ended; the words are HAProxy's (src/check.c, `check_statuses`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CheckStatus {
    /// Not checked yet.
    Initializing,
    /// Refused, reset, or unreachable.
    L4Con,
    /// No answer to the connect in time.
    L4Tout,
    /// TLS failed.
    L6Rsp,
    /// TLS was not done in time.
    L6Tout,
    /// Connected, and no HTTP answer in time.
    L7Tout,
    /// Not HTTP.
    L7Rsp,
    /// A status that was not expected.
    L7Sts,
    L7Ok,
    /// The checker itself lacked descriptors, ports or memory, or ran late: says nothing about the member.
    SockErr,
}

impl CheckStatus {
    pub const ALL: [CheckStatus; 10] = [
        CheckStatus::Initializing,
        CheckStatus::L4Con,
        CheckStatus::L4Tout,
        CheckStatus::L6Rsp,
        CheckStatus::L6Tout,
        CheckStatus::L7Tout,
        CheckStatus::L7Rsp,
        CheckStatus::L7Sts,
        CheckStatus::L7Ok,
        CheckStatus::SockErr,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            CheckStatus::Initializing => "INI",
            CheckStatus::L4Con => "L4CON",
            CheckStatus::L4Tout => "L4TOUT",
            CheckStatus::L6Rsp => "L6RSP",
            CheckStatus::L6Tout => "L6TOUT",
            CheckStatus::L7Tout => "L7TOUT",
            CheckStatus::L7Rsp => "L7RSP",
            CheckStatus::L7Sts => "L7STS",
            CheckStatus::L7Ok => "L7OK",
            CheckStatus::SockErr => "SOCKERR",
        }
    }
}

/// What one check brought back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckOutcome {
    /// `L7Ok` exactly when the status code was one of those expected.
    pub status: CheckStatus,
    /// The HTTP status, where there was one.
    pub code: Option<u16>,
    /// The body, where it was Patroni's JSON.
    pub answer: Option<Box<RestAnswer>>,
    /// From the start of the connect to the verdict.
    pub took: Duration,
    /// For people; empty when it passed.
    pub problem: String,
}

/// What an operator ordered for one member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, PartialOrd, Ord, Hash)]
pub enum AdminState {
    #[default]
    Ready,
    /// No new sessions.
    Drain,
    /// No new sessions, and the open ones end: idle ones at once, those in a transaction within `drain`.
    /// Leaving it waits for the first success.
    Maint,
}

impl AdminState {
    pub const ALL: [AdminState; 3] = [AdminState::Ready, AdminState::Drain, AdminState::Maint];

    pub fn as_str(self) -> &'static str {
        match self {
            AdminState::Ready => "ready",
            AdminState::Drain => "drain",
            AdminState::Maint => "maint",
        }
    }
}

/// An operator's order about one member. It holds for all services until another one comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    State(AdminState),
    /// 0 to [`super::service::WEIGHT_MAX`]; None: the configuration's again. 0 gets no new sessions.
    Weight(Option<u32>),
}

/// Whose orders are taken. There is no password, so this and the refusal of what a browser sends for
/// somebody else's page are all there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OrdersFrom {
    Nobody,
    /// Connections from this host.
    #[default]
    Loopback,
    Everybody,
}

/// Tags that a member must have, with these values as text.
pub type TagFilter = BTreeMap<String, String>;
