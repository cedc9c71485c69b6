//! The cluster, the endpoints in front of it, their clients, and the two clocks: a poller of
//! the members and a watch on the leader key.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use pgvane::cli::demo::cluster::{Cluster, ClusterOptions, Member};
use pgvane::cli::demo::poller::Poller;
use pgvane::model::HostPort;
use pgvane::runtime::clock;

use super::clients::{Path, Plan};
use super::keys::KeyWatch;
use super::router::{Router, RouterOptions};
use super::{haproxy, until};

const READY_MAX: Duration = Duration::from_secs(120);
/// For writes through both endpoints to go well again.
const CALM_MAX: Duration = Duration::from_secs(60);
/// After that, for HAProxy to have seen every member's new role three times.
const SETTLE: Duration = Duration::from_secs(5);

pub struct Stage {
    // Clients are dropped first, the cluster last.
    pub pgvane: Path,
    /// For comparison.
    pub haproxy: Option<Path>,
    pub poller: Poller,
    pub keys: KeyWatch,
    pub router: Router,
    pub cluster: Cluster,
}

impl Stage {
    pub async fn set(options: ClusterOptions, with_haproxy: bool) -> Result<Stage> {
        let program = options.pgvane.clone();
        let cluster = Cluster::start(options).await?;
        let router = Router::start(&cluster, &RouterOptions::new(program)).await?;
        let balancer = if with_haproxy { Some(haproxy::start(&cluster).await?) } else { None };
        Ok(Stage::populate(cluster, router, balancer, &Plan::default()))
    }

    /// Sends the clients in and starts the clocks.
    pub fn populate(cluster: Cluster, router: Router, balancer: Option<HostPort>, plan: &Plan) -> Stage {
        let pgvane = Path::start("pgvane", router.write.clone(), 1_000_000, plan);
        let haproxy = balancer.map(|at| Path::start("HAProxy", at, 2_000_000, plan));
        let poller = Poller::start(cluster.members());
        let (etcd, of) = (&cluster.etcd_addresses()[0], cluster.options());
        let keys = KeyWatch::start(etcd, &format!("/{}/{}/leader", of.namespace, of.name));
        Stage { pgvane, haproxy, poller, keys, router, cluster }
    }

    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        std::iter::once(&self.pgvane).chain(&self.haproxy)
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
        if self.haproxy.is_some() {
            tokio::time::sleep(SETTLE).await;
        }
        Ok(leader)
    }

    /// Waits until clients of both habits have written at `member` through both endpoints.
    pub async fn writes_at(&self, member: &Member, limit: Duration) -> Result<()> {
        let (moment, server) = (clock::now(), member.pg.to_string());
        let all = until(limit, async || self.paths().all(|path| path.writes_since(moment, Some(&server))));
        if !all.await {
            let late: Vec<&str> =
                self.paths().filter(|it| !it.writes_since(moment, Some(&server))).map(|it| it.name).collect();
            bail!("no writes at {} through {} within {limit:?}{}", member.name, late.join(" and "), self.tails());
        }
        Ok(())
    }

    /// The same through pgvane alone.
    pub async fn pgvane_writes_at(&self, member: &Member, limit: Duration) -> Result<()> {
        let (moment, server) = (clock::now(), member.pg.to_string());
        if !until(limit, async || self.pgvane.writes_since(moment, Some(&server))).await {
            bail!("no writes at {} through pgvane within {limit:?}{}", member.name, self.tails());
        }
        Ok(())
    }

    pub fn tails(&self) -> String {
        format!("{}{}", self.cluster.ground().tail(&self.router.name), self.cluster.tails())
    }
}
