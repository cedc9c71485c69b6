//! What sessions of one service to one member look at before each write: whether they may go on, and
//! whether they were asked to end.

use std::sync::atomic::{AtomicU8, Ordering};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::model::Reason;

/// A [`Reason`], or none, that many can read at once. The first one stays.
#[derive(Debug, Default)]
struct Word(AtomicU8);

impl Word {
    /// 0 is none, else the reason's place in [`Reason::ALL`] plus one.
    fn read(&self) -> Option<Reason> {
        let place = usize::from(self.0.load(Ordering::SeqCst)).checked_sub(1)?;
        Reason::ALL.get(place).copied()
    }

    fn set(&self, reason: Reason) {
        let place = u8::try_from(reason as usize + 1).unwrap_or(u8::MAX);
        let _ = self.0.compare_exchange(0, place, Ordering::SeqCst, Ordering::SeqCst);
    }
}

/// Shared by all sessions of one service to one member that were opened between two closes or drains;
/// closed once, for all of them at once. Whoever forwards looks at it right before each write.
#[derive(Debug, Default)]
pub struct Fence {
    sealed: Word,
    draining: Word,
    wake: Notify,
}

impl Fence {
    /// Why nothing is forwarded any more.
    pub fn reason(&self) -> Option<Reason> {
        self.sealed.read()
    }

    /// Why its sessions are to end as soon as they are idle.
    pub fn draining(&self) -> Option<Reason> {
        self.draining.read()
    }

    /// Completes when either changes. Look after creating it, or a change is missed.
    pub fn next_change(&self) -> Notified<'_> {
        self.wake.notified()
    }

    pub async fn closed(&self) -> Reason {
        loop {
            let next = self.next_change();
            match self.reason() {
                Some(reason) => return reason,
                None => next.await,
            }
        }
    }

    /// From here on nothing is forwarded; who waits on it is not woken yet.
    pub(super) fn seal(&self, reason: Reason) {
        self.sealed.set(reason);
    }

    /// From here on an idle session ends; who waits on it is not woken yet.
    pub(super) fn ask_to_end(&self, reason: Reason) {
        self.draining.set(reason);
    }

    pub(super) fn wake(&self) {
        self.wake.notify_waiters();
    }
}
