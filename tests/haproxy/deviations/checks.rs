//! Where the checks themselves are different on purpose.

use crate::members::client::Failure;
use crate::members::{ms, secs, until};
use crate::stand::PATIENCE;
use crate::stand::clients::{session, until_spread_over, visit};
use crate::stand::haproxy::{HaProxy, Listen};
use crate::stand::node::{Asked, Ending, Node, State};
use crate::stand::pgvane::{Pgvane, cluster};

use super::{FAST, FAST_YAML, Place, service};

/// HAProxy's servers serve before anybody asked them; ours do after their first success.
#[tokio::test]
async fn nobody_is_served_by_a_member_that_was_never_asked() {
    let place = Place::new();
    place.nodes.iter().for_each(|node| node.rest.set_state(State::Hung));
    let listen = Listen::new("any", place.at(), &place.nodes, "inter 20s");
    let _haproxy = HaProxy::start("20s", &listen.text()).await;
    session(place.at()).await;

    let place = Place::new();
    place.nodes.iter().for_each(|node| node.rest.set_state(State::Hung));
    let services = service("any", place.at(), &format!("role: any, check: {{ path: /check, {FAST_YAML} }}"));
    let _pgvane = Pgvane::start(&cluster("c", &place.nodes, &services)).await;
    until("it was asked", PATIENCE, || async { place.nodes[1].rest.asked().len() >= 3 }).await;
    assert_eq!(visit(place.at(), PATIENCE).await.err().and_then(code).as_deref(), Some("57P03"));
    place.nodes[1].rest.set_state(State::Status(200));
    until_spread_over(place.at(), &["m2"]).await;
}

/// `OPTIONS` and a reset there, which fills Patroni's log; `GET` and a proper end here.
#[tokio::test]
async fn a_check_is_a_question_that_ends_properly() {
    let place = Place::new();
    let listen = Listen::new("any", place.at(), &place.nodes, FAST);
    let _haproxy = HaProxy::start("1s", &listen.text()).await;
    let asked = finished(&place.nodes[0]).await;
    assert_eq!(asked.request, "OPTIONS /check HTTP/1.0\r\n\r\n");
    assert_eq!(asked.ending, Some(Ending::Reset));

    let place = Place::new();
    let services = service("any", place.at(), &format!("role: any, check: {{ path: /check, {FAST_YAML} }}"));
    let _pgvane = Pgvane::start(&cluster("c", &place.nodes, &services)).await;
    let asked = finished(&place.nodes[0]).await;
    assert!(asked.request.starts_with("GET /check HTTP/1."), "{}", asked.request);
    assert_eq!(asked.ending, Some(Ending::Closed));
}

async fn finished(node: &Node) -> Asked {
    let first = || node.rest.asked().into_iter().find(|asked| asked.ending.is_some());
    until("a check has ended", PATIENCE, || async { first().is_some() }).await;
    first().expect("a check that has ended")
}

/// HAProxy serves at once by a server that comes out of maintenance, whatever became of it there.
#[tokio::test]
async fn leaving_maintenance_waits_for_a_success() {
    let place = Place::new();
    let (m1, others) = (&place.nodes[0], &place.nodes[1..]);
    others.iter().for_each(|node| node.rest.set_state(State::Status(503)));
    let listen = Listen::new("any", place.at(), &place.nodes, "inter 60s fastinter 1s rise 3 fall 3");
    let haproxy = HaProxy::start("1s", &listen.text()).await;
    until_spread_over(place.at(), &["m1"]).await;
    until("m1 was asked", PATIENCE, || async { !m1.rest.asked().is_empty() }).await;
    haproxy.order("any", "m1", "maint").await;
    until_spread_over(place.at(), &[]).await;
    m1.rest.set_state(State::Status(503));
    haproxy.order("any", "m1", "ready").await;
    assert_eq!(session(place.at()).await.0, "m1");
    assert_eq!(haproxy.status("any", "m1").await, "UP 1/3");

    let place = Place::new();
    let (m1, others) = (&place.nodes[0], &place.nodes[1..]);
    others.iter().for_each(|node| node.rest.set_state(State::Status(503)));
    let services = service("any", place.at(), &format!("role: any, check: {{ path: /check, {FAST_YAML} }}"));
    let pgvane = Pgvane::start(&cluster("c", &place.nodes, &services)).await;
    until_spread_over(place.at(), &["m1"]).await;
    pgvane.order("c", "m1", "maint").await;
    until_spread_over(place.at(), &[]).await;
    m1.rest.set_state(State::Status(503));
    pgvane.order("c", "m1", "ready").await;
    let before = m1.rest.asked().len();
    until("m1 was asked again", PATIENCE, || async {
        assert!(visit(place.at(), PATIENCE).await.is_err(), "served by a member that says 503");
        m1.rest.asked().len() >= before + 3
    })
    .await;
    m1.rest.set_state(State::Status(200));
    until_spread_over(place.at(), &["m1"]).await;
}

/// HAProxy 2.6 ends a silent check anywhere between its time-out and `inter`, when the first is the
/// shorter one: the timer of its task is not moved forward.
#[tokio::test]
async fn a_time_out_below_inter_is_kept() {
    let place = Place::new();
    place.nodes.iter().for_each(|node| node.rest.set_state(State::Hung));
    let words = "inter 3s fastinter 3s downinter 100ms rise 2 fall 2";
    let haproxy = HaProxy::start("300ms", &Listen::new("any", place.at(), &place.nodes, words).text()).await;
    let third = |place: &Place| place.nodes[0].rest.asked().get(2).map(|asked| asked.at);
    until("m1 was asked again", PATIENCE, || async { third(&place).is_some() }).await;
    let silent = |place: &Place| {
        let asked = place.nodes[0].rest.asked();
        asked[1].at.saturating_duration_since(asked[0].at)
    };
    assert!(silent(&place) > ms(1500), "HAProxy keeps to 300 ms: {:?}", silent(&place));
    drop(haproxy);

    let place = Place::new();
    place.nodes.iter().for_each(|node| node.rest.set_state(State::Hung));
    let timing = "inter: 60s, fastinter: 60s, downinter: 100ms, rise: 2, fall: 2, timeout: 300ms";
    let services = service("any", place.at(), &format!("role: any, check: {{ path: /check, {timing} }}"));
    let _pgvane = Pgvane::start(&cluster("c", &place.nodes, &services)).await;
    until("m1 was asked again", PATIENCE, || async { third(&place).is_some() }).await;
    assert!(silent(&place) < secs(10), "300 ms and 100 ms took {:?}", silent(&place));
}

fn code(failure: Failure) -> Option<String> {
    failure.code().map(str::to_owned)
}
