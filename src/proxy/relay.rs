//! Bytes both ways between a client and its server, in one task and without buffers while idle.
//!
//! A chunk is read into the thread's scratch buffer and written at once; only what the other side
//! did not take is kept, and then nothing more is read from there. So one session holds at most
//! [`CHUNK_BYTES`] each way, and an idle one none. Bulk transfer by splice would replace
//! [`Lane::poll_step`] and nothing else.
//!
//! The session's [`Conversation`] is told every byte that was written, and no other: what it says of the
//! session holds for both ends, whatever was read and not passed on.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::model::Reason;
use crate::runtime::clock;

use super::fence::Fence;
use super::handshake::Established;
use super::premises::Tenancy;
use super::protocol::conversation::{Conversation, Hearing, Standing};
use super::sessions::SessionGuard;
use super::stall::Stalls;

/// The most that is read at once, and the most that is kept when the other side is slow.
pub const CHUNK_BYTES: usize = 64 * 1024;
/// A client that ignores that its server is gone is not kept longer.
pub const AFTER_SERVER_EOF_MAX: Duration = Duration::from_secs(60);

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; CHUNK_BYTES].into_boxed_slice());
}

/// Terminate, the goodbye of a client.
const TERMINATE: &[u8] = b"X\0\0\0\x04";

/// How a relay ended.
#[derive(Debug)]
pub enum End {
    /// Both sides said goodbye; this one first.
    ClientClosed,
    /// It said goodbye first, or it went without a word that its client could have had.
    ServerClosed,
    Cut(Reason),
    /// Asked to end, it was idle. Its server was told goodbye.
    Drained(Reason),
    ClientError(io::Error),
    ServerError(io::Error),
}

/// The end, and whether the client can be told something that it has not heard yet: it has said no
/// goodbye itself, and stands between two messages of its server.
#[derive(Debug)]
pub struct Ended {
    pub how: End,
    pub can_be_told: bool,
}

/// Relays until both directions are done or one breaks. What the handshake read before goes first.
pub(super) async fn relay(established: &mut Established, tenancy: &mut Tenancy) -> Ended {
    let fence = established.guard.fence().clone();
    let mut calls = fence.calls();
    let mut change = pin!(fence.next_change());
    let mut watched_by: Option<Waker> = None;
    let mut patience: Option<Pin<Box<Sleep>>> = None;
    let mut stalls = Stalls::default();
    let mut relay = Relay::new(established, &fence, tenancy);
    let how = poll_fn(|cx| {
        // A change of the fence is awaited once per waker, not locked at every turn.
        if watched_by.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
            let _ = change.as_mut().poll(cx);
            watched_by = Some(cx.waker().clone());
        }
        if fence.has_called_since(calls) {
            calls = fence.calls();
            change.set(fence.next_change());
            let _ = change.as_mut().poll(cx);
        }
        relay.look();
        if let Poll::Ready(end) = relay.poll(cx) {
            return Poll::Ready(end);
        }
        let (to_server, to_client) = relay.guard.bytes();
        stalls.poll(cx, [(&*relay.server, to_server), (&*relay.client, to_client)]);
        if relay.down.shut && patience.is_none() {
            let until = Instant::from_std(clock::now() + AFTER_SERVER_EOF_MAX);
            patience = Some(Box::pin(sleep_until(until)));
        }
        match &mut patience {
            Some(patience) => patience.as_mut().poll(cx).map(|()| End::ServerClosed),
            None => Poll::Pending,
        }
    })
    .await;
    Ended { how, can_be_told: relay.can_tell_client() }
}

/// Both directions of one session.
struct Relay<'a> {
    client: &'a mut TcpStream,
    server: &'a mut TcpStream,
    guard: &'a mut SessionGuard,
    conversation: &'a mut Conversation,
    fence: &'a Fence,
    tenancy: &'a mut Tenancy,
    up: Lane,
    down: Lane,
    /// Why it is to end as soon as it is idle.
    draining: Option<Reason>,
    server_closed_first: bool,
}

