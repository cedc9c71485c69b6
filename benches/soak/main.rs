//! Connects, queries, transactions, cancels, COPY and TLS through pgvane for ten minutes, while the
//! leader of a real Patroni cluster moves every ten seconds. Every end of a session is explained by what
//! clients are promised or shown with its context, every row is looked up afterwards, and what the
//! router uses at the end is compared with what it used at first.
//!
//! `cargo bench --bench soak`; `PGVANE_SOAK_SECONDS` is its length, 600 unless given, and
//! `PGVANE_SOAK_PERIOD` the seconds from one move to the next, 10 unless given. A run of 600 s or more
//! is kept in `benches/results`.

#[path = "../../tests/kit/mod.rs"]
mod kit;
#[path = "../failover/machine.rs"]
mod machine;

mod book;
mod bulk;
mod clients;
mod fates;
mod moves;
mod report;
mod samples;
mod stand;
mod work;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use book::Book;
use clients::{Crowd, Doors};
use kit::router::{Router, RouterOptions};
use moves::Mover;
use pgvane::cli::demo::processes::ProcessId;
use pgvane::runtime::clock;
use report::{JUDGED_FROM, Report};
use samples::Sample;
use stand::Stand;

const SECONDS: u64 = 600;
/// Without `cargo bench` it only shows that it works.
const SECONDS_TRIED: u64 = 60;
const PERIOD_SECONDS: u64 = 10;
/// Samples in a run, evenly.
const SAMPLES: u32 = 60;

fn main() -> ExitCode {
    let is_bench = std::env::args().any(|argument| argument == "--bench");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let done = runtime.context("starting the runtime").and_then(|runtime| runtime.block_on(run(is_bench)));
    match done {
        Ok(failures) if failures.is_empty() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("soak: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn seconds_of(variable: &str, default: u64) -> Result<Duration> {
    let Ok(text) = std::env::var(variable) else { return Ok(Duration::from_secs(default)) };
    let seconds = text.parse().ok().filter(|seconds| *seconds > 0);
    seconds.map(Duration::from_secs).with_context(|| format!("{variable}={text} is no number of seconds above 0"))
}

/// What was missed, in words. The servers end with the stand, and at the latest with this process.
async fn run(is_bench: bool) -> Result<Vec<String>> {
    let lasting = seconds_of("PGVANE_SOAK_SECONDS", if is_bench { SECONDS } else { SECONDS_TRIED })?;
    let period = seconds_of("PGVANE_SOAK_PERIOD", PERIOD_SECONDS)?;
    let stop = CancellationToken::new();
    let interrupted = tokio::spawn(interruption(stop.clone())?);
    let mut described = machine::describe(env!("CARGO_BIN_EXE_pgvane").as_ref());
    described.pop();
    described.push(stand::DESCRIPTION.to_owned());
    eprintln!("starting etcd, three PostgreSQL under Patroni, and pgvane");
    let report = {
        let stand = tokio::select! {
            stand = Stand::set(env!("CARGO_BIN_EXE_pgvane").into()) => stand?,
            () = stop.cancelled() => anyhow::bail!("interrupted"),
        };
        let mut report = soak(&stand, lasting, period, &stop).await?;
        report.machine = described;
        stand.keep_log(&kept("soak-router.log"))?;
        report
    };
    interrupted.abort();
    print!("{report}");
    let file = if report.lasted >= JUDGED_FROM { result_file() } else { kept("soak.txt") };
    std::fs::write(&file, report.to_string()).with_context(|| format!("writing {}", file.display()))?;
    eprintln!("written to {}", file.display());
    Ok(report.failures())
}

/// Cancels `stop` at Ctrl-C or SIGTERM: then everything ends in order, with a report.
fn interruption(stop: CancellationToken) -> Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt()).context("listening to SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("listening to SIGTERM")?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        stop.cancel();
    })
}

fn kept(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name)
}

fn result_file() -> PathBuf {
    let date = jiff::Zoned::now().date();
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("benches/results/{date}-soak.txt"))
}

async fn soak(stand: &Stand, lasting: Duration, period: Duration, stop: &CancellationToken) -> Result<Report> {
    let book = Arc::new(Book::open());
    let mover = Mover { cluster: &stand.cluster, keys: &stand.keys, book: &book, period };
    mover.ready().await?;
    let router = &stand.router;
    let process = stand.cluster.ground().process(&router.name).context("the router is not running")?;
    let doors = Doors { write: router.write.clone(), read: router.read.clone(), tls: Some(stand.tls.clone()) };
    let crowd = Crowd::start(doors, Arc::clone(&book));
    let clients = crowd.count();
    let (mut moves, mut samples) = (Vec::new(), Vec::new());
    let over = stop.child_token();
    let (moved, sampled, ()) = tokio::join!(
        async { mover.run(&over, &mut moves).await.inspect_err(|_| over.cancel()) },
        async { sample(process, router, &book, lasting, &over, &mut samples).await.inspect_err(|_| over.cancel()) },
        async {
            tokio::select! {
                () = over.cancelled() => {}
                () = tokio::time::sleep(lasting) => over.cancel(),
            }
        },
    );
    let lasted = clock::now().saturating_duration_since(book.began);
    eprintln!("everybody goes home");
    let lost = crowd.go_home().await;
    let mut error = moved.and(sampled).err().map(|error| format!("{error:#}"));
    if stop.is_cancelled() {
        error = Some("interrupted".to_owned());
    }
    let fates = look_up(&mover, stand, &book).await;
    if let Err(why) = &fates {
        eprintln!("looking the rows up: {why:#}");
    }
    let closed = router.ask("/metrics").await.map(|answer| samples::closed_by_reason(&answer.body));
    Ok(Report {
        machine: Vec::new(),
        began: book.began,
        // The last move is seen to its end; that is no part of the time that was asked for.
        lasted: lasted.min(lasting),
        period,
        clients,
        moves,
        samples,
        closed: closed.unwrap_or_default(),
        totals: book.with(std::mem::take),
        fates: fates.ok(),
        lost,
        error,
    })
}

async fn look_up(mover: &Mover<'_>, stand: &Stand, book: &Book) -> Result<fates::Fates> {
    let leader = mover.ready().await?;
    let rows = fates::rows_of(stand.cluster.member(&leader)?).await?;
    Ok(book.with(|totals| fates::compare(totals, book.began, rows)))
}

/// Evenly, and a little before each move where both fall together.
async fn sample(
    process: ProcessId,
    router: &Router,
    book: &Book,
    lasting: Duration,
    over: &CancellationToken,
    samples: &mut Vec<Sample>,
) -> Result<()> {
    let every = lasting / SAMPLES;
    let mut due: Instant = book.began + every.mul_f64(0.9);
    loop {
        tokio::select! {
            biased;
            () = over.cancelled() => return Ok(()),
            () = tokio::time::sleep(due.saturating_duration_since(clock::now())) => {}
        }
        samples.push(Sample::take(process, router).await.context("the router has ended")?);
        due += every;
    }
}
