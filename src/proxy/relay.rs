//! Bytes both ways between a client and its server, in one task and without buffers while idle.
//!
//! A chunk is read into the thread's scratch buffer and written at once; only what the other side
//! did not take is kept, and then nothing more is read from there. So one session holds at most
//! [`CHUNK_BYTES`] each way, and an idle one none. A server's answer that streams goes through a pipe
//! instead ([`away`]), which is lent for as long as it does.
//!
//! The session's [`Conversation`] is told every byte that was written and seen, and no other: what it says of the
//! session holds for both ends, whatever was read and not passed on.

mod away;
mod lane;
mod patience;

use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::AsRawFd;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::net::TcpStream;

use crate::model::Reason;

use super::connect::Connected;
use super::hold::TargetSlot;
use super::pipes;
use super::premises::Tenancy;
use super::protocol::conversation::{Conversation, Hearing};
use super::rounds::Rounds;
use super::sessions::SessionGuard;
use super::stall::{self, Stalls};

use away::{Away, Step};
use lane::{Bounds, Broken, Lane, Notice, Side, Way, poll_write};
use patience::Patience;

/// The most that is read at once, and the most that is kept when the other side is slow.
pub const CHUNK_BYTES: usize = 64 * 1024;
/// A direction that fills so many chunks in a row streams.
const FULL_CHUNKS: u8 = 2;
/// With `splice: always`: small enough that every answer of some length takes the other way.
const SMALL_CHUNK_BYTES: usize = 512;
/// What one session moves by splice before the others of its thread have their turn.
const TURN_BYTES_MAX: usize = 1024 * 1024;
/// A client that ignores that its server is gone is not kept longer.
pub const AFTER_SERVER_EOF_MAX: Duration = Duration::from_secs(60);
/// A server that does not end after Terminate, although it has nothing else to do, is left alone so much later; counted
/// from the next look at both sockets ([`super::stall`]), if there is one to come.
pub const AFTER_TERMINATE_MAX: Duration = Duration::from_secs(5);

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
    /// The client has said all that it will ever say.
    pub client_is_done: bool,
}

/// What client and server had said before they were put together, and did not hear.
#[derive(Debug, Default)]
pub struct Early {
    pub to_client: Vec<u8>,
    pub to_server: Vec<u8>,
    /// For the client to hear once it is let in.
    pub notice: Option<Box<[u8]>>,
}

/// A client and a server that has answered it: all that lives as long as they talk.
#[derive(Debug)]
pub struct Session {
    pub client: TcpStream,
    pub server: TcpStream,
    pub guard: SessionGuard,
    /// What the session is doing, as its bytes tell.
    pub conversation: Conversation,
    /// Given back when all of this is dropped.
    pub slot: TargetSlot,
    up: Lane,
    down: Lane,
    notice: Notice,
    away: Option<Box<Away>>,
    /// The server's socket broke behind what `down` has yet to write.
    failed: Option<Box<io::Error>>,
    burst: Burst,
    /// Of both sockets.
    stall_limit: stall::Limit,
    /// Why it is to end as soon as it is idle.
    draining: Option<Reason>,
    server_closed_first: bool,
}

/// Whether the server's direction has streamed lately.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Burst {
    None,
    /// It did, and its socket was not found empty since.
    Ebbing,
    /// It did, and what comes next is worth a pipe at once.
    Next,
}

impl Session {
    /// `user_timeout` is what the kernel was told for both sockets (TCP_USER_TIMEOUT).
    pub fn new(
        client: TcpStream,
        Connected { stream: server, port_returns }: Connected,
        guard: SessionGuard,
        conversation: Conversation,
        slot: TargetSlot,
        early: Early,
        user_timeout: Duration,
    ) -> Session {
        let mut notice = Notice::new(early.notice);
        let down = Lane::new(Way::ToClient, notice.put(early.to_client, &conversation));
        Session {
            client,
            server,
            guard,
            conversation,
            slot,
            up: Lane::new(Way::ToServer { port_returns }, early.to_server),
            down,
            notice,
            away: None,
            failed: None,
            burst: Burst::None,
            stall_limit: stall::limit(user_timeout),
            draining: None,
            server_closed_first: false,
        }
    }

