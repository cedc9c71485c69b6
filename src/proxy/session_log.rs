//! One line per client when it ends, as HAProxy's `option tcplog` writes it (its manual, 8.2.2 and
//! 8.5), so that what reads those lines reads these.

use std::fmt;
use std::num::NonZeroU64;
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use jiff::tz::TimeZone;

use crate::decide::{Suspicion, Target};
use crate::model::{MemberName, Reason, SessionLog};
use crate::runtime::clock;

use super::peer::Peer;
use super::service::{Service, clients_of_process};
use super::targets::TargetCounters;

/// Stands for the server of a client that never got as far as to one.
const NO_SERVER: &str = "<NOSRV>";

/// How far a client has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It has not said what it wants.
    Request,
    /// It waits for a target.
    Queue,
    /// Its server is being connected to.
    Connect,
    /// Its server has not answered its startup packet yet.
    Answer,
    Data,
}

impl Stage {
    /// The second letter of HAProxy's termination state.
    fn letter(self) -> char {
        match self {
            Stage::Request => 'R',
            Stage::Queue => 'Q',
            Stage::Connect => 'C',
            Stage::Answer | Stage::Data => 'D',
        }
    }
}

/// HAProxy's two letters for an end: who or what caused it, and where the session was. `timed_out`:
/// the last connect ended without an answer.
fn termination(reason: Reason, stage: Stage, timed_out: bool) -> [char; 2] {
    match reason {
        Reason::ClientClosed | Reason::ServerClosed if stage == Stage::Data => ['-', '-'],
        Reason::CancelForwarded => ['L', 'R'],
        Reason::ClientClosed | Reason::ClientError => ['C', stage.letter()],
        Reason::ServerClosed | Reason::ServerError => ['S', stage.letter()],
        Reason::StartupTimedOut => ['c', 'R'],
        Reason::StartupMalformed | Reason::NotAllowed | Reason::RateLimited | Reason::CancelLimited => ['P', 'R'],
        Reason::HoldExpired | Reason::QueueExpired => ['s', 'Q'],
        Reason::HoldFull | Reason::QueueFull => ['S', 'Q'],
        Reason::RetriesExhausted if timed_out => ['s', 'C'],
        Reason::RetriesExhausted | Reason::HoldOff | Reason::NoTarget => ['S', 'C'],
        Reason::NoDescriptors => ['R', 'C'],
        // By whoever runs the router.
        Reason::Shutdown | Reason::ServiceRemoved | Reason::Maintenance | Reason::Drained | Reason::VipReleased => {
            match stage {
                Stage::Data => ['K', '-'],
                _ => ['K', stage.letter()],
            }
        }
        // Everything else says why the member may not have sessions any more.
        _ => ['D', '-'],
    }
}

/// Microseconds, kept small: never 0, so that an Option is no larger.
#[derive(Debug, Clone, Copy)]
struct Micros(NonZeroU64);

impl Default for Micros {
    fn default() -> Micros {
        Micros(NonZeroU64::MIN)
    }
}

impl Micros {
    /// One more than there are.
    fn new(micros: u64) -> Micros {
        Micros(NonZeroU64::MIN.saturating_add(micros))
    }

    /// Since the first call in this process.
    fn now() -> Micros {
        static BEGIN: LazyLock<Instant> = LazyLock::new(clock::now);
        // In this order: nothing is before the beginning.
        let begin = *BEGIN;
        let micros = clock::now().saturating_duration_since(begin).as_micros();
        Micros::new(u64::try_from(micros).unwrap_or(u64::MAX))
    }

    fn count(self) -> u64 {
        self.0.get() - 1
    }

    fn minus(self, other: Micros) -> Micros {
        Micros::new(self.count().saturating_sub(other.count()))
    }

    fn plus(self, other: Micros) -> Micros {
        Micros::new(self.count().saturating_add(other.count()))
    }

    fn millis(self) -> i64 {
        i64::try_from(self.count() / 1000).unwrap_or(i64::MAX)
    }

    fn seconds(self) -> f64 {
        self.count() as f64 / 1e6
    }
}

/// What one client did, from accept to end, when it writes the line, if the service wants one. Small: every session
/// has one.
#[derive(Debug)]
pub struct Record {
    service: Arc<Service>,
    peer: Peer,
    accepted: Micros,
    /// After `accepted`.
    entered: Micros,
    /// In all. None: never waited for a target.
    queued: Option<Micros>,
    connecting: Micros,
    stage: Stage,
    connected: bool,
    /// The last one tried.
    tried: Option<Arc<Target>>,
    counters: Option<Arc<TargetCounters>>,
    retries: u32,
    redispatched: bool,
    timed_out: bool,
    has_ended: bool,
    ahead: u32,
}

/// Why a client ended, and the bytes to the server and to the client.
struct End {
    reason: Reason,
    to_server: u64,
    to_client: u64,
}

