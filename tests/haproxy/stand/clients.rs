//! Clients: who serves them, and what they are told instead.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::task::JoinSet;

use super::PATIENCE;
use crate::members::client::{Client, Failure};
use crate::members::holds_within;

/// Divided by one, two and three.
pub const VISITORS: usize = 6;

/// A session, and the member at its other end.
pub async fn visit(at: SocketAddr, limit: Duration) -> Result<(String, Client), Failure> {
    let mut client = Client::connect(at, limit).await?;
    let who = client.who().await?;
    Ok((who, client))
}

/// The same, when it must succeed.
pub async fn session(at: SocketAddr) -> (String, Client) {
    visit(at, PATIENCE).await.unwrap_or_else(|failure| panic!("a session at {at}: {failure}"))
}

/// Some clients one after the other, who leave at once: how many each member served, and how many were
/// turned away.
pub async fn visits(at: SocketAddr) -> (BTreeMap<String, usize>, usize) {
    let (mut served, mut nobody) = (BTreeMap::new(), 0);
    for _ in 0..VISITORS {
        match visit(at, PATIENCE).await {
            Ok((who, _client)) => *served.entry(who).or_default() += 1,
            Err(_) => nobody += 1,
        }
    }
    (served, nobody)
}

/// Waits until clients are spread evenly over exactly these; over nobody when there are none.
pub async fn until_spread_over(at: SocketAddr, members: &[&str]) {
    let share = VISITORS / members.len().max(1);
    let wanted: BTreeMap<String, usize> = members.iter().map(|name| ((*name).to_owned(), share)).collect();
    let is_so = holds_within(PATIENCE, || async { visits(at).await.0 == wanted }).await;
    assert!(is_so, "clients go to {:?}, not to {members:?}", visits(at).await);
}

/// So many clients at the same time, who stay: their sessions, or what they were told, in no order.
pub async fn crowd(at: SocketAddr, count: usize, limit: Duration) -> Vec<Result<(String, Client), Failure>> {
    let mut coming = JoinSet::new();
    for _ in 0..count {
        coming.spawn(visit(at, limit));
    }
    coming.join_all().await
}
