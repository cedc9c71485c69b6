//! One direction of a session: read, written at once, and kept only as far as the other side did not take it.

use std::cell::RefCell;
use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use crate::model::Reason;
use crate::proxy::fence::Fence;
use crate::proxy::premises::Tenancy;
use crate::proxy::protocol::conversation::{Conversation, Standing};
use crate::sys::tcp;

use super::{CHUNK_BYTES, End, TERMINATE};

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; CHUNK_BYTES].into_boxed_slice());
}

#[derive(Clone, Copy)]
pub(super) enum Side {
    Client,
    Server,
}

#[derive(Debug)]
pub(super) enum Broken {
    Cut(Reason),
    Read(io::Error),
    Write(io::Error),
}

impl Broken {
    /// Names the side that broke, for a lane that reads from `from`.
    pub fn end(&self, from: Side) -> End {
        let copy = |error: &io::Error| match error.raw_os_error() {
            Some(code) => io::Error::from_raw_os_error(code),
            None => io::Error::from(error.kind()),
        };
        match (self, from) {
            (Broken::Cut(reason), _) => End::Cut(*reason),
            (Broken::Read(error), Side::Client) | (Broken::Write(error), Side::Server) => End::ClientError(copy(error)),
            (Broken::Read(error), Side::Server) | (Broken::Write(error), Side::Client) => End::ServerError(copy(error)),
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Way {
    /// Whose connection may be ended from here.
    ToServer {
        port_returns: bool,
    },
    ToClient,
}

impl Way {
    fn written(self, bytes: &[u8], conversation: &mut Conversation) {
        match self {
            Way::ToServer { .. } => conversation.sent_to_server(bytes),
            Way::ToClient => conversation.sent_to_client(bytes),
        }
    }

    /// Nothing can follow these bytes but the end of both ways, and it may go with them.
    fn ends_with(self, bytes: &[u8], conversation: &Conversation) -> bool {
        matches!(self, Way::ToServer { port_returns: true }) && bytes == TERMINATE && conversation.server_waits()
    }
}

/// Read, not written yet.
#[derive(Debug)]
struct Rest {
    bytes: Vec<u8>,
    written: usize,
}

/// Small: two of them live in every session.
#[derive(Debug)]
pub(super) struct Lane {
    way: Way,
    pub read_all: bool,
    pub shut: bool,
    /// Chunks in a row that filled the scratch buffer: the direction streams.
    pub full_chunks: u8,
    /// Since they were last taken.
    pub moved: u32,
    rest: Option<Box<Rest>>,
}

impl Lane {
    /// What was read before goes first.
    pub fn new(way: Way, early: Vec<u8>) -> Lane {
        let mut lane = Lane { way, read_all: false, shut: false, full_chunks: 0, moved: 0, rest: None };
        lane.keep(early);
        lane
    }

    fn keep(&mut self, bytes: Vec<u8>) {
        self.rest = (!bytes.is_empty()).then(|| Box::new(Rest { bytes, written: 0 }));
    }

    /// Everything that was read was written.
    pub fn is_clear(&self) -> bool {
        self.rest.is_none()
    }

    /// It has come to its end and has nothing left to write, and the other side does not know yet.
    pub fn has_passed_all_on(&self) -> bool {
        self.read_all && !self.shut && self.is_clear()
    }

    /// Its end need not be told: the other side knows, or both sockets are about to be closed.
    pub fn finish(&mut self) -> Poll<Result<(), Broken>> {
        self.shut = true;
        Poll::Ready(Ok(()))
    }

    /// Moves at most one chunk of `most` bytes. Pending has registered the wake-up; a lane that is done is pending
    /// for ever.
    pub fn poll_step(
        &mut self,
        cx: &mut Context<'_>,
        (from, to): (&mut TcpStream, &mut TcpStream),
        bounds: Bounds<'_>,
        conversation: &mut Conversation,
        notice: Option<&mut Notice>,
        most: usize,
    ) -> Poll<Result<(), Broken>> {
        if self.shut {
            return Poll::Pending;
        }
        if self.rest.is_some() {
            return self.poll_rest(cx, to, bounds, conversation);
        }
        if self.read_all {
            // The other side may be gone already, which its own direction will notice.
            let _ = SockRef::from(&*to).shutdown(Shutdown::Write);
            self.shut = true;
            return Poll::Ready(Ok(()));
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let room = scratch.len().min(most);
            let mut chunk = ReadBuf::new(&mut scratch[..room]);
            ready!(Pin::new(from).poll_read(cx, &mut chunk)).map_err(Broken::Read)?;
            let chunk = chunk.filled();
            self.full_chunks = if chunk.len() == room { self.full_chunks.saturating_add(1) } else { 0 };
            if chunk.is_empty() {
                self.read_all = true;
                return Poll::Ready(Ok(()));
            }
            if let Some(notice) = notice
                && notice.is_due()
            {
                self.keep(notice.put(chunk.to_vec(), conversation));
                return Poll::Ready(Ok(()));
            }
            self.pass(cx, chunk, to, bounds, conversation)
        })
    }

    fn poll_rest(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut TcpStream,
        bounds: Bounds<'_>,
        conversation: &mut Conversation,
    ) -> Poll<Result<(), Broken>> {
        let Some(rest) = &mut self.rest else { return Poll::Ready(Ok(())) };
        let left = &rest.bytes[rest.written..];
        let n = ready!(poll_write(cx, to, left, bounds))?;
        self.way.written(&left[..n], conversation);
        self.moved = self.moved.saturating_add(n as u32);
        rest.written += n;
        if rest.written == rest.bytes.len() {
            self.rest = None;
        }
        Poll::Ready(Ok(()))
    }

    /// Writes what it can of a chunk, and keeps the rest.
    fn pass(
        &mut self,
        cx: &mut Context<'_>,
        chunk: &[u8],
        to: &mut TcpStream,
        bounds: Bounds<'_>,
        conversation: &mut Conversation,
    ) -> Poll<Result<(), Broken>> {
        if chunk.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let is_last = self.way.ends_with(chunk, conversation);
        let written = if is_last { poll_write_last(cx, to, chunk, bounds) } else { poll_write(cx, to, chunk, bounds) };
        let n = match written {
            Poll::Ready(written) => written?,
            Poll::Pending => 0,
        };
        let (gone, rest) = chunk.split_at(n);
        self.way.written(gone, conversation);
        self.moved = self.moved.saturating_add(n as u32);
        if !rest.is_empty() {
            self.keep(rest.to_vec());
        } else if is_last {
            (self.read_all, self.shut) = (true, true);
        }
        Poll::Ready(Ok(()))
    }

    /// The same for bytes that `read` puts into a buffer of [`CHUNK_BYTES`].
    pub fn pass_from(
        &mut self,
        cx: &mut Context<'_>,
        read: impl FnOnce(&mut [u8]) -> io::Result<usize>,
        to: &mut TcpStream,
        bounds: Bounds<'_>,
        conversation: &mut Conversation,
    ) -> Poll<Result<(), Broken>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let n = read(scratch).map_err(Broken::Read)?;
            self.pass(cx, &scratch[..n], to, bounds, conversation)
        })
    }
}

