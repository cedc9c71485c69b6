//! Limits per target, who waits for a slot, and how a target is chosen.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use pgvane::decide::{Report, Suspicion, Target};
use pgvane::model::{Balance, HoldSpec, QueueSpec, Reason, Role, ServiceSpec};
use pgvane::runtime::clock::now;
use tokio::net::{TcpSocket, TcpStream};

use crate::bed::*;

fn limit(maxconn: usize, timeout: Duration, max: usize) -> impl Fn(&mut ServiceSpec) {
    move |spec| (spec.maxconn, spec.queue) = (maxconn, QueueSpec { timeout, max })
}

impl Bed {
    async fn queued(&self, count: usize) {
        until("clients queued", || self.snapshot("replica").queued == count).await;
    }

    /// A client whose StartupMessage tells its number.
    async fn numbered(&self, number: usize) -> Client {
        let mut client = self.client("replica").await;
        let mut packet = startup();
        packet.splice(8..12, format!("n{number:03}").bytes());
        client.send(&packet).await;
        client
    }
}

/// A replica's target on a port that refuses.
async fn dead(name: &'static str) -> Target {
    let gone = Server::postgres(name).await;
    let target = gone.target(Role::Replica);
    drop(gone);
    until("port closed", || std::net::TcpStream::connect((&*target.address.host, target.address.port)).is_err()).await;
    target
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_many_are_served_so_many_wait_in_order_and_the_rest_is_told_at_once() {
    const CLIENTS: usize = 10;
    // Without hold, too: it has nothing to do with it.
    let bed = Bed::with(|spec| {
        limit(2, LIMIT, 8)(spec);
        spec.hold = HoldSpec::Off;
    });
    let server = Server::postgres("a").await;
    bed.publish(None, &[&server]);
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        clients.push(bed.numbered(number).await);
        if number < 2 {
            clients[number].greeting().await;
        } else {
            bed.queued(number - 1).await;
        }
    }
    for number in CLIENTS..CLIENTS + 2 {
        let told = bed.numbered(number).await.fatal().await;
        assert_eq!((&*told.code, &*told.message), ("53300", "too many connections for service \"replica\""));
        assert!(told.detail.contains("Service replica") && told.detail.contains("maxconn 2"), "{told:?}");
        assert!(told.detail.contains("8 clients wait already (queue.max 8)"), "{told:?}");
    }
    until("counted", || bed.refused("replica", Reason::QueueFull) == 2).await;
    assert_eq!((server.accepted(), bed.snapshot("replica").held), (2, 0));
    let mut clients = std::collections::VecDeque::from(clients);
    for waiting in (0..CLIENTS - 2).rev() {
        drop(clients.pop_front());
        clients[1].greeting().await;
        let snapshot = bed.snapshot("replica");
        assert_eq!((snapshot.queued, snapshot.sessions_open()), (waiting, 2));
    }
    let order: Vec<Vec<u8>> = server.seen.first.lock().iter().map(|packet| packet[8..12].to_vec()).collect();
    let expected: Vec<Vec<u8>> = (0..CLIENTS).map(|number| format!("n{number:03}").into_bytes()).collect();
    assert_eq!(order, expected);
    let snapshot = bed.snapshot("replica");
    assert_eq!((snapshot.queued_most, snapshot.queued_total, snapshot.held_total), (8, 8, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_longer_for_a_slot_than_the_queue_allows() {
    let bed = Bed::with(limit(1, Duration::from_millis(300), 5));
    let server = Server::postgres("a").await;
    bed.publish(None, &[&server]);
    let (mut session, _) = bed.session("replica").await;
    let started = now();
    let told = bed.started("replica").await.fatal().await;
    assert!(elapsed(started) >= Duration::from_millis(300));
    assert_eq!(told.code, "53300");
    assert!(told.detail.contains("none ended in 0.3 s; 0 other clients wait"), "{told:?}");
    until("counted", || bed.refused("replica", Reason::QueueExpired) == 1).await;
    session.echo(b"undisturbed").await;

    let bed = Bed::with(limit(1, LIMIT, 0));
    bed.publish(None, &[&server]);
    let _session = bed.session("replica").await;
    assert_eq!(bed.started("replica").await.fatal().await.code, "53300");
    until("nobody may wait", || bed.refused("replica", Reason::TargetsFull) == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_the_queue_takes_no_slot() {
    let bed = Bed::with(limit(1, LIMIT, 5));
    let server = Server::postgres("a").await;
    bed.publish(None, &[&server]);
    let session = bed.session("replica").await;
    let leaving = bed.started("replica").await;
    bed.queued(1).await;
    let mut staying = bed.started("replica").await;
    bed.queued(2).await;
    drop(leaving);
    bed.queued(1).await;
    drop(session);
    assert_eq!(staying.greeting().await, "a");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_held_and_finds_its_target_full_gets_the_queues_time_as_well() {
    let (hold, queue) = (Duration::from_millis(500), Duration::from_millis(1000));
    let bed = Bed::with(|spec| {
        limit(1, queue, 5)(spec);
        spec.hold = HoldSpec::On { timeout: Some(hold), max: 10 };
    });
    let mut first = bed.started("primary").await;
    bed.held(1).await;
    let mut second = bed.started("primary").await;
    bed.held(2).await;
    let server = Server::postgres("a").await;
    let published = now();
    bed.publish(Some(&server), &[]);
    assert_eq!(first.greeting().await, "a");
    assert_eq!(second.fatal().await.code, "53300");
    assert!(elapsed(published) >= queue);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_a_slot_and_loses_the_target_is_held() {
    let (hold, queue) = (Duration::from_millis(900), Duration::from_millis(300));
    let bed = Bed::with(|spec| {
        limit(1, queue, 5)(spec);
        spec.hold = HoldSpec::On { timeout: Some(hold), max: 10 };
    });
    let (server, other) = (Server::postgres("a").await, Server::postgres("b").await);
    bed.publish(Some(&server), &[]);
    let _session = bed.session("primary").await;
    let started = now();
    let mut client = bed.started("primary").await;
    until("queued", || bed.snapshot("primary").queued == 1).await;
    bed.publish(None, &[]);
    bed.held(1).await;
    let told = client.fatal().await;
    assert_eq!(told.code, "57P03");
    assert!(elapsed(started) >= hold);
    until("counted", || bed.refused("primary", Reason::HoldExpired) == 1).await;
    // And another target is another slot.
    let mut client = bed.started("primary").await;
    bed.held(1).await;
    bed.publish(Some(&other), &[]);
    assert_eq!(client.greeting().await, "b");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_start_does_not_limit_connects() {
    const CLIENTS: usize = 40;
    let bed = Bed::with(|spec| {
        limit(CLIENTS, LIMIT, 0)(spec);
        spec.slowstart = Duration::from_secs(3600);
    });
    let server = Server::postgres("a").await;
    bed.publish_targets(vec![], vec![Target { risen_at: Some(now()), ..server.target(Role::Replica) }]);
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(bed.session("replica").await);
    }
    assert_eq!(bed.snapshot("replica").queued_total, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_routers_send_one_address_to_the_same_target() {
    let beds = [(); 2].map(|()| Bed::with(|spec| spec.balance = Balance::Source));
    let mut chosen = [Vec::new(), Vec::new()];
    for (bed, chosen) in beds.iter().zip(&mut chosen) {
        let (a, b, c) = (Server::postgres("a").await, Server::postgres("b").await, Server::postgres("c").await);
        bed.publish(None, &[&a, &b, &c]);
        for last in 1..=20 {
            // Every address of 127.0.0.0/8 is this machine's.
            let from = |port| SocketAddr::from(([127, 0, 0, last], port));
            let connect = || async {
                let socket = TcpSocket::new_v4().unwrap();
                socket.bind(from(0)).unwrap();
                let stream: TcpStream = socket.connect(bed.address("replica")).await.unwrap();
                let mut client = Client(stream);
                client.send(&startup()).await;
                client.greeting().await
            };
            let (first, again) = (connect().await, connect().await);
            assert_eq!(first, again);
            chosen.push(first);
        }
    }
    assert_eq!(chosen[0], chosen[1]);
    assert_eq!(chosen[0].iter().collect::<BTreeSet<_>>().len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_connects_in_a_row_are_told_once_and_a_good_one_ends_the_row() {
    let mut bed = Bed::with(|spec| {
        spec.retries = 0;
        spec.check.observe.error_limit = 3;
    });
    let good = Server::postgres("a").await;
    let (refusing, answering) = (dead("a").await, good.target(Role::Replica));
    let fail = async |bed: &Bed, times: usize| {
        bed.publish_targets(vec![], vec![refusing.clone()]);
        for _ in 0..times {
            assert_eq!(bed.started("replica").await.fatal().await.code, "57P03");
        }
    };
    let mut told = Vec::new();
    fail(&bed, 2).await;
    bed.publish_targets(vec![], vec![answering]);
    assert_eq!(bed.session("replica").await.1, "a");
    fail(&bed, 2).await;
    while let Ok(report) = bed.reports.try_recv() {
        assert_eq!(report, Report::Suspected("a".into(), Suspicion::ConnectRefused));
    }
    fail(&bed, 3).await;
    while let Ok(report) = bed.reports.try_recv() {
        told.push(report);
    }
    told.retain(|report| !matches!(report, Report::Suspected(..)));
    assert_eq!(told, [Report::ErrorLimit("replica".into(), "a".into())]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_retries_are_four_attempts_at_the_only_target() {
    let bed = Bed::with(|spec| spec.connect_timeout = Duration::from_millis(50));
    bed.publish_targets(vec![], vec![dead("a").await]);
    let started = now();
    let told = bed.started("replica").await.fatal().await;
    assert_eq!(told.code, "57P03");
    assert!(elapsed(started) >= Duration::from_millis(150), "with pauses between them");
    let failed = bed.snapshot("replica").connects_failed;
    assert!(failed.contains(&(Suspicion::ConnectRefused, 4)), "{failed:?}");
}