impl<'a> Relay<'a> {
    fn new(established: &'a mut Established, fence: &'a Fence, tenancy: &'a mut Tenancy) -> Relay<'a> {
        let Established { client, server, guard, conversation, to_client, to_server, notice, .. } = established;
        let up = Lane::new(Way::ToServer, std::mem::take(to_server), None);
        let mut down = Lane::new(Way::ToClient, Vec::new(), notice.take());
        down.keep(std::mem::take(to_client), conversation);
        let (draining, server_closed_first) = (None, false);
        Relay { client, server, guard, conversation, fence, tenancy, up, down, draining, server_closed_first }
    }

    /// Takes in what has changed around the session.
    fn look(&mut self) {
        self.tenancy.look(self.client.as_raw_fd());
        self.draining = self.draining.or(self.fence.draining());
    }

    /// Goes on until it would have to wait, or to the end.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            if let Some(reason) = self.fence.reason() {
                return Poll::Ready(End::Cut(reason));
            }
            if self.tenancy.leaving().is_some() {
                return Poll::Ready(End::Cut(Reason::VipReleased));
            }
            if let Some(reason) = self.draining
                && self.is_idle()
            {
                return Poll::Ready(self.take_leave(cx, reason));
            }
            // Its client is told, instead of being left with half a connection.
            if self.down.has_passed_all_on() && self.can_tell_client() {
                return Poll::Ready(End::ServerClosed);
            }
            let bounds = Bounds { fence: self.fence, tenancy: self.tenancy };
            let upward = self.up.poll_step(cx, self.client, self.server, bounds, self.conversation);
            let downward = self.down.poll_step(cx, self.server, self.client, bounds, self.conversation);
            // Before anything returns: a broken session's bytes count, too.
            self.guard.add_to_server(self.up.take_moved());
            self.guard.add_to_client(self.down.take_moved());
            if let Some(key) = self.conversation.take_key() {
                self.guard.owns_key(key);
            }
            match (&upward, &downward) {
                // A server that hangs up may have said why, and that goes first.
                (Poll::Ready(Err(Broken::Write(_))), Poll::Ready(Ok(()))) if !self.down.has_passed_all_on() => continue,
                (Poll::Ready(Err(broken)), _) => return Poll::Ready(broken.end(Side::Client)),
                // After a client's goodbye a server may well reset: it does when something was left unread.
                (_, Poll::Ready(Err(Broken::Read(_)))) if self.up.shut => return Poll::Ready(End::ClientClosed),
                (_, Poll::Ready(Err(broken))) => return Poll::Ready(broken.end(Side::Server)),
                _ => {}
            }
            self.server_closed_first |= self.down.shut && !self.up.shut;
            if self.up.shut && self.down.shut {
                return Poll::Ready(if self.server_closed_first { End::ServerClosed } else { End::ClientClosed });
            }
            if upward.is_pending() && downward.is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// Nothing is lost with it but the connection. What its server said last has reached the client.
    fn is_idle(&self) -> bool {
        self.down.pending.is_empty() && self.conversation.is_idle()
    }

    /// An orderly end for a server that nobody took away. Not as the client's own goodbye: it is still to be
    /// told.
    fn take_leave(&mut self, cx: &mut Context<'_>, reason: Reason) -> End {
        let bounds = Bounds { fence: self.fence, tenancy: self.tenancy };
        match poll_write(cx, self.server, TERMINATE, bounds) {
            Poll::Ready(Err(Broken::Cut(reason))) => End::Cut(reason),
            // A server that did not take it sees the end of the stream.
            _ => End::Drained(reason),
        }
    }

    fn can_tell_client(&self) -> bool {
        !self.up.read_all && !self.down.shut && self.conversation.hearing() == Hearing::Open
    }
}

#[derive(Clone, Copy)]
enum Side {
    Client,
    Server,
}

enum Broken {
    Cut(Reason),
    Read(io::Error),
    Write(io::Error),
}

