//! What does not have to be an outage for clients: etcd gone, hung, not there yet; a silent REST API.

use crate::members::client::Client;
use crate::members::crowd::{Crowd, PATIENCE};
use crate::members::member::Rest;
use crate::members::router::Router;
use crate::members::stage::Stage;
use crate::members::{ms, outage, secs, until};

/// Sessions that write and visitors that come and go, from before a fault until after it.
struct Clients {
    sessions: Crowd,
    visitors: Crowd,
}

impl Clients {
    async fn arrive(stage: &Stage, router: &Router) -> Clients {
        let sessions = Crowd::of_sessions(router.write_port(0), 20, ms(20));
        let visitors = Crowd::of_visitors(router.write_port(0), 5, ms(20));
        until("clients write", secs(20), || async { stage.n1().journal.writes_total() > 200 }).await;
        Clients { sessions, visitors }
    }

    /// Clients were served all the while, and are still being served.
    async fn leave_unharmed(self, stage: &Stage, what: &str) {
        let before = stage.n1().journal.writes_total();
        until("clients go on", secs(20), || async { stage.n1().journal.writes_total() > before + 200 }).await;
        let (sessions, visitors) = (self.sessions.go_home().await, self.visitors.go_home().await);
        sessions.assert_no_errors();
        visitors.assert_no_errors();
        assert_eq!(stage.refused_writes(), 0);
        println!(
            "{what}: {} writes in 20 sessions, {} visits, 0 errors, 0 closed sessions, longest connect {:?}",
            sessions.writes,
            visitors.connects,
            visitors.longest_wait()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_etcd_is_no_outage() {
    let mut stage = Stage::start().await;
    let router = stage.router(|_| {}).await;
    let clients = Clients::arrive(&stage, &router).await;
    let length = outage(6);
    stage.etcd.kill();
    router.until("REST vouches for the leader", |status| status["leader"]["reason"] == "served_by_rest").await;
    tokio::time::sleep(length).await;
    assert_eq!(router.status().await["dcs"]["state"], "lost");
    stage.etcd.restart().await;
    router.until("etcd is read again", |status| status["leader"]["reason"] == "leader_proven").await;
    clients.leave_unharmed(&stage, &format!("etcd killed for {length:?}")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hung_etcd_is_no_outage() {
    let stage = Stage::start().await;
    let router = stage.router(|_| {}).await;
    let clients = Clients::arrive(&stage, &router).await;
    let length = outage(6);
    stage.etcd.freeze();
    router.until("REST vouches for the leader", |status| status["leader"]["reason"] == "served_by_rest").await;
    tokio::time::sleep(length).await;
    assert_eq!(router.status().await["dcs"]["state"], "lost");
    stage.etcd.thaw().await;
    router.until("etcd is read again", |status| status["leader"]["reason"] == "leader_proven").await;
    clients.leave_unharmed(&stage, &format!("etcd hung for {length:?}")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hung_rest_api_does_not_take_a_healthy_leader_away() {
    let stage = Stage::start().await;
    let router = stage.router(|_| {}).await;
    let clients = Clients::arrive(&stage, &router).await;
    let length = outage(6);
    stage.n1().set(|facts| facts.rest = Rest::Hung);
    let silent = |status: &serde_json::Value| status["members"][0]["reason"] == "rest_timed_out";
    router.until("the silence is noticed", silent).await;
    tokio::time::sleep(length).await;
    assert_eq!(router.status().await["leader"]["open"], "n1");
    stage.n1().set(|facts| facts.rest = Rest::Answers);
    clients.leave_unharmed(&stage, &format!("the leader's REST API hung for {length:?}")).await;
}

/// etcd is silent and two members claim the lead: nobody new is let in until it can be read again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_that_claim_the_lead_get_nobody_new_while_etcd_is_silent() {
    let mut stage = Stage::start().await;
    let router = stage.router(|_| {}).await;
    stage.etcd.kill();
    router.until("REST vouches for the leader", |status| status["leader"]["reason"] == "served_by_rest").await;
    stage.n2().promote(stage.n1().timeline() + 1);
    let sessions = Crowd::of_sessions(router.write_port(0), 1, ms(10));
    let other = |status: &serde_json::Value| status["leader"]["reason"] == "other_claims";
    router.until("two claim the lead", other).await;
    let before = stage.n1().journal.sessions_total();
    let waiting = tokio::spawn(Client::connect(router.write_port(0), PATIENCE));
    router.until("a new client waits", |status| status["services"][0]["held"].as_u64() >= Some(1)).await;
    assert_eq!(stage.n1().journal.sessions_total(), before);
    stage.etcd.restart().await;
    stage.patroni.move_leader("n2").await;
    let mut client = waiting.await.unwrap().unwrap_or_else(|failure| panic!("{failure}"));
    assert_eq!(client.who().await.ok().as_deref(), Some("n2"));
    sessions.go_home().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_wait_for_an_etcd_that_comes_late() {
    let mut stage = Stage::start().await;
    stage.etcd.kill();
    let router = Router::start_unready(stage.setup());
    until("the router answers", secs(20), || async { router.readyz().await == Some(503) }).await;
    let waiting = tokio::spawn(Client::connect(router.write_port(0), PATIENCE));
    router.until("one client is held", |status| status["services"][0]["held"] == 1).await;
    stage.etcd.restart().await;
    let mut client = waiting.await.unwrap().unwrap_or_else(|failure| panic!("{failure}"));
    client.write().await.unwrap_or_else(|failure| panic!("{failure}"));
    router.until_ready().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_state_file_bridges_a_start_without_etcd() {
    let mut stage = Stage::start().await;
    let mut router = stage.router(|setup| setup.state_file = true).await;
    router.terminate();
    assert!(router.exit(secs(20)).await.is_some_and(|status| status.success()));
    stage.etcd.kill();
    // Two claim the lead: neither is believed.
    stage.n2().promote(stage.n1().timeline() + 1);
    let router = router.replace();
    let doubted = |status: &serde_json::Value| status["leader"]["reason"] == "other_claims";
    until("the router answers", secs(20), || async { router.readyz().await.is_some() }).await;
    let waiting = tokio::spawn(Client::connect(router.write_port(0), PATIENCE));
    router.until("two claims are one too many", doubted).await;
    assert!(!waiting.is_finished());

    stage.n2().demote();
    let mut client = waiting.await.unwrap().unwrap_or_else(|failure| panic!("{failure}"));
    assert_eq!(client.who().await.ok().as_deref(), Some("n1"));
    assert_eq!(router.status().await["leader"]["reason"], "served_by_rest");
    stage.etcd.restart().await;
    router.until("etcd is read", |status| status["leader"]["reason"] == "leader_proven").await;
    assert!(client.is_open(), "the session outlives the return of etcd");
}
