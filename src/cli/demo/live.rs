//! The live page: a few lines drawn over each other on a terminal, or one line per change elsewhere.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write, stdout};
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::Value;

use super::clients::{Counts, Work};
use super::stage::{Happening, Stage};
use crate::runtime::clock;

const DRAW_EVERY: Duration = Duration::from_millis(500);
/// Last events on the page.
const EVENTS_MAX: usize = 6;
pub const KEYS_LINE: &str = "s switchover   k kill the primary   p kill its Patroni   f freeze/thaw its Patroni   \
    e stop/start etcd   r repair   q quit";

/// Everything one drawing needs.
struct Page {
    at: Duration,
    doors: String,
    status: Value,
    writes: (Counts, f64),
    reads: (Counts, f64),
    happenings: Vec<(Duration, Happening)>,
    takes_keys: bool,
}

/// Shows the stage until the router is gone, which is an error.
pub async fn show(stage: &Stage, takes_keys: bool) -> Result<()> {
    let mut shown: Box<dyn Shown + Send> =
        if stdout().is_terminal() { Box::<Drawn>::default() } else { Box::<Told>::default() };
    let mut ticks = tokio::time::interval(DRAW_EVERY);
    let (mut before, mut counted) = (clock::now(), (Counts::default(), Counts::default()));
    loop {
        ticks.tick().await;
        stage.check_router()?;
        stage.hear_patroni().await;
        let status = stage.status().await;
        let now = clock::now();
        let counts = (stage.counts(Work::Write), stage.counts(Work::Read));
        let page = Page {
            at: now.saturating_duration_since(stage.began),
            doors: format!(
                "writes {}   reads {}   status http://{}",
                stage.doors.write, stage.doors.read, stage.doors.admin
            ),
            status,
            writes: (counts.0, rate(counts.0, counted.0, now, before)),
            reads: (counts.1, rate(counts.1, counted.1, now, before)),
            happenings: stage
                .happenings()
                .into_iter()
                .map(|it| (it.at.saturating_duration_since(stage.began), it))
                .collect(),
            takes_keys,
        };
        (before, counted) = (now, counts);
        shown.show(&page);
    }
}

fn rate(now: Counts, before: Counts, at: Instant, since: Instant) -> f64 {
    let time = at.saturating_duration_since(since).as_secs_f64().max(0.001);
    now.good.saturating_sub(before.good) as f64 / time
}

trait Shown {
    fn show(&mut self, page: &Page);
}

/// On a terminal: the last drawing is overwritten. Lines are cut at the edge, or the count of
/// rows to go up would be wrong.
#[derive(Default)]
struct Drawn {
    rows: usize,
}

impl Shown for Drawn {
    fn show(&mut self, page: &Page) {
        let lines = page.lines();
        let mut text = String::from("\x1b[?7l");
        if self.rows > 0 {
            text.push_str(&format!("\x1b[{}A", self.rows));
        }
        for line in &lines {
            text.push_str(&format!("\x1b[2K{line}\n"));
        }
        text.push_str("\x1b[J\x1b[?7h");
        self.rows = lines.len();
        put(&text);
    }
}

/// Elsewhere: one line for each thing that changed.
#[derive(Default)]
struct Told {
    facts: BTreeMap<String, String>,
    events: usize,
}

impl Shown for Told {
    fn show(&mut self, page: &Page) {
        let at = page.at.as_secs_f64();
        for (when, happening) in page.happenings.iter().skip(self.events) {
            put(&format!("{:7.1} s  {}\n", when.as_secs_f64(), happening.what));
        }
        self.events = page.happenings.len();
        let facts = facts(&page.status);
        for (what, value) in &facts {
            if self.facts.get(what) != Some(value) {
                put(&format!("{at:7.1} s  {what}: {value}\n"));
            }
        }
        for what in self.facts.keys().filter(|what| !facts.contains_key(*what)) {
            put(&format!("{at:7.1} s  {what}: gone\n"));
        }
        self.facts = facts;
    }
}

