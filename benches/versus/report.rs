//! Medians of what was measured, of its ratios to HAProxy round by round, and what of it is not as it must be.

use std::fmt::Write as _;

use super::rows::{Goal, Metric};
use super::usage::Used;

const REFERENCE: &str = "haproxy";
/// So much of the machine in the hands of others, and figures say little.
const STRANGE_MAX: f64 = 0.03;

#[derive(Debug)]
struct Block {
    title: String,
    metrics: &'static [Metric],
    /// By contestant: the values of each round.
    lines: Vec<(String, Vec<Vec<f64>>)>,
}

#[derive(Debug)]
pub struct Table {
    /// Who must reach the goals.
    judged: Vec<String>,
    blocks: Vec<Block>,
    strange: Vec<f64>,
}

impl Table {
    pub fn of(judged: Vec<String>) -> Table {
        Table { judged, blocks: Vec::new(), strange: Vec::new() }
    }

    /// The values of one round.
    pub fn add(&mut self, title: &str, metrics: &'static [Metric], label: &str, values: Vec<f64>) {
        let at = self.blocks.iter().position(|block| block.title == title).unwrap_or_else(|| {
            self.blocks.push(Block { title: title.to_owned(), metrics, lines: Vec::new() });
            self.blocks.len() - 1
        });
        let lines = &mut self.blocks[at].lines;
        match lines.iter_mut().find(|(name, _)| name == label) {
            Some((_, rounds)) => rounds.push(values),
            None => lines.push((label.to_owned(), vec![values])),
        }
    }

    pub fn note(&mut self, used: Used) {
        self.strange.push(used.strange);
    }

    pub fn text(&self) -> String {
        let mut text = "\nMedians of the rounds; x is the median of the ratios to haproxy in the same round, with the least and the \
                        greatest.\nproxy CPU: all threads of all its processes, user and system. machine busy: all CPUs, \
                        whoever used them.\n"
            .to_owned();
        for block in &self.blocks {
            block.write(&mut text, &self.judged);
        }
        if let Some(most) = self.strange.iter().copied().reduce(f64::max) {
            let (usual, most) = (median(&self.strange) * 100.0, most * 100.0);
            let _ = writeln!(
                text,
                "\nothers on this machine: {usual:.1} % of it in the median of all measurements, {most:.1} % at most"
            );
            if median(&self.strange) > STRANGE_MAX {
                text += "NOT ALONE: somebody else used this machine; above all the busy times say little\n";
            }
        }
        text.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
    }
}

impl Block {
    fn write(&self, text: &mut String, judged: &[String]) {
        let reference = self.lines.iter().find(|(label, _)| label == REFERENCE).map(|(_, rounds)| rounds);
        let _ = write!(text, "\n{}\n{:<16}", self.title, "");
        for metric in self.metrics {
            let _ = write!(text, " | {:>27}", metric.name);
        }
        text.push('\n');
        let mut verdicts = Vec::new();
        for (label, rounds) in &self.lines {
            let _ = write!(text, "{label:<16}");
            for (index, metric) in self.metrics.iter().enumerate() {
                let figure = Figure::of(rounds, reference.filter(|_| label != REFERENCE), index);
                let _ = write!(text, " | {:>27}", figure.cell(metric.decimals));
                verdicts.extend(metric.goal.and_then(|goal| figure.miss(goal)).map(|miss| (label, metric.name, miss)));
            }
            text.push('\n');
        }
        for (label, name, miss) in verdicts {
            if judged.contains(label) {
                let _ = writeln!(text, "    {label} misses: {name} {miss}");
            }
        }
    }
}

#[derive(Debug)]
struct Figure {
    value: f64,
    /// Median, least and greatest.
    ratio: Option<[f64; 3]>,
}

impl Figure {
    fn of(rounds: &[Vec<f64>], reference: Option<&Vec<Vec<f64>>>, index: usize) -> Figure {
        let values: Vec<f64> = rounds.iter().map(|round| round[index]).collect();
        let ratio = |(value, them): (&f64, &Vec<f64>)| value / them[index];
        let ratios: Vec<f64> = values.iter().zip(reference.into_iter().flatten()).map(ratio).collect();
        let says_something = !ratios.is_empty() && ratios.iter().all(|ratio| ratio.is_finite() && *ratio > 0.0);
        let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let most = ratios.iter().copied().fold(0.0, f64::max);
        Figure { value: median(&values), ratio: says_something.then(|| [median(&ratios), least, most]) }
    }

    /// `13.40  x 0.96 (0.94-0.99)`
    fn cell(&self, decimals: usize) -> String {
        let value = format!("{:.decimals$}", self.value);
        match self.ratio {
            Some([ratio, least, most]) => format!("{value}  x {ratio:.2} ({least:.2}-{most:.2})"),
            None => format!("{value}{:20}", ""),
        }
    }

    fn miss(&self, goal: Goal) -> Option<String> {
        let ratio = self.ratio.map(|it| it[0]);
        match goal {
            Goal::AtMost(most) => ratio.filter(|it| *it > most).map(|it| format!("x {it:.2}, at most {most:.2}")),
            Goal::AtLeast(least) => ratio.filter(|it| *it < least).map(|it| format!("x {it:.2}, at least {least:.2}")),
            Goal::Within(most) => (self.value > most).then(|| format!("{:.1}, at most {most:.1}", self.value)),
        }
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) }
}
