//! A real cluster in one temporary directory: etcd, and PostgreSQL under Patroni, on loopback
//! unless told otherwise. When the [`Cluster`] is dropped, or its process dies in any way, all of
//! it is gone.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use pgvane::cli::demo::cluster::{Cluster, ClusterOptions};
//! let cluster = Cluster::start(ClusterOptions::new(std::env::current_exe()?)).await?;
//! let leader = cluster.leader().await.unwrap();
//! cluster.kill_primary(&leader)?;
//! # Ok(()) }
//! ```

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures_util::future::join_all;
use hyper::Method;
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::task::JoinHandle;

use super::etcd;
use super::ground::{Ground, Launch};
pub use super::member::{CLIENT_USER, Condition, DATABASE, Member};
use super::member::{SUPERUSER, client_settings, patroni_config};
pub use super::options::{ClusterOptions, Place, Ports};
use super::processes::{self, ProcessId};
use super::programs::Programs;
use super::rest;
use crate::model::HostPort;
use crate::runtime::clock;

/// Between two looks at a condition that is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// For a killed or frozen process to show it.
const SIGNAL_MAX: Duration = Duration::from_secs(5);
/// Patroni itself gives up a switchover after 2 * max(10, loop_wait) seconds.
const SWITCHOVER_MAX: Duration = Duration::from_secs(90);
/// For the demo's own statements right after start.
const PREPARE_MAX: Duration = Duration::from_secs(20);

/// What clients write to and read from, and a function that writes where that is accepted and
/// returns the timeline it wrote on; 0, without an error in the server's log, where it is not.
const PREPARE: &str = "
    CREATE ROLE demo LOGIN;
    CREATE TABLE demo (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        client integer NOT NULL,
        at timestamptz NOT NULL DEFAULT clock_timestamp()
    );
    INSERT INTO demo (client) VALUES (0);
    CREATE TABLE demo_clock (at timestamptz NOT NULL);
    INSERT INTO demo_clock VALUES (clock_timestamp());
    CREATE FUNCTION demo_write() RETURNS integer LANGUAGE plpgsql AS $$
    BEGIN
        IF pg_is_in_recovery() THEN RETURN 0; END IF;
        UPDATE demo_clock SET at = clock_timestamp();
        RETURN ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::integer;
    END $$;
    GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON demo, demo_clock TO demo;";

#[derive(Debug)]
pub struct Cluster {
    options: ClusterOptions,
    programs: Programs,
    members: Vec<Member>,
    etcds: Vec<etcd::Node>,
    /// Dropped last: it ends the processes and removes the directory.
    ground: Ground,
}

impl Cluster {
    /// Starts everything and returns when all members are up and streaming and the demo's table
    /// exists. An error carries the ends of the logs, and nothing is left behind.
    pub async fn start(options: ClusterOptions) -> Result<Cluster> {
        let cluster = Cluster::prepare(options)?;
        cluster.start_etcd()?;
        cluster.wait_etcd(cluster.options.start_max).await?;
        for member in &cluster.members {
            cluster.start_patroni(member)?;
        }
        cluster.wait_ready(cluster.options.start_max).await?;
        cluster.prepare_database().await?;
        Ok(cluster)
    }

