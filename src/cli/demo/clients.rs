//! Clients that write or read through one address and note down how every operation went.

use std::error::Error as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::task::{JoinHandle, JoinSet};
use tokio_postgres::{Client, Error, NoTls, Statement};

use super::member::{CLIENT_USER, client_settings};
use crate::model::HostPort;
use crate::runtime::clock;

/// An operation, connect included, that took longer was held.
pub const HELD_FROM: Duration = Duration::from_millis(250);
/// Operations kept per group of clients; later ones are only counted.
const OPERATIONS_MAX: usize = 2_000_000;
/// After an error, so that a refused connect is not tried in a hot loop.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(20);
/// For the words a server sent before it closed.
const LAST_WORDS_MAX: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    Write,
    Read,
}

impl Work {
    /// Both answer with the port of the PostgreSQL that did it, which names the member.
    fn statement(self) -> &'static str {
        match self {
            Work::Write => "INSERT INTO demo (client) VALUES ($1) RETURNING inet_server_port()",
            Work::Read => "SELECT inet_server_port() FROM demo WHERE client = $1 OR true LIMIT 1",
        }
    }
}

#[derive(Debug, Clone)]
pub struct ClientOptions {
    pub at: HostPort,
    pub work: Work,
    /// A new connection for every operation, or one kept until it breaks.
    pub connect_each: bool,
    pub count: u32,
    /// Between two operations of one client.
    pub pause: Duration,
    /// For one operation, connect included.
    pub limit: Duration,
}

/// One operation, connect included where there was one.
#[derive(Debug, Clone)]
pub struct Operation {
    pub client: u32,
    pub started: Instant,
    pub ended: Instant,
    /// The PostgreSQL port that answered, or the SQLSTATE, or `io: ...`.
    pub outcome: Result<u16, Arc<str>>,
}

impl Operation {
    pub fn took(&self) -> Duration {
        self.ended.saturating_duration_since(self.started)
    }

    pub fn was_held(&self) -> bool {
        self.took() > HELD_FROM
    }
}

/// Counters that the live page reads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub good: u64,
    pub bad: u64,
    /// Waiting for longer than [`HELD_FROM`] right now.
    pub held_now: u64,
}

#[derive(Debug)]
struct Notes {
    began: Instant,
    operations: Mutex<Vec<Operation>>,
    good: AtomicU64,
    bad: AtomicU64,
    /// Per client: microseconds from `began` to the start of the running operation, plus one; 0 when idle.
    running: Vec<AtomicU64>,
}

impl Notes {
    fn start(&self, client: u32) -> Instant {
        let now = clock::now();
        let mark = now.saturating_duration_since(self.began).as_micros() as u64 + 1;
        self.running[client as usize].store(mark, Ordering::Relaxed);
        now
    }

    fn end(&self, operation: Operation) {
        self.running[operation.client as usize].store(0, Ordering::Relaxed);
        let counter = if operation.outcome.is_ok() { &self.good } else { &self.bad };
        counter.fetch_add(1, Ordering::Relaxed);
        let mut operations = self.operations.lock();
        if operations.len() < OPERATIONS_MAX {
            operations.push(operation);
        }
    }
}

/// Runs until it is dropped.
#[derive(Debug)]
pub struct Clients {
    pub options: ClientOptions,
    notes: Arc<Notes>,
    _tasks: JoinSet<()>,
}

impl Clients {
    pub fn start(options: ClientOptions) -> Clients {
        let running = (0..options.count).map(|_| AtomicU64::new(0)).collect();
        let notes = Arc::new(Notes {
            began: clock::now(),
            operations: Mutex::default(),
            good: AtomicU64::new(0),
            bad: AtomicU64::new(0),
            running,
        });
        let mut tasks = JoinSet::new();
        for client in 0..options.count {
            tasks.spawn(live(client, options.clone(), Arc::clone(&notes)));
        }
        Clients { options, notes, _tasks: tasks }
    }

