//! Many moves, claims and repairs, one after the other.

use std::time::{Duration, Instant};

use super::stops::AFTERWARDS;
use crate::vip_lab::bed::{Bed, LIMIT};
use crate::vip_lab::row::{Row, time};

/// Between two moves: a program that polls each second is not always met at the same moment.
const PAUSE: Duration = Duration::from_millis(730);
/// A program that removes it more often than five times a second is fought five times a second.
const REMOVALS_APART: Duration = Duration::from_millis(250);
/// For a lease that must run out first, and all that is done then.
const FENCED_MAX: Duration = Duration::from_secs(20);
/// For what takes twenty milliseconds.
const PROMPT_MAX: Duration = Duration::from_secs(2);

/// What was measured again and again.
#[derive(Debug, Default)]
struct Sample {
    took: Vec<Duration>,
    missing: usize,
}

impl Sample {
    fn add(&mut self, from: Option<Instant>, to: Option<Instant>) {
        match (from, to) {
            (Some(from), Some(to)) => self.took.push(to.saturating_duration_since(from)),
            _ => self.missing += 1,
        }
    }

    fn at(&self, share: f64) -> Duration {
        let mut took = self.took.clone();
        took.sort();
        let last = took.len().saturating_sub(1) as f64;
        took.get((last * share).round() as usize).copied().unwrap_or_default()
    }

    /// Median, 95th percentile and maximum.
    fn tell(&self, row: &mut Row, what: &'static str, max: Duration) {
        let missing = if self.missing == 0 { String::new() } else { format!(", {} never", self.missing) };
        let value = format!("{} / {} / {}{missing}", time(self.at(0.5)), time(self.at(0.95)), time(self.at(1.0)));
        row.fact(what, value, self.missing == 0 && self.at(1.0) <= max);
    }
}

pub async fn with_cooperation(bed: &mut Bed) -> Row {
    let _holders = bed.start_led_by_n1().await;
    let (mut after_key, mut after_release, mut gaps) = (Sample::default(), Sample::default(), Vec::new());
    let turns = bed.turns(6, 30);
    for turn in 0..turns {
        let (old, new) = if turn % 2 == 0 { ("n1", "n2") } else { ("n2", "n1") };
        bed.watch_for(PAUSE).await;
        let moved = bed.lead(new).await;
        bed.within(LIMIT, |bed| bed.reached(new, moved).is_some() && !bed.has(old)).await;
        after_key.add(Some(moved), bed.reached(new, moved));
        after_release.add(bed.lost(old, moved), bed.reached(new, moved));
        gaps.push(bed.longest_gap(moved));
    }
    let mut row = Row::default();
    row.fact("moves", turns, true);
    after_release.tell(&mut row, "client reached after release (p50/p95/max)", PROMPT_MAX);
    after_key.tell(&mut row, "client reached after the key (p50/p95/max)", PROMPT_MAX);
    let gaps = Sample { took: gaps, missing: 0 };
    gaps.tell(&mut row, "gap for the client (p50/p95/max)", PROMPT_MAX);
    row.two_holders(bed.two_holders_ms());
    row
}

pub async fn holder_killed(bed: &mut Bed) -> Row {
    let mut holders = bed.start_led_by_n1().await;
    let (mut after_key, mut after_end) = (Sample::default(), Sample::default());
    let turns = bed.turns(2, 30);
    for turn in 0..turns {
        let (old, new) = if turn % 2 == 0 { ("n1", "n2") } else { ("n2", "n1") };
        bed.watch_for(PAUSE).await;
        bed.step(&format!("SIGKILL on {old}"));
        holders[turn % 2].kill();
        let moved = bed.lead(new).await;
        bed.within(FENCED_MAX, |bed| bed.reached(new, moved).is_some() && !bed.has(old)).await;
        after_key.add(Some(moved), bed.reached(new, moved));
        after_end.add(bed.lost(old, moved), bed.reached(new, moved));
        holders[turn % 2] = bed.start(old);
    }
    let mut row = Row::default();
    row.fact("moves", turns, true);
    after_end.tell(&mut row, "client reached beyond the lease (p50/p95/max)", PROMPT_MAX);
    after_key.tell(&mut row, "client reached after the key (p50/p95/max)", FENCED_MAX);
    row.two_holders(bed.two_holders_ms());
    row
}

