//! What a reload and a failover cost clients; `cargo bench --bench haproxy` measures the same at length.

use crate::members::secs;
use crate::stand::fronts::{Kind, PIGSTY, QUICK};
use crate::stand::{deposed, reloads, storm};

const RELOADS: usize = 10;
const CROWD: usize = 600;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_notices_a_reload() {
    let haproxy = reloads::run(Kind::HaProxy, PIGSTY, RELOADS).await;
    assert!(haproxy.misrouted > 0, "HAProxy sends clients to replicas until it has asked: {haproxy:?}");

    let pgvane = reloads::run(Kind::Pgvane, PIGSTY, RELOADS).await;
    assert_eq!((pgvane.refused, pgvane.misrouted, pgvane.cut), (0, 0, 0), "{pgvane:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_from_before_a_reload_ends_with_its_leader() {
    let haproxy = deposed::run(Kind::HaProxy, QUICK, secs(2)).await;
    assert_eq!(haproxy, None, "HAProxy's old worker checks nothing any more");

    let pgvane = deposed::run(Kind::Pgvane, QUICK, secs(20)).await;
    assert!(pgvane.is_some(), "still open");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_that_comes_back_is_served() {
    let haproxy = storm::run(Kind::HaProxy, QUICK, CROWD).await;
    assert!(haproxy.within_a_second < CROWD, "HAProxy's slowstart makes them wait: {haproxy:?}");

    let pgvane = storm::run(Kind::Pgvane, QUICK, CROWD).await;
    assert_eq!(pgvane.dropped, 0, "{pgvane:?}");
    assert!(pgvane.slowest < secs(10), "{pgvane:?}");
}
