//! Plays a conversation at an address and notes all that the server says.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::script::{Act, Conversation, Step};
use super::wire::{self, Message};
use crate::members::until;
use crate::servers::Postgres;

/// For one step on a busy machine.
const STEP_MAX: Duration = Duration::from_secs(40);
/// Pieces of a long message when it goes in small ones.
const PIECES_MAX: usize = 2000;
const READ_BYTES: usize = 64 * 1024;

/// How the client's bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// All that may go before the next answer, in one piece.
    Whole,
    /// Byte by byte; long ones in some thousands of pieces.
    Pieces,
}

/// What every session was told, by its name.
pub type Transcript = BTreeMap<String, Vec<Message>>;

pub async fn play(
    conversation: &Conversation,
    at: SocketAddr,
    server: &Postgres,
    manner: Manner,
) -> Result<Transcript, String> {
    let mut sessions: BTreeMap<String, Session> = BTreeMap::new();
    for step in &conversation.steps {
        if !sessions.contains_key(&step.session) {
            sessions.insert(step.session.clone(), Session::open(at, manner).await);
        }
        let session = sessions.get_mut(&step.session).expect("it was opened");
        let what = format!("{}, line {}: {:?}", conversation.name, step.line, Brief(&step.act));
        let done = timeout(STEP_MAX, session.act(step, at, server)).await;
        done.unwrap_or_else(|_| Err(format!("not within {STEP_MAX:?}")))
            .map_err(|why| format!("{what}: {why}; {}", session.last_words()))?;
    }
    let mut transcript = Transcript::new();
    for (name, session) in &mut sessions {
        if !session.is_over {
            session.pending.extend(wire::message(b'X', &[]));
            let ended = timeout(STEP_MAX, session.end()).await;
            ended.map_err(|_| format!("{}: {name} does not end", conversation.name))?;
        }
        let masked =
            std::mem::take(&mut session.said).into_iter().map(|message| message.masked(conversation.masks_lsn));
        transcript.insert(name.clone(), masked.collect());
    }
    Ok(transcript)
}

/// Long texts are not for people.
struct Brief<'a>(&'a Act);

impl std::fmt::Debug for Brief<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Act::Send(bytes) => write!(f, "send {}", bytes[..bytes.len().min(80)].escape_ascii()),
            other => write!(f, "{other:?}"),
        }
    }
}

#[derive(Default)]
struct Inbox {
    /// And whether that is all.
    bytes: Mutex<(BytesMut, bool)>,
    news: Notify,
}

