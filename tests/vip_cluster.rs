//! A router with a virtual address beside each PostgreSQL of a real Patroni cluster, each on a host of its
//! own, and clients that know nothing but the address. Needs root, for network namespaces.

mod kit;

mod lab {
    pub mod namespaces;
}

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use kit::until;
use kit::wire::{End, Wire};
use lab::namespaces::Network;
use parking_lot::Mutex;
use pgvane::cli::demo::cluster::{Cluster, ClusterOptions, Place};
use pgvane::cli::demo::rest;
use pgvane::model::HostPort;
use pgvane::runtime::clock;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::timeout;

const HOSTS: [&str; 3] = ["n1", "n2", "n3"];
const WRITE: u16 = 5433;
const ADMIN: u16 = 7000;
const CLIENTS: usize = 8;
/// For a connect to be answered or refused, a hold included.
const ATTEMPT_MAX: Duration = Duration::from_secs(30);
const READY_MAX: Duration = Duration::from_secs(60);
const SWITCHOVER_MAX: Duration = Duration::from_secs(90);
/// A failover waits for the ttl.
const FAILOVER_MAX: Duration = Duration::from_secs(120);
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// Of each kind, before the end of the measurement.
const WRITES_AFTER: usize = 50;
/// What a client on the address may hear when it moves.
const EXPLAINED: [&str; 4] = ["57P01", "57P03", "08006", "08007"];

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_know_only_the_address() {
    let stage = Stage::start().await;
    let clients = Clients::start(&stage.vip);
    let old = stage.holder_is_leader(READY_MAX).await;
    clients.until_written(&stage, WRITES_AFTER).await;
    let began = clock::now();
    let told = stage.cluster.switchover(&old, None).unwrap();
    timeout(SWITCHOVER_MAX, told).await.unwrap().unwrap().unwrap_or_else(|error| panic!("{error:#}{}", stage.tails()));
    let new = stage.holder_is_leader(SWITCHOVER_MAX).await;
    clients.until_written(&stage, WRITES_AFTER).await;
    clients.report("switchover", began, &stage);
    assert_ne!(old, new);

    // Like the death of a machine whose router lives on: the address follows the key.
    let began = clock::now();
    stage.cluster.kill_primary(&new).unwrap();
    let moved = until(FAILOVER_MAX, async || stage.cluster.leader().await.is_some_and(|leader| leader != new)).await;
    assert!(moved, "no failover{}", stage.tails());
    let newest = stage.holder_is_leader(FAILOVER_MAX).await;
    clients.until_written(&stage, WRITES_AFTER).await;
    clients.report("death of the primary", began, &stage);
    assert_ne!(new, newest);
    clients.stop().await;
    stage.assert_all_routed_where_the_address_was();
}

struct Stage {
    network: Network,
    cluster: Cluster,
    vip: String,
}

impl Stage {
    async fn start() -> Stage {
        let network = Network::new(&["etcd", "n1", "n2", "n3"]);
        let place =
            |host: &str| Place { address: Some(network.address(host)), wrap: network.wrap(host), ..Place::default() };
        let program = env!("CARGO_BIN_EXE_pgvane");
        let mut options = ClusterOptions::new(program).with_ttl(Duration::from_secs(20));
        options.places = HOSTS.map(place).to_vec();
        options.etcd_places = vec![place("etcd")];
        let cluster = Cluster::start(options).await.unwrap();
        let vip = network.address("etcd").rsplit_once('.').map(|(net, _)| format!("{net}.200")).unwrap();
        let stage = Stage { network, cluster, vip };
        HOSTS.iter().for_each(|host| stage.launch(host));
        stage
    }

    fn launch(&self, host: &str) {
        let options = self.cluster.options();
        let etcd = &self.cluster.etcd_addresses()[0];
        let config = format!(
            "admin: {{ listen: \"{}:{ADMIN}\" }}\n\
             defaults: {{ session_log: all }}\n\
             clusters:\n  - name: {}\n    namespace: {}\n    dcs: {{ etcd: {{ endpoints: [\"http://{etcd}\"] }} }}\n    \
             services:\n      primary: {{ listen: \"*:{WRITE}\", role: primary }}\n\
             vips:\n  - {{ address: {}, interface: eth0 }}\n",
            self.network.address(host),
            options.name,
            options.namespace,
            self.vip,
        );
        let ground = self.cluster.ground();
        let file = ground.write(&format!("{}.yml", log(host)), &config).unwrap();
        let wrap = self.network.wrap(host);
        let mut command = Command::new(&wrap[0]);
        command.args(&wrap[1..]).arg(env!("CARGO_BIN_EXE_pgvane"));
        command.args([Path::new("run"), Path::new("-c"), &file]);
        ground.start_own(&log(host), command).unwrap();
    }

    async fn vip_of(&self, host: &str) -> Option<Value> {
        let admin = HostPort::new(self.network.address(host), ADMIN);
        let status = rest::ask(&admin, "/api/v1/status", ANSWER_MAX).await.ok()?.json();
        status["vips"].get(0).cloned()
    }

    /// Waits until exactly one host has the address by its own word, and its PostgreSQL leads.
    async fn holder_is_leader(&self, limit: Duration) -> String {
        let mut found = None;
        let settled = until(limit, async || {
            let Some(leader) = self.cluster.leader().await else { return false };
            let mut holders = Vec::new();
            for host in HOSTS {
                let state = self.vip_of(host).await.map(|vip| vip["state"].clone());
                if state == Some("held".into()) {
                    holders.push(host);
                }
            }
            let is_so = holders == [leader.as_str()];
            found = Some(leader);
            is_so
        });
        assert!(settled.await, "the address is not where the leader is: {found:?}{}", self.tails());
        found.unwrap()
    }

