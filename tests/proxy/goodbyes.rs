//! Terminate: who ends the connection to the server, and what if nobody does.

use std::time::Duration;

use pgvane::model::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::bed::*;

const TERMINATE: &[u8] = b"X\0\0\0\x04";
/// In /proc/net/tcp.
const TIME_WAIT: &str = "06";

/// Whether one end of a connection in TIME_WAIT has this port, and the other one is somebody's.
fn keeps_time_wait(port: u16) -> bool {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let local = format!(":{port:04X}");
    table.lines().any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        fields.next().is_some_and(|address| address.ends_with(&local)) && fields.nth(1) == Some(TIME_WAIT)
    })
}

/// Lets everybody in, and goes at Terminate or at the end of the stream as PostgreSQL does.
async fn leaves_when_told(name: &'static str) -> Server {
    Server::start(name, move |mut stream, seen| async move {
        read_packet(&mut stream).await.unwrap();
        stream.write_all(&greeting(name)).await.unwrap();
        let mut heard = vec![0; TERMINATE.len()];
        stream.read_exact(&mut heard).await.unwrap();
        seen.first.lock().push(heard);
    })
    .await
}

/// TIME_WAIT is with whoever sent the first FIN, and so is the port. On loopback Linux gives it away after a second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_keeps_the_port_where_the_router_cannot_have_it_back() {
    let reuse = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_tw_reuse").unwrap();
    assert!(["1", "2"].contains(&reuse.trim()), "a machine whose ports on loopback come back: {reuse}");
    for spares_ports in [false, true] {
        let bed = Bed::new();
        let server = leaves_when_told("a").await;
        bed.publish(Some(&server), &[]);
        if spares_ports {
            bed.plane.connector().spares_ports();
        }
        let (mut client, _) = bed.session("primary").await;
        client.send(TERMINATE).await;
        client.end().await;
        until("both have ended", || bed.snapshot("primary").clients == 0 && server.open() == 0).await;
        assert_eq!(*server.seen.first.lock(), [TERMINATE]);
        assert_eq!(bed.snapshot("primary").closed, [(Reason::ClientClosed, 1)]);
        assert_eq!(keeps_time_wait(server.address.port()), spares_ports);
    }
}

/// A goodbye that is cut in two goes as any other bytes do, and so does one behind a query.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_goodbye_in_pieces_or_behind_something_arrives_whole() {
    let in_pieces = [&TERMINATE[..2], &TERMINATE[2..]];
    let behind_a_query: [&[u8]; 1] = [b"Q\0\0\0\x05\0X\0\0\0\x04"];
    // A server that ends in the middle of a query has ended by itself.
    for (said, reason) in [(&in_pieces[..], Reason::ClientClosed), (&behind_a_query, Reason::ServerClosed)] {
        let bed = Bed::new();
        let server = Server::start("a", |mut stream, seen| async move {
            read_packet(&mut stream).await.unwrap();
            stream.write_all(&greeting("a")).await.unwrap();
            let mut heard = Vec::new();
            while !heard.ends_with(TERMINATE) && stream.read_buf(&mut heard).await.unwrap() > 0 {}
            seen.first.lock().push(heard);
        })
        .await;
        bed.publish(Some(&server), &[]);
        let (mut client, _) = bed.session("primary").await;
        let mut sent = 0;
        for piece in said {
            sent += piece.len() as u64;
            client.send(piece).await;
            until("it has passed", || bed.snapshot("primary").bytes_to_server == sent).await;
        }
        until("the server has heard it", || *server.seen.first.lock() == [said.concat()]).await;
        client.0.read_to_end(&mut Vec::new()).await.unwrap();
        drop(client);
        until("ended", || bed.snapshot("primary").clients == 0).await;
        assert_eq!(bed.snapshot("primary").closed, [(reason, 1)]);
    }
}

/// In the middle of a transaction, too: it is rolled back by the server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_after_a_goodbye_is_left_alone() {
    let with = |spares_ports: bool, user_timeout: Duration| {
        let bed = Bed::with(|spec| spec.tcp.user_timeout = user_timeout);
        if spares_ports {
            bed.plane.connector().spares_ports();
        }
        bed
    };
    let beds = [(false, 0), (true, 0), (true, 1)].map(|(spares, seconds)| with(spares, Duration::from_secs(seconds)));
    let hangs = |mut stream: tokio::net::TcpStream, _| async move {
        read_packet(&mut stream).await.unwrap();
        stream.write_all(&greeting("a")).await.unwrap();
        std::future::pending::<()>().await;
    };
    let server = Server::start("a", hangs).await;
    for bed in &beds {
        bed.publish(Some(&server), &[]);
        let (mut client, _) = bed.session("primary").await;
        client.send(TERMINATE).await;
    }
    for bed in &beds {
        until("left alone", || bed.snapshot("primary").clients == 0).await;
        assert_eq!(bed.snapshot("primary").closed, [(Reason::ClientClosed, 1)]);
    }
}
