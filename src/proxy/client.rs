//! The client's side of a connection before it is relayed: what it asked, what it sent early, and
//! the words it is told at the end.

use std::io::{self, Read};
use std::net::Shutdown;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::model::Reason;
use crate::runtime::clock;

use super::protocol::startup::{self, Kind, Malformed, Parsed};
use super::timers::{timeout, timeout_at};

/// Bytes kept of a client that talks on while it waits; beyond that it is not listened to.
pub const EARLY_BYTES_MAX: usize = 16 * 1024;
/// For writing a few hundred bytes to a client that may not read.
const WORDS_TIMEOUT: Duration = Duration::from_secs(5);
/// For a client to close after it was told why; closing with its bytes unread would reset the
/// connection and take the words away from it.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(2);
/// Thrown away meanwhile of a client that goes on sending, such as one in the middle of a COPY.
const GOODBYE_BYTES_MAX: usize = 16 * 1024 * 1024;
const READ_BYTES: usize = 2048;
const DISCARD_BYTES: usize = 16 * 1024;

/// The other side says no to encryption.
pub const NO: &[u8] = b"N";

/// One packet of the startup phase.
#[derive(Debug)]
pub struct Request {
    pub kind: Kind,
    pub bytes: Vec<u8>,
}

/// Why there is no next packet.
#[derive(Debug)]
pub enum NoRequest {
    Closed,
    Error(io::Error),
    Malformed(Malformed),
}

impl NoRequest {
    pub fn reason(&self) -> Reason {
        match self {
            NoRequest::Closed => Reason::ClientClosed,
            NoRequest::Error(_) => Reason::ClientError,
            NoRequest::Malformed(_) => Reason::StartupMalformed,
        }
    }
}

#[derive(Debug)]
pub struct Client {
    pub stream: TcpStream,
    /// Read, and not part of a packet that was taken.
    pub early: Vec<u8>,
}

impl Client {
    /// `early` was read from the stream.
    pub fn new(stream: TcpStream, early: Vec<u8>) -> Client {
        Client { stream, early }
    }

    /// The next packet. Cancelling it loses nothing.
    pub async fn next_request(&mut self) -> Result<Request, NoRequest> {
        loop {
            match startup::parse(&self.early) {
                Parsed::Complete { kind, length } => {
                    let rest = self.early.split_off(length);
                    let bytes = std::mem::replace(&mut self.early, rest);
                    return Ok(Request { kind, bytes });
                }
                Parsed::Malformed(malformed) => return Err(NoRequest::Malformed(malformed)),
                Parsed::Incomplete => self.read_more().await?,
            }
        }
    }

    /// Completes when the client has gone. What it sends meanwhile is kept.
    pub async fn gone(&mut self) -> Reason {
        loop {
            if self.early.len() >= EARLY_BYTES_MAX {
                std::future::pending::<()>().await;
            }
            if let Err(gone) = self.read_more().await {
                return gone.reason();
            }
        }
    }

    /// What a client has sent before anybody asked, which is its StartupMessage more often than not. That it has
    /// gone already is told by the next read, a reset as an end.
    pub fn read_first(accepted: &std::net::TcpStream) -> Vec<u8> {
        let (mut chunk, mut accepted) = ([0; READ_BYTES], accepted);
        let n = accepted.read(&mut chunk).unwrap_or(0);
        chunk[..n].to_vec()
    }

    async fn read_more(&mut self) -> Result<(), NoRequest> {
        self.stream.readable().await.map_err(NoRequest::Error)?;
        let mut chunk = [0; READ_BYTES];
        match self.stream.try_read(&mut chunk) {
            Ok(0) => Err(NoRequest::Closed),
            Ok(n) => {
                self.early.extend(&chunk[..n]);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(NoRequest::Error(error)),
        }
    }

    /// Writes a few bytes, whole or not at all worth going on.
    pub async fn tell(&mut self, words: &[u8]) -> Result<(), Reason> {
        match timeout(WORDS_TIMEOUT, self.stream.write_all(words)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Reason::ClientError),
        }
    }

    /// Last words, and time to read them and to close.
    pub async fn tell_and_wait(&mut self, words: &[u8]) {
        if self.tell(words).await.is_ok() {
            await_goodbye(&self.stream).await;
        }
    }

    /// The socket, and what was read and not yet passed on.
    pub fn into_parts(self) -> (TcpStream, Vec<u8>) {
        (self.stream, self.early)
    }
}

/// Last words for a client whose session was cut. False: it has no room for them, and goes without.
pub fn tell_at_once(client: &TcpStream, words: &[u8]) -> bool {
    matches!(client.try_write(words), Ok(n) if n == words.len())
}

/// FIN, and time for the client to read what it was told and to close: at a close with unread bytes the
/// kernel sends RST, which may take the words away.
pub async fn await_goodbye(client: &TcpStream) {
    let deadline = Instant::from_std(clock::now() + GOODBYE_TIMEOUT);
    let _ = timeout_at(deadline, end_of_stream(client, GOODBYE_BYTES_MAX)).await;
}

/// FIN; completes when the client has closed, too, or has gone. At most so many bytes are thrown away.
pub(super) async fn end_of_stream(client: &TcpStream, bytes_max: usize) {
    if SockRef::from(client).shutdown(Shutdown::Write).is_err() {
        return;
    }
    let mut left = bytes_max;
    while left > 0 && client.readable().await.is_ok() {
        let mut chunk = [0; DISCARD_BYTES];
        match client.try_read(&mut chunk) {
            Ok(n @ 1..) => left = left.saturating_sub(n),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(_) | Err(_) => return,
        }
    }
}

/// FIN rather than RST, as far as the other side has not just sent something: what it sent and nobody
/// will read is thrown away first.
pub fn close_politely(stream: TcpStream) {
    let _ = SockRef::from(&stream).shutdown(Shutdown::Write);
    let mut chunk = [0; READ_BYTES];
    for _ in 0..EARLY_BYTES_MAX / READ_BYTES {
        if !matches!(stream.try_read(&mut chunk), Ok(1..)) {
            break;
        }
    }
}
