//! Random timelines, lived through by HAProxy and by pgvane at the same time.
//!
//! `PGVANE_DIFF_SEED=N` plays one of them alone and prints what both did. `PGVANE_DIFF_AGAINST=haproxy`
//! has HAProxy live through them beside another HAProxy, which shows what the tolerance is for.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::compare::{Figures, Outcome, compare};
use crate::lag::Lag;
use crate::record::{Front, Record, Stage, conduct};
use crate::script::Timeline;
use crate::stand::pgvane::Pgvane;
use crate::stand::raise_descriptors;

const SEEDS: u64 = 60;
/// More of them would make each other late.
const SEEDS_AT_ONCE: usize = 20;
/// Of a timeline, in milliseconds.
const LENGTH: u64 = 12_000;
/// For seeds during which the machine was late.
const AGAIN_MAX: usize = 2;
/// Programs, for the same reason.
const STARTS_AT_ONCE: usize = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pgvane_checks_as_haproxy_does() {
    raise_descriptors();
    let alone = std::env::var("PGVANE_DIFF_SEED").ok();
    let alone: Option<u64> = alone.map(|text| text.parse().expect("PGVANE_DIFF_SEED is a number"));
    let seeds: Vec<u64> = alone.map_or_else(|| (1..=SEEDS).collect(), |seed| vec![seed]);
    let mut todo: Vec<Timeline> = seeds.iter().map(|seed| Timeline::random(*seed, LENGTH)).collect();
    let (mut figures, mut again, mut different) = (Figures::default(), 0, Vec::new());
    for attempt in 0..=AGAIN_MAX {
        let mut unfit = Vec::new();
        for (timeline, left, right) in in_waves(std::mem::take(&mut todo)).await {
            if alone.is_some() {
                println!("{timeline:?}\nHAProxy:\n{left}\nbeside it:\n{right}");
            }
            match compare(&timeline, &left, &right) {
                Outcome::Same(more) => figures.add(more),
                Outcome::Unfit(why) => {
                    println!("seed {} in attempt {attempt}: {why}", timeline.seed);
                    unfit.push(timeline);
                }
                Outcome::Different(lines) => {
                    different.extend(lines.iter().map(|line| format!("seed {}: {line}", timeline.seed)));
                }
            }
        }
        if unfit.is_empty() {
            break;
        }
        again += if attempt < AGAIN_MAX { unfit.len() } else { 0 };
        todo = unfit;
    }
    println!("{} seeds, {again} runs again: {figures}", seeds.len());
    let undecided: Vec<u64> = todo.iter().map(|timeline| timeline.seed).collect();
    assert!(undecided.is_empty(), "no two runs in {} were alike for seeds {undecided:?}", AGAIN_MAX + 1);
    assert!(different.is_empty(), "HAProxy and pgvane differ:\n{}", different.join("\n"));
}

/// Who stands beside HAProxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rival {
    HaProxy,
    Pgvane,
}

impl Rival {
    fn wanted() -> Rival {
        match std::env::var("PGVANE_DIFF_AGAINST").as_deref() {
            Ok("haproxy") => Rival::HaProxy,
            Ok(other) => panic!("PGVANE_DIFF_AGAINST is haproxy or nothing, not {other}"),
            Err(_) => Rival::Pgvane,
        }
    }
}

async fn in_waves(timelines: Vec<Timeline>) -> Vec<(Timeline, Record, Record)> {
    let mut all = Vec::new();
    for wave in timelines.chunks(SEEDS_AT_ONCE) {
        all.extend(live_through(wave.to_vec()).await);
    }
    all
}

/// All of them at once: HAProxy's record and its rival's.
async fn live_through(timelines: Vec<Timeline>) -> Vec<(Timeline, Record, Record)> {
    let lag = Arc::new(Lag::watch());
    let turns = Arc::new(Semaphore::new(STARTS_AT_ONCE));
    let stages: Vec<Stage> = timelines.iter().map(Stage::new).collect();
    let pgvane = match Rival::wanted() {
        Rival::HaProxy => None,
        Rival::Pgvane => Some(one_for_all(&timelines, &stages).await),
    };
    let mut living = JoinSet::new();
    for (timeline, stage) in timelines.into_iter().zip(stages) {
        let (lag, turns, pgvane) = (lag.clone(), turns.clone(), pgvane.clone());
        living.spawn(async move {
            let own = Stage::new(&timeline);
            let left = beside_haproxy(&own, &timeline, &turns, &lag);
            let right = async {
                match pgvane {
                    None => beside_haproxy(&stage, &timeline, &turns, &lag).await,
                    Some(pgvane) => {
                        let front = Front::Pgvane(pgvane, cluster_name(&timeline));
                        conduct(&stage, front, &timeline, &lag).await
                    }
                }
            };
            let (left, right) = tokio::join!(left, right);
            (timeline, left, right)
        });
    }
    living.join_all().await
}

async fn beside_haproxy(stage: &Stage, timeline: &Timeline, turns: &Semaphore, lag: &Lag) -> Record {
    let turn = turns.acquire().await.expect("an open semaphore");
    let front = stage.haproxy(timeline).await;
    drop(turn);
    conduct(stage, front, timeline, lag).await
}

async fn one_for_all(timelines: &[Timeline], stages: &[Stage]) -> Arc<Pgvane> {
    let clusters = timelines.iter().zip(stages);
    let text: String =
        clusters.map(|(timeline, stage)| stage.pgvane_cluster(&cluster_name(timeline), timeline)).collect();
    Arc::new(Pgvane::start(&text).await)
}

fn cluster_name(timeline: &Timeline) -> String {
    format!("s{:02}", timeline.seed)
}
