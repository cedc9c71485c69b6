//! How long a move of the leader key takes to reach clients: simulated members, a real etcd, the
//! router binary. The old leader stays alive and writable through every move.
//!
//! `cargo bench --bench moves`; `PGVANE_MOVES` is the number of moves, 300 unless given.

#[allow(dead_code, reason = "the router's tests stand on the same stage")]
#[path = "../tests/members/mod.rs"]
mod members;

use std::time::Instant;

use members::crowd::{Crowd, open_sessions};
use members::router::Router;
use members::stage::Stage;
use members::{millis, ms, secs, until};
use pgvane::runtime::clock;
use tokio::task::JoinSet;

const MOVES: usize = 300;
/// Without `cargo bench` it only shows that it works.
const MOVES_TRIED: usize = 3;
/// Clients that keep their session, and come again when it ends.
const STAYERS: usize = 10;
/// Clients that come, write once and leave.
const VISITORS: usize = 4;
const CROWD: usize = 500;
const CROWD_MOVES: usize = 10;
const SEED: u64 = 42;

fn main() {
    let is_bench = std::env::args().any(|argument| argument == "--bench");
    let wanted = std::env::var("PGVANE_MOVES").ok().map(|text| text.parse().expect("PGVANE_MOVES is a number"));
    let moves = wanted.unwrap_or(if is_bench { MOVES } else { MOVES_TRIED });
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let stage = Stage::start().await;
        let router = stage.router(|_| {}).await;
        route_moves(&stage, &router, moves).await;
        close_crowds(&stage, &router, if is_bench { CROWD_MOVES } else { 1 }).await;
    });
}

/// When the things happened that one move is made of.
struct Move {
    /// Somebody asked etcd for the leader key, and was told that it has it.
    asked: Instant,
    moved: Instant,
    writable: Instant,
    /// First write at the new leader, last byte at the old one.
    first_write: Instant,
    last_byte: Instant,
}

async fn route_moves(stage: &Stage, router: &Router, moves: usize) {
    let stayers = Crowd::of_returning_sessions(router.write_port(0), STAYERS, ms(1));
    let visitors = Crowd::of_visitors(router.write_port(0), VISITORS, ms(2));
    let mut dice = Dice(SEED);
    let mut etcd = stage.patroni.client().await;
    let mut done = Vec::new();
    for turn in 0..moves {
        let (from, to) = if turn % 2 == 0 { (stage.n1(), stage.n2()) } else { (stage.n2(), stage.n1()) };
        until("the stayers write", secs(20), || async { from.journal.open() >= STAYERS }).await;
        stage.patroni.delete_leader(&mut etcd).await;
        tokio::time::sleep(ms(dice.between(10, 40))).await;
        let asked = clock::now();
        let moved = stage.patroni.take_leader(&mut etcd, &to.name).await;
        tokio::time::sleep(ms(dice.between(5, 30))).await;
        let before = to.journal.writes_total();
        let writable = to.promote(from.timeline() + 1);
        let served = || async { to.journal.open() >= STAYERS && to.journal.writes_total() > before };
        until("the new leader is written to", secs(20), served).await;
        let first_write = to.journal.writes.lock()[before].at;
        let last_byte = from.journal.last_byte.lock().expect("the old leader was written to");
        done.push(Move { asked, moved, writable, first_write, last_byte });
        from.demote();
    }
    let (visitors, stayers) = (visitors.go_home().await, stayers.go_home().await);
    println!("\n{moves} moves of the leader key, {STAYERS} sessions that come back, {VISITORS} visitors at a time\n");
    let waits: Vec<_> = visitors.waits.iter().chain(&stayers.waits).copied().collect();
    report(&done, &waits);
    let refused = stage.refused_writes();
    println!("\n{} visits, {} errors, {refused} writes refused with 25006", visitors.connects, visitors.errors.len());
    visitors.assert_no_errors();
    assert_eq!(refused, 0);
}

/// `waits`: when each client asked for its session, and got it.
fn report(done: &[Move], waits: &[(Instant, Instant)]) {
    let last_served = |m: &Move| {
        let waited = waits.iter().filter(|(asked, got)| *asked < m.writable && *got >= m.writable);
        waited.map(|(_, got)| millis(m.writable, *got)).fold(0.0, f64::max)
    };
    header();
    row("writable to first client's write", done.iter().map(|m| millis(m.writable, m.first_write)));
    row("writable to last waiting client served", done.iter().map(last_served));
    row("key taken to last byte at the old leader", done.iter().map(|m| millis(m.moved, m.last_byte)));
    row("  counted from the asking for the key", done.iter().map(|m| millis(m.asked, m.last_byte)));
}

async fn close_crowds(stage: &Stage, router: &Router, moves: usize) {
    let (mut done, mut on_cpu, mut in_queue) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..moves {
        let leader = router.status().await["leader"]["open"].as_str().unwrap_or_default().to_owned();
        let (from, to) = if leader == "n1" { (stage.n1(), stage.n2()) } else { (stage.n2(), stage.n1()) };
        let mut waiting = JoinSet::new();
        for mut client in open_sessions(router.write_port(0), CROWD).await {
            waiting.spawn(async move {
                client.closed().await;
                clock::now()
            });
        }
        let mut etcd = stage.patroni.client().await;
        stage.patroni.delete_leader(&mut etcd).await;
        let before = router.cpu();
        let moved = stage.patroni.take_leader(&mut etcd, &to.name).await;
        let last = waiting.join_all().await.into_iter().max().expect("there were sessions");
        let after = router.cpu();
        done.push(millis(moved, last));
        on_cpu.push(after.running - before.running);
        in_queue.push(after.runnable - before.runnable);
        to.promote(from.timeline() + 1);
        from.demote();
        router.until_open(&to.name).await;
    }
    println!("\n{moves} moves with {CROWD} idle sessions\n");
    header();
    row("key taken to last session closed", done.into_iter());
    row("  the router's CPU time for it", on_cpu.into_iter());
    row("  its threads' wait for a free CPU", in_queue.into_iter());
}

fn header() {
    println!("{:<45} {:>8} {:>8} {:>8}", "milliseconds", "p50", "p95", "max");
}

fn row(what: &str, values: impl Iterator<Item = f64>) {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    let at = |percent: usize| sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)];
    println!("{what:<45} {:>8.1} {:>8.1} {:>8.1}", at(50), at(95), at(100));
}

/// A seeded sequence (splitmix64): the same run every time.
struct Dice(u64);

impl Dice {
    fn between(&mut self, low: u64, high: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        low + (mixed ^ (mixed >> 31)) % (high - low + 1)
    }
}