    /// Until both directions are done or one breaks.
    pub(super) async fn relay(&mut self, tenancy: &mut Tenancy, rounds: &Arc<Rounds>) -> Ended {
        let fence = self.guard.fence().clone();
        let mut calls = fence.calls();
        let mut change = pin!(fence.next_change());
        let mut watched_by = 0;
        let mut patience = Patience::new(rounds);
        let mut stalls = Stalls::new(self.stall_limit, rounds.clone());
        let how = poll_fn(|cx| {
            // A change of the fence is awaited once per task, not locked at every turn.
            let task = cx.waker().data().addr();
            if watched_by != task {
                let _ = change.as_mut().poll(cx);
                watched_by = task;
            }
            if fence.has_called_since(calls) {
                calls = fence.calls();
                change.set(fence.next_change());
                let _ = change.as_mut().poll(cx);
            }
            tenancy.look(self.client.as_raw_fd());
            self.draining = self.draining.or(fence.draining());
            if let Poll::Ready(end) = self.poll(cx, Bounds { fence: &fence, tenancy }) {
                return Poll::Ready(end);
            }
            let (to_server, to_client) = self.guard.bytes();
            stalls.poll(cx, [(&self.server, to_server), (&self.client, to_client)]);
            let look = if self.down.shut { None } else { stalls.next_look() };
            if patience.is_over(self.waits_for_the_end(), look, cx.waker()) {
                return Poll::Ready(if self.down.shut { End::ServerClosed } else { End::ClientClosed });
            }
            Poll::Pending
        })
        .await;
        Ended { how, can_be_told: self.can_tell_client(), client_is_done: self.up.read_all }
    }

    /// How long, once one side has ended and the other is to follow.
    fn waits_for_the_end(&self) -> Option<Duration> {
        if self.down.shut {
            return Some(AFTER_SERVER_EOF_MAX);
        }
        (self.up.shut && self.ends_by_itself()).then_some(AFTER_TERMINATE_MAX)
    }

