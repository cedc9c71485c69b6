//! Whom a listener lets in, how many of them in a second, and what it does when the machine has nothing left.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit};
use pgvane::model::{HostPort, ListenAddress, Reason, Role, ServiceSpec, SessionLog};
use pgvane::runtime::clock::now;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};

use crate::bed::*;
use crate::captured::Lines;

const LISTEN: &str = "pgvane::listen";

fn primary(change: impl FnOnce(&mut ServiceSpec)) -> Vec<Arc<ServiceSpec>> {
    let mut spec = spec("primary", Role::Primary);
    change(&mut spec);
    vec![Arc::new(spec)]
}

fn allowing(networks: &[&str]) -> impl Fn(&mut ServiceSpec) {
    let allow: Vec<_> = networks.iter().map(|network| network.parse().unwrap()).collect();
    move |spec| spec.allow = allow.clone()
}

/// A client whose address is this one of loopback's.
async fn from(ip: &str, to: SocketAddr) -> Client {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(ip.parse().unwrap(), 0)).unwrap();
    Client(within("connect", socket.connect(to)).await.unwrap())
}

async fn started_from(ip: &str, to: SocketAddr) -> Client {
    let mut client = from(ip, to).await;
    client.send(&startup()).await;
    client
}

#[tokio::test]
async fn a_stranger_is_closed_without_a_word_and_takes_nobodys_place() {
    let (lines, _guard) = Lines::capture();
    let bed = Bed::of(
        "pg-test",
        primary(|spec| {
            allowing(&["127.0.0.1/32", "10.0.0.0/8"])(spec);
            (spec.clients_max, spec.session_log) = (1, SessionLog::Errors);
        }),
    );
    let server = Server::postgres("a").await;
    bed.publish(Some(&server), &[]);
    let at = bed.address("primary");
    let mut strangers = Vec::new();
    for _ in 0..3 {
        let mut stranger = from("127.0.0.2", at).await;
        stranger.end().await;
        // It has been closed, and does not close itself.
        strangers.push(stranger);
    }
    let mut client = started_from("127.0.0.1", at).await;
    assert_eq!(client.greeting().await, "a");
    let snapshot = bed.snapshot("primary");
    assert_eq!((snapshot.clients, snapshot.clients_most, snapshot.clients_total), (1, 1, 1));
    assert_eq!(snapshot.refused, [(Reason::NotAllowed, 3)]);
    let line = lines.next_of("pgvane::session", 3).await;
    assert_eq!((&line["reason"], &line["termination_state"]), (&"not_allowed".into(), &"PR".into()));
    let warned = lines.next_of(LISTEN, 1).await;
    assert!(warned["message"].as_str().unwrap().contains("not on the allow list"), "{warned}");
    assert!(warned["client"].as_str().unwrap().starts_with("127.0.0.2:"), "{warned}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_changes_whom_the_next_accept_lets_in() {
    let listen = HostPort::new("127.0.0.1", free_port());
    let with = |networks: &[&str]| {
        let (listen, allow) = (listen.clone(), allowing(networks));
        primary(move |spec| {
            spec.listen = vec![listen.into()];
            allow(spec);
        })
    };
    let bed = Bed::of("test", with(&["192.0.2.0/24"]));
    let server = Server::postgres("a").await;
    bed.publish(Some(&server), &[]);
    bed.client("primary").await.end().await;
    bed.reload(with(&["127.0.0.0/8"]));
    bed.publish(Some(&server), &[]);
    let (mut client, _) = bed.session("primary").await;
    bed.reload(with(&["192.0.2.0/24"]));
    bed.publish(Some(&server), &[]);
    bed.client("primary").await.end().await;
    client.echo(b"whoever is in stays").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ipv4_client_is_one_by_any_socket_and_a_unix_client_is_always_welcome() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let bed = Bed::of(
        "test",
        primary(|spec| {
            spec.listen = vec![HostPort::new("*", 0).into(), ListenAddress::Unix(path.clone())];
            allowing(&["127.0.0.1/32"])(spec);
        }),
    );
    let server = Server::postgres("a").await;
    bed.publish(Some(&server), &[]);
    let at = SocketAddr::from(([127, 0, 0, 1], bed.address("primary").port()));
    assert_eq!(started_from("127.0.0.1", at).await.greeting().await, "a");
    from("127.0.0.2", at).await.end().await;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    socket.connect(&SockAddr::unix(&path).unwrap()).unwrap();
    socket.set_nonblocking(true).unwrap();
    let mut local = Client(TcpStream::from_std(socket.into()).unwrap());
    local.send(&startup()).await;
    assert_eq!(local.greeting().await, "a");
}

fn busy_time() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    let of = |time: nix::sys::time::TimeVal| Duration::from_micros((time.tv_sec() * 1_000_000 + time.tv_usec()) as u64);
    of(usage.user_time()) + of(usage.system_time())
}

