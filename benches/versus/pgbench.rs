//! `pgbench -S` through each, on a real PostgreSQL.

use std::net::SocketAddr;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use tokio::runtime::Runtime;

use super::arguments::Arguments;
use super::contestants::{Contestant, Entry, Kind};
use super::report::Table;
use super::rows::{Goal, Metric};
use super::servers::{self, Postgres};
use super::start_all;
use super::usage::Meter;

const CLIENTS: &str = "16";
const JOBS: &str = "2";
/// The data of a scale is about 15 MB, all of which fits.
const SETTINGS: &str = "shared_buffers = 512MB\nmax_connections = 200\nmax_wal_size = 4GB\n";
/// Title, and pgbench's name for how queries are sent.
const MODES: [(&str, &str); 2] =
    [("pgbench -S, 16 clients, simple", "simple"), ("pgbench -S, 16 clients, prepared", "prepared")];
const METRICS: [Metric; 3] = [
    Metric { name: "tps", decimals: 0, goal: Some(Goal::AtLeast(1.0)) },
    Metric { name: "proxy CPU us/transaction", decimals: 2, goal: None },
    Metric { name: "machine busy us/transaction", decimals: 1, goal: None },
];

fn takes_part(kind: &Kind) -> bool {
    !matches!(kind, Kind::Bare | Kind::BareSplice | Kind::HaProxySplice)
}

pub fn rounds(arguments: &Arguments, runtime: &Runtime, table: &mut Table) -> Result<()> {
    let postgres = runtime.block_on(start(arguments))?;
    let entries: Vec<Entry> = arguments.entries.iter().filter(|entry| takes_part(&entry.kind)).cloned().collect();
    let to = vec![postgres.address(); entries.len()];
    for round in 0..arguments.rounds {
        let contestants = start_all(&entries, &to, &[], arguments.threads)?;
        for (title, mode) in MODES {
            for turn in 0..contestants.len() {
                let who = &contestants[(turn + round) % contestants.len()];
                let values = run(who, mode, arguments).with_context(|| format!("pgbench through {}", who.label))?;
                table.add(title, &METRICS, &who.label, values);
            }
            eprintln!("round {} of {}: {title}", round + 1, arguments.rounds);
        }
    }
    Ok(())
}

/// A server with the user and the database that the load has everywhere, filled by pgbench.
async fn start(arguments: &Arguments) -> Result<Postgres> {
    let postgres = Postgres::trusting(SETTINGS).await;
    postgres.run("CREATE ROLE bench LOGIN SUPERUSER").await;
    postgres.run("CREATE DATABASE bench OWNER bench").await;
    let scale = arguments.pgbench_scale.to_string();
    pgbench(postgres.address(), &["--initialize", "--quiet", "--scale", &scale])?;
    postgres.run("CHECKPOINT").await;
    Ok(postgres)
}

fn run(who: &Contestant, mode: &str, arguments: &Arguments) -> Result<Vec<f64>> {
    let seconds = arguments.pgbench_seconds.to_string();
    let meter = Meter::start(&who.watched)?;
    let words =
        ["--select-only", "--no-vacuum", "--protocol", mode, "--client", CLIENTS, "--jobs", JOBS, "--time", &seconds];
    let said = pgbench(who.at, &words)?;
    let used = meter.stop()?;
    let number = |name: &str| -> Result<f64> {
        let rest = said.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("{name}? {said}"))?;
        Ok(rest.split_whitespace().next().unwrap_or_default().parse()?)
    };
    ensure!(number("number of failed transactions:")? == 0.0, "transactions failed: {said}");
    let done = number("number of transactions actually processed:")?;
    Ok(vec![number("tps =")?, used.cpu / done * 1e6, used.busy / done * 1e6])
}

fn pgbench(at: SocketAddr, words: &[&str]) -> Result<String> {
    let mut command = Command::new(servers::bin().join("pgbench"));
    command.args(["--host", "127.0.0.1", "--username", "bench", "--port", &at.port().to_string()]).args(words);
    let output = command.arg("bench").env("PGSSLMODE", "disable").output().context("pgbench")?;
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if !output.status.success() || errors.contains("error") {
        bail!("pgbench {words:?}: {said}{errors}");
    }
    Ok(said.into_owned())
}
