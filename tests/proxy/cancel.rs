//! Where a CancelRequest goes, how long its client waits, and how many there may be.

use std::io::ErrorKind;
use std::sync::Arc;

use pgvane::model::{HostPort, Reason, Role};
use pgvane::proxy::cancel::CANCELS_AT_A_TIME_MAX;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::bed::*;

const CANCEL_CODE: [u8; 4] = [0x04, 0xd2, 0x16, 0x2e];

/// Process id and secret, as many bytes of it as wanted.
fn key(pid: u8, secret: usize) -> Vec<u8> {
    [&[0, 0, 0, pid][..], &vec![pid; secret]].concat()
}

fn packet(key: &[u8]) -> Vec<u8> {
    [&(key.len() as u32 + 8).to_be_bytes()[..], &CANCEL_CODE, key].concat()
}

/// A server that gives everybody this key, and closes a cancel's connection when it is told to.
async fn server_until(name: &'static str, key: Vec<u8>, closing: Arc<Semaphore>) -> Server {
    let data = [&b"K"[..], &(key.len() as u32 + 4).to_be_bytes(), &key].concat();
    let serve = move |mut stream: TcpStream, seen: Arc<Seen>| {
        let (data, closing) = (data.clone(), closing.clone());
        async move {
            let Some(packet) = read_packet(&mut stream).await else { return };
            seen.first.lock().push(packet.clone());
            if packet[4..8] == CANCEL_CODE {
                closing.acquire().await.unwrap().forget();
                return;
            }
            let greeting = greeting(name);
            let (start, ready) = greeting.split_at(greeting.len() - 6);
            let _ = stream.write_all(&[start, &data, ready].concat()).await;
            echo(stream, seen).await;
        }
    };
    Server::start(name, serve).await
}

async fn server(name: &'static str, key: Vec<u8>) -> Server {
    server_until(name, key, Arc::new(Semaphore::new(Semaphore::MAX_PERMITS))).await
}

/// The keys that were asked to be cancelled here.
fn cancels(server: &Server) -> Vec<Vec<u8>> {
    let first = server.seen.first.lock();
    first.iter().filter(|packet| packet[4..8] == CANCEL_CODE).map(|packet| packet[8..].to_vec()).collect()
}

/// AuthenticationOk, who it is, BackendKeyData, ReadyForQuery.
async fn session(bed: &Bed, service: &str) -> (Client, String) {
    let mut client = bed.started(service).await;
    let kinds_and_bodies = [client.message().await, client.message().await, client.message().await];
    assert_eq!(client.message().await, (b'Z', b"I".to_vec()));
    let [_, (_, who), (kind, _)] = kinds_and_bodies;
    assert_eq!(kind, b'K');
    (client, String::from_utf8(who).unwrap())
}

/// As libpq does it: until the other side closes.
async fn cancel(bed: &Bed, service: &str, key: &[u8]) {
    let mut client = bed.client(service).await;
    client.send(&packet(key)).await;
    client.end().await;
}

/// The router notes a key right after its client has it.
async fn known(bed: &Bed, keys: usize) {
    until("so many keys are known", || bed.plane.registry().cancel_keys.known() == keys).await;
}

