//! A thousand clusters in one process.

use std::fmt::Write;
use std::hint::black_box;
use std::time::Duration;

use pgvane::dcs::patroni::{KeySpace, RawKey};
use pgvane::dcs::place::Place;
use pgvane::decide::Effect;
use pgvane::proxy::{Crew, Plane};
use pgvane::runtime::clock;
use tokio::sync::mpsc;

use super::cluster::{Cluster, spec};
use super::heap;
use super::timer::{cpu, each, time};

pub const CLUSTERS: usize = 1000;
pub const MEMBERS: usize = 3;
/// Of each cluster, while all leaders move.
const SESSIONS: u64 = 90;
/// Virtual time; nothing sleeps.
const SECONDS: u32 = 30;

pub fn report(page: &mut String) {
    let _ = writeln!(page, "\n{CLUSTERS} clusters of {MEMBERS} members with 4 services each, in one thread");
    let mut clusters = memory_of_machines(page);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let _on_runtime = runtime.enter();
    let planes = memory_of_planes(page);
    key_spaces(page);
    turn_over(page, &mut clusters);
    move_all(page, &mut clusters, &planes);
}

pub fn line(page: &mut String, what: &str, value: impl AsRef<str>) {
    let _ = writeln!(page, "  {what:<58}{:>12}", value.as_ref());
}

pub fn resident() -> i64 {
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.and_then(|text| text.split_whitespace().nth(1)?.parse::<i64>().ok());
    pages.unwrap_or(0) * 4096
}

/// Bytes asked of the allocator, and what the process grew by, for each of `count`.
fn growth<T>(page: &mut String, what: &str, count: usize, make: impl FnMut(usize) -> T) -> Vec<T> {
    let (before, resident_before) = (heap::live(), resident());
    let made: Vec<T> = (0..count).map(make).collect();
    let (grown, resident_grown) = (heap::live() - before, resident() - resident_before);
    let kib = |bytes: i64| bytes as f64 / count as f64 / 1024.0;
    let _ = writeln!(page, "  {what:<58}{:>8.1} KiB{:>8.1} KiB resident", kib(grown), kib(resident_grown));
    made
}

fn memory_of_machines(page: &mut String) -> Vec<Cluster> {
    let start = clock::now();
    growth(page, "memory of one machine, all members up", CLUSTERS, |number| {
        let mut cluster = Cluster::new(&format!("pg-{number}"), MEMBERS, start);
        cluster.told = Vec::new();
        cluster.asked = Vec::new();
        cluster
    })
}

fn memory_of_planes(page: &mut String) -> Vec<Plane> {
    let specs = spec("pg").services.clone();
    growth(page, "of one data plane without sockets and sessions", CLUSTERS, |number| {
        let plane = Plane::start(Crew::here(), format!("pg-{number}").as_str().into(), &specs, mpsc::channel(1).0, 100);
        plane.expect("nothing to listen on")
    })
}

