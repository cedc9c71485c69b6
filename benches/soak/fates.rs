//! What became of every row that a client was promised something of.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use pgvane::cli::demo::cluster::Member;
use tokio_postgres::NoTls;

use super::book::{Promise, Row, Totals};

const ANSWER_MAX: Duration = Duration::from_secs(60);
/// Rows that are named one by one in the report.
const NAMED_MAX: usize = 20;

/// How many of a word's rows are there, and how many are not.
#[derive(Debug, Clone, Copy, Default)]
pub struct Found {
    pub there: u64,
    pub absent: u64,
}

#[derive(Debug, Default)]
pub struct Fates {
    pub confirmed: Found,
    /// By the word that says that they are not there.
    pub denied: BTreeMap<String, Found>,
    /// By the word that leaves it open.
    pub either: BTreeMap<String, Found>,
    /// Rows that are there more than once.
    pub doubled: u64,
    /// Rows that nobody noted.
    pub strange: u64,
    /// The promises that were broken, in words.
    pub broken: Vec<String>,
}

impl Fates {
    /// Broken promises of any kind.
    pub fn wrong(&self) -> u64 {
        let lies: u64 = self.denied.values().map(|found| found.there).sum();
        self.confirmed.absent + lies + self.doubled + self.strange
    }
}

/// How often each row is there.
pub async fn rows_of(leader: &Member) -> Result<HashMap<i64, i64>> {
    let (client, connection) = leader.client_settings().connect(NoTls).await.context("asking the leader")?;
    let driver = tokio::spawn(connection);
    let ask = client.query("SELECT id, count(*) FROM soak GROUP BY id", &[]);
    let rows = tokio::time::timeout(ANSWER_MAX, ask).await.context("the leader does not answer")?;
    let rows = rows.context("asking the leader for all rows")?;
    driver.abort();
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

pub fn compare(totals: &Totals, began: Instant, mut there: HashMap<i64, i64>) -> Fates {
    let mut fates = Fates::default();
    for (id, row) in &totals.rows {
        let count = there.remove(id).unwrap_or(0);
        let found = match &row.promise {
            Promise::There => &mut fates.confirmed,
            Promise::Absent(word) => fates.denied.entry(word.clone()).or_default(),
            Promise::Either(word) => fates.either.entry(word.clone()).or_default(),
        };
        *(if count > 0 { &mut found.there } else { &mut found.absent }) += 1;
        fates.doubled += u64::from(count > 1);
        if fates.broken.len() < NAMED_MAX
            && let Some(what) = broken(row, count)
        {
            let at = row.ended.saturating_duration_since(began);
            fates.broken.push(format!("row {id} of {} {}, {at:.1?}: {what}", row.who.kind, row.who.number));
        }
    }
    fates.strange = there.len() as u64;
    fates
}

fn broken(row: &Row, count: i64) -> Option<String> {
    match (&row.promise, count) {
        (_, 2..) => Some(format!("there {count} times")),
        (Promise::There, 0) => Some("confirmed, and not there".to_owned()),
        (Promise::Absent(word), 1) => Some(format!("told {word}, and there")),
        _ => None,
    }
}
