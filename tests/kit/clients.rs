//! Writers behind one address: some connect for every write, some keep their connection, some
//! arrive while there is no primary. Each notes when it connected, what answered, and how it failed.

use std::error::Error as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use pgvane::cli::demo::member::{CLIENT_USER, client_settings};
use pgvane::model::HostPort;
use pgvane::runtime::clock;
use tokio::task::{JoinHandle, JoinSet};
use tokio_postgres::{Client, Error, NoTls, SimpleQueryMessage};

/// For one operation, connect and hold included.
pub const OPERATION_MAX: Duration = Duration::from_secs(90);
/// After an error, so that a refused connect is not tried in a hot loop.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(20);
/// For the words a server sent before it closed.
const LAST_WORDS_MAX: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Habit {
    /// A new connection for every write.
    Connecting,
    /// One connection, and a new one when it broke.
    Keeping,
    /// One connection, one write, while there is an outage.
    Arriving,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Until the server is ready for a query.
    Connect,
    /// Afterwards: the session was there and broke.
    Use,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub phase: Phase,
    /// The SQLSTATE, or `io: ...`.
    pub word: Arc<str>,
}

/// One write, its connect included where there was one.
#[derive(Debug, Clone)]
pub struct Noted {
    pub client: i32,
    pub habit: Habit,
    /// It began with a connect.
    pub is_new: bool,
    pub started: Instant,
    /// When the connect was over, if there was one and it was.
    pub connected: Option<Instant>,
    pub ended: Instant,
    /// Address and port of the PostgreSQL that wrote.
    pub outcome: Result<Arc<str>, Fault>,
}

pub type Notes = Arc<Mutex<Vec<Noted>>>;

/// How many of which habit, and how busy.
#[derive(Debug, Clone)]
pub struct Plan {
    pub connecting: i32,
    pub connecting_pause: Duration,
    pub keeping: i32,
    pub keeping_pause: Duration,
}

impl Default for Plan {
    fn default() -> Self {
        Plan {
            connecting: 3,
            connecting_pause: Duration::from_millis(30),
            keeping: 3,
            keeping_pause: Duration::from_millis(10),
        }
    }
}

/// All writers through one address; they end when this is dropped.
#[derive(Debug)]
pub struct Path {
    pub name: &'static str,
    door: Door,
    /// Every client has a number of its own across all paths: it stands in the row that it writes.
    numbers: std::ops::Range<i32>,
    _writers: JoinSet<()>,
}

impl Path {
    /// The path's clients have the numbers `first .. first + 1_000_000`.
    pub fn start(name: &'static str, at: HostPort, first: i32, plan: &Plan) -> Path {
        let next = Arc::new(AtomicI32::new(first));
        let door = Door { at, notes: Notes::default(), next };
        let mut writers = JoinSet::new();
        for _ in 0..plan.connecting {
            writers.spawn(door.writer(Habit::Connecting).live(plan.connecting_pause));
        }
        for _ in 0..plan.keeping {
            writers.spawn(door.writer(Habit::Keeping).live(plan.keeping_pause));
        }
        Path { name, door, numbers: first..first + 1_000_000, _writers: writers }
    }

    pub fn owns(&self, client: i32) -> bool {
        self.numbers.contains(&client)
    }

    pub fn door(&self) -> Door {
        self.door.clone()
    }

    /// What ended at or after `from`, in the order of its end.
    pub fn since(&self, from: Instant) -> Vec<Noted> {
        let notes = self.door.notes.lock();
        let mut recent: Vec<Noted> = notes.iter().filter(|noted| noted.ended >= from).cloned().collect();
        recent.sort_by_key(|noted| noted.ended);
        recent
    }

    /// Whether a write of each habit that began at or after `moment` went well, at `server` if given.
    pub fn writes_since(&self, moment: Instant, server: Option<&str>) -> bool {
        let notes = self.door.notes.lock();
        let good = |habit| {
            notes.iter().rev().take_while(|noted| noted.ended >= moment).any(|noted| {
                let fits = |at: &Arc<str>| server.is_none_or(|server| &**at == server);
                noted.habit == habit && noted.started >= moment && noted.outcome.as_ref().is_ok_and(fits)
            })
        };
        good(Habit::Connecting) && good(Habit::Keeping)
    }
}

/// Where clients of a path come in.
#[derive(Debug, Clone)]
pub struct Door {
    at: HostPort,
    notes: Notes,
    next: Arc<AtomicI32>,
}

impl Door {
    fn writer(&self, habit: Habit) -> Writer {
        let client = self.next.fetch_add(1, Ordering::Relaxed);
        Writer { client, habit, at: self.at.clone(), notes: self.notes.clone() }
    }