/// Words of ours that go behind the server's AuthenticationOk.
#[derive(Debug, Default)]
pub(super) struct Notice(Option<Box<[u8]>>);

impl Notice {
    pub fn new(words: Option<Box<[u8]>>) -> Notice {
        Notice(words)
    }

    fn is_due(&self) -> bool {
        self.0.is_some()
    }

    /// What the server sends next, with the notice in its place if that is among it. The conversation hears of
    /// the notice as of any other that a server may send at any time.
    pub fn put(&mut self, mut bytes: Vec<u8>, conversation: &Conversation) -> Vec<u8> {
        if self.0.is_none() {
            return bytes;
        }
        if let Some(notice) = self.0.take_if(|_| conversation.standing() != Standing::Startup) {
            tracing::debug!(target: "pgvane::session", bytes = notice.len(), "no place for a notice was found");
        }
        if let Some(place) = conversation.after_authentication(&bytes)
            && let Some(notice) = self.0.take()
        {
            bytes.splice(place..place, notice);
        }
        bytes
    }
}

/// What ends the right to forward anything.
#[derive(Clone, Copy)]
pub(super) struct Bounds<'a> {
    pub fence: &'a Fence,
    pub tenancy: &'a Tenancy,
}

impl Bounds<'_> {
    /// To be looked at right before bytes leave, each time.
    pub fn poll_right(self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        if let Some(reason) = self.fence.reason() {
            return Poll::Ready(Err(Broken::Cut(reason)));
        }
        if self.tenancy.is_outdated() {
            // Whether it was the address of this client is found out in the next turn.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

/// The end goes with these bytes, if all of them are taken.
fn poll_write_last(
    cx: &mut Context<'_>,
    to: &TcpStream,
    bytes: &[u8],
    bounds: Bounds<'_>,
) -> Poll<Result<usize, Broken>> {
    loop {
        ready!(to.poll_write_ready(cx)).map_err(Broken::Write)?;
        ready!(bounds.poll_right(cx))?;
        match to.try_io(Interest::WRITABLE, || tcp::send_last(to, bytes)) {
            Ok(n) => return Poll::Ready(Ok(n)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Poll::Ready(Err(Broken::Write(error))),
        }
    }
}

/// Beside that and splice the only place where a session's bytes leave.
pub(super) fn poll_write(
    cx: &mut Context<'_>,
    to: &mut TcpStream,
    bytes: &[u8],
    bounds: Bounds<'_>,
) -> Poll<Result<usize, Broken>> {
    ready!(bounds.poll_right(cx))?;
    match ready!(Pin::new(to).poll_write(cx, bytes)) {
        Ok(0) => Poll::Ready(Err(Broken::Write(io::ErrorKind::WriteZero.into()))),
        Ok(n) => Poll::Ready(Ok(n)),
        Err(error) => Poll::Ready(Err(Broken::Write(error))),
    }
}
