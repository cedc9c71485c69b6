//! Hosts with one address between them, over a modelled kernel, segment, DCS and Patroni, with faults drawn
//! from a seed.
//!
//! `PGVANE_SIM_SEEDS=5000` runs more of them, `PGVANE_SIM_SEED=17` plays one again and tells its story. What must
//! never be seen stands in `tests/vip_sim/checks.rs`.

#[path = "vip_sim/mod.rs"]
mod vip_sim;

use std::collections::BTreeMap;
use std::env;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use pgvane::model::{Role, VipAddress, VipOnDcsLoss, VipOnExit, VipSpec};
use vip_sim::faults::Fault;
use vip_sim::prng::Prng;
use vip_sim::world::{Act, World};
use vip_sim::{MS, Micros, SEC};

const SEEDS: u64 = 400;
/// Faults begin in this span; then all is mended.
const TROUBLE: Micros = 90 * SEC;
/// Longer than the leader's lease, a mark's and an address's together.
const QUIET: Micros = 45 * SEC;
/// Lines of the journal shown on failure.
const SHOWN: usize = 150;

#[test]
fn no_seed_shows_two_holders() {
    let one = env::var("PGVANE_SIM_SEED").ok().map(|s| s.parse::<u64>().expect("PGVANE_SIM_SEED is a number"));
    let count = env::var("PGVANE_SIM_SEEDS").map_or(SEEDS, |s| s.parse().expect("PGVANE_SIM_SEEDS is a number"));
    let (first, last) = one.map_or((0, count), |seed| (seed, seed + 1));
    let next = AtomicU64::new(first);
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let failures: Vec<(u64, String)> = thread::scope(|scope| {
        let work = || {
            let mut failures = Vec::new();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= last {
                    return failures;
                }
                let world = run(seed);
                if let Some(what) = world.failures.first() {
                    failures.push((seed, story(&world, what)));
                }
            }
        };
        let handles: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        handles.into_iter().flat_map(|h| h.join().expect("a worker")).collect()
    });
    report(failures, last - first);
}

fn report(mut failures: Vec<(u64, String)>, count: u64) {
    failures.sort();
    let Some((seed, text)) = failures.first() else { return };
    let mut kinds: BTreeMap<String, (u64, usize)> = BTreeMap::new();
    for (seed, text) in &failures {
        let kind = text.lines().last().unwrap_or_default().replace(|c: char| c.is_ascii_digit(), "");
        kinds.entry(kind).or_insert((*seed, 0)).1 += 1;
    }
    let kinds: Vec<_> = kinds.iter().map(|(kind, (seed, n))| format!("{n} x, first seed {seed}: {kind}")).collect();
    panic!(
        "\n{text}\n\n{} of {count} seeds failed\n{}\nagain: PGVANE_SIM_SEED={seed} cargo nextest run --test vip_sim no_seed\n",
        failures.len(),
        kinds.join("\n"),
    );
}

fn story(world: &World, what: &str) -> String {
    let journal = &world.journal;
    format!("{}\n{what}", journal[journal.len().saturating_sub(SHOWN)..].join("\n"))
}

#[test]
fn the_same_seed_gives_the_same_journal() {
    for seed in [1, 2, 3] {
        let (first, again) = (run(seed), run(seed));
        let differs = first.journal.iter().zip(&again.journal).find(|(a, b)| a != b);
        assert_eq!(differs, None, "seed {seed}");
        assert_eq!(first.journal.len(), again.journal.len(), "seed {seed}");
        assert!(first.journal.len() > 300, "seed {seed}: too little happened");
    }
}

/// A holder that sees its key go lets go and says so: whoever is next does not wait for a probe.
#[test]
fn hand_over_with_cooperation_never_waits_for_probes() {
    for seed in 0..60 {
        let mut world = World::new(seed, &["n1", "n2", "n3"], &spec(), false);
        world.run_until(2 * SEC);
        world.lead(0);
        world.run_until(4 * SEC);
        for round in 1..10 {
            let to = (round % 3) as usize;
            if seed % 2 == 0 {
                world.vacate();
                world.run_until(world.now + 40 * MS);
            }
            let moved = world.now;
            world.lead(to);
            world.run_until(moved + 3 * SEC);
            assert_eq!(world.failures, Vec::<String>::new(), "seed {seed}");
            let took = world.hosts[to].puts.iter().map(|(at, _)| *at).find(|at| *at >= moved).expect("a put");
            // Both ways through the DCS, and 2 ms for sessions; the verdict of a probe takes 75 ms.
            let limit = if seed % 2 == 0 { 15 * MS } else { 30 * MS };
            assert!(took < moved + limit, "seed {seed}: {} ms", (took - moved) / MS);
        }
    }
}

/// A holder that is dead is waited for as long as its kernel answers, and not much longer.
#[test]
fn a_dead_holder_is_followed_soon_after_its_lease() {
    for seed in 0..40 {
        let mut world = World::new(seed, &["n1", "n2"], &spec(), false);
        world.run_until(2 * SEC);
        world.lead(0);
        world.run_until(4 * SEC + seed * 37 * MS);
        world.happen(Fault::Crash { host: 0 });
        world.lead(1);
        while world.hosts[0].address.is_some() && world.step(30 * SEC) {}
        let gone = world.now;
        world.run_until(gone + 150 * MS);
        assert_eq!(world.failures, Vec::<String>::new(), "seed {seed}");
        assert!(world.hosts[1].address.is_some(), "seed {seed}: 150 ms after the lease, and not taken");
    }
}

