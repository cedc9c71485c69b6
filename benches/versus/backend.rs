//! A PostgreSQL that is all protocol: one thread, one answer that is ready, COPY from memory.

use std::io::Write as _;
use std::net::{TcpListener, TcpStream};

use anyhow::{Context, Result, bail, ensure};

use super::poll::{self, IN, OUT, Poll, nanos};
use super::wire::{self, CopyOut, SSL_REQUEST};

/// Asks how many sessions a port has, and when it read the last byte of one that does not ask this.
pub const ASK_STANDING: &str = "SHOW standing";
const SCRATCH_BYTES: usize = 64 * 1024;
/// Writes of a COPY until the next session has its turn.
const TURN_WRITES: usize = 4;

struct Door {
    listener: TcpListener,
    sessions: usize,
    last_byte: u64,
}

struct Session {
    stream: TcpStream,
    door: usize,
    /// Of a message that has not come in full.
    unread: Vec<u8>,
    has_started: bool,
    /// What is being sent, and how many of its bytes were.
    copy: Option<(CopyOut, u64)>,
}

struct Backend {
    poll: Poll,
    doors: Vec<Door>,
    /// By token less the number of doors.
    sessions: Vec<Option<Session>>,
    free: Vec<usize>,
    scratch: Vec<u8>,
    pids: u32,
}

/// Listens on so many ports, prints them in one line and serves until it is killed.
pub fn run(ports: usize) -> Result<()> {
    let poll = Poll::new()?;
    let mut doors = Vec::new();
    for token in 0..ports {
        let listener = poll::listen()?;
        poll.add(&listener, token, IN)?;
        doors.push(Door { listener, sessions: 0, last_byte: 0 });
    }
    let numbers: Vec<String> = doors
        .iter()
        .map(|door| door.listener.local_addr().map(|at| at.port().to_string()))
        .collect::<Result<_, _>>()?;
    println!("{}", numbers.join(" "));
    std::io::stdout().flush()?;
    let scratch = vec![0; SCRATCH_BYTES];
    let mut backend = Backend { poll, doors, sessions: Vec::new(), free: Vec::new(), scratch, pids: 0 };
    loop {
        for (token, _) in backend.poll.wait(None)? {
            if token < ports {
                backend.accept(token)?;
            } else {
                backend.attend(token - ports)?;
            }
        }
    }
}

impl Backend {
    fn accept(&mut self, door: usize) -> Result<()> {
        while let Some(stream) = poll::accept(&self.doors[door].listener)? {
            let at = self.free.pop().unwrap_or(self.sessions.len());
            if at == self.sessions.len() {
                self.sessions.push(None);
            }
            self.poll.add(&stream, self.doors.len() + at, IN)?;
            self.sessions[at] = Some(Session { stream, door, unread: Vec::new(), has_started: false, copy: None });
            self.doors[door].sessions += 1;
        }
        Ok(())
    }

    fn attend(&mut self, at: usize) -> Result<()> {
        // An event of the same round may be of one that has left.
        let Some(mut session) = self.sessions[at].take() else { return Ok(()) };
        let stays = self.serve(at, &mut session).with_context(|| format!("a session of port {}", session.door))?;
        if stays {
            self.sessions[at] = Some(session);
        } else {
            self.doors[session.door].sessions -= 1;
            self.free.push(at);
        }
        Ok(())
    }

    /// False when the session is over.
    fn serve(&mut self, at: usize, session: &mut Session) -> Result<bool> {
        if session.copy.is_some() {
            return self.send(at, session);
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        let came = poll::read(&session.stream, &mut scratch);
        let stays = match came {
            Ok(None) => Ok(true),
            // A reset is how a proxy may end it.
            Ok(Some(0)) | Err(_) => Ok(false),
            Ok(Some(count)) if session.unread.is_empty() => self.hear(at, session, &scratch[..count]),
            Ok(Some(count)) => {
                let mut bytes = std::mem::take(&mut session.unread);
                bytes.extend_from_slice(&scratch[..count]);
                self.hear(at, session, &bytes)
            }
        };
        self.scratch = scratch;
        stays
    }

    fn hear(&mut self, at: usize, session: &mut Session, bytes: &[u8]) -> Result<bool> {
        let mut rest = bytes;
        loop {
            let kind_bytes = usize::from(session.has_started);
            let Some(length) = rest.get(kind_bytes..kind_bytes + 4) else { break };
            let length = kind_bytes + u32::from_be_bytes(length.try_into()?) as usize;
            ensure!((kind_bytes + 4..1 << 20).contains(&length), "a message of {length} bytes");
            let Some(message) = rest.get(..length) else { break };
            if !self.obey(at, session, message)? {
                return Ok(false);
            }
            rest = &rest[length..];
        }
        session.unread = rest.to_vec();
        Ok(true)
    }

    fn obey(&mut self, at: usize, session: &mut Session, message: &[u8]) -> Result<bool> {
        if !session.has_started {
            if message[4..] == SSL_REQUEST.to_be_bytes() {
                return tell(session, b"N");
            }
            session.has_started = true;
            self.pids += 1;
            self.doors[session.door].last_byte = nanos();
            return tell(session, &wire::welcome(self.pids));
        }
        if message[0] == b'X' {
            return Ok(false);
        }
        ensure!(message[0] == b'Q', "a message of type {:?}", char::from(message[0]));
        let text = &message[5..];
        if text.starts_with(b"SELECT ") {
            self.doors[session.door].last_byte = nanos();
            return tell(session, &wire::answer_to(message));
        }
        if text.starts_with(ASK_STANDING.as_bytes()) {
            let standing = self.doors.iter().map(|door| format!("{} {}", door.sessions, door.last_byte));
            return tell(session, &wire::row(&standing.collect::<Vec<_>>().join(",")));
        }
        let Some(copy) = CopyOut::asked_by(text) else { bail!("a query: {:?}", String::from_utf8_lossy(text)) };
        session.copy = Some((copy, 0));
        self.poll.change(&session.stream, self.doors.len() + at, OUT)?;
        self.send(at, session)
    }

    fn send(&mut self, at: usize, session: &mut Session) -> Result<bool> {
        let Some((copy, sent)) = &mut session.copy else { return Ok(true) };
        for _ in 0..TURN_WRITES {
            let piece = copy.from(*sent);
            if piece.is_empty() {
                session.copy = None;
                self.poll.change(&session.stream, self.doors.len() + at, IN)?;
                return Ok(true);
            }
            match poll::write(&session.stream, piece).context("in the middle of a COPY")? {
                Some(count) => *sent += count as u64,
                None => return Ok(true),
            }
        }
        Ok(true)
    }
}

/// There is always room for a short answer.
fn tell(session: &Session, bytes: &[u8]) -> Result<bool> {
    match poll::write(&session.stream, bytes) {
        Ok(Some(count)) => ensure!(count == bytes.len(), "{count} bytes of an answer of {} written", bytes.len()),
        Ok(None) => bail!("no room for an answer"),
        // Whoever asked may have gone.
        Err(_) => return Ok(false),
    }
    Ok(true)
}