/// A closed pipe is no reason to stop.
fn put(text: &str) {
    let mut out = stdout().lock();
    drop(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
}

impl Page {
    fn lines(&self) -> Vec<String> {
        let cluster = &self.status["clusters"][0];
        let mut lines = vec![format!("pgvane demo   {}   {:.0} s", self.doors, self.at.as_secs_f64())];
        if cluster.is_null() {
            lines.push("the router does not answer".to_owned());
        } else {
            lines.push(format!("leader {}   etcd {}", leader(cluster), word(&cluster["dcs"]["state"])));
        }
        lines.extend(list(&cluster["members"]).iter().map(member_line));
        lines.push(format!("writes {}", traffic(&self.writes, cluster, "primary")));
        lines.push(format!("reads  {}", traffic(&self.reads, cluster, "replica")));
        let from = self.happenings.len().saturating_sub(EVENTS_MAX);
        for (when, happening) in &self.happenings[from..] {
            let felt = if happening.felt.is_empty() { String::new() } else { format!(": {}", happening.felt) };
            lines.push(format!("{:7.1} s  {}{felt}", when.as_secs_f64(), happening.what));
        }
        if self.takes_keys {
            lines.push(KEYS_LINE.to_owned());
        }
        lines
    }
}

fn member_line(member: &Value) -> String {
    let lag = match member["lag_bytes"].as_u64() {
        Some(lag) => format!("lag {lag} B"),
        None => String::new(),
    };
    format!(
        "  {:6} {:9} {:8} {:18} timeline {:3} {lag}",
        word(&member["name"]),
        word(&member["role"]),
        word(&member["health"]),
        word(&member["reason"]),
        word(&member["timeline"])
    )
}

fn traffic((counts, rate): &(Counts, f64), cluster: &Value, role: &str) -> String {
    let services = list(&cluster["services"]).iter().filter(|service| service["role"] == role);
    let (mut held, mut sessions) = (0, 0);
    for service in services {
        held += service["held"].as_u64().unwrap_or(0);
        sessions += list(&service["targets"]).iter().filter_map(|target| target["sessions"].as_u64()).sum::<u64>();
    }
    format!(
        "{rate:6.0}/s   {} good, {} errors   sessions {sessions}   held by the router {held}, waiting {}",
        counts.good, counts.bad, counts.held_now
    )
}

fn leader(cluster: &Value) -> String {
    let leader = &cluster["leader"];
    match (leader["key"].as_str(), leader["open"].as_str()) {
        (Some(key), Some(open)) if key == open => format!("{key}, open ({})", word(&leader["reason"])),
        (key, Some(open)) => format!("{}, open to {open} ({})", key.unwrap_or("none"), word(&leader["reason"])),
        (key, None) => format!("{}, writes are held ({})", key.unwrap_or("none"), word(&leader["reason"])),
    }
}

/// What is worth a line when it changes.
fn facts(status: &Value) -> BTreeMap<String, String> {
    let mut facts = BTreeMap::new();
    let cluster = &status["clusters"][0];
    if cluster.is_null() {
        facts.insert("router".to_owned(), "does not answer".to_owned());
        return facts;
    }
    facts.insert("leader".to_owned(), leader(cluster));
    facts.insert("etcd".to_owned(), word(&cluster["dcs"]["state"]));
    for member in list(&cluster["members"]) {
        let value = format!("{}, {} ({})", word(&member["role"]), word(&member["health"]), word(&member["reason"]));
        facts.insert(format!("member {}", word(&member["name"])), value);
    }
    facts
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A string without its quotes, a number as it is, `-` for nothing.
fn word(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn page(status: Value) -> Page {
        Page {
            at: Duration::from_secs(5),
            doors: String::new(),
            status,
            writes: (Counts { good: 10, bad: 1, held_now: 2 }, 50.0),
            reads: (Counts::default(), 0.0),
            happenings: Vec::new(),
            takes_keys: false,
        }
    }

    #[test]
    fn the_page_shows_what_the_status_says() {
        let status = json!({"clusters": [{
            "dcs": {"state": "fresh"},
            "leader": {"key": "n2", "open": null, "reason": "leader_unproven"},
            "members": [{"name": "n2", "role": "primary", "health": "up", "lag_bytes": 0, "timeline": 3}],
            "services": [{"role": "primary", "held": 4, "targets": [{"sessions": 3}, {"sessions": 2}]}],
        }]});
        let text = page(status).lines().join("\n");
        for part in
            ["n2, writes are held (leader_unproven)", "etcd fresh", "sessions 5", "held by the router 4, waiting 2"]
        {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }

    #[test]
    fn a_status_of_another_shape_is_no_panic() {
        for status in [Value::Null, json!({"clusters": 1}), json!({"clusters": [{"members": [1], "leader": []}]})] {
            assert!(page(status.clone()).lines().len() >= 4);
            facts(&status);
        }
    }
}
