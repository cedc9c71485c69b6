//! What sessions cost that have asked once and then say nothing.

use std::time::Duration;

use anyhow::{Context, Result};

use super::arguments::Arguments;
use super::contestants::{Contestant, Kind};
use super::load::Opener;
use super::rows::{Goal, Metric};
use super::usage::holdings;

pub const TITLE: &str = "idle sessions after one query each";
/// Opened and closed again before anything is counted, so that what every program has but once is there.
const WARM: usize = 200;
const AT_A_TIME: usize = 50;
/// Until the second look.
const LATER: Duration = Duration::from_secs(10);
/// For the closes of the warm-up to have gone through.
const SETTLE: Duration = Duration::from_millis(500);

pub const METRICS: [Metric; 4] = [
    Metric { name: "private bytes/session", decimals: 0, goal: Some(Goal::AtMost(0.5)) },
    Metric { name: "10 s later", decimals: 0, goal: Some(Goal::AtMost(0.5)) },
    Metric { name: "descriptors/session", decimals: 2, goal: None },
    Metric { name: "MiB before", decimals: 1, goal: None },
];

pub fn takes_part(kind: &Kind) -> bool {
    !matches!(kind, Kind::Direct | Kind::HaProxySplice)
}

/// One value for each metric, of each of them; all have their sessions at the same time, so that one wait does.
pub fn round(contestants: &[Contestant], round: usize, arguments: &Arguments) -> Result<Vec<(String, Vec<f64>)>> {
    let sessions = arguments.idle_sessions;
    let mut standing = Vec::new();
    for turn in 0..contestants.len() {
        let who = &contestants[(turn + round) % contestants.len()];
        let open = |count| {
            Opener::new(who.at, AT_A_TIME)?.stay(count).with_context(|| format!("idle sessions through {}", who.label))
        };
        drop(open(WARM)?);
        std::thread::sleep(SETTLE);
        let before = holdings(&who.watched.proxy)?;
        let streams = open(sessions)?;
        let after = holdings(&who.watched.proxy)?;
        standing.push((who, before, after, streams));
    }
    std::thread::sleep(LATER);
    let mut done = Vec::new();
    for (who, before, after, _streams) in &standing {
        let later = holdings(&who.watched.proxy)?;
        let each = |now: f64, before: f64| (now - before) / sessions as f64;
        let values = vec![
            each(after.0, before.0),
            each(later.0, before.0),
            each(after.1, before.1),
            before.0 / f64::from(1 << 20),
        ];
        done.push((who.label.clone(), values));
    }
    Ok(done)
}