    /// Decides addresses and writes the configuration.
    fn prepare(options: ClusterOptions) -> Result<Cluster> {
        options.check()?;
        let programs = Programs::find()?;
        let ground = Ground::prepare(programs.account, &options.pgvane)?;
        let mut ports = Ports::default();
        let place = |places: &[Place], index: usize| places.get(index).cloned().unwrap_or_default();
        let mut members = Vec::new();
        for index in 0..options.members {
            let place = place(&options.places, index);
            let name = format!("n{}", index + 1);
            let address = place.address.clone().unwrap_or_else(|| "127.0.0.1".to_owned());
            let pg = ports.claim(&address, place.port)?;
            let api = ports.claim(&address, place.second_port)?;
            members.push(Member { data: ground.path().join(&name), name, pg, api, place });
        }
        let mut etcds = Vec::new();
        for index in 0..options.etcds {
            let place = place(&options.etcd_places, index);
            let address = place.address.clone().unwrap_or_else(|| "127.0.0.1".to_owned());
            let client = ports.claim(&address, place.port)?;
            let peer = ports.claim(&address, place.second_port)?;
            etcds.push(etcd::Node { name: format!("etcd{}", index + 1), client, peer, wrap: place.wrap });
        }
        let clients: Vec<HostPort> = etcds.iter().map(|node| node.client.clone()).collect();
        for member in &members {
            let config = patroni_config(member, &members, &clients, &options, &programs, ground.path());
            ground.write(&format!("{}.yml", member.patroni()), &format!("{config:#}\n"))?;
        }
        Ok(Cluster { options, programs, members, etcds, ground })
    }

