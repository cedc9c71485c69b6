//! A virtual address leaves: who is on it, who waits on it, who comes by it, and everybody else.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use pgvane::decide::Effect;
use pgvane::model::{HostPort, Reason, Role, ServiceSpec};
use pgvane::proxy::premises::{LATE_MAX, PARTING_TIME};
use pgvane::runtime::clock::now;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::bed::*;
use crate::speaker::*;

/// All of 127.0.0.0/8 is on every host.
const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 77));
const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 78));
const WHY: Reason = Reason::RoleElsewhere;

/// Both services on every address, on sockets for both families where this kernel has both.
fn bed() -> Bed {
    Bed::with(|spec| spec.listen = vec![HostPort::new("*", 0).into()])
}

impl Bed {
    async fn come_by(&self, ip: IpAddr, service: &str) -> Client {
        Client(within("connect", TcpStream::connect((ip, self.address(service).port()))).await.unwrap())
    }

    async fn started_by(&self, ip: IpAddr) -> Client {
        let mut client = self.come_by(ip, "primary").await;
        client.send(&startup()).await;
        client
    }

    /// Of a speaking server.
    async fn welcomed_by(&self, ip: IpAddr) -> Client {
        let mut client = self.started_by(ip).await;
        assert_eq!(client.welcome().await, None);
        client
    }

    async fn send_away(&self, ip: IpAddr) -> usize {
        within("all have left", self.plane.send_away(ip, WHY)).await
    }
}

impl Client {
    async fn told_to_come_again(&mut self) {
        let told = self.fatal().await;
        assert_eq!((told.code.as_str(), &*told.message), ("57P03", "the address 127.0.0.77 moves to another host"));
        assert_eq!(told.detail, "Service primary: the role that it follows is another member's.");
    }

