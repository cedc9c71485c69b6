//! One client of each kind, and what all of them share: to connect, to come again, to say how it was.

use std::sync::Arc;
use std::time::Duration;

use pgvane::model::HostPort;
use pgvane::runtime::clock;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::book::{Book, Phase, Promise, Who};
use super::kit::wire::{End, Reply, Tls, Wire};
use super::{bulk, work};

/// For one operation, the hold of a connect included.
pub const OPERATION_MAX: Duration = Duration::from_secs(90);
/// So that somebody who is refused does not ask in a hot loop.
const PAUSE_AFTER_END: Duration = Duration::from_millis(100);
/// Rows of one client are numbered from its own number times this.
const ROWS_PER_CLIENT: i64 = 10_000_000;
/// For everybody to finish what they are at.
const HOME_MAX: Duration = Duration::from_secs(120);

/// Where clients come in.
#[derive(Clone)]
pub struct Doors {
    pub write: HostPort,
    pub read: HostPort,
    pub tls: Option<Tls>,
}

pub struct Client {
    pub who: Who,
    pub at: HostPort,
    pub book: Arc<Book>,
    pub stop: CancellationToken,
    tls: Option<Tls>,
    rows: i64,
    dice: u64,
}

/// A session, and whether anybody between can say something in it.
pub struct Session {
    pub wire: Wire,
    pub encrypted: bool,
}

impl Client {
    pub async fn open(&mut self) -> Option<Session> {
        let (began, mut encrypted) = (clock::now(), false);
        let opening = Wire::connect(&self.at, self.tls.as_ref(), &mut encrypted);
        let opened = timeout(OPERATION_MAX, opening).await.unwrap_or(Err(End::Late(OPERATION_MAX)));
        match opened {
            Ok(wire) => {
                self.book.connected(&self.who, began.elapsed());
                Some(Session { wire, encrypted })
            }
            Err(end) => {
                self.book.ended(&self.who, Phase::Connecting, &end, encrypted);
                sleep(PAUSE_AFTER_END).await;
                None
            }
        }
    }

    /// About so long; false when it is time to go home.
    pub async fn pause(&mut self, middle: Duration) -> bool {
        let time = self.about(middle);
        tokio::select! {
            biased;
            () = self.stop.cancelled() => false,
            () = sleep(time) => true,
        }
    }

    /// Between half of `middle` and one and a half.
    pub fn about(&mut self, middle: Duration) -> Duration {
        self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        middle.mul_f64(0.5 + (self.dice >> 40) as f64 / (1u64 << 24) as f64)
    }

    pub fn next_row(&mut self) -> i64 {
        self.rows += 1;
        self.who.number as i64 * ROWS_PER_CLIENT + self.rows
    }

    pub fn wrong(&self, phase: Phase, what: &str) {
        self.book.unexplained(&self.who, phase, what);
    }

    pub async fn ended(&self, phase: Phase, end: &End, session: &Session) {
        self.book.ended(&self.who, phase, end, session.encrypted);
        sleep(PAUSE_AFTER_END).await;
    }

    /// Asks. An error that leaves the session open is noted.
    pub async fn ask(&self, session: &mut Session, phase: Phase, sql: &str) -> Result<Reply, End> {
        let reply = in_time(session.wire.query(sql)).await?;
        if let Some(words) = &reply.error {
            self.book.refused(&self.who, phase, words);
        }
        Ok(reply)
    }

    /// The end of a session whose row has not been asked to be committed.
    pub async fn ended_uncommitted(&self, phase: Phase, row: i64, end: &End, session: &Session) {
        self.book.row(row, &self.who, Promise::uncommitted(end));
        self.ended(phase, end, session).await;
    }

    /// The end of one whose COMMIT, or whose statement, may be under way.
    pub async fn ended_unanswered(&self, phase: Phase, row: i64, end: &End, session: &Session) {
        let promise = match session.wire.tags.last() {
            Some(tag) if tag == "COMMIT" => Promise::There,
            // Of a Bind and Execute that is answered before the Sync after it commits.
            Some(tag) => Promise::Either(format!("after {tag}")),
            None => Promise::of(end),
        };
        self.book.row(row, &self.who, promise);
        self.ended(phase, end, session).await;
    }

