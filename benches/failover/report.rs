//! The figures as a table for people and as JSON.

use std::fmt;

use serde_json::{Value, json};

use super::kit::etcd_stop::Stop;
use super::kit::tally::{Fared, Words, largest, median};
use super::kit::{named, outages, zombies};

#[derive(Debug, Default)]
pub struct Report {
    pub machine: Vec<String>,
    pub outages: Vec<outages::Row>,
    pub zombies: Vec<zombies::Row>,
    pub etcd_stop: Option<Stop>,
}

/// Beyond the poller's, over all events.
struct Beyond {
    median: Option<f64>,
    max: Option<f64>,
}

impl Beyond {
    fn of(figures: Vec<f64>) -> Beyond {
        Beyond { max: largest(&figures), median: median(figures) }
    }
}

impl Report {
    pub fn head(&self) -> String {
        let command: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
        format!("cargo bench --bench failover -- {}\n  {}\n", command.join(" "), self.machine.join("\n  "))
    }

    fn beyond(&self, of: fn(&outages::Row) -> Option<&outages::Felt>) -> Beyond {
        Beyond::of(self.outages.iter().filter_map(|row| Some(of(row)?.outage_ms? - row.members_ms)).collect())
    }

    fn fared(&self, of: fn(&outages::Row) -> Option<&outages::Felt>) -> Fared {
        let mut sum = Fared::default();
        self.outages.iter().filter_map(of).for_each(|felt| sum.add(&felt.fared));
        sum
    }

    fn write_outages(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nWrite outages, ms (a poller asks every member directly every 20 ms)")?;
        writeln!(
            f,
            "{:<20} {:>8} {:>8} {:>8} {:>8} {:>6} {:>6} {:>6} {:>8} {:>6} {:>8} {:>6}",
            "event",
            "members",
            "pgvane",
            "beyond",
            "HAProxy",
            "held",
            "past",
            "burst",
            "refused",
            "25006",
            "refused",
            "25006"
        )?;
        for row in &self.outages {
            writeln!(
                f,
                "{:<20} {:>8.0} {:>8} {:>8} {:>8} {:>6} {:>6} {:>6.0} {:>8} {:>6} {:>8} {:>6}",
                format!("{} {}-{}", short(row.what), row.from, row.to),
                row.members_ms,
                figure(row.pgvane.outage_ms),
                figure(row.pgvane.outage_ms.map(|ms| ms - row.members_ms)),
                figure(row.haproxy.as_ref().and_then(|felt| felt.outage_ms)),
                row.pgvane.held,
                figure(row.pgvane.held_past_ms()),
                row.burst_ms,
                row.pgvane.fared.refusals(),
                row.pgvane.fared.misrouted(),
                row.haproxy.as_ref().map_or(0, |felt| felt.fared.refusals()),
                row.haproxy.as_ref().map_or(0, |felt| felt.fared.misrouted()),
            )?;
        }
        writeln!(
            f,
            "beyond: pgvane - members. held: new connections that waited; past: the longest of them after the"
        )?;
        writeln!(
            f,
            "members' outage; burst: the slowest of as many connects made at once, directly. refused and 25006:"
        )?;
        writeln!(f, "first through pgvane, then through HAProxy.")?;
        self.write_overall(f)
    }

