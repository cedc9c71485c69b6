//! Clients that do not begin as a driver does: silent ones, slow ones, other protocols, odd orders.

use std::time::Duration;

use pgvane::model::{Reason, SessionLog};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tracing::Level;

use crate::bed::*;
use crate::captured::Lines;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_and_a_byte_now_and_then_have_a_limit() {
    const LIMIT: Duration = Duration::from_millis(300);
    let bed = Bed::with(|spec| spec.startup_timeout = LIMIT);
    let server = Server::postgres("a").await;
    bed.publish(Some(&server), &[]);
    bed.client("primary").await.end().await;
    until("counted", || bed.refused("primary", Reason::StartupTimedOut) == 1).await;
    let mut slow = bed.client("primary").await;
    // Each of them well within the limit, and all of them beyond it.
    for byte in startup() {
        if slow.0.write_all(&[byte]).await.is_err() {
            break;
        }
        tokio::time::sleep(LIMIT / 8).await;
    }
    until("counted", || bed.refused("primary", Reason::StartupTimedOut) == 2).await;
    assert_eq!(server.accepted(), 0, "neither of them had a backend connection");
    // After an N the packet that follows has as long, and then the server is let go, too.
    let mut client = bed.client("primary").await;
    client.send(&SSL_REQUEST).await;
    client.expect(b"N").await;
    client.end().await;
    until("counted", || bed.refused("primary", Reason::StartupTimedOut) == 3).await;
    until("the server is let go", || server.open() == 0).await;
}

/// What it was is said for whoever looks, and the client sees the end of the stream, not a reset.
#[tokio::test]
async fn what_is_not_postgres_is_closed_and_named() {
    let (lines, _guard) = Lines::capture_from(Level::DEBUG);
    let bed = Bed::with(|spec| spec.session_log = SessionLog::Off);
    let server = Server::postgres("a").await;
    bed.publish(Some(&server), &[]);
    let mut long = vec![0, 0, 0x27, 0x15, 0, 3, 0, 0];
    long.resize(100_000, b'x');
    let strangers: [(&[u8], &str); 6] = [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP: GET / HTTP/1.1"),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c", "the PROXY protocol"),
        (b"X\0\0\0\x04", "a Terminate before any StartupMessage"),
        (b"\x16\x03\x01\0\x05\x02\0\0\x01x", "a request whose length does not fit its kind: \\x16\\x03"),
        (&[0xff; 50], "a packet that begins with the length 4294967295"),
        (&long, "a packet that begins with the length 10005, of 10004 at most"),
    ];
    for (number, (bytes, name)) in strangers.into_iter().enumerate() {
        let mut client = bed.client("primary").await;
        client.send(bytes).await;
        client.end().await;
        drop(client);
        let line = lines.next(number + 1).await;
        assert!(line["what"].as_str().unwrap().starts_with(name), "{line}");
        until("counted", || bed.refused("primary", Reason::StartupMalformed) == number as u64 + 1).await;
    }
    assert_eq!(server.accepted(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_after_an_encryption_request_lets_the_server_go() {
    let bed = Bed::new();
    let server = Server::postgres("a").await;
    bed.publish(Some(&server), &[]);
    let mut client = bed.client("primary").await;
    client.send(&SSL_REQUEST).await;
    client.expect(b"N").await;
    client.send(b"\x16\x03\x01\0\x05 TLS all the same").await;
    client.end().await;
    drop(client);
    until("counted", || bed.refused("primary", Reason::StartupMalformed) == 1).await;
    until("the server is let go", || server.open() == 0).await;
}

/// A version that nobody here speaks is told so, whatever else the client has sent already.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_version_of_the_protocol_is_told() {
    let bed = Bed::new();
    let mut old = bed.client("primary").await;
    let mut bytes = vec![0, 0, 0, 9, 0, 2, 0, 0, 0];
    bytes.resize(50_000, b'x');
    old.send(&bytes).await;
    let told = old.fatal().await;
    assert_eq!((told.code.as_str(), told.message.as_str()), ("0A000", "unsupported frontend protocol 2.0"));
}

/// CVE-2021-23214: what a man in the middle put behind the SSLRequest must not count as said under
/// encryption. The router acts on none of it: the server gets it as it came, behind its own S, where it
/// makes no TLS.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_stuffed_behind_an_encryption_request_is_the_servers_to_judge() {
    for yes in [b'S', b'G'] {
        let request = if yes == b'S' { SSL_REQUEST } else { GSSENC_REQUEST };
        let server = Server::start("a", move |mut stream, seen| async move {
            let packet = read_packet(&mut stream).await.unwrap();
            seen.first.lock().push(packet);
            stream.write_all(&[yes]).await.unwrap();
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).await.unwrap();
            seen.first.lock().push(rest);
        })
        .await;
        let bed = Bed::new();
        bed.publish(Some(&server), &[]);
        for stuffed in [startup(), CANCEL_REQUEST.to_vec()] {
            let mut client = bed.client("primary").await;
            client.send(&[&request[..], &stuffed].concat()).await;
            client.expect(&[yes]).await;
            client.0.shutdown().await.unwrap();
            client.end().await;
            until("all of it", || server.seen.first.lock().len() >= 2).await;
            assert_eq!(std::mem::take(&mut *server.seen.first.lock()), [request.to_vec(), stuffed]);
        }
        let snapshot = bed.snapshot("primary");
        assert_eq!((snapshot.cancels_total, snapshot.sessions_total), (0, 2));
    }
}