/// Sent by cancels through this service: to the owner of a key, and to all.
fn counted(bed: &Bed, service: &str) -> (u64, u64) {
    let snapshot = bed.snapshot(service);
    (snapshot.cancels_by_key_total, snapshot.cancels_total - snapshot.cancels_by_key_total)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_was_read_finds_its_owner_alone() {
    let bed = Bed::new();
    // PostgreSQL's before 18, its own of 18, and the longest there may be.
    let keys = [key(1, 4), key(2, 32), key(3, 256)];
    let leader = server("leader", key(9, 4)).await;
    let (a, b, c) =
        (server("a", keys[0].clone()).await, server("b", keys[1].clone()).await, server("c", keys[2].clone()).await);
    let servers = [&a, &b, &c];
    bed.publish(Some(&leader), &servers);
    let mut sessions = Vec::new();
    for _ in 0..3 {
        sessions.push(session(&bed, "replica").await);
    }
    known(&bed, 3).await;
    // Also through the port of another service.
    for service in ["replica", "primary"] {
        for key in &keys {
            cancel(&bed, service, key).await;
        }
    }
    for (server, key) in servers.iter().zip(&keys) {
        assert_eq!(cancels(server), [key.clone(), key.clone()], "{}", server.name);
    }
    assert_eq!(cancels(&leader).len(), 0);
    assert_eq!((counted(&bed, "replica"), counted(&bed, "primary")), ((3, 0), (3, 0)));

    // Drained: new sessions go elsewhere, and cancels still find the old ones.
    bed.publish(Some(&leader), &[&a]);
    cancel(&bed, "replica", &keys[2]).await;
    assert_eq!((cancels(&a).len(), cancels(&c).len()), (2, 3));

    // The key leaves with its session.
    sessions.clear();
    known(&bed, 0).await;
    cancel(&bed, "replica", &keys[2]).await;
    assert_eq!((cancels(&a).last(), cancels(&c).len()), (Some(&keys[2]), 3));
    assert_eq!(counted(&bed, "replica"), (4, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_router_asks_all_that_may_have_the_session() {
    let (one, other) = (Bed::new(), Bed::new());
    let (leader, a, b) =
        (server("leader", key(9, 4)).await, server("a", key(1, 4)).await, server("b", key(2, 4)).await);
    for bed in [&one, &other] {
        bed.publish(Some(&leader), &[&a, &b]);
    }
    let _reader = session(&one, "replica").await;
    let _writer = session(&one, "primary").await;
    cancel(&other, "replica", &key(1, 4)).await;
    cancel(&other, "primary", &key(9, 4)).await;
    assert_eq!((cancels(&a), cancels(&b)), (vec![key(1, 4)], vec![key(1, 4)]));
    assert_eq!(cancels(&leader), [key(9, 4)]);
    assert_eq!((counted(&other, "replica"), counted(&other, "primary")), ((0, 1), (0, 1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_two_servers_gave_out_goes_to_both() {
    let bed = Bed::new();
    let (a, b, c) = (server("a", key(1, 4)).await, server("b", key(1, 4)).await, server("c", key(3, 4)).await);
    bed.publish(None, &[&a, &b, &c]);
    let mut sessions = Vec::new();
    for _ in 0..3 {
        sessions.push(session(&bed, "replica").await);
    }
    known(&bed, 3).await;
    cancel(&bed, "replica", &key(1, 4)).await;
    assert_eq!((cancels(&a).len(), cancels(&b).len(), cancels(&c).len()), (1, 1, 0));
    sessions.retain(|(_, who)| who != "a");
    known(&bed, 2).await;
    cancel(&bed, "replica", &key(1, 4)).await;
    assert_eq!((cancels(&a).len(), cancels(&b).len(), cancels(&c).len()), (1, 2, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_client_waits_until_the_server_has_closed_and_need_not() {
    let bed = Bed::new();
    let closing = Arc::new(Semaphore::new(0));
    let a = server_until("a", key(1, 4), closing.clone()).await;
    bed.publish(Some(&a), &[]);
    let mut patient = bed.client("primary").await;
    patient.send(&packet(&key(1, 4))).await;
    until("it has arrived", || cancels(&a).len() == 1).await;
    assert_eq!(patient.0.try_read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock, "closed too early");
    // One that has gone before the server has closed, and before it was connected to, costs nothing.
    let mut hasty = bed.client("primary").await;
    hasty.send(&packet(&key(2, 4))).await;
    drop(hasty);
    until("it has arrived, too", || cancels(&a).len() == 2).await;
    assert_eq!(a.open(), 2);
    closing.add_permits(2);
    patient.end().await;
    until("counted", || bed.refused("primary", Reason::CancelForwarded) == 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_gone_does_not_keep_the_others_from_it() {
    let bed = Bed::new();
    let (gone, a) = (server("gone", key(1, 4)).await, server("a", key(2, 4)).await);
    let targets = [&gone, &a].map(|server| server.target(Role::Replica)).to_vec();
    let at = gone.address;
    drop(gone);
    until("port closed", || std::net::TcpStream::connect(at).is_err()).await;
    bed.publish_targets(vec![], targets);
    cancel(&bed, "replica", &key(2, 4)).await;
    assert_eq!(cancels(&a), [key(2, 4)]);
    // Its owner is gone: nobody else is asked, and nobody waits.
    let _key = bed.plane.registry().cancel_keys.issuer(&HostPort::new("127.0.0.1", at.port())).register(&key(1, 4));
    cancel(&bed, "replica", &key(1, 4)).await;
    assert_eq!(cancels(&a), [key(2, 4)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_cancels_too_often_is_dropped_and_told_by_the_close() {
    let bed = Bed::with(|spec| spec.rate.cancels_max = 5);
    let a = server("a", key(1, 4)).await;
    bed.publish(Some(&a), &[]);
    let mut sent = 0;
    // Only a machine that takes longer than a second for five of them needs many.
    while bed.refused("primary", Reason::CancelLimited) == 0 && sent < 1000 {
        cancel(&bed, "primary", &key(1, 4)).await;
        sent += 1;
    }
    until("all have ended", || bed.snapshot("primary").clients == 0).await;
    let dropped = bed.refused("primary", Reason::CancelLimited) as usize;
    assert!(sent > 5 && dropped > 0, "{dropped} of {sent} were dropped");
    assert_eq!(cancels(&a).len(), sent - dropped);
    assert_eq!(bed.snapshot("primary").cancels_total as usize, sent - dropped);
    // Another service counts for itself.
    bed.publish(Some(&a), &[&a]);
    cancel(&bed, "replica", &key(1, 4)).await;
    assert_eq!(cancels(&a).len(), sent - dropped + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_than_so_many_are_under_way_at_a_time() {
    let bed = Bed::with(|spec| spec.rate.cancels_max = 0);
    let closing = Arc::new(Semaphore::new(0));
    let a = server_until("a", key(1, 4), closing.clone()).await;
    bed.publish(Some(&a), &[]);
    let mut waiting = Vec::new();
    for _ in 0..CANCELS_AT_A_TIME_MAX {
        let mut client = bed.client("primary").await;
        client.send(&packet(&key(1, 4))).await;
        waiting.push(client);
    }
    until("all have arrived", || cancels(&a).len() == CANCELS_AT_A_TIME_MAX).await;
    cancel(&bed, "primary", &key(2, 4)).await;
    until("counted", || bed.refused("primary", Reason::CancelLimited) == 1).await;
    assert_eq!(a.accepted(), CANCELS_AT_A_TIME_MAX);
    closing.add_permits(CANCELS_AT_A_TIME_MAX + 1);
    for mut client in waiting {
        client.end().await;
    }
    cancel(&bed, "primary", &key(3, 4)).await;
    assert_eq!(cancels(&a).last(), Some(&key(3, 4)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_encrypted_is_not_taken_for_a_key() {
    let bed = Bed::new();
    let encrypted = Server::start("a", |mut stream, seen| async move {
        let packet = read_packet(&mut stream).await.unwrap();
        seen.first.lock().push(packet.clone());
        if packet == SSL_REQUEST {
            stream.write_all(b"SK\0\0\0\x0c\0\0\0\x01\x01\x01\x01\x01Z\0\0\0\x05I").await.unwrap();
            echo(stream, seen).await;
        }
    })
    .await;
    let b = server("b", key(2, 4)).await;
    bed.publish(None, &[&encrypted]);
    let mut client = bed.client("replica").await;
    client.send(&SSL_REQUEST).await;
    client.expect(b"SK\0\0\0\x0c\0\0\0\x01\x01\x01\x01\x01Z\0\0\0\x05I").await;
    client.echo(b"x").await;
    bed.publish(None, &[&encrypted, &b]);
    cancel(&bed, "replica", &key(1, 4)).await;
    assert_eq!((cancels(&encrypted), cancels(&b)), (vec![key(1, 4)], vec![key(1, 4)]));
}
