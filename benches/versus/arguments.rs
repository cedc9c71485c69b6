//! What the command line says.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Parser;

use super::contestants::{Entry, Kind};
use super::rows::Size;

const ROUNDS: usize = 5;
const ROUNDS_SHORT: usize = 2;
const SLICE: Duration = Duration::from_millis(250);
const KEYS: [&str; 7] = ["rt", "one", "connect", "copy", "idle", "pgbench", "moves"];

/// pgvane beside HAProxy, nginx, a bare relay and nothing, interleaved in one run.
#[derive(Debug, Parser)]
#[command(name = "versus")]
struct Line {
    /// Rows, of rt, one, connect, copy, idle, pgbench, moves. Default: all.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Of these names alone, and HAProxy. Default: all.
    #[arg(long, value_delimiter = ',')]
    contestants: Vec<String>,
    /// How often everything is measured. Default: 5.
    #[arg(long)]
    rounds: Option<usize>,
    /// Two rounds, and short times: for whoever works on it.
    #[arg(long)]
    short: bool,
    /// Another build of pgvane, as LABEL=PATH; may be given again.
    #[arg(long)]
    pgvane: Vec<String>,
    /// Threads of HAProxy and worker processes of nginx; pgvane has one thread per core. Default: as each has it.
    #[arg(long)]
    threads: Option<usize>,
    /// Keep the table in benches/results.
    #[arg(long)]
    keep: bool,
    /// Given by `cargo bench`. Without it, everything is only shown to work.
    #[arg(long)]
    bench: bool,
    #[arg(long, hide = true, num_args = 1..)]
    role: Vec<String>,
}

#[derive(Debug, Clone, Copy)]
pub enum Role {
    Backend(usize),
    Bare(SocketAddr),
    BareSplice(SocketAddr),
}

#[derive(Debug)]
pub struct Arguments {
    pub role: Option<Role>,
    only: Vec<String>,
    pub entries: Vec<Entry>,
    pub rounds: usize,
    pub size: Size,
    pub idle_sessions: usize,
    pub move_sessions: usize,
    pub pgbench_scale: u32,
    pub pgbench_seconds: u32,
    pub threads: Option<usize>,
    pub keep: bool,
    /// Not only tried.
    pub is_bench: bool,
    /// As given, for whoever reads the table.
    pub words: Vec<String>,
}

impl Arguments {
    pub fn read() -> Result<Arguments> {
        let line = Line::parse();
        for key in &line.only {
            if !KEYS.contains(&key.as_str()) {
                bail!("--only {key}: there are {}", KEYS.join(", "));
            }
        }
        let is_short = line.short || !line.bench;
        let size = match (line.bench, line.short) {
            (true, false) => Size { slices: 8, lasting: SLICE, copy_bytes: 250_000_000 },
            (true, true) => Size { slices: 4, lasting: SLICE, copy_bytes: 125_000_000 },
            (false, _) => Size { slices: 1, lasting: SLICE / 2, copy_bytes: 50_000_000 },
        };
        let rounds = if !line.bench {
            1
        } else if is_short {
            ROUNDS_SHORT
        } else {
            ROUNDS
        };
        Ok(Arguments {
            role: role(&line.role)?,
            entries: entries(&line)?,
            rounds: line.rounds.unwrap_or(rounds),
            size,
            idle_sessions: if line.bench { 2000 } else { 300 },
            move_sessions: if line.bench { 9000 } else { 200 },
            pgbench_scale: if line.bench { 10 } else { 1 },
            pgbench_seconds: if !line.bench {
                1
            } else if line.short {
                4
            } else {
                10
            },
            threads: line.threads,
            keep: line.keep,
            is_bench: line.bench,
            only: line.only,
            words: std::env::args().skip(1).filter(|word| word != "--bench").collect(),
        })
    }

    pub fn wants(&self, key: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == key)
    }
}

fn entries(line: &Line) -> Result<Vec<Entry>> {
    let mut all: Vec<(String, Kind)> = [
        ("direct", Kind::Direct),
        ("bare", Kind::Bare),
        ("bare-splice", Kind::BareSplice),
        ("nginx", Kind::Nginx),
        ("haproxy", Kind::HaProxy),
        ("haproxy-splice", Kind::HaProxySplice),
        ("pgvane", Kind::Pgvane(env!("CARGO_BIN_EXE_pgvane").into())),
    ]
    .map(|(label, kind)| (label.to_owned(), kind))
    .into();
    for other in &line.pgvane {
        let (label, path) = other.split_once('=').with_context(|| format!("--pgvane {other}: write LABEL=PATH"))?;
        if !PathBuf::from(path).is_file() {
            bail!("--pgvane {other}: {path} is no file");
        }
        all.push((label.to_owned(), Kind::Pgvane(path.into())));
    }
    for name in &line.contestants {
        if !all.iter().any(|(label, _)| label == name) {
            let labels: Vec<&str> = all.iter().map(|(label, _)| label.as_str()).collect();
            bail!("--contestants {name}: there are {}", labels.join(", "));
        }
    }
    let is_in = |label: &str| {
        line.contestants.is_empty() || label == "haproxy" || line.contestants.iter().any(|it| it == label)
    };
    Ok(all.into_iter().filter(|(label, _)| is_in(label)).map(|(label, kind)| Entry { label, kind }).collect())
}

fn role(words: &[String]) -> Result<Option<Role>> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    Ok(match words[..] {
        [] => None,
        ["backend", ports] => Some(Role::Backend(ports.parse()?)),
        ["bare", to] => Some(Role::Bare(to.parse()?)),
        ["bare-splice", to] => Some(Role::BareSplice(to.parse()?)),
        _ => bail!("no such role: {words:?}"),
    })
}