/// To an N the rest is plaintext in any case, so a client need not wait for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_of_the_dance_may_come_at_once() {
    let (bed, server) = (Bed::new(), Server::postgres("a").await);
    bed.publish(Some(&server), &[]);
    let mut client = bed.client("primary").await;
    client.send(&[&GSSENC_REQUEST[..], &SSL_REQUEST, &startup(), b"early"].concat()).await;
    client.expect(b"NN").await;
    assert_eq!(client.greeting().await, "a");
    client.expect(b"early").await;
    assert_eq!(*server.seen.first.lock(), [GSSENC_REQUEST.to_vec(), SSL_REQUEST.to_vec(), startup()]);
    assert_eq!(server.accepted(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn protocol_3_2_is_between_client_and_server() {
    // NegotiateProtocolVersion: 3.0 at most, and one option is not known.
    const NEGOTIATE: &[u8] = b"v\0\0\0\x19\0\x03\0\0\0\0\0\x01_pq_.option\0";
    let server = Server::start("a", |mut stream, seen| async move {
        let packet = read_packet(&mut stream).await.unwrap();
        seen.first.lock().push(packet);
        stream.write_all(NEGOTIATE).await.unwrap();
        stream.write_all(&greeting("a")).await.unwrap();
        echo(stream, seen).await;
    })
    .await;
    let bed = Bed::new();
    bed.publish(Some(&server), &[]);
    let mut asked = startup();
    asked[4..8].copy_from_slice(&[0, 3, 0, 2]);
    let mut client = bed.client("primary").await;
    client.send(&asked).await;
    client.expect(NEGOTIATE).await;
    assert_eq!(client.greeting().await, "a");
    client.echo(b"x").await;
    assert_eq!(*server.seen.first.lock(), [asked]);
}

/// Protocol 3.2 has keys of up to 256 bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_with_a_long_key_arrives_whole() {
    let server = Server::start("a", |mut stream, seen| async move {
        let packet = read_packet(&mut stream).await.unwrap();
        seen.first.lock().push(packet);
    })
    .await;
    let bed = Bed::new();
    bed.publish(Some(&server), &[]);
    let with_key = |length: usize| {
        let mut packet = CANCEL_REQUEST[..12].to_vec();
        packet.resize(12 + length, 0xa5);
        let whole = (packet.len() as u32).to_be_bytes();
        packet[..4].copy_from_slice(&whole);
        packet
    };
    let mut client = bed.client("primary").await;
    for part in with_key(256).chunks(100) {
        client.send(part).await;
    }
    client.end().await;
    assert_eq!(*server.seen.first.lock(), [with_key(256)]);
    let mut client = bed.client("primary").await;
    client.send(&with_key(257)).await;
    client.end().await;
    assert_eq!(server.accepted(), 1, "PostgreSQL knows no longer ones");
}

/// Whether somebody who closes one half will read the answer cannot be known while there is none: it has
/// gone, as a client that was killed has. No driver does this.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_half_closes_before_it_is_served_has_gone() {
    let bed = Bed::new();
    bed.publish(None, &[]);
    let mut client = bed.started("primary").await;
    bed.held(1).await;
    client.0.shutdown().await.unwrap();
    client.end().await;
    until("counted", || bed.refused("primary", Reason::ClientClosed) == 1).await;
    assert_eq!((bed.snapshot("primary").held, bed.snapshot("primary").clients), (0, 0));
}

/// PQping: the first answer is all it wants.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_with_the_first_answer_leaves_nothing_behind() {
    let bed = Bed::new();
    let server = Server::postgres("a").await;
    bed.publish(Some(&server), &[]);
    for goodbye in [&b""[..], b"X\0\0\0\x04"] {
        let mut client = bed.started("primary").await;
        let (kind, _) = client.message().await;
        assert_eq!(kind, b'R');
        client.send(goodbye).await;
        drop(client);
    }
    until("both have ended", || bed.snapshot("primary").clients == 0 && server.open() == 0).await;
    let closed = bed.snapshot("primary").closed;
    assert_eq!(closed.iter().map(|(_, count)| count).sum::<u64>(), 2, "{closed:?}");
    let expected = [Reason::ClientClosed, Reason::ClientError];
    assert!(closed.iter().all(|(reason, _)| expected.contains(reason)), "no server is blamed: {closed:?}");
}
