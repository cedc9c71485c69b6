//! A failover as a page of text: every file of `tests/scenarios` is played against a real router in
//! a virtual world (`tests/sim`), with clients that come every few milliseconds and stay.
//!
//! ```text
//! # The first lines are comments: the story, and where its timings come from.
//! on_dcs_loss close            settings, before anything happens: on_dcs_loss close · max_lag 16MB · trust rest ·
//!                              drain 10s · drain replica 0s
//! at 5s    failover key names n1      something happens, at a time since the beginning
//! at 5.3s  n1 postgres stops
//! expect write waits planned_switchover          ... is so now
//! expect at 7s write waits no_leader_key         ... is so then
//! expect write opens n2 within 50ms              ... becomes so within that time
//! expect for 3s sessions kept                    ... is so all that time
//! ```
//!
//! It begins with n1, n2, n3 on timeline 5 of system `sys1`, n1 leading, ttl 30 s. What can happen
//! and what can be seen is listed, as patterns, in `tests/sim/script.rs`. "Sessions kept" and
//! "closed" speak of the time since the latest `at`. The checks of `tests/sim/checks.rs` hold
//! throughout: two writers, a write to a deposed member or a good session cut fail any scenario.

#[path = "sim/mod.rs"]
mod sim;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pgvane::model::{OnDcsLoss, Trust};
use sim::script::{bytes, span};
use sim::world::World;
use sim::{MS, Micros};

/// Lines of the journal shown before a failure.
const SHOWN: usize = 60;

struct Play {
    world: World,
    /// Sessions closed before the latest `at`, and when that was.
    since: usize,
    acted_at: Micros,
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios")
}

fn play(name: &str) {
    let text = fs::read_to_string(directory().join(format!("{name}.txt"))).expect("the scenario");
    let lines: Vec<(usize, Vec<&str>)> = text
        .lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line.split('#').next().unwrap_or("").split_whitespace().collect()))
        .filter(|(_, words): &(usize, Vec<&str>)| !words.is_empty())
        .collect();
    let mut play = Play { world: set_up(&lines), since: 0, acted_at: 0 };
    for (number, words) in lines.iter().filter(|(_, words)| matches!(words[0], "at" | "expect")) {
        if let Err(problem) = play.line(words).and_then(|()| play.nothing_forbidden()) {
            let journal = &play.world.journal;
            let shown: Vec<&str> = journal[journal.len().saturating_sub(SHOWN)..].iter().map(String::as_str).collect();
            let line = words.join(" ");
            let sight = play.world.sight();
            panic!("\n{}\n\n{name}.txt:{number}: {line}\n{problem}\nseen: {sight}\n", shown.join("\n"));
        }
    }
}

fn set_up(lines: &[(usize, Vec<&str>)]) -> World {
    let (mut policy, mut max_lag, mut trust) = (OnDcsLoss::Keep, None, Trust::Confirm);
    let mut drains: Vec<(Option<&str>, Duration)> = Vec::new();
    let wait = |text: &str| Duration::from_micros(span(text).expect("a time"));
    for (number, words) in lines {
        match words[..] {
            ["on_dcs_loss", "close"] => policy = OnDcsLoss::Close,
            ["trust", "rest"] => trust = Trust::Rest,
            ["drain", time] => drains.push((None, wait(time))),
            ["drain", service, time] => drains.push((Some(service), wait(time))),
            ["max_lag", size] => max_lag = Some(bytes(size).expect("a size")),
            ["at" | "expect", ..] => {}
            _ => panic!("line {number}: not a setting: {}", words.join(" ")),
        }
    }
    let spec = match trust {
        Trust::Confirm => sim::cluster(policy, max_lag),
        Trust::Rest => sim::by_rest(max_lag),
    };
    let spec = drains.iter().fold(spec, |spec, (of, drain)| sim::with_drain(&spec, *of, *drain));
    World::new(1, 3, &[spec], false)
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
                if at > self.acted_at {
                    (self.since, self.acted_at) = (self.world.routers[0].closed.len(), at);
                }
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
    switchover switchover_late switchover_given_up host_death patroni_killed patroni_frozen
    etcd_lost_failsafe etcd_lost_no_failsafe primary_cut_from_etcd_failsafe etcd_hung_and_rest_hung
    router_cut_while_leader_moves etcd_replaced_by_copy etcd_replaced_by_another rest_frozen blip_at_healing
    key_recreated key_moved_away_and_back key_moved_unseen pause pause_with_two_writable postgres_crash promoted_by_hand
    slow_promotion member_key_malformed
    start_during_outage start_during_outage_deposed start_during_outage_succeeded slow_promotion_key_again named_after_rewind rival_claims start_while_late start_during_outage_two_claim start_during_outage_close start_during_outage_zombie
    start_failsafe_keyless lag_hysteresis readers_by_tag backup_order read_sessions_kept dcs_loss_close
    other_system_id other_system_in_outage checker_late router_paused replica_down below_mark keyless_stale keyless_blip crash_after_failover
    rest_failover rest_two_primaries rest_api_hangs rest_router_paused
    maintenance drained_leader_moves maintenance_survives_restart reload
    maintenance_of_a_reader maintenance_at_once maintenance_leader_moves maintenance_given_up maintenance_reloaded
    maintenance_lease_ends maintenance_host_dies maintenance_by_rest switchover_taken_back
    roles_follow_a_failover replaced_then_moved start_during_outage_fallen failsafe_heals_unseen fallen_leader_reads
}

#[test]
fn every_scenario_is_played() {
    let files = fs::read_dir(directory()).expect("the scenarios").filter_map(|entry| entry.ok());
    let names = files.map(|f| f.path().file_stem().unwrap_or_default().to_string_lossy().into_owned());
    let mut unlisted: Vec<String> = names.filter(|n| !LISTED.contains(&n.as_str())).collect();
    unlisted.sort();
    assert_eq!(unlisted, Vec::<String>::new(), "in tests/scenarios and not played");
}
