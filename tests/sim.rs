//! Several routers over a simulated etcd, Patroni and PostgreSQL, with faults drawn from a seed.
//!
//! `PGVANE_SIM_SEEDS=5000` runs more of them, `PGVANE_SIM_SEED=17` plays one again and tells its
//! story. What must never be seen stands in `tests/sim/checks.rs`.

#[path = "sim/mod.rs"]
mod sim;

use std::collections::BTreeMap;
use std::env;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use pgvane::model::{AdminState, ClusterSpec, OnDcsLoss};
use sim::etcd::EtcdState;
use sim::faults::Fault;
use sim::member::{Agent, Pg, Rest};
use sim::prng::Prng;
use sim::world::{Act, World};
use sim::{MS, Micros, SEC};

const SEEDS: u64 = 250;
/// Faults begin in this span; then all is mended.
const TROUBLE: Micros = 90 * SEC;
/// Longer than a lease, a restart and a slow promotion together.
const QUIET: Micros = 70 * SEC;
/// Lines of the journal shown on failure.
const SHOWN: usize = 120;

#[test]
fn no_seed_shows_what_is_forbidden() {
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
    // The same mistake under many seeds: one line for each kind.
    let mut kinds: BTreeMap<String, (u64, usize)> = BTreeMap::new();
    for (seed, text) in &failures {
        let kind = text.lines().last().unwrap_or_default().replace(|c: char| c.is_ascii_digit(), "");
        kinds.entry(kind).or_insert((*seed, 0)).1 += 1;
    }
    let kinds: Vec<_> = kinds.iter().map(|(kind, (seed, n))| format!("{n} x, first seed {seed}: {kind}")).collect();
    panic!(
        "\n{text}\n\n{} of {count} seeds failed\n{}\nagain: PGVANE_SIM_SEED={seed} cargo nextest run --test sim no_seed\n",
        failures.len(),
        kinds.join("\n"),
    );
}

fn story(world: &World, what: &str) -> String {
    let journal = &world.journal;
    let told = |line: &&String| !line.contains("> probe") && !line.contains("log Target");
    let lines: Vec<&str> = journal.iter().filter(told).map(String::as_str).collect();
    format!("{}\n{what}", lines[lines.len().saturating_sub(SHOWN)..].join("\n"))
}

#[test]
fn the_same_seed_gives_the_same_journal() {
    for seed in [1, 2, 3] {
        let (first, again) = (run(seed), run(seed));
        let differs = first.journal.iter().zip(&again.journal).find(|(a, b)| a != b);
        assert_eq!(differs, None, "seed {seed}");
        assert_eq!(first.journal.len(), again.journal.len(), "seed {seed}");
        assert!(first.journal.len() > 1000, "seed {seed}: too little happened");
    }
}

fn run(seed: u64) -> World {
    let mut draw = Prng::new(seed ^ 0xFA17);
    let policy = if draw.chance(15) { OnDcsLoss::Close } else { OnDcsLoss::Keep };
    let routers = draw.between(1, 4) as usize;
    let specs: Vec<_> = (0..routers).map(|_| drains(&mut draw, sim::cluster(policy, None))).collect();
    let mut world = World::new(seed, 3, &specs, true);
    if draw.chance(50) {
        world.push(SEC, Act::Fault(Fault::Failsafe(true)));
    }
    plan(&mut world, &mut draw, routers);
    world.run_until(TROUBLE + 30 * SEC);
    mend(&mut world);
    world.run_until(TROUBLE + 30 * SEC + QUIET);
    if world.failures.is_empty() {
        world.check_quiet();
    }
    world
}

/// Each service gives transactions in maintenance another time.
fn drains(draw: &mut Prng, mut spec: Arc<ClusterSpec>) -> Arc<ClusterSpec> {
    for service in spec.services.clone() {
        let drain = Duration::from_millis([0, 500, 3000, 20_000][draw.below(4) as usize]);
        spec = sim::with_drain(&spec, Some(&service.name), drain);
    }
    spec
}

/// One to a dozen troubles; more than one at a time is common, and some seeds have hardly any.
fn plan(world: &mut World, draw: &mut Prng, routers: usize) {
    let policy = world.routers[0].spec.on_dcs_loss;
    let gap = draw.between(3, 30) * SEC;
    let mut at = 5 * SEC + draw.below(SEC);
    while at < TROUBLE {
        for (after, fault) in trouble(draw, routers, policy) {
            world.push(at + after, Act::Fault(fault));
        }
        at += draw.between(gap / 4, gap);
    }
}

