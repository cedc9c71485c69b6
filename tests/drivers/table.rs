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
    /// The connection ends, and nobody can say why.
    NoWords,
}

impl Asked {
    fn is_fulfilled(self, driver: &Driver, outcome: &Outcome) -> bool {
        match (self, outcome) {
            (Asked::Served, outcome) => outcome.is_ok(),
            (_, Ok(())) => false,
            (Asked::NoWords, Err(told)) => told.code.as_deref().is_none_or(is_drivers_own),
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

/// asyncpg calls a connection that ended 08003 by itself.
fn is_drivers_own(code: &str) -> bool {
    code == "08003"
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
        row.told.insert(driver.name(), shown(outcome));
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

fn shown(outcome: &Outcome) -> String {
    match outcome {
        Ok(()) => "served".to_owned(),
        Err(told) => match &told.code {
            Some(code) => code.clone(),
            None if told.text.contains("FATAL:") => "its words".to_owned(),
            None => "no words".to_owned(),
        },
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = ["libpq", "tokio-postgres", "asyncpg"];
        writeln!(f, "{:<72} {:<10} {:<15} {:<10} asked", "situation", columns[0], columns[1], columns[2])?;
        for Row { situation, asked, told, .. } in &self.rows {
            let cell = |name: &str| told.get(name).map_or("-", String::as_str);
            let [libpq, tokio, asyncpg] = columns.map(cell);
            writeln!(f, "{situation:<72} {libpq:<10} {tokio:<15} {asyncpg:<10} {asked}")?;
        }
        Ok(())
    }
}