impl Record {
    pub fn new(service: Arc<Service>, peer: Peer) -> Record {
        Record {
            service,
            peer,
            accepted: Micros::now(),
            entered: Micros::default(),
            queued: None,
            connecting: Micros::default(),
            stage: Stage::Request,
            connected: false,
            tried: None,
            counters: None,
            retries: 0,
            redispatched: false,
            timed_out: false,
            has_ended: false,
            ahead: 0,
        }
    }

    pub fn peer(&self) -> Peer {
        self.peer
    }

    /// The client has come to this stage, or back to it.
    pub fn enter(&mut self, stage: Stage) {
        let now = Micros::now().minus(self.accepted);
        let lasted = now.minus(self.entered);
        match self.stage {
            Stage::Queue => self.queued = Some(self.queued.unwrap_or_default().plus(lasted)),
            Stage::Connect => self.connecting = self.connecting.plus(lasted),
            Stage::Request | Stage::Answer | Stage::Data => {}
        }
        (self.stage, self.entered) = (stage, now);
        self.connected = matches!(stage, Stage::Answer | Stage::Data) || self.connected && stage == Stage::Request;
    }

    /// It waits behind so many others.
    pub fn waits_behind(&mut self, ahead: usize) {
        self.ahead = u32::try_from(ahead).unwrap_or(u32::MAX);
    }

    pub fn connects_to(&mut self, target: &Arc<Target>) {
        self.enter(Stage::Connect);
        // Attempts after the first, as HAProxy counts them (manual, section 8.2.2).
        self.retries += u32::from(self.tried.is_some());
        self.redispatched |= self.tried.as_ref().is_some_and(|tried| tried.member != target.member);
        self.tried = Some(target.clone());
    }

    /// It will be tried again, there or elsewhere.
    pub fn failed(&mut self, suspicion: Suspicion) {
        self.timed_out = suspicion == Suspicion::ConnectTimedOut;
    }

    pub fn relays(&mut self, counters: &Arc<TargetCounters>) {
        self.enter(Stage::Data);
        self.counters = Some(counters.clone());
    }

    fn member(&self) -> Option<&MemberName> {
        self.tried.as_ref().map(|target| &target.member)
    }

    /// Why it ended, and the bytes to the server and to the client. The first end is the one that counts.
    ///
    /// The line counts this client, and not its session: it is to be called between the ends of the two.
    pub fn end(&mut self, reason: Reason, (to_server, to_client): (u64, u64)) {
        let is_first = !std::mem::replace(&mut self.has_ended, true);
        if is_first && self.is_wanted(reason) && tracing::enabled!(target: "pgvane::session", tracing::Level::INFO) {
            self.enter(self.stage);
            let end = End { reason, to_server, to_client };
            Line::of(self, &end).write(self, &end);
        }
    }

    fn is_wanted(&self, reason: Reason) -> bool {
        match self.service.spec().session_log {
            SessionLog::Off => false,
            SessionLog::All => true,
            SessionLog::Errors => match reason {
                Reason::ClientClosed | Reason::ServerClosed | Reason::CancelForwarded => false,
                // A health check from outside that resets its connection.
                Reason::ClientError => self.stage != Stage::Request,
                _ => true,
            },
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        // A task that is dropped in the middle: the runtime goes away.
        self.end(Reason::Shutdown, (0, 0));
    }
}

/// HAProxy's fields.
#[derive(Debug)]
struct Line {
    client_ip: String,
    client_port: u32,
    accept_date: String,
    proxy: String,
    server: String,
    tw: i64,
    tc: i64,
    tt: i64,
    bytes_read: u64,
    termination: [char; 2],
    actconn: usize,
    feconn: usize,
    beconn: usize,
    srv_conn: usize,
    redispatched: bool,
    retries: u32,
    backend_queue: usize,
}

impl Line {
    fn of(record: &Record, end: &End) -> Line {
        let lasted = record.entered;
        let (client_ip, client_port) = match record.peer {
            Peer::Ip { ip, port } => (ip.to_string(), u32::from(port)),
            Peer::Unix { pid, .. } => ("unix".to_owned(), pid.and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0)),
        };
        let feconn = record.service.clients.now();
        Line {
            client_ip,
            client_port,
            accept_date: local_date(clock::unix_seconds() - lasted.seconds()),
            proxy: format!("{}-{}", record.service.cluster, record.service.name),
            server: record.member().map_or_else(|| NO_SERVER.to_owned(), ToString::to_string),
            tw: record.queued.map_or(-1, Micros::millis),
            tc: if record.connected { record.connecting.millis() } else { -1 },
            tt: lasted.millis(),
            bytes_read: end.to_client,
            termination: termination(end.reason, record.stage, record.timed_out),
            actconn: clients_of_process(),
            feconn,
            // Like HAProxy, which lets go of its server's side before it writes.
            beconn: feconn.saturating_sub(1),
            srv_conn: record.counters.as_ref().map_or(0, |counters| counters.open()),
            redispatched: record.redispatched,
            retries: record.retries,
            backend_queue: record.ahead as usize,
        }
    }