    /// A new client every now and then, until it is closed.
    pub fn arrivals(&self, every: Duration) -> Arrivals {
        let (door, waiting) = (self.clone(), Arc::new(Mutex::new(JoinSet::new())));
        let guests = Arc::clone(&waiting);
        let inflow = tokio::spawn(async move {
            loop {
                let writer = door.writer(Habit::Arriving);
                guests.lock().spawn(async move { writer.write_once(&mut None).await });
                tokio::time::sleep(every).await;
            }
        });
        Arrivals { inflow, waiting }
    }
}

#[derive(Debug)]
pub struct Arrivals {
    inflow: JoinHandle<()>,
    waiting: Arc<Mutex<JoinSet<bool>>>,
}

impl Arrivals {
    /// Nobody comes any more; who came goes on waiting.
    pub fn close(&mut self) {
        self.inflow.abort();
    }

    /// Closes, and returns when all have been served, or failed.
    pub async fn finish(mut self) {
        self.close();
        let mut waiting = std::mem::take(&mut *self.waiting.lock());
        while waiting.join_next().await.is_some() {}
    }
}

struct Writer {
    client: i32,
    habit: Habit,
    at: HostPort,
    notes: Notes,
}

/// An open connection.
struct Line {
    client: Client,
    driver: JoinHandle<Result<(), Error>>,
}

impl Drop for Line {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Writer {
    async fn live(self, pause: Duration) {
        let mut line = None;
        loop {
            let good = self.write_once(&mut line).await;
            if !good || self.habit != Habit::Keeping {
                line = None;
            }
            tokio::time::sleep(if good { pause } else { pause.max(PAUSE_AFTER_ERROR) }).await;
        }
    }

    /// One write, noted; says whether it went well.
    async fn write_once(&self, line: &mut Option<Line>) -> bool {
        let (started, is_new) = (clock::now(), line.is_none());
        let mut connected = None;
        let work = tokio::time::timeout(OPERATION_MAX, self.write(line, &mut connected)).await;
        let outcome = work.unwrap_or_else(|_| {
            let phase = if is_new && connected.is_none() { Phase::Connect } else { Phase::Use };
            Err(Fault { phase, word: format!("no answer within {OPERATION_MAX:?}").into() })
        });
        let good = outcome.is_ok();
        let (client, habit, ended) = (self.client, self.habit, clock::now());
        self.notes.lock().push(Noted { client, habit, is_new, started, connected, ended, outcome });
        good
    }

    async fn write(&self, line: &mut Option<Line>, connected: &mut Option<Instant>) -> Result<Arc<str>, Fault> {
        if line.is_none() {
            *line = Some(open(&self.at).await?);
            *connected = Some(clock::now());
        }
        let Some(open) = line else { return Err(Fault { phase: Phase::Connect, word: "no connection".into() }) };
        let statement = format!(
            "INSERT INTO demo (client) VALUES ({}) RETURNING host(inet_server_addr()) || ':' || inet_server_port()",
            self.client
        );
        match open.client.simple_query(&statement).await {
            Ok(messages) => Ok(messages.iter().find_map(first_column).unwrap_or_default()),
            Err(error) => Err(Fault { phase: Phase::Use, word: last_words(open, error).await }),
        }
    }
}

fn first_column(message: &SimpleQueryMessage) -> Option<Arc<str>> {
    match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(Arc::from),
        _ => None,
    }
}

async fn open(at: &HostPort) -> Result<Line, Fault> {
    let settings = client_settings(at, CLIENT_USER);
    let opened = settings.connect(NoTls).await;
    let (client, connection) = opened.map_err(|error| Fault { phase: Phase::Connect, word: word(&error) })?;
    Ok(Line { client, driver: tokio::spawn(connection) })
}

/// When the server said why before it closed, its words came to the driver, not to the statement.
async fn last_words(line: &mut Line, error: Error) -> Arc<str> {
    if !error.is_closed() {
        return word(&error);
    }
    match tokio::time::timeout(LAST_WORDS_MAX, &mut line.driver).await {
        Ok(Ok(Err(reason))) => word(&reason),
        _ => word(&error),
    }
}

/// The SQLSTATE, or what the network did.
pub fn word(error: &Error) -> Arc<str> {
    if let Some(code) = error.code() {
        return code.code().into();
    }
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref::<std::io::Error>() {
            return format!("io: {}", io.kind()).into();
        }
        source = cause.source();
    }
    if error.is_closed() { "io: closed".into() } else { format!("io: {error}").into() }
}
