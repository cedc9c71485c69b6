//! The rows of the table that every contestant goes through one after the other: what is done, and what is
//! counted.

use std::time::Duration;

use anyhow::Result;

use super::contestants::{Contestant, Kind};
use super::load::{self, Opener};
use super::usage::Used;

pub const SESSIONS: usize = 16;
const CONNECTORS: usize = 8;
const COPIES: usize = 8;

/// How long each measurement lasts, and how much it moves. A round of one contestant is made of several, between
/// which the others have their turns, so that whatever else happens on the machine happens to all of them.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    pub slices: usize,
    pub lasting: Duration,
    pub copy_bytes: u64,
}

/// One figure of a row. Of a rate more is better, of everything else less.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    pub name: &'static str,
    pub decimals: usize,
    /// What pgvane must reach.
    pub goal: Option<Goal>,
}

#[derive(Debug, Clone, Copy)]
pub enum Goal {
    /// Times HAProxy's figure.
    AtMost(f64),
    AtLeast(f64),
    /// Whatever HAProxy does.
    Within(f64),
}

/// The values of a row, and what was used meanwhile.
pub type Measured = Result<(Vec<f64>, Used)>;

#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// As `--only` names it.
    pub key: &'static str,
    pub title: &'static str,
    pub metrics: &'static [Metric],
    pub takes_part: fn(&Kind) -> bool,
    /// One value for each metric.
    pub measure: fn(&Contestant, Size) -> Measured,
}

const fn metric(name: &'static str, decimals: usize, goal: Goal) -> Metric {
    Metric { name, decimals, goal: Some(goal) }
}

const fn figure(name: &'static str, decimals: usize) -> Metric {
    Metric { name, decimals, goal: None }
}

const NO_MORE: Goal = Goal::AtMost(1.0);
const NO_LESS: Goal = Goal::AtLeast(1.0);
const HALF: Goal = Goal::AtMost(0.5);

pub const ROWS: [Row; 5] = [
    Row {
        key: "rt",
        title: "64-byte query and answer, 16 sessions",
        metrics: &[
            metric("proxy CPU us/trip", 2, NO_MORE),
            metric("trips/s", 0, NO_LESS),
            metric("machine busy us/trip", 2, NO_MORE),
        ],
        takes_part: splice_is_for_copies,
        measure: |who, size| {
            let (count, used) = load::many(who.at, SESSIONS, &who.watched, size.lasting)?;
            Ok(per(count as f64 / 1e6, count as f64, used))
        },
    },
    Row {
        key: "one",
        title: "64-byte query and answer, 1 session",
        metrics: &[
            metric("p50 us", 1, NO_MORE),
            figure("p99 us", 1),
            figure("proxy CPU us/trip", 2),
            metric("machine busy us/trip", 2, NO_MORE),
        ],
        takes_part: splice_is_for_copies,
        measure: |who, size| {
            let (mut waits, used) = load::one(who.at, &who.watched, size.lasting)?;
            waits.sort_unstable();
            let at = |percent: usize| waits[waits.len() * percent / 100] as f64 / 1e3;
            let trips = waits.len() as f64 / 1e6;
            Ok((vec![at(50), at(99), used.cpu / trips, used.busy / trips], used))
        },
    },
    Row {
        key: "connect",
        title: "connect, startup, one query, Terminate; 8 clients at a time",
        metrics: &[
            metric("proxy CPU us/connection", 1, NO_MORE),
            figure("connections/s", 0),
            metric("machine busy us/connection", 1, NO_MORE),
        ],
        takes_part: splice_is_for_copies,
        measure: |who, size| {
            let mut opener = Opener::new(who.at, CONNECTORS)?;
            opener.come_and_go(size.lasting / 10)?;
            let meter = super::usage::Meter::start(&who.watched)?;
            let count = opener.come_and_go(size.lasting)? as f64;
            Ok(per(count / 1e6, count, meter.stop()?))
        },
    },
    Row {
        key: "copy",
        title: "COPY out, 1 session",
        metrics: COPY,
        takes_part: |_| true,
        measure: |who, size| copy(who, 1, size),
    },
    Row {
        key: "copy",
        title: "COPY out, 8 sessions",
        metrics: COPY,
        takes_part: |_| true,
        measure: |who, size| copy(who, COPIES, size),
    },
];

const COPY: &[Metric] =
    &[metric("proxy CPU ms/GB", 0, HALF), figure("GB/s", 2), metric("machine busy ms/GB", 0, NO_MORE)];

fn splice_is_for_copies(kind: &Kind) -> bool {
    *kind != Kind::HaProxySplice
}

fn copy(who: &Contestant, sessions: usize, size: Size) -> Measured {
    let (bytes, used) = load::copy(who.at, sessions, size.copy_bytes, &who.watched, false)?;
    let gigabytes = bytes as f64 / 1e9;
    Ok(per(gigabytes / 1e3, gigabytes, used))
}

/// CPU of the proxy, a rate, and busy time of the machine; `units` are what the two times are shown per,
/// `count` what the rate counts.
fn per(units: f64, count: f64, used: Used) -> (Vec<f64>, Used) {
    (vec![used.cpu / units, count / used.seconds, used.busy / units], used)
}
