//! pgvane beside HAProxy, nginx, a bare relay and nothing at all, in one run: CPU per query, per connection
//! and per gigabyte, latency, memory of idle sessions, pgbench, a leader move with 9,000 sessions.
//!
//! `cargo bench --bench versus`, or `scripts/versus`, which installs the others first; `-- --help` tells the rest.
//!
//! | file | what is in it |
//! |---|---|
//! | `arguments.rs` | what the command line says |
//! | `contestants.rs` | who stands between load and backend, and how each is started |
//! | `backend.rs`, `bare.rs`, `load.rs` | the fake PostgreSQL, the relay that only copies, the clients |
//! | `wire.rs`, `poll.rs` | every byte that both ends know; one epoll instance |
//! | `usage.rs` | CPU, busy time, memory and descriptors, as the kernel counts them |
//! | `rows.rs`, `idle.rs`, `pgbench.rs`, `moves.rs` | the rows of the table |
//! | `report.rs`, `machine.rs` | medians, paired ratios, the table; what it was measured on |

#[allow(dead_code, reason = "the tests use the rest of it")]
#[path = "../../tests/members/mod.rs"]
mod members;
#[allow(dead_code, reason = "the tests use the rest of it")]
#[path = "../../tests/servers/mod.rs"]
mod servers;

mod arguments;
mod backend;
mod bare;
mod contestants;
mod idle;
mod load;
mod machine;
mod moves;
mod pgbench;
mod poll;
mod report;
mod rows;
mod usage;
mod wire;

use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::{Context, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::Pid;

use arguments::{Arguments, Role};
use contestants::{Contestant, Entry, Kind, role_process};
use members::process::Process;
use report::Table;
use rows::{ROWS, Row};

fn main() -> ExitCode {
    let done = Arguments::read().and_then(|arguments| match arguments.role {
        Some(Role::Backend(ports)) => backend::run(ports),
        Some(Role::Bare(to)) => bare::run(to, false),
        Some(Role::BareSplice(to)) => bare::run(to, true),
        None => compare(&arguments),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("versus: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn compare(arguments: &Arguments) -> Result<()> {
    // Thousands of sessions; the children inherit it.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    // For the REST APIs that are checked.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let _entered = runtime.enter();
    let described = machine::describe(arguments);
    let is_ours = |entry: &&Entry| matches!(entry.kind, Kind::Pgvane(_));
    let mut table = Table::of(arguments.entries.iter().filter(is_ours).map(|entry| entry.label.clone()).collect());
    relay_rows(arguments, &mut table)?;
    idle_row(arguments, &mut table)?;
    if arguments.wants("pgbench") {
        pgbench::rounds(arguments, &runtime, &mut table)?;
    }
    if arguments.wants("moves") {
        moves::rounds(arguments, &runtime, &mut table)?;
    }
    let text = described + &table.text();
    print!("{text}");
    if arguments.keep {
        let path = format!("{}/benches/results/{}-versus.txt", env!("CARGO_MANIFEST_DIR"), machine::today());
        let mut file = File::options().create(true).append(true).open(&path).with_context(|| path.clone())?;
        writeln!(file, "{text}")?;
        eprintln!("kept in {path}");
    }
    Ok(())
}

/// One backend with a port for each, so that none meets the closed connections of another.
fn backend(entries: &[Entry]) -> Result<(Process, Vec<SocketAddr>)> {
    let (process, ports) = role_process(&["backend", &entries.len().to_string()])?;
    Ok((process, ports.into_iter().map(|port| SocketAddr::from(([127, 0, 0, 1], port))).collect()))
}

/// `stand`: whoever else takes part in every measurement.
fn start_all(entries: &[Entry], to: &[SocketAddr], stand: &[Pid], threads: Option<usize>) -> Result<Vec<Contestant>> {
    entries.iter().zip(to).map(|(entry, to)| Contestant::start(entry, *to, stand, threads)).collect()
}

fn stand(backend: &Process) -> Result<Vec<Pid>> {
    Ok([usage::family(backend.id())?, vec![Pid::this()]].concat())
}

fn relay_rows(arguments: &Arguments, table: &mut Table) -> Result<()> {
    let wanted: Vec<_> = ROWS.iter().filter(|row| arguments.wants(row.key)).collect();
    let entries: Vec<Entry> = arguments
        .entries
        .iter()
        .filter(|entry| wanted.iter().any(|row| (row.takes_part)(&entry.kind)))
        .cloned()
        .collect();
    if wanted.is_empty() {
        return Ok(());
    }
    for round in 0..arguments.rounds {
        // Fresh ones each time: a process that happens to lie well in memory does so in one round alone.
        let (backend, to) = backend(&entries)?;
        let contestants = start_all(&entries, &to, &stand(&backend)?, arguments.threads)?;
        if round == 0 {
            all_bytes_arrive(&contestants)?;
        }
        for row in &wanted {
            relay_round(row, &contestants, round, arguments, table).with_context(|| format!("round {}", round + 1))?;
            eprintln!("round {} of {}: {}", round + 1, arguments.rounds, row.title);
        }
    }
    Ok(())
}

/// Whoever is fast because it loses something is not measured.
fn all_bytes_arrive(contestants: &[Contestant]) -> Result<()> {
    for who in contestants {
        load::copy(who.at, 2, 20_000_000, &who.watched, true).with_context(|| format!("through {}", who.label))?;
    }
    Ok(())
}

/// Slices in turn, so that whatever else happens on the machine happens to all.
fn relay_round(
    row: &Row,
    contestants: &[Contestant],
    round: usize,
    arguments: &Arguments,
    table: &mut Table,
) -> Result<()> {
    let playing: Vec<_> = contestants.iter().filter(|who| (row.takes_part)(&who.kind)).collect();
    let slices = arguments.size.slices;
    let mut means = vec![vec![0.0; row.metrics.len()]; playing.len()];
    for turn in 0..playing.len() * slices {
        let at = (turn + turn / playing.len() + round) % playing.len();
        let (values, used) = (row.measure)(playing[at], arguments.size)
            .with_context(|| format!("{}, through {}", row.title, playing[at].label))?;
        means[at].iter_mut().zip(values).for_each(|(mean, value)| *mean += value / slices as f64);
        table.note(used);
    }
    for (who, values) in playing.iter().zip(means) {
        table.add(row.title, row.metrics, &who.label, values);
    }
    Ok(())
}

fn idle_row(arguments: &Arguments, table: &mut Table) -> Result<()> {
    if !arguments.wants("idle") {
        return Ok(());
    }
    let entries: Vec<Entry> = arguments.entries.iter().filter(|entry| idle::takes_part(&entry.kind)).cloned().collect();
    for round in 0..arguments.rounds {
        // Fresh ones each time: what a program has once had it may keep.
        let (backend, to) = backend(&entries)?;
        let contestants = start_all(&entries, &to, &stand(&backend)?, arguments.threads)?;
        for (label, values) in idle::round(&contestants, round, arguments)? {
            table.add(idle::TITLE, &idle::METRICS, &label, values);
        }
        eprintln!("round {} of {}: {}", round + 1, arguments.rounds, idle::TITLE);
    }
    Ok(())
}
