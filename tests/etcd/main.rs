//! Sessions against real etcd processes: what is promised about moves, dead and hung endpoints,
//! restarts, passwords, certificates and an etcd that goes back in time.

mod exact;
mod marks;
mod secure;
mod store;

use std::time::Duration;

use etcd_client::{CompactionOptions, Txn, TxnOp};
use nix::sys::signal::Signal;
use pgvane::dcs::DcsEvent;
use pgvane::dcs::etcd::EtcdAccess;
use pgvane::runtime::clock;
use store::{Etcd, Listener, PREFIX, Told, copy_dir, free_port, lease, loopback, put, seed};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// The user-visible bars.
const MOVE_MAX: Duration = Duration::from_millis(500);
const READ_GAP_MAX: Duration = Duration::from_secs(2);

fn named(name: &str) -> impl Fn(&Told) -> bool {
    move |told| told.leader() == Some(name)
}

#[tokio::test]
async fn a_leader_move_is_told_by_the_watch_and_its_lease_by_an_extra_read() {
    let etcd = Etcd::start().await;
    let mut client = etcd.client().await;
    seed(&mut client, "n1").await;
    let mut listener = Listener::to(&[etcd.url()]);
    let first = listener.until("the lease", |told| told.lease_left().is_some()).await;
    assert_eq!(first.leader(), Some("n1"));
    assert!((25..=30).contains(&first.lease_left().unwrap().as_secs()));

    let mut latencies = Vec::new();
    for turn in 0..20 {
        let name = format!("m{turn}");
        let lease = lease(&mut client, 20).await;
        let sent = clock::now();
        let revision = put(&mut client, "leader", &name, lease).await;
        let seen = listener.until("the move", named(&name)).await;
        assert!(seen.is_watch());
        assert_eq!(seen.view().unwrap().revision, revision);
        latencies.push(seen.at - sent);
        let proof = listener.until("its lease", |told| told.lease_left().is_some()).await;
        assert_eq!(proof.leader(), Some(name.as_str()));
        assert!(proof.at - seen.at < MOVE_MAX);
    }
    latencies.sort();
    println!("watch latency: median {:?}, max {:?}", latencies[10], latencies[19]);
    assert!(latencies[19] < MOVE_MAX);
}

