//! The only place that reads a clock; `clippy.toml` holds everyone else to it.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Monotonic time, for every decision and deadline.
#[allow(clippy::disallowed_methods, reason = "this is the clock")]
pub fn now() -> Instant {
    Instant::now()
}

/// Seconds since 1970, for people and log lines only.
#[allow(clippy::disallowed_methods, reason = "this is the clock")]
pub fn unix_seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}
