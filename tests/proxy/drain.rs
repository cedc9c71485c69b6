//! Sessions that are asked to end.

use std::sync::Arc;
use std::time::Duration;

use pgvane::decide::Effect;
use pgvane::model::Reason;
use tokio::io::AsyncWriteExt;

use crate::bed::*;
use crate::speaker::*;

async fn stage() -> (Bed, Server) {
    let (bed, server) = (Bed::new(), Server::speaking("a").await);
    bed.publish(Some(&server), &[&server]);
    (bed, server)
}

fn drain(bed: &Bed, server: &Server, services: Option<&[&str]>) {
    let services = services.map(|names| names.iter().map(|name| Arc::from(*name)).collect());
    let reason = Reason::PlannedSwitchover;
    assert!(bed.plane.execute(&Effect::DrainSessions { member: server.member(), services, reason }));
}

fn terminate() -> Vec<u8> {
    message(b'X', b"")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_sessions_end_at_once_and_orderly() {
    let (bed, server) = stage().await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(welcomed(&bed, "primary").await);
    }
    drain(&bed, &server, None);
    for client in &mut clients {
        let told = client.fatal().await;
        assert_eq!(told.code, "57P01");
        assert_eq!(told.message, "terminating connection to a: a switchover away from the leader was requested");
    }
    until("all are gone", || bed.plane.registry().sessions_open() + server.open() == 0).await;
    let heard = server.seen.first.lock().clone();
    assert_eq!(heard, vec![terminate(); 20]);
    assert_eq!(server.resets(), 0);
    assert_eq!(bed.snapshot("primary").closed, [(Reason::PlannedSwitchover, 20)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_goes_on_to_its_end() {
    let (bed, server) = stage().await;
    let mut client = in_transaction(&bed).await;
    drain(&bed, &server, None);
    assert_eq!(client.ask("SELECT").await, b'T');
    assert_eq!(client.ask("END").await, b'I');
    assert_eq!(client.fatal().await.code, "57P01");
    server.heard(&terminate()).await;
    assert_eq!(server.resets(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_not_ended_is_cut_by_the_close() {
    let (bed, server) = stage().await;
    let mut client = in_transaction(&bed).await;
    drain(&bed, &server, None);
    // Another one in between must not let the first be forgotten.
    drain(&bed, &server, None);
    assert_eq!(client.ask("SELECT").await, b'T');
    bed.publish(None, &[]);
    bed.close(&server, Reason::LeaderMoved);
    assert_eq!(client.fatal().await.code, "08006");
    until("the server is reset", || server.resets() == 1).await;
    assert_eq!(bed.snapshot("primary").closed, [(Reason::LeaderMoved, 1)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_encrypted_session_goes_on_until_the_close() {
    let bed = Bed::new();
    let server = Server::start("a", |mut stream, seen| async move {
        read_packet(&mut stream).await;
        stream.write_all(b"S").await.unwrap();
        echo(stream, seen).await;
    })
    .await;
    bed.publish(Some(&server), &[]);
    let mut client = bed.client("primary").await;
    client.send(&SSL_REQUEST).await;
    client.expect(b"S").await;
    drain(&bed, &server, None);
    client.echo(b"Z\0\0\0\x05I").await;
    client.echo(b"Z\0\0\0\x05I").await;
    bed.publish(None, &[]);
    bed.close(&server, Reason::LeaderMoved);
    client.end().await;
    until("the server is reset", || server.resets() == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_who_was_there_and_meant_is_asked() {
    let (bed, server) = stage().await;
    let mut reader = welcomed(&bed, "replica").await;
    let mut before = welcomed(&bed, "primary").await;
    drain(&bed, &server, Some(&["primary"]));
    assert_eq!(before.fatal().await.code, "57P01");
    let mut after = welcomed(&bed, "primary").await;
    assert_eq!((after.ask("SELECT").await, reader.ask("SELECT").await), (b'I', b'I'));
    until("one is gone", || bed.plane.registry().sessions_open() == 2).await;
    drain(&bed, &server, Some(&["primary"]));
    assert_eq!(after.fatal().await.code, "57P01");
    assert_eq!(reader.ask("SELECT").await, b'I');
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_begins_goes_on_until_it_is_idle() {
    let (bed, server) = (Bed::new(), Server::asking("a").await);
    bed.publish(Some(&server), &[]);
    let mut client = bed.started("primary").await;
    assert_eq!(client.message().await, (b'R', vec![0, 0, 0, 3]));
    drain(&bed, &server, None);
    client.send(&message(b'p', b"secret\0")).await;
    assert_eq!(client.welcome().await, None);
    assert_eq!(client.fatal().await.code, "57P01");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_lets_transactions_end_and_cuts_the_rest_at_its_limit() {
    let (bed, server) = stage().await;
    let mut idle = welcomed(&bed, "primary").await;
    let mut ending = in_transaction(&bed).await;
    let mut lasting = in_transaction(&bed).await;
    let (cut, ()) = tokio::join!(bed.plane.drain(Duration::from_secs(1)), async {
        let told = idle.fatal().await;
        assert_eq!(
            (told.code.as_str(), told.message.as_str()),
            ("57P01", "terminating connection to a: the router is shutting down")
        );
        assert_eq!(ending.ask("END").await, b'I');
        assert_eq!(ending.fatal().await.code, "57P01");
        assert_eq!(lasting.ask("SELECT").await, b'T');
    });
    assert_eq!(cut, 1);
    assert_eq!(lasting.fatal().await.code, "08006");
    assert_eq!(bed.snapshot("primary").closed, [(Reason::Shutdown, 3)]);
    until("the server is let go", || server.open() == 0).await;
    assert_eq!(server.resets(), 0, "a shutdown takes nothing back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_opens_during_a_shutdown_ends_when_it_is_idle() {
    let (bed, server) = (Bed::new(), Server::asking("a").await);
    bed.publish(Some(&server), &[]);
    // Its place is there before the shutdown, its session only after it.
    let mut client = bed.client("primary").await;
    until("it is accepted", || bed.snapshot("primary").clients == 1).await;
    let (cut, ()) = tokio::join!(bed.plane.drain(LIMIT), async {
        client.send(&startup()).await;
        assert_eq!(client.message().await, (b'R', vec![0, 0, 0, 3]));
        client.send(&message(b'p', b"secret\0")).await;
        assert_eq!(client.welcome().await, None);
        assert_eq!(client.fatal().await.code, "57P01");
        drop(client);
    });
    assert_eq!(cut, 0);
}
