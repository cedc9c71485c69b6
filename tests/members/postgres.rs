//! PostgreSQL's port, as far as a client can tell that needs no tables: startup, BEGIN, COMMIT, INSERT,
//! SELECT, cancel. It keeps a journal of who wrote when.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use pgvane::runtime::clock;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::member::{Facts, Postgres};

/// What a client asks for by pg_sleep(1).
const SLEEP: Duration = Duration::from_secs(1);
const SSL_REQUEST: u32 = 80_877_103;
const CANCEL_REQUEST: u32 = 80_877_102;

/// What clients did here.
#[derive(Debug)]
pub struct Journal {
    pub name: String,
    /// Part of every key given out, so that one member's keys are nobody else's.
    number: u32,
    pids: AtomicU32,
    pub sessions_open: AtomicUsize,
    total: AtomicUsize,
    /// Writes refused with 25006.
    pub refused: AtomicUsize,
    pub writes: Mutex<Vec<Write>>,
    /// When the last byte of an established session was read.
    pub last_byte: Mutex<Option<Instant>>,
    pub cancels: Mutex<Vec<(u32, u32)>>,
}

#[derive(Debug, Clone, Copy)]
pub struct Write {
    pub pid: u32,
    pub at: Instant,
}

impl Journal {
    pub fn new(name: &str, number: u32) -> Journal {
        Journal {
            name: name.to_owned(),
            number,
            pids: AtomicU32::new(1),
            sessions_open: AtomicUsize::new(0),
            total: AtomicUsize::new(0),
            refused: AtomicUsize::new(0),
            writes: Mutex::default(),
            last_byte: Mutex::default(),
            cancels: Mutex::default(),
        }
    }

    pub fn last_write(&self) -> Option<Instant> {
        self.writes.lock().last().map(|write| write.at)
    }

    pub fn writes_total(&self) -> usize {
        self.writes.lock().len()
    }

    pub fn sessions_total(&self) -> usize {
        self.total.load(Relaxed)
    }

    pub fn open(&self) -> usize {
        self.sessions_open.load(Relaxed)
    }

    pub fn refused(&self) -> usize {
        self.refused.load(Relaxed)
    }
}

/// One connection from accept to close.
pub async fn attend(stream: TcpStream, mut facts: watch::Receiver<Facts>, journal: Arc<Journal>) {
    let (manner, life) = {
        let now = facts.borrow();
        (now.postgres, now.life)
    };
    match manner {
        Postgres::Hung => return std::future::pending().await,
        Postgres::Resets => {
            let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            return;
        }
        Postgres::Answers | Postgres::Starting | Postgres::Refused => {}
    }
    let mut backend = Backend { stream, unread: Vec::new(), facts: facts.clone(), journal, pid: 0, status: b'I' };
    let ended = tokio::select! {
        // A closed connection is how most of them end.
        _closed = backend.talk(manner) => true,
        _ = facts.wait_for(|facts| facts.life != life) => false,
    };
    if !ended {
        backend.say_goodbye().await;
    }
}

/// An open session is counted as long as it lasts, however it ends.
struct Counted(Arc<Journal>);

impl Counted {
    fn new(journal: &Arc<Journal>) -> Counted {
        journal.sessions_open.fetch_add(1, Relaxed);
        journal.total.fetch_add(1, Relaxed);
        Counted(journal.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.sessions_open.fetch_sub(1, Relaxed);
    }
}

struct Backend {
    stream: TcpStream,
    unread: Vec<u8>,
    facts: watch::Receiver<Facts>,
    journal: Arc<Journal>,
    pid: u32,
    /// As ReadyForQuery tells it.
    status: u8,
}

impl Backend {
    async fn talk(&mut self, manner: Postgres) -> std::io::Result<()> {
        loop {
            let packet = self.packet().await?;
            match packet.get(..4).map(number) {
                Some(SSL_REQUEST) => self.stream.write_all(b"N").await?,
                Some(CANCEL_REQUEST) if packet.len() >= 12 => {
                    self.journal.cancels.lock().push((number(&packet[4..8]), number(&packet[8..12])));
                    return Ok(());
                }
                _ => break,
            }
        }
        if manner == Postgres::Starting {
            return self.stream.write_all(&error("FATAL", "57P03", "the database system is starting up")).await;
        }
        let _counted = Counted::new(&self.journal);
        self.welcome().await?;
        loop {
            let (kind, body) = self.message().await?;
            match kind {
                b'Q' => self.query(&body).await?,
                b'X' => return Ok(()),
                _ => self.stream.write_all(&error("ERROR", "0A000", "not simulated")).await?,
            }
        }
    }

