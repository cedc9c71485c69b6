//! Events in which for a while no member accepts a write: a switchover, and the death of the
//! primary with its Patroni.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use pgvane::runtime::clock;
use serde_json::{Value, json};

use super::kit::clients::{Arrivals, Noted, Path};
use super::kit::tally::{self, Fared, millis, millis_between};
use super::kit::until;
use super::stage::Stage;

const LEADER_MAX: Duration = Duration::from_secs(120);
const WRITES_MAX: Duration = Duration::from_secs(60);
/// For the clients of the outage to be served and counted.
const AFTER: Duration = Duration::from_secs(1);
/// Between two that arrive in the outage: dense at first, where switchovers end, then sparse, so
/// that those who pile up during a ttl fit PostgreSQL's connections.
const ARRIVE_EVERY: Duration = Duration::from_millis(100);
const ARRIVE_EVERY_LATER: Duration = Duration::from_millis(700);
const DENSE_FOR: Duration = Duration::from_secs(3);
/// A connect that took longer was held.
const HELD_FROM: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blow {
    Switchover,
    Kill,
}

impl Blow {
    fn what(self) -> &'static str {
        match self {
            Blow::Switchover => "switchover",
            Blow::Kill => "kill of Patroni and PostgreSQL",
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
    pub held_past_ms: Option<f64>,
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
    pub pgvane: Felt,
    pub haproxy: Felt,
}

pub async fn measure(stage: &Stage, blow: Blow) -> Result<Row> {
    let old = stage.calm().await?;
    let began = clock::now();
    let waiting = Waiting::start(stage);
    match blow {
        Blow::Switchover => {
            let answer = stage.cluster.switchover(&old.name, None)?;
            stage.cluster.wait_leader(Some(&old.name), LEADER_MAX).await.context("after a switchover")?;
            drop(answer); // Patroni's words come later than the new leader
        }
        Blow::Kill => stage.cluster.kill_primary(&old.name)?,
    }
    let new = stage.cluster.wait_leader(Some(&old.name), LEADER_MAX).await?;
    let new = stage.cluster.member(&new)?.clone();
    if !until(WRITES_MAX, async || stage.poller.first_write(&new.name, began).is_some()).await {
        bail!("the poller saw no write at {}", new.name);
    }
    waiting.finish().await;
    stage.writes_at(&new, WRITES_MAX).await?;
    tokio::time::sleep(AFTER).await;
    let ended = clock::now();
    let gap = stage.poller.outage(began, ended).and_then(|gap| Some((gap.length()?, gap.until?)));
    let (members, first) = gap.context("the poller saw no outage")?;
    let server = new.pg.to_string();
    let felt = |path: &Path| felt(&path.since(began), &server, began, ended, first);
    let key = stage.keys.moved(began, &old.name);
    let row = Row {
        what: blow.what(),
        from: old.name.clone(),
        to: new.name.clone(),
        members_ms: millis(members),
        key_to_write_ms: key.map(|change| millis_between(change.at, first)),
        pgvane: felt(&stage.pgvane),
        haproxy: felt(&stage.haproxy),
    };
    if blow == Blow::Kill {
        stage.cluster.restart_patroni(&old.name)?;
    }
    Ok(row)
}

fn felt(noted: &[Noted], server: &str, began: Instant, ended: Instant, first: Instant) -> Felt {
    let outage = tally::outage(noted, began, ended);
    Felt {
        outage_ms: outage.map_or(Some(0.0), |gap| gap.length().map(millis)),
        behind_ms: tally::first_at(noted, server, began).map(|at| millis_between(first, at)),
        held: tally::held(noted, first, HELD_FROM),
        held_past_ms: tally::held_past(noted, first).map(millis),
        fared: Fared::of(noted),
    }
}

/// Clients that arrive at both endpoints while the outage lasts.
struct Waiting {
    guests: tokio::task::JoinHandle<Vec<Arrivals>>,
    over: tokio::sync::oneshot::Sender<()>,
}

impl Waiting {
    fn start(stage: &Stage) -> Waiting {
        let dense = stage.paths().map(|path| path.arrivals(ARRIVE_EVERY));
        let doors = stage.paths().map(Path::door);
        let (over, told) = tokio::sync::oneshot::channel();
        let guests = tokio::spawn(async move {
            let mut guests: Vec<Arrivals> = dense.into();
            let mut told = told;
            if tokio::time::timeout(DENSE_FOR, &mut told).await.is_err() {
                guests.iter_mut().for_each(Arrivals::close);
                guests.extend(doors.map(|door| door.arrivals(ARRIVE_EVERY_LATER)));
                drop(told.await);
            }
            guests
        });
        Waiting { guests, over }
    }

    async fn finish(self) {
        drop(self.over.send(()));
        for arrivals in self.guests.await.unwrap_or_default() {
            arrivals.finish().await;
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} -> {}: members {:.0} ms", self.what, self.from, self.to, self.members_ms)?;
        for (name, felt) in [("pgvane", &self.pgvane), ("HAProxy", &self.haproxy)] {
            let outage = felt.outage_ms.map_or_else(|| "not over".to_owned(), |ms| format!("{ms:.0} ms"));
            let past = felt.held_past_ms.map_or_else(String::new, |ms| format!(" until {ms:.0} ms past the end"));
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
    pub fn json(&self) -> Value {
        json!({
            "outage_ms": self.outage_ms,
            "behind_members_ms": self.behind_ms,
            "held": self.held,
            "held_past_ms": self.held_past_ms,
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
            "pgvane": self.pgvane.json(),
            "haproxy": self.haproxy.json(),
        })
    }
}