    /// Reads whatever it is told to the end, be that a reset.
    async fn end_of_words(&mut self) {
        let _reset = within("end", self.0.read_to_end(&mut Vec::new())).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_waits_on_it_is_told_and_nobody_else() {
    let bed = bed();
    let (mut here, mut there) = (bed.started_by(VIP).await, bed.started_by(OTHER).await);
    bed.held(2).await;
    // Accepted, and not a word yet; in the middle of asking for encryption.
    let (mut mute, mut half) = (bed.come_by(VIP, "primary").await, bed.come_by(VIP, "primary").await);
    half.send(&SSL_REQUEST).await;
    until("all are here", || bed.snapshot("primary").clients == 4).await;
    let gone = tokio::spawn(bed.plane.send_away(VIP, WHY));
    here.told_to_come_again().await;
    assert_eq!(within("all have left", gone).await.unwrap(), 3, "none of them has closed");
    until("counted", || bed.refused("primary", Reason::VipReleased) == 3).await;
    mute.end().await;
    half.expect(b"N").await;
    half.end().await;
    let server = Server::postgres("a").await;
    bed.publish(Some(&server), &[]);
    assert_eq!(there.greeting().await, "a");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_are_told_by_what_they_were_doing() {
    let bed = bed();
    let server = Server::speaking("a").await;
    bed.publish(Some(&server), &[]);
    let mut other = bed.welcomed_by(OTHER).await;
    assert_eq!(other.ask("BEGIN").await, b'T');
    let (mut idle, mut open, mut doubtful) =
        (bed.welcomed_by(VIP).await, bed.welcomed_by(VIP).await, bed.welcomed_by(VIP).await);
    assert_eq!((open.ask("BEGIN").await, doubtful.ask("BEGIN").await), (b'T', b'T'));
    doubtful.send(&query("COMMIT")).await;
    server.heard(&query("COMMIT")).await;
    bed.send_away(VIP).await;
    for (client, code) in [(&mut idle, "57P01"), (&mut open, "08006"), (&mut doubtful, "08007")] {
        let told = client.fatal().await;
        assert_eq!(told.code, code);
        assert!(told.message.ends_with("the virtual address that the client came by has left this host"), "{told:?}");
    }
    until("the server is reset", || server.resets() == 3).await;
    assert_eq!(bed.snapshot("primary").closed, [(Reason::VipReleased, 3)]);
    // In its transaction on another address, as if nothing had happened.
    assert_eq!(other.ask("SELECT").await, b'T');
}

/// Waits to be told before it reads, with as little room as there can be; then tells what it has read.
async fn deaf_server(hear: Arc<Notify>, heard: Arc<parking_lot::Mutex<Option<Vec<u8>>>>) -> Server {
    Server::start("a", move |mut stream, _| {
        let (hear, heard) = (hear.clone(), heard.clone());
        async move {
            socket2::SockRef::from(&stream).set_recv_buffer_size(4096).unwrap();
            read_packet(&mut stream).await;
            stream.write_all(&greeting("a")).await.unwrap();
            hear.notified().await;
            let mut all = Vec::new();
            let _reset = stream.read_to_end(&mut all).await;
            *heard.lock() = Some(all);
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_is_under_way_is_in_doubt_and_never_delivered() {
    let (hear, heard) = (Arc::new(Notify::new()), Arc::default());
    let (bed, server) = (bed(), deaf_server(hear.clone(), Arc::clone(&heard)).await);
    bed.publish(Some(&server), &[]);
    let mut client = bed.started_by(VIP).await;
    client.greeting().await;
    let filler = query(&"-".repeat(300_000));
    client.send(&filler).await;
    client.send(&query("COMMIT")).await;
    // All of it is in the router's socket, or further.
    let sent = (startup().len() + filler.len() + query("COMMIT").len()) as u64;
    until("forwarded", || bed.snapshot("primary").bytes_to_server + startup().len() as u64 >= sent).await;
    bed.send_away(VIP).await;
    assert_eq!(client.fatal().await.code, "08007");
    hear.notify_one();
    until("the server has read", || heard.lock().is_some()).await;
    let heard = heard.lock().take().unwrap();
    assert!(heard.len() < filler.len(), "{} bytes", heard.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_comes_by_it_is_told_until_it_is_welcome() {
    let bed = bed();
    let (server, next) = (Server::postgres("a").await, Server::postgres("b").await);
    bed.publish(Some(&server), &[]);
    assert_eq!(bed.send_away(VIP).await, 0, "nobody was there");
    bed.started_by(VIP).await.told_to_come_again().await;
    let mut careful = bed.come_by(VIP, "primary").await;
    careful.send(&SSL_REQUEST).await;
    careful.expect(b"N").await;
    careful.send(&startup()).await;
    careful.told_to_come_again().await;
    // A reload changes nothing about it, nor does a new service.
    let on_any = |name, role| Arc::new(ServiceSpec { listen: vec![HostPort::new("*", 0).into()], ..spec(name, role) });
    bed.reload(["primary", "replica", "any"].map(|name| on_any(name, Role::Primary)).to_vec());
    bed.publish(Some(&next), &[]);
    bed.started_by(VIP).await.told_to_come_again().await;
    let mut new = bed.come_by(VIP, "any").await;
    new.send(&startup()).await;
    assert_eq!(new.fatal().await.code, "57P03");
    assert_eq!(bed.started_by(OTHER).await.greeting().await, "b");
    bed.plane.welcome(VIP);
    assert_eq!(bed.started_by(VIP).await.greeting().await, "b");
    assert_eq!(server.accepted(), 0, "nobody was served");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_does_not_close_is_reset_in_bounded_time() {
    let bed = bed();
    let server = Server::speaking("a").await;
    bed.publish(Some(&server), &[&server]);
    let (mut idle, mut flooded) = (bed.welcomed_by(VIP).await, bed.welcomed_by(VIP).await);
    flooded.send(&query("FLOOD")).await;
    let seen = || server.seen.bytes.load(SeqCst);
    within("every buffer on the way is full", async {
        let mut before = 0;
        while before == 0 || seen() > before {
            before = seen();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    // Cut already, and told, and in no hurry to close.
    let mut slow = bed.come_by(VIP, "replica").await;
    slow.send(&startup()).await;
    slow.welcome().await;
    bed.publish(Some(&server), &[]);
    let (member, services) = (server.member(), Some(vec![Arc::from("replica")]));
    bed.plane.execute(&Effect::CloseSessions { member, services, reason: Reason::MemberDown });
    assert_eq!(slow.fatal().await.code, "57P01");
    bed.publish(None, &[]);
    let mut held = bed.started_by(VIP).await;
    bed.held(1).await;
    let started = now();
    assert_eq!(bed.send_away(VIP).await, 4);
    let took = elapsed(started);
    assert!(took >= PARTING_TIME && took < (PARTING_TIME + LATE_MAX) * 10, "{took:?}");
    assert_eq!(idle.fatal().await.code, "57P01");
    held.told_to_come_again().await;
    let end = within("reset", flooded.0.read_to_end(&mut Vec::new())).await;
    assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(bed.snapshot("replica").clients + bed.snapshot("primary").clients, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_who_closes_is_reset_and_nobody_waits_for_them_any_longer() {
    let bed = bed();
    let server = Server::postgres("a").await;
    bed.publish(Some(&server), &[]);
    // On a machine that is busy a client may be late.
    within("all close in time", async {
        loop {
            bed.plane.welcome(VIP);
            let (mut session, _) = bed.session_at((VIP, bed.address("primary").port())).await;
            let closing = async move { session.end_of_words().await };
            let started = now();
            let gone = bed.plane.send_away(VIP, WHY);
            let (resets, ()) = tokio::join!(gone, closing);
            if resets == 0 && elapsed(started) < PARTING_TIME {
                return;
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_welcome_comes_too_late_for_those_who_were_sent_away_and_in_time_for_the_next() {
    let bed = bed();
    let server = Server::speaking("a").await;
    bed.publish(Some(&server), &[]);
    let (mut first, mut other) = (bed.welcomed_by(VIP).await, bed.welcomed_by(OTHER).await);
    let (gone, again) = (bed.plane.send_away(VIP, WHY), bed.plane.send_away(VIP, Reason::Conflict));
    bed.plane.welcome(VIP);
    let mut second = bed.welcomed_by(VIP).await;
    let (resets, once_more) = within("both", async { tokio::join!(gone, again) }).await;
    assert_eq!(resets, once_more, "they are the same clients");
    assert_eq!(first.fatal().await.code, "57P01");
    assert_eq!(second.ask("SELECT").await, b'I');
    // Both are within reach of all that ends sessions, however often somebody else was sent away.
    for _ in 0..3 {
        bed.send_away("127.0.0.79".parse().unwrap()).await;
        bed.plane.welcome("127.0.0.79".parse().unwrap());
    }
    bed.close(&server, Reason::LeaderMoved);
    assert_eq!((second.fatal().await.code, other.fatal().await.code), ("57P01".into(), "57P01".into()));
    assert_eq!(bed.snapshot("primary").closed, [(Reason::LeaderMoved, 2), (Reason::VipReleased, 1)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_sessions_of_two_services_are_gone_at_once() {
    const SESSIONS: usize = 1_000;
    let bed = bed();
    let server = Server::postgres("a").await;
    bed.publish(Some(&server), &[&server]);
    let mut clients = Vec::new();
    for number in 0..SESSIONS {
        let service = ["primary", "replica"][number % 2];
        clients.push(bed.session_at((VIP, bed.address(service).port())).await.0);
    }
    let (mut other, _) = bed.session_at((OTHER, bed.address("primary").port())).await;
    let started = now();
    let resets = bed.send_away(VIP).await;
    let told = elapsed(started);
    until("all sockets are closed", || bed.snapshot("primary").clients + bed.snapshot("replica").clients == 1).await;
    let listeners = 2;
    until("all sockets are closed", || bed.plane.connections_open() == 1 + listeners).await;
    let closed = elapsed(started);
    eprintln!("{SESSIONS} sessions: {resets} reset, completed after {told:?}, closed in {closed:?}");
    assert!(closed < Duration::from_secs(1), "{closed:?}");
    other.echo(b"still here").await;
    for client in &mut clients {
        client.end_of_words().await;
    }
    until("the server saw all of them go", || server.open() == 1).await;
    assert_eq!(server.resets(), SESSIONS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_byte_is_forwarded_from_the_call_on() {
    const SESSIONS: usize = 100;
    let bed = bed();
    let server = Server::postgres("a").await;
    bed.publish(Some(&server), &[]);
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    for _ in 0..SESSIONS {
        let (mut client, _) = bed.session_at((VIP, bed.address("primary").port())).await;
        let stop = stop.clone();
        writers.push(tokio::spawn(async move {
            let mut chunk = [0; 256];
            while !stop.load(SeqCst) && client.0.write_all(b"insert").await.is_ok() {
                if !matches!(client.0.read(&mut chunk).await, Ok(1..)) {
                    break;
                }
            }
        }));
    }
    until("traffic", || server.seen.bytes.load(SeqCst) > 100_000).await;
    let gone = bed.plane.send_away(VIP, WHY);
    let forwarded = bed.snapshot("primary").bytes_to_server;
    within("all have left", gone).await;
    until("counted", || bed.snapshot("primary").closed == [(Reason::VipReleased, SESSIONS as u64)]).await;
    // Two workers: at most one write each was in the kernel.
    let late = bed.snapshot("primary").bytes_to_server - forwarded;
    assert!(late <= 2 * b"insert".len() as u64, "{late} bytes forwarded after the call");
    stop.store(true, SeqCst);
    for writer in writers {
        within("a writer", writer).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_that_is_under_way_does_not_keep_the_address() {
    let server = Server::start("a", |stream, _| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let bed = bed();
    bed.publish(Some(&server), &[]);
    let mut client = bed.come_by(VIP, "primary").await;
    client.send(&CANCEL_REQUEST).await;
    until("passed on", || server.accepted() == 1).await;
    assert_eq!(bed.send_away(VIP).await, 1);
    client.end().await;
}
