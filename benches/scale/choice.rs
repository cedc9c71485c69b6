//! What one client pays for its target.

use std::fmt::Write;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use pgvane::decide::balance::{Balancer, client_hash};
use pgvane::decide::{Caller, Pick};
use pgvane::model::Balance;
use pgvane::proxy::hold::Grant;
use pgvane::runtime::clock;

use super::timer::{Cost, cpu, each, time};
use super::world::{CROWDS, FEW, Ground, MANY, readers, routes_of};

pub fn report(page: &mut String) {
    let _ = writeln!(
        page,
        "\nServiceRoutes::pick, the choice alone\n{:<34}{:>15}{:>15}",
        "balance", "3 members", "30 members"
    );
    for balance in Balance::ALL {
        let [few, many] = [FEW, MANY].map(|members| picks(balance, members));
        let _ = writeln!(page, "{:<34}{few}{many}", balance.as_str());
    }
    let head = CROWDS.map(|sessions| format!("{sessions:>15}")).concat();
    let _ = writeln!(page, "\nOne connection in the registry, by sessions that are open\n{:<34}{head}", "");
    for members in [FEW, MANY] {
        let grounds = CROWDS.map(|sessions| Ground::crowded(members, sessions));
        let row = |page: &mut String, what: &str, measure: &dyn Fn(&Ground) -> Cost| {
            let cells: String = grounds.iter().map(|(ground, _)| measure(ground).to_string()).collect();
            let _ = writeln!(page, "{:<34}{cells}", format!("{members} members: {what}"));
        };
        row(page, "admit", &admits);
        row(page, "open", &opens);
        row(page, "admit, open, key, end", &sessions);
    }
    let _ = writeln!(page, "\nThe same by one thread and by two at once, 3 members: CPU time of one connection");
    let alone = crowds_of(1);
    let _ = writeln!(page, "{:<34}{}{:>20}{}", "", time(alone), "two threads", time(crowds_of(2)));
}

fn picks(balance: Balance, members: usize) -> Cost {
    let routes = routes_of(&Arc::new(readers(balance)), members);
    let (mut balancer, mut number, now) = (Balancer::default(), 0u64, clock::now());
    each(|| {
        number += 1;
        let client = client_hash(&number.to_be_bytes());
        let caller = Caller { client, draw: client, tried: &[], now };
        let pick = routes.pick(&mut balancer, caller, |_| 7);
        assert!(matches!(black_box(pick), Pick::Target(_)));
    })
}

fn admits(ground: &Ground) -> Cost {
    let mut number = 0;
    each(|| {
        number += 1;
        black_box(ground.grant(number));
    })
}

fn opens(ground: &Ground) -> Cost {
    let Grant { target, generation, .. } = ground.grant(1);
    each(|| {
        black_box(ground.registry.open(&ground.service, &target, generation).is_ok());
    })
}

fn sessions(ground: &Ground) -> Cost {
    // Keys that no open session has.
    let mut number = 1 << 32;
    each(|| {
        number += 1;
        black_box(ground.session(number));
    })
}

/// Nanoseconds of CPU time.
fn crowds_of(threads: u64) -> f64 {
    const SESSIONS: u64 = 200_000;
    let ground = Ground::of_readers(FEW);
    let work = |thread: u64| {
        let began = cpu();
        (0..SESSIONS).for_each(|number| drop(black_box(ground.session(thread << 40 | number))));
        cpu() - began
    };
    let took: Duration = std::thread::scope(|scope| {
        let running: Vec<_> = (1..=threads).map(|thread| scope.spawn(move || work(thread))).collect();
        running.into_iter().map(|thread| thread.join().expect("it only counts")).sum()
    });
    took.as_nanos() as f64 / (threads * SESSIONS) as f64
}
