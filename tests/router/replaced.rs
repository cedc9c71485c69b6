//! etcd came back as another one, or as it once was: sessions stay, new clients wait for proof.

use serde_json::Value;

use crate::members::client::Client;
use crate::members::crowd::{Crowd, PATIENCE};
use crate::members::stage::Stage;
use crate::members::{ms, secs, until};

fn is_replaced(status: &Value) -> bool {
    status["leader"]["reason"] == "dcs_replaced" && status["dcs"]["state"] != "lost"
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_etcd_cuts_nobody() {
    let mut stage = Stage::start().await;
    let router = stage.router(|_| {}).await;
    let sessions = Crowd::of_sessions(router.write_port(0), 5, ms(10));
    until("sessions write", secs(10), || async { stage.n1().journal.writes_total() > 50 }).await;
    stage.patroni.sleep(true);
    stage.etcd.wipe();
    stage.etcd.restart().await;
    router.until("the new etcd is noticed", is_replaced).await;
    let waiting = tokio::spawn(Client::connect(router.write_port(0), PATIENCE));
    router.until("a new client is held", |status| status["services"][0]["held"] == 1).await;
    let before = stage.n1().journal.writes_total();
    until("sessions go on", secs(10), || async { stage.n1().journal.writes_total() > before + 50 }).await;

    // Patroni writes its keys anew.
    stage.patroni.sleep(false);
    let mut client = waiting.await.unwrap().unwrap_or_else(|failure| panic!("{failure}"));
    client.write().await.unwrap_or_else(|failure| panic!("{failure}"));
    sessions.go_home().await.assert_no_errors();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_etcd_does_not_bring_back_an_older_leader() {
    let mut stage = Stage::start().await;
    stage.patroni.sleep(true);
    let copy = stage.etcd.copy().await;
    let router = stage.router(|_| {}).await;
    stage.fail_over_to_n2().await;
    router.until_open("n2").await;
    let sessions = Crowd::of_sessions(router.write_port(0), 5, ms(10));
    until("sessions write", secs(10), || async { stage.n2().journal.writes_total() > 50 }).await;

    // The copy's leader key names n1, which is alive, writable, and on the old timeline.
    stage.etcd.go_back_to(&copy);
    stage.etcd.restart().await;
    router.until("the old etcd is noticed", is_replaced).await;
    let waiting = tokio::spawn(Client::connect(router.write_port(0), PATIENCE));
    router.until("a new client is held", |status| status["services"][0]["held"] == 1).await;
    let before = stage.n2().journal.writes_total();
    until("sessions go on", secs(10), || async { stage.n2().journal.writes_total() > before + 50 }).await;
    assert_eq!(stage.n1().journal.sessions_total(), 0, "a client reached the old leader");

    stage.patroni.move_leader("n2").await;
    let mut client = waiting.await.unwrap().unwrap_or_else(|failure| panic!("{failure}"));
    assert_eq!(client.who().await.ok().as_deref(), Some("n2"));
    sessions.go_home().await.assert_no_errors();
}
