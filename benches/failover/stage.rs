//! The cluster, the two endpoints in front of it, their clients, and the two clocks: a poller of
//! the members and a watch on the leader key.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use pgvane::cli::demo::cluster::{Cluster, ClusterOptions, Member};
use pgvane::cli::demo::poller::Poller;
use pgvane::runtime::clock;

use super::kit::clients::{Path, Plan};
use super::kit::keys::KeyWatch;
use super::kit::router::{Router, RouterOptions};
use super::kit::{haproxy, until};

const READY_MAX: Duration = Duration::from_secs(120);
/// For writes through both endpoints to go well again.
const CALM_MAX: Duration = Duration::from_secs(60);
/// After that, for HAProxy to have seen every member's new role three times.
const SETTLE: Duration = Duration::from_secs(5);

pub struct Stage {
    // Clients are dropped first, the cluster last.
    pub pgvane: Path,
    pub haproxy: Path,
    pub poller: Poller,
    pub keys: KeyWatch,
    pub router: Router,
    pub cluster: Cluster,
}

impl Stage {
    pub async fn set(pgvane: PathBuf, ttl: Duration) -> Result<Stage> {
        eprintln!("starting etcd, three PostgreSQL under Patroni, pgvane and HAProxy");
        let cluster = Cluster::start(ClusterOptions::new(&pgvane).with_ttl(ttl)).await?;
        let router = Router::start(&cluster, &RouterOptions::new(pgvane)).await?;
        let balancer = haproxy::start(&cluster).await?;
        let plan = Plan::default();
        let pgvane = Path::start("pgvane", router.write.clone(), 1_000_000, &plan);
        let haproxy = Path::start("HAProxy", balancer, 2_000_000, &plan);
        let poller = Poller::start(cluster.members());
        let etcd = &cluster.etcd_addresses()[0];
        let of = cluster.options();
        let keys = KeyWatch::start(etcd, &format!("/{}/{}/leader", of.namespace, of.name));
        Ok(Stage { pgvane, haproxy, poller, keys, router, cluster })
    }

    pub fn paths(&self) -> [&Path; 2] {
        [&self.pgvane, &self.haproxy]
    }

    pub fn router_log(&self) -> PathBuf {
        self.cluster.ground().log(&self.router.name)
    }

    /// Waits until all members stream and both endpoints write; the leader is the answer.
    pub async fn calm(&self) -> Result<Member> {
        self.cluster.wait_ready(READY_MAX).await?;
        let leader = self.cluster.leader().await.context("there is no leader")?;
        let leader = self.cluster.member(&leader)?.clone();
        self.writes_at(&leader, CALM_MAX).await?;
        tokio::time::sleep(SETTLE).await;
        Ok(leader)
    }

    /// Waits until clients of both habits have written at `member` through both endpoints.
    pub async fn writes_at(&self, member: &Member, limit: Duration) -> Result<()> {
        let (moment, server) = (clock::now(), member.pg.to_string());
        let all = until(limit, async || self.paths().iter().all(|path| path.writes_since(moment, Some(&server))));
        if !all.await {
            let late: Vec<&str> =
                self.paths().iter().filter(|it| !it.writes_since(moment, Some(&server))).map(|it| it.name).collect();
            bail!("no writes at {} through {} within {limit:?}{}", member.name, late.join(" and "), self.tails());
        }
        Ok(())
    }

    pub fn tails(&self) -> String {
        format!("{}{}", self.cluster.ground().tail(&self.router.name), self.cluster.tails())
    }
}
