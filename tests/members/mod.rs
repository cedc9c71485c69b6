//! Simulated members behind a real etcd, and the router binary in front of them.
//!
//! | file | what it plays |
//! |---|---|
//! | `stage.rs` | all of it together: one etcd, three members, one router |
//! | `member.rs` | one member: its facts, its REST API and its PostgreSQL port |
//! | `patroni.rs` | what the members' Patronis write into etcd |
//! | `etcd.rs` | a real etcd that can be killed, frozen and replaced |
//! | `router.rs` | the binary under test |
//! | `client.rs` | a client that notes when each thing happened |

pub mod client;
pub mod crowd;
pub mod etcd;
pub mod member;
pub mod patroni;
pub mod ports;
pub mod postgres;
pub mod process;
pub mod rest;
pub mod router;
pub mod stage;

use std::future::Future;
use std::time::{Duration, Instant};

use pgvane::runtime::clock;

/// Asks again until `condition` holds; false when it did not within `limit`.
pub async fn holds_within<F: Future<Output = bool>>(limit: Duration, mut condition: impl FnMut() -> F) -> bool {
    let deadline = clock::now() + limit;
    while !condition().await {
        if clock::now() >= deadline {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    true
}

/// Waits for a condition that must come true; panics with its name.
pub async fn until<F: Future<Output = bool>>(what: &str, limit: Duration, condition: impl FnMut() -> F) {
    assert!(holds_within(limit, condition).await, "not within {limit:?}: {what}");
}

/// Milliseconds from `from` to `to`; 0 when it came before.
pub fn millis(from: Instant, to: Instant) -> f64 {
    to.saturating_duration_since(from).as_secs_f64() * 1000.0
}

pub fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// How long outages last: `PGVANE_LONG` seconds, else `default`.
pub fn outage(default: u64) -> Duration {
    secs(long().unwrap_or(default))
}

/// The promised length of outages, when asked for.
pub fn long() -> Option<u64> {
    std::env::var("PGVANE_LONG").ok().map(|text| text.parse().expect("PGVANE_LONG is a number of seconds"))
}
