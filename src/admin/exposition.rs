//! Prometheus' text format, for families that are made from a table: each is a name, a kind, a sentence
//! and a way to get its value from a row.

use std::fmt::{self, Write as _};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Gauge,
    Counter,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
        })
    }
}

/// One family over rows of type `R`; a row without a value is left out.
pub struct Family<R> {
    pub name: &'static str,
    pub kind: Kind,
    pub help: &'static str,
    pub value: fn(&R) -> Option<f64>,
}

/// A family with the label `state`: one sample for each word.
pub struct States<R> {
    pub name: &'static str,
    pub help: &'static str,
    pub words: &'static [&'static str],
    /// The value for a word; a row without one is left out.
    pub value: fn(&R, &str) -> Option<f64>,
}

pub const fn gauge<R>(name: &'static str, help: &'static str, value: fn(&R) -> Option<f64>) -> Family<R> {
    Family { name, kind: Kind::Gauge, help, value }
}

pub const fn counter<R>(name: &'static str, help: &'static str, value: fn(&R) -> Option<f64>) -> Family<R> {
    Family { name, kind: Kind::Counter, help, value }
}

/// Exact below 2^53, as every figure of Prometheus.
#[allow(clippy::cast_precision_loss, reason = "Prometheus knows no other numbers")]
pub fn number(value: u64) -> f64 {
    value as f64
}

/// Something with labels, such as `{proxy="pg-primary",server="n1"}`.
pub trait Labelled {
    /// Names and values, in the order in which they are written.
    fn labels(&self) -> Vec<(&'static str, &str)>;
}

/// A page of the text format.
#[derive(Debug, Default)]
pub struct Page(String);

impl Page {
    pub fn family<R: Labelled>(&mut self, family: &Family<R>, rows: &[R]) {
        self.head(family.name, family.help, family.kind);
        for row in rows {
            if let Some(value) = (family.value)(row) {
                self.sample(family.name, &row.labels(), value);
            }
        }
    }

    pub fn states<R: Labelled>(&mut self, family: &States<R>, rows: &[R]) {
        self.head(family.name, family.help, Kind::Gauge);
        for row in rows {
            for word in family.words {
                let Some(value) = (family.value)(row, word) else { break };
                let mut labels = row.labels();
                labels.push(("state", word));
                self.sample(family.name, &labels, value);
            }
        }
    }

    pub fn into_text(self) -> String {
        self.0
    }

    // Writing to a String cannot fail.
    fn head(&mut self, name: &str, help: &str, kind: Kind) {
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.0.push_str(name);
        for (index, (label, text)) in labels.iter().enumerate() {
            self.0.push(if index == 0 { '{' } else { ',' });
            let _ = write!(self.0, "{label}=\"");
            self.escaped(text);
            self.0.push('"');
        }
        self.0.push_str(if labels.is_empty() { " " } else { "} " });
        let _ = writeln!(self.0, "{value}");
    }

    fn escaped(&mut self, text: &str) {
        for c in text.chars() {
            match c {
                '\\' => self.0.push_str("\\\\"),
                '"' => self.0.push_str("\\\""),
                '\n' => self.0.push_str("\\n"),
                c => self.0.push(c),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Row(&'static str, f64);

    impl Labelled for Row {
        fn labels(&self) -> Vec<(&'static str, &str)> {
            vec![("proxy", self.0)]
        }
    }

    #[test]
    fn labels_are_escaped_and_values_are_plain_numbers() {
        let mut page = Page::default();
        let value = |row: &Row| Some(row.1).filter(|value| *value >= 0.0 || value.is_nan());
        let family = Family { name: "a", kind: Kind::Counter, help: "What.", value };
        page.family(&family, &[Row("x\"\\\n", 5e9), Row("", f64::NAN), Row("none", -1.0), Row("part", 0.25)]);
        let lines = ["a{proxy=\"x\\\"\\\\\\n\"} 5000000000", "a{proxy=\"\"} NaN", "a{proxy=\"part\"} 0.25"];
        assert_eq!(page.into_text(), format!("# HELP a What.\n# TYPE a counter\n{}\n", lines.join("\n")));
    }
}
