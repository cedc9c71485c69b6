//! What the router says about its clusters, and what nonsense from outside does to it.

use std::sync::Arc;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::members::crowd::open_sessions;
use crate::members::etcd::Etcd;
use crate::members::patroni::Patroni;
use crate::members::router::{Router, Setup};
use crate::members::stage::{Stage, TIMELINE, members};
use crate::members::{secs, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_malformed_member_is_named_and_the_others_go_on() {
    let stage = Stage::start().await;
    let router = stage.router(|_| {}).await;
    stage.patroni.put("members/n4", "{\"conn_url\": \"postgres://127.0.0.1:99999/postgres\"").await;
    stage.patroni.put("status", "\u{7}").await;
    let named = |status: &Value, key: &str| {
        status["problems"].as_array().is_some_and(|all| all.iter().any(|problem| problem["key"] == key))
    };
    router.until("both keys are named", |status| named(status, "members/n4") && named(status, "status")).await;
    let mut client = open_sessions(router.write_port(0), 1).await.remove(0);
    client.write().await.unwrap_or_else(|failure| panic!("{failure}"));
    stage.fail_over_to_n2().await;
    router.until_open("n2").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_the_client_port_harms_nobody() {
    let stage = Stage::start().await;
    let router = stage.router(|_| {}).await;
    let mut client = open_sessions(router.write_port(0), 1).await.remove(0);
    let huge = [&u32::MAX.to_be_bytes()[..], &[0xff; 4096]].concat();
    let all: [&[u8]; 4] = [b"GET / HTTP/1.1\r\n\r\n", b"\0\0\0\x04", b"", &huge];
    for bytes in all {
        let mut stream = TcpStream::connect(router.write_port(0)).await.expect("the port accepts");
        stream.write_all(bytes).await.expect("bytes can be sent");
        stream.shutdown().await.expect("half a close");
        let mut answer = Vec::new();
        // Words or none, FIN or RST: it must end.
        let ended = tokio::time::timeout(secs(20), stream.read_to_end(&mut answer)).await;
        assert!(ended.is_ok(), "{:?} is still open", &bytes[..bytes.len().min(20)]);
    }
    client.write().await.unwrap_or_else(|failure| panic!("{failure}"));
    assert_eq!(stage.n1().journal.sessions_total(), 1, "nonsense reached a member");
    let refused = &router.status().await["services"][0]["totals"]["refused"];
    assert!(refused["startup_malformed"].as_u64() >= Some(2), "{refused}");
}

/// One sample: its name, its labels as written, its value.
fn sample(line: &str) -> Option<(&str, &str, f64)> {
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = match series.split_once('{') {
        Some((name, rest)) => (name, rest.strip_suffix('}')?),
        None => (series, ""),
    };
    Some((name, labels, value.parse().ok()?))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_can_be_read_and_agree_with_what_happened() {
    let stage = Stage::start().await;
    let router = stage.router(|_| {}).await;
    let _sessions = open_sessions(router.write_port(0), 3).await;
    let page = router.metrics().await;
    let lines: Vec<&str> = page.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    let samples: Vec<_> =
        lines.iter().map(|line| sample(line).unwrap_or_else(|| panic!("not a sample: {line}"))).collect();
    let value = |name: &str, parts: &[&str]| {
        let fits = |(found, labels, _): &&(&str, &str, f64)| *found == name && parts.iter().all(|p| labels.contains(p));
        samples.iter().find(fits).map(|(_, _, value)| *value)
    };
    let primary = "service=\"primary\"";
    assert_eq!(value("pgvane_target_sessions", &[primary, "member=\"n1\""]), Some(3.0), "{page}");
    assert_eq!(value("pgvane_target_state", &[primary, "member=\"n2\"", "state=\"standby\""]), Some(1.0));
    assert_eq!(value("pgvane_leader_open", &["member=\"n1\""]), Some(1.0));
    assert_eq!(value("pgvane_leader_key", &["member=\"n1\""]), Some(1.0));
    assert_eq!(value("pgvane_dcs_state", &["state=\"fresh\""]), Some(1.0));
    assert_eq!(value("pgvane_timeline_mark", &[]), Some(f64::from(TIMELINE)));
    assert_eq!(value("pgvane_held", &[primary]), Some(0.0));
    assert_eq!(value("pgvane_sessions_total", &[primary]), Some(3.0));
    assert_eq!(value("pgvane_stopping", &[]), Some(0.0));
    stage.fail_over_to_n2().await;
    let cut = "pgvane_sessions_closed_total";
    until("the cut sessions are counted", secs(20), || async {
        let page = router.metrics().await;
        page.lines().filter_map(sample).any(|(name, labels, n)| {
            name == cut && labels.contains("leader_moved") && labels.contains(primary) && n == 3.0
        })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_clusters_share_one_router_and_one_etcd() {
    let etcd = Etcd::start().await;
    let scopes = ["red", "green", "blue"];
    let mut clusters = Vec::new();
    for scope in scopes {
        let members = members(scope);
        clusters.push((Patroni::start(&etcd, scope, members.clone()).await, members));
    }
    let router = Router::start(Setup::new(&etcd, &scopes)).await;
    let mut sessions = Vec::new();
    for scope in 0..3 {
        let mut client = open_sessions(router.write_port(scope), 1).await.remove(0);
        client.write().await.unwrap_or_else(|failure| panic!("{failure}"));
        sessions.push(client);
    }
    let (green, green_members) = &clusters[1];
    green.move_leader("n2").await;
    green_members[1].promote(TIMELINE + 1);
    sessions[1].closed().await;
    let mut moved = open_sessions(router.write_port(1), 1).await.remove(0);
    assert_eq!(moved.who().await.ok().as_deref(), Some("n2"));
    assert!(sessions[0].is_open() && sessions[2].is_open(), "the others' sessions are none of green's business");
    let written: Vec<usize> =
        clusters.iter().map(|(_, members)| Arc::clone(&members[0]).journal.writes_total()).collect();
    assert_eq!(written, [1, 1, 1], "each write reached its own cluster");
}
