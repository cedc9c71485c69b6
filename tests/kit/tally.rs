//! Arithmetic over what clients noted.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use pgvane::cli::demo::report::{Gap, longest_gap};

use super::clients::{Noted, Phase};

/// By SQLSTATE or `io: ...`.
pub type Words = BTreeMap<String, u64>;

/// How writers of one path fared in a window of time.
#[derive(Debug, Clone, Default)]
pub struct Fared {
    pub good: u64,
    /// New connections that did not come about.
    pub refused: Words,
    /// Sessions that were there and broke.
    pub cut: Words,
    /// Of the waits of new connections.
    pub longest_connect: Duration,
}

impl Fared {
    pub fn of(noted: &[Noted]) -> Fared {
        let mut fared = Fared::default();
        for it in noted {
            match &it.outcome {
                Ok(_) => fared.good += 1,
                Err(fault) => {
                    let words = if fault.phase == Phase::Connect { &mut fared.refused } else { &mut fared.cut };
                    *words.entry(fault.word.to_string()).or_default() += 1;
                }
            }
            if let Some(connected) = it.connected {
                fared.longest_connect = fared.longest_connect.max(connected.saturating_duration_since(it.started));
            }
        }
        fared
    }

    pub fn add(&mut self, other: &Fared) {
        self.good += other.good;
        self.longest_connect = self.longest_connect.max(other.longest_connect);
        for (mine, theirs) in [(&mut self.refused, &other.refused), (&mut self.cut, &other.cut)] {
            for (word, count) in theirs {
                *mine.entry(word.clone()).or_default() += count;
            }
        }
    }

    pub fn refusals(&self) -> u64 {
        self.refused.values().sum()
    }

    pub fn cuts(&self) -> u64 {
        self.cut.values().sum()
    }

    /// Writes that reached a member in recovery.
    pub fn misrouted(&self) -> u64 {
        let count = |words: &Words| words.get("25006").copied().unwrap_or(0);
        count(&self.refused) + count(&self.cut)
    }
}

/// The longest time in the window without a good write.
pub fn outage(noted: &[Noted], from: Instant, until: Instant) -> Option<Gap> {
    let good = noted.iter().filter(|it| it.outcome.is_ok());
    longest_gap(good.map(|it| (it.ended, it.ended)), from, until)
}

/// How long everyone who was connecting through `end` (of an outage) went on waiting after it, the
/// shortest first.
pub fn held_past(noted: &[Noted], end: Instant) -> Vec<Duration> {
    let waited = noted.iter().filter(|it| it.is_new && it.started < end && it.ended > end);
    let mut waits: Vec<Duration> =
        waited.map(|it| it.connected.unwrap_or(it.ended).saturating_duration_since(end)).collect();
    waits.sort_unstable();
    waits
}

/// How many were connecting for longer than `at_least` when `end` came.
pub fn held(noted: &[Noted], end: Instant, at_least: Duration) -> usize {
    noted.iter().filter(|it| it.is_new && it.ended > end && it.started + at_least < end).count()
}

/// The last good write at `server`.
pub fn last_at(noted: &[Noted], server: &str) -> Option<Instant> {
    noted.iter().filter(|it| it.outcome.as_deref().is_ok_and(|at| at == server)).map(|it| it.ended).max()
}

/// The first good write at `server` that ended at or after `from`.
pub fn first_at(noted: &[Noted], server: &str, from: Instant) -> Option<Instant> {
    let good = noted.iter().filter(|it| it.ended >= from && it.outcome.as_deref().is_ok_and(|at| at == server));
    good.map(|it| it.ended).min()
}

pub fn median(mut figures: Vec<f64>) -> Option<f64> {
    figures.sort_by(f64::total_cmp);
    let half = figures.len() / 2;
    match figures.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(figures[half]),
        _ => Some(f64::midpoint(figures[half - 1], figures[half])),
    }
}

pub fn largest(figures: &[f64]) -> Option<f64> {
    figures.iter().copied().max_by(f64::total_cmp)
}

pub fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e4).round() / 10.0
}

/// `after - before`, negative when it came first.
pub fn millis_between(before: Instant, after: Instant) -> f64 {
    match after.checked_duration_since(before) {
        Some(later) => millis(later),
        None => -millis(before.saturating_duration_since(after)),
    }
}