    /// After the answer to a COMMIT or to a statement outside a transaction.
    pub fn answered(&self, phase: Phase, row: i64, session: &Session, reply: &Reply, wanted: &[&str]) {
        let tags = &session.wire.tags;
        if reply.error.is_none() && tags == wanted && reply.status == b'I' {
            self.book.row(row, &self.who, Promise::There);
            self.book.done(&self.who);
            return;
        }
        self.book.row(row, &self.who, Promise::Absent("refused".to_owned()));
        if reply.error.is_some() {
            return; // and noted
        }
        self.wrong(phase, &format!("{tags:?}, status {:?} instead of {wanted:?}", char::from(reply.status)));
    }
}

pub async fn in_time<T>(work: impl Future<Output = Result<T, End>>) -> Result<T, End> {
    timeout(OPERATION_MAX, work).await.unwrap_or(Err(End::Late(OPERATION_MAX)))
}

pub struct Crowd {
    stop: CancellationToken,
    tasks: JoinSet<()>,
    book: Arc<Book>,
    doors: Doors,
    next: u64,
}

impl Crowd {
    /// Everybody comes in; the load is meant to leave most of two cores to the servers.
    pub fn start(doors: Doors, book: Arc<Book>) -> Crowd {
        let (stop, tasks) = (CancellationToken::new(), JoinSet::new());
        let mut crowd = Crowd { stop, tasks, book, doors, next: 0 };
        for encrypted in [false, true] {
            let times = |plain, secret| if encrypted { secret } else { plain };
            crowd.writers(encrypted, "writes, short", times(2, 1), work::visit_and_write);
            crowd.writers(encrypted, "writes, simple", times(3, 1), work::write_simply);
            crowd.writers(encrypted, "writes, extended", times(3, 1), work::write_extended);
            crowd.writers(encrypted, "transactions", times(4, 1), work::transact);
            crowd.writers(encrypted, "pipelines", times(2, 1), work::pipeline);
            crowd.writers(encrypted, "idle in transaction", times(3, 1), work::rest_in_transaction);
            crowd.writers(encrypted, "idle, write port", times(10, 3), work::idle);
            crowd.writers(encrypted, "notified", times(1, 0), work::listen);
            crowd.writers(encrypted, "COPY both ways", times(1, 1), bulk::copy_both_ways);
            crowd.writers(encrypted, "cancels, write port", times(2, 0), work::cancel_sleep);
            crowd.readers(encrypted, "reads, short", times(2, 1), work::visit_and_read);
            crowd.readers(encrypted, "reads, simple", times(3, 1), work::read);
            crowd.readers(encrypted, "idle, read port", times(10, 2), work::idle);
            crowd.readers(encrypted, "COPY out", times(1, 0), bulk::copy_out);
            crowd.readers(encrypted, "large results", times(1, 1), bulk::receive_rows);
            crowd.readers(encrypted, "cancels, read port", times(2, 0), work::cancel_sleep);
        }
        crowd
    }

    fn writers<F>(&mut self, encrypted: bool, kind: &'static str, count: u32, live: impl Fn(Client) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        for _ in 0..count {
            self.admit(encrypted, kind, self.doors.write.clone(), &live);
        }
    }

    fn readers<F>(&mut self, encrypted: bool, kind: &'static str, count: u32, live: impl Fn(Client) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        for _ in 0..count {
            self.admit(encrypted, kind, self.doors.read.clone(), &live);
        }
    }

    fn admit<F>(&mut self, encrypted: bool, kind: &'static str, at: HostPort, live: impl Fn(Client) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let tls = if encrypted { self.doors.tls.clone() } else { None };
        if encrypted && tls.is_none() {
            return;
        }
        self.next += 1;
        let who = Who { kind, number: self.next, tls: encrypted };
        let (book, stop, dice) = (Arc::clone(&self.book), self.stop.clone(), self.next);
        self.tasks.spawn(live(Client { who, at, book, stop, tls, rows: 0, dice }));
    }

    pub fn count(&self) -> usize {
        self.tasks.len()
    }

    /// Everybody finishes what they are at; says how many did not.
    pub async fn go_home(mut self) -> usize {
        self.stop.cancel();
        let all_gone = async { while self.tasks.join_next().await.is_some() {} };
        let _told_by_the_count = timeout(HOME_MAX, all_gone).await;
        self.tasks.len()
    }
}
