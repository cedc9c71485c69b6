//! What everybody lived through: operations, ends, and the fate that each row of a client's own was
//! promised. Every end is either explained by the contract or kept with its context.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use pgvane::runtime::clock;

use super::kit::wire::{End, Words};

/// Contexts that are kept; the rest is counted.
const KEPT_MAX: usize = 200;
/// How the details of the router's own words begin.
const ROUTER: &str = "Service ";
/// What a client may be told when its session ends through no doing of its own.
const EXPLAINED: [&str; 5] = ["57P01", "57P02", "57P03", "08006", "08007"];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Until the first ReadyForQuery.
    Connecting,
    Idle,
    /// A statement outside a transaction of its own.
    Statement,
    /// A transaction is open and its COMMIT was not sent.
    Transaction,
    /// The COMMIT was sent.
    Committing,
    CopyIn,
    /// Rows or COPY data are coming.
    Receiving,
    Cancelling,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Phase::Connecting => "connecting",
            Phase::Idle => "idle",
            Phase::Statement => "statement",
            Phase::Transaction => "transaction",
            Phase::Committing => "committing",
            Phase::CopyIn => "COPY in",
            Phase::Receiving => "receiving",
            Phase::Cancelling => "cancelling",
        })
    }
}

/// What a client was made to believe of its row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Promise {
    /// The COMMIT, or the statement outside a transaction, was answered.
    There,
    /// The word says that it is not.
    Absent(String),
    Either(String),
}

impl Promise {
    /// Of a row whose COMMIT, or whose statement, was sent and not answered.
    pub fn of(end: &End) -> Promise {
        match end {
            End::Told(words) if words.code == "08007" => Promise::Either(words.code.clone()),
            End::Told(words) => Promise::Absent(words.code.clone()),
            other => Promise::Either(word(other)),
        }
    }

    /// Of one whose COMMIT was not even sent.
    pub fn uncommitted(end: &End) -> Promise {
        Promise::Absent(word(end))
    }
}

/// Who it happened to.
#[derive(Debug, Clone)]
pub struct Who {
    pub kind: &'static str,
    pub number: u64,
    pub tls: bool,
}

#[derive(Debug, Clone)]
pub struct Row {
    pub who: Who,
    pub ended: Instant,
    pub promise: Promise,
}

/// Of one kind of client.
#[derive(Debug, Clone, Default)]
pub struct Deeds {
    pub connects: u64,
    pub longest_connect: Duration,
    pub operations: u64,
    /// Sessions that ended otherwise than by the client's goodbye.
    pub ends: u64,
}

#[derive(Debug, Default)]
pub struct Totals {
    pub deeds: BTreeMap<&'static str, Deeds>,
    /// By word and phase; of TLS sessions apart.
    pub explained: BTreeMap<(String, Phase), u64>,
    /// Connects that were refused with an explained word, each with its words.
    pub refused: Vec<String>,
    pub unexplained: Vec<String>,
    pub unexplained_total: u64,
    pub rows: BTreeMap<i64, Row>,
    /// The leader moved, or began to: what and when.
    moves: Vec<(Instant, String)>,
    pub cancels: u64,
    pub megabytes_in: f64,
    pub megabytes_out: f64,
}

#[derive(Debug)]
pub struct Book {
    pub began: Instant,
    totals: Mutex<Totals>,
}

impl Book {
    pub fn open() -> Book {
        Book { began: clock::now(), totals: Mutex::default() }
    }

    pub fn with<T>(&self, look: impl FnOnce(&mut Totals) -> T) -> T {
        look(&mut self.totals.lock())
    }

    pub fn connected(&self, who: &Who, took: Duration) {
        self.with(|totals| {
            let deeds = totals.deeds.entry(who.kind).or_default();
            deeds.connects += 1;
            deeds.longest_connect = deeds.longest_connect.max(took);
        });
    }

    pub fn done(&self, who: &Who) {
        self.with(|totals| totals.deeds.entry(who.kind).or_default().operations += 1);
    }

    pub fn row(&self, id: i64, who: &Who, promise: Promise) {
        let row = Row { who: who.clone(), ended: clock::now(), promise };
        self.with(|totals| totals.rows.insert(id, row));
    }

    pub fn moves(&self, what: String) {
        eprintln!("[{:6.1} s] {what}", self.began.elapsed().as_secs_f64());
        self.with(|totals| totals.moves.push((clock::now(), what)));
    }

    /// A session ended, or a connect failed. `encrypted`: nobody between could have said anything.
    pub fn ended(&self, who: &Who, phase: Phase, end: &End, encrypted: bool) {
        self.with(|totals| totals.deeds.entry(who.kind).or_default().ends += 1);
        let Some(word) = explanation(phase, end, encrypted) else {
            return self.unexplained(who, phase, &end.to_string());
        };
        self.with(|totals| {
            *totals.explained.entry((word, phase)).or_default() += 1;
            if phase == Phase::Connecting && totals.refused.len() < KEPT_MAX {
                totals.refused.push(totals.context(self.began, who, phase, &end.to_string()));
            }
        });
    }

    /// The server refused a statement, and the session goes on.
    pub fn refused(&self, who: &Who, phase: Phase, words: &Words) {
        self.unexplained(who, phase, &words.to_string());
    }

    pub fn unexplained(&self, who: &Who, phase: Phase, what: &str) {
        self.with(|totals| {
            let line = totals.context(self.began, who, phase, what);
            eprintln!("UNEXPLAINED {line}");
            totals.unexplained_total += 1;
            if totals.unexplained.len() < KEPT_MAX {
                totals.unexplained.push(line);
            }
        });
    }
}

impl Totals {
    /// When, who, at what, what, and how long after the latest move.
    fn context(&self, began: Instant, who: &Who, phase: Phase, what: &str) -> String {
        let now = clock::now();
        let latest = self.moves.last().map_or_else(String::new, |(at, what)| {
            format!(", {:.3} s after: {what}", now.saturating_duration_since(*at).as_secs_f64())
        });
        let tls = if who.tls { " with TLS" } else { "" };
        let at = now.saturating_duration_since(began).as_secs_f64();
        format!("at {at:.3} s {} {}{tls}, {phase}: {what}{latest}", who.kind, who.number)
    }
}

/// The word under which an end is explained by what clients are promised, if it is.
fn explanation(phase: Phase, end: &End, encrypted: bool) -> Option<String> {
    match end {
        End::Told(words) if EXPLAINED.contains(&words.code.as_str()) => {
            let by = if words.detail.starts_with(ROUTER) { "router" } else { "server" };
            Some(format!("{} by {by}", words.code))
        }
        // PostgreSQL's own: it has said what it may.
        End::Warned(words) => Some(format!("warning {}", words.code)),
        End::Silent(_) | End::Within { .. } if encrypted => Some("closed (TLS)".to_owned()),
        // Between the halves of a row there is no place for words.
        End::Within { .. } if phase == Phase::Receiving => Some("closed within a row".to_owned()),
        _ => None,
    }
}

fn word(end: &End) -> String {
    match end {
        End::Told(words) => words.code.clone(),
        End::Warned(words) => format!("warning {}", words.code),
        End::NoConnection(_) | End::Silent(_) | End::Within { .. } => "closed".to_owned(),
        End::Garbled(_) => "garbled".to_owned(),
        End::Late(_) => "no answer".to_owned(),
    }
}