    /// Creates what clients use, and waits until it has reached every member.
    async fn prepare_database(&self) -> Result<()> {
        let deadline = clock::now() + PREPARE_MAX;
        let leader = self.leader().await.context("the leader was lost right after start")?;
        let created = run(&client_settings(&self.member(&leader)?.pg, SUPERUSER), PREPARE).await;
        created.context("creating the demo's table")?;
        for member in &self.members {
            while let Err(error) = run(&member.client_settings(), "SELECT demo_write()").await {
                if clock::now() >= deadline {
                    return Err(error.context(format!("the demo's table did not reach {}", member.name)));
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
        Ok(())
    }

    pub fn options(&self) -> &ClusterOptions {
        &self.options
    }

    pub fn members(&self) -> &[Member] {
        &self.members
    }

    pub fn member(&self, name: &str) -> Result<&Member> {
        self.members.iter().find(|member| member.name == name).with_context(|| format!("there is no member {name}"))
    }

    /// Where clients of the DCS connect.
    pub fn etcd_addresses(&self) -> Vec<HostPort> {
        self.etcds.iter().map(|node| node.client.clone()).collect()
    }

    /// The directory of everything; files put there go away with it.
    pub fn dir(&self) -> &Path {
        self.ground.path()
    }

    /// To start further programs that must end with the cluster.
    pub fn ground(&self) -> &Ground {
        &self.ground
    }

    /// The command that runs a program where `member` runs; empty when that is here.
    pub fn wrap(&self, member: &str) -> Vec<String> {
        self.member(member).map(|member| member.place.wrap.clone()).unwrap_or_default()
    }

    // -- looking ------------------------------------------------------------------------------

    /// What every member says now, in order; None where the REST API does not answer.
    pub async fn conditions(&self) -> Vec<(&Member, Option<Condition>)> {
        let asked = self.members.iter().map(async |member| (member, member.condition().await));
        join_all(asked).await
    }

    /// The member that claims the lead and accepts writes; of two, the one on the higher timeline.
    pub async fn leader(&self) -> Option<String> {
        leader_of(&self.conditions().await).map(|member| member.name.clone())
    }

    /// Waits for a leader other than `not`.
    pub async fn wait_leader(&self, not: Option<&str>, limit: Duration) -> Result<String> {
        let deadline = clock::now() + limit;
        loop {
            if let Some(leader) = self.leader().await
                && Some(leader.as_str()) != not
            {
                return Ok(leader);
            }
            if clock::now() >= deadline {
                let other = not.map(|name| format!(" other than {name}")).unwrap_or_default();
                bail!("no leader{other} within {limit:?}{}", self.tails());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Waits for one leader and every other member running and streaming on its timeline.
    pub async fn wait_ready(&self, limit: Duration) -> Result<()> {
        let deadline = clock::now() + limit;
        loop {
            let conditions = self.conditions().await;
            let Some(obstacle) = obstacle(&conditions) else { return Ok(()) };
            if let Some(ended) = self.members.iter().find(|member| !self.ground.is_running(&member.patroni())) {
                bail!("the Patroni of {} is not running{}", ended.name, self.ground.tail(&ended.patroni()));
            }
            if clock::now() >= deadline {
                bail!("the cluster is not ready within {limit:?}: {obstacle}{}", self.tails());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// The ends of all logs.
    pub fn tails(&self) -> String {
        let etcds = self.etcds.iter().map(|node| self.ground.tail(&node.name));
        let patronis = self.members.iter().map(|member| self.ground.tail(&member.patroni()));
        etcds.chain(patronis).collect()
    }

    // -- Patroni and PostgreSQL ---------------------------------------------------------------

    fn start_patroni(&self, member: &Member) -> Result<()> {
        let config = self.ground.path().join(format!("{}.yml", member.patroni()));
        self.ground.start(&Launch {
            name: member.patroni(),
            wrap: member.place.wrap.clone(),
            program: self.programs.patroni.clone(),
            arguments: vec![config.into_os_string()],
        })?;
        Ok(())
    }

    /// Asks the leader for a switchover, in a task of its own because Patroni answers only when it
    /// is over. The task ends with Patroni's words.
    pub fn switchover(&self, from: &str, to: Option<&str>) -> Result<JoinHandle<Result<String>>> {
        let at = self.member(from)?.api.clone();
        let mut order = json!({ "leader": from });
        if let Some(to) = to {
            order["candidate"] = self.member(to)?.name.as_str().into();
        }
        Ok(tokio::spawn(async move {
            let answer = rest::request(&at, Method::POST, "/switchover", Some(order), SWITCHOVER_MAX).await?;
            if answer.status != 200 {
                bail!("Patroni refused the switchover ({}): {}", answer.status, answer.body.trim());
            }
            Ok(answer.body)
        }))
    }

    /// The postmaster of `name`, from its postmaster.pid, if it runs.
    pub fn postmaster(&self, name: &str) -> Option<ProcessId> {
        self.member(name).ok().and_then(|member| processes::postmaster(&member.data))
    }

    pub fn patroni(&self, name: &str) -> Option<ProcessId> {
        self.member(name).ok().and_then(|member| self.ground.process(&member.patroni()))
    }

    /// Like the death of the machine: Patroni and every PostgreSQL process at once.
    pub fn kill_primary(&self, name: &str) -> Result<()> {
        let postgres = self.postmaster(name).with_context(|| format!("PostgreSQL of {name} is not running"))?;
        if let Some(patroni) = self.patroni(name) {
            patroni.signal(Signal::SIGKILL); // first, or it would start PostgreSQL again
        }
        let all = processes::with_descendants(&[postgres]);
        processes::signal_all(&all, Signal::SIGKILL);
        self.ground.kill(&self.member(name)?.patroni())?;
        if !processes::wait_until(SIGNAL_MAX, || !all.iter().any(|id| id.is_alive())) {
            bail!("PostgreSQL of {name} survived SIGKILL for {SIGNAL_MAX:?}");
        }
        Ok(())
    }

    /// Patroni alone: its PostgreSQL goes on, and after the ttl there are two writable ones.
    pub fn kill_patroni(&self, name: &str) -> Result<()> {
        self.patroni(name).with_context(|| format!("the Patroni of {name} is not running"))?;
        self.ground.kill(&self.member(name)?.patroni())
    }

    pub fn freeze_patroni(&self, name: &str) -> Result<()> {
        self.ground.signal(&self.member(name)?.patroni(), Signal::SIGSTOP)
    }

    pub fn thaw_patroni(&self, name: &str) -> Result<()> {
        self.ground.signal(&self.member(name)?.patroni(), Signal::SIGCONT)
    }

    /// The postmaster alone, with SIGKILL; its children see it and end.
    pub fn kill_postgres(&self, name: &str) -> Result<()> {
        let postmaster = self.postmaster(name).with_context(|| format!("PostgreSQL of {name} is not running"))?;
        postmaster.signal(Signal::SIGKILL);
        Ok(())
    }

    /// Starts the Patroni of `name`, ending the old one first if there still is one.
    pub fn restart_patroni(&self, name: &str) -> Result<()> {
        let member = self.member(name)?;
        self.ground.kill(&member.patroni())?;
        self.start_patroni(member)
    }

    // -- etcd ---------------------------------------------------------------------------------

    pub fn etcd_nodes(&self) -> &[etcd::Node] {
        &self.etcds
    }

    /// Starts every etcd that is not running, on the data it had.
    pub fn start_etcd(&self) -> Result<()> {
        for node in &self.etcds {
            if !self.ground.is_running(&node.name) {
                self.ground.start(&node.launch(&self.etcds, &self.programs, self.ground.path()))?;
            }
        }
        Ok(())
    }

    /// Ends every etcd with SIGKILL; its data stays.
    pub fn stop_etcd(&self) -> Result<()> {
        self.etcds.iter().try_for_each(|node| self.ground.kill(&node.name))
    }

    pub fn stop_etcd_node(&self, node: &etcd::Node) -> Result<()> {
        self.ground.kill(&node.name)
    }

    /// Every etcd still accepts connections (the kernel does) but answers nothing.
    pub fn freeze_etcd(&self) -> Result<()> {
        self.etcds.iter().try_for_each(|node| self.ground.signal(&node.name, Signal::SIGSTOP))
    }

    pub fn thaw_etcd(&self) -> Result<()> {
        self.etcds.iter().try_for_each(|node| self.ground.signal(&node.name, Signal::SIGCONT))
    }

    /// Waits until every etcd says that it is healthy, which includes a quorum.
    pub async fn wait_etcd(&self, limit: Duration) -> Result<()> {
        let deadline = clock::now() + limit;
        for node in &self.etcds {
            while !node.is_healthy().await {
                if !self.ground.is_running(&node.name) || clock::now() >= deadline {
                    bail!("{} did not become healthy within {limit:?}{}", node.name, self.ground.tail(&node.name));
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
        Ok(())
    }
}

async fn run(at: &tokio_postgres::Config, statements: &str) -> Result<()> {
    let work = async {
        let (client, connection) = at.connect(tokio_postgres::NoTls).await?;
        let connection = tokio::spawn(connection);
        let outcome = client.batch_execute(statements).await;
        connection.abort();
        outcome
    };
    let outcome = tokio::time::timeout(PREPARE_MAX, work).await.context("no answer in time")?;
    outcome.map_err(Into::into)
}

fn leader_of<'a>(conditions: &[(&'a Member, Option<Condition>)]) -> Option<&'a Member> {
    let claims = conditions.iter().filter_map(|(member, condition)| Some((*member, condition.as_ref()?)));
    let leading = claims.filter(|(_, condition)| condition.claims_lead && condition.writable);
    leading.max_by_key(|(_, condition)| condition.timeline).map(|(member, _)| member)
}

/// What still stands between these conditions and a healthy cluster; None when nothing does.
fn obstacle(conditions: &[(&Member, Option<Condition>)]) -> Option<String> {
    let Some(leader) = leader_of(conditions) else { return Some("there is no leader".to_owned()) };
    let timeline = conditions.iter().find(|(member, _)| member.name == leader.name)?.1.as_ref()?.timeline;
    conditions.iter().filter(|(member, _)| member.name != leader.name).find_map(|(member, condition)| {
        let name = &member.name;
        match condition {
            None => Some(format!("the REST API of {name} does not answer")),
            Some(state) if state.claims_lead => Some(format!("{name} claims the lead beside {}", leader.name)),
            Some(state) if state.writable => Some(format!("{name} is out of recovery beside {}", leader.name)),
            Some(state) if !state.running => Some(format!("{name} is not running")),
            Some(state) if !state.streaming => Some(format!("{name} is not streaming")),
            Some(state) if state.timeline != timeline => Some(format!("{name} is on an old timeline")),
            Some(_) => None,
        }
    })
}
