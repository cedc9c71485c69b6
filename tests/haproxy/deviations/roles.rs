//! Where pgvane knows more of a member than a status.

use crate::members::client::Client;
use crate::members::until;
use crate::stand::PATIENCE;
use crate::stand::clients::{session, until_spread_over, visits};
use crate::stand::haproxy::{HaProxy, Listen};
use crate::stand::node::{Node, PlayedRole, State};
use crate::stand::pgvane::{Pgvane, cluster};

use super::{FAST, FAST_YAML, Place, service};

/// A primary and two replicas, on timeline 5.
fn play_cluster(place: &Place) {
    place.nodes[0].play(PlayedRole::Primary, 5);
    place.nodes[1..].iter().for_each(|node| node.play(PlayedRole::Replica, 5));
}

/// Two members that say 200 to `/primary`: half of the clients go to each there. Here only the one on
/// the higher timeline gets any, or nobody does; sessions stay where they are.
#[tokio::test]
async fn of_two_primaries_at_most_one_is_opened() {
    let place = Place::new();
    play_cluster(&place);
    let listen = Listen { path: "/primary", ..Listen::new("primary", place.at(), &place.nodes, FAST) };
    let _haproxy = HaProxy::start("1s", &listen.text()).await;
    until_spread_over(place.at(), &["m1"]).await;
    place.nodes[1].play(PlayedRole::Primary, 6);
    until_spread_over(place.at(), &["m1", "m2"]).await;

    let place = Place::new();
    play_cluster(&place);
    let services = service("primary", place.at(), &format!("role: primary, check: {{ {FAST_YAML} }}"));
    let _pgvane = Pgvane::start(&cluster("c", &place.nodes, &services)).await;
    until_spread_over(place.at(), &["m1"]).await;
    let (_, mut on_m1) = session(place.at()).await;
    place.nodes[1].play(PlayedRole::Primary, 6);
    until_spread_over(place.at(), &["m2"]).await;
    until("the session on the older timeline is cut", PATIENCE, || std::future::ready(!on_m1.is_open())).await;
    let (_, mut on_m2) = session(place.at()).await;
    place.nodes[0].play(PlayedRole::Primary, 6);
    until_spread_over(place.at(), &[]).await;
    assert!(on_m2.is_open(), "a session was cut while nobody can tell who is right");
    place.nodes[0].play(PlayedRole::Replica, 6);
    until_spread_over(place.at(), &["m2"]).await;
    assert!(on_m2.is_open(), "the session on the primary was cut");
}

/// A reader's member that is promoted is down for HAProxy, which cuts the reader.
#[tokio::test]
async fn a_promotion_does_not_cut_readers() {
    let place = Place::new();
    play_cluster(&place);
    let listen = Listen { path: "/replica", ..Listen::new("replica", place.at(), &place.nodes, FAST) };
    let _haproxy = HaProxy::start("1s", &listen.text()).await;
    until_spread_over(place.at(), &["m2", "m3"]).await;
    let mut reader = reader_of("m2", &place).await;
    place.nodes[1].play(PlayedRole::Primary, 6);
    reader.closed().await;

    let place = Place::new();
    play_cluster(&place);
    let services = service("replica", place.at(), &format!("role: replica, check: {{ {FAST_YAML} }}"));
    let _pgvane = Pgvane::start(&cluster("c", &place.nodes, &services)).await;
    until_spread_over(place.at(), &["m2", "m3"]).await;
    let mut reader = reader_of("m2", &place).await;
    place.nodes[1].play(PlayedRole::Primary, 6);
    place.nodes[0].rest.set_state(State::Refused);
    until_spread_over(place.at(), &["m3"]).await;
    assert!(reader.is_open(), "cut by a promotion");
    assert_eq!(reader.who().await.expect("the session goes on"), "m2");
}

async fn reader_of(member: &str, place: &Place) -> Client {
    loop {
        let (who, client) = session(place.at()).await;
        if who == member {
            return client;
        }
    }
}

/// Of several backups HAProxy uses the first one alone.
#[tokio::test]
async fn backups_share_their_clients() {
    let is_backup = |node: &Node| if node.name == "m1" { "" } else { "backup" };
    let place = Place::new();
    place.nodes.iter().for_each(|node| node.play(PlayedRole::Replica, 5));
    let listen = Listen::new("offline", place.at(), &place.nodes, FAST);
    let listen = Listen { path: "/replica", words: is_backup, ..listen };
    let _haproxy = HaProxy::start("1s", &listen.text()).await;
    until_spread_over(place.at(), &["m1"]).await;
    place.nodes[0].rest.set_state(State::Refused);
    until_spread_over(place.at(), &["m2"]).await;

    let place = Place::new();
    place.nodes.iter().for_each(|node| node.play(PlayedRole::Replica, 5));
    let keys = format!("role: offline, backup: [replica], check: {{ {FAST_YAML} }}");
    let text = cluster("c", &place.nodes, &service("offline", place.at(), &keys));
    let text = text.replace("m1: { host", "m1: { offline: true, host");
    let _pgvane = Pgvane::start(&text).await;
    until_spread_over(place.at(), &["m1"]).await;
    place.nodes[0].rest.set_state(State::Refused);
    until_spread_over(place.at(), &["m2", "m3"]).await;
}

/// HAProxy's backup is the one that was the primary when somebody wrote the file.
#[tokio::test]
async fn backups_follow_a_failover() {
    let was_primary = |node: &Node| if node.name == "m1" { "backup" } else { "" };
    let place = Place::new();
    play_cluster(&place);
    let listen = Listen::new("replica", place.at(), &place.nodes, FAST);
    let listen = Listen { path: "/read-only", words: was_primary, ..listen };
    let _haproxy = HaProxy::start("1s", &listen.text()).await;
    until_spread_over(place.at(), &["m2", "m3"]).await;
    fail_over(&place);
    let asked = place.nodes[2].rest.asked().len();
    until("m3 was asked again", PATIENCE, || async { place.nodes[2].rest.asked().len() > asked + 5 }).await;
    let (served, _) = visits(place.at()).await;
    assert_eq!(served.keys().collect::<Vec<_>>(), ["m2", "m3"], "the new primary reads on, the new replica is idle");

    let place = Place::new();
    play_cluster(&place);
    let keys = format!("role: replica, backup: [primary], check: {{ {FAST_YAML} }}");
    let _pgvane = Pgvane::start(&cluster("c", &place.nodes, &service("replica", place.at(), &keys))).await;
    until_spread_over(place.at(), &["m2", "m3"]).await;
    fail_over(&place);
    until_spread_over(place.at(), &["m1", "m3"]).await;
}

/// From `m1` to `m2`.
fn fail_over(place: &Place) {
    place.nodes[0].play(PlayedRole::Replica, 6);
    place.nodes[1].play(PlayedRole::Primary, 6);
    place.nodes[2].play(PlayedRole::Replica, 6);
}