#[tokio::test]
async fn leader_and_member_of_one_lease_vanish_in_one_view() {
    let etcd = Etcd::start().await;
    let mut client = etcd.client().await;
    let lease = seed(&mut client, "n1").await;
    let mut listener = Listener::to(&[etcd.url()]);
    listener.until("the watch stands", |told| told.lease_left().is_some()).await;
    put(&mut client, "status", r#"{"optime":7}"#, 0).await;
    listener.until("the watch works", Told::is_watch).await;
    client.lease_revoke(lease).await.unwrap();
    let gone = listener.until("no leader", |told| told.view().is_some_and(|v| v.leader.is_none())).await;
    assert!(gone.is_watch() && gone.view().unwrap().members.is_empty());
    let half = |told: &Told| told.view().is_some_and(|v| v.leader.is_none() != v.members.is_empty());
    assert!(!listener.history.iter().any(half));
}

#[tokio::test]
async fn a_dead_endpoint_in_front_costs_nothing() {
    let etcd = Etcd::start().await;
    seed(&mut etcd.client().await, "n1").await;
    let began = clock::now();
    let dead = format!("{}:{}", loopback(), free_port());
    let mut listener = Listener::to(&[dead, etcd.url()]);
    let first = listener.until("the leader", named("n1")).await;
    println!("first view past a dead endpoint after {:?}", first.at - began);
    assert!(first.at - began < MOVE_MAX);
    assert!(listener.history.iter().any(|told| matches!(told.event, DcsEvent::Trouble { .. })));
}

/// The index of a follower: the hang of a leader costs an election, whoever asks.
async fn follower(members: &[Etcd]) -> usize {
    for (index, member) in members.iter().enumerate() {
        let status = member.client().await.status().await.unwrap();
        if status.leader() != status.header().unwrap().member_id() {
            return index;
        }
    }
    panic!("three leaders");
}

#[tokio::test]
async fn a_hung_endpoint_of_three_leaves_no_gap() {
    let mut members = Etcd::start_three().await;
    let hung = follower(&members).await;
    members.swap(0, hung);
    let mut client = members[1].client().await;
    seed(&mut client, "n1").await;
    let urls: Vec<_> = members.iter().map(Etcd::url).collect();
    let mut listener = Listener::to(&urls);
    listener.until("the lease", |told| told.lease_left().is_some()).await;

    members[0].signal(Signal::SIGSTOP);
    let stopped = clock::now();
    let next = listener.until("a read of another", |told| told.sent_at().is_some_and(|at| at > stopped)).await;
    println!("hung endpoint: next read answered after {:?}", next.at - stopped);
    let lease = lease(&mut client, 20).await;
    let sent = clock::now();
    put(&mut client, "leader", "n2", lease).await;
    let seen = listener.until("the move", named("n2")).await;
    println!("move after the hang told after {:?} (watch: {})", seen.at - sent, seen.is_watch());
    assert!(seen.at - sent < MOVE_MAX);
    listener.until("five more seconds", |told| told.at - stopped > Duration::from_secs(5)).await;

    let reads: Vec<_> = listener.history.iter().filter_map(Told::sent_at).collect();
    let gap = reads.windows(2).map(|pair| pair[1].saturating_duration_since(pair[0])).max().unwrap();
    println!("largest gap between reads: {gap:?}");
    assert!(gap <= READ_GAP_MAX, "{gap:?}");
}

#[tokio::test]
async fn a_killed_endpoint_of_three_is_left_at_once() {
    let mut members = Etcd::start_three().await;
    let doomed = follower(&members).await;
    members.swap(0, doomed);
    let mut client = members[1].client().await;
    seed(&mut client, "n1").await;
    let urls: Vec<_> = members.iter().map(Etcd::url).collect();
    let mut listener = Listener::to(&urls);
    listener.until("the lease", |told| told.lease_left().is_some()).await;
    let killed = clock::now();
    members[0].kill();
    let next = listener.until("a read of another", |told| told.sent_at().is_some_and(|at| at > killed)).await;
    println!("killed endpoint: next read answered after {:?}", next.at - killed);
    assert!(next.at - killed < MOVE_MAX);
    put(&mut client, "leader", "n2", 0).await;
    assert!(listener.until("the move", named("n2")).await.is_watch());
}

/// Behind an address that moves (a VIP, a balancer), old connections fall silent and new ones work.
#[tokio::test]
async fn connections_that_fall_silent_are_replaced() {
    let etcd = Etcd::start().await;
    let mut client = etcd.client().await;
    seed(&mut client, "n1").await;
    let relay = TcpListener::bind((loopback(), 0)).await.unwrap();
    let address = relay.local_addr().unwrap();
    let (epoch, seen_epoch) = tokio::sync::watch::channel(0);
    let target = etcd.address();
    let relaying = tokio::spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut near, _)) = relay.accept().await {
            let (target, mut epoch) = (target.clone(), seen_epoch.clone());
            epoch.mark_unchanged();
            connections.spawn(async move {
                let mut far = TcpStream::connect(target).await.unwrap();
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                    _ = epoch.changed() => std::future::pending().await,
                }
            });
        }
    });
    let mut listener = Listener::to(&[address.to_string()]);
    listener.until("the lease", |told| told.lease_left().is_some()).await;
    for turn in 0..3 {
        epoch.send_modify(|epoch| *epoch += 1);
        let silent = clock::now();
        let next = listener.until("a read", |told| told.sent_at().is_some_and(|at| at > silent)).await;
        println!("silent connection: next read answered after {:?}", next.at - silent);
        assert!(next.at - silent < READ_GAP_MAX);
        let name = format!("m{turn}");
        put(&mut client, "leader", &name, 0).await;
        assert!(listener.until("the move", named(&name)).await.is_watch());
    }
    relaying.abort();
}

#[tokio::test]
async fn the_hung_leader_of_three_is_survived() {
    let mut members = Etcd::start_three().await;
    for index in 0..members.len() {
        let status = members[index].client().await.status().await.unwrap();
        if status.leader() == status.header().unwrap().member_id() {
            members.swap(0, index);
        }
    }
    seed(&mut members[0].client().await, "n1").await;
    let urls: Vec<_> = members.iter().map(Etcd::url).collect();
    let mut listener = Listener::to(&urls);
    listener.until("the lease", |told| told.lease_left().is_some()).await;
    members[0].signal(Signal::SIGSTOP);
    let stopped = clock::now();
    let next = listener.until("a read", |told| told.sent_at().is_some_and(|at| at > stopped)).await;
    println!("hung leader: next read answered after {:?}", next.at - stopped);
    assert!(next.at - stopped < Duration::from_secs(6));
}

