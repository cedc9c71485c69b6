//! How long the machine has been suspended.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Readings of the clocks to take until two are as close together as that.
const READINGS_MAX: usize = 8;
const CLOSE: Duration = Duration::from_micros(50);

/// How long this machine has been suspended since it was started: CLOCK_BOOTTIME, which goes on meanwhile, minus
/// CLOCK_MONOTONIC, which does not. Growth of this is what tells a suspension; it is exact to well below a
/// millisecond unless this thread is stopped eight times in a row between two readings. Zero where there is
/// no such clock.
pub fn slept() -> Duration {
    let mut best: Option<(Duration, Duration)> = None;
    for _ in 0..READINGS_MAX {
        let Some((apart, slept)) = reading() else { return Duration::ZERO };
        if best.is_none_or(|(least, _)| apart < least) {
            best = Some((apart, slept));
        }
        if apart <= CLOSE {
            break;
        }
    }
    best.map_or(Duration::ZERO, |(_, slept)| slept)
}

/// How long the reading took, which is its error, and what it says.
fn reading() -> Option<(Duration, Duration)> {
    let before = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).ok()?);
    let since_boot = Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME).ok()?);
    let after = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).ok()?);
    Some((after.saturating_sub(before), since_boot.saturating_sub(before)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_does_not_sleep_does_not_seem_to() {
        let first = slept();
        let apart = (0..1000).map(|_| slept().abs_diff(first)).max().unwrap();
        assert!(apart < Duration::from_millis(500), "{apart:?}");
    }
}
