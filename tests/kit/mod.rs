//! What the lab suites and the failover and soak benches share: writers that note everything, a watch on the
//! leader key, the router and HAProxy as programs, and arithmetic over what was noted.

#![allow(dead_code, reason = "each suite uses its part")]

pub mod clients;
pub mod etcd_stop;
pub mod failsafe;
pub mod haproxy;
pub mod keys;
pub mod outages;
pub mod router;
pub mod stage;
pub mod tally;
pub mod wire;
pub mod zombies;

use std::time::Duration;

use pgvane::runtime::clock;

/// Between two looks at a condition that is waited for.
pub const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Waits until `look` is true; false when it was not within `limit`.
pub async fn until(limit: Duration, mut look: impl AsyncFnMut() -> bool) -> bool {
    let deadline = clock::now() + limit;
    loop {
        if look().await {
            return true;
        }
        if clock::now() >= deadline {
            return false;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// What is said of both endpoints, with their names.
pub fn named<'a, T>(pgvane: &'a T, haproxy: Option<&'a T>) -> impl Iterator<Item = (&'static str, &'a T)> {
    std::iter::once(("pgvane", pgvane)).chain(haproxy.map(|it| ("HAProxy", it)))
}
