//! Bytes both ways between a client and its server, in one task and without buffers while idle.
//!
//! A chunk is read into the thread's scratch buffer and written at once; only what the other side
//! did not take is kept, and then nothing more is read from there. So one session holds at most
//! [`CHUNK_BYTES`] each way, and an idle one none. Bulk transfer by splice would replace
//! [`Lane::poll_step`] and nothing else.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::net::Shutdown;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::model::Reason;
use crate::runtime::clock;

use super::handshake::Established;
use super::sessions::Fence;

/// The most that is read at once, and the most that is kept when the other side is slow.
pub const CHUNK_BYTES: usize = 64 * 1024;
/// A client that ignores that its server is gone is not kept longer.
pub const AFTER_SERVER_EOF_MAX: Duration = Duration::from_secs(60);

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; CHUNK_BYTES].into_boxed_slice());
}

/// How a relay ended.
#[derive(Debug)]
pub enum End {
    /// Both sides said goodbye; this one first.
    ClientClosed,
    ServerClosed,
    Cut(Reason),
    ClientError(io::Error),
    ServerError(io::Error),
}

/// Relays until both directions are done or one breaks. What the handshake read before goes first.
pub async fn relay(established: &mut Established) -> End {
    let Established { client, server, guard, to_client, to_server, .. } = established;
    let mut up = Lane::starting_with(std::mem::take(to_server));
    let mut down = Lane::starting_with(std::mem::take(to_client));
    let fence = guard.fence().clone();
    let mut cut = pin!(fence.next_close());
    let mut watched_by: Option<Waker> = None;
    let mut server_closed_first = false;
    let mut patience: Option<Pin<Box<Sleep>>> = None;
    poll_fn(|cx| {
        // The close of a fence is awaited once per waker, not locked at every turn.
        if watched_by.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
            let _ = cut.as_mut().poll(cx);
            watched_by = Some(cx.waker().clone());
        }
        loop {
            if let Some(reason) = fence.reason() {
                return Poll::Ready(End::Cut(reason));
            }
            let upward = up.poll_step(cx, client, server, &fence);
            let downward = down.poll_step(cx, server, client, &fence);
            // Before anything returns: a broken session's bytes count, too.
            guard.add_to_server(up.take_moved());
            guard.add_to_client(down.take_moved());
            match (&upward, &downward) {
                (Poll::Ready(Err(broken)), _) => return Poll::Ready(broken.end(Side::Client)),
                // After a client's goodbye a server may well reset: it does when something was left unread.
                (_, Poll::Ready(Err(Broken::Read(_)))) if up.is_done() => return Poll::Ready(End::ClientClosed),
                (_, Poll::Ready(Err(broken))) => return Poll::Ready(broken.end(Side::Server)),
                _ => {}
            }
            if up.is_done() && down.is_done() {
                return Poll::Ready(if server_closed_first { End::ServerClosed } else { End::ClientClosed });
            }
            if down.is_done() && patience.is_none() {
                server_closed_first = !up.is_done();
                let until = Instant::from_std(clock::now() + AFTER_SERVER_EOF_MAX);
                patience = Some(Box::pin(sleep_until(until)));
            }
            if upward.is_pending() && downward.is_pending() {
                break;
            }
        }
        match &mut patience {
            Some(patience) => patience.as_mut().poll(cx).map(|()| End::ServerClosed),
            None => Poll::Pending,
        }
    })
    .await
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

/// One direction.
struct Lane {
    /// Read, not written yet.
    pending: Vec<u8>,
    written: usize,
    read_all: bool,
    shut: bool,
    moved: usize,
}

impl Lane {
    fn starting_with(pending: Vec<u8>) -> Lane {
        Lane { pending, written: 0, read_all: false, shut: false, moved: 0 }
    }

    fn is_done(&self) -> bool {
        self.shut
    }

    fn take_moved(&mut self) -> usize {
        std::mem::take(&mut self.moved)
    }

    /// Moves at most one chunk. Pending has registered the wake-up; a lane that is done is pending
    /// for ever.
    fn poll_step(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut TcpStream,
        to: &mut TcpStream,
        fence: &Fence,
    ) -> Poll<Result<(), Broken>> {
        if self.shut {
            return Poll::Pending;
        }
        if self.written < self.pending.len() {
            let n = ready!(poll_write(cx, to, &self.pending[self.written..], fence))?;
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
            let n = match poll_write(cx, to, chunk, fence) {
                Poll::Ready(written) => written?,
                Poll::Pending => 0,
            };
            self.moved += n;
            if let Some(rest @ [_, ..]) = chunk.get(n..) {
                self.pending = rest.to_vec();
            }
            Poll::Ready(Ok(()))
        })
    }
}

/// The only place where a session's bytes leave: the fence is looked at right before.
fn poll_write(cx: &mut Context<'_>, to: &mut TcpStream, bytes: &[u8], fence: &Fence) -> Poll<Result<usize, Broken>> {
    if let Some(reason) = fence.reason() {
        return Poll::Ready(Err(Broken::Cut(reason)));
    }
    match ready!(Pin::new(to).poll_write(cx, bytes)) {
        Ok(0) => Poll::Ready(Err(Broken::Write(io::ErrorKind::WriteZero.into()))),
        Ok(n) => Poll::Ready(Ok(n)),
        Err(error) => Poll::Ready(Err(Broken::Write(error))),
    }
}