    pub fn counts(&self) -> Counts {
        let notes = &self.notes;
        let now = clock::now().saturating_duration_since(notes.began).as_micros() as u64;
        let oldest = now.saturating_sub(HELD_FROM.as_micros() as u64);
        let held = |mark: &&AtomicU64| (1..oldest).contains(&mark.load(Ordering::Relaxed));
        Counts {
            good: notes.good.load(Ordering::Relaxed),
            bad: notes.bad.load(Ordering::Relaxed),
            held_now: notes.running.iter().filter(held).count() as u64,
        }
    }

    /// All operations that have ended, in the order of their ends.
    pub fn operations(&self) -> Vec<Operation> {
        self.notes.operations.lock().clone()
    }

    /// Those that ended at or after `moment`.
    pub fn operations_since(&self, moment: Instant) -> Vec<Operation> {
        let operations = self.notes.operations.lock();
        let from = operations.partition_point(|operation| operation.ended < moment);
        operations[from..].to_vec()
    }

    /// Whether an operation that began after `moment` has gone well.
    pub fn has_good_since(&self, moment: Instant) -> bool {
        let operations = self.notes.operations.lock();
        let recent = operations.iter().rev().take_while(|operation| operation.ended >= moment);
        recent.into_iter().any(|operation| operation.started >= moment && operation.outcome.is_ok())
    }
}

/// A connection with its statement prepared.
struct Line {
    client: Client,
    statement: Statement,
    driver: JoinHandle<Result<(), Error>>,
}

impl Drop for Line {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

async fn live(client: u32, options: ClientOptions, notes: Arc<Notes>) {
    let mut line = None;
    loop {
        let started = notes.start(client);
        let work = operate(client, &options, &mut line);
        let outcome = match tokio::time::timeout(options.limit, work).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("no answer within {:?}", options.limit)),
        };
        let failed = outcome.is_err();
        if failed || options.connect_each {
            line = None;
        }
        notes.end(Operation { client, started, ended: clock::now(), outcome: outcome.map_err(Arc::from) });
        tokio::time::sleep(if failed { options.pause.max(PAUSE_AFTER_ERROR) } else { options.pause }).await;
    }
}

async fn operate(client: u32, options: &ClientOptions, line: &mut Option<Line>) -> Result<u16, String> {
    if line.is_none() {
        *line = Some(open(options).await?);
    }
    let Some(open) = line else { return Err("no connection".to_owned()) };
    match open.client.query_one(&open.statement, &[&(client as i32)]).await {
        Ok(row) => row.try_get::<_, i32>(0).map(|port| port as u16).map_err(|error| name(&error)),
        Err(error) => Err(last_words(open, error).await),
    }
}

async fn open(options: &ClientOptions) -> Result<Line, String> {
    let settings = client_settings(&options.at, CLIENT_USER);
    let (client, connection) = settings.connect(NoTls).await.map_err(|error| name(&error))?;
    let driver = tokio::spawn(connection);
    match client.prepare(options.work.statement()).await {
        Ok(statement) => Ok(Line { client, statement, driver }),
        Err(error) => {
            driver.abort();
            Err(name(&error))
        }
    }
}

/// When the server said why before it closed, its words came to the driver, not to the statement.
async fn last_words(line: &mut Line, error: Error) -> String {
    if !error.is_closed() {
        return name(&error);
    }
    match tokio::time::timeout(LAST_WORDS_MAX, &mut line.driver).await {
        Ok(Ok(Err(reason))) => name(&reason),
        _ => name(&error),
    }
}

/// The SQLSTATE, or what the network did.
fn name(error: &Error) -> String {
    if let Some(code) = error.code() {
        return code.code().to_owned();
    }
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref::<std::io::Error>() {
            return format!("io: {}", io.kind());
        }
        source = cause.source();
    }
    if error.is_closed() { "io: closed".to_owned() } else { format!("io: {error}") }
}