/// A fault and what ends it.
fn trouble(draw: &mut Prng, routers: usize, policy: OnDcsLoss) -> Vec<(Micros, Fault)> {
    let (r, m) = (draw.below(routers as u64) as usize, draw.below(3) as usize);
    let short = draw.between(50 * MS, 5 * SEC);
    let long = draw.between(SEC, 60 * SEC);
    let lasting = |span: Micros, begin: Fault, end: Fault| vec![(0, begin), (span, end)];
    match draw.below(22) {
        20 => {
            let state = if draw.chance(50) { AdminState::Maint } else { AdminState::Drain };
            let order = |state| Fault::Order { member: m, state };
            lasting(if draw.chance(30) { short } else { long }, order(state), order(AdminState::Ready))
        }
        21 => {
            let max_lag = draw.chance(50).then_some(1 << 40);
            vec![(0, Fault::Reload { router: r, spec: drains(draw, sim::cluster(policy, max_lag)) })]
        }
        0 => lasting(long, Fault::Etcd(EtcdState::Down), Fault::Etcd(EtcdState::Up)),
        1 => lasting(long, Fault::Etcd(EtcdState::Hung), Fault::Etcd(EtcdState::Up)),
        2 | 3 => lasting(long, Fault::Link { router: r, up: false }, Fault::Link { router: r, up: true }),
        4 => vec![(0, Fault::SilenceWatch(r))],
        5 => vec![(0, Fault::Pause { router: r, span: draw.between(100 * MS, 8 * SEC) })],
        6 => vec![(0, Fault::Restart(r))],
        7 => {
            let reach = |reached| Fault::Reach { router: r, member: m, reached };
            lasting(short * 3, reach(false), reach(true))
        }
        8 | 9 => lasting(long, Fault::CutMember { member: m, cut: true }, Fault::CutMember { member: m, cut: false }),
        10 => lasting(long, Fault::Agent(m, Agent::Killed), Fault::Agent(m, Agent::Running)),
        11 => lasting(long, Fault::Agent(m, Agent::Frozen), Fault::Agent(m, Agent::Running)),
        12 => {
            let delay = draw.between(100 * MS, 900 * MS);
            let kinds = [Rest::Hangs, Rest::Refuses, Rest::Slow(delay), Rest::Garbled];
            let kind = kinds[draw.below(4) as usize];
            lasting(long, Fault::Rest(m, kind), Fault::Rest(m, Rest::Answers))
        }
        13 => vec![(0, Fault::Blip(m, 152 * MS))],
        14 => vec![(0, Fault::Pg(m, Pg::Stopped))],
        15 => lasting(long, Fault::Host { member: m, up: false }, Fault::Host { member: m, up: true }),
        16 | 17 => vec![(0, Fault::Switchover)],
        18 => vec![(0, Fault::SlowPromotion(draw.between(SEC, 15 * SEC))), (SEC, Fault::Switchover)],
        _ => match draw.below(3) {
            0 => vec![(0, Fault::DropLeaderKey)],
            1 => lasting(long, Fault::ClusterPause(true), Fault::ClusterPause(false)),
            _ => vec![(0, Fault::CopyEtcd), (short, Fault::ReplaceEtcd { other_id: draw.chance(50) })],
        },
    }
}

fn mend(world: &mut World) {
    world.happen(Fault::Etcd(EtcdState::Up));
    world.ask_failover(None, None);
    world.happen(Fault::ClusterPause(false));
    for router in 0..world.routers.len() {
        world.happen(Fault::Link { router, up: true });
        for member in 0..3 {
            world.happen(Fault::Reach { router, member, reached: true });
        }
    }
    for member in 0..3 {
        world.happen(Fault::CutMember { member, cut: false });
        world.happen(Fault::Rest(member, Rest::Answers));
        world.happen(Fault::Order { member, state: AdminState::Ready });
        if world.members[member].host_up {
            world.happen(Fault::Agent(member, Agent::Running));
        } else {
            world.happen(Fault::Host { member, up: true });
        }
        world.members[member].switching = false;
    }
}
