//! The life of a virtual address as a page of text: every file of `tests/vip` is played by real machines in a
//! virtual world (`tests/vip_sim`): two or three hosts, a segment, a DCS.
//!
//! ```text
//! # The first lines are comments: the story, and where its timings come from.
//! policy release               settings, before anything happens: policy · grace 1s · lease 5s · on_exit keep 30s ·
//!                              role replica · adopt on · ipv6 · refresh 10s · hosts 3 · n2 is called n1
//! at 5s    leader key names n2         something happens, at a time since the beginning
//! expect n2 has address                ... is so now
//! expect at 7s n1 released             ... is so then
//! expect n2 held within 50ms           ... becomes so within that time
//! expect for 3s n1 held                ... is so all that time
//! ```
//!
//! Every host's router starts at 0; nobody leads. What can happen and what can be seen is listed, as patterns, in
//! `tests/vip_sim/script.rs`. "Told", "announced", "probed" and "put" speak of the time since the latest `at`. The
//! checks of `tests/vip_sim/checks.rs` hold throughout: two holders fail any page that does not allow them by
//! `two holders allowed`.

#[path = "vip_sim/mod.rs"]
mod vip_sim;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pgvane::model::{Role, VipAddress, VipOnDcsLoss, VipOnExit, VipSpec};
use vip_sim::script::span;
use vip_sim::world::World;
use vip_sim::{MS, Micros};

/// Lines of the journal shown before a failure.
const SHOWN: usize = 60;

struct Play {
    world: World,
    /// When the latest `at` was.
    since: Micros,
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vip")
}

fn play(name: &str) {
    let text = fs::read_to_string(directory().join(format!("{name}.txt"))).expect("the scenario");
    let lines: Vec<(usize, Vec<&str>)> = text
        .lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line.split('#').next().unwrap_or("").split_whitespace().collect()))
        .filter(|(_, words): &(usize, Vec<&str>)| !words.is_empty())
        .collect();
    let mut play = Play { world: set_up(&lines), since: 0 };
    for (number, words) in lines.iter().filter(|(_, words)| matches!(words[0], "at" | "expect")) {
        if let Err(problem) = play.line(words).and_then(|()| play.nothing_forbidden()) {
            let journal = &play.world.journal;
            let shown: Vec<&str> = journal[journal.len().saturating_sub(SHOWN)..].iter().map(String::as_str).collect();
            let line = words.join(" ");
            panic!("\n{}\n\n{name}.txt:{number}: {line}\n{problem}\n", shown.join("\n"));
        }
    }
}

fn set_up(lines: &[(usize, Vec<&str>)]) -> World {
    let mut spec = VipSpec::new(VipAddress::single([10, 0, 0, 100].into()), "eth0", "pg-test");
    let (mut hosts, mut namesake, mut two) = (2, false, false);
    let wait = |text: &str| Duration::from_micros(span(text).expect("a time"));
    for (number, words) in lines {
        match words[..] {
            ["policy", "release"] => spec.on_dcs_loss = VipOnDcsLoss::Release,
            ["policy", "hold"] => spec.on_dcs_loss = VipOnDcsLoss::Hold,
            ["grace", time] => spec.grace = wait(time),
            ["lease", time] => spec.lease = wait(time),
            ["refresh", time] => spec.refresh = Some(wait(time)),
            ["on_exit", "keep", time] => spec.on_exit = VipOnExit::Keep(wait(time)),
            ["role", "replica"] => spec.role = Role::Replica,
            ["adopt", "on"] => spec.adopt = true,
            ["ipv6"] => spec.address = VipAddress::single([0xfd00, 0, 0, 0, 0, 0, 0, 9].into()),
            ["hosts", count] => hosts = count.parse().expect("a number"),
            ["n2", "is", "called", "n1"] => namesake = true,
            ["two", "holders", "allowed"] => two = true,
            ["at" | "expect", ..] => {}
            _ => panic!("line {number}: not a setting: {}", words.join(" ")),
        }
    }
    let names = if namesake { ["n1", "n1", "n3"] } else { ["n1", "n2", "n3"] };
    let mut world = World::new(1, &names[..hosts], &spec, false);
    world.two_allowed = two;
    world
}

impl Play {
    fn line(&mut self, words: &[&str]) -> Result<(), String> {
        match words {
            ["at", time, act @ ..] => {
                let at = span(time)?;
                if at < self.world.now {
                    return Err(format!("it is {} ms already", self.world.now / MS));
                }
                self.world.run_until(at);
                self.since = at;
                self.world.act_out(act)
            }
            ["expect", "at", time, see @ ..] => {
                self.world.run_until(span(time)?);
                self.now(see)
            }
            ["expect", "for", time, see @ ..] => self.throughout(see, span(time)?),
            ["expect", see @ .., "within", time] => self.within(see, span(time)?),
            ["expect", see @ ..] => self.now(see),
            _ => Err("not a line of this language".to_owned()),
        }
    }

    fn now(&self, see: &[&str]) -> Result<(), String> {
        if self.world.see(see, self.since)? { Ok(()) } else { Err("it is not so".to_owned()) }
    }

    fn within(&mut self, see: &[&str], limit: Micros) -> Result<(), String> {
        let end = self.world.now + limit;
        while !self.world.see(see, self.since)? {
            if !self.world.step(end) {
                self.world.now = end;
                return self.now(see).map_err(|_| "it did not become so".to_owned());
            }
        }
        Ok(())
    }

    fn throughout(&mut self, see: &[&str], limit: Micros) -> Result<(), String> {
        let end = self.world.now + limit;
        while self.world.see(see, self.since)? {
            if !self.world.step(end) {
                self.world.now = end;
                return Ok(());
            }
        }
        Err("it did not stay so".to_owned())
    }

    fn nothing_forbidden(&self) -> Result<(), String> {
        self.world.failures.first().map_or(Ok(()), |what| Err(format!("forbidden: {what}")))
    }
}

macro_rules! scenarios {
    ($($name:ident)*) => {
        $(#[test] fn $name() { play(stringify!($name)); })*
        const LISTED: &[&str] = &[$(stringify!($name),)*];
    };
}

scenarios! {
    handed_over handed_over_key_deleted_first holder_crashed holder_lost_power holder_stopped marks_cannot_be_written
    holder_exits_while_it_leads
    partition_while_key_moves partition_of_both_networks dcs_hung_patroni_leads dcs_hung_patroni_silent
    policy_release policy_hold one_slow_answer leader_lease_ends
    start_during_outage adopted leftover_elsewhere leftover_for_ever foreign adopt_foreign
    deleted_by_somebody always_deleted made_permanent
    conflict_with_fresh_view conflict_without_view occupied_by_a_stranger namesakes
    link_down_and_up link_vanishes bond_fails_over slept exit exit_keep exit_while_releasing exit_while_starting
    sessions_never_end puts_fail removals_fail replica_two_candidates replica_holder_crashes ipv6_announced
    leader_flaps
}

#[test]
fn every_scenario_is_played() {
    let files = fs::read_dir(directory()).expect("the scenarios").filter_map(|entry| entry.ok());
    let names = files.map(|f| f.path().file_stem().unwrap_or_default().to_string_lossy().into_owned());
    let mut unlisted: Vec<String> = names.filter(|n| !LISTED.contains(&n.as_str())).collect();
    unlisted.sort();
    assert_eq!(unlisted, Vec::<String>::new(), "in tests/vip and not played");
}
