//! A peer that does not read is not a dead one.
//!
//! TCP_USER_TIMEOUT ends a connection whose peer acknowledges nothing for so long, which is what it is set for.
//! Since 5.11 Linux also ends one whose peer answers every probe and has just not read for so long
//! (net/ipv4/tcp_timer.c, `tcp_probe_timer`): a client whose user looks at the first page of a large result, a
//! server that waits for a lock in the middle of a COPY. So while bytes wait for a peer without room for
//! them, its limit is moved on as long as it answers.

use std::future::Future;
use std::pin::Pin;
use std::task::Context;
use std::time::{Duration, Instant};

use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep_until};

use crate::runtime::clock;
use crate::sys::tcp;

/// In the time of one limit. The limit is moved on at the second look at the latest.
const LOOKS: u32 = 4;
/// A peer is looked after as long as it has answered within so many limits. Probes come at least once in one, so
/// one that vanishes while it does not read is given up after four.
const SILENT_LIMITS_MAX: u32 = 2;

/// A socket, and how many bytes were written to it so far.
pub(super) type Written<'a> = (&'a TcpStream, u64);

/// Watches both sides of a session, while one of them has something to acknowledge.
#[derive(Debug, Default)]
pub(super) struct Stalls {
    looks: Option<Box<Looks>>,
    /// When nothing was left to acknowledge.
    written: [u64; 2],
}

#[derive(Debug)]
struct Looks {
    every: Duration,
    next: Pin<Box<Sleep>>,
    sides: [Side; 2],
}

#[derive(Debug)]
struct Side {
    /// As its service has it. None: it is not watched by the kernel.
    limit: Option<Duration>,
    acknowledged: i64,
    since: Instant,
    is_moved_on: bool,
}

impl Stalls {
    /// To be called whenever the session has nothing to do at the moment; wakes it for the next look.
    pub fn poll(&mut self, cx: &mut Context<'_>, sides: [Written<'_>; 2]) {
        let written = sides.map(|(_, written)| written);
        if self.looks.is_none() && written != self.written {
            self.looks = Looks::begin(sides.map(|(socket, _)| socket));
        }
        while let Some(looks) = &mut self.looks {
            if looks.next.as_mut().poll(cx).is_pending() {
                return;
            }
            if !looks.look(sides) {
                self.looks = None;
            }
        }
        self.written = written;
    }
}

impl Looks {
    /// None: the kernel watches neither.
    fn begin(sockets: [&TcpStream; 2]) -> Option<Box<Looks>> {
        let now = clock::now();
        let sides = sockets.map(|socket| Side {
            limit: SockRef::from(socket).tcp_user_timeout().ok().flatten(),
            acknowledged: i64::MIN,
            since: now,
            is_moved_on: false,
        });
        let every = sides.iter().filter_map(|side| side.limit).min()? / LOOKS;
        Some(Box::new(Looks { every, next: Box::pin(sleep_until((now + every).into())), sides }))
    }

    /// Whether there is something to look at next time.
    fn look(&mut self, sockets: [Written<'_>; 2]) -> bool {
        let now = clock::now();
        let mut is_waiting = false;
        for (side, (socket, written)) in self.sides.iter_mut().zip(sockets) {
            is_waiting |= side.look(socket, written, now);
        }
        self.next.as_mut().reset((now + self.every).into());
        is_waiting
    }
}

impl Side {
    fn look(&mut self, socket: &TcpStream, written: u64, now: Instant) -> bool {
        let Some(limit) = self.limit else { return false };
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
