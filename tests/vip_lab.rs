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

async fn play(kind: Kind, situations: &'static [Situation]) -> Table {
    let is_long = std::env::var_os("PGVANE_LONG").is_some();
    let mut bed = Bed::make(kind, env!("CARGO_BIN_EXE_pgvane"), is_long).await;
    let mut table = Table::default();
    // One alone: PGVANE_SITUATION="etcd hung".
    let only = std::env::var("PGVANE_SITUATION").unwrap_or_default();
    for situation in situations.iter().filter(|it| it.fits(kind) && it.name.contains(&only)) {
        let row = situation.play(&mut bed).await;
        table.add(situation.name, kind, row);
    }
    table
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

macro_rules! suite {
    ($($name:ident: $kind:ident, $situations:ident;)*) => {
        $(#[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            assert_right(Kind::$kind, &play(Kind::$kind, $situations).await);
        })*
    };
}

suite! {
    alone_it_stops_and_starts: Alone, STOPS;
    alone_it_minds_its_link: Alone, LINKS;
    alone_it_outlives_etcd: Alone, OUTAGES;
    alone_it_moves: Alone, MOVES;
    a_router_stops_and_starts: Router, STOPS;
    a_router_minds_its_link: Router, LINKS;
    a_router_outlives_etcd: Router, OUTAGES;
    a_router_moves: Router, MOVES;
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
