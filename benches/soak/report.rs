//! The figures as a page of text.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::time::{Duration, Instant};

use super::book::{Phase, Totals};
use super::fates::{Fates, Found};
use super::kit::tally::{largest, median};
use super::moves::{Kind, Move};
use super::samples::{Growth, METRICS, Sample, growth};

/// What is used at the end may exceed what was used at first by so much.
pub const GROWTH_MAX: f64 = 1.05;
/// A shorter run is still warming up in its second tenth.
pub const JUDGED_FROM: Duration = Duration::from_secs(600);

pub struct Report {
    pub machine: Vec<String>,
    pub began: Instant,
    pub lasted: Duration,
    pub period: Duration,
    pub clients: usize,
    pub moves: Vec<Move>,
    pub samples: Vec<Sample>,
    pub closed: BTreeMap<String, f64>,
    pub totals: Totals,
    pub fates: Option<Fates>,
    /// Clients that did not come home.
    pub lost: usize,
    /// Why it ended before its time.
    pub error: Option<String>,
}

/// Its name, where it stands in a sample, and whether it may not grow.
type Figure = (&'static str, fn(&Sample) -> f64, bool);

/// One figure of the router's, early and late.
struct Bar {
    name: &'static str,
    growth: Option<Growth>,
    judged: bool,
}

impl Report {
    fn bars(&self) -> Vec<Bar> {
        let figures: [Figure; 5] = [
            ("resident KiB", |it| it.resident, true),
            ("private KiB", |it| it.private, true),
            ("descriptors", |it| it.descriptors, true),
            ("threads", |it| it.threads, true),
            ("clients", |it| it.metrics[0], false),
        ];
        let bar = |(name, figure, judged): Figure| {
            let growth = growth(&self.samples, self.began, self.lasted, figure);
            Bar { name, growth, judged: judged && self.lasted >= JUDGED_FROM }
        };
        figures.map(bar).into()
    }

    /// Everything that must not be.
    pub fn failures(&self) -> Vec<String> {
        let mut failures: Vec<String> = self.error.iter().cloned().collect();
        let mut complain = |count: u64, what: &str| {
            if count > 0 {
                failures.push(format!("{count} {what}"));
            }
        };
        complain(self.totals.unexplained_total, "unexplained errors");
        complain(self.lost as u64, "clients that did not come home");
        complain(self.fates.as_ref().map_or(0, Fates::wrong), "broken promises about rows");
        complain(u64::from(self.fates.is_none()), "rows could not be looked up");
        let grown = self.bars().into_iter().filter(Bar::is_missed).map(|bar| format!("{} grew", bar.name));
        failures.extend(grown);
        failures
    }

    fn write_head(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "cargo bench --bench soak\n  {}", self.machine.join("\n  "))?;
        let (seconds, period) = (self.lasted.as_secs(), self.period.as_secs());
        writeln!(f, "{} clients for {seconds} s, a leader move due every {period} s", self.clients)?;
        if let Some(error) = &self.error {
            writeln!(f, "ENDED EARLY: {error}")?;
        }
        Ok(())
    }

    fn write_moves(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gaps: Vec<f64> = self.moves.windows(2).map(|two| seconds(two[0].began, two[1].began)).collect();
        let missed: u32 = self.moves.iter().map(|it| it.missed).sum();
        let (done, period) = (self.moves.len(), self.period.as_secs());
        writeln!(f, "\nLeader moves: {done}; {missed} more were due every {period} s when nobody could take over yet")?;
        writeln!(
            f,
            "  from one to the next: median {}, longest {} s",
            tenths(median(gaps.clone())),
            tenths(largest(&gaps))
        )?;
        let kinds = [
            (Kind::Planned, "switchovers"),
            (Kind::Orphaned, "kill -9 of the leader's postmaster"),
            (Kind::Killed, "kill -9 of all its processes"),
        ];
        for (kind, name) in kinds {
            let these: Vec<&Move> = self.moves.iter().filter(|it| it.kind == kind).collect();
            let times =
                |time: fn(&Move) -> Duration| -> Vec<f64> { these.iter().map(|it| time(it).as_secs_f64()).collect() };
            let (key, ready) = (times(|it| it.key_after), times(|it| it.ready_after));
            let stayed = these.iter().filter(|it| it.to.is_none()).count();
            let refused: u32 = these.iter().map(|it| it.refused).sum();
            writeln!(
                f,
                "  {} {name}: the key moved after {} s (median; longest {}), a synchronous standby was there again after {} s (longest {})",
                these.len(),
                tenths(median(key.clone())),
                tenths(largest(&key)),
                tenths(median(ready.clone())),
                tenths(largest(&ready)),
            )?;
            if refused + stayed as u32 > 0 {
                writeln!(
                    f,
                    "    Patroni refused {refused} at first; {stayed} leaders were started again where they were"
                )?;
            }
        }
        let path: Vec<&str> = self.moves.iter().map(|it| it.to.as_deref().unwrap_or(&it.from)).collect();
        let first = self.moves.first().map_or("-", |it| it.from.as_str());
        writeln!(f, "  {first} {}", path.join(" "))
    }

    fn write_clients(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n{:<22} {:>9} {:>12} {:>11} {:>7}", "clients", "connects", "longest s", "operations", "ended")?;
        for (kind, deeds) in &self.totals.deeds {
            writeln!(
                f,
                "{kind:<22} {:>9} {:>12.1} {:>11} {:>7}",
                deeds.connects,
                deeds.longest_connect.as_secs_f64(),
                deeds.operations,
                deeds.ends
            )?;
        }
        let totals = &self.totals;
        writeln!(
            f,
            "{} cancels sent; {:.0} MB by COPY in, {:.0} MB by COPY out and large results",
            totals.cancels, totals.megabytes_in, totals.megabytes_out
        )
    }

    fn write_ends(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let phases: Vec<Phase> = {
            let mut phases: Vec<Phase> = self.totals.explained.keys().map(|(_, phase)| *phase).collect();
            phases.sort_unstable();
            phases.dedup();
            phases
        };
        write!(f, "\n{:<22}", "explained ends")?;
        phases.iter().try_for_each(|phase| write!(f, " {phase:>11}"))?;
        let mut words: Vec<&String> = self.totals.explained.keys().map(|(word, _)| word).collect();
        words.dedup();
        for word in words {
            write!(f, "\n{word:<22}")?;
            for phase in &phases {
                let count = self.totals.explained.get(&(word.clone(), *phase)).copied().unwrap_or(0);
                write!(f, " {count:>11}")?;
            }
        }
        writeln!(f, "\n\nconnects refused with an explained word: {}", self.totals.refused.len())?;
        self.totals.refused.iter().try_for_each(|line| writeln!(f, "  {line}"))?;
        writeln!(f, "\nunexplained errors: {} (bar 0)", self.totals.unexplained_total)?;
        self.totals.unexplained.iter().try_for_each(|line| writeln!(f, "  {line}"))
    }

    fn write_fates(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(fates) = &self.fates else { return writeln!(f, "\nThe rows could not be looked up.") };
        writeln!(f, "\n{:<42} {:>9} {:>9}", "rows whose client was told", "there", "absent")?;
        let mut row = |what: String, found: &Found| writeln!(f, "{what:<42} {:>9} {:>9}", found.there, found.absent);
        row("that it is committed".to_owned(), &fates.confirmed)?;
        fates.denied.iter().try_for_each(|(word, found)| row(format!("{word}: rolled back"), found))?;
        fates.either.iter().try_for_each(|(word, found)| row(format!("{word}: either"), found))?;
        let lies: u64 = fates.denied.values().map(|found| found.there).sum();
        writeln!(
            f,
            "committed and absent: {} (bar 0); rolled back and there: {lies} (bar 0); twice: {} (bar 0); of nobody: {} (bar 0)",
            fates.confirmed.absent, fates.doubled, fates.strange
        )?;
        fates.broken.iter().try_for_each(|line| writeln!(f, "  {line}"))
    }

    fn write_samples(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = METRICS.map(|name| name.trim_start_matches("pgvane_").trim_end_matches("_total"));
        write!(f, "\n{:>7} {:>13} {:>12} {:>12} {:>8}", "s", "resident KiB", "private KiB", "descriptors", "threads")?;
        names.iter().try_for_each(|name| write!(f, " {name:>15}"))?;
        for it in &self.samples {
            let at = it.at.saturating_duration_since(self.began).as_secs();
            write!(f, "\n{at:>7} {:>13} {:>12} {:>12} {:>8}", it.resident, it.private, it.descriptors, it.threads)?;
            it.metrics.iter().try_for_each(|value| write!(f, " {value:>15}"))?;
        }
        let reasons: String = self.closed.iter().fold(String::new(), |mut text, (reason, count)| {
            let _ = write!(text, ", {count} {reason}"); // a String takes everything
            text
        });
        writeln!(f, "\nsessions closed by the router: {}", reasons.trim_start_matches(", "))?;
        writeln!(f, "\n{:<14} {:>12} {:>12} {:>8}", "medians", "2nd tenth", "last tenth", "ratio")?;
        self.bars().iter().try_for_each(|bar| bar.write(f))
    }
}

impl Bar {
    fn is_missed(&self) -> bool {
        self.judged && self.growth.is_none_or(|it| it.ratio() > GROWTH_MAX)
    }

    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(growth) = self.growth else { return writeln!(f, "{:<14} too few samples", self.name) };
        write!(f, "{:<14} {:>12} {:>12} {:>8.3}", self.name, growth.early, growth.late, growth.ratio())?;
        match (self.judged, self.is_missed()) {
            (false, _) => writeln!(f),
            (true, missed) => writeln!(f, "  (bar {GROWTH_MAX}: {})", if missed { "MISSED" } else { "kept" }),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_head(f)?;
        self.write_moves(f)?;
        self.write_clients(f)?;
        self.write_ends(f)?;
        self.write_fates(f)?;
        self.write_samples(f)?;
        match self.failures().as_slice() {
            [] => writeln!(f, "\nall bars kept"),
            failures => writeln!(f, "\nMISSED: {}", failures.join("; ")),
        }
    }
}

fn seconds(from: Instant, to: Instant) -> f64 {
    to.saturating_duration_since(from).as_secs_f64()
}

fn tenths(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"))
}