fn spec() -> VipSpec {
    VipSpec::new(VipAddress::single([10, 0, 0, 100].into()), "eth0", "pg-test")
}

fn run(seed: u64) -> World {
    let mut draw = Prng::new(seed ^ 0x0071_AD02);
    let mut spec = spec();
    spec.on_dcs_loss = match draw.below(8) {
        0 => VipOnDcsLoss::Hold,
        1 | 2 => VipOnDcsLoss::Release,
        _ => VipOnDcsLoss::KeepWhilePatroniLeads,
    };
    spec.lease = Duration::from_secs([3, 5, 5, 8][draw.below(4) as usize]);
    spec.on_exit = if draw.chance(20) { VipOnExit::Keep(Duration::from_secs(4)) } else { VipOnExit::Release };
    spec.role = if draw.chance(25) { Role::Replica } else { Role::Primary };
    let names = ["n1", "n2", "n3"];
    let hosts = draw.between(2, 4) as usize;
    let mut world = World::new(seed, &names[..hosts], &spec, true);
    for host in 0..hosts {
        world.push(draw.below(3 * SEC), Act::Fault(Fault::Fit { host, fits: true }));
    }
    plan(&mut world, &mut draw, hosts);
    world.run_until(TROUBLE + 10 * SEC);
    world.mend();
    world.run_until(TROUBLE + 10 * SEC + QUIET);
    if world.failures.is_empty() {
        world.check_quiet();
    }
    world
}

/// One to a dozen troubles; more than one at a time is common.
fn plan(world: &mut World, draw: &mut Prng, hosts: usize) {
    let gap = draw.between(2, 25) * SEC;
    let mut at = 5 * SEC + draw.below(SEC);
    while at < TROUBLE {
        for (after, fault) in trouble(draw, hosts) {
            world.push(at + after, Act::Fault(fault));
        }
        at += draw.between(gap / 4, gap);
    }
}

/// A fault and what ends it.
fn trouble(draw: &mut Prng, hosts: usize) -> Vec<(Micros, Fault)> {
    let (host, other) = (draw.below(hosts as u64) as usize, draw.below(hosts as u64) as usize);
    let span = if draw.chance(40) { draw.between(20 * MS, 3 * SEC) } else { draw.between(3 * SEC, 25 * SEC) };
    let during = |begin: Fault, end: Fault| vec![(0, begin), (span, end)];
    match draw.below(22) {
        0 | 1 => vec![(0, Fault::KeyMoves { to: host })],
        2 | 3 => vec![(0, Fault::KeyDeleted)],
        4 => vec![(0, Fault::KeyMoves { to: host }), (draw.between(MS, 300 * MS), Fault::KeyMoves { to: other })],
        5 => during(Fault::ReachDcs { host, reached: false }, Fault::ReachDcs { host, reached: true }),
        // Cut off while the key moves.
        6 => {
            let cut = during(Fault::ReachDcs { host, reached: false }, Fault::ReachDcs { host, reached: true });
            let moves = vec![(draw.below(span), Fault::KeyMoves { to: other })];
            [cut, moves].concat()
        }
        7 => during(Fault::Dcs { answers: false }, Fault::Dcs { answers: true }),
        8 => during(Fault::Crash { host }, Fault::Start { host }),
        9 => during(Fault::Stop { host }, Fault::Continue { host }),
        10 => {
            let moves = vec![(draw.below(span), Fault::KeyMoves { to: other })];
            [during(Fault::Stop { host }, Fault::Continue { host }), moves].concat()
        }
        11 => during(Fault::Exit { host }, Fault::Start { host }),
        12 => vec![(0, Fault::Suspend { host, span })],
        13 => during(Fault::Power { host, on: false }, Fault::Power { host, on: true }),
        14 => {
            let split = during(Fault::Segment { host, side: 1 }, Fault::Segment { host, side: 0 });
            let cut = during(Fault::ReachDcs { host, reached: false }, Fault::ReachDcs { host, reached: true });
            if draw.chance(50) { [split, cut].concat() } else { split }
        }
        15 => during(Fault::Link { host, up: false }, Fault::Link { host, up: true }),
        16 => vec![(0, Fault::Deleted { host })],
        17 => during(Fault::Puts { host, fail: true }, Fault::Puts { host, fail: false }),
        18 => during(Fault::Marks { host, fail: true }, Fault::Marks { host, fail: false }),
        19 => during(Fault::Fit { host, fits: false }, Fault::Fit { host, fits: true }),
        20 => {
            let take = draw.chance(70).then_some(draw.between(MS, 400 * MS));
            vec![(0, Fault::Sessions { host, take }), (0, Fault::Loss(draw.below(40)))]
        }
        _ => during(Fault::Patroni { host, runs: false }, Fault::Patroni { host, runs: true }),
    }
}
