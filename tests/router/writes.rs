//! The write port reaches the writable leader, and nobody else, through every change.

use pgvane::runtime::clock;

use crate::members::client::Client;
use crate::members::crowd::{Crowd, PATIENCE};
use crate::members::member::Postgres;
use crate::members::router::Router;
use crate::members::stage::{Stage, TIMELINE};
use crate::members::{long, millis, ms, secs, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_client_waits_until_the_leader_proves_itself() {
    let stage = Stage::start().await;
    stage.n1().set(|facts| facts.in_recovery = true);
    let router = Router::start(stage.setup()).await;
    let port = router.write_port(0);
    let waiting =
        tokio::spawn(async move { Client::connect(port, PATIENCE).await.map(|client| (client, clock::now())) });
    router.until("one client is held", |status| status["services"][0]["held"] == 1).await;
    assert_eq!(router.status().await["leader"]["reason"], "leader_unproven");
    assert_eq!(router.ask("/readyz/primary").await.map(|(status, _)| status), Some(503));

    let writable = stage.n1().promote(TIMELINE);
    let (mut client, served) = waiting.await.unwrap().unwrap_or_else(|failure| panic!("{failure}"));
    client.write().await.unwrap_or_else(|failure| panic!("{failure}"));
    println!("held client served {:.1} ms after the leader became writable", millis(writable, served));
    assert!(served < writable + secs(1));
    assert_eq!(stage.refused_writes(), 0);
    assert_eq!(router.ask("/readyz/primary").await.map(|(status, _)| status), Some(200));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switchover_is_a_pause_without_errors() {
    let stage = Stage::start().await;
    let router = stage.router(|_| {}).await;
    let visitors = Crowd::of_visitors(router.write_port(0), 20, ms(5));
    until("visitors write", secs(10), || async { stage.n1().journal.writes_total() > 100 }).await;

    // In Patroni's order: announced, clients cut, key gone, key of the next, writable.
    stage.patroni.put("failover", r#"{"leader":"n1","member":"n2"}"#).await;
    router.until("the switchover is expected", |status| status["leader"]["reason"] == "planned_switchover").await;
    until("nobody is in the middle of a visit", secs(10), || async { stage.n1().journal.open() == 0 }).await;
    stage.n1().demote();
    let mut etcd = stage.patroni.client().await;
    stage.patroni.delete_leader(&mut etcd).await;
    router.until("everybody waits", |status| status["services"][0]["held"] == 20).await;
    stage.patroni.take_leader(&mut etcd, "n2").await;
    stage.patroni.put("failover", "{}").await;
    router.until("the new leader is known", |status| status["leader"]["key"] == "n2").await;
    let writable = stage.n2().promote(TIMELINE + 1);
    until("visitors write again", secs(10), || async { stage.n2().journal.writes_total() > 100 }).await;

    let tally = visitors.go_home().await;
    tally.assert_no_errors();
    assert_eq!(stage.refused_writes(), 0, "a write met a member in recovery");
    let last = tally.waits.iter().filter(|(asked, _)| *asked < writable).map(|(_, got)| *got).max().unwrap();
    println!(
        "20 held clients released within {:.1} ms of the new leader's first writable moment",
        millis(writable, last)
    );
    assert!(last < writable + secs(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_503_in_passing_cuts_nobody() {
    let stage = Stage::start().await;
    let router = stage.router(|_| {}).await;
    let sessions = Crowd::of_sessions(router.write_port(0), 5, ms(10));
    let visitors = Crowd::of_visitors(router.write_port(0), 2, ms(10));
    until("sessions write", secs(10), || async { stage.n1().journal.writes_total() > 50 }).await;
    stage.n1().set(|facts| facts.blips = 1);
    until("the blip was told", secs(10), || async { stage.n1().blips_left() == 0 }).await;
    let before = stage.n1().journal.writes_total();
    until("sessions go on", secs(10), || async { stage.n1().journal.writes_total() > before + 50 }).await;
    for tally in [sessions.go_home().await, visitors.go_home().await] {
        tally.assert_no_errors();
    }
}

/// PostgreSQL restarts under a leader key that stays: its clients are not told, they wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_a_restarting_leader_wait() {
    let stage = Stage::start().await;
    let router = stage.router(|_| {}).await;
    for manner in [Postgres::Refused, Postgres::Starting, Postgres::Resets] {
        stage.n1().set(|facts| facts.postgres = manner);
        if manner == Postgres::Refused {
            stage.n1().until_refused().await;
        }
        let waiting = tokio::spawn(Client::connect(router.write_port(0), PATIENCE));
        let noticed = |status: &serde_json::Value| status["services"][0]["held"] == 1;
        router.until(&format!("one client waits for a leader that is {manner:?}"), noticed).await;
        stage.n1().set(|facts| facts.postgres = Postgres::Answers);
        let mut client = waiting.await.unwrap().unwrap_or_else(|failure| panic!("{manner:?}: {failure}"));
        client.write().await.unwrap_or_else(|failure| panic!("{manner:?}: {failure}"));
    }
}

/// The moment of a start is when a router knows least: one writable zombie that claims the lead,
/// one replica, and one leader.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn starts_under_connecting_clients_misroute_nobody() {
    let stage = Stage::start().await;
    stage.fail_over_to_n2().await;
    stage.patroni.refresh_members().await;
    let starts = if long().is_some() { 20 } else { 2 };
    let mut router = Router::start_unready(stage.setup());
    for start in 0..starts {
        let before = stage.n2().journal.writes_total();
        let impatient = Crowd::of_visitors(router.write_port(0), 20, ms(1));
        until("clients write", secs(20), || async { stage.n2().journal.writes_total() > before + 200 }).await;
        let tally = impatient.go_home().await;
        let strange: Vec<_> = tally.errors.iter().filter(|error| !error.contains("no connection")).collect();
        assert!(strange.is_empty(), "start {start}: {strange:?}");
        router = router.replace();
    }
    assert_eq!(stage.n1().journal.writes_total(), 0, "writes reached the zombie");
    assert_eq!(stage.refused_writes(), 0, "writes reached a replica");
    println!("{starts} starts, {} writes, 0 misrouted", stage.n2().journal.writes_total());
}
