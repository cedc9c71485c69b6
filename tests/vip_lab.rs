//! Who holds a virtual address, and when: `pgvane vip` and `pgvane run` on hosts of their own, with a real etcd,
//! in every situation that some vip-manager takes wrongly. The same situations against Debian's vip-manager,
//! and exact figures, are in `cargo bench --bench vip`. With `PGVANE_LONG`: all moves, and outages in full.
//! Needs root, for network namespaces, and what `scripts/setup test` installs.

#[path = "lab/namespaces.rs"]
mod namespaces;
#[path = "vip_lab/mod.rs"]
mod vip_lab;

use vip_lab::bed::Bed;
use vip_lab::holder::Kind;
use vip_lab::row::{Row, Table};
use vip_lab::rows::{LINKS, MOVES, OUTAGES, STOPS, Situation};

/// All situations that this program can be in, four networks side by side.
async fn play(kind: Kind) -> Table {
    let groups = [STOPS, LINKS, OUTAGES, MOVES].map(|situations| play_in_turn(kind, situations));
    let mut table = Table::default();
    for (name, row) in futures_util::future::join_all(groups).await.into_iter().flatten() {
        table.add(name, kind, row);
    }
    table
}

async fn play_in_turn(kind: Kind, situations: &'static [Situation]) -> Vec<(&'static str, Row)> {
    let is_long = std::env::var_os("PGVANE_LONG").is_some();
    // One alone: PGVANE_SITUATION="etcd hung".
    let only = std::env::var("PGVANE_SITUATION").unwrap_or_default();
    let chosen: Vec<_> = situations.iter().filter(|it| it.fits(kind) && it.name.contains(&only)).collect();
    if chosen.is_empty() {
        return Vec::new();
    }
    let mut bed = Bed::make(kind, env!("CARGO_BIN_EXE_pgvane"), is_long).await;
    let mut rows = Vec::new();
    for situation in chosen {
        rows.push((situation.name, situation.play(&mut bed).await));
    }
    rows
}

/// Every fact is right; else how it went.
fn assert_right(kind: Kind, table: &Table) {
    println!("{table}");
    let tell = |(name, row): (&'static str, &Row)| {
        let wrong: Vec<_> = row.wrong().iter().map(|it| format!("{}: {}", it.what, it.value)).collect();
        format!("== {}: {name} ==\n{}\n{}", kind.name(), wrong.join("\n"), row.report)
    };
    let reports: Vec<String> = table.wrong_rows(kind).map(tell).collect();
    assert!(reports.is_empty(), "{}", reports.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn alone_by_vip_managers_flags() {
    assert_right(Kind::Alone, &play(Kind::Alone).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_router() {
    assert_right(Kind::Router, &play(Kind::Router).await);
}

/// What is measured here is seen where it is known to be there: vip-manager keeps its address when it is told to
/// end, when it is killed and when it is another's.
#[tokio::test(flavor = "multi_thread")]
async fn the_bed_sees_what_is_wrong() {
    let mut bed = Bed::make(Kind::VipManager, env!("CARGO_BIN_EXE_pgvane"), false).await;
    let known = [("SIGTERM", STOPS, "gone after"), ("two nodes with the same trigger value", LINKS, "two holders")];
    for (name, situations, what) in known {
        let situation = situations.iter().find(|it| it.name == name).unwrap();
        let row = situation.play(&mut bed).await;
        assert!(row.wrong().iter().any(|fact| fact.what == what), "{name}: {:?}", row.facts);
    }
}