    fn write(&self, record: &Record, end: &End) {
        let Line { client_ip, client_port, accept_date, proxy, server, tw, tc, tt, bytes_read, .. } = self;
        let Line { actconn, feconn, beconn, srv_conn, retries, redispatched, backend_queue, .. } = self;
        let (client_ip, accept_date, proxy, server) = (&**client_ip, &**accept_date, &**proxy, &**server);
        tracing::info!(
            target: "pgvane::session",
            cluster = &*record.service.cluster,
            service = &*record.service.name,
            member = record.member().map(MemberName::as_str),
            reason = end.reason.as_str(),
            client_ip,
            client_port,
            client_uid = if let Peer::Unix { uid, .. } = record.peer { uid } else { None },
            accept_date,
            frontend = proxy,
            backend = proxy,
            server,
            tw, tc, tt, bytes_read,
            bytes_uploaded = end.to_server,
            termination_state = %Letters(self.termination),
            actconn, feconn, beconn, srv_conn, retries, redispatched,
            srv_queue = 0,
            backend_queue,
            "{self}"
        );
    }
}

struct Letters([char; 2]);

impl fmt::Display for Letters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Letters([cause, stage]) = self;
        write!(f, "{cause}{stage}")
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Line { client_ip, client_port, accept_date, proxy, server, tw, tc, tt, bytes_read, .. } = self;
        let Line { actconn, feconn, beconn, srv_conn, retries, backend_queue, .. } = self;
        let (letters, redispatched) = (Letters(self.termination), if self.redispatched { "+" } else { "" });
        write!(f, "{client_ip}:{client_port} [{accept_date}] {proxy} {proxy}/{server} {tw}/{tc}/{tt} {bytes_read} ")?;
        write!(f, "{letters} {actconn}/{feconn}/{beconn}/{srv_conn}/{redispatched}{retries} 0/{backend_queue}")
    }
}

/// `21/Nov/2026:11:22:33.123` in the time zone of this machine.
fn local_date(unix_seconds: f64) -> String {
    let millis = (unix_seconds * 1000.0) as i64;
    let at = jiff::Timestamp::from_millisecond(millis).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    at.to_zoned(TimeZone::system()).strftime("%d/%b/%Y:%H:%M:%S.%3f").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_has_haproxys_letters() {
        let letters = |reason, stage| Letters(termination(reason, stage, false)).to_string();
        let table = [
            ("--", Reason::ClientClosed, Stage::Data),
            ("--", Reason::ServerClosed, Stage::Data),
            ("CD", Reason::ClientError, Stage::Data),
            ("SD", Reason::ServerError, Stage::Data),
            ("CR", Reason::ClientClosed, Stage::Request),
            ("CQ", Reason::ClientClosed, Stage::Queue),
            ("CC", Reason::ClientClosed, Stage::Connect),
            ("CD", Reason::ClientClosed, Stage::Answer),
            ("cR", Reason::StartupTimedOut, Stage::Request),
            ("PR", Reason::StartupMalformed, Stage::Request),
            ("sQ", Reason::HoldExpired, Stage::Queue),
            ("sQ", Reason::QueueExpired, Stage::Queue),
            ("SQ", Reason::HoldFull, Stage::Queue),
            ("SQ", Reason::QueueFull, Stage::Queue),
            ("SC", Reason::HoldOff, Stage::Queue),
            ("SC", Reason::RetriesExhausted, Stage::Queue),
            ("RC", Reason::NoDescriptors, Stage::Connect),
            ("LR", Reason::CancelForwarded, Stage::Request),
            ("KQ", Reason::ServiceRemoved, Stage::Queue),
            ("K-", Reason::Shutdown, Stage::Data),
            ("K-", Reason::Maintenance, Stage::Data),
            ("K-", Reason::VipReleased, Stage::Data),
            ("KQ", Reason::VipReleased, Stage::Queue),
            ("D-", Reason::LeaderMoved, Stage::Data),
            ("D-", Reason::MemberDown, Stage::Data),
            ("D-", Reason::LeaseEnded, Stage::Data),
        ];
        for (expected, reason, stage) in table {
            assert_eq!(letters(reason, stage), expected, "{reason} at {stage:?}");
        }
        assert_eq!(termination(Reason::RetriesExhausted, Stage::Queue, true), ['s', 'C']);
    }

    #[test]
    fn dates_are_haproxys() {
        let date = local_date(1_795_260_153.123);
        let known = shape(&date);
        assert_eq!(known, "00/Aaa/0000:00:00:00.000", "{date}");
        assert!(date.ends_with(":33.123"), "{date}");
    }

    /// Digits as 0, the month's letters as Aaa.
    fn shape(text: &str) -> String {
        let class = |c: char| match c {
            c if c.is_ascii_digit() => '0',
            c if c.is_ascii_uppercase() => 'A',
            c if c.is_ascii_lowercase() => 'a',
            other => other,
        };
        text.chars().map(class).collect()
    }
}