    fn tails(&self) -> String {
        let ground = self.cluster.ground();
        HOSTS.iter().map(|host| ground.tail(&log(host))).collect::<String>() + &self.cluster.tails()
    }

    /// Every client came in by the address, so a line of a router is of whoever found the address there; it
    /// must have led to the PostgreSQL beside it, or nowhere.
    fn assert_all_routed_where_the_address_was(&self) {
        for host in HOSTS {
            let path = self.cluster.ground().log(&log(host));
            let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let service = format!("{}-primary/", self.cluster.options().name);
            let servers = text.lines().filter_map(|line| {
                let (_, rest) = line.split_once(&service)?;
                rest.split_whitespace().next().map(str::to_owned)
            });
            let mut counted: BTreeMap<String, usize> = BTreeMap::new();
            servers.for_each(|server| *counted.entry(server).or_default() += 1);
            eprintln!("sessions that the router of {host} led to: {counted:?}");
            let elsewhere = counted.keys().find(|server| *server != host && *server != "<NOSRV>");
            assert_eq!(elsewhere, None, "the address was at {host}, and writes went elsewhere: {counted:?}");
        }
    }
}

fn log(host: &str) -> String {
    format!("router-{host}")
}

/// One connect by the address.
#[derive(Debug, Clone)]
struct Attempt {
    began: Instant,
    ended: Instant,
    /// The address of the PostgreSQL that was written to, or how it ended.
    outcome: Result<String, End>,
}

#[derive(Clone)]
struct Noted(Arc<Mutex<Vec<Attempt>>>);

struct Clients {
    noted: Noted,
    stop: Arc<AtomicBool>,
    tasks: JoinSet<()>,
}

impl Clients {
    fn start(vip: &str) -> Clients {
        let (noted, stop) = (Noted(Arc::default()), Arc::new(AtomicBool::new(false)));
        let at = HostPort::new(vip, WRITE);
        let mut tasks = JoinSet::new();
        for _ in 0..CLIENTS {
            let (noted, stop, at) = (noted.clone(), stop.clone(), at.clone());
            tasks.spawn(async move {
                while !stop.load(SeqCst) {
                    let began = clock::now();
                    let outcome = timeout(ATTEMPT_MAX, attempt(&at)).await.unwrap_or(Err(End::Late(ATTEMPT_MAX)));
                    let attempt = Attempt { began, ended: clock::now(), outcome };
                    let failed = attempt.outcome.is_err();
                    noted.0.lock().push(attempt);
                    // As a pool does between two attempts.
                    tokio::time::sleep(Duration::from_millis(if failed { 20 } else { 5 })).await;
                }
            });
        }
        Clients { noted, stop, tasks }
    }

    /// Waits for so many further writes.
    async fn until_written(&self, stage: &Stage, count: usize) {
        let from = clock::now();
        let enough = until(READY_MAX, async || {
            let noted = self.noted.0.lock();
            noted.iter().filter(|it| it.began >= from && it.outcome.is_ok()).count() >= count
        });
        let last: Vec<Attempt> = self.noted.0.lock().iter().rev().take(5).cloned().collect();
        assert!(enough.await, "clients do not write by the address: {last:?}{}", stage.tails());
    }

    fn report(&self, what: &str, began: Instant, stage: &Stage) {
        let noted = self.noted.0.lock();
        let since: Vec<&Attempt> = noted.iter().filter(|it| it.ended >= began).collect();
        let mut writes: Vec<Instant> = since.iter().filter(|it| it.outcome.is_ok()).map(|it| it.ended).collect();
        writes.sort();
        let gap = writes.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default();
        let mut ends: BTreeMap<String, usize> = BTreeMap::new();
        let errors = since.iter().filter_map(|it| it.outcome.as_ref().err());
        errors.clone().for_each(|end| *ends.entry(word(end)).or_default() += 1);
        eprintln!("{what}: {} writes, longest time without one {gap:?}, errors {ends:?}", writes.len());
        // A client whose host goes away is told, or finds nobody at the address for a moment.
        let mut unexplained = errors.filter(|end| match end {
            End::Told(words) => !EXPLAINED.contains(&words.code.as_str()),
            End::NoConnection(_) | End::Silent(_) | End::Warned(_) => false,
            End::Within { .. } | End::Garbled(_) | End::Late(_) => true,
        });
        assert_eq!(unexplained.next(), None, "{what}: {ends:?}{}", stage.tails());
    }

    async fn stop(mut self) {
        self.stop.store(true, SeqCst);
        while self.tasks.join_next().await.is_some() {}
    }
}

fn word(end: &End) -> String {
    match end {
        End::Told(words) => words.code.clone(),
        other => other.to_string(),
    }
}

async fn attempt(at: &HostPort) -> Result<String, End> {
    let mut wire = Wire::connect(at, None, &mut false).await?;
    let reply = wire.query("INSERT INTO demo (client) VALUES (0) RETURNING host(inet_server_addr())").await?;
    let outcome = match reply.error {
        None => Ok(reply.values.join(",")),
        Some(words) => Err(End::Told(words)),
    };
    wire.goodbye().await;
    outcome
}
