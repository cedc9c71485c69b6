//! A time limit that notices when the checker itself was late.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::time::{Duration, Instant};

use tokio::time::sleep_until;

use crate::runtime::clock;

/// How late this task may be scheduled before its findings say nothing about the member.
const LATE_MAX: Duration = Duration::from_millis(100);
/// How often a waiting probe looks whether it is still being scheduled.
const BEAT: Duration = Duration::from_millis(50);

pub(super) enum Limited<T> {
    Done(T),
    TimedOut,
    CheckerLate,
}

/// Runs `work` for at most `limit`. A result is taken when it was read in time; a time-out is believed
/// only when the task was scheduled all the while, because otherwise the answer may have been there.
pub(super) async fn limited<T>(limit: Duration, work: impl Future<Output = T>) -> Limited<T> {
    let deadline = clock::now() + limit;
    let mut work = pin!(work);
    let mut was_late = false;
    loop {
        let wake = deadline.min(clock::now() + BEAT);
        tokio::select! {
            biased;
            done = &mut work => {
                return if is_late(deadline) { Limited::CheckerLate } else { Limited::Done(done) };
            }
            () = sleep_until(wake.into()) => was_late |= is_late(wake),
        }
        if clock::now() >= deadline {
            return if was_late { Limited::CheckerLate } else { Limited::TimedOut };
        }
    }
}

fn is_late(due: Instant) -> bool {
    clock::now().saturating_duration_since(due) > LATE_MAX
}

/// An I/O error in a few words; refusals have an outcome of their own and do not come here.
pub(super) fn describe(error: &io::Error) -> String {
    super::http::bounded(&error.to_string())
}
