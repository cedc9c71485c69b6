//! Who holds a virtual address, and for how long nobody or two do: Debian's vip-manager, `pgvane vip` and
//! `pgvane run` in the same situations, each in a network of its own, seen from outside.
//! Needs root, for network namespaces, and what `scripts/setup test` installs.
//!
//! `cargo bench --bench vip -- [--only NAME] [--kinds vip-manager,alone,router] [--short] [--reports]`

#[path = "../../tests/lab/namespaces.rs"]
mod namespaces;
#[path = "../../tests/vip_lab/mod.rs"]
mod vip_lab;

use std::path::{Path, PathBuf};
use std::process::Command;

use clap::{Parser, ValueEnum};
use vip_lab::bed::Bed;
use vip_lab::holder::Kind;
use vip_lab::row::{Row, Table};
use vip_lab::rows::{LINKS, MOVES, OUTAGES, STOPS, Situation};

type Rows = Vec<(&'static str, Kind, Row)>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Program {
    VipManager,
    Alone,
    Router,
}

impl Program {
    fn kind(self) -> Kind {
        match self {
            Program::VipManager => Kind::VipManager,
            Program::Alone => Kind::Alone,
            Program::Router => Kind::Router,
        }
    }
}

#[derive(Debug, Parser)]
#[command(about = "Who holds a virtual address: vip-manager 1.0.2, pgvane vip, pgvane run")]
struct Args {
    /// Only situations with this in their name.
    #[arg(long, default_value = "")]
    only: String,
    #[arg(long, value_delimiter = ',', value_enum, default_value = "vip-manager,alone,router")]
    kinds: Vec<Program>,
    /// As many turns as in the tests.
    #[arg(long)]
    short: bool,
    /// How each situation went where something is wrong.
    #[arg(long)]
    reports: bool,
    /// The pgvane to measure.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_pgvane"))]
    pgvane: PathBuf,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main]
async fn main() {
    let args = Args::parse();
    print!("{}", head(&args.pgvane));
    let mut table = Table::default();
    // What takes seconds is measured side by side, and what takes a millisecond by itself.
    let together: Vec<_> = args.kinds.iter().map(|it| play(&args, it.kind(), &[STOPS, LINKS, OUTAGES])).collect();
    let mut rows = futures_util::future::join_all(together).await;
    for kind in &args.kinds {
        rows.push(play(&args, kind.kind(), &[MOVES]).await);
    }
    let mut rows: Rows = rows.into_iter().flatten().collect();
    let place = |name: &str| groups().position(|it| it.name == name);
    rows.sort_by_key(|(name, kind, _)| (place(name), *kind));
    for (name, kind, row) in rows {
        table.add(name, kind, row);
    }
    print!("\n{table}");
    for kind in args.kinds.iter().map(|it| it.kind()) {
        let wrong: Vec<_> = table.wrong_rows(kind).collect();
        println!("{}: {} situations wrong", kind.name(), wrong.len());
        for (name, row) in wrong.iter().filter(|_| args.reports) {
            println!("== {}: {name} ==\n{}", kind.name(), row.report);
        }
    }
}

fn groups() -> impl Iterator<Item = &'static Situation> {
    [STOPS, LINKS, OUTAGES, MOVES].into_iter().flatten()
}

async fn play(args: &Args, kind: Kind, groups: &[&'static [Situation]]) -> Rows {
    let mut rows = Vec::new();
    let chosen: Vec<_> =
        groups.iter().copied().flatten().filter(|it| it.fits(kind) && it.name.contains(&args.only)).collect();
    if chosen.is_empty() {
        return rows;
    }
    let mut bed = Bed::make(kind, &args.pgvane, !args.short).await;
    for situation in chosen {
        eprintln!("{}: {}", kind.name(), situation.name);
        rows.push((situation.name, kind, situation.play(&mut bed).await));
    }
    rows
}

fn head(pgvane: &Path) -> String {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!(
        "cargo bench --bench vip -- {}\n  {cores} cores, Linux {}, load before {}\n  {}\n  vip-manager {}\n  {}\n  \
         kernel lease 3 s, leader's lease 30 s, one probe of the client each millisecond; hosts are namespaces on \
         one bridge\n",
        words.join(" "),
        read("/proc/sys/kernel/osrelease"),
        read("/proc/loadavg"),
        first_line(&pgvane.to_string_lossy(), &["--version"]),
        first_line("dpkg-query", &["-W", "-f", "${Version}", "vip-manager"]),
        first_line("etcd", &["--version"]),
    )
}

fn first_line(program: &str, arguments: &[&str]) -> String {
    let told = Command::new(program).args(arguments).output();
    let text = told.map(|it| String::from_utf8_lossy(&it.stdout).into_owned()).unwrap_or_default();
    text.lines().next().unwrap_or("?").to_owned()
}
