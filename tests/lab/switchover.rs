//! A planned switchover as each kind of client feels it, read from the bytes: whoever is idle is told
//! whole words, whoever comes waits, whoever is in the middle of a result never sees it torn by them.

use std::time::Duration;

use pgvane::model::HostPort;
use pgvane::runtime::clock;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use crate::kit::outages::{self, Blow};
use crate::kit::stage::Stage;
use crate::kit::wire::{self, End, Wire};

const IDLE: usize = 50;
const CONNECT_MAX: Duration = Duration::from_secs(30);
/// For a session of the old primary to end, from before the switchover on.
const ENDED_MAX: Duration = Duration::from_secs(120);
/// What PostgreSQL says in a fast shutdown (src/backend/tcop/postgres.c, `ProcessInterrupts`).
const SHUTDOWN: &str = "terminating connection due to administrator command";
/// Of what a reader is sent in each row, beside its number.
const FILLING: usize = 1000;
/// A reader that has so many rows is in the middle of it.
const ROWS_MIN: u64 = 200;
/// A client may be told these when the other side goes away.
const EXPLAINED: [&str; 4] = ["57P01", "57P02", "08006", "08007"];
/// What takes a hundred milliseconds may take so long on a busy machine.
const BEHIND_MAX_MS: f64 = 3000.0;

pub async fn is_felt_as_latency(stage: &Stage) {
    stage.calm().await.unwrap();
    let write = &stage.router.write;
    let idle = idle_sessions(write, IDLE).await;
    let in_transaction = idle_in_transaction(write).await;
    let (over, is_over) = watch::channel(false);
    // One is sent rows slowly and reads them at once, the others are sent more than they read.
    let fast = format!("SELECT g, repeat('x', {FILLING}) FROM (SELECT generate_series(1, 100000000) g) numbers");
    let slow = fast.replacen(" FROM", ", pg_sleep(0.002) FROM", 1);
    let readers = [
        ("a reader that keeps up", Reader::start(write, &slow, None).await),
        ("a reader that does not", Reader::start(write, &fast, Some(is_over.clone())).await),
        ("a COPY that is not read", Reader::start(write, &format!("COPY ({fast}) TO STDOUT"), Some(is_over)).await),
    ];
    let row = outages::measure(stage, Blow::Switchover).await.unwrap();
    eprintln!("{row}");
    over.send(true).unwrap();

    let told = told_alone(idle).await;
    let whole = told.iter().filter(|end| matches!(end, End::Told(it) if it.code == "57P01" && it.message == SHUTDOWN));
    assert_eq!(whole.count(), IDLE, "idle sessions did not get the server's own 57P01: {told:?}{}", stage.tails());
    let end = timeout(ENDED_MAX, in_transaction).await.expect("its server is gone").unwrap();
    assert!(matches!(&end, End::Told(it) if EXPLAINED.contains(&it.code.as_str())), "in a transaction: {end}");
    for (who, reader) in readers {
        let (rows, end) = reader.ended().await;
        eprintln!("{who}: {rows} rows, then {end}");
        let cut_between = matches!(&end, End::Told(it) if EXPLAINED.contains(&it.code.as_str()));
        assert!(cut_between || matches!(end, End::Within { .. }), "{who}: {rows} rows, then {end}");
    }

    let felt = &row.pgvane;
    assert_eq!(felt.fared.refusals(), 0, "a connect failed, of a new client or of a pool: {row}{}", stage.tails());
    assert!(felt.held > 0, "nobody was held: {row}");
    assert!(felt.held_past_ms().unwrap() <= BEHIND_MAX_MS, "{row}{}", stage.tails());
    let unexplained = felt.fared.cut.keys().find(|word| !EXPLAINED.contains(&word.as_str()));
    assert_eq!(unexplained, None, "a pool's session ended without words: {row}{}", stage.tails());
}

async fn connect(at: &HostPort) -> Wire {
    let connected = timeout(CONNECT_MAX, Wire::connect(at, None, &mut false)).await;
    connected.expect("a connect takes no time in a calm cluster").unwrap_or_else(|end| panic!("a connect: {end}"))
}

/// Sessions that have done something and wait.
async fn idle_sessions(at: &HostPort, count: usize) -> JoinSet<End> {
    let mut sessions = JoinSet::new();
    for _ in 0..count {
        let mut session = connect(at).await;
        session.query("SELECT 1").await.unwrap();
        sessions.spawn(async move { first_of(&mut session).await });
    }
    sessions
}

async fn idle_in_transaction(at: &HostPort) -> JoinHandle<End> {
    let mut session = connect(at).await;
    let reply = session.query("BEGIN; INSERT INTO demo (client) VALUES (0)").await.unwrap();
    assert_eq!(reply.status, b'T', "{reply:?}");
    tokio::spawn(async move { first_of(&mut session).await })
}

/// What an idle session hears first: its end, and nothing before.
async fn first_of(session: &mut Wire) -> End {
    match session.message().await {
        Ok(message) => End::Garbled(format!("{message:?} for an idle session")),
        Err(end) => end,
    }
}

async fn told_alone(sessions: JoinSet<End>) -> Vec<End> {
    timeout(ENDED_MAX, sessions.join_all()).await.expect("every idle session of the old primary ends")
}

/// A session that is sent a large result, each row with its number.
struct Reader {
    task: JoinHandle<(u64, End)>,
}

impl Reader {
    /// Returns when it is in the middle of it; `pause_until` stops its reading then.
    async fn start(at: &HostPort, sql: &str, pause_until: Option<watch::Receiver<bool>>) -> Reader {
        let mut session = connect(at).await;
        let (began, has_begun) = tokio::sync::oneshot::channel();
        let sql = wire::query(sql);
        let task = tokio::spawn(async move {
            session.send(&sql).await;
            let mut rows = 0;
            while rows < ROWS_MIN {
                if let Err(end) = next_row(&mut session, &mut rows).await {
                    return (rows, end);
                }
            }
            let _gone = began.send(());
            if let Some(mut over) = pause_until {
                let _gone = over.wait_for(|over| *over).await;
            }
            loop {
                if let Err(end) = next_row(&mut session, &mut rows).await {
                    return (rows, end);
                }
            }
        });
        timeout(CONNECT_MAX, has_begun).await.expect("rows come").expect("the reader is in the middle of its result");
        Reader { task }
    }

    async fn ended(self) -> (u64, End) {
        let began = clock::now();
        let ended = timeout(ENDED_MAX, self.task).await;
        ended.unwrap_or_else(|_| panic!("a reader still waits after {:?}", began.elapsed())).unwrap()
    }
}

/// Every message must be whole, of its kind, and the next in order.
async fn next_row(session: &mut Wire, rows: &mut u64) -> Result<(), End> {
    let message = session.message().await?;
    let garbled = |what: String| Err(End::Garbled(format!("after {rows} rows: {what}")));
    let number = match message.kind {
        b'T' | b'H' => return Ok(()),
        b'D' => wire::first_column(&message.body),
        b'd' => {
            let line = String::from_utf8_lossy(&message.body);
            line.split('\t').next().unwrap_or_default().to_owned()
        }
        other => return garbled(format!("{:?} within a result", char::from(other))),
    };
    *rows += 1;
    let filled = message.body.iter().filter(|byte| **byte == b'x').count();
    if number != rows.to_string() || filled != FILLING {
        return Err(End::Garbled(format!("row {rows} is numbered {number} and has {filled} of {FILLING} bytes")));
    }
    Ok(())
}
