//! From the first byte to the relay.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use pgvane::decide::{Report, Suspicion};
use pgvane::model::{HoldSpec, Reason};
use pgvane::proxy::protocol::words::fatal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::bed::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_go_both_ways_and_half_closes_are_kept() {
    let (bed, server) = (Bed::new(), Server::postgres("a").await);
    bed.publish(Some(&server), &[]);
    let (mut client, who) = bed.session("primary").await;
    assert_eq!(who, "a");
    client.echo(b"hello").await;
    let big = vec![7; 3_000_000];
    let (mut reader, mut writer) = client.0.split();
    let mut back = vec![0; big.len()];
    let (sent, got) =
        within("bulk", async { tokio::join!(writer.write_all(&big), reader.read_exact(&mut back)) }).await;
    sent.unwrap();
    got.unwrap();
    assert!(back == big);
    client.0.shutdown().await.unwrap();
    client.expect(b"bye").await;
    client.end().await;
    until("unregistered", || bed.snapshot("primary").sessions_open() == 0).await;
    let snapshot = bed.snapshot("primary");
    assert_eq!(snapshot.closed, [(Reason::ClientClosed, 1)]);
    assert_eq!(snapshot.bytes_to_server, 3_000_005);
    assert_eq!(snapshot.bytes_to_client, 3_000_005 + greeting("a").len() as u64 + 3);
    assert_eq!(snapshot.sessions_total, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_closes_first_ends_the_session() {
    let server = Server::start("a", |mut stream, _| async move {
        read_packet(&mut stream).await;
        stream.write_all(&greeting("a")).await.unwrap();
        stream.write_all(b"last words").await.unwrap();
    })
    .await;
    let bed = Bed::new();
    bed.publish(Some(&server), &[]);
    let (mut client, _) = bed.session("primary").await;
    client.expect(b"last words").await;
    client.end().await;
    drop(client);
    until("counted", || bed.snapshot("primary").closed == [(Reason::ServerClosed, 1)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_startup_message_may_come_byte_by_byte() {
    let (bed, server) = (Bed::new(), Server::postgres("a").await);
    bed.publish(Some(&server), &[]);
    let mut client = bed.client("primary").await;
    client.0.set_nodelay(true).unwrap();
    for byte in startup() {
        assert_eq!(server.accepted(), 0, "a client without a whole packet holds no backend");
        client.send(&[byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(client.greeting().await, "a");
    assert_eq!(*server.seen.first.lock(), [startup()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn encryption_is_refused_by_the_server_and_the_dance_goes_on() {
    let (bed, server) = (Bed::new(), Server::postgres("a").await);
    bed.publish(Some(&server), &[]);
    let mut client = bed.client("primary").await;
    client.send(&GSSENC_REQUEST).await;
    client.expect(b"N").await;
    client.send(&SSL_REQUEST).await;
    client.expect(b"N").await;
    client.send(&startup()).await;
    assert_eq!(client.greeting().await, "a");
    client.echo(b"x").await;
    assert_eq!(server.accepted(), 1);
    assert_eq!(*server.seen.first.lock(), [GSSENC_REQUEST.to_vec(), SSL_REQUEST.to_vec(), startup()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn encryption_that_the_server_takes_is_opaque() {
    for (request, yes) in [(SSL_REQUEST, b'S'), (GSSENC_REQUEST, b'G')] {
        let server = Server::start("a", move |mut stream, seen| async move {
            assert_eq!(read_packet(&mut stream).await.unwrap(), request);
            stream.write_all(&[yes]).await.unwrap();
            echo(stream, seen).await;
        })
        .await;
        let bed = Bed::new();
        bed.publish(Some(&server), &[]);
        let mut client = bed.client("primary").await;
        client.send(&request).await;
        client.expect(&[yes]).await;
        client.echo(b"\x16\x03\x01 anything").await;
    }
}

/// A ClientHello of so many bytes in records of 16 KiB at most.
fn client_hello(length: usize) -> Vec<u8> {
    let mut hello = vec![1];
    hello.extend(&(length as u32).to_be_bytes()[1..]);
    hello.resize(4 + length, 7);
    let framed = |part: &[u8]| [&[0x16, 3, 1][..], &(part.len() as u16).to_be_bytes(), part].concat();
    hello.chunks(1 << 14).flat_map(framed).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn direct_tls_is_passed_through() {
    let (bed, server) = (Bed::new(), Server::start("a", echo).await);
    bed.publish(Some(&server), &[]);
    let mut client = bed.client("primary").await;
    // Longer than one record, and than the client's first segment.
    let mut hello = client_hello(20_000);
    let (first, rest) = hello.split_at(7);
    client.send(first).await;
    for part in rest.chunks(5000) {
        assert_eq!(server.accepted(), 0, "a server is of no use before the whole of it");
        client.send(part).await;
    }
    client.send(b"and").await;
    hello.extend(b"and");
    client.expect(&hello).await;
    client.echo(b"more").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_lost_between_n_and_startup_message_is_replaced() {
    let bed = Bed::new();
    let first = Server::start("a", |mut stream, _| async move {
        read_packet(&mut stream).await;
        stream.write_all(b"N").await.unwrap();
    })
    .await;
    let second = Server::postgres("b").await;
    bed.publish(Some(&first), &[]);
    let mut client = bed.client("primary").await;
    client.send(&SSL_REQUEST).await;
    client.expect(b"N").await;
    bed.publish(Some(&second), &[]);
    bed.close(&first, Reason::LeaderMoved);
    until("dropped", || bed.snapshot("primary").sessions_open() == 0).await;
    client.send(&startup()).await;
    assert_eq!(client.greeting().await, "b");
    assert_eq!(*second.seen.first.lock(), [startup()]);
}

/// Serves one service with a server that fails every startup, then with one that works.
async fn replayed(bad: Server, suspicion: Suspicion) {
    let mut bed = Bed::new();
    let good = Server::postgres("good").await;
    bed.publish(Some(&bad), &[]);
    let mut client = bed.started("primary").await;
    let seen = within("suspicion", bed.reports.recv()).await.unwrap();
    assert_eq!(seen, Report::Suspected(bad.member(), suspicion));
    bed.publish(None, &[]);
    bed.held(1).await;
    bed.publish(Some(&good), &[]);
    assert_eq!(client.greeting().await, "good");
    client.echo(b"x").await;
    let snapshot = bed.snapshot("primary");
    assert!(snapshot.replays_total >= 1);
    assert!(snapshot.connects_failed.iter().any(|(s, n)| *s == suspicion && *n >= 1));
    assert_eq!((snapshot.sessions_total, snapshot.held), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_starting_up_costs_no_client_its_connection() {
    let rejecting = |mut stream: TcpStream, _| async move {
        read_packet(&mut stream).await;
        let _ = stream.write_all(&fatal("57P03", "the database system is starting up", "", "")).await;
    };
    replayed(Server::start("bad", rejecting).await, Suspicion::StartupRejected).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_up_before_its_first_byte_costs_no_client_its_connection() {
    let closing = |mut stream: TcpStream, _| async move {
        read_packet(&mut stream).await;
    };
    replayed(Server::start("bad", closing).await, Suspicion::StartupEof).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_errors_of_a_server_are_the_clients_business() {
    let error = fatal("28P01", "password authentication failed", "", "");
    let sent = error.clone();
    let server = Server::start("a", move |mut stream, _| {
        let error = error.clone();
        async move {
            read_packet(&mut stream).await;
            stream.write_all(&error).await.unwrap();
        }
    })
    .await;
    let mut bed = Bed::new();
    bed.publish(Some(&server), &[]);
    let mut client = bed.started("primary").await;
    client.expect(&sent).await;
    client.end().await;
    assert!(bed.reports.try_recv().is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_connect_goes_back_to_hold_on_the_write_service() {
    let mut bed = Bed::new();
    let (gone, good) = (Server::postgres("gone").await, Server::postgres("good").await);
    let target = gone.target(pgvane::model::Role::Primary);
    drop(gone);
    until("port closed", || std::net::TcpStream::connect((&*target.address.host, target.address.port)).is_err()).await;
    bed.publish_targets(vec![target], vec![]);
    let mut client = bed.started("primary").await;
    let report = within("report", bed.reports.recv()).await.unwrap();
    assert_eq!(report, Report::Suspected("gone".into(), Suspicion::ConnectRefused));
    bed.publish(Some(&good), &[]);
    assert_eq!(client.greeting().await, "good");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_tries_the_other_replicas_and_then_is_told() {
    let bed = Bed::new();
    let (gone, good) = (Server::postgres("gone").await, Server::postgres("good").await);
    let dead = gone.target(pgvane::model::Role::Replica);
    drop(gone);
    until("port closed", || std::net::TcpStream::connect((&*dead.address.host, dead.address.port)).is_err()).await;
    bed.publish_targets(vec![], vec![dead.clone(), good.target(pgvane::model::Role::Replica)]);
    for _ in 0..4 {
        assert_eq!(bed.session("replica").await.1, "good");
    }
    bed.publish_targets(vec![], vec![dead]);
    let told = bed.started("replica").await.fatal().await;
    assert_eq!((told.code.as_str(), told.message.as_str()), ("57P03", "no replica is available"));
    assert!(told.detail.contains("refused"), "{told:?}");
    until("counted", || bed.refused("replica", Reason::RetriesExhausted) == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_are_spread_over_the_least_loaded() {
    let bed = Bed::new();
    let (a, b) = (Server::postgres("a").await, Server::postgres("b").await);
    bed.publish(None, &[&a, &b]);
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(bed.session("replica").await);
    }
    assert_eq!((a.open(), b.open()), (5, 5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_is_never_held_and_goes_to_every_server_of_the_service() {
    let bed = Bed::new();
    let (a, b, c) = (Server::postgres("a").await, Server::postgres("b").await, Server::postgres("c").await);
    bed.publish(Some(&a), &[&b, &c]);
    bed.confirm(Duration::ZERO);
    for service in ["primary", "replica"] {
        let mut client = bed.client(service).await;
        client.send(&CANCEL_REQUEST).await;
        client.end().await;
    }
    for server in [&a, &b, &c] {
        assert_eq!(*server.seen.first.lock(), [CANCEL_REQUEST.to_vec()]);
    }
    assert_eq!(bed.snapshot("replica").cancels_total, 1);
    bed.publish(None, &[]);
    let mut client = bed.client("primary").await;
    client.send(&CANCEL_REQUEST).await;
    client.end().await;
    // libpq may ask for encryption before a cancel, too.
    bed.confirm(LIMIT);
    bed.publish(Some(&a), &[]);
    let mut client = bed.client("primary").await;
    client.send(&SSL_REQUEST).await;
    client.expect(b"N").await;
    client.send(&CANCEL_REQUEST).await;
    client.end().await;
    assert_eq!(a.seen.first.lock().last().unwrap(), &CANCEL_REQUEST.to_vec());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_never_answers_is_given_up() {
    let mut bed = Bed::with(|spec| {
        spec.startup_timeout = Duration::from_millis(200);
        spec.hold = HoldSpec::Off;
    });
    let silent = Server::start("a", |mut stream, _| async move {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    bed.publish(Some(&silent), &[]);
    let told = bed.started("primary").await.fatal().await;
    assert_eq!(told.code, "57P03");
    assert!(matches!(bed.reports.recv().await.unwrap(), Report::Suspected(_, Suspicion::ConnectTimedOut)));
    until("the server is let go", || silent.seen.open.load(SeqCst) == 0).await;
}
