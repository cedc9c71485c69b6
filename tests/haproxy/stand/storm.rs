//! All clients come back at once after a failover.

use std::time::Duration;

use pgvane::runtime::clock;
use tokio::task::JoinSet;

use super::clients::visit;
use super::fronts::{Front, Kind, Words};
use super::{PATIENCE, raise_descriptors};
use crate::members::{secs, until};

#[derive(Debug, Clone, PartialEq)]
pub struct Storm {
    pub clients: usize,
    /// Those that got no session.
    pub dropped: usize,
    pub within_a_second: usize,
    /// Of those that got a session.
    pub slowest: Duration,
    /// What one of the others was told.
    pub told: Option<String>,
}

/// So many clients at the moment at which the first one is served by the new leader. They stay.
pub async fn run(kind: Kind, words: Words, clients: usize) -> Storm {
    raise_descriptors();
    let front = Front::start(kind, words).await;
    front.fail_over();
    let is_served = || async { visit(front.at(), PATIENCE).await.is_ok_and(|(who, _)| who == "m2") };
    until("a client is served by m2", PATIENCE, is_served).await;
    let mut coming = JoinSet::new();
    for _ in 0..clients {
        let at = front.at();
        coming.spawn(async move {
            let before = clock::now();
            (visit(at, PATIENCE).await, clock::now() - before)
        });
    }
    let mut storm = Storm { clients, dropped: 0, within_a_second: 0, slowest: Duration::ZERO, told: None };
    let mut staying = Vec::new();
    while let Some(came) = coming.join_next().await {
        match came.expect("a client does not panic") {
            (Ok(session), after) => {
                staying.push(session);
                storm.within_a_second += usize::from(after <= secs(1));
                storm.slowest = storm.slowest.max(after);
            }
            (Err(failure), _) => {
                storm.dropped += 1;
                storm.told = Some(failure.to_string());
            }
        }
    }
    storm
}
