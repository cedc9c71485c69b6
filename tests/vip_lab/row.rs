//! What was measured in one situation, whether it is right, and the table of many.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use super::holder::Kind;

#[derive(Debug, Clone)]
pub struct Fact {
    pub what: &'static str,
    pub value: String,
    pub is_right: bool,
}

/// One situation as one program took it.
#[derive(Debug, Clone, Default)]
pub struct Row {
    pub facts: Vec<Fact>,
    /// How it went, where a fact is wrong.
    pub report: String,
}

impl Row {
    pub fn fact(&mut self, what: &'static str, value: impl fmt::Display, is_right: bool) {
        self.facts.push(Fact { what, value: value.to_string(), is_right });
    }

    /// It happened, and in time.
    pub fn soon(&mut self, what: &'static str, from: Instant, at: Option<Instant>, max: Duration) {
        let took = at.map(|at| at.saturating_duration_since(from));
        let value = took.map_or_else(|| "never".to_owned(), time);
        self.fact(what, value, took.is_some_and(|took| took <= max));
    }

    /// It did not happen as long as anybody looked.
    pub fn never(&mut self, what: &'static str, from: Instant, at: Option<Instant>) {
        let value = at.map_or_else(|| "never".to_owned(), |at| time(at.saturating_duration_since(from)));
        self.fact(what, value, at.is_none());
    }

    pub fn yes(&mut self, what: &'static str, is_so: bool) {
        self.fact(what, if is_so { "yes" } else { "no" }, is_so);
    }

    /// The one that is right in every situation.
    pub fn two_holders(&mut self, ms: f64) {
        self.fact("two holders", format!("{ms:.0} ms"), ms == 0.0);
    }

    pub fn wrong(&self) -> Vec<&Fact> {
        self.facts.iter().filter(|fact| !fact.is_right).collect()
    }
}

/// Milliseconds below ten seconds, and seconds from there.
pub fn time(time: Duration) -> String {
    match time.as_secs_f64() {
        seconds if seconds < 0.0995 => format!("{:.1} ms", seconds * 1000.0),
        seconds if seconds < 10.0 => format!("{:.0} ms", seconds * 1000.0),
        seconds => format!("{seconds:.1} s"),
    }
}

/// By situation, in the order in which they were added, and program.
#[derive(Debug, Default)]
pub struct Table {
    order: Vec<&'static str>,
    rows: BTreeMap<(&'static str, Kind), Row>,
}

impl Table {
    pub fn add(&mut self, situation: &'static str, kind: Kind, row: Row) {
        if !self.order.contains(&situation) {
            self.order.push(situation);
        }
        self.rows.insert((situation, kind), row);
    }

    pub fn wrong_rows(&self, kind: Kind) -> impl Iterator<Item = (&'static str, &Row)> {
        let rows = self.order.iter().filter_map(move |name| Some((*name, self.rows.get(&(*name, kind))?)));
        rows.filter(|(_, row)| !row.wrong().is_empty())
    }

    fn cell(&self, situation: &'static str, kind: Kind, what: &str) -> String {
        let Some(row) = self.rows.get(&(situation, kind)) else { return "-".to_owned() };
        let found = row.facts.iter().find(|fact| fact.what == what);
        found.map_or_else(|| "-".to_owned(), |it| format!("{}{}", it.value, if it.is_right { "" } else { "  WRONG" }))
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds: Vec<Kind> =
            [Kind::VipManager, Kind::Alone, Kind::Router].into_iter().filter(|kind| self.has(*kind)).collect();
        write!(f, "{:<52}", "situation")?;
        kinds.iter().try_for_each(|kind| write!(f, " {:>24}", kind.name()))?;
        writeln!(f)?;
        for situation in &self.order {
            writeln!(f, "{situation}")?;
            for what in self.facts_of(situation) {
                write!(f, "    {what:<48}")?;
                kinds.iter().try_for_each(|kind| write!(f, " {:>24}", self.cell(situation, *kind, what)))?;
                writeln!(f)?;
            }
        }
        Ok(())
    }
}

impl Table {
    fn has(&self, kind: Kind) -> bool {
        self.rows.keys().any(|(_, of)| *of == kind)
    }

    /// What any program was asked in this situation, each once.
    fn facts_of(&self, situation: &'static str) -> Vec<&'static str> {
        let mut all = Vec::new();
        for row in self.rows.iter().filter(|((of, _), _)| *of == situation).map(|(_, row)| row) {
            for fact in &row.facts {
                if !all.contains(&fact.what) {
                    all.push(fact.what);
                }
            }
        }
        all
    }
}
