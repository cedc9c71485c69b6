//! A running plane gets another configuration.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use pgvane::model::{HoldSpec, HostPort, ListenAddress, Reason, Role, ServiceSpec};
use tokio::net::TcpStream;

use crate::bed::*;

fn at(host: &str, port: u16) -> ListenAddress {
    HostPort::new(host, port).into()
}

fn service(name: &str, role: Role, change: impl FnOnce(&mut ServiceSpec)) -> Arc<ServiceSpec> {
    let mut spec = spec(name, role);
    change(&mut spec);
    Arc::new(spec)
}

/// Clients that come, are served and go, one after the other, until told to stop. Any error is a panic.
struct Visitors {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Visitors {
    fn of(address: SocketAddr, count: usize) -> Visitors {
        let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let visit = |_| {
            let (stop, served) = (stop.clone(), served.clone());
            tokio::spawn(async move {
                while !stop.load(SeqCst) {
                    let mut client = Client(TcpStream::connect(address).await.expect("refused"));
                    client.send(&startup()).await;
                    client.greeting().await;
                    client.echo(b"x").await;
                    served.fetch_add(1, SeqCst);
                }
            })
        };
        let tasks = (0..count).map(visit).collect();
        Visitors { stop, served, tasks }
    }

    async fn more(&self, count: usize) {
        let before = self.served.load(SeqCst);
        until("more visitors", || self.served.load(SeqCst) >= before + count).await;
    }