struct Session {
    inbox: Arc<Inbox>,
    reader: JoinHandle<()>,
    writer: OwnedWriteHalf,
    manner: Manner,
    pending: Vec<u8>,
    said: Vec<Message>,
    /// Messages before this one have been waited for.
    seen: usize,
    key: Vec<u8>,
    is_over: bool,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Session {
    async fn open(at: SocketAddr, manner: Manner) -> Session {
        let stream = TcpStream::connect(at).await.unwrap_or_else(|error| panic!("{at}: {error}"));
        stream.set_nodelay(true).expect("TCP_NODELAY");
        let (from_server, writer) = stream.into_split();
        let inbox = Arc::new(Inbox::default());
        let reader = tokio::spawn(read(from_server, inbox.clone()));
        let (pending, said, key) = (Vec::new(), Vec::new(), Vec::new());
        Session { inbox, reader, writer, manner, pending, said, seen: 0, key, is_over: false }
    }

    async fn act(&mut self, step: &Step, at: SocketAddr, server: &Postgres) -> Result<(), String> {
        if let Act::Send(bytes) = &step.act {
            self.pending.extend(bytes);
            return Ok(());
        }
        if let Act::Ask(bytes) = &step.act {
            self.pending.extend(bytes);
        }
        self.flush().await;
        match &step.act {
            Act::Send(_) => {}
            Act::Ask(_) => self.one_byte().await?,
            Act::Wait { kind, count, text } => {
                for _ in 0..*count {
                    self.wait(*kind, text).await?;
                }
            }
            Act::Sleeping => self.until_waiting("Timeout", "PgSleep", server).await,
            Act::Locked => self.until_waiting("Lock", "%", server).await,
            Act::Cancel => self.cancel(at).await,
            Act::Shut => {
                // The server may have closed already.
                let _ = self.writer.shutdown().await;
            }
            Act::End => self.end().await,
            Act::Leave => {
                self.said.truncate(self.seen);
                self.is_over = true;
            }
        }
        Ok(())
    }

    /// A server that has closed takes nothing; what it said before is what counts.
    async fn flush(&mut self) {
        let bytes = std::mem::take(&mut self.pending);
        let piece = match self.manner {
            Manner::Whole => bytes.len().max(1),
            Manner::Pieces => bytes.len() / PIECES_MAX + 1,
        };
        for piece in bytes.chunks(piece) {
            if self.writer.write_all(piece).await.is_err() {
                return;
            }
        }
    }

    async fn one_byte(&mut self) -> Result<(), String> {
        let kind = self.take(|bytes| bytes.first().map(|kind| (*kind, 1))).await.ok_or("closed")?;
        self.said.push(Message { kind, body: Vec::new() });
        self.seen = self.said.len();
        Ok(())
    }

    async fn wait(&mut self, kind: u8, text: &str) -> Result<(), String> {
        loop {
            let message = self.take(Message::read).await.ok_or("closed before that")?;
            let is_it = message.kind == kind && message.holds(text);
            if message.kind == b'K' {
                self.key.clone_from(&message.body);
            }
            self.said.push(message);
            self.seen = self.said.len();
            if is_it {
                return Ok(());
            }
        }
    }

    /// What `read` finds at the front, taken off, as soon as it is there; None when the server closed first.
    async fn take<T>(&self, read: impl Fn(&[u8]) -> Option<(T, usize)>) -> Option<T> {
        loop {
            let news = self.inbox.news.notified();
            {
                let mut inbox = self.inbox.bytes.lock();
                if let Some((found, length)) = read(&inbox.0) {
                    inbox.0.advance(length);
                    return Some(found);
                }
                if inbox.1 {
                    return None;
                }
            }
            news.await;
        }
    }

    async fn end(&mut self) {
        self.flush().await;
        while let Some(message) = self.take(Message::read).await {
            self.said.push(message);
        }
        let rest = self.inbox.bytes.lock().0.split().to_vec();
        if !rest.is_empty() {
            self.said.push(Message { kind: 0, body: rest });
        }
        self.is_over = true;
    }

    async fn until_waiting(&self, class: &str, event: &str, server: &Postgres) {
        let pid = u32::from_be_bytes(self.key[..4].try_into().expect("BackendKeyData was waited for"));
        let of = format!("pid = {pid} AND wait_event_type = '{class}' AND wait_event LIKE '{event}'");
        let sql = format!("SELECT 1 FROM pg_stat_activity WHERE {of}");
        until("the session waits in its server", STEP_MAX, || server.has(&sql)).await;
    }

    async fn cancel(&self, at: SocketAddr) {
        let mut stream = TcpStream::connect(at).await.unwrap_or_else(|error| panic!("{at}: {error}"));
        stream.write_all(&wire::cancel(&self.key)).await.expect("a cancel request is taken");
        let mut nothing = Vec::new();
        stream.read_to_end(&mut nothing).await.expect("it ends in order");
        assert_eq!(nothing, b"", "a cancel request is not answered");
    }

    /// For a person.
    fn last_words(&self) -> String {
        let (last, unread) = (&self.said[self.said.len().saturating_sub(5)..], self.inbox.bytes.lock().0.len());
        format!("before that {last:?}, and {unread} bytes that are no message")
    }
}

async fn read(mut from: OwnedReadHalf, into: Arc<Inbox>) {
    let mut buffer = vec![0; READ_BYTES];
    loop {
        // An end by reset is an end; the bytes before it count.
        let length = from.read(&mut buffer).await.unwrap_or(0);
        {
            let mut inbox = into.bytes.lock();
            inbox.0.extend_from_slice(&buffer[..length]);
            inbox.1 = length == 0;
        }
        into.news.notify_waiters();
        if length == 0 {
            return;
        }
    }
}
