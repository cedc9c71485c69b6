//! One event of each kind in the router machine: what the driver's thread pays.

use std::fmt::Write;
use std::hint::black_box;
use std::time::Duration;

use pgvane::decide::Event;
use pgvane::runtime::clock;

use super::cluster::Cluster;
use super::timer::{Cost, each_of};

const SIZES: [usize; 3] = [3, 9, 30];
const ROUNDS: usize = 501;

pub fn report(page: &mut String) {
    let head = SIZES.map(|members| format!("{:>15}", format!("{members} members"))).concat();
    let _ = writeln!(page, "\ndecide::Router, 4 services: one event with its effects\n{:<34}{head}", "");
    let mut row = |what: &str, measure: fn(usize) -> Cost| {
        let cells: String = SIZES.map(|members| measure(members).to_string()).concat();
        let _ = writeln!(page, "{what:<34}{cells}");
    };
    row("read of the second, nothing new", |members| events(members, Cluster::read_event));
    row("probe answer, nothing new", answers);
    row("tick, nothing due", ticks);
    row("leader key moves", |members| events(members, Cluster::move_event));
    row("new leader's proof opens it", proofs);
    row("the next deadline (poll_timeout)", deadlines);
    row("snapshot for status", snapshots);
    row("a clone of the table, dropped", tables);
}

fn cluster(members: usize) -> Cluster {
    Cluster::new("pg-main", members, clock::now())
}

fn settled(cluster: &mut Cluster) {
    cluster.answer_all();
    for _ in 0..8 {
        cluster.pass(Duration::from_millis(500));
        cluster.read();
        cluster.tick();
        cluster.answer_all();
    }
    cluster.told.clear();
    cluster.pass(Duration::from_millis(1));
}

fn events(members: usize, make: fn(&mut Cluster) -> Event) -> Cost {
    let mut cluster = cluster(members);
    let rounds = if members > 9 { ROUNDS / 5 } else { ROUNDS };
    let cluster = std::cell::RefCell::new(&mut cluster);
    each_of(
        rounds,
        || {
            let mut cluster = cluster.borrow_mut();
            settled(&mut cluster);
            Some(make(&mut cluster))
        },
        |event| event.take().into_iter().for_each(|event| cluster.borrow_mut().handle(event)),
    )
}

/// Of a reader.
fn answers(members: usize) -> Cost {
    let cluster = std::cell::RefCell::new(cluster(members));
    each_of(
        ROUNDS,
        || {
            let mut cluster = cluster.borrow_mut();
            loop {
                cluster.pass(Duration::from_millis(250));
                cluster.read();
                cluster.tick();
                let Some(asked) = cluster.asked.pop() else { continue };
                let event = cluster.answer_event(asked.clone());
                if cluster.leads(&asked.0) {
                    cluster.handle(event);
                } else {
                    return Some(event);
                }
            }
        },
        |event| event.take().into_iter().for_each(|event| cluster.borrow_mut().handle(event)),
    )
}

fn ticks(members: usize) -> Cost {
    let mut cluster = cluster(members);
    settled(&mut cluster);
    super::timer::each(|| cluster.tick())
}

fn proofs(members: usize) -> Cost {
    let cluster = std::cell::RefCell::new(cluster(members));
    let rounds = if members > 9 { ROUNDS / 5 } else { ROUNDS };
    each_of(
        rounds,
        || {
            let mut cluster = cluster.borrow_mut();
            settled(&mut cluster);
            let event = cluster.move_event();
            cluster.handle(event);
            let place = cluster.asked.iter().position(|(name, _)| cluster.leads(name)).expect("asked at once");
            let asked = cluster.asked.remove(place);
            Some(cluster.answer_event(asked))
        },
        |event| event.take().into_iter().for_each(|event| cluster.borrow_mut().handle(event)),
    )
}

fn deadlines(members: usize) -> Cost {
    let mut cluster = cluster(members);
    settled(&mut cluster);
    super::timer::each(|| _ = black_box(cluster.router.poll_timeout()))
}

fn snapshots(members: usize) -> Cost {
    let mut cluster = cluster(members);
    settled(&mut cluster);
    super::timer::each(|| drop(black_box(cluster.router.snapshot())))
}

fn tables(members: usize) -> Cost {
    let cluster = cluster(members);
    super::timer::each(|| drop(black_box((**cluster.router.routes()).clone())))
}
