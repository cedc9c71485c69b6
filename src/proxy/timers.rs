//! Timers that somebody else keeps.
//!
//! A runtime that has timers reads the clock at every turn of its loop and asks the kernel to wake it in time: an
//! eighth of a round trip's instructions (`benches/scale`). The data plane needs few, and most never end. So its
//! threads have none, and one thread keeps them for all. What is wanted from `tokio::time` in this room comes from here
//! (`tests/tidy.rs`).

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{Instant, Sleep};

use crate::runtime::clock;

thread_local! {
    static KEEPER: RefCell<Option<Handle>> = const { RefCell::new(None) };
}

/// The time was over first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elapsed;

/// From here on this runtime keeps the timers of this thread. It must outlive all of them; without it a thread has those
/// of the runtime that it is in.
pub fn are_kept_by(keeper: Handle) {
    KEEPER.set(Some(keeper));
}

pub(super) fn sleep_until(deadline: Instant) -> Sleep {
    KEEPER.with_borrow(|keeper| {
        let _entered = keeper.as_ref().map(Handle::enter);
        tokio::time::sleep_until(deadline)
    })
}

/// Err: the future was not complete within `limit`. One that is complete at once costs no timer.
pub(super) async fn timeout<T>(limit: Duration, future: impl Future<Output = T>) -> Result<T, Elapsed> {
    bounded(|| Instant::from_std(clock::now() + limit), future).await
}

pub(super) async fn timeout_at<T>(deadline: Instant, future: impl Future<Output = T>) -> Result<T, Elapsed> {
    bounded(|| deadline, future).await
}

async fn bounded<T>(deadline: impl Fn() -> Instant, future: impl Future<Output = T>) -> Result<T, Elapsed> {
    let (mut future, mut sleep) = (pin!(future), pin!(None));
    poll_fn(|cx| {
        if let Poll::Ready(outcome) = future.as_mut().poll(cx) {
            return Poll::Ready(Ok(outcome));
        }
        if sleep.is_none() {
            sleep.set(Some(sleep_until(deadline())));
        }
        match sleep.as_mut().as_pin_mut() {
            Some(sleep) => sleep.poll(cx).map(|()| Err(Elapsed)),
            None => Poll::Pending,
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::future::{pending, ready};
    use std::thread;

    use tokio::runtime::Builder;

    /// In the way of the data plane's threads.
    #[test]
    fn a_thread_without_timers_has_another_ones() {
        let keeper = Builder::new_current_thread().enable_time().build().unwrap();
        let handle = keeper.handle().clone();
        let without = thread::spawn(move || {
            are_kept_by(handle);
            let here = Builder::new_current_thread().enable_io().build().unwrap();
            here.block_on(async {
                let soon = Duration::from_millis(5);
                assert_eq!(timeout(Duration::from_secs(60), ready(1)).await, Ok(1));
                assert_eq!(timeout(soon, pending::<()>()).await, Err(Elapsed));
                let deadline = Instant::from_std(clock::now() + soon);
                assert_eq!(timeout_at(deadline, pending::<()>()).await, Err(Elapsed));
                // Woken by something else meanwhile.
                let woken = timeout(Duration::from_secs(60), tokio::task::yield_now()).await;
                assert_eq!(woken, Ok(()));
                sleep_until(Instant::from_std(clock::now() + soon)).await;
            });
        });
        keeper.block_on(async {
            while !without.is_finished() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        without.join().unwrap();
    }
}
