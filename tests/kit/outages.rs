//! Events in which for a while no member accepts a write: a switchover, and the death of the
//! primary with its Patroni.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use pgvane::cli::demo::cluster::Member;
use pgvane::cli::demo::poller::Stretch;
use pgvane::runtime::clock;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_postgres::NoTls;

use super::clients::{Arrivals, Door, Path};
use super::stage::Stage;
use super::tally::{self, Fared, millis, millis_between};
use super::{named, until};

const LEADER_MAX: Duration = Duration::from_secs(120);
const WRITES_MAX: Duration = Duration::from_secs(60);
/// For the clients of the outage to be served and counted.
const AFTER: Duration = Duration::from_secs(1);
/// Looked back from the event for the last good write before it.
const BEFORE: Duration = Duration::from_secs(2);
/// Between two that arrive in the outage: dense at first, where switchovers end, then sparse: what
/// counts is how long clients are held, not how many processes PostgreSQL can start in a second.
const ARRIVE_EVERY: Duration = Duration::from_millis(250);
const ARRIVE_EVERY_LATER: Duration = Duration::from_secs(2);
const DENSE_FOR: Duration = Duration::from_secs(3);
/// A shorter gap between two writes of the poller is only a busy machine.
const OUTAGE_MIN: Duration = Duration::from_millis(400);
/// A connect that took longer was held.
const HELD_FROM: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blow {
    Switchover,
    Kill,
    /// Of PostgreSQL alone: Patroni keeps the key and starts it again.
    Crash,
}

impl Blow {
    fn what(self) -> &'static str {
        match self {
            Blow::Switchover => "switchover",
            Blow::Kill => "kill of Patroni and PostgreSQL",
            Blow::Crash => "crash of PostgreSQL",
        }
    }
}

/// What one path's clients felt of one event.
#[derive(Debug, Clone)]
pub struct Felt {
    /// Between two good writes; None: not over.
    pub outage_ms: Option<f64>,
    /// From the poller's first write on the new primary to the path's.
    pub behind_ms: Option<f64>,
    pub held: usize,
    /// Of everyone who was connecting at the end of the members' outage, the shortest first.
    pub waits_past_ms: Vec<f64>,
    pub fared: Fared,
}

#[derive(Debug, Clone)]
pub struct Row {
    pub what: &'static str,
    pub from: String,
    pub to: String,
    /// As the poller saw it.
    pub members_ms: f64,
    /// From the key naming the new one to its first write, as watch and poller saw it.
    pub key_to_write_ms: Option<f64>,
    /// For the slowest of as many connects as were held, made at once and directly.
    pub burst_ms: f64,
    pub pgvane: Felt,
    pub haproxy: Option<Felt>,
}

pub async fn measure(stage: &Stage, blow: Blow) -> Result<Row> {
    let strike = |old: &str| strike(stage, blow, old);
    let row = measure_of(stage, blow.what(), blow != Blow::Crash, strike).await?;
    if blow == Blow::Kill {
        stage.cluster.restart_patroni(&row.from)?;
    }
    Ok(row)
}

/// Of any `strike` at the primary; `moves` says that another will lead afterwards.
pub async fn measure_of(
    stage: &Stage,
    what: &'static str,
    moves: bool,
    strike: impl FnOnce(&str) -> Result<()>,
) -> Result<Row> {
    let old = stage.calm().await?;
    let began = clock::now();
    let waiting = Waiting::start(stage);
    strike(&old.name)?;
    let new = if moves {
        let name = stage.cluster.wait_leader(Some(&old.name), LEADER_MAX).await.context(what)?;
        stage.cluster.member(&name)?.clone()
    } else {
        old.clone()
    };
    if !until(WRITES_MAX, async || over(stage, began, &new).is_some()).await {
        bail!("{what}: the poller saw no outage that ended with a write at {}{}", new.name, stage.tails());
    }
    waiting.finish().await;
    stage.writes_at(&new, WRITES_MAX).await?;
    tokio::time::sleep(AFTER).await;
    let ended = clock::now();
    let (members, first) = over(stage, began, &new).context("the poller saw no outage")?;
    let server = new.pg.to_string();
    let felt = |path: &Path| felt(path, &server, began, ended, first);
    let key = stage.keys.moved(began, &old.name);
    let felt_there = felt(&stage.pgvane);
    Ok(Row {
        what,
        from: old.name.clone(),
        to: new.name.clone(),
        members_ms: millis(members),
        key_to_write_ms: key.map(|change| millis_between(change.at, first)),
        burst_ms: burst(&new, felt_there.waits_past_ms.len()).await,
        pgvane: felt_there,
        haproxy: stage.haproxy.as_ref().map(felt),
    })
}

fn strike(stage: &Stage, blow: Blow, old: &str) -> Result<()> {
    match blow {
        // Patroni's words come later than the new leader.
        Blow::Switchover => drop(stage.cluster.switchover(old, None)?),
        Blow::Kill => stage.cluster.kill_primary(old)?,
        Blow::Crash => stage.cluster.kill_postgres(old)?,
    }
    Ok(())
}

