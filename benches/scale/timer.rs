//! How long one call takes: the median over batches, so that a neighbour's burst does not count.

use std::fmt;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use pgvane::runtime::clock;

use super::heap;

const BATCHES: usize = 15;
/// Long enough for the cost of reading a clock to vanish.
const BATCH: Duration = Duration::from_millis(2);

/// Of one call.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    pub nanos: f64,
    pub allocations: f64,
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {:>4}",
            time(self.nanos),
            format!("{:.*}a", usize::from(self.allocations.fract() > 0.05), self.allocations)
        )
    }
}

/// Nanoseconds as people read them, ten letters wide.
pub fn time(nanos: f64) -> String {
    let text = match nanos {
        ..9_999.5 => format!("{nanos:.0} ns"),
        ..9_999_500.0 => format!("{:.1} us", nanos / 1e3),
        _ => format!("{:.1} ms", nanos / 1e6),
    };
    format!("{text:>10}")
}

/// CPU time of one call of `act`, repeated as often as it takes.
pub fn each(mut act: impl FnMut()) -> Cost {
    let mut run = |calls: u32| {
        let (began, asked) = (cpu(), heap::asked());
        (0..calls).for_each(|_| act());
        (cpu() - began, heap::asked() - asked)
    };
    let mut calls = 1;
    while run(calls).0 < BATCH && calls < 1 << 24 {
        calls *= 2;
    }
    let batches: Vec<_> = (0..BATCHES).map(|_| run(calls)).collect();
    let nanos = batches.iter().map(|(took, _)| took.as_nanos() as f64 / f64::from(calls));
    let allocations = batches.iter().map(|(_, asked)| *asked as f64 / f64::from(calls));
    Cost { nanos: median(nanos), allocations: median(allocations) }
}

/// Time of a call that uses up what `prepare` makes. By the wall clock: reading the clock of a thread takes as long
/// as some of what is measured.
pub fn each_of<T>(rounds: usize, mut prepare: impl FnMut() -> T, mut act: impl FnMut(&mut T)) -> Cost {
    let mut costs = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let mut made = prepare();
        let (began, asked) = (clock::now(), heap::asked());
        act(&mut made);
        costs.push(((clock::now() - began).as_nanos() as f64, (heap::asked() - asked) as f64));
    }
    Cost { nanos: median(costs.iter().map(|it| it.0)), allocations: median(costs.iter().map(|it| it.1)) }
}

/// CPU time of the calling thread.
pub fn cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
