//! Reloads while clients come and go: who was refused, sent to a replica, or cut.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::task::JoinSet;

use super::PATIENCE;
use super::clients::{session, visit};
use super::fronts::{Front, Kind, Words};
use crate::members::until;

const VISITORS: usize = 8;
const PAUSE: Duration = Duration::from_millis(4);
const STAYERS: usize = 20;
/// Between two reloads, at least.
const VISITS_BETWEEN: usize = 200;

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Loss {
    pub reloads: usize,
    pub connections: usize,
    /// No session, for whatever reason.
    pub refused: usize,
    /// Served by a member whose `/primary` is not 200.
    pub misrouted: usize,
    /// Of the sessions that were there before the first reload.
    pub cut: usize,
}

#[derive(Debug, Default)]
struct Counts {
    stop: AtomicBool,
    connections: AtomicUsize,
    refused: AtomicUsize,
    misrouted: AtomicUsize,
}

pub async fn run(kind: Kind, words: Words, reloads: usize) -> Loss {
    let mut front = Front::start(kind, words).await;
    let mut stayers = Vec::new();
    for _ in 0..STAYERS {
        stayers.push(session(front.at()).await);
    }
    let counts = Arc::new(Counts::default());
    let mut visiting = JoinSet::new();
    for _ in 0..VISITORS {
        visiting.spawn(come_and_go(front.at(), counts.clone()));
    }
    for _ in 0..reloads {
        let enough = counts.connections.load(Relaxed) + VISITS_BETWEEN;
        front.reload().await;
        front.until_settled("m1").await;
        until("visitors came", PATIENCE, || std::future::ready(counts.connections.load(Relaxed) >= enough)).await;
    }
    counts.stop.store(true, Relaxed);
    visiting.join_all().await;
    let cut = stayers.iter_mut().map(|(_, client)| usize::from(!client.is_open())).sum();
    let [connections, refused, misrouted] =
        [&counts.connections, &counts.refused, &counts.misrouted].map(|count| count.load(Relaxed));
    Loss { reloads, connections, refused, misrouted, cut }
}

async fn come_and_go(at: SocketAddr, counts: Arc<Counts>) {
    while !counts.stop.load(Relaxed) {
        match visit(at, PATIENCE).await {
            Ok((who, _client)) if who == "m1" => {}
            Ok(_) => _ = counts.misrouted.fetch_add(1, Relaxed),
            Err(_) => _ = counts.refused.fetch_add(1, Relaxed),
        }
        counts.connections.fetch_add(1, Relaxed);
        tokio::time::sleep(PAUSE).await;
    }
}
