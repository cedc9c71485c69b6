//! Medians of what was measured, and of its ratios to HAProxy round by round.

use std::fmt::Write as _;

use super::rows::Metric;

pub const REFERENCE: &str = "haproxy";

#[derive(Debug)]
struct Block {
    title: &'static str,
    metrics: &'static [Metric],
    /// By contestant: the values of each round.
    lines: Vec<(String, Vec<Vec<f64>>)>,
}

#[derive(Debug, Default)]
pub struct Table {
    blocks: Vec<Block>,
}

impl Table {
    pub fn new() -> Table {
        Table::default()
    }

    /// The values of one round.
    pub fn add(&mut self, title: &'static str, metrics: &'static [Metric], label: &str, values: Vec<f64>) {
        let at = self.blocks.iter().position(|block| block.title == title).unwrap_or_else(|| {
            self.blocks.push(Block { title, metrics, lines: Vec::new() });
            self.blocks.len() - 1
        });
        let lines = &mut self.blocks[at].lines;
        match lines.iter_mut().find(|(name, _)| name == label) {
            Some((_, rounds)) => rounds.push(values),
            None => lines.push((label.to_owned(), vec![values])),
        }
    }

    pub fn text(&self) -> String {
        let mut text = String::new();
        for block in &self.blocks {
            block.write(&mut text);
        }
        text
    }
}

impl Block {
    fn write(&self, text: &mut String) {
        let _ = write!(text, "\n{}\n\n{:<16}", self.title, "");
        for metric in self.metrics {
            let _ = write!(text, " {:>34}", metric.name);
        }
        text.push('\n');
        let reference = self.lines.iter().find(|(label, _)| label == REFERENCE).map(|(_, rounds)| rounds);
        for (label, rounds) in &self.lines {
            let _ = write!(text, "{label:<16}");
            for (index, metric) in self.metrics.iter().enumerate() {
                let values: Vec<f64> = rounds.iter().map(|round| round[index]).collect();
                let ratios = reference.map_or_else(Vec::new, |them| ratios(&values, them, index));
                let _ = write!(text, " {:>34}", cell(&values, &ratios, metric.decimals));
            }
            text.push('\n');
        }
    }
}

fn ratios(values: &[f64], reference: &[Vec<f64>], index: usize) -> Vec<f64> {
    values.iter().zip(reference).map(|(value, them)| value / them[index]).filter(|ratio| ratio.is_finite()).collect()
}

/// `13.40  0.96 (0.94..0.99)`
fn cell(values: &[f64], ratios: &[f64], decimals: usize) -> String {
    let value = format!("{:.decimals$}", median(values));
    if ratios.is_empty() {
        return format!("{value}{:19}", "");
    }
    let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
    let most = ratios.iter().copied().fold(0.0, f64::max);
    format!("{value}  {:.2} ({least:.2}..{most:.2})", median(ratios))
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 }
}
