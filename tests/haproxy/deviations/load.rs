//! Where clients are many, or a server does not take them.

use std::time::Duration;

use pgvane::runtime::clock;

use crate::members::client::{Client, Failure};
use crate::members::member::Postgres;
use crate::members::{ms, secs, until};
use crate::stand::PATIENCE;
use crate::stand::clients::{crowd, until_spread_over, visit};
use crate::stand::haproxy::{HaProxy, Listen};
use crate::stand::node::State;
use crate::stand::pgvane::{Pgvane, cluster};

use super::{FAST, FAST_YAML, Place, service};

/// Not `source`, by which one address has one target.
const BALANCES: [&str; 4] = ["roundrobin", "leastconn", "random", "first"];
const CROWD: usize = 40;

/// A member whose PostgreSQL refuses while its REST API is well: HAProxy tries the same one again each
/// second and gives up; here another one is tried at once.
#[tokio::test]
async fn a_refused_connect_goes_on_elsewhere() {
    let place = Place::new();
    refuse(&place).await;
    let _haproxy = HaProxy::start("1s", &Listen::new("any", place.at(), &place.nodes, FAST).text()).await;
    until_up(&place).await;
    let before = clock::now();
    let came = crowd(place.at(), 3, PATIENCE).await;
    assert_eq!(came.iter().filter(|it| it.is_err()).count(), 1, "{came:?}");
    assert!(clock::now() - before > secs(2), "HAProxy tries for three seconds");

    let place = Place::new();
    refuse(&place).await;
    let services =
        service("any", place.at(), &format!("role: any, check: {{ path: /check, {FAST_YAML}, observe: off }}"));
    let _pgvane = Pgvane::start(&cluster("c", &place.nodes, &services)).await;
    until_up(&place).await;
    for _ in 0..6 {
        let before = clock::now();
        let (who, _client) = visit(place.at(), PATIENCE).await.expect("somebody serves");
        assert_ne!(who, "m1");
        assert!(clock::now() - before < secs(1), "it waited for a server that refuses");
    }
}

async fn refuse(place: &Place) {
    place.nodes[0].postgres.set(|facts| facts.postgres = Postgres::Refused);
    place.nodes[0].postgres.until_refused().await;
}

/// Every member was checked, and so is up.
async fn until_up(place: &Place) {
    until("all members were asked twice", PATIENCE, || async {
        place.nodes.iter().all(|node| node.rest.asked().len() >= 2)
    })
    .await;
}

/// A server that comes back admits one client in its first second there, and all of them here.
#[tokio::test]
async fn slowstart_limits_no_connections() {
    let place = Place::new();
    only_m1(&place);
    let words = format!("{FAST} slowstart 30s maxconn {CROWD}");
    let _haproxy = HaProxy::start("1s", &Listen::new("any", place.at(), &place.nodes, words).text()).await;
    return_of_m1(&place).await;
    let before = clock::now();
    let came = crowd(place.at(), CROWD, PATIENCE).await;
    let (took, refused) = (clock::now() - before, came.iter().filter(|it| it.is_err()).count());
    assert!(refused > 0 || took > ms(500), "{refused} of {CROWD} refused, the last one after {took:?}");

    let place = Place::new();
    only_m1(&place);
    let check = format!("check: {{ path: /check, {FAST_YAML} }}");
    let keys = format!("role: any, {check}, slowstart: 30s, maxconn: {CROWD}, queue: {{ timeout: 3s, max: 128 }}");
    let _pgvane = Pgvane::start(&cluster("c", &place.nodes, &service("any", place.at(), &keys))).await;
    return_of_m1(&place).await;
    let before = clock::now();
    let came = crowd(place.at(), CROWD, PATIENCE).await;
    assert!(came.iter().all(Result::is_ok), "{came:?}");
    assert!(clock::now() - before < secs(2), "they waited");
}

fn only_m1(place: &Place) {
    place.nodes[1..].iter().for_each(|node| node.rest.set_state(State::Refused));
}

