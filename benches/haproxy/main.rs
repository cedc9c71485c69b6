//! What a reload and a failover cost clients of pgvane with `trust: rest`, and clients of HAProxy with
//! the same lines, in the same run. The members are simulated, the two programs are real.
//!
//! `cargo bench --bench haproxy`; `PGVANE_RELOADS` is the number of reloads, 100 unless given.

#[allow(dead_code, reason = "the tests use the rest of it")]
#[path = "../../tests/members/mod.rs"]
mod members;
#[allow(dead_code, reason = "the tests use the rest of it")]
#[path = "../../tests/haproxy/stand/mod.rs"]
mod stand;

use std::fmt::Display;
use std::time::Duration;

use members::secs;
use stand::fronts::{Kind, PIGSTY, QUICK, Words};
use stand::{deposed, reloads, storm};

const RELOADS: usize = 100;
const CROWD: usize = 600;
/// How long a session of HAProxy's old worker is looked at.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() {
    let is_bench = std::env::args().any(|argument| argument == "--bench");
    let wanted = std::env::var("PGVANE_RELOADS").ok().map(|text| text.parse().expect("PGVANE_RELOADS is a number"));
    // Without `cargo bench` it only shows that it works.
    let (words, reloads) = if is_bench { (PIGSTY, wanted.unwrap_or(RELOADS)) } else { (QUICK, 2) };
    println!("cargo bench --bench haproxy    # {}\n", stand::haproxy::version());
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        reload_many(words, reloads).await;
        depose(words).await;
        come_back(words).await;
    });
}

const KINDS: [Kind; 2] = [Kind::HaProxy, Kind::Pgvane];

async fn reload_many(words: Words, reloads: usize) {
    println!("{reloads} reloads under clients that connect, ask and leave; 20 sessions from before the first\n");
    row("", ["connections", "refused", "misrouted", "cut"]);
    for kind in KINDS {
        let loss = reloads::run(kind, words, reloads).await;
        row(name(kind), [loss.connections, loss.refused, loss.misrouted, loss.cut]);
    }
}

async fn depose(words: Words) {
    println!(
        "\nA session from before a reload whose member loses the lead after it: milliseconds until it is closed\n"
    );
    for kind in KINDS {
        let patience = if kind == Kind::HaProxy { PATIENCE } else { secs(60) };
        let closed = deposed::run(kind, words, patience).await;
        let still_open = || format!("open {} s after the next leader served", patience.as_secs());
        row(name(kind), [closed.map_or_else(still_open, |after| after.as_millis().to_string())]);
    }
}

async fn come_back(words: Words) {
    println!("\n{CROWD} clients at once, when the first is served after a failover\n");
    row("", ["dropped", "in 1 s", "slowest ms"]);
    for kind in KINDS {
        let storm = storm::run(kind, words, CROWD).await;
        row(name(kind), [storm.dropped, storm.within_a_second, storm.slowest.as_millis() as usize]);
        if let Some(told) = storm.told {
            println!("    one of those without a session: {told}");
        }
    }
}

fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::HaProxy => "HAProxy",
        Kind::Pgvane => "pgvane",
    }
}

fn row<T: Display>(what: &str, values: impl IntoIterator<Item = T>) {
    let cells: String = values.into_iter().map(|value| format!(" {value:>12}")).collect();
    println!("{what:<10}{cells}");
}
