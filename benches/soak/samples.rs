//! What the router uses: memory, descriptors, threads, and what its own metrics say, over time.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use pgvane::cli::demo::processes::ProcessId;
use pgvane::runtime::clock;

use super::kit::router::Router;
use super::kit::tally::median;

/// Sums over all labels.
pub const METRICS: [&str; 4] =
    ["pgvane_clients", "pgvane_target_sessions", "pgvane_sessions_closed_total", "pgvane_cancels_total"];

#[derive(Debug, Clone)]
pub struct Sample {
    pub at: Instant,
    /// KiB.
    pub resident: f64,
    /// KiB that nobody shares.
    pub private: f64,
    pub descriptors: f64,
    pub threads: f64,
    /// In the order of [`METRICS`].
    pub metrics: Vec<f64>,
}

impl Sample {
    /// None when the router is gone.
    pub async fn take(process: ProcessId, router: &Router) -> Option<Sample> {
        let pid = process.pid;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count() as f64;
        let answer = router.ask("/metrics").await.map(|answer| answer.body).unwrap_or_default();
        Some(Sample {
            at: clock::now(),
            resident: field(&status, "VmRSS:"),
            private: field(&rollup, "Private_Clean:") + field(&rollup, "Private_Dirty:"),
            descriptors,
            threads: field(&status, "Threads:"),
            metrics: METRICS.iter().map(|name| sum(&answer, name)).collect(),
        })
    }
}

fn field(text: &str, name: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(f64::NAN)
}

/// Of all series of a metric in Prometheus' text form.
fn sum(text: &str, name: &str) -> f64 {
    series(text, name).map(|(_, value)| value).sum()
}

fn series<'a>(text: &'a str, name: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
    text.lines().filter_map(move |line| {
        let rest = line.strip_prefix(name)?;
        let (labels, value) = rest.rsplit_once(' ')?;
        (labels.is_empty() || labels.starts_with('{')).then_some((labels, value.parse().ok()?))
    })
}

/// How many sessions the router closed, by its reasons.
pub fn closed_by_reason(text: &str) -> BTreeMap<String, f64> {
    let mut reasons = BTreeMap::new();
    for (labels, value) in series(text, "pgvane_sessions_closed_total") {
        let reason = labels.split("reason=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or(labels);
        *reasons.entry(reason.to_owned()).or_default() += value;
    }
    reasons.retain(|_, value| *value > 0.0);
    reasons
}

/// The medians of one figure in two windows of a run.
#[derive(Debug, Clone, Copy)]
pub struct Growth {
    pub early: f64,
    pub late: f64,
}

impl Growth {
    pub fn ratio(self) -> f64 {
        self.late / self.early
    }
}

/// The second and the last tenth of a run: minutes 2 and 10 of ten.
pub fn growth(samples: &[Sample], began: Instant, lasted: Duration, figure: impl Fn(&Sample) -> f64) -> Option<Growth> {
    let window = |from: f64, to: f64| {
        let within = |it: &&Sample| {
            let part = it.at.saturating_duration_since(began).as_secs_f64() / lasted.as_secs_f64();
            (from..=to).contains(&part)
        };
        median(samples.iter().filter(within).map(&figure).collect())
    };
    Some(Growth { early: window(0.1, 0.2)?, late: window(0.9, 1.0)? })
}
