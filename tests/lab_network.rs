//! The lab with a network that is cut: etcd, every member and the router are hosts of their own.
//! Needs root, for network namespaces, and what `scripts/setup test` installs.

mod kit;

mod lab {
    pub mod namespaces;
    pub mod vanishing;
}

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use kit::clients::Plan;
use kit::outages::{self, Row};
use kit::router::{Router, RouterOptions};
use kit::stage::Stage;
use kit::tally::{self, Fared, millis_between};
use kit::{until, zombies};
use lab::namespaces::Network;
use lab::vanishing::{self, LIMIT, say, within};
use pgvane::cli::demo::cluster::{Cluster, ClusterOptions, Place};
use pgvane::runtime::clock;

const TTL: Duration = Duration::from_secs(20);
/// For the router to find that nothing comes from etcd any more.
const STALE_MAX: Duration = Duration::from_secs(20);
/// For the key to move, and for writes to follow.
const MOVE_MAX: Duration = Duration::from_secs(60);
/// What takes a hundred milliseconds may take so long on a busy machine.
const BEHIND_MAX_MS: f64 = 3000.0;
/// The router computes the end of the lease to be on the safe side of etcd's.
const ZOMBIE_MAX_MS: f64 = 500.0;
const ZOMBIE_LIVES: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_whose_network_is_cut() {
    let network = Network::new(&["etcd", "n1", "n2", "n3", "rt"]);
    let began = clock::now();
    let step = |what: &str| eprintln!("[{:5.1} s] {what}", began.elapsed().as_secs_f64());
    let stage = build(&network).await;
    step("started");
    primary_cut_from_etcd(&network, &stage).await;
    step("the primary cut from etcd");
    router_cut_from_etcd_while_the_leader_moves(&network, &stage).await;
    step("the router cut from etcd");
    host_of_the_primary_dies(&network, &stage).await;
    step("the host of the primary dead");
}

async fn build(network: &Network) -> Stage {
    let place =
        |host: &str| Place { address: Some(network.address(host)), wrap: network.wrap(host), ..Place::default() };
    let program = env!("CARGO_BIN_EXE_pgvane");
    let mut options = ClusterOptions::new(program).with_ttl(TTL);
    options.places = ["n1", "n2", "n3"].map(place).to_vec();
    options.etcd_places = vec![place("etcd")];
    let cluster = Cluster::start(options).await.unwrap();
    let mut options = RouterOptions::new(program);
    options.address = network.address("rt");
    options.wrap = network.wrap("rt");
    let router = Router::start(&cluster, &options).await.unwrap();
    Stage::populate(cluster, router, None, &Plan::default())
}

/// It stops by itself before its lease ends; whoever connects meanwhile waits for the next one.
async fn primary_cut_from_etcd(network: &Network, stage: &Stage) {
    let began = clock::now();
    let row = outages::measure_of(stage, "primary cut from etcd", true, |old| {
        network.cut(old, "etcd");
        Ok(())
    });
    let row = row.await.unwrap();
    network.heal(&row.from, "etcd");
    assert_held(stage, &row);
    let key = stage.keys.moved(began, &row.from).unwrap();
    let old = stage.cluster.member(&row.from).unwrap().pg.to_string();
    let last = tally::last_at(&stage.pgvane.since(began), &old).unwrap();
    assert!(last <= key.at, "a write at {} {} ms after the key moved", row.from, millis_between(key.at, last));
}

/// Nothing answers and nothing refuses: only the key tells.
async fn host_of_the_primary_dies(network: &Network, stage: &Stage) {
    let row = outages::measure_of(stage, "death of the primary's host", true, |old| {
        network.unplug(old);
        Ok(())
    });
    let row = row.await.unwrap();
    network.plug(&row.from);
    assert_held(stage, &row);
    stage.calm().await.unwrap();
}

fn assert_held(stage: &Stage, row: &Row) {
    eprintln!("{row}");
    let felt = &row.pgvane;
    assert_eq!(felt.fared.refusals(), 0, "new connections failed: {row}{}", stage.tails());
    assert_eq!(felt.fared.misrouted(), 0, "{row}{}", stage.tails());
    assert!(felt.held > 0, "nobody was held: {row}");
    assert!(felt.held_past_ms().unwrap() <= BEHIND_MAX_MS, "{row}{}", stage.tails());
}

/// The old primary's Patroni dies, its PostgreSQL stays writable and reachable, and the router
/// hears nothing of the key that moves: it must stop by its own clock, or when another claims the
/// lead. When the link returns, so do the clients.
async fn router_cut_from_etcd_while_the_leader_moves(network: &Network, stage: &Stage) {
    let old = stage.calm().await.unwrap();
    let began = clock::now();
    network.cut("rt", "etcd");
    let stale = until(STALE_MAX, async || {
        stage.router.status().await.is_ok_and(|status| status["clusters"][0]["dcs"]["state"] != "fresh")
    });
    assert!(stale.await, "the router does not notice that etcd is silent{}", stage.tails());
    let moment = clock::now();
    stage.pgvane_writes_at(&old, STALE_MAX).await.unwrap();
    eprintln!("{} ms after going stale clients still write at the leader", millis_between(moment, clock::now()));
    stage.cluster.kill_patroni(&old.name).unwrap();
    assert!(until(MOVE_MAX, async || stage.keys.moved(began, &old.name).is_some()).await, "{}", stage.tails());
    let key = stage.keys.moved(began, &old.name).unwrap();
    tokio::time::sleep(ZOMBIE_LIVES).await;
    let noted = stage.pgvane.since(began);
    let last = millis_between(key.at, tally::last_at(&noted, &old.pg.to_string()).unwrap());
    let late = zombies::late_rows(&old, &key).await.unwrap();
    let latest = late.iter().map(|(_, after)| *after).fold(f64::NEG_INFINITY, f64::max);
    eprintln!("router cut off: last write at the zombie {last:.0} ms after the key moved, {} late rows", late.len());
    assert!(last <= ZOMBIE_MAX_MS && latest <= ZOMBIE_MAX_MS, "{last} {latest}{}", stage.tails());
    network.heal("rt", "etcd");
    let new = stage.cluster.member(key.holder.as_deref().unwrap()).unwrap().clone();
    stage.pgvane_writes_at(&new, MOVE_MAX).await.unwrap();
    let fared = Fared::of(&stage.pgvane.since(began));
    assert_eq!((fared.refusals(), fared.misrouted()), (0, 0), "{fared:?}{}", stage.tails());
    stage.cluster.restart_patroni(&old.name).unwrap();
}

