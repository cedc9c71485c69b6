//! A thousand clusters in one real etcd, and what it costs to follow them and to check their members.

use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use etcd_client::{Client, Txn, TxnOp};
use pgvane::dcs::DcsEvent;
use pgvane::dcs::etcd::{EtcdAccess, Subscription, spawn};
use pgvane::dcs::place::Place;
use pgvane::decide::ViewSource;
use pgvane::model::ProbeOutcome;
use pgvane::probe::rest::rest;
use pgvane::runtime::clock;

use super::fleet::{CLUSTERS, MEMBERS, line, resident};
use super::members::etcd::Etcd;
use super::members::{secs, until};
use super::timer::{cpu, time};

/// etcd takes 128 operations in one transaction.
const OPERATIONS_MAX: usize = 100;
const OBSERVED: Duration = Duration::from_secs(10);
const PROBES: u32 = 2_000;
const PATIENCE: Duration = Duration::from_secs(60);

const ANSWER: &str = r#"{"state": "running", "postmaster_start_time": "2026-11-21 10:00:00.000000+00:00", "role": "replica", "server_version": 170002, "xlog": {"received_location": 1099511627776, "replayed_location": 1099511627776, "replayed_timestamp": null, "paused": false}, "timeline": 1, "replication_state": "streaming", "dcs_last_seen": 1795260153, "database_system_identifier": "7400000000000000001", "patroni": {"version": "4.1.5", "scope": "pg-main", "name": "pg-main-2"}}"#;

#[derive(Debug, Default)]
struct Heard {
    reads: AtomicU64,
    watched: AtomicU64,
}

pub fn report(page: &mut String) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let _ = writeln!(page, "\nOver loopback, by one thread and with its part of the kernel");
    runtime.block_on(checks(page));
    if Command::new("etcd").arg("--version").stdout(Stdio::null()).status().is_err() {
        let _ = writeln!(page, "  no etcd here: following {CLUSTERS} clusters is not measured");
        return;
    }
    runtime.block_on(follow(page));
}

/// One question to Patroni's REST API after the other.
async fn checks(page: &mut String) {
    let at = patroni();
    let began = cpu();
    for _ in 0..PROBES {
        let outcome = rest(at, "127.0.0.1", None, PATIENCE).await;
        assert!(matches!(outcome, ProbeOutcome::Answer(_)), "{outcome:?}");
    }
    let each = (cpu() - began).as_nanos() as f64 / f64::from(PROBES);
    line(page, "CPU of one probe: connect, GET /primary, answer, close", time(each));
    let per_second = (CLUSTERS * MEMBERS) as f64 / 3.0;
    line(page, "all members asked every 3 s: CPU of one core", format!("{:.1} %", each * per_second / 1e7));
}

fn patroni() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port on loopback");
    let at = listener.local_addr().expect("it is bound");
    let head =
        "HTTP/1.0 503 Service Unavailable\r\nServer: BaseHTTP/0.6 Python/3.11.2\r\nContent-Type: application/json";
    let answer = format!("{head}\r\n\r\n{ANSWER}");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _gone = stream.read(&mut [0; 4096]).and_then(|_| stream.write_all(answer.as_bytes()));
        }
    });
    at
}

async fn follow(page: &mut String) {
    let etcd = Etcd::start().await;
    let mut client = etcd.client().await;
    write_clusters(&mut client).await;
    let heard = Arc::new(Heard::default());
    let shared = heard.clone();
    let sink = move |_, event| match event {
        DcsEvent::View { source: ViewSource::Read { .. }, .. } => _ = shared.reads.fetch_add(1, Relaxed),
        DcsEvent::View { .. } => _ = shared.watched.fetch_add(1, Relaxed),
        DcsEvent::Trouble { .. } => {}
    };
    let access = EtcdAccess { endpoints: vec![etcd.endpoint()], ..EtcdAccess::default() };
    let subscriptions = (0..CLUSTERS).map(|id| Subscription { place: Place::below(prefix(id)), id }).collect();
    let resident_before = resident();
    let session = spawn(access, subscriptions, sink);
    until("every cluster was read three times", PATIENCE, || async { reads(&heard) >= 3 * CLUSTERS as u64 }).await;
    let grown = (resident() - resident_before) as f64 / CLUSTERS as f64 / 1024.0;
    line(page, "memory of the DCS session, for each cluster", format!("{grown:.1} KiB"));
    let (began, before) = (cpu(), reads(&heard));
    tokio::time::sleep(OBSERVED).await;
    let seconds = OBSERVED.as_secs_f64();
    let (spent, views) = ((cpu() - began).as_secs_f64() / seconds, (reads(&heard) - before) as f64 / seconds);
    line(page, "views read in a second", format!("{views:.0}"));
    line(page, "CPU of one core: reads of the second, watches idle", format!("{:.1} %", spent * 100.0));
    hear_all(page, &mut client, &heard).await;
    drop(session);
}

/// All leader keys change, as fast as etcd takes it.
async fn hear_all(page: &mut String, client: &mut Client, heard: &Heard) {
    let (began, on_cpu) = (clock::now(), cpu());
    let before = heard.watched.load(Relaxed);
    write_all(client, (0..CLUSTERS).map(|id| (format!("{}leader", prefix(id)), "pg-main-2".to_owned()))).await;
    until("all were told", PATIENCE, || async { heard.watched.load(Relaxed) - before >= CLUSTERS as u64 }).await;
    let spent = (cpu() - on_cpu).as_nanos() as f64;
    line(page, "all leader keys move: until the last is heard of", time((clock::now() - began).as_nanos() as f64));
    line(page, "... and the CPU time of it, writing included", time(spent));
}

fn reads(heard: &Heard) -> u64 {
    heard.reads.load(Relaxed)
}

fn prefix(id: usize) -> String {
    format!("/service/pg-{id}/")
}

async fn write_clusters(client: &mut Client) {
    let keys = (0..CLUSTERS).flat_map(|id| {
        let member = move |number: usize| {
            let host = format!("10.10.{}.{number}", id % 250);
            let value = format!(
                r#"{{"conn_url":"postgres://{host}:5432/postgres","api_url":"http://{host}:8008/patroni","state":"running","role":"replica","version":"4.1.5","xlog_location":1099511627776,"replication_state":"streaming","timeline":1}}"#
            );
            (format!("{}members/pg-main-{number}", prefix(id)), value)
        };
        let other = [
            ("config", r#"{"ttl":30,"loop_wait":10,"retry_timeout":10}"#),
            ("history", r#"[[1,67108960,"no recovery target specified"]]"#),
            ("initialize", "7400000000000000001"),
            ("leader", "pg-main-1"),
            ("status", r#"{"optime":1099511627776}"#),
        ];
        let other = other.map(|(name, value)| (format!("{}{name}", prefix(id)), value.to_owned()));
        other.into_iter().chain((1..=MEMBERS).map(member))
    });
    write_all(client, keys).await;
}

async fn write_all(client: &mut Client, keys: impl Iterator<Item = (String, String)>) {
    let keys: Vec<_> = keys.collect();
    for some in keys.chunks(OPERATIONS_MAX) {
        let puts: Vec<_> = some.iter().map(|(key, value)| TxnOp::put(key.as_str(), value.as_str(), None)).collect();
        let written = tokio::time::timeout(secs(20), client.txn(Txn::new().and_then(puts))).await;
        written.expect("etcd answers").expect("a transaction of puts");
    }
}