/// Three at once by two listeners, three a second later, and so on: nobody is told anything.
#[tokio::test]
async fn more_than_rate_max_wait_in_the_backlog() {
    const MAX: usize = 3;
    let (lines, _guard) = Lines::capture();
    let bed = Bed::of(
        "test",
        primary(|spec| {
            spec.rate.max = MAX as u32;
            spec.listen.push(HostPort::new("127.0.0.1", 0).into());
        }),
    );
    let server = Server::postgres("a").await;
    bed.publish(Some(&server), &[]);
    let addresses = bed.plane.addresses("primary");
    let (began, idle) = (now(), busy_time());
    let mut clients = Vec::new();
    for index in 0..3 * MAX {
        clients.push(started_from("127.0.0.1", addresses[index % 2]).await);
    }
    let mut greeted = Vec::new();
    for client in &mut clients {
        assert_eq!(client.greeting().await, "a");
        greeted.push(elapsed(began));
    }
    let busy = busy_time().saturating_sub(idle);
    greeted.sort();
    // Clients of the second listener may be asked for later than they were served.
    assert!(greeted[3 * MAX - 1] >= Duration::from_secs(2), "{greeted:?}");
    assert!(busy < Duration::from_millis(600), "{busy:?} of 2 s is no waiting");
    assert_eq!((bed.snapshot("primary").clients_total, server.accepted()), (9, 9));
    let warned = lines.of(LISTEN);
    assert!((1..=2).contains(&warned.len()), "one of each listener: {warned:#?}");
    assert!(warned.iter().all(|line| line["max"] == MAX && line["message"].as_str().unwrap().contains("rate.max")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pace_that_a_reload_lifts_holds_nobody_up() {
    let listen = HostPort::new("127.0.0.1", free_port());
    let with = |max| {
        primary(|spec| {
            spec.listen = vec![listen.clone().into()];
            spec.rate.max = max;
        })
    };
    let bed = Bed::of("test", with(1));
    let server = Server::postgres("a").await;
    bed.publish(Some(&server), &[]);
    let mut clients = Vec::new();
    for _ in 0..100 {
        clients.push(bed.started("primary").await);
    }
    until("one is in", || server.accepted() >= 1).await;
    bed.reload(with(0));
    bed.publish(Some(&server), &[]);
    // At one a second they would take longer than anything here may.
    for client in &mut clients {
        client.greeting().await;
    }
}

fn twice_a_second() -> Bed {
    Bed::of("test", primary(|spec| spec.rate.per_client_max = 2))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_comes_too_often_is_told() {
    let bed = twice_a_second();
    let server = Server::postgres("a").await;
    bed.publish(Some(&server), &[]);
    let at = bed.address("primary");
    let mut clients = Vec::new();
    for ip in ["127.0.0.1", "127.0.0.2"] {
        // On a busy machine there may be a second between any two of them.
        let told = within("the limit", async {
            loop {
                let mut client = started_from(ip, at).await;
                let (kind, body) = client.message().await;
                if kind == b'E' {
                    client.end().await;
                    return String::from_utf8(body).unwrap();
                }
                clients.push(client);
            }
        })
        .await;
        for wanted in
            ["SFATAL\0", "C53300\0", &format!("Mtoo many connections from {ip}\0"), "per_client_max 2 a second"]
        {
            assert!(told.contains(wanted), "{told:?}");
        }
        assert!(clients.len() >= 2, "an address of its own has a share of its own");
    }
    let accepted = server.accepted();
    assert_eq!(accepted, clients.len(), "no server has seen the others");
    until("both are counted", || bed.refused("primary", Reason::RateLimited) == 2).await;
    let welcome = within("its next second", async {
        while started_from("127.0.0.1", at).await.message().await.0 != b'R' {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    welcome.await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_is_told_after_the_dance_and_cancels_have_their_own() {
    let bed = twice_a_second();
    let server = Server::postgres("a").await;
    bed.publish(Some(&server), &[]);
    within("the limit", async {
        loop {
            let mut client = bed.client("primary").await;
            client.send(&SSL_REQUEST).await;
            client.expect(b"N").await;
            client.send(&startup()).await;
            if client.message().await.0 == b'E' {
                return client.end().await;
            }
        }
    })
    .await;
    for _ in 0..5 {
        let mut client = bed.client("primary").await;
        client.send(&CANCEL_REQUEST).await;
        client.end().await;
    }
    let arrived = server.seen.first.lock().iter().filter(|packet| **packet == CANCEL_REQUEST).count();
    assert_eq!((arrived, bed.snapshot("primary").cancels_total), (5, 5));
}

/// As many sockets as this process may still open, so that the next one fails.
fn use_up_descriptors() -> Vec<std::fs::File> {
    let mut kept = Vec::new();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        kept.push(file);
    }
    kept
}

fn limit_descriptors(soft: u64) {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
}

/// Alone in its process, as nextest runs every test.
#[tokio::test]
async fn without_descriptors_listeners_pause_and_sessions_go_on() {
    let (lines, _guard) = Lines::capture();
    let bed = Bed::of("test", primary(|_| {}));
    let server = Server::postgres("a").await;
    bed.publish(Some(&server), &[]);
    let (mut session, _) = bed.session("primary").await;
    // The client's own end, made while there are descriptors.
    let socket = TcpSocket::new_v4().unwrap();
    limit_descriptors(200);
    let kept = use_up_descriptors();
    let mut waiting = Client(within("the kernel accepts", socket.connect(bed.address("primary"))).await.unwrap());
    waiting.send(&startup()).await;
    let warned = lines.next_of(LISTEN, 1).await;
    let message = warned["message"].as_str().unwrap();
    assert!(message.contains("accepting pauses") && message.contains("file descriptors"), "{warned}");
    for _ in 0..5 {
        session.echo(b"sessions go on").await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(lines.of(LISTEN).len(), 1, "said once");
    assert_eq!(bed.snapshot("primary").clients, 1);
    drop(kept);
    assert_eq!(waiting.greeting().await, "a", "whoever waited is served");
    waiting.echo(b"x").await;
}

/// The client is in, and there is no descriptor for its server: it is told, and no member is blamed.
#[tokio::test]
async fn a_client_without_a_descriptor_for_its_server_is_told() {
    let mut bed = Bed::of("test", primary(|_| {}));
    let server = Server::postgres("a").await;
    bed.publish(Some(&server), &[]);
    let mut client = bed.client("primary").await;
    until("accepted", || bed.snapshot("primary").clients == 1).await;
    limit_descriptors(200);
    let kept = use_up_descriptors();
    client.send(&startup()).await;
    let told = client.fatal().await;
    drop((kept, client));
    assert_eq!((told.code.as_str(), told.message.as_str()), ("53300", "too many connections"));
    assert!(told.detail.contains("out of file descriptors"), "{told:?}");
    until("counted", || bed.refused("primary", Reason::NoDescriptors) == 1).await;
    assert!(bed.reports.try_recv().is_err(), "it says nothing about the member");
    assert_eq!(bed.session("primary").await.1, "a");
}