/// What the DCS session pays for a cluster in one second when nothing has changed but Patroni's own keys.
fn key_spaces(page: &mut String) {
    let prefix = "/service/pg-main/";
    let raw = |name: &str, value: &str, revision: i64| RawKey {
        key: format!("{prefix}{name}").into_bytes(),
        value: value.as_bytes().to_vec(),
        create_revision: 1,
        mod_revision: revision,
        lease: 7,
    };
    let member = |number: usize| {
        format!(
            r#"{{"conn_url":"postgres://10.10.0.{number}:5432/postgres","api_url":"http://10.10.0.{number}:8008/patroni","state":"running","role":"replica","version":"4.1.5","xlog_location":1099511627776,"replication_state":"streaming","timeline":1}}"#
        )
    };
    let mut revision = 1;
    let mut all = || -> Vec<RawKey> {
        revision += 1;
        let mut keys = vec![
            raw("config", r#"{"ttl":30,"loop_wait":10,"retry_timeout":10}"#, 1),
            raw("history", "[[1,67108960,\"no recovery target specified\"]]", 1),
            raw("initialize", "7400000000000000001", 1),
            raw("leader", "pg-main-1", 1),
            raw("status", &format!(r#"{{"optime":{revision}}}"#), revision),
        ];
        keys.extend((1..=MEMBERS).map(|number| raw(&format!("members/pg-main-{number}"), &member(number), 1)));
        keys
    };
    let made = each(|| drop(black_box(all())));
    let mut space = KeySpace::new(Place::below(prefix));
    let mut at = 1;
    let read = each(|| {
        at += 1;
        space.replace(at, all());
        black_box(space.view(1));
    });
    line(page, "a read of 8 keys becomes a view", time(read.nanos - made.nanos));
}

/// Every cluster through the same seconds: a read each, probes as they come due and their answers.
fn turn_over(page: &mut String, clusters: &mut [Cluster]) {
    let (mut reads, mut ticks, mut answers) = (0u64, 0u64, 0u64);
    let (mut in_machine, mut in_snapshot) = (Duration::ZERO, Duration::ZERO);
    for cluster in clusters.iter_mut() {
        for _ in 0..SECONDS {
            let end = cluster.now + Duration::from_secs(1);
            let began = cpu();
            cluster.read();
            let mut turns = 1;
            reads += 1;
            loop {
                let next = cluster.router.poll_timeout().map(|(at, _)| at).filter(|at| *at < end);
                let Some(next) = next else { break };
                cluster.now = next;
                cluster.tick();
                (ticks, turns) = (ticks + 1, turns + 1);
                while let Some(asked) = cluster.asked.pop() {
                    cluster.pass(Duration::from_millis(1));
                    let event = cluster.answer_event(asked);
                    cluster.handle(event);
                    (answers, turns) = (answers + 1, turns + 1);
                }
            }
            in_machine += cpu() - began;
            let began = cpu();
            (0..turns).for_each(|_| drop(black_box(cluster.router.snapshot())));
            in_snapshot += cpu() - began;
            cluster.now = end;
        }
        cluster.told.clear();
    }
    let second = |count: u64| format!("{:.0}", count as f64 / f64::from(SECONDS));
    let percent = |spent: Duration| format!("{:.2} %", spent.as_secs_f64() / f64::from(SECONDS) * 100.0);
    line(page, "views in a second", second(reads));
    line(page, "probe answers in a second", second(answers));
    line(page, "timers in a second", second(ticks));
    line(page, "CPU of one core: machines", percent(in_machine));
    line(page, "CPU of one core: a snapshot after every turn", percent(in_snapshot));
}

/// The leader keys of all clusters move at once; each has sessions to both kinds of members.
fn move_all(page: &mut String, clusters: &mut [Cluster], planes: &[Plane]) {
    let mut spent = Duration::ZERO;
    let mut slowest = Duration::ZERO;
    let mut fenced = 0;
    for (cluster, plane) in clusters.iter_mut().zip(planes) {
        let registry = plane.registry();
        carry_out(cluster, plane);
        registry.publish(cluster.router.routes().clone());
        registry.confirm(clock::now() + Duration::from_secs(60));
        let service = registry.service("primary").expect("one of the four");
        let sessions: Vec<_> = (0..SESSIONS).map(|number| super::world::session(registry, &service, number)).collect();
        let began = cpu();
        let event = cluster.move_event();
        cluster.handle(event);
        carry_out(cluster, plane);
        cluster.answer_all();
        carry_out(cluster, plane);
        drop(black_box(cluster.router.snapshot()));
        let took = cpu() - began;
        (spent, slowest) = (spent + took, slowest.max(took));
        fenced += sessions.iter().filter(|session| session.guard.fence().reason().is_some()).count();
    }
    assert_eq!(fenced, clusters.len() * SESSIONS as usize, "every session of a deposed leader");
    line(page, "one leader moves, with 90 sessions: CPU", time(spent.as_nanos() as f64 / clusters.len() as f64));
    line(page, "the slowest of them", time(slowest.as_nanos() as f64));
    line(page, "all leaders move at once: CPU until the last is open", time(spent.as_nanos() as f64));
}

fn carry_out(cluster: &mut Cluster, plane: &Plane) {
    for effect in cluster.told.drain(..) {
        // Virtual time is not the registry's.
        let until = clock::now() + Duration::from_secs(60);
        let effect = if matches!(effect, Effect::Confirm { .. }) { Effect::Confirm { until } } else { effect };
        assert!(plane.execute(&effect));
    }
}
