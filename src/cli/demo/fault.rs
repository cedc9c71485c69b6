//! What can be done to the cluster, when it counts as over, and how it is repaired.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use super::report::seconds;
use super::stage::Stage;
use crate::runtime::clock;

const LOOK_EVERY: Duration = Duration::from_millis(50);
/// For another leader, beyond the ttl that the death of one costs.
const LEADER_BEYOND_TTL_MAX: Duration = Duration::from_secs(45);
/// For the clients to write again once there is a leader.
const WRITES_MAX: Duration = Duration::from_secs(30);
/// For all members to be up and streaming after a repair.
const HEALTHY_MAX: Duration = Duration::from_secs(120);
const ETCD_MAX: Duration = Duration::from_secs(20);
/// Quiet time before each event of a script, so that its figures have a before.
const CALM: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Fault {
    /// Ask Patroni to move the lead.
    Switchover,
    /// Kill the primary's Patroni and PostgreSQL at once, as if its machine died.
    KillPrimary,
    /// Kill the primary's Patroni and leave its PostgreSQL running.
    KillPatroni,
    /// Freeze the primary's Patroni and leave its PostgreSQL running.
    FreezePatroni,
    /// Stop etcd for a while.
    CutEtcd,
}

/// What waits for a repair.
#[derive(Debug, Default)]
pub struct Broken {
    killed: BTreeSet<String>,
    frozen: BTreeSet<String>,
    etcd_stopped: bool,
}

impl Broken {
    fn mark(&mut self, fault: Fault, member: &str) {
        match fault {
            Fault::Switchover => {}
            Fault::KillPrimary | Fault::KillPatroni => {
                self.killed.insert(member.to_owned());
            }
            Fault::FreezePatroni => {
                self.frozen.insert(member.to_owned());
            }
            Fault::CutEtcd => self.etcd_stopped = true,
        }
    }

    pub fn is_anything(&self) -> bool {
        !self.killed.is_empty() || !self.frozen.is_empty() || self.etcd_stopped
    }
}

impl Stage {
    /// Does it and returns; the leader it was done to comes back.
    pub async fn cause(&self, fault: Fault) -> Result<String> {
        let leader = self.cluster.leader().await.context("there is no leader now")?;
        let what = match fault {
            Fault::Switchover => format!("switchover away from {leader}"),
            Fault::KillPrimary => format!("{leader} killed, Patroni and PostgreSQL"),
            Fault::KillPatroni => format!("Patroni of {leader} killed, its PostgreSQL goes on"),
            Fault::FreezePatroni => format!("Patroni of {leader} frozen, its PostgreSQL goes on"),
            Fault::CutEtcd => "etcd stopped".to_owned(),
        };
        self.note(what, true);
        match fault {
            Fault::Switchover => *self.switchover.lock() = Some(self.cluster.switchover(&leader, None)?),
            Fault::KillPrimary => self.cluster.kill_primary(&leader)?,
            Fault::KillPatroni => self.cluster.kill_patroni(&leader)?,
            Fault::FreezePatroni => self.cluster.freeze_patroni(&leader)?,
            Fault::CutEtcd => self.cluster.stop_etcd()?,
        }
        self.broken.lock().mark(fault, &leader);
        Ok(leader)
    }

    /// Undoes whatever is broken; says whether there was anything.
    pub async fn repair(&self) -> Result<bool> {
        let broken = std::mem::take(&mut *self.broken.lock());
        if !broken.is_anything() {
            return Ok(false);
        }
        if broken.etcd_stopped {
            self.cluster.start_etcd()?;
            self.cluster.wait_etcd(ETCD_MAX).await?;
            self.note("etcd started again".to_owned(), false);
        }
        for name in &broken.frozen {
            self.cluster.thaw_patroni(name)?;
            self.note(format!("Patroni of {name} thawed"), false);
        }
        for name in &broken.killed {
            self.cluster.restart_patroni(name)?;
            self.note(format!("{name} started again"), false);
        }
        Ok(true)
    }

    /// Thaws frozen Patronis, or freezes the primary's.
    pub async fn freeze_or_thaw(&self) -> Result<()> {
        let frozen = std::mem::take(&mut self.broken.lock().frozen);
        if frozen.is_empty() {
            return self.cause(Fault::FreezePatroni).await.map(drop);
        }
        for name in &frozen {
            self.cluster.thaw_patroni(name)?;
            self.note(format!("Patroni of {name} thawed"), false);
        }
        Ok(())
    }

    /// Starts etcd when it was stopped, stops it otherwise.
    pub async fn stop_or_start_etcd(&self) -> Result<()> {
        if !self.broken.lock().etcd_stopped {
            self.cluster.stop_etcd()?;
            self.broken.lock().etcd_stopped = true;
            self.note("etcd stopped".to_owned(), true);
            return Ok(());
        }
        self.cluster.start_etcd()?;
        self.broken.lock().etcd_stopped = false;
        self.note("etcd started again".to_owned(), false);
        Ok(())
    }

    /// One event from calm to calm: cause it, wait until clients write again, repair, wait for health.
    pub async fn play(&self, fault: Fault, etcd_for: Duration) -> Result<()> {
        tokio::time::sleep(CALM).await;
        let leader = self.cause(fault).await?;
        if fault == Fault::CutEtcd {
            tokio::time::sleep(etcd_for).await;
            self.repair().await?;
            self.cluster.wait_leader(None, self.cluster.options().ttl + LEADER_BEYOND_TTL_MAX).await?;
        } else {
            let limit = self.cluster.options().ttl + LEADER_BEYOND_TTL_MAX;
            self.cluster.wait_leader(Some(&leader), limit).await?;
        }
        self.wait_writes().await?;
        self.repair().await?;
        self.cluster.wait_ready(HEALTHY_MAX).await
    }

    async fn wait_writes(&self) -> Result<()> {
        let from = clock::now();
        while !self.writes_since(from) {
            if from.elapsed() > WRITES_MAX {
                bail!("there is a leader, but clients could not write within {}", seconds(WRITES_MAX));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }
}
