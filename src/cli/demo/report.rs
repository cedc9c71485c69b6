//! What clients felt: pure arithmetic over noted operations, and its rendering.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::clients::{HELD_FROM, Operation};
use super::poller::Stretch;

/// A shorter gap at the end of a window is only the time to the next operation.
const OPEN_GAP_MIN: Duration = HELD_FROM;
/// For a router to have noticed a new primary.
const DEPOSED_AFTER: Duration = Duration::from_millis(50);
/// By which the poller may see a new primary later than a client does.
const POLL_SLACK: Duration = Duration::from_millis(250);

/// From the last thing that went well to the next one; no `until` when nothing went well again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    pub from: Instant,
    pub until: Option<Instant>,
}

impl Gap {
    /// None while it lasts.
    pub fn length(&self) -> Option<Duration> {
        self.until.map(|until| until.saturating_duration_since(self.from))
    }
}

/// The longest gap between good stretches (first, last) that touches the window. One that is still
/// open at its end counts as the longest. None when nothing was good before the window's end.
pub fn longest_gap(good: impl IntoIterator<Item = (Instant, Instant)>, from: Instant, until: Instant) -> Option<Gap> {
    let mut stretches: Vec<(Instant, Instant)> = good.into_iter().filter(|(first, _)| *first <= until).collect();
    stretches.sort_unstable();
    let mut longest: Option<Gap> = None;
    let mut end = stretches.first()?.1;
    for (first, last) in stretches {
        if first > end && first >= from {
            let gap = Gap { from: end, until: Some(first) };
            if longest.is_none_or(|other| gap.length() > other.length()) {
                longest = Some(gap);
            }
        }
        end = end.max(last);
    }
    let open = until.saturating_duration_since(end);
    if open >= OPEN_GAP_MIN && longest.is_none_or(|other| Some(open) > other.length()) {
        longest = Some(Gap { from: end, until: None });
    }
    longest
}

/// The longest time in the window without a good operation.
pub fn outage(operations: &[Operation], from: Instant, until: Instant) -> Option<Gap> {
    let good = operations.iter().filter(|operation| operation.outcome.is_ok());
    longest_gap(good.map(|operation| (operation.ended, operation.ended)), from, until)
}

/// The longest anyone who waited through `moment` (the end of an outage) went on waiting after it.
pub fn held_past(operations: &[Operation], moment: Instant) -> Option<Duration> {
    let waiting = operations.iter().filter(|it| it.started < moment && it.ended >= moment && it.was_held());
    waiting.map(|operation| operation.ended.saturating_duration_since(moment)).max()
}

/// Writes that `stretches` show to have gone to a deposed primary: begun when another member had
/// already accepted writes on a later timeline for [`DEPOSED_AFTER`].
/// `name` tells the member from the port that answered.
pub fn writes_to_deposed<'a>(
    operations: impl IntoIterator<Item = &'a Operation>,
    stretches: &[Stretch],
    name: impl Fn(u16) -> Option<&'a str>,
) -> u64 {
    let deposed = |operation: &&Operation| {
        let Some(member) = operation.outcome.as_ref().ok().and_then(|port| name(*port)) else { return false };
        // By its end: a held write begins before the timeline that takes it does.
        let own = stretches.iter().filter(|it| it.member == member && it.first <= operation.ended + POLL_SLACK);
        let Some(own) = own.map(|own| own.timeline).max() else { return false };
        stretches.iter().any(|other| other.timeline > own && other.first + DEPOSED_AFTER < operation.started)
    };
    operations.into_iter().filter(deposed).count() as u64
}

/// A group of operations, summed up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    pub good: u64,
    /// By SQLSTATE, or `io: ...`.
    pub errors: BTreeMap<String, u64>,
    pub held: u64,
    pub held_median: Duration,
    pub held_longest: Duration,
    pub latency_median: Duration,
    pub latency_max: Duration,
}

