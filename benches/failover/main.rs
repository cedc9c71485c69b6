//! What clients of an unmodified Patroni cluster feel of a failover: in one run, side by side, a
//! poller that asks the members directly every 20 ms, clients through pgvane, and clients through
//! HAProxy as Patroni's template configures it.
//!
//! `cargo bench --bench failover -- [--only PIECE,...] [--switchovers 10] [--kills 3] [--json FILE]`

#[path = "../../tests/kit/mod.rs"]
mod kit;
mod machine;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};

use kit::etcd_stop;
use kit::outages::{self, Blow};
use kit::stage::Stage;
use kit::zombies::{self, Fate};
use pgvane::cli::demo::cluster::ClusterOptions;
use report::Report;

/// A zombie lives on for so long after the new primary writes.
const ZOMBIE_LIVES: Duration = Duration::from_secs(10);
/// Watched after etcd is back.
const HEALING: Duration = Duration::from_secs(15);

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Piece {
    Switchovers,
    Kills,
    KilledAlone,
    FrozenAlone,
    Etcd,
}

#[derive(Debug, Parser)]
#[command(about = "What clients feel of a failover: members asked directly, pgvane, HAProxy")]
struct Args {
    /// Only these pieces, in the usual order.
    #[arg(long, value_delimiter = ',', value_enum)]
    only: Vec<Piece>,
    #[arg(long, default_value_t = 10)]
    switchovers: u32,
    /// Of Patroni with its PostgreSQL.
    #[arg(long, default_value_t = 3)]
    kills: u32,
    /// Of Patroni alone on the primary.
    #[arg(long, default_value_t = 1)]
    zombies: u32,
    /// Seconds for which etcd is stopped.
    #[arg(long, default_value_t = 60)]
    etcd_stop: u64,
    /// Patroni's ttl; 30 is its default.
    #[arg(long, default_value_t = 30)]
    ttl: u64,
    /// The figures, for machines.
    #[arg(long)]
    json: Option<PathBuf>,
    /// The router's log is copied there at the end.
    #[arg(long)]
    log: Option<PathBuf>,
    /// The pgvane to measure.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_pgvane"))]
    pgvane: PathBuf,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Args {
    fn wants(&self, piece: Piece) -> bool {
        self.only.is_empty() || self.only.contains(&piece)
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let done = runtime.context("starting the runtime").and_then(|runtime| runtime.block_on(run(&args)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("failover: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: &Args) -> Result<()> {
    let mut report = Report { machine: machine::describe(&args.pgvane), ..Report::default() };
    print!("{}", report.head());
    eprintln!("starting etcd, three PostgreSQL under Patroni, pgvane and HAProxy");
    let options = ClusterOptions::new(&args.pgvane).with_ttl(Duration::from_secs(args.ttl));
    let stage = Stage::set(options, true).await?;
    let done = measure(args, &stage, &mut report).await;
    if let Some(path) = &args.log {
        std::fs::copy(stage.router_log(), path).with_context(|| format!("writing {}", path.display()))?;
    }
    print!("{report}");
    if let Some(path) = &args.json {
        std::fs::write(path, format!("{:#}\n", report.json()))
            .with_context(|| format!("writing {}", path.display()))?;
    }
    done
}

/// What was measured before an error stays in the report.
async fn measure(args: &Args, stage: &Stage, report: &mut Report) -> Result<()> {
    let switchovers = if args.wants(Piece::Switchovers) { args.switchovers } else { 0 };
    let kills = if args.wants(Piece::Kills) { args.kills } else { 0 };
    let blows = std::iter::repeat_n(Blow::Switchover, switchovers as usize)
        .chain(std::iter::repeat_n(Blow::Kill, kills as usize));
    for blow in blows {
        let row = outages::measure(stage, blow).await?;
        eprintln!("{row}");
        report.outages.push(row);
    }
    for (piece, fate) in [(Piece::KilledAlone, Fate::Killed), (Piece::FrozenAlone, Fate::Frozen)] {
        let times = if args.wants(piece) { args.zombies } else { 0 };
        for _ in 0..times {
            let row = zombies::measure(stage, fate, ZOMBIE_LIVES).await?;
            eprintln!("{row}");
            report.zombies.push(row);
        }
    }
    if args.wants(Piece::Etcd) {
        report.etcd_stop = Some(etcd_stop::measure(stage, Duration::from_secs(args.etcd_stop), HEALING).await?);
    }
    Ok(())
}
