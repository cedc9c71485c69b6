//! `*` becomes one address, and one address `*`, while clients connect.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use pgvane::model::{HostPort, Role, ServiceSpec};
use socket2::{Domain, Socket, Type};
use tokio::net::TcpStream;

use crate::bed::*;

fn on(host: &str, port: u16) -> Vec<Arc<ServiceSpec>> {
    let mut spec = spec("primary", Role::Primary);
    spec.listen = vec![HostPort::new(host, port).into()];
    vec![Arc::new(spec)]
}

/// Whether another program of this user could listen there, too.
fn can_join(address: SocketAddr, reuse_port: bool) -> bool {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.set_reuse_port(reuse_port).unwrap();
    match socket.bind(&address.into()).and_then(|()| socket.listen(1)) {
        Ok(()) => true,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::AddrInUse);
            false
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wildcard_and_one_of_its_addresses_take_turns_and_nobody_is_refused() {
    const TURNS: usize = 12;
    let has_ipv6 = std::net::TcpListener::bind("[::1]:0").is_ok();
    let port = free_port();
    let bed = Bed::of("test", on("*", port));
    let server = Server::postgres("a").await;
    bed.publish(Some(&server), &[]);
    let (mut session, _) = bed.session_at(("127.0.0.1", port)).await;
    let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (stop, served) = (stop.clone(), served.clone());
            tokio::spawn(async move {
                while !stop.load(SeqCst) {
                    let mut client = Client(TcpStream::connect(("127.0.0.1", port)).await.expect("refused"));
                    client.send(&startup()).await;
                    client.greeting().await;
                    served.fetch_add(1, SeqCst);
                }
            })
        })
        .collect();
    for turn in 1..=TURNS {
        let host = if turn % 2 == 1 { "127.0.0.1" } else { "*" };
        bed.reload(on(host, port));
        let address = bed.address("primary");
        assert!(!can_join(address, false), "a second router must get EADDRINUSE");
        let before = served.load(SeqCst);
        until("clients are served", || served.load(SeqCst) > before + 20).await;
        if host != "*" {
            let elsewhere = ("127.0.0.2", port);
            within("the wildcard is closed", async { while TcpStream::connect(elsewhere).await.is_ok() {} }).await;
        }
        // Without IPv6 the kernel cannot be made to forget that a wildcard was shared.
        if host != "*" || has_ipv6 {
            until("nobody can join", || !can_join(address, true)).await;
        }
    }
    stop.store(true, SeqCst);
    for client in clients {
        within("the last client", client).await.unwrap();
    }
    session.echo(b"still here").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_moves_from_one_cluster_to_another() {
    let port = free_port();
    let (old, new) = (Bed::of("old", on("127.0.0.1", port)), Bed::of("new", on("127.0.0.1", 0)));
    let (a, b) = (Server::postgres("a").await, Server::postgres("b").await);
    old.publish(Some(&a), &[]);
    new.publish(Some(&b), &[]);
    let (mut session, _) = old.session("primary").await;
    let (to_new, to_old) = (new.plane.prepare(&on("127.0.0.1", port)), old.plane.prepare(&[]));
    assert_eq!(old.session("primary").await.1, "a", "preparing changes nothing");
    new.plane.apply(to_new.unwrap(), 100);
    old.plane.apply(to_old.unwrap(), 100);
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    until("the old socket is gone", || old.plane.connections_open() == 1 && !can_join(address, true)).await;
    for _ in 0..10 {
        assert_eq!(new.session_at(("127.0.0.1", port)).await.1, "b");
    }
    session.echo(b"still here").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stays_is_not_shared_with_what_comes() {
    let port = free_port();
    let bed = Bed::of("test", on("*", port));
    let mut both = on("*", port);
    let mut other = ServiceSpec::clone(&spec("other", Role::Replica));
    other.listen = vec![HostPort::new("127.0.0.1", port).into()];
    both.push(Arc::new(other));
    let errors = bed.plane.prepare(&both).unwrap_err();
    assert!(errors[0].to_string().contains("EADDRINUSE"), "{errors:?}");
}