impl Tally {
    /// Of the operations that ended in the window.
    pub fn of<'a>(operations: impl IntoIterator<Item = &'a Operation>, from: Instant, until: Instant) -> Tally {
        let mut tally = Tally::default();
        let (mut all, mut held) = (Vec::new(), Vec::new());
        for operation in operations.into_iter().filter(|it| it.ended >= from && it.ended < until) {
            match &operation.outcome {
                Ok(_) => tally.good += 1,
                Err(name) => *tally.errors.entry(name.to_string()).or_default() += 1,
            }
            all.push(operation.took());
            if operation.was_held() {
                held.push(operation.took());
            }
        }
        tally.held = held.len() as u64;
        (tally.held_median, tally.held_longest) = median_and_max(held);
        (tally.latency_median, tally.latency_max) = median_and_max(all);
        tally
    }

    pub fn failed(&self) -> u64 {
        self.errors.values().sum()
    }

    pub fn json(&self) -> Value {
        json!({
            "good": self.good,
            "errors": self.errors,
            "held": self.held,
            "held_median_ms": millis(self.held_median),
            "held_longest_ms": millis(self.held_longest),
            "latency_median_ms": millis(self.latency_median),
            "latency_max_ms": millis(self.latency_max),
        })
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} good", self.good)?;
        if self.errors.is_empty() {
            f.write_str(", 0 errors")?;
        }
        for (name, count) in &self.errors {
            write!(f, ", {count} x {name}")?;
        }
        write!(f, ", {} held", self.held)?;
        if self.held > 0 {
            write!(f, " (median {}, longest {})", seconds(self.held_median), seconds(self.held_longest))?;
        }
        write!(f, "; latency median {}, max {}", seconds(self.latency_median), seconds(self.latency_max))
    }
}

fn median_and_max(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort_unstable();
    let median = times.get(times.len() / 2).copied().unwrap_or_default();
    (median, times.last().copied().unwrap_or_default())
}

/// One event and what it did to clients until the next.
#[derive(Debug, Clone)]
pub struct EventReport {
    pub what: String,
    /// Since the demo's start.
    pub at: Duration,
    /// Between good writes of clients.
    pub outage: Option<Gap>,
    /// Between writes that any member accepted directly.
    pub members_outage: Option<Gap>,
    /// The longest wait of a client past the end of the members' outage.
    pub held_past: Option<Duration>,
    /// Good writes on a primary that had been replaced: they are lost when it rejoins.
    pub to_deposed: u64,
    /// Clients that connect for each write, and those that keep their connection.
    pub connecting: Tally,
    pub keeping: Tally,
}

impl fmt::Display for EventReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "at {:.1} s: {}", self.at.as_secs_f64(), self.what)?;
        write!(f, "    write outage {}", length(self.outage))?;
        write!(f, "; no member accepted writes for {}", length(self.members_outage))?;
        if let Some(past) = self.held_past {
            write!(f, "; nobody waited longer than {} past that", seconds(past))?;
        }
        writeln!(f, "; {} writes went to a deposed primary", self.to_deposed)?;
        writeln!(f, "    new connections:  {}", self.connecting)?;
        write!(f, "    kept connections: {}", self.keeping)
    }
}

#[derive(Debug, Clone, Default)]
pub struct Report {
    pub lasted: Duration,
    pub events: Vec<EventReport>,
    /// By a name for the group of clients.
    pub groups: Vec<(String, Tally)>,
}

impl Report {
    pub fn json(&self) -> Value {
        let event = |event: &EventReport| {
            json!({
                "event": event.what,
                "at_s": event.at.as_secs_f64(),
                "write_outage_ms": event.outage.and_then(|gap| gap.length()).map(millis),
                "members_outage_ms": event.members_outage.and_then(|gap| gap.length()).map(millis),
                "held_past_ms": event.held_past.map(millis),
                "writes_to_deposed": event.to_deposed,
                "new_connections": event.connecting.json(),
                "kept_connections": event.keeping.json(),
            })
        };
        let groups: serde_json::Map<String, Value> =
            self.groups.iter().map(|(name, tally)| (name.clone(), tally.json())).collect();
        json!({
            "lasted_s": self.lasted.as_secs_f64(),
            "events": self.events.iter().map(event).collect::<Vec<_>>(),
            "clients": groups,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "What clients felt in {:.0} s", self.lasted.as_secs_f64())?;
        for event in &self.events {
            writeln!(f, "  {event}")?;
        }
        let width = self.groups.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, tally) in &self.groups {
            writeln!(f, "  {name:width$}  {tally}")?;
        }
        Ok(())
    }
}

fn length(gap: Option<Gap>) -> String {
    match gap.map(|gap| gap.length()) {
        None => "0 s".to_owned(),
        Some(None) => "not over".to_owned(),
        Some(Some(length)) => seconds(length),
    }
}

/// For people: milliseconds below a second.
pub fn seconds(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        format!("{:.0} ms", time.as_secs_f64() * 1000.0)
    } else {
        format!("{:.2} s", time.as_secs_f64())
    }
}

fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::clock;

    struct Scale(Instant);

    impl Scale {
        fn at(&self, ms: u64) -> Instant {
            self.0 + Duration::from_millis(ms)
        }
        fn operation(&self, started: u64, ended: u64, outcome: Result<u16, &str>) -> Operation {
            let outcome = outcome.map_err(Into::into);
            Operation { client: 0, started: self.at(started), ended: self.at(ended), outcome }
        }
    }

    #[test]
    fn an_outage_is_the_longest_gap_between_good_writes_and_errors_do_not_end_it() {
        let t = Scale(clock::now());
        let good = |ended| t.operation(ended - 5, ended, Ok(5432));
        let operations =
            [good(10), good(700), good(1000), t.operation(1001, 1500, Err("57P01")), good(3400), good(3410)];
        let gap = outage(&operations, t.at(900), t.at(4000)).unwrap();
        assert_eq!((gap.from, gap.until), (t.at(1000), Some(t.at(3400))));
        // The gap from 10 to 700 lies before the event.
        assert_eq!(outage(&operations[..3], t.at(900), t.at(1000)).unwrap().length(), Some(Duration::from_millis(300)));
    }

    #[test]
    fn an_outage_that_never_ended_has_no_length() {
        let t = Scale(clock::now());
        let operations = [t.operation(0, 5, Ok(1)), t.operation(6, 10, Ok(1))];
        let gap = outage(&operations, t.at(8), t.at(9000)).unwrap();
        assert_eq!((gap.from, gap.length()), (t.at(10), None));
        assert_eq!(outage(&[], t.at(0), t.at(10)), None);
    }

    #[test]
    fn two_members_that_overlap_leave_no_gap() {
        let t = Scale(clock::now());
        let stretches = [(t.at(0), t.at(500)), (t.at(400), t.at(900)), (t.at(100), t.at(200))];
        assert_eq!(longest_gap(stretches, t.at(0), t.at(900)), None);
        let later = [(t.at(0), t.at(500)), (t.at(800), t.at(900))];
        assert_eq!(longest_gap(later, t.at(450), t.at(900)).unwrap().length(), Some(Duration::from_millis(300)));
    }

    #[test]
    fn a_write_to_a_zombie_is_told_from_one_to_the_leader() {
        let t = Scale(clock::now());
        let stretch = |member: &str, timeline, first, last| {
            let (first, last) = (t.at(first), t.at(last));
            Stretch { member: member.to_owned(), timeline, first, last }
        };
        let name = |port| if port == 1 { Some("old") } else { Some("new") };
        let write = |at, port| t.operation(at, at + 5, Ok(port));
        let writes = [write(900, 1), write(1040, 1), write(1200, 1), write(1200, 2), write(1300, 2)];
        // The poller missed the old one for a moment, which does not make it the newer one.
        let both = [stretch("old", 1, 0, 1050), stretch("new", 2, 1000, 2000), stretch("old", 1, 1190, 2000)];
        assert_eq!(writes_to_deposed(&writes, &both, name), 1);
        // A switchover there and back: the old one leads again, on a later timeline.
        let back = [stretch("old", 1, 0, 500), stretch("new", 2, 600, 800), stretch("old", 3, 850, 2000)];
        assert_eq!(writes_to_deposed(&writes[..3], &back, name), 0);
        let held = [t.operation(700, 845, Ok(1))];
        assert_eq!(writes_to_deposed(&held, &back, name), 0);
    }

    #[test]
    fn held_ones_are_counted_whatever_came_of_them() {
        let t = Scale(clock::now());
        let operations = [t.operation(0, 10, Ok(1)), t.operation(0, 2600, Ok(1)), t.operation(0, 400, Err("57P03"))];
        let tally = Tally::of(&operations, t.at(0), t.at(3000));
        assert_eq!((tally.good, tally.failed(), tally.held), (2, 1, 2));
        assert_eq!(tally.held_longest, Duration::from_millis(2600));
        assert_eq!(tally.errors.get("57P03"), Some(&1));
        assert_eq!(held_past(&operations, t.at(2550)), Some(Duration::from_millis(50)));
        assert_eq!(held_past(&operations, t.at(2900)), None);
    }

    #[test]
    fn the_text_names_every_number() {
        let t = Scale(clock::now());
        let operations = [t.operation(0, 1400, Ok(1)), t.operation(0, 20, Err("08006"))];
        let tally = Tally::of(&operations, t.at(0), t.at(3000));
        let event = EventReport {
            what: "switchover away from n1".to_owned(),
            at: Duration::from_secs(3),
            outage: Some(Gap { from: t.at(0), until: Some(t.at(2400)) }),
            members_outage: Some(Gap { from: t.at(0), until: Some(t.at(900)) }),
            held_past: Some(Duration::from_millis(12)),
            to_deposed: 7,
            connecting: tally.clone(),
            keeping: Tally::default(),
        };
        let report = Report { lasted: Duration::from_secs(9), events: vec![event], groups: vec![("w".into(), tally)] };
        let text = report.to_string();
        for part in ["outage 2.40 s", "900 ms", "12 ms past", "7 writes", "1 x 08006", "1 held", "longest 1.40 s"] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
        assert_eq!(report.json()["events"][0]["write_outage_ms"], 2400.0);
    }
}
