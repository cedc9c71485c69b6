//! Ends: fences, resets, drains.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use pgvane::decide::{Report, Suspicion};
use pgvane::model::{HostPort, Reason, Role};
use pgvane::proxy::{Crew, Plane};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::bed::*;
use crate::speaker::in_transaction;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_sessions_end_at_once_and_forward_nothing_more() {
    const SESSIONS: usize = 500;
    let bed = Bed::new();
    let (old, new) = (Server::postgres("old").await, Server::postgres("new").await);
    bed.publish(Some(&old), &[]);
    let mut clients = Vec::new();
    for _ in 0..SESSIONS {
        let (client, who) = bed.session("primary").await;
        assert_eq!(who, "old");
        clients.push(client);
    }
    // Every client writes all the time; half of them never read.
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = clients
        .into_iter()
        .enumerate()
        .map(|(number, client)| {
            let stop = stop.clone();
            tokio::spawn(async move {
                let mut client = client;
                let mut chunk = [0; 256];
                while !stop.load(SeqCst) && client.0.write_all(b"insert").await.is_ok() {
                    if number % 2 == 0 && !matches!(client.0.read(&mut chunk).await, Ok(1..)) {
                        break;
                    }
                    tokio::task::yield_now().await;
                }
                client
            })
        })
        .collect();
    until("traffic", || old.seen.bytes.load(SeqCst) > 100_000).await;
    let started = pgvane::runtime::clock::now();
    bed.publish(Some(&new), &[]);
    bed.close(&old, Reason::LeaderMoved);
    let fenced = elapsed(started);
    let forwarded = bed.snapshot("primary").bytes_to_server;
    until("all closed", || bed.plane.registry().sessions("primary", "old") == 0).await;
    let closed = elapsed(started);
    eprintln!("{SESSIONS} sessions: fenced in {fenced:?}, closed in {closed:?}");
    assert!(closed < Duration::from_millis(500), "{closed:?}");
    // Two workers: at most one write each was in the kernel when the fence closed.
    let late = bed.snapshot("primary").bytes_to_server - forwarded;
    assert!(late <= 2 * 65536, "{late} bytes forwarded after the close");
    stop.store(true, SeqCst);
    for writer in writers {
        let mut client = writer.await.unwrap();
        // Its end is a FIN, or a reset for one that was writing.
        let _ = within("client's end", client.0.read_to_end(&mut Vec::new())).await;
    }
    until("the server saw all of them go", || old.open() == 0).await;
    assert_eq!(old.seen.resets.load(SeqCst), SESSIONS);
    assert_eq!(bed.snapshot("primary").closed, [(Reason::LeaderMoved, SESSIONS as u64)]);
    assert_eq!(bed.session("primary").await.1, "new");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_idle_sessions_end_at_once() {
    const SESSIONS: usize = 1500;
    let bed = Bed::new();
    let server = Server::postgres("a").await;
    bed.publish(Some(&server), &[]);
    let mut clients = Vec::new();
    for _ in 0..SESSIONS {
        clients.push(bed.session("primary").await);
    }
    bed.publish(None, &[]);
    let started = pgvane::runtime::clock::now();
    bed.close(&server, Reason::LeaderMoved);
    until("all closed", || bed.plane.registry().sessions_open() == 0).await;
    let closed = elapsed(started);
    eprintln!("{SESSIONS} idle sessions: closed in {closed:?}");
    assert!(closed < Duration::from_millis(1500), "{closed:?}");
    until("the server saw all of them go", || server.open() == 0).await;
    assert_eq!(server.seen.resets.load(SeqCst), SESSIONS);
}

/// What a machine without a free descriptor does; run alone, by the test below it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "uses up every descriptor of its process"]
async fn out_of_descriptors() {
    use nix::sys::resource::{Resource, setrlimit};
    let bed = Bed::new();
    let server = Server::postgres("a").await;
    bed.publish(Some(&server), &[]);
    drop(bed.session("primary").await);
    until("all descriptors are back", || server.open() + bed.plane.registry().sessions_open() == 0).await;
    until("the client's end, too", || bed.snapshot("primary").closed == [(Reason::ClientClosed, 1)]).await;
    setrlimit(Resource::RLIMIT_NOFILE, 100, 100).unwrap();
    let mut filler = Vec::new();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        filler.push(file);
    }
    filler.pop();
    let mut client = bed.client("primary").await;
    client.send(&startup()).await;
    // Room for the client's socket, none for the server's.
    filler.pop();
    assert_eq!(client.fatal().await.code, "53300");
    drop(client);
    drop(filler);
    assert_eq!(bed.session("primary").await.1, "a");
    assert_eq!(bed.snapshot("primary").connects_failed.iter().map(|(_, n)| n).sum::<u64>(), 0);
}