    /// Goes on until it would have to wait, or to the end.
    fn poll(&mut self, cx: &mut Context<'_>, bounds: Bounds<'_>) -> Poll<End> {
        let mut spliced = 0;
        let (mut upward, mut downward) = (Poll::Ready(Ok(())), Poll::Ready(Ok(())));
        loop {
            if let Some(end) = self.ends(cx, bounds) {
                return Poll::Ready(end);
            }
            // Nothing that only passes one way gives the other way something to do.
            let only_bytes_pass = self.only_bytes_pass();
            if upward.is_ready() || !only_bytes_pass {
                upward = self.poll_up(cx, bounds);
            }
            if downward.is_ready() || !only_bytes_pass {
                downward = self.poll_down(cx, bounds);
            }
            // Before anything returns: a broken session's bytes count, too.
            let moved = std::mem::take(&mut self.down.moved) as usize;
            self.guard.add_to_server(std::mem::take(&mut self.up.moved) as usize);
            self.guard.add_to_client(moved);
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
            // The runtime gives reads and writes their turns, and knows nothing of splice.
            spliced += if self.away.is_some() { moved } else { 0 };
            if spliced >= TURN_BYTES_MAX {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
    }

    /// Neither way is at its end or goes past our eyes, and nobody says goodbye.
    fn only_bytes_pass(&self) -> bool {
        let has_ended = |lane: &Lane| lane.read_all || lane.shut;
        !has_ended(&self.up) && !has_ended(&self.down) && self.away.is_none() && !self.conversation.is_leaving()
    }

    /// What ends it by decision, whatever its bytes do.
    fn ends(&mut self, cx: &mut Context<'_>, bounds: Bounds<'_>) -> Option<End> {
        if let Some(reason) = bounds.fence.reason() {
            return Some(End::Cut(reason));
        }
        if bounds.tenancy.leaving().is_some() {
            return Some(End::Cut(Reason::VipReleased));
        }
        if let Some(reason) = self.draining
            && self.is_idle()
        {
            return Some(self.take_leave(cx, reason, bounds));
        }
        // Its client is told, instead of being left with half a connection.
        (self.down.has_passed_all_on() && self.can_tell_client()).then_some(End::ServerClosed)
    }

    fn poll_up(&mut self, cx: &mut Context<'_>, bounds: Bounds<'_>) -> Poll<Result<(), Broken>> {
        if self.up.is_clear() && !self.up.shut && self.ends_by_itself() {
            // There is nothing to hear behind a goodbye.
            self.up.read_all = true;
            return self.up.finish();
        }
        if self.up.has_passed_all_on() && self.down.shut {
            return self.up.finish();
        }
        let Session { client, server, conversation, up, away, .. } = self;
        let step = up.poll_step(cx, (client, server), bounds, conversation, None, CHUNK_BYTES);
        // What it said may get an answer, which must not pass unseen.
        if up.moved > 0
            && let Some(away) = away
        {
            away.pause();
        }
        step
    }

    /// A server that waits for its client reads Terminate at once. So the first FIN is left to it, and with that the
    /// port in TIME_WAIT, unless that is soon free again ([`super::ports`]). One that is at work is told by a FIN, which
    /// it may look for meanwhile (`client_connection_check_interval`).
    fn ends_by_itself(&self) -> bool {
        self.conversation.hearing() == Hearing::Leaving && self.conversation.server_waits()
    }

    fn poll_down(&mut self, cx: &mut Context<'_>, bounds: Bounds<'_>) -> Poll<Result<(), Broken>> {
        if self.down.has_passed_all_on() && self.up.shut {
            return self.down.finish();
        }
        if self.burst == Burst::Next && self.down.is_clear() {
            ready!(self.server.poll_read_ready(cx)).map_err(Broken::Read)?;
            self.burst = Burst::None;
            self.look_away();
        }
        if self.away.is_some() {
            return self.poll_away(cx, bounds);
        }
        if let Some(error) = self.failed.take_if(|_| self.down.is_clear()) {
            return Poll::Ready(Err(Broken::Read(*error)));
        }
        let is_small = pipes::mode() == pipes::Mode::Always;
        let (most, enough) = if is_small { (SMALL_CHUNK_BYTES, 1) } else { (CHUNK_BYTES, FULL_CHUNKS) };
        let Session { client, server, conversation, down, notice, burst, .. } = self;
        let step = down.poll_step(cx, (server, client), bounds, conversation, Some(notice), most);
        match (&step, &burst) {
            (Poll::Pending, Burst::Ebbing) if down.is_clear() => *burst = Burst::Next,
            (Poll::Pending, _) => {}
            _ if down.full_chunks >= enough => self.look_away(),
            _ => {}
        }
        step
    }

    /// From here on the answer passes unseen, if that is possible.
    fn look_away(&mut self) {
        if !self.down.is_clear() || self.down.read_all {
            return;
        }
        self.down.full_chunks = 0;
        if self.conversation.may_look_away()
            && let Some(pipe) = pipes::take()
        {
            self.conversation.look_away();
            self.away = Some(Box::new(Away::new(pipe)));
        }
    }

    fn poll_away(&mut self, cx: &mut Context<'_>, bounds: Bounds<'_>) -> Poll<Result<(), Broken>> {
        let Session { client, server, conversation, down, away, failed, burst, .. } = self;
        let Some(under_way) = away else { return Poll::Ready(Ok(())) };
        match ready!(under_way.poll_step(cx, server, client, bounds))? {
            Step::Moved(n) => {
                down.moved = down.moved.saturating_add(u32::try_from(n).unwrap_or(u32::MAX));
                Poll::Ready(Ok(()))
            }
            Step::Paused => {
                *burst = if under_way.was_worth_it() { Burst::Ebbing } else { Burst::None };
                *failed = under_way.take_error();
                let passed = down.pass_from(cx, |tail| under_way.read_tail(tail), client, bounds, conversation);
                *away = None;
                passed
            }
        }
    }

    /// Nothing is lost with it but the connection. What its server said last has reached the client.
    fn is_idle(&self) -> bool {
        self.down.is_clear() && self.away.is_none() && self.conversation.is_idle()
    }

    /// An orderly end for a server that nobody took away. Not as the client's own goodbye: it is still to be
    /// told.
    fn take_leave(&mut self, cx: &mut Context<'_>, reason: Reason, bounds: Bounds<'_>) -> End {
        match poll_write(cx, &mut self.server, TERMINATE, bounds) {
            Poll::Ready(Err(Broken::Cut(reason))) => End::Cut(reason),
            // A server that did not take it sees the end of the stream.
            _ => End::Drained(reason),
        }
    }

    fn can_tell_client(&self) -> bool {
        !self.up.read_all && !self.down.shut && self.away.is_none() && self.conversation.hearing() == Hearing::Open
    }
}
