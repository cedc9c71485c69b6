//! A session from before a reload, and a member that loses the lead after it.

use std::time::Duration;

use pgvane::runtime::clock;
use tokio::time::timeout;

use super::clients::session;
use super::fronts::{Front, Kind, Words};

/// How long after the member stopped to lead its session was closed; None when it was not within
/// `patience` of the moment at which new clients reached the next leader.
pub async fn run(kind: Kind, words: Words, patience: Duration) -> Option<Duration> {
    let mut front = Front::start(kind, words).await;
    let (who, mut old) = session(front.at()).await;
    assert_eq!(who, "m1");
    front.reload().await;
    front.until_settled("m1").await;
    front.fail_over();
    let deposed = clock::now();
    let closed = async {
        old.closed().await;
        clock::now() - deposed
    };
    tokio::pin!(closed);
    tokio::select! {
        after = &mut closed => return Some(after),
        () = front.until_settled("m2") => {}
    }
    timeout(patience, closed).await.ok()
}