#[test]
fn a_machine_out_of_descriptors_goes_on_when_it_has_some() {
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["close::out_of_descriptors", "--exact", "--ignored", "--nocapture"])
        .output()
        .unwrap();
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stderr));
    assert!(String::from_utf8_lossy(&child.stdout).contains("1 passed"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_client_of_a_cut_session_is_told_and_the_server_sees_a_reset() {
    let bed = Bed::new();
    let server = Server::postgres("a").await;
    bed.publish(Some(&server), &[&server]);
    let (mut writer, _) = bed.session("primary").await;
    let (mut reader, _) = bed.session("replica").await;
    bed.publish(None, &[&server]);
    let services = Some(vec![Arc::from("primary")]);
    let member = server.member();
    bed.plane.execute(&pgvane::decide::Effect::CloseSessions { member, services, reason: Reason::LeaderMoved });
    assert_eq!(writer.fatal().await.code, "57P01");
    until("reset seen", || server.seen.resets.load(SeqCst) == 1).await;
    reader.echo(b"another service goes on").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_session_slips_between_publish_and_close() {
    const ROUNDS: u64 = 5_000;
    const OPENED_MIN: u64 = 3_000;
    let bed = Bed::new();
    let (a, b) = (Server::postgres("a").await, Server::postgres("b").await);
    let registry = bed.plane.registry().clone();
    let service = registry.service("primary").unwrap();
    let (done, opened) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let openers: Vec<_> = (0..2)
        .map(|_| {
            let (registry, service, done, opened) = (registry.clone(), service.clone(), done.clone(), opened.clone());
            let targets = [&a, &b].map(|server| Arc::new(server.target(Role::Primary)));
            std::thread::spawn(move || {
                while !done.load(SeqCst) {
                    for target in &targets {
                        let generation = registry.routes().generation;
                        let picked = registry.routes().services[0].targets.contains(target);
                        // The time that a connect would take.
                        std::thread::yield_now();
                        if picked && let Ok(guard) = registry.open(&service, target, generation) {
                            opened.fetch_add(1, SeqCst);
                            while guard.fence().reason().is_none() && !done.load(SeqCst) {
                                std::thread::yield_now();
                            }
                        }
                    }
                }
            })
        })
        .collect();
    let mut round = 0;
    while round < ROUNDS || opened.load(SeqCst) < OPENED_MIN {
        round += 1;
        let (to, from) = if round % 2 == 0 { (&a, &b) } else { (&b, &a) };
        bed.publish(Some(to), &[]);
        bed.close(from, Reason::LeaderMoved);
        // Whoever holds an open fence for `from` now has slipped through, and stays until the next close.
        let closed = pgvane::runtime::clock::now();
        while registry.sessions("primary", from.name) > 0 {
            assert!(elapsed(closed) < LIMIT, "a session slipped through");
            std::thread::yield_now();
        }
    }
    done.store(true, SeqCst);
    openers.into_iter().for_each(|opener| opener.join().unwrap());
    eprintln!("{} sessions raced with {round} moves", opened.load(SeqCst));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_race_over_sockets_forwards_nothing_to_the_old_leader() {
    const MOVES: usize = 200;
    let bed = Arc::new(Bed::new());
    let servers = [Server::postgres("a").await, Server::postgres("b").await];
    bed.publish(Some(&servers[0]), &[]);
    let done = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (address, done) = (bed.address("primary"), done.clone());
            tokio::spawn(async move {
                let mut served = 0u32;
                while !done.load(SeqCst) {
                    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
                    let mut chunk = [0; 128];
                    let _ = stream.write_all(&startup()).await;
                    while !done.load(SeqCst) && matches!(stream.read(&mut chunk).await, Ok(1..)) {
                        served += 1;
                        if stream.write_all(b"x").await.is_err() {
                            break;
                        }
                    }
                }
                served
            })
        })
        .collect();
    for turn in 1..=MOVES {
        let (to, from) = (&servers[turn % 2], &servers[(turn + 1) % 2]);
        let before = to.accepted();
        bed.publish(Some(to), &[]);
        bed.close(from, Reason::LeaderMoved);
        until("old sessions gone", || bed.plane.registry().sessions("primary", from.name) == 0).await;
        until("old leader deserted", || from.open() == 0).await;
        let silent = from.seen.bytes.load(SeqCst);
        until("clients came over", || to.accepted() > before).await;
        assert_eq!(from.seen.bytes.load(SeqCst), silent);
    }
    // Whoever comes even now is served: held instead, it would wait as long as this test may.
    done.store(true, SeqCst);
    for client in clients {
        assert!(within("client", client).await.unwrap() > 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_resets_is_suspected() {
    let server = Server::start("a", |mut stream, _| async move {
        read_packet(&mut stream).await;
        stream.write_all(&greeting("a")).await.unwrap();
        stream.read_u8().await.unwrap();
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    })
    .await;
    let mut bed = Bed::new();
    bed.publish(Some(&server), &[]);
    let (mut client, _) = bed.session("primary").await;
    client.send(b"x").await;
    let report = within("report", bed.reports.recv()).await.unwrap();
    assert_eq!(report, Report::Suspected(server.member(), Suspicion::ServerReset));
    assert_eq!(client.fatal().await.message, "terminating connection to a: the server's connection broke");
    until("counted", || bed.snapshot("primary").closed == [(Reason::ServerError, 1)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_stops_its_server_instead_of_filling_memory() {
    let server = Server::start("a", |mut stream, seen| async move {
        read_packet(&mut stream).await;
        stream.write_all(&greeting("a")).await.unwrap();
        let chunk = vec![1; 65536];
        while let Ok(n) = stream.write(&chunk).await {
            seen.bytes.fetch_add(n as u64, SeqCst);
        }
    })
    .await;
    let bed = Bed::new();
    bed.publish(Some(&server), &[]);
    let (mut client, _) = bed.session("primary").await;
    // Fills the kernel's buffers on both sides, then stands still.
    let mut last = 0;
    within("stand still", async {
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let sent = server.seen.bytes.load(SeqCst);
            if sent == last && sent > 0 {
                break;
            }
            last = sent;
        }
    })
    .await;
    // What the server wrote is in kernels or passed on, but for one chunk.
    assert!(last < 64 << 20, "{last} bytes taken for a client that does not read");
    let mut chunk = vec![0; 1 << 20];
    within("goes on", client.0.read_exact(&mut chunk)).await.unwrap();
    assert!(chunk.iter().all(|byte| *byte == 1));
    // Stuck in a write, it is cut all the same.
    bed.publish(None, &[]);
    bed.close(&server, Reason::LeaderMoved);
    until("cut", || bed.plane.registry().sessions_open() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_tells_the_held_and_lets_sessions_go_on() {
    let bed = Bed::new();
    let server = Server::postgres("a").await;
    bed.publish(Some(&server), &[]);
    let (mut open, _) = bed.session("primary").await;
    bed.publish(None, &[]);
    let mut held = bed.started("primary").await;
    bed.held(1).await;
    let address = bed.address("primary");
    bed.plane.stop_accepting();
    let told = held.fatal().await;
    assert_eq!((told.code.as_str(), told.message.as_str()), ("57P03", "the router is shutting down"));
    open.echo(b"still here").await;
    until("listener closed", || std::net::TcpStream::connect(address).is_err()).await;
    assert_eq!(bed.plane.drain(Duration::from_millis(200)).await, 1);
    open.end().await;
    assert_eq!(bed.snapshot("primary").closed, [(Reason::Shutdown, 1)]);
    assert_eq!(server.seen.resets.load(SeqCst), 0, "nothing of a good session is taken back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_ends_with_the_last_session() {
    let bed = Bed::new();
    let server = Server::speaking("a").await;
    bed.publish(Some(&server), &[]);
    let mut client = in_transaction(&bed).await;
    let (cut, ()) = tokio::join!(bed.plane.drain(LIMIT), async {
        assert_eq!(client.ask("SELECT").await, b'T');
        drop(client);
    });
    assert_eq!(cut, 0);
}

#[tokio::test]
async fn a_taken_port_is_told_with_its_service_and_address() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let mut spec = spec("primary", Role::Primary);
    spec.listen = [("127.0.0.1", port), ("192.0.2.1", 5433), ("*", 0)]
        .map(|(host, port)| HostPort::new(host, port).into())
        .to_vec();
    let errors = Plane::start(Crew::here(), "test".into(), &[Arc::new(spec)], mpsc::channel(1).0, 10).unwrap_err();
    let text: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(text.len(), 2);
    assert!(text[0].contains(&format!("service primary: cannot listen on 127.0.0.1:{port}")), "{text:?}");
    assert!(text[0].contains("EADDRINUSE") && text[1].contains("EADDRNOTAVAIL"), "{text:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_star_listens_on_both_families() {
    let bed = Bed::with(|spec| spec.listen = vec![HostPort::new("*", 0).into()]);
    let server = Server::postgres("a").await;
    bed.publish(Some(&server), &[]);
    let port = bed.address("primary").port();
    for host in ["127.0.0.1", "::1"] {
        if let Ok(stream) = tokio::net::TcpStream::connect((host, port)).await {
            let mut client = Client(stream);
            client.send(&startup()).await;
            assert_eq!(client.greeting().await, "a");
        } else {
            assert_eq!(host, "::1", "IPv4 must work");
        }
    }
}
