//! A leader move every so often, in turns: a switchover by Patroni's REST API, a kill -9 of the leader's
//! postmaster, another switchover, a kill -9 of all its PostgreSQL processes. The next one waits until
//! somebody can take over without losing a row.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use pgvane::cli::demo::cluster::Cluster;
use pgvane::cli::demo::{processes, rest};
use pgvane::runtime::clock;
use tokio_util::sync::CancellationToken;

use super::book::Book;
use super::kit::keys::KeyWatch;
use super::kit::{LOOK_EVERY, until};

const ANSWER_MAX: Duration = Duration::from_secs(2);
/// For the cluster to have a leader and a synchronous standby, and for the key to move.
const STEP_MAX: Duration = Duration::from_secs(120);
/// A refused switchover is asked for again.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(250);
/// A move that cannot begin for so long after its time is left out.
const LATE_FROM: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Planned,
    /// The postmaster alone: its backends see it and say so before they end.
    Orphaned,
    /// The postmaster and all its backends: nobody says anything.
    Killed,
}

/// In this order, again and again.
const TURNS: [Kind; 4] = [Kind::Planned, Kind::Orphaned, Kind::Planned, Kind::Killed];

#[derive(Debug, Clone)]
pub struct Move {
    pub kind: Kind,
    pub from: String,
    /// None: the killed leader was started again where it was.
    pub to: Option<String>,
    pub began: Instant,
    /// From the beginning until the key named another.
    pub key_after: Duration,
    /// From the beginning until there was somebody to take over again.
    pub ready_after: Duration,
    /// Switchovers that Patroni refused before it took this one.
    pub refused: u32,
    /// Moves that were due after it, before anybody could take over again.
    pub missed: u32,
}

/// Who leads, and who has every row that was confirmed.
struct Order {
    leader: String,
    has_standby: bool,
}

pub struct Mover<'a> {
    pub cluster: &'a Cluster,
    pub keys: &'a KeyWatch,
    pub book: &'a Book,
    pub period: Duration,
}

impl Mover<'_> {
    /// Until it is told to stop, or a move fails.
    pub async fn run(&self, stop: &CancellationToken, moves: &mut Vec<Move>) -> Result<()> {
        let mut due = clock::now() + self.period;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(due.saturating_duration_since(clock::now())) => {}
            }
            let kind = TURNS[moves.len() % TURNS.len()];
            let mut done = self.carry_out(kind).await?;
            due += self.period;
            while due + LATE_FROM < clock::now() {
                due += self.period;
                done.missed += 1;
            }
            moves.push(done);
        }
    }

    async fn carry_out(&self, kind: Kind) -> Result<Move> {
        let from = self.ready().await?;
        let began = clock::now();
        let mut refused = 0;
        match kind {
            Kind::Planned => {
                self.book.moves(format!("switchover away from {from}"));
                refused = self.switch_over(&from, began).await?;
            }
            Kind::Orphaned => {
                self.book.moves(format!("kill -9 of the postmaster of {from}"));
                self.cluster.kill_postgres(&from)?;
            }
            Kind::Killed => {
                self.book.moves(format!("kill -9 of all PostgreSQL processes of {from}"));
                self.kill_silently(&from)?;
            }
        }
        let back = async || self.order().await.is_some_and(|order| order.leader == from && order.has_standby);
        let mut to = None;
        let moved = until(STEP_MAX, async || {
            to = self.keys.moved(began, &from).and_then(|change| Some((change.at, change.holder?)));
            to.is_some() || (kind != Kind::Planned && began.elapsed() > self.period && back().await)
        });
        if !moved.await {
            bail!("the leader key still names {from} after {STEP_MAX:?}{}", self.cluster.tails());
        }
        let key_after = to.as_ref().map_or_else(|| began.elapsed(), |(at, _)| at.saturating_duration_since(began));
        let to = to.map(|(_, name)| name);
        self.book.moves(format!("the key names {}", to.as_deref().unwrap_or("the same as before")));
        self.ready().await?;
        Ok(Move { kind, from, to, began, key_after, ready_after: began.elapsed(), refused, missed: 0 })
    }

    /// A postmaster that stands still cannot tell its backends anything, nor they that it is gone.
    fn kill_silently(&self, leader: &str) -> Result<()> {
        let postmaster = self.cluster.postmaster(leader).context("the leader's PostgreSQL is not running")?;
        postmaster.signal(Signal::SIGSTOP);
        let mut all = processes::with_descendants(&[postmaster]);
        all.retain(|process| *process != postmaster);
        processes::signal_all(&all, Signal::SIGKILL);
        postmaster.signal(Signal::SIGKILL);
        Ok(())
    }

    /// Patroni answers when it is over; a refusal comes at once.
    async fn switch_over(&self, from: &str, began: Instant) -> Result<u32> {
        let mut refused = 0;
        loop {
            let asked = self.cluster.switchover(from, None)?;
            while !asked.is_finished() {
                if self.keys.moved(began, from).is_some() {
                    return Ok(refused);
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
            match asked.await.context("asking for a switchover")? {
                Ok(_) => return Ok(refused),
                Err(error) if began.elapsed() > STEP_MAX => return Err(error),
                Err(error) => eprintln!("    {error:#}"),
            }
            refused += 1;
            tokio::time::sleep(ASK_AGAIN_AFTER).await;
        }
    }

    /// Waits for a leader with a synchronous standby, and names it.
    pub async fn ready(&self) -> Result<String> {
        let mut leader = None;
        let ready = until(STEP_MAX, async || {
            leader = self.order().await.filter(|order| order.has_standby).map(|order| order.leader);
            leader.is_some()
        });
        ready.await;
        leader.with_context(|| {
            format!("no leader with a synchronous standby within {STEP_MAX:?}{}", self.cluster.tails())
        })
    }

    /// As the holder of the key tells it.
    async fn order(&self) -> Option<Order> {
        let leader = self.keys.holder()?;
        let answer = rest::ask(&self.cluster.member(&leader).ok()?.api, "/cluster", ANSWER_MAX).await.ok()?.json();
        let members = answer["members"].as_array()?;
        let leads =
            members.iter().any(|it| it["name"] == *leader && it["role"] == "leader" && it["state"] == "running");
        let standby = members.iter().any(|it| it["role"] == "sync_standby" && it["state"] == "streaming");
        leads.then_some(Order { leader, has_standby: standby })
    }
}