    fn write_overall(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mine, theirs) = (self.beyond(|row| Some(&row.pgvane)), self.beyond(|row| row.haproxy.as_ref()));
        let past: Vec<f64> = self.outages.iter().filter_map(|row| row.pgvane.held_past_ms()).collect();
        let beyond_burst: Vec<f64> =
            self.outages.iter().filter_map(|row| Some(row.pgvane.held_past_ms()? - row.burst_ms)).collect();
        let (fared, others) = (self.fared(|row| Some(&row.pgvane)), self.fared(|row| row.haproxy.as_ref()));
        writeln!(f, "overall, {} events:", self.outages.len())?;
        let bar = |name: &str, value: Option<f64>, bar: f64, unit: &str| {
            let kept = if value.is_some_and(|value| value <= bar) { "kept" } else { "MISSED" };
            format!("  {name:<62} {:>7}{unit}  (bar {bar}: {kept})", figure(value))
        };
        writeln!(f, "{}", bar("pgvane's outage beyond the members', median", mine.median, 50.0, " ms"))?;
        writeln!(f, "{}", bar("pgvane's outage beyond the members', max", mine.max, 250.0, " ms"))?;
        writeln!(f, "{}", bar("longest hold past the end of the members' outage", largest(&past), 100.0, " ms"))?;
        writeln!(
            f,
            "  {:<62} {:>7} ms",
            "of that, beyond as many direct connects at once, max",
            figure(largest(&beyond_burst))
        )?;
        writeln!(f, "{}", bar("errors of new connections through pgvane", Some(fared.refusals() as f64), 0.0, ""))?;
        writeln!(f, "{}", bar("25006 through pgvane", Some(fared.misrouted() as f64), 0.0, ""))?;
        writeln!(
            f,
            "  HAProxy's outage beyond the members', median / max: {} / {} ms",
            figure(theirs.median),
            figure(theirs.max)
        )?;
        writeln!(f, "  pgvane:  {}", fate(&fared))?;
        writeln!(f, "  HAProxy: {}", fate(&others))
    }

    fn write_zombies(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nPatroni lost alone: its PostgreSQL stays writable. ms from the moment the key names another")?;
        writeln!(
            f,
            "{:<30} {:<8} {:>14} {:>10} {:>13} {:>13} {:>10}",
            "event", "through", "last at zombie", "late rows", "first at new", "members first", "outage"
        )?;
        for row in &self.zombies {
            for (name, felt) in named(&row.pgvane, row.haproxy.as_ref()) {
                let late =
                    felt.latest_row_ms.map_or_else(|| "0".to_owned(), |ms| format!("{} <{ms:.1}", felt.late_rows));
                writeln!(
                    f,
                    "{:<30} {name:<8} {:>14} {late:>10} {:>13} {:>13} {:>10}",
                    format!("{} {}-{}", row.what, row.from, row.to),
                    figure(felt.last_at_old_ms),
                    figure(felt.first_at_new_ms),
                    figure(row.members_first_ms),
                    figure(felt.outage_ms),
                )?;
                writeln!(f, "    {}", fate(&felt.fared))?;
            }
            let (key, both) = (row.key_after_ms / 1000.0, row.both_writable_ms / 1000.0);
            writeln!(
                f,
                "    the key moved {key:.1} s after the event; both accepted writes for {both:.1} s from then"
            )?;
        }
        Ok(())
    }

    fn write_etcd_stop(&self, f: &mut fmt::Formatter<'_>, stop: &Stop) -> fmt::Result {
        let (lasted, key) = (stop.lasted.as_secs(), stop.until_key.as_secs_f64());
        writeln!(f, "\netcd stopped for {lasted} s, failsafe mode on (the leader key was back after {key:.1} s)")?;
        for (name, (fared, longest)) in named(&stop.pgvane, stop.haproxy.as_ref()) {
            writeln!(f, "  {name:<8} {}; longest time without a write {} ms", fate(fared), figure(*longest))?;
        }
        let (errors, closed) = (stop.pgvane.0.refusals(), stop.pgvane.0.cuts());
        writeln!(f, "  through pgvane: {errors} errors of new connections (bar 0), {closed} closed sessions (bar 0)")
    }

    pub fn json(&self) -> Value {
        let (mine, theirs) = (self.beyond(|row| Some(&row.pgvane)), self.beyond(|row| row.haproxy.as_ref()));
        let stop = self.etcd_stop.as_ref().map(|stop| {
            let fared = |(fared, longest): &(Fared, Option<f64>)| {
                json!({ "good": fared.good, "refused": fared.refused, "cut": fared.cut, "longest_ms": longest })
            };
            json!({
                "lasted_s": stop.lasted.as_secs(),
                "pgvane": fared(&stop.pgvane),
                "haproxy": stop.haproxy.as_ref().map(fared),
            })
        });
        json!({
            "machine": self.machine,
            "outages": self.outages.iter().map(outages::Row::json).collect::<Vec<_>>(),
            "pgvane_beyond_members_ms": { "median": mine.median, "max": mine.max },
            "haproxy_beyond_members_ms": { "median": theirs.median, "max": theirs.max },
            "zombies": self.zombies.iter().map(zombies::Row::json).collect::<Vec<_>>(),
            "etcd_stop": stop,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.outages.is_empty() {
            self.write_outages(f)?;
        }
        if !self.zombies.is_empty() {
            self.write_zombies(f)?;
        }
        match &self.etcd_stop {
            Some(stop) => self.write_etcd_stop(f, stop),
            None => Ok(()),
        }
    }
}

fn short(what: &str) -> &str {
    what.split(" of ").next().unwrap_or(what)
}

fn figure(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.0}"))
}

fn fate(fared: &Fared) -> String {
    let words = |words: &Words| {
        let list: Vec<String> = words.iter().map(|(word, count)| format!("{count} x {word}")).collect();
        if list.is_empty() { "0".to_owned() } else { list.join(", ") }
    };
    format!(
        "{} good; new connections refused: {}; sessions cut: {}",
        fared.good,
        words(&fared.refused),
        words(&fared.cut)
    )
}
