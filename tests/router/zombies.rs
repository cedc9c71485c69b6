//! Two writable members: after the leader key names another, nothing reaches the old one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pgvane::runtime::clock;
use tokio::task::JoinSet;

use crate::members::client::Client;
use crate::members::crowd::{Crowd, PATIENCE, open_sessions};
use crate::members::stage::{Stage, TIMELINE};
use crate::members::{millis, ms, secs, until};

/// Promised: 50 ms.
const CUT_MAX: Duration = Duration::from_millis(500);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_write_reaches_a_zombie() {
    let stage = Stage::start().await;
    let router = stage.router(|_| {}).await;
    let port = router.write_port(0);
    // One that writes without a pause, some that write now and then, some that have just come.
    let restless = Crowd::of_sessions(port, 2, Duration::ZERO);
    let calm = Crowd::of_sessions(port, 20, ms(7));
    until("sessions write", secs(10), || async { stage.n1().journal.writes_total() > 500 }).await;
    let newcomers = Crowd::of_visitors(port, 10, ms(1));
    until("newcomers write, too", secs(10), || async { stage.n1().journal.writes_total() > 1000 }).await;

    let moved = stage.fail_over_to_n2().await;
    until("newcomers write elsewhere", secs(10), || async { stage.n2().journal.writes_total() > 100 }).await;
    until("the zombie has lost its sessions", secs(10), || async { stage.n1().journal.open() == 0 }).await;
    let last = stage.n1().journal.last_byte.lock().expect("it was written to");
    println!("last byte reached the zombie {:.1} ms after the key named another", millis(moved, last));
    assert!(last < moved + CUT_MAX);

    assert_eq!(restless.gone().await.errors.len(), 2, "each old session was told once that it is over");
    assert_eq!(calm.gone().await.errors.len(), 20);
    newcomers.go_home().await;
    assert_eq!(stage.refused_writes(), 0);
    let status = router.status().await;
    assert_eq!(status["services"][0]["totals"]["closed"]["leader_moved"].as_u64().map(|n| n >= 22), Some(true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_sessions_are_closed_at_once() {
    let stage = Stage::start().await;
    let router = stage.router(|_| {}).await;
    let mut waiting = JoinSet::new();
    for mut client in open_sessions(router.write_port(0), 500).await {
        waiting.spawn(async move {
            client.closed().await;
            clock::now()
        });
    }
    assert_eq!(stage.n1().journal.open(), 500);
    let moved = stage.fail_over_to_n2().await;
    let closed: Vec<Instant> = waiting.join_all().await;
    let last = closed.into_iter().max().unwrap();
    println!("500 sessions closed within {:.1} ms", millis(moved, last));
    assert!(last < moved + CUT_MAX);
}

/// Readers of a deposed leader could write, too; and a zombie that comes back with its old timeline
/// gets no client even when the key names it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_timeline_gets_no_new_clients() {
    let stage = Stage::start().await;
    let router = stage.router(|_| {}).await;
    stage.fail_over_to_n2().await;
    router.until_open("n2").await;
    stage.patroni.move_leader("n1").await;
    let why = |status: &serde_json::Value| status["leader"]["reason"] == "below_timeline_mark";
    router.until("the zombie is seen for what it is", why).await;
    let port = router.write_port(0);
    let waiting = tokio::spawn(Client::connect(port, PATIENCE));
    router.until("one client is held", |status| status["services"][0]["held"] == 1).await;
    assert_eq!(stage.n1().journal.writes_total(), 0);

    stage.n1().promote(TIMELINE + 2);
    let mut client = waiting.await.unwrap().unwrap_or_else(|failure| panic!("{failure}"));
    assert_eq!(client.who().await.ok().as_deref(), Some("n1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_patroni_leaves_its_sessions_until_another_leads() {
    let stage = Stage::start().await;
    let router = stage.router(|_| {}).await;
    let sessions = Crowd::of_sessions(router.write_port(0), 5, ms(10));
    until("sessions write", secs(10), || async { stage.n1().journal.writes_total() > 50 }).await;
    let n1 = Arc::clone(&stage.members[0]);
    n1.set(|facts| facts.rest = crate::members::member::Rest::Refused);
    stage.patroni.expire("n1").await;
    router.until("the key is gone", |status| status["leader"]["reason"] == "no_leader_key").await;
    let before = n1.journal.writes_total();
    until("sessions go on", secs(10), || async { n1.journal.writes_total() > before + 50 }).await;

    let moved = stage.fail_over_to_n2().await;
    router.until_open("n2").await;
    assert_eq!(sessions.gone().await.errors.len(), 5);
    let last = n1.journal.last_write().expect("it was written to");
    println!("last write on the zombie {:.1} ms after the key named another", millis(moved, last));
    assert!(last < moved + CUT_MAX);
}