/// The server's host vanishes without a word. Nothing else tells: its REST API goes on answering.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_hangs_on_a_host_that_vanished() {
    let stage = vanishing::Stage::start().await;
    let open = async || stage.session(5433).await.unwrap();
    let (mut idle, mut asking, mut copying) = (open().await, open().await, open().await);
    copying.query("copy 0").await.unwrap();
    within("CopyInResponse", copying.until_message(b'G')).await.unwrap();
    let mut still_there = stage.session(5434).await.unwrap();
    stage.network.unplug("db");
    asking.query("select 1").await.unwrap();
    let (idle, asking, copying) =
        within("all of them end", async { tokio::join!(idle.end(), asking.end(), copying.copy_until_the_end()) }).await;
    for (what, ended) in [("idle", &idle), ("a query was sent", &asking), ("COPY streamed", &copying)] {
        say(&format!("the server's host vanished, {what}"), ended);
    }
    stage.network.plug("db");
    // The one with the usual limits has not noticed anything.
    still_there.query("select 1").await.unwrap();
    within("an answer", still_there.until_ready()).await.unwrap();
    assert!(until(LIMIT, async || stage.session(5433).await.is_ok()).await, "it is served again");
}

/// The client's host vanishes in the middle of a large result: its server must not be kept for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_vanished_client_costs_its_server_nothing_for_long() {
    let stage = vanishing::Stage::start().await;
    assert!(until(LIMIT, async || stage.server.open.load(SeqCst) == 0).await);
    let mut reading = stage.session(5433).await.unwrap();
    let idle = stage.session(5433).await.unwrap();
    reading.query("send 2000").await.unwrap();
    within("rows", reading.until_message(b'D')).await.unwrap();
    assert_eq!(stage.server.open.load(SeqCst), 2);
    stage.network.unplug("cl");
    let began = clock::now();
    assert!(until(LIMIT, async || stage.server.open.load(SeqCst) == 0).await, "the servers of both are let go");
    eprintln!("the client's host vanished: its two servers are free after {:.1} s", began.elapsed().as_secs_f64());
    drop((reading, idle));
}

/// Two hundred megabytes for a client that does not read: they wait at the server.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_does_not_read_costs_a_bounded_buffer() {
    const MEGABYTES: usize = 200;
    let stage = vanishing::Stage::start().await;
    let mut other = stage.session(5434).await.unwrap();
    let mut slow = stage.session(5434).await.unwrap();
    let before = stage.memory();
    slow.query(&format!("send {MEGABYTES}")).await.unwrap();
    let (began, mut longest) = (clock::now(), Duration::ZERO);
    while began.elapsed() < Duration::from_secs(5) {
        let asked = clock::now();
        other.query("select 1").await.unwrap();
        within("an answer", other.until_ready()).await.unwrap();
        longest = longest.max(asked.elapsed());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let grown = stage.memory().saturating_sub(before);
    eprintln!("a slow reader of {MEGABYTES} MB: {grown} kB more, another session's longest answer {longest:?}");
    assert!(grown < 4096, "{grown} kB");
    let read = within("all of it", slow.until_ready()).await.unwrap();
    assert!(read > MEGABYTES * 1024 * 1024, "{read}");
}

/// Neither a client that looks at the first page nor a server that waits for a lock has vanished, however
/// much longer than `user_timeout` that takes. One that vanishes meanwhile has.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_does_not_read_for_a_while_is_not_dead() {
    const PAUSE: Duration = Duration::from_secs(10);
    let stage = vanishing::Stage::start().await;
    let mut slow = stage.session(5433).await.unwrap();
    let mut copying = stage.session(5433).await.unwrap();
    let mut lost = stage.session(5433).await.unwrap();
    slow.query("send 50").await.unwrap();
    copying.query(&format!("copy {}", PAUSE.as_secs())).await.unwrap();
    within("CopyInResponse", copying.until_message(b'G')).await.unwrap();
    let ((), copied) = tokio::join!(tokio::time::sleep(PAUSE), within("the COPY", copying.copy(50)));
    copied.unwrap();
    let read = within("all of it", slow.until_ready()).await.unwrap_or_else(|error| panic!("{error}{}", stage.log()));
    assert!(read > 50 * 1024 * 1024, "{read}");
    drop((slow, copying));
    assert!(until(LIMIT, async || stage.server.open.load(SeqCst) == 1).await);
    lost.query("send 50").await.unwrap();
    // Its own buffers and the router's are full by then.
    tokio::time::sleep(Duration::from_secs(4)).await;
    stage.network.unplug("cl");
    let began = clock::now();
    assert!(until(LIMIT, async || stage.server.open.load(SeqCst) == 0).await, "its server is let go");
    eprintln!("a client that did not read vanished: let go after {:.1} s", began.elapsed().as_secs_f64());
}