    async fn say_goodbye(&mut self) {
        let words = error("FATAL", "57P01", "terminating connection due to administrator command");
        // The client may have gone.
        let _ = self.stream.write_all(&words).await;
    }

    async fn welcome(&mut self) -> std::io::Result<()> {
        self.pid = self.journal.number * 1_000_000 + self.journal.pids.fetch_add(1, Relaxed);
        let key = [self.pid.to_be_bytes(), (!self.pid).to_be_bytes()].concat();
        let parameter = |name: &str, value: &str| message(b'S', format!("{name}\0{value}\0").as_bytes());
        let words = [
            message(b'R', &[0; 4]),
            parameter("server_version", "15.8"),
            parameter("client_encoding", "UTF8"),
            message(b'K', &key),
            message(b'Z', b"I"),
        ];
        self.stream.write_all(&words.concat()).await
    }

    async fn query(&mut self, body: &[u8]) -> std::io::Result<()> {
        let words = if body.starts_with(b"INSERT") {
            let in_recovery = self.facts.borrow().in_recovery;
            if in_recovery {
                self.journal.refused.fetch_add(1, Relaxed);
                error("ERROR", "25006", "cannot execute INSERT in a read-only transaction")
            } else {
                self.journal.writes.lock().push(Write { pid: self.pid, at: clock::now() });
                message(b'C', b"INSERT 0 1\0")
            }
        } else if body.starts_with(b"BEGIN") {
            self.status = b'T';
            message(b'C', b"BEGIN\0")
        } else if body.starts_with(b"COMMIT") {
            self.status = b'I';
            message(b'C', b"COMMIT\0")
        } else {
            if body.starts_with(b"SELECT pg_sleep(1)") {
                tokio::time::sleep(SLEEP).await;
            }
            row(&self.journal.name)
        };
        self.stream.write_all(&[words, message(b'Z', &[self.status])].concat()).await
    }

    async fn packet(&mut self) -> std::io::Result<Vec<u8>> {
        self.fill(4).await?;
        let length = number(&self.unread[..4]) as usize;
        self.fill(length).await?;
        let rest = self.unread.split_off(length);
        let packet = std::mem::replace(&mut self.unread, rest);
        Ok(packet[4..].to_vec())
    }

    async fn message(&mut self) -> std::io::Result<(u8, Vec<u8>)> {
        self.fill(1).await?;
        let kind = self.unread.remove(0);
        Ok((kind, self.packet().await?))
    }

    async fn fill(&mut self, wanted: usize) -> std::io::Result<()> {
        while self.unread.len() < wanted {
            if self.stream.read_buf(&mut self.unread).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            if self.pid != 0 {
                *self.journal.last_byte.lock() = Some(clock::now());
            }
        }
        Ok(())
    }
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes.try_into().expect("four bytes"))
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).expect("a short message");
    [&[kind][..], &length.to_be_bytes(), body].concat()
}

fn error(severity: &str, code: &str, text: &str) -> Vec<u8> {
    message(b'E', format!("S{severity}\0V{severity}\0C{code}\0M{text}\0\0").as_bytes())
}

/// One row of one text column.
fn row(value: &str) -> Vec<u8> {
    let mut column = 1u16.to_be_bytes().to_vec();
    column.extend(b"name\0");
    // No table, type text of any length, in text.
    column.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 25, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0]);
    let length = u32::try_from(value.len()).expect("a short name");
    let data = [&1u16.to_be_bytes()[..], &length.to_be_bytes(), value.as_bytes()].concat();
    [message(b'T', &column), message(b'D', &data), message(b'C', b"SELECT 1\0")].concat()
}
