//! What every driver was told in every situation, and what was asked.

use std::collections::BTreeMap;
use std::fmt;

use super::driver::{Driver, Outcome};

#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    situation: String,
    asked: String,
    told: BTreeMap<&'static str, String>,
    complaints: Vec<String>,
}

/// What a driver is to be told.
#[derive(Debug, Clone, Copy)]
pub enum Asked {
    /// No error.
    Served,
    /// This SQLSTATE, in words that hold this.
    Code(&'static str, &'static str),
    /// The same while connecting: libpq shows the words and keeps the SQLSTATE for itself.
    AtConnect(&'static str, &'static str),
    /// The connection ends in order, and nobody can say why.
    NoWords,
}

impl Asked {
    fn is_fulfilled(self, driver: &Driver, outcome: &Outcome) -> bool {
        match (self, outcome) {
            (Asked::Served, outcome) => outcome.is_ok(),
            (_, Ok(())) => false,
            (Asked::NoWords, Err(told)) => told.is_drivers_own() && !told.text.contains("reset by peer"),
            (Asked::Code(..), Err(told)) if matches!(driver, Driver::Asyncpg(_)) => told.is_drivers_own(),
            (Asked::Code(code, text), Err(told)) => told.code.as_deref() == Some(code) && told.text.contains(text),
            (Asked::AtConnect(code, text), Err(told)) => {
                let kept = matches!(driver, Driver::Libpq(_)) && told.code.is_none() && told.text.contains("FATAL:  ");
                (kept || told.code.as_deref() == Some(code)) && told.text.contains(text)
            }
        }
    }

    fn as_text(self) -> &'static str {
        match self {
            Asked::Served => "served",
            Asked::Code(code, _) | Asked::AtConnect(code, _) => code,
            Asked::NoWords => "no words",
        }
    }
}

impl Table {
    pub fn note(&mut self, situation: &str, asked: Asked, driver: &Driver, outcome: &Outcome) {
        let index = self.rows.iter().position(|row| row.situation == situation).unwrap_or_else(|| {
            let row = Row {
                situation: situation.to_owned(),
                asked: asked.as_text().to_owned(),
                told: BTreeMap::new(),
                complaints: Vec::new(),
            };
            self.rows.push(row);
            self.rows.len() - 1
        });
        let row = &mut self.rows[index];
        row.told.insert(driver.name(), shown(outcome).to_owned());
        if !asked.is_fulfilled(driver, outcome) {
            row.complaints.push(format!("{}: {asked:?}, and it was {outcome:?}", driver.name()));
        }
    }

    pub fn assert_as_asked(&self) {
        let wrong = |row: &Row| {
            let complaints = row.complaints.iter().map(|complaint| format!("{}: {complaint}", row.situation));
            complaints.collect::<Vec<_>>()
        };
        let complaints: Vec<String> = self.rows.iter().flat_map(wrong).collect();
        assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
    }
}

fn shown(outcome: &Outcome) -> &str {
    match outcome {
        Ok(()) => "served",
        Err(told) if told.is_drivers_own() && !told.text.contains("FATAL:  ") => "its own",
        Err(told) => told.code.as_deref().unwrap_or("the text"),
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = ["libpq", "tokio-postgres", "asyncpg"];
        let width = self.rows.iter().map(|row| row.situation.len()).max().unwrap_or(0);
        let [a, b, c] = columns;
        writeln!(f, "{:<width$}  {a:<10} {b:<15} {c:<10} asked", "situation")?;
        for Row { situation, asked, told, .. } in &self.rows {
            let [a, b, c] = columns.map(|name| told.get(name).map_or("-", String::as_str));
            writeln!(f, "{situation:<width$}  {a:<10} {b:<15} {c:<10} {asked}")?;
        }
        writeln!(f, "the text: libpq shows an error at connect without its SQLSTATE; its own: the driver's words")?;
        Ok(())
    }
}
