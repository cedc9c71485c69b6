//! What sessions of one service to one member look at before each write: whether they may go on, and
//! whether they were asked to end.

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use parking_lot::Mutex;
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
    /// Twice as many as calls to those who wait; odd during one.
    calls: AtomicU32,
    calling: Mutex<()>,
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

    /// Completes when either changes, or something else is to be looked at. Look after creating it, or a change is
    /// missed.
    pub fn next_change(&self) -> Notified<'_> {
        self.wake.notified()
    }

    /// To be read before [`Fence::next_change`].
    pub fn calls(&self) -> u32 {
        self.calls.load(Ordering::SeqCst)
    }

    /// Whether what [`Fence::next_change`] gave after `calls` may have been used up. A change is seen before or
    /// after the call that tells of it, so a call may find whoever waits for the next change already.
    pub fn has_called_since(&self, calls: u32) -> bool {
        let now = self.calls();
        now != calls || now % 2 == 1
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
        let _one_at_a_time = self.calling.lock();
        self.calls.fetch_add(1, Ordering::SeqCst);
        self.wake.notify_waiters();
        self.calls.fetch_add(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_comes_after_its_change_was_seen_does_not_use_up_the_next_one() {
        let fence = Fence::default();
        let calls = fence.calls();
        assert!(!fence.has_called_since(calls));
        fence.ask_to_end(Reason::Drained);
        // Seen, and listening for the close already, when the call comes.
        let (calls, _next) = (fence.calls(), fence.next_change());
        assert!(!fence.has_called_since(calls));
        fence.wake();
        assert!(fence.has_called_since(calls));
    }
}