#[tokio::test]
async fn a_killed_etcd_is_read_again_when_it_is_back() {
    let mut etcd = Etcd::start().await;
    seed(&mut etcd.client().await, "n1").await;
    let mut listener = Listener::to(&[etcd.url()]);
    listener.until("the lease", |told| told.lease_left().is_some()).await;
    etcd.kill();
    listener.until("trouble", |told| matches!(told.event, DcsEvent::Trouble { .. })).await;
    let down = clock::now();
    listener.until_quiet(Duration::from_secs(2)).await;
    etcd.launch();
    let mut client = etcd.client().await;
    let up = clock::now();
    let back = listener.until("a read", |told| told.sent_at().is_some_and(|at| at > down)).await;
    println!("restarted etcd: read {:?} after it served", back.at.saturating_duration_since(up));
    assert!(back.at.saturating_duration_since(up) < READ_GAP_MAX);
    put(&mut client, "leader", "n2", 0).await;
    assert!(listener.until("the move", named("n2")).await.is_watch());
}

#[tokio::test]
async fn compaction_while_the_watch_is_down() {
    let mut etcd = Etcd::start().await;
    seed(&mut etcd.client().await, "n1").await;
    let mut listener = Listener::to(&[etcd.url()]);
    listener.until("the lease", |told| told.lease_left().is_some()).await;
    etcd.kill();
    // Behind the session's back, at an address that it does not know.
    let away = etcd.launch_elsewhere();
    let mut client = etcd.client().await;
    let mut revision = 0;
    for turn in 0..30 {
        revision = put(&mut client, "leader", &format!("m{turn}"), 0).await;
    }
    client.compact(revision, Some(CompactionOptions::new().with_physical())).await.unwrap();
    etcd.kill();
    etcd.move_back(away);
    etcd.launch();
    listener.until("the last leader", named("m29")).await;
    put(&mut etcd.client().await, "leader", "n2", 0).await;
    assert!(listener.until("the move", named("n2")).await.is_watch());
}

#[tokio::test]
async fn an_older_copy_and_another_etcd_are_told_as_read() {
    let mut etcd = Etcd::start().await;
    seed(&mut etcd.client().await, "n1").await;
    etcd.kill();
    let copy = etcd.dir.path().join("copy");
    copy_dir(&etcd.data(), &copy);
    etcd.launch();
    let mut client = etcd.client().await;
    for turn in 0..10 {
        put(&mut client, "leader", &format!("m{turn}"), 0).await;
    }
    let mut listener = Listener::to(&[etcd.url()]);
    let newest = listener.until("the newest", named("m9")).await.view().unwrap().clone();

    etcd.kill();
    std::fs::remove_dir_all(etcd.data()).unwrap();
    copy_dir(&copy, &etcd.data());
    etcd.launch();
    let old = listener.until("the older copy", named("n1")).await.view().unwrap().clone();
    assert!(old.revision < newest.revision && old.cluster_id == newest.cluster_id);
    let mut client = etcd.client().await;
    put(&mut client, "leader", "n3", 0).await;
    assert!(listener.until("a watch of the copy", named("n3")).await.is_watch());

    etcd.kill();
    etcd.another_cluster();
    etcd.launch();
    let other = |told: &Told| told.view().is_some_and(|v| v.cluster_id != newest.cluster_id && v.leader.is_none());
    listener.until("another etcd", other).await;
    let mut client = etcd.client().await;
    put(&mut client, "leader", "n4", 0).await;
    assert!(listener.until("a watch of the other", named("n4")).await.is_watch());
}