/// Length and end of the outage as the poller saw it, once `new` writes.
fn over(stage: &Stage, began: Instant, new: &Member) -> Option<(Duration, Instant)> {
    let gap = stage.poller.outage(began, clock::now())?;
    let (length, end) = (gap.length()?, gap.until?);
    let ended_it = |it: &Stretch| it.member == new.name && it.first == end;
    (length >= OUTAGE_MIN && stage.poller.stretches().iter().any(ended_it)).then_some((length, end))
}

fn felt(path: &Path, server: &str, began: Instant, ended: Instant, first: Instant) -> Felt {
    let noted = path.since(began);
    let before = path.since(began.checked_sub(BEFORE).unwrap_or(began));
    let outage = tally::outage(&before, began, ended);
    Felt {
        outage_ms: outage.map_or(Some(0.0), |gap| gap.length().map(millis)),
        behind_ms: tally::first_at(&noted, server, began).map(|at| millis_between(first, at)),
        held: tally::held(&noted, first, HELD_FROM),
        waits_past_ms: tally::held_past(&noted, first).into_iter().map(millis).collect(),
        fared: Fared::of(&noted),
    }
}

/// How long the slowest of `count` connections takes that are opened at once, to the member itself:
/// what a release of as many held clients costs PostgreSQL and this machine at the least.
async fn burst(member: &Member, count: usize) -> f64 {
    let began = clock::now();
    let mut opening = JoinSet::new();
    for _ in 0..count {
        let settings = member.client_settings();
        opening.spawn(async move {
            let opened = settings.connect(NoTls).await;
            (clock::now(), opened.is_ok())
        });
    }
    let ends = opening.join_all().await;
    let slowest = ends.into_iter().filter(|(_, opened)| *opened).map(|(end, _)| end).max();
    slowest.map_or(0.0, |end| millis_between(began, end))
}

/// Clients that arrive at both endpoints while the outage lasts.
struct Waiting {
    guests: tokio::task::JoinHandle<Vec<Arrivals>>,
    over: tokio::sync::oneshot::Sender<()>,
}

impl Waiting {
    fn start(stage: &Stage) -> Waiting {
        let doors: Vec<Door> = stage.paths().map(Path::door).collect();
        let (over, told) = tokio::sync::oneshot::channel();
        let guests = tokio::spawn(async move {
            let mut guests: Vec<Arrivals> = doors.iter().map(|door| door.arrivals(ARRIVE_EVERY)).collect();
            let mut told = told;
            if tokio::time::timeout(DENSE_FOR, &mut told).await.is_err() {
                guests.iter_mut().for_each(Arrivals::close);
                guests.extend(doors.iter().map(|door| door.arrivals(ARRIVE_EVERY_LATER)));
                drop(told.await);
            }
            guests
        });
        Waiting { guests, over }
    }

    async fn finish(self) {
        let _told = self.over.send(()); // an error: nobody waits any more
        for arrivals in self.guests.await.unwrap_or_default() {
            arrivals.finish().await;
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, members, burst) = (self.what, self.members_ms, self.burst_ms);
        write!(f, "{what} {} -> {}: members {members:.0} ms; direct burst {burst:.0} ms", self.from, self.to)?;
        for (name, felt) in named(&self.pgvane, self.haproxy.as_ref()) {
            let outage = felt.outage_ms.map_or_else(|| "not over".to_owned(), |ms| format!("{ms:.0} ms"));
            let past = felt.held_past_ms().map_or_else(String::new, |ms| format!(" until {ms:.0} ms past the end"));
            write!(
                f,
                "; {name} {outage}, {} held{past}, refused {:?}, cut {:?}",
                felt.held, felt.fared.refused, felt.fared.cut
            )?;
        }
        Ok(())
    }
}

impl Felt {
    /// The longest that anyone waited past the end of the members' outage.
    pub fn held_past_ms(&self) -> Option<f64> {
        self.waits_past_ms.last().copied()
    }

    pub fn json(&self) -> Value {
        json!({
            "outage_ms": self.outage_ms,
            "behind_members_ms": self.behind_ms,
            "held": self.held,
            "held_past_ms": self.held_past_ms(),
            "waits_past_ms": self.waits_past_ms,
            "good": self.fared.good,
            "refused": self.fared.refused,
            "cut": self.fared.cut,
            "misrouted": self.fared.misrouted(),
            "longest_connect_ms": millis(self.fared.longest_connect),
        })
    }
}

impl Row {
    pub fn json(&self) -> Value {
        json!({
            "event": self.what,
            "from": self.from,
            "to": self.to,
            "members_outage_ms": self.members_ms,
            "key_to_write_ms": self.key_to_write_ms,
            "direct_burst_ms": self.burst_ms,
            "pgvane": self.pgvane.json(),
            "haproxy": self.haproxy.as_ref().map(Felt::json),
        })
    }
}