pub async fn partitioned(bed: &mut Bed) -> Row {
    let _holders = bed.start_led_by_n1().await;
    let (mut after_key, mut after_end) = (Sample::default(), Sample::default());
    let turns = bed.turns(2, 20);
    let mut clean = 0;
    for turn in 0..turns {
        let (old, new) = if turn % 2 == 0 { ("n1", "n2") } else { ("n2", "n1") };
        bed.watch_for(PAUSE).await;
        let before = bed.two_holders_ms();
        bed.step(&format!("{old} is cut from etcd"));
        bed.network.cut(old, "etcd");
        let moved = bed.lead(new).await;
        bed.within(FENCED_MAX, |bed| bed.reached(new, moved).is_some() && !bed.has(old)).await;
        bed.network.heal(old, "etcd");
        after_key.add(Some(moved), bed.reached(new, moved));
        after_end.add(bed.lost(old, moved), bed.reached(new, moved));
        bed.watch_for(AFTERWARDS).await;
        clean += usize::from(bed.two_holders_ms() == before);
    }
    let mut row = Row::default();
    row.fact("moves without two holders", format!("{clean} of {turns}"), clean == turns);
    after_end.tell(&mut row, "client reached beyond the lease (p50/p95/max)", PROMPT_MAX);
    after_key.tell(&mut row, "client reached after the key (p50/p95/max)", FENCED_MAX);
    row.two_holders(bed.two_holders_ms());
    row
}

pub async fn claimed(bed: &mut Bed) -> Row {
    let _holder = bed.start("n1");
    let (mut announcing, mut claiming) = (Sample::default(), Sample::default());
    for _ in 0..bed.turns(5, 50) {
        let at = bed.lead("n1").await;
        bed.within(LIMIT, |bed| bed.announced("n1", at).is_some() && bed.gained("n1", at).is_some()).await;
        announcing.add(bed.gained("n1", at), bed.announced("n1", at));
        claiming.add(Some(at), bed.gained("n1", at));
        let at = bed.delete_leader().await;
        bed.within(LIMIT, |bed| bed.lost("n1", at).is_some()).await;
    }
    let mut row = Row::default();
    announcing.tell(&mut row, "announced after it was there (p50/p95/max)", PROMPT_MAX);
    claiming.tell(&mut row, "there after the key (p50/p95/max)", PROMPT_MAX);
    row
}

pub async fn repaired(bed: &mut Bed) -> Row {
    let _holders = bed.start_led_by_n1().await;
    let mut repairing = Sample::default();
    // vip-manager takes seconds for each.
    let turns = if bed.kind.is_ours() { bed.turns(5, 50) } else { 3 };
    for _ in 0..turns {
        bed.watch_for(REMOVALS_APART).await;
        let at = bed.step("somebody removes the address on n1");
        bed.network.ip("n1", &format!("addr del {}/32 dev eth0", bed.vip));
        bed.within(LIMIT, |bed| bed.gained("n1", at).is_some()).await;
        repairing.add(bed.lost("n1", at), bed.gained("n1", at));
    }
    let mut row = Row::default();
    repairing.tell(&mut row, "back after (p50/p95/max)", PROMPT_MAX);
    row
}

pub async fn by_ipv6(bed: &mut Bed) -> Row {
    let mut holders = bed.start_led_by_n1().await;
    bed.watch_for(PAUSE).await;
    let moved = bed.lead("n2").await;
    bed.within(LIMIT, |bed| bed.reached("n2", moved).is_some()).await;
    let mut row = Row::default();
    row.soon(
        "client reached after release",
        bed.lost("n1", moved).unwrap_or(moved),
        bed.reached("n2", moved),
        PROMPT_MAX,
    );
    bed.watch_for(Duration::from_secs(5)).await;
    let frames = bed.frames.since(moved);
    let told: Vec<_> =
        frames.iter().filter(|it| it.frame.from == bed.mac("n2") && it.frame.announces(bed.vip)).collect();
    let good = told.iter().filter(|it| it.frame.convinces(bed.vip)).count();
    row.fact(
        "advertisements, of which neighbours believe",
        format!("{}, {good}", told.len()),
        good == told.len() && (1..=4).contains(&good),
    );
    bed.step("SIGKILL on n2");
    holders[1].kill();
    let moved = bed.lead("n3").await;
    bed.within(FENCED_MAX, |bed| bed.reached("n3", moved).is_some()).await;
    row.soon(
        "client reached beyond the lease",
        bed.lost("n2", moved).unwrap_or(moved),
        bed.reached("n3", moved),
        PROMPT_MAX,
    );
    row.two_holders(bed.two_holders_ms());
    row
}