#[tokio::test]
async fn two_prefixes_share_one_read_a_second() {
    let etcd = Etcd::start().await;
    let mut client = etcd.client().await;
    seed(&mut client, "n1").await;
    put(&mut client, "/other/two/leader", "x1", 0).await;
    let access = EtcdAccess { endpoints: vec![etcd.url()], ..EtcdAccess::default() };
    let mut listener = Listener::with(access, &[PREFIX, "/other/two/"]);
    listener.until("the first", named("n1")).await;
    listener.until("the second", |told| told.id == 1 && told.leader() == Some("x1")).await;
    let (txns, since) = (txns(&etcd).await, clock::now());
    let mut reads = 0;
    while reads < 5 {
        reads += usize::from(listener.until("a read", |told| told.sent_at().is_some()).await.id == 1);
    }
    let spent = since.elapsed();
    let asked = self::txns(&etcd).await - txns;
    println!("{asked} transactions in {spent:?}");
    assert!((4..=6).contains(&asked), "{asked}");
    // One transaction that changes both is one view each.
    let both = [TxnOp::put(format!("{PREFIX}leader"), "n2", None), TxnOp::put("/other/two/leader", "x2", None)];
    client.txn(Txn::new().and_then(both)).await.unwrap();
    listener.until("one", |told| told.id == 0 && told.is_watch() && told.leader() == Some("n2")).await;
}

/// More than fit one transaction. `PGVANE_TEST_PREFIXES=1000` shows what a thousand clusters cost.
#[tokio::test]
async fn many_prefixes_on_one_session() {
    let wanted = std::env::var("PGVANE_TEST_PREFIXES").ok().and_then(|n| n.parse().ok()).unwrap_or(250);
    let etcd = Etcd::start().await;
    let mut client = etcd.client().await;
    let prefixes: Vec<_> = (0..wanted).map(|n| format!("/many/c{n}/")).collect();
    for prefix in &prefixes {
        let lease = lease(&mut client, 60).await;
        put(&mut client, &format!("{prefix}leader"), "n1", lease).await;
        let member = r#"{"conn_url":"postgres://10.0.0.1:5432/postgres","state":"running","timeline":1}"#;
        put(&mut client, &format!("{prefix}members/n1"), member, lease).await;
    }
    let access = EtcdAccess { endpoints: vec![etcd.url()], ..EtcdAccess::default() };
    let mut listener = Listener::with(access, &prefixes.iter().map(String::as_str).collect::<Vec<_>>());
    let mut proven = std::collections::BTreeSet::new();
    while proven.len() < wanted {
        proven.insert(listener.until("every lease", |told| told.lease_left().is_some()).await.id);
    }
    let mut latencies = Vec::new();
    for turn in 0..20 {
        let index = turn * (wanted - 1) / 19;
        let name = format!("m{turn}");
        let sent = clock::now();
        put(&mut client, &format!("{}leader", prefixes[index]), &name, 0).await;
        // The read of the second may have seen it first.
        let moved = |told: &Told| told.id == index && told.leader() == Some(&name);
        latencies.push(listener.until("the move", moved).await.at - sent);
    }
    let (cpu, since) = (cpu_ticks(), clock::now());
    listener.until("some seconds", |told| told.at - since > Duration::from_secs(4)).await;
    let share = (cpu_ticks() - cpu) as f64 / since.elapsed().as_secs_f64();
    latencies.sort();
    let (median, slowest) = (latencies[10], latencies[19]);
    println!("{wanted} prefixes: moves told after {median:?} (median), {slowest:?} (slowest); {share:.1} % of a core");
    assert!(slowest < MOVE_MAX);
}

/// CPU time of this process in hundredths of a second.
fn cpu_ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[tokio::test]
async fn read_now_reads_now() {
    let etcd = Etcd::start().await;
    seed(&mut etcd.client().await, "n1").await;
    let mut listener = Listener::to(&[etcd.url()]);
    listener.until("the lease", |told| told.lease_left().is_some()).await;
    for _ in 0..5 {
        let asked = clock::now();
        listener.handle.read_now();
        let read = listener.until("a read", |told| told.sent_at().is_some_and(|at| at >= asked)).await;
        assert!(read.at - asked < Duration::from_millis(200), "{:?}", read.at - asked);
    }
}

async fn txns(etcd: &Etcd) -> u64 {
    let mut stream = TcpStream::connect(etcd.address()).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let ours = |line: &&str| line.starts_with("grpc_server_started_total") && line.contains("grpc_method=\"Txn\"");
    text.lines().find(ours).and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
}
