//! The other ends of a session: what the kernel watches for us, halves that close, readers that do not read.

use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use pgvane::model::Reason;
use pgvane::model::service::TcpSpec;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::bed::*;

/// What a socket of this process is watched with, found by its two addresses.
fn watched(local: SocketAddr, peer: SocketAddr) -> TcpSpec {
    let descriptors = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let numbers = descriptors.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    for number in numbers.collect::<Vec<_>>() {
        // SAFETY: whatever has this number by now is only asked for its options.
        let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
        let socket = SockRef::from(&descriptor);
        let ends = || Some((socket.local_addr().ok()?.as_socket()?, socket.peer_addr().ok()?.as_socket()?));
        if ends() == Some((local, peer)) {
            assert!(socket.keepalive().unwrap() && socket.tcp_nodelay().unwrap());
            return TcpSpec {
                keepalive_idle: socket.tcp_keepalive_time().unwrap(),
                keepalive_interval: socket.tcp_keepalive_interval().unwrap(),
                keepalive_count: socket.tcp_keepalive_retries().unwrap(),
                user_timeout: socket.tcp_user_timeout().unwrap().unwrap(),
            };
        }
    }
    panic!("no socket from {local} to {peer}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_sides_of_a_session_are_watched_by_the_kernel() {
    let short = TcpSpec {
        keepalive_idle: Duration::from_secs(7),
        keepalive_interval: Duration::from_secs(3),
        keepalive_count: 4,
        user_timeout: Duration::from_secs(11),
    };
    for tcp in [TcpSpec::default(), short] {
        let (from_router, mut seen) = tokio::sync::mpsc::channel(1);
        let server = Server::start("a", move |mut stream, seen| {
            let from_router = from_router.clone();
            async move {
                read_packet(&mut stream).await;
                from_router.send(stream.peer_addr().unwrap()).await.unwrap();
                stream.write_all(&greeting("a")).await.unwrap();
                echo(stream, seen).await;
            }
        })
        .await;
        let bed = Bed::with(|spec| spec.tcp = tcp.clone());
        bed.publish(Some(&server), &[]);
        let (client, _) = bed.session("primary").await;
        let to_client = watched(bed.address("primary"), client.0.local_addr().unwrap());
        let to_server = watched(within("the server", seen.recv()).await.unwrap(), server.address);
        assert_eq!((&to_client, &to_server), (&tcp, &tcp));
    }
}

/// A client that has nothing more to say may still hear.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_stops_writing_still_reads_the_result() {
    const ROWS: usize = 2000;
    let query = b"Q\0\0\0\x0dSELECT 1\0";
    let row = [&b"D\0\0\x04\x0a\0\x01\0\0\x04\0"[..], &[b'x'; 1024]].concat();
    let result = [row.repeat(ROWS), b"C\0\0\0\x0dSELECT 1\0Z\0\0\0\x05I".to_vec()].concat();
    let sent = result.clone();
    let server = Server::start("a", move |mut stream, _| {
        let sent = sent.clone();
        async move {
            read_packet(&mut stream).await;
            stream.write_all(&greeting("a")).await.unwrap();
            let mut asked = Vec::new();
            stream.read_to_end(&mut asked).await.unwrap();
            assert_eq!(asked, query);
            stream.write_all(&sent).await.unwrap();
        }
    })
    .await;
    let bed = Bed::new();
    bed.publish(Some(&server), &[]);
    let (mut client, _) = bed.session("primary").await;
    client.send(query).await;
    client.0.shutdown().await.unwrap();
    let mut heard = Vec::new();
    within("the result", client.0.read_to_end(&mut heard)).await.unwrap();
    assert!(heard == result, "{} of {} bytes", heard.len(), result.len());
    until("counted", || bed.snapshot("primary").closed == [(Reason::ClientClosed, 1)]).await;
}
