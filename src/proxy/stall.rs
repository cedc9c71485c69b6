//! A peer that does not read is not a dead one.
//!
//! TCP_USER_TIMEOUT ends a connection whose peer acknowledges nothing for so long, which is what it is set for.
//! Since 5.11 Linux also ends one whose peer answers every probe and has just not read for so long
//! (net/ipv4/tcp_timer.c, `tcp_probe_timer`): a client whose user looks at the first page of a large result, a
//! server that waits for a lock in the middle of a COPY. So while bytes wait for a peer without room for
//! them, its limit is moved on as long as it answers.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::task::Context;
use std::time::{Duration, Instant};

use socket2::SockRef;
use tokio::net::TcpStream;

use crate::runtime::clock;
use crate::sys::tcp;

use super::rounds::{Place, Rounds};

/// In the time of one limit. The limit is moved on at the second look at the latest.
const LOOKS: u32 = 4;
/// A peer is looked after as long as it has answered within so many limits. Probes come at least once in one, so
/// one that vanishes while it does not read is given up after four.
const SILENT_LIMITS_MAX: u32 = 2;

/// A socket, and how many bytes were written to it so far.
pub(super) type Written<'a> = (&'a TcpStream, u64);

/// TCP_USER_TIMEOUT of both sides of a session, in milliseconds. None: the kernel watches neither.
pub(super) type Limit = Option<NonZeroU32>;

/// In whole milliseconds, as the kernel's is; 0 is none.
pub(super) fn limit(user_timeout: Duration) -> Limit {
    NonZeroU32::new(u32::try_from(user_timeout.as_millis()).unwrap_or(u32::MAX))
}

/// Watches both sides of a session, while one of them has something to acknowledge.
#[derive(Debug)]
pub(super) struct Stalls {
    limit: Limit,
    rounds: Arc<Rounds>,
    /// When it is looked at next.
    next: Option<Place>,
    /// To both sides together, when nothing was left to acknowledge.
    written: u64,
    /// None: nothing was left at the last look.
    sides: Option<Box<[Side; 2]>>,
}

#[derive(Debug)]
struct Side {
    acknowledged: i64,
    since: Instant,
    is_moved_on: bool,
}

impl Drop for Stalls {
    fn drop(&mut self) {
        if let Some(place) = self.next {
            self.rounds.leave(place);
        }
    }
}

impl Stalls {
    pub fn new(limit: Limit, rounds: Arc<Rounds>) -> Stalls {
        Stalls { limit, rounds, next: None, written: 0, sides: None }
    }

    /// The round that wakes the session for it.
    pub fn next_look(&self) -> Option<Place> {
        self.next
    }

    /// To be called whenever the session has nothing to do at the moment; wakes it for the next look.
    pub fn poll(&mut self, cx: &mut Context<'_>, sides: [Written<'_>; 2]) {
        let written = sides.map(|(_, written)| written).iter().sum();
        let has_more = match self.next {
            Some(place) if !self.rounds.is_over(place) => return,
            Some(_) => self.look(sides),
            None => written != self.written,
        };
        self.next = match self.limit {
            Some(millis) if has_more => {
                let limit = Duration::from_millis(u64::from(millis.get()));
                Some(self.rounds.join(limit / LOOKS, cx.waker()))
            }
            _ => {
                self.written = written;
                None
            }
        };
    }

    /// Whether there is something to look at next time.
    fn look(&mut self, sockets: [Written<'_>; 2]) -> bool {
        let Some(millis) = self.limit else { return false };
        let (now, limit) = (clock::now(), Duration::from_millis(u64::from(millis.get())));
        let begin = || Side { acknowledged: i64::MIN, since: now, is_moved_on: false };
        let sides = self.sides.get_or_insert_with(|| Box::new([begin(), begin()]));
        let mut is_waiting = false;
        for (side, (socket, written)) in sides.iter_mut().zip(sockets) {
            is_waiting |= side.look(socket, written, now, limit);
        }
        if !is_waiting {
            self.sides = None;
        }
        is_waiting
    }
}

impl Side {
    fn look(&mut self, socket: &TcpStream, written: u64, now: Instant, limit: Duration) -> bool {
        let Ok(outgoing) = tcp::outgoing(socket) else { return false };
        let acknowledged = (written as i64).wrapping_sub(outgoing.queued as i64);
        let is_stalled = outgoing.queued > 0 && acknowledged <= self.acknowledged;
        if !is_stalled {
            (self.acknowledged, self.since) = (acknowledged, now);
            if std::mem::take(&mut self.is_moved_on) {
                set(socket, limit);
            }
        } else if !outgoing.in_flight && outgoing.heard < limit * SILENT_LIMITS_MAX {
            // The kernel counts from when the peer's room ran out, at most one look before ours.
            set(socket, now.saturating_duration_since(self.since) + limit);
            self.is_moved_on = true;
        }
        outgoing.queued > 0
    }
}

fn set(socket: &TcpStream, limit: Duration) {
    if let Err(error) = SockRef::from(socket).set_tcp_user_timeout(Some(limit)) {
        tracing::debug!(target: "pgvane::session", %error, "a peer that does not read may be taken for dead");
    }
}
