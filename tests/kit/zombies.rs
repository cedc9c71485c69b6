//! Patroni dies or freezes alone: its PostgreSQL goes on accepting writes beside the new primary.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use pgvane::cli::demo::cluster::Member;
use pgvane::runtime::clock;
use serde_json::{Value, json};
use tokio_postgres::NoTls;

use super::clients::{Noted, Path};
use super::keys::Change;
use super::stage::Stage;
use super::tally::{self, Fared, millis, millis_between};
use super::{named, until};

const LEADER_MAX: Duration = Duration::from_secs(120);
const WRITES_MAX: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Killed,
    Frozen,
}

/// All times are from the moment that the key named the new primary; negative is before.
#[derive(Debug, Clone)]
pub struct Felt {
    /// The end of the last write that the zombie answered.
    pub last_at_old_ms: Option<f64>,
    /// Rows in the zombie that it wrote after that moment, by its own clock.
    pub late_rows: usize,
    pub latest_row_ms: Option<f64>,
    pub first_at_new_ms: Option<f64>,
    pub outage_ms: Option<f64>,
    pub fared: Fared,
}

#[derive(Debug, Clone)]
pub struct Row {
    pub what: &'static str,
    pub from: String,
    pub to: String,
    /// From the event until the key named the new one.
    pub key_after_ms: f64,
    /// The poller's first write on the new one.
    pub members_first_ms: Option<f64>,
    /// For how long after the key named the new one the old one still accepted the poller's writes.
    pub both_writable_ms: f64,
    pub pgvane: Felt,
    pub haproxy: Option<Felt>,
}

/// `zombie_lives` on after the new primary writes.
pub async fn measure(stage: &Stage, fate: Fate, zombie_lives: Duration) -> Result<Row> {
    let old = stage.calm().await?;
    let began = clock::now();
    match fate {
        Fate::Killed => stage.cluster.kill_patroni(&old.name)?,
        Fate::Frozen => stage.cluster.freeze_patroni(&old.name)?,
    }
    let row = watch(stage, fate, &old, began, zombie_lives).await;
    match fate {
        Fate::Killed => stage.cluster.restart_patroni(&old.name)?,
        Fate::Frozen => stage.cluster.thaw_patroni(&old.name)?,
    }
    row
}

async fn watch(stage: &Stage, fate: Fate, old: &Member, began: Instant, zombie_lives: Duration) -> Result<Row> {
    if !until(LEADER_MAX, async || stage.keys.moved(began, &old.name).is_some()).await {
        bail!("the leader key names nobody but {} within {LEADER_MAX:?}", old.name);
    }
    let key = stage.keys.moved(began, &old.name).context("the key moved back")?;
    let new = stage.cluster.member(key.holder.as_deref().unwrap_or_default())?.clone();
    stage.writes_at(&new, WRITES_MAX).await?;
    tokio::time::sleep(zombie_lives).await;
    let ended = clock::now();
    let late = late_rows(old, &key).await?;
    let felt = |path: &Path| felt(path, &path.since(began), (old, &new), &key, &late, (began, ended));
    let stretches = stage.poller.stretches();
    let of_old = stretches.iter().filter(|it| it.member == old.name).map(|it| it.last).max();
    Ok(Row {
        what: match fate {
            Fate::Killed => "Patroni killed alone",
            Fate::Frozen => "Patroni frozen alone",
        },
        from: old.name.clone(),
        to: new.name.clone(),
        key_after_ms: millis_between(began, key.at),
        members_first_ms: stage.poller.first_write(&new.name, key.at).map(|at| millis_between(key.at, at)),
        both_writable_ms: of_old.map_or(0.0, |at| millis_between(key.at, at)),
        pgvane: felt(&stage.pgvane),
        haproxy: stage.haproxy.as_ref().map(felt),
    })
}

/// Who wrote into the zombie after the key had moved, and how many milliseconds after.
pub async fn late_rows(zombie: &Member, key: &Change) -> Result<Vec<(i32, f64)>> {
    let (client, connection) = zombie.client_settings().connect(NoTls).await.context("asking the zombie")?;
    let driver = tokio::spawn(connection);
    let ask = "SELECT client, extract(epoch FROM at)::float8 FROM demo WHERE at > to_timestamp($1)";
    let rows = client.query(ask, &[&key.unix_seconds]).await.context("asking the zombie for its rows")?;
    driver.abort();
    Ok(rows.iter().map(|row| (row.get(0), (row.get::<_, f64>(1) - key.unix_seconds) * 1000.0)).collect())
}

fn felt(
    path: &Path,
    noted: &[Noted],
    (old, new): (&Member, &Member),
    key: &Change,
    late: &[(i32, f64)],
    (began, ended): (Instant, Instant),
) -> Felt {
    let late: Vec<f64> = late.iter().filter(|(client, _)| path.owns(*client)).map(|(_, after)| *after).collect();
    let outage = tally::outage(noted, began, ended);
    Felt {
        last_at_old_ms: tally::last_at(noted, &old.pg.to_string()).map(|at| millis_between(key.at, at)),
        late_rows: late.len(),
        latest_row_ms: tally::largest(&late),
        first_at_new_ms: tally::first_at(noted, &new.pg.to_string(), began).map(|at| millis_between(key.at, at)),
        outage_ms: outage.map_or(Some(0.0), |gap| gap.length().map(millis)),
        fared: Fared::of(noted),
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} -> {}: the key moved after {:.1} s, both writable for {:.1} s from then",
            self.what,
            self.from,
            self.to,
            self.key_after_ms / 1000.0,
            self.both_writable_ms / 1000.0
        )?;
        for (name, felt) in named(&self.pgvane, self.haproxy.as_ref()) {
            write!(
                f,
                "; {name}: last write at the zombie {:?} ms, {} late rows, outage {:?} ms, refused {:?}, cut {:?}",
                felt.last_at_old_ms, felt.late_rows, felt.outage_ms, felt.fared.refused, felt.fared.cut
            )?;
        }
        Ok(())
    }
}

impl Felt {
    pub fn json(&self) -> Value {
        json!({
            "last_write_at_old_ms": self.last_at_old_ms,
            "late_rows": self.late_rows,
            "latest_row_ms": self.latest_row_ms,
            "first_write_at_new_ms": self.first_at_new_ms,
            "outage_ms": self.outage_ms,
            "good": self.fared.good,
            "refused": self.fared.refused,
            "cut": self.fared.cut,
            "misrouted": self.fared.misrouted(),
        })
    }
}

impl Row {
    pub fn json(&self) -> Value {
        json!({
            "event": self.what,
            "from": self.from,
            "to": self.to,
            "key_moved_after_ms": self.key_after_ms,
            "members_first_write_ms": self.members_first_ms,
            "both_writable_ms": self.both_writable_ms,
            "pgvane": self.pgvane.json(),
            "haproxy": self.haproxy.as_ref().map(Felt::json),
        })
    }
}
