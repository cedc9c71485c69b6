//! The lab: one real cluster (etcd, Patroni, PostgreSQL) behind the router, everything done to it
//! that needs no cut network. Needs what `scripts/setup test` installs. Figures are printed, bars
//! are asserted with a wide margin; the exact ones belong to `cargo bench --bench failover`.

mod kit;

mod lab {
    pub mod cancels;
    pub mod programs;
    pub mod switchover;
    pub mod tls;
    pub mod traffic;
}

use std::time::Duration;

use kit::clients::Plan;
use kit::outages::{self, Blow};
use kit::stage::Stage;
use kit::zombies::{self, Fate};
use kit::{etcd_stop, until};
use pgvane::cli::demo::cluster::{Cluster, ClusterOptions};
use pgvane::runtime::clock;

const TTL: Duration = Duration::from_secs(20);
/// What takes a hundred milliseconds may take so long on a busy machine.
const BEHIND_MAX_MS: f64 = 3000.0;
/// A bar of 50 ms.
const ZOMBIE_MAX_MS: f64 = 500.0;
const ZOMBIE_LIVES: Duration = Duration::from_secs(2);
/// Longer than the ttl, so that Patroni's own timer has run out.
const ETCD_STOP: Duration = Duration::from_secs(25);
const HEALING: Duration = Duration::from_secs(8);
/// For the old primary to become a reader.
const READER_MAX: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_behind_the_router() {
    let began = clock::now();
    let step = |what: &str| eprintln!("[{:5.1} s] {what}", began.elapsed().as_secs_f64());
    let options = ClusterOptions::new(env!("CARGO_BIN_EXE_pgvane")).with_ttl(TTL);
    let stage = Stage::set(options, false).await.unwrap();
    step("started");

    lab::traffic::psql_without_tls(&stage).await;
    lab::traffic::pgbench_through_both_ports(&stage).await;
    lab::traffic::copy_is_byte_identical(&stage).await;
    lab::traffic::a_cancel_request_reaches_its_query(&stage).await;
    step("traffic");
    lab::tls::passes_through(&stage).await;
    step("TLS");

    let old = outage(&stage, Blow::Switchover).await;
    step("switchover");
    roles_follow(&stage, &old).await;
    step("the old primary reads");
    outage(&stage, Blow::Kill).await;
    step("Patroni killed with PostgreSQL");
    zombie(&stage, Fate::Killed).await;
    step("Patroni killed alone");
    zombie(&stage, Fate::Frozen).await;
    step("Patroni frozen alone");
    outage(&stage, Blow::Crash).await;
    step("PostgreSQL crashed, the key kept");

    let stop = etcd_stop::measure(&stage, ETCD_STOP, HEALING).await.unwrap();
    let (fared, longest) = &stop.pgvane;
    eprintln!("etcd stopped: {fared:?}, longest time without a write {longest:?} ms");
    assert_eq!((fared.refusals(), fared.cuts()), (0, 0), "{fared:?}{}", stage.tails());
    step("etcd stopped and back");
}

/// A new connection is held, never refused, and never misrouted. Returns who was primary before.
async fn outage(stage: &Stage, blow: Blow) -> String {
    let row = outages::measure(stage, blow).await.unwrap();
    eprintln!("{row}");
    let felt = &row.pgvane;
    assert_eq!(felt.fared.refusals(), 0, "new connections failed: {row}{}", stage.tails());
    assert_eq!(felt.fared.misrouted(), 0, "{row}{}", stage.tails());
    assert!(felt.held > 0, "nobody was held: {row}");
    assert!(felt.held_past_ms().unwrap() <= BEHIND_MAX_MS, "{row}{}", stage.tails());
    assert!(felt.behind_ms.unwrap() <= BEHIND_MAX_MS, "{row}{}", stage.tails());
    row.from
}

/// The old PostgreSQL stays writable, and nobody reaches it once the key names another.
async fn zombie(stage: &Stage, fate: Fate) {
    let row = zombies::measure(stage, fate, ZOMBIE_LIVES).await.unwrap();
    eprintln!("{row}");
    let felt = &row.pgvane;
    assert!(row.both_writable_ms > 0.0, "it was no zombie: {row}");
    assert!(felt.last_at_old_ms.unwrap() <= ZOMBIE_MAX_MS, "{row}{}", stage.tails());
    assert!(felt.latest_row_ms.unwrap_or(0.0) <= ZOMBIE_MAX_MS, "{row}{}", stage.tails());
    assert_eq!((felt.fared.refusals(), felt.fared.misrouted()), (0, 0), "{row}{}", stage.tails());
}

/// After a switchover the old primary serves the read port, and the new one does no longer.
async fn roles_follow(stage: &Stage, old: &str) {
    let leader = stage.calm().await.unwrap();
    let old = stage.cluster.member(old).unwrap().pg.to_string();
    let old_reads = until(READER_MAX, async || {
        let at = lab::traffic::server_behind(&stage.router.read).await;
        assert_ne!(at, leader.pg.to_string(), "the primary serves readers although replicas are there");
        at == old
    });
    assert!(old_reads.await, "the old primary is not a reader after {READER_MAX:?}{}", stage.tails());
}

/// Idle sessions, new ones, pools and readers in the middle of a large result, through one switchover.
#[tokio::test(flavor = "multi_thread")]
async fn a_planned_switchover_is_felt_as_latency() {
    let options = ClusterOptions::new(env!("CARGO_BIN_EXE_pgvane")).with_ttl(TTL);
    let stage = Stage::set(options, false).await.unwrap();
    lab::switchover::is_felt_as_latency(&stage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_cancels_over_three_replicas_and_two_routers() {
    let options = ClusterOptions { members: 4, ..ClusterOptions::new(env!("CARGO_BIN_EXE_pgvane")) };
    let cluster = Cluster::start(options).await.unwrap();
    lab::cancels::reach_their_queries(&cluster).await;
}

/// The router starts before there is a cluster to route to, and its clients wait for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_without_a_primary_holds_clients() {
    let options = ClusterOptions { members: 1, ..ClusterOptions::new(env!("CARGO_BIN_EXE_pgvane")).with_ttl(TTL) };
    let cluster = Cluster::start(options).await.unwrap();
    cluster.kill_primary("n1").unwrap();
    let options = kit::router::RouterOptions::new(env!("CARGO_BIN_EXE_pgvane"));
    let router = kit::router::Router::launch(&cluster, &options).unwrap();
    let listens = until(READER_MAX, async || router.ask("/livez").await.is_ok());
    assert!(listens.await, "{}", cluster.ground().tail(&router.name));
    let stage = Stage::populate(cluster, router, None, &Plan::default());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let began = clock::now();
    stage.cluster.restart_patroni("n1").unwrap();
    let leader = stage.cluster.member("n1").unwrap().clone();
    stage.writes_at(&leader, READER_MAX).await.unwrap();
    let fared = kit::tally::Fared::of(&stage.pgvane.since(began));
    assert_eq!((fared.refusals(), fared.misrouted()), (0, 0), "{fared:?}{}", stage.tails());
}
