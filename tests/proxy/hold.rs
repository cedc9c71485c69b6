//! Clients that wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use pgvane::model::{HoldSpec, Reason, Role};
use pgvane::proxy::hold::CONNECTS_IN_FLIGHT_MAX;
use pgvane::runtime::clock::now;
use tokio::io::AsyncWriteExt;
use tokio::sync::Semaphore;

use crate::bed::*;

fn hold(timeout: Duration, max: usize) -> impl Fn(&mut pgvane::model::ServiceSpec) {
    move |spec| spec.hold = HoldSpec::On { timeout: Some(timeout), max }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn held_clients_are_released_in_order_and_a_hundred_at_a_time() {
    const CLIENTS: usize = 350;
    let bed = Bed::new();
    let (gate, starting, most) =
        (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (shared_gate, shared_starting, shared_most) = (gate.clone(), starting.clone(), most.clone());
    let server = Server::start("a", move |mut stream, seen| {
        let (gate, starting, most) = (shared_gate.clone(), shared_starting.clone(), shared_most.clone());
        async move {
            most.fetch_max(starting.fetch_add(1, SeqCst) + 1, SeqCst);
            let packet = read_packet(&mut stream).await.unwrap();
            seen.first.lock().push(packet);
            gate.acquire().await.unwrap().forget();
            starting.fetch_sub(1, SeqCst);
            stream.write_all(&greeting("a")).await.unwrap();
            echo(stream, seen).await;
        }
    })
    .await;
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let mut client = bed.client("primary").await;
        let mut packet = startup();
        packet.splice(8..12, format!("n{number:03}").bytes());
        client.send(&packet).await;
        clients.push(client);
        bed.held(number + 1).await;
    }
    bed.publish(Some(&server), &[]);
    let arrived = |n: usize| {
        let seen = &server.seen;
        move || seen.first.lock().len() >= n
    };
    until("a hundred are let go, and have spoken", arrived(CONNECTS_IN_FLIGHT_MAX)).await;
    assert_eq!(bed.snapshot("primary").held, CLIENTS - CONNECTS_IN_FLIGHT_MAX);
    // A client that comes now stands behind those who wait.
    let mut late = bed.started("primary").await;
    bed.held(CLIENTS - CONNECTS_IN_FLIGHT_MAX + 1).await;
    for done in 1..=CLIENTS - CONNECTS_IN_FLIGHT_MAX + 1 {
        gate.add_permits(1);
        until("the next one", arrived((CONNECTS_IN_FLIGHT_MAX + done).min(CLIENTS + 1))).await;
    }
    gate.add_permits(CONNECTS_IN_FLIGHT_MAX);
    for client in &mut clients {
        assert_eq!(client.greeting().await, "a");
    }
    assert_eq!(late.greeting().await, "a");
    assert_eq!(most.load(SeqCst), CONNECTS_IN_FLIGHT_MAX);
    // The first hundred connect at once; after them the order shows one by one.
    let order: Vec<String> = server.seen.first.lock()[CONNECTS_IN_FLIGHT_MAX..CLIENTS]
        .iter()
        .map(|packet| String::from_utf8(packet[8..12].to_vec()).unwrap())
        .collect();
    let expected: Vec<String> = (CONNECTS_IN_FLIGHT_MAX..CLIENTS).map(|n| format!("n{n:03}")).collect();
    assert_eq!(order, expected);
    let snapshot = bed.snapshot("primary");
    assert_eq!((snapshot.held, snapshot.held_total, snapshot.connecting.len()), (0, CLIENTS as u64 + 1, 0));
    assert!(snapshot.hold_max > Duration::ZERO && snapshot.hold_sum >= snapshot.hold_max);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_table_and_a_confirmation_release() {
    let bed = Bed::new();
    let server = Server::postgres("a").await;
    let mut client = bed.started("primary").await;
    bed.held(1).await;
    bed.publish(Some(&server), &[]);
    assert_eq!(client.greeting().await, "a");

    bed.confirm(Duration::ZERO);
    let mut held = bed.started("primary").await;
    bed.held(1).await;
    assert_eq!(server.accepted(), 1);
    bed.publish(Some(&server), &[]);
    assert_eq!(bed.snapshot("primary").held, 1, "a table confirms nothing");
    bed.confirm(LIMIT);
    assert_eq!(held.greeting().await, "a");
    client.echo(b"an open session goes on").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_that_expires_is_told_in_protocol() {
    let bed = Bed::with(hold(Duration::from_millis(300), 10));
    bed.publish(None, &[]);
    let started = now();
    let mut plain = bed.started("primary").await;
    let told = plain.fatal().await;
    assert!(elapsed(started) >= Duration::from_millis(300));
    assert_eq!((told.code.as_str(), told.message.as_str()), ("57P03", "no primary is available"));
    assert!(told.detail.contains("there is no leader key, for 0."), "{told:?}");
    assert!(told.detail.contains("Waited 0.3 s"), "{told:?}");

    let mut encrypted = bed.client("primary").await;
    encrypted.send(&SSL_REQUEST).await;
    bed.held(1).await;
    encrypted.expect(b"N").await;
    encrypted.send(&startup()).await;
    assert_eq!(encrypted.fatal().await.code, "57P03");
    until("counted", || bed.refused("primary", Reason::HoldExpired) == 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whom_there_is_no_room_for_is_told_at_once() {
    let bed = Bed::with(hold(LIMIT, 2));
    let _held = (bed.started("primary").await, bed.started("primary").await);
    bed.held(2).await;
    let told = bed.started("primary").await.fatal().await;
    assert_eq!(told.code, "57P03");
    assert!(told.detail.contains(Reason::HoldFull.sentence()), "{told:?}");

    let bed = Bed::with(|spec| spec.hold = HoldSpec::Off);
    let told = bed.started("primary").await.fatal().await;
    assert!(told.detail.contains(Reason::HoldOff.sentence()), "{told:?}");
    assert!(told.detail.contains(Reason::Starting.sentence()), "{told:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_leaves_the_queue() {
    let bed = Bed::new();
    let leaving = bed.started("primary").await;
    bed.held(1).await;
    let mut staying = bed.started("primary").await;
    bed.held(2).await;
    drop(leaving);
    bed.held(1).await;
    until("counted", || bed.refused("primary", Reason::ClientClosed) == 1).await;
    let server = Server::postgres("a").await;
    bed.publish(Some(&server), &[]);
    assert_eq!(staying.greeting().await, "a");
    assert_eq!(server.accepted(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_held_client_sends_early_is_kept() {
    let bed = Bed::new();
    let mut client = bed.started("primary").await;
    bed.held(1).await;
    client.send(b"early bird").await;
    let server = Server::postgres("a").await;
    bed.publish(Some(&server), &[]);
    assert_eq!(client.greeting().await, "a");
    client.expect(b"early bird").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_keeps_its_deadline_and_its_place_when_its_target_fails() {
    let mut bed = Bed::with(hold(Duration::from_millis(1500), 100));
    let bad = Server::start("bad", |mut stream, _| async move {
        read_packet(&mut stream).await;
    })
    .await;
    let started = now();
    let mut first = bed.started("primary").await;
    bed.held(1).await;
    let mut second = bed.started("primary").await;
    bed.held(2).await;
    bed.publish(Some(&bad), &[]);
    within("suspicion", bed.reports.recv()).await.unwrap();
    // The router does nothing: it is tried again after a pause, not in a loop.
    assert_eq!(first.fatal().await.code, "57P03");
    assert_eq!(second.fatal().await.code, "57P03");
    assert!((Duration::from_millis(1500)..Duration::from_millis(4500)).contains(&elapsed(started)));
    assert!((2..=60).contains(&bad.accepted()), "{} attempts", bad.accepted());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_taken_away_before_its_first_answer_sends_the_client_back() {
    let bed = Bed::new();
    let silent = Server::start("silent", |mut stream, seen| async move {
        let packet = read_packet(&mut stream).await.unwrap();
        seen.first.lock().push(packet);
        echo(stream, seen).await;
    })
    .await;
    bed.publish(Some(&silent), &[]);
    let mut client = bed.started("primary").await;
    until("startup sent", || silent.seen.first.lock().len() == 1).await;
    bed.publish(None, &[]);
    bed.close(&silent, Reason::LeaderMoved);
    bed.held(1).await;
    until("the server is let go", || silent.open() == 0).await;
    let good = Server::postgres("good").await;
    bed.publish(Some(&good), &[]);
    assert_eq!(client.greeting().await, "good");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_wait_for_a_replica_that_starts() {
    let bed = Bed::new();
    let attempts = Arc::new(AtomicUsize::new(0));
    let server = Server::start("a", move |mut stream, seen| {
        let attempt = attempts.fetch_add(1, SeqCst);
        async move {
            if attempt < 3 {
                read_packet(&mut stream).await;
            } else {
                postgres(stream, seen, "a").await;
            }
        }
    })
    .await;
    bed.publish_targets(vec![], vec![server.target(Role::Replica)]);
    assert_eq!(bed.session("replica").await.1, "a");
    assert_eq!(server.accepted(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_for_a_connect_to_a_host_that_was_replaced() {
    let bed = Bed::with(|spec| spec.connect_timeout = LIMIT);
    let good = Server::postgres("good").await;
    // A full backlog swallows connects as a dead host does.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let dead = socket.local_addr().unwrap().as_socket().unwrap();
    let _fill = std::net::TcpStream::connect(dead).unwrap();
    let mut target = good.target(Role::Primary);
    target.member = "dead".into();
    target.address.port = dead.port();
    bed.publish_targets(vec![target], vec![]);
    let mut client = bed.started("primary").await;
    until("connecting", || bed.snapshot("primary").connecting == [("dead".into(), 1)]).await;
    let published = now();
    bed.publish(Some(&good), &[]);
    assert_eq!(client.greeting().await, "good");
    assert!(elapsed(published) < Duration::from_secs(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_driver_understands_the_refusal() {
    let bed = Bed::with(hold(Duration::from_millis(50), 10));
    let port = bed.address("primary").port();
    for sslmode in ["disable", "prefer"] {
        let url = format!("host=127.0.0.1 port={port} user=u dbname=d sslmode={sslmode}");
        let error = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.err().unwrap();
        assert_eq!(error.code(), Some(&tokio_postgres::error::SqlState::CANNOT_CONNECT_NOW), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_held_clients_are_served_soon_after_the_table() {
    const CLIENTS: usize = 1500;
    let bed = Bed::new();
    let server = Server::postgres("a").await;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(bed.started("primary").await);
    }
    bed.held(CLIENTS).await;
    // Tables without a target wake nobody.
    let empty = now();
    for _ in 0..1000 {
        bed.publish(None, &[]);
    }
    let empty = elapsed(empty);
    let published = now();
    bed.publish(Some(&server), &[]);
    until("all served", || bed.snapshot("primary").sessions_total == CLIENTS as u64).await;
    let served = elapsed(published);
    eprintln!("{CLIENTS} held: 1000 empty tables in {empty:?}, all served after {served:?}");
    assert!(served < Duration::from_secs(10));
    for client in &mut clients {
        assert_eq!(client.greeting().await, "a");
    }
}