async fn return_of_m1(place: &Place) {
    until_spread_over(place.at(), &["m1"]).await;
    place.nodes[0].rest.set_state(State::Status(503));
    until_spread_over(place.at(), &[]).await;
    place.nodes[0].rest.set_state(State::Status(200));
    until("m1 serves again", PATIENCE, || async { visit(place.at(), PATIENCE).await.is_ok() }).await;
}

/// `maxqueue` bounds nothing for HAProxy's roundrobin: everybody waits, and is sent away without a word.
/// Here the bound is one for every balance, and whoever exceeds it is told so at once.
#[tokio::test]
async fn a_queue_has_an_end_and_words_for_it() {
    let place = Place::new();
    let words = format!("{FAST} maxconn 1 maxqueue 1");
    let _haproxy = HaProxy::start("1s", &Listen::new("any", place.at(), &place.nodes, words).text()).await;
    until_spread_over(place.at(), &["m1", "m2", "m3"]).await;
    let refused = refused_by_full(&place).await;
    assert_eq!(refused.len(), CROWD - 3);
    assert!(refused.iter().all(|(after, failure)| *after > secs(2) && matches!(failure, Failure::Closed(None))));

    for balance in BALANCES {
        let place = Place::new();
        let check = format!("check: {{ path: /check, {FAST_YAML} }}");
        let limits = "maxconn: 1, queue: { timeout: 3s, max: 2 }";
        let services = service("any", place.at(), &format!("role: any, {check}, {limits}"));
        let services = services.replace("balance: roundrobin", &format!("balance: {balance}"));
        let pgvane = Pgvane::start(&cluster("c", &place.nodes, &services)).await;
        until("all members are up", PATIENCE, || async { free_places(&place).await == 3 }).await;
        let is_empty = || async { pgvane.status("c").await["services"][0]["sessions"] == 0 };
        until("those who looked have left", PATIENCE, is_empty).await;
        let refused = refused_by_full(&place).await;
        assert_eq!(refused.len(), CROWD - 3, "{balance}");
        let waited = refused.iter().filter(|(after, _)| *after > secs(2)).count();
        assert!((1..=6).contains(&waited), "{waited} waited with {balance}");
        assert!(refused.iter().all(|(_, failure)| failure.code() == Some("53300")), "{balance}: {refused:?}");
    }
}

/// How many can be served at a time.
async fn free_places(place: &Place) -> usize {
    crowd(place.at(), 3, ms(500)).await.iter().filter(|it| it.is_ok()).count()
}

/// A crowd that stays: what those were told who got no place, and after how long.
async fn refused_by_full(place: &Place) -> Vec<(Duration, Failure)> {
    let before = clock::now();
    let mut coming = tokio::task::JoinSet::new();
    for _ in 0..CROWD {
        let at = place.at();
        coming.spawn(async move { (visit(at, PATIENCE).await, clock::now()) });
    }
    let mut staying: Vec<(String, Client)> = Vec::new();
    let mut refused = Vec::new();
    while let Some(came) = coming.join_next().await {
        match came.expect("a client does not panic") {
            (Ok(session), _) => staying.push(session),
            (Err(failure), at) => refused.push((at - before, failure)),
        }
    }
    refused
}

/// With nobody to serve them, clients of HAProxy meet the end of the connection and no word.
#[tokio::test]
async fn who_is_turned_away_is_told_why() {
    let place = Place::new();
    place.nodes.iter().for_each(|node| node.rest.set_state(State::Status(503)));
    let _haproxy = HaProxy::start("1s", &Listen::new("any", place.at(), &place.nodes, FAST).text()).await;
    until_spread_over(place.at(), &[]).await;
    assert!(matches!(visit(place.at(), PATIENCE).await, Err(Failure::Closed(None))));

    let place = Place::new();
    place.nodes.iter().for_each(|node| node.rest.set_state(State::Status(503)));
    let services = service("any", place.at(), &format!("role: any, check: {{ path: /check, {FAST_YAML} }}"));
    let _pgvane = Pgvane::start(&cluster("c", &place.nodes, &services)).await;
    let told = visit(place.at(), PATIENCE).await.expect_err("nobody can serve");
    assert_eq!(told.code(), Some("57P03"), "{told}");
}
