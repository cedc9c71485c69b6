//! What the driver and the admin endpoint pay for the registry, by sessions that are open.

use std::fmt::Write;
use std::hint::black_box;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use pgvane::model::Reason;
use pgvane::proxy::cancel::keys::Keys;
use pgvane::proxy::fence::Fence;
use pgvane::proxy::premises::Tenancy;

use super::timer::{Cost, each, each_of};
use super::world::{CROWDS, FEW, Ground, MANY, Session, key, member};

const ROUNDS: usize = 9;

pub fn report(page: &mut String) {
    let head = CROWDS.map(|sessions| format!("{sessions:>15}")).concat();
    let _ = writeln!(page, "\nThe registry, by sessions that are open\n{:<34}{head}", "");
    let mut row = |what: &str, measure: fn(usize) -> Cost| {
        let cells: String = CROWDS.map(|sessions| measure(sessions).to_string()).concat();
        let _ = writeln!(page, "{what:<34}{cells}");
    };
    row("publish, 3 members", |sessions| publishes(FEW, sessions));
    row("publish, 30 members", |sessions| publishes(MANY, sessions));
    row("close: sealed, nobody woken", |sessions| closes(sessions, false));
    row("close: sealed and all woken", |sessions| closes(sessions, true));
    row("  ... and each has heard it", heard);
    row("snapshot for status, 3 members", |sessions| snapshots(FEW, sessions));
    row("snapshot for status, 30 members", |sessions| snapshots(MANY, sessions));
    row("cancel key: register and forget", registers);
    row("cancel key: who gave it out", looks_up);
    accepts(page);
}

/// Which address a client came by is asked when one leaves, and not before.
fn accepts(page: &mut String) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port on loopback");
    let at = listener.local_addr().expect("it is bound");
    let _client = std::net::TcpStream::connect(at).expect("it listens");
    let (accepted, _) = listener.accept().expect("one has connected");
    let mut row = |what: &str, cost: Cost| _ = writeln!(page, "{what:<34}{cost}");
    let Ground { registry, .. } = Ground::of_readers(FEW);
    row("premises: a client comes", each(|| drop(black_box(registry.enter(&accepted)))));
    let tenancy = registry.enter(&accepted);
    row("premises: a look before a write", each(|| _ = black_box(tenancy.is_outdated())));
    // Nobody waits for its end.
    drop(registry.send_away([127, 0, 0, 99].into(), Reason::RoleElsewhere));
    row("premises: one comes, another left", each(|| drop(black_box(registry.enter(&accepted)))));
    let outdated = || registry.enter(&accepted);
    let look = |tenancy: &mut Tenancy| tenancy.look(accepted.as_raw_fd());
    let change = |ip: [u8; 4]| drop(registry.send_away(ip.into(), Reason::RoleElsewhere));
    let mut last = 100;
    let prepare = || {
        let tenancy = outdated();
        registry.welcome([127, 0, 0, last].into());
        last = if last == 100 { 101 } else { 100 };
        change([127, 0, 0, last]);
        tenancy
    };
    row("premises: a look after a change", each_of(2001, prepare, look));
}

fn publishes(members: usize, sessions: usize) -> Cost {
    let (mut ground, _sessions) = Ground::crowded(members, sessions);
    let registry = ground.registry.clone();
    each_of(2001, || ground.next_table(), |table| registry.publish(table.clone()))
}

fn snapshots(members: usize, sessions: usize) -> Cost {
    let (ground, _sessions) = Ground::crowded(members, sessions);
    each(|| drop(black_box(ground.registry.snapshot())))
}

/// All sessions go to the one member that is closed. With `waiting`, each has a task that waits for its fence, as a
/// relay does; the closing thread is none of the runtime's, as the driver's is none.
fn closes(sessions: usize, waiting: bool) -> Cost {
    let ground = Ground::of_readers(1);
    each_of(
        ROUNDS,
        || Crowd::gather(&ground, sessions, waiting),
        |_| ground.registry.close(&member(0), None, Reason::MemberDown),
    )
}

/// From the close until the last task has run.
fn heard(sessions: usize) -> Cost {
    let ground = Ground::of_readers(1);
    each_of(
        ROUNDS,
        || Crowd::gather(&ground, sessions, true),
        |crowd| {
            ground.registry.close(&member(0), None, Reason::MemberDown);
            crowd.runtime.block_on(async {
                for task in &mut crowd.tasks {
                    task.await.expect("it only waits");
                }
            });
        },
    )
}

struct Crowd {
    runtime: tokio::runtime::Runtime,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    _sessions: Vec<Session>,
}

impl Crowd {
    fn gather(ground: &Ground, sessions: usize, waiting: bool) -> Crowd {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let sessions: Vec<_> = (0..sessions as u64).map(|number| ground.session(number)).collect();
        let mut tasks = Vec::new();
        if waiting {
            let fences = sessions.iter().map(|session| session.guard.fence().clone());
            let wait = |fence: Arc<Fence>| async move {
                fence.closed().await;
            };
            tasks.extend(fences.map(|fence| runtime.spawn(wait(fence))));
            // Each is polled once, and listens.
            runtime.block_on(async {
                for _ in 0..=sessions.len() / 32 {
                    tokio::task::yield_now().await;
                }
            });
        }
        Crowd { runtime, tasks, _sessions: sessions }
    }
}

fn registers(known: usize) -> Cost {
    let (ground, _sessions) = Ground::crowded(FEW, known);
    let issuer = ground.registry.cancel_keys.issuer(&ground.grant(0).target.address);
    let mut number = 1 << 32;
    each(|| {
        number += 1;
        black_box(issuer.register(&key(number)));
    })
}

fn looks_up(known: usize) -> Cost {
    let (ground, _sessions) = Ground::crowded(FEW, known);
    let keys: &Keys = &ground.registry.cancel_keys;
    let mut number = 0;
    each(|| {
        number = (number + 1) % known.max(1) as u64;
        black_box(keys.owners(&key(number)));
    })
}