    async fn leave(self) {
        self.stop.store(true, SeqCst);
        for task in self.tasks {
            within("the last visit", task).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_reloads_lose_nobody() {
    const RELOADS: usize = 100;
    let stable = || service("primary", Role::Primary, |_| {});
    let bed = Bed::of("test", vec![stable(), service("replica", Role::Replica, |_| {})]);
    let server = Server::postgres("a").await;
    bed.publish(Some(&server), &[&server]);
    let (mut writer, _) = bed.session("primary").await;
    let (mut reader, _) = bed.session("replica").await;
    let writers = Visitors::of(bed.address("primary"), 2);
    let readers = Visitors::of(bed.address("replica"), 2);
    for turn in 0..RELOADS {
        let odd = turn % 2 == 1;
        let mut specs = vec![stable()];
        specs.push(service("replica", Role::Replica, |spec| {
            spec.maxconn = if odd { 100 } else { 0 };
            spec.listen.extend(odd.then(|| at("127.0.0.2", 0)));
        }));
        specs.extend(odd.then(|| service("other", Role::Replica, |_| {})));
        bed.reload(specs);
        bed.publish(Some(&server), &[&server]);
        if odd {
            // The addresses that came are there at once.
            drop(Client(TcpStream::connect(bed.plane.addresses("replica")[1]).await.unwrap()));
            assert_eq!(bed.session("other").await.1, "a");
        }
        tokio::join!(writers.more(2), readers.more(2));
    }
    writers.leave().await;
    readers.leave().await;
    writer.echo(b"still here").await;
    reader.echo(b"still here").await;
    let snapshot = bed.snapshot("replica");
    let closed =
        |snapshot: &pgvane::decide::ServiceSnapshot| snapshot.closed.iter().all(|(r, _)| *r == Reason::ClientClosed);
    assert!(closed(&snapshot) && closed(&bed.snapshot("primary")), "{:?}", snapshot.closed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_service_tells_its_held_clients_and_keeps_its_sessions_under_its_fence() {
    let both = || vec![service("primary", Role::Primary, |_| {}), service("replica", Role::Replica, |_| {})];
    let bed = Bed::of("test", both());
    let server = Server::postgres("a").await;
    bed.publish(Some(&server), &[&server]);
    let (mut first, _) = bed.session("primary").await;
    let (mut second, _) = bed.session("primary").await;
    bed.publish(None, &[&server]);
    let mut held = bed.started("primary").await;
    bed.held(1).await;
    let address = bed.address("primary");
    bed.reload(vec![both().remove(1)]);
    let told = held.fatal().await;
    assert_eq!((told.code.as_str(), told.message.as_str()), ("57P03", "the service primary was removed"));
    until("its listener is closed", || std::net::TcpStream::connect(address).is_err()).await;
    bed.publish(None, &[&server]);
    first.echo(b"goes on").await;
    assert_eq!(bed.plane.registry().sessions("primary", "a"), 2);
    until("the held one has left", || bed.snapshot("primary").clients == 2).await;
    drop(first);
    until("one has left", || bed.plane.registry().sessions("primary", "a") == 1).await;
    // It comes back, with what it has counted.
    bed.reload(both());
    bed.publish(Some(&server), &[&server]);
    assert_eq!(bed.snapshot("primary").sessions_total, 2);
    assert_eq!(bed.refused("primary", Reason::ServiceRemoved), 1);
    assert_eq!(bed.session("primary").await.1, "a");
    // And goes again: who closes by a list does not know it any more.
    bed.reload(vec![both().remove(1)]);
    bed.publish(None, &[&server]);
    let (services, reason) = (Some(vec!["replica".into()]), Reason::MemberDown);
    bed.plane.execute(&pgvane::decide::Effect::CloseSessions { member: server.member(), services, reason });
    assert_eq!(second.fatal().await.code, "57P01");
    until("all cut", || bed.plane.registry().sessions_open() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_moves_to_another_service_keeps_its_socket() {
    let port = free_port();
    let old = service("old", Role::Primary, |spec| spec.listen = vec![at("127.0.0.1", port)]);
    // The only place is taken, so what comes now stays with the kernel.
    let full = service("old", Role::Primary, |spec| {
        spec.listen = vec![at("127.0.0.1", port)];
        spec.clients_max = 1;
    });
    let new = service("new", Role::Replica, |spec| spec.listen = vec![at("127.0.0.1", port)]);
    let bed = Bed::of("test", vec![full]);
    let (a, b) = (Server::postgres("a").await, Server::postgres("b").await);
    bed.publish(Some(&a), &[&b]);
    let (mut session, who) = bed.session("old").await;
    assert_eq!(who, "a");
    let mut waiting = bed.started("old").await;
    bed.reload(vec![new]);
    bed.publish(Some(&a), &[&b]);
    assert_eq!(waiting.greeting().await, "b", "it waited in the backlog of the same socket");
    assert_eq!(bed.session("new").await.1, "b");
    session.echo(b"x").await;
    bed.reload(vec![old]);
    bed.publish(Some(&a), &[&b]);
    assert_eq!(bed.session("old").await.1, "a");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_the_kernel_has_accepted_for_a_closing_listener_is_served() {
    let limited = |port: u16| {
        service("primary", Role::Primary, |spec| {
            spec.listen = vec![at("127.0.0.1", port)];
            spec.clients_max = 1;
        })
    };
    let bed = Bed::of("test", vec![limited(free_port())]);
    let server = Server::postgres("a").await;
    bed.publish(Some(&server), &[]);
    let (_first, _) = bed.session("primary").await;
    let mut waiting = Vec::new();
    for _ in 0..10 {
        waiting.push(bed.started("primary").await);
    }
    assert_eq!(bed.snapshot("primary").clients, 1);
    bed.reload(vec![limited(0)]);
    bed.publish(Some(&server), &[]);
    for client in &mut waiting {
        assert_eq!(client.greeting().await, "a");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_opened_changes_nothing_and_what_was_prepared_can_be_dropped() {
    let bed = Bed::of("test", vec![service("primary", Role::Primary, |_| {})]);
    let server = Server::postgres("a").await;
    bed.publish(Some(&server), &[]);
    let (taken, free) = (std::net::TcpListener::bind("127.0.0.1:0").unwrap(), free_port());
    let taken = taken.local_addr().map(|at| (at.port(), taken)).unwrap();
    let wanted = |port| {
        let listen = vec![at("127.0.0.1", free), at("127.0.0.1", port)];
        vec![service("primary", Role::Primary, |_| {}), service("b", Role::Replica, |spec| spec.listen = listen)]
    };
    let errors = bed.plane.prepare(&wanted(taken.0)).unwrap_err();
    assert_eq!(errors.len(), 1);
    assert!(
        errors[0].to_string().starts_with(&format!("service b: cannot listen on 127.0.0.1:{}: ", taken.0)),
        "{errors:?}"
    );
    drop(std::net::TcpListener::bind(("127.0.0.1", free)).expect("closed again"));
    let prepared = bed.plane.prepare(&wanted(0)).unwrap();
    assert!(std::net::TcpListener::bind(("127.0.0.1", free)).is_err(), "nobody else can have it meanwhile");
    drop(prepared);
    drop(std::net::TcpListener::bind(("127.0.0.1", free)).expect("closed again"));
    assert_eq!(bed.session("primary").await.1, "a");
    assert!(bed.plane.registry().service("b").is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_a_new_service_wait_for_a_table_that_has_it() {
    let bed = Bed::of("test", vec![service("replica", Role::Replica, |_| {})]);
    let server = Server::postgres("a").await;
    bed.publish(Some(&server), &[&server]);
    let services = vec![service("replica", Role::Replica, |_| {}), service("primary", Role::Primary, |_| {})];
    let prepared = bed.plane.prepare(&services).unwrap();
    bed.plane.apply(prepared, 10_000);
    let mut early = bed.started("primary").await;
    bed.held(1).await;
    // A table of the old configuration that was under way.
    bed.publish(Some(&server), &[&server]);
    bed.held(1).await;
    bed.reload(services);
    bed.publish(Some(&server), &[&server]);
    assert_eq!(early.greeting().await, "a");
}

/// One thread, so that whoever stands in the line has looked at the policy that it came under.
#[tokio::test]
async fn a_changed_policy_is_for_the_next_client() {
    let holding = |hold| vec![service("primary", Role::Primary, |spec| spec.hold = hold)];
    let bed = Bed::of("test", holding(HoldSpec::On { timeout: Some(LIMIT), max: 10 }));
    let server = Server::postgres("a").await;
    bed.publish(None, &[]);
    let mut held = bed.started("primary").await;
    bed.held(1).await;
    bed.reload(holding(HoldSpec::Off));
    bed.publish(None, &[]);
    assert_eq!(bed.started("primary").await.fatal().await.code, "57P03");
    until("counted", || bed.refused("primary", Reason::HoldOff) == 1).await;
    bed.publish(Some(&server), &[]);
    assert_eq!(held.greeting().await, "a");
}