impl Broken {
    /// Names the side that broke, for a lane that reads from `from`.
    fn end(&self, from: Side) -> End {
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

#[derive(Clone, Copy)]
enum Way {
    ToServer,
    ToClient,
}

/// One direction.
struct Lane {
    way: Way,
    /// Read, not written yet.
    pending: Vec<u8>,
    written: usize,
    /// Goes behind the server's AuthenticationOk.
    notice: Option<Box<[u8]>>,
    read_all: bool,
    shut: bool,
    moved: usize,
}

impl Lane {
    fn new(way: Way, pending: Vec<u8>, notice: Option<Box<[u8]>>) -> Lane {
        Lane { way, pending, written: 0, notice, read_all: false, shut: false, moved: 0 }
    }

    fn take_moved(&mut self) -> usize {
        std::mem::take(&mut self.moved)
    }

    /// It has come to its end and has nothing left to write, and the other side does not know yet.
    fn has_passed_all_on(&self) -> bool {
        self.read_all && !self.shut && self.pending.is_empty()
    }

    /// Moves at most one chunk. Pending has registered the wake-up; a lane that is done is pending
    /// for ever.
    fn poll_step(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut TcpStream,
        to: &mut TcpStream,
        bounds: Bounds<'_>,
        conversation: &mut Conversation,
    ) -> Poll<Result<(), Broken>> {
        if self.shut {
            return Poll::Pending;
        }
        if self.written < self.pending.len() {
            let n = ready!(poll_write(cx, to, &self.pending[self.written..], bounds))?;
            self.way.written(&self.pending[self.written..self.written + n], conversation);
            self.moved += n;
            self.written += n;
            if self.written == self.pending.len() {
                self.pending = Vec::new();
                self.written = 0;
            }
            return Poll::Ready(Ok(()));
        }
        if self.read_all {
            // The other side may be gone already, which its own direction will notice.
            let _ = SockRef::from(&*to).shutdown(Shutdown::Write);
            self.shut = true;
            return Poll::Ready(Ok(()));
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let mut chunk = ReadBuf::new(scratch);
            ready!(Pin::new(from).poll_read(cx, &mut chunk)).map_err(Broken::Read)?;
            let chunk = chunk.filled();
            if chunk.is_empty() {
                self.read_all = true;
                return Poll::Ready(Ok(()));
            }
            if self.notice.is_some() {
                self.keep(chunk.to_vec(), conversation);
                return Poll::Ready(Ok(()));
            }
            let n = match poll_write(cx, to, chunk, bounds) {
                Poll::Ready(written) => written?,
                Poll::Pending => 0,
            };
            let (gone, rest) = chunk.split_at(n);
            self.way.written(gone, conversation);
            self.moved += n;
            if !rest.is_empty() {
                self.pending = rest.to_vec();
            }
            Poll::Ready(Ok(()))
        })
    }

    /// Keeps what was read until it is written, with the notice in its place if that is among it. The
    /// conversation hears of the notice as of any other that a server may send at any time.
    fn keep(&mut self, mut bytes: Vec<u8>, conversation: &Conversation) {
        if let Some(notice) = self.notice.take_if(|_| conversation.standing() != Standing::Startup) {
            tracing::debug!(target: "pgvane::session", bytes = notice.len(), "no place for a notice was found");
        }
        if let Some(place) = conversation.after_authentication(&bytes)
            && let Some(notice) = self.notice.take()
        {
            bytes.splice(place..place, notice);
        }
        self.pending = bytes;
    }
}

impl Way {
    fn written(self, bytes: &[u8], conversation: &mut Conversation) {
        match self {
            Way::ToServer => conversation.sent_to_server(bytes),
            Way::ToClient => conversation.sent_to_client(bytes),
        }
    }
}

/// What ends the right to forward anything.
#[derive(Clone, Copy)]
struct Bounds<'a> {
    fence: &'a Fence,
    tenancy: &'a Tenancy,
}

/// The only place where a session's bytes leave: its bounds are looked at right before.
fn poll_write(
    cx: &mut Context<'_>,
    to: &mut TcpStream,
    bytes: &[u8],
    bounds: Bounds<'_>,
) -> Poll<Result<usize, Broken>> {
    if let Some(reason) = bounds.fence.reason() {
        return Poll::Ready(Err(Broken::Cut(reason)));
    }
    if bounds.tenancy.is_outdated() {
        // Whether it was the address of this client is found out in the next turn.
        cx.waker().wake_by_ref();
        return Poll::Pending;
    }
    match ready!(Pin::new(to).poll_write(cx, bytes)) {
        Ok(0) => Poll::Ready(Err(Broken::Write(io::ErrorKind::WriteZero.into()))),
        Ok(n) => Poll::Ready(Ok(n)),
        Err(error) => Poll::Ready(Err(Broken::Write(error))),
    }
}
