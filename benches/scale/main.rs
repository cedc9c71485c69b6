//! What the parts that many share cost, by how many there are: sessions, members, clusters. None of it may grow
//! with the number of sessions, but for waking them.
//!
//! `cargo bench --bench scale -- [--only WORD] [--keep]`; the part `rounds` needs valgrind.

mod choice;
mod cluster;
mod fleet;
mod heap;
mod machine;
#[allow(dead_code, reason = "the tests use the rest of it")]
#[path = "../../tests/members/mod.rs"]
mod members;
mod registry;
mod rounds;
mod timer;
mod watch;
mod world;

use std::fmt::Write;
use std::path::PathBuf;

use clap::Parser;
use pgvane::proxy::hold::TargetSlot;
use pgvane::proxy::protocol::conversation::Conversation;
use pgvane::proxy::relay::Session;
use pgvane::proxy::session_log::Record;
use pgvane::proxy::sessions::SessionGuard;

#[global_allocator]
static ALLOCATOR: heap::Counting = heap::Counting;

#[derive(Debug, Parser)]
#[command(about = "What choosing, registering, closing and deciding cost by the number of sessions and clusters")]
struct Args {
    /// Only the parts with this in their name.
    #[arg(long, default_value = "")]
    only: String,
    /// Write the page to benches/results, too.
    #[arg(long)]
    keep: bool,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

type Part = (&'static str, fn(&mut String));

const PARTS: [Part; 7] = [
    ("sizes", sizes),
    // First: what others have freed would hide what it takes.
    ("fleet", fleet::report),
    ("watch", watch::report),
    ("machine", machine::report),
    ("choice", choice::report),
    ("registry", registry::report),
    ("rounds", rounds::report),
];

fn main() {
    let args = Args::parse();
    let mut page = head();
    print!("{page}");
    for (_, report) in PARTS.iter().filter(|(name, _)| name.contains(&args.only)) {
        let mut part = String::new();
        report(&mut part);
        print!("{part}");
        page += &part;
    }
    if args.keep {
        let day = jiff::Zoned::now().date();
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("benches/results/{day}-scale.txt"));
        std::fs::write(&path, page).expect("benches/results can be written to");
    }
}

fn head() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let (kernel, load) = (read("/proc/sys/kernel/osrelease"), read("/proc/loadavg"));
    format!(
        "cargo bench --bench scale -- --keep\n  {}, {cores} cores ({}), Linux {}, load before {}\n  \
         medians; 3a is three allocations in one call\n",
        jiff::Zoned::now().strftime("%Y-%m-%d %H:%M"),
        model.trim_start_matches([' ', '\t', ':']),
        kernel.trim(),
        load.trim(),
    )
}

fn sizes(page: &mut String) {
    let _ = writeln!(page, "\nBytes of one session's parts");
    let parts = [
        ("SessionGuard", size_of::<SessionGuard>()),
        ("TargetSlot", size_of::<TargetSlot>()),
        ("Conversation", size_of::<Conversation>()),
        ("Session (the three above and two sockets)", size_of::<Session>()),
        ("Record (its log line)", size_of::<Record>()),
    ];
    for (name, bytes) in parts {
        let _ = writeln!(page, "  {name:<58}{bytes:>12}");
    }
    const SESSIONS: usize = 100_000;
    let before = heap::live();
    let crowd = world::Ground::crowded(world::FEW, SESSIONS);
    let each = (heap::live() - before) as f64 / SESSIONS as f64;
    drop(crowd);
    let _ = writeln!(page, "  {:<58}{each:>12.0}", "guard, slot, key: all that the registry has of it");
}
