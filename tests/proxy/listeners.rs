//! Ways to come in: Unix sockets, address families, addresses of the future, and no more than may.

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use pgvane::model::{HostPort, ListenAddress, Reason, Role, ServiceSpec};
use pgvane::proxy::{Crew, Plane};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::bed::*;

fn on(listen: Vec<ListenAddress>) -> Vec<Arc<ServiceSpec>> {
    let mut spec = spec("primary", Role::Primary);
    spec.listen = listen;
    vec![Arc::new(spec)]
}

fn unix(path: &Path) -> ListenAddress {
    ListenAddress::Unix(path.to_owned())
}

fn refusal(listen: ListenAddress) -> String {
    let errors = Plane::start(Crew::here(), "test".into(), &on(vec![listen]), mpsc::channel(1).0, 10).unwrap_err();
    assert_eq!(errors.len(), 1);
    errors[0].to_string()
}

async fn connect(path: &Path) -> std::io::Result<Client> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.connect(&SockAddr::unix(path)?)?;
    socket.set_nonblocking(true)?;
    Ok(Client(TcpStream::from_std(socket.into())?))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unix_socket_serves_like_any_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(".s.PGSQL.5433");
    let bed = Bed::of("test", on(vec![unix(&path), HostPort::new("127.0.0.1", 0).into()]));
    let server = Server::postgres("a").await;
    bed.publish(Some(&server), &[]);
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o777);
    let mut client = connect(&path).await.unwrap();
    client.send(&SSL_REQUEST).await;
    client.expect(b"N").await;
    client.send(&startup()).await;
    assert_eq!(client.greeting().await, "a");
    let big = vec![7; 1_000_000];
    let (mut reader, mut writer) = client.0.split();
    let mut back = vec![0; big.len()];
    let copied = async {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        tokio::try_join!(writer.write_all(&big), reader.read_exact(&mut back))
    };
    within("bulk", copied).await.unwrap();
    assert!(back == big);
    // Cut like one over TCP, and told like one.
    bed.publish(None, &[]);
    bed.close(&server, Reason::LeaderMoved);
    client.end().await;
    until("the server was reset", || server.seen.resets.load(std::sync::atomic::Ordering::SeqCst) == 1).await;
    let mut held = connect(&path).await.unwrap();
    held.send(&startup()).await;
    bed.held(1).await;
    bed.plane.stop_accepting();
    assert_eq!(held.fatal().await.code, "57P03");
    assert!(!path.exists(), "its file is gone");
    until("nothing is left behind", || folder.path().read_dir().unwrap().count() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_socket_is_replaced_and_nothing_else_is() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    drop(std::os::unix::net::UnixListener::bind(at("stale")).unwrap());
    let stale = at("stale").metadata().unwrap().ino();
    let bed = Bed::of("test", on(vec![unix(&at("stale"))]));
    assert_ne!(at("stale").metadata().unwrap().ino(), stale);
    drop(connect(&at("stale")).await.unwrap());

    std::fs::write(at("file"), "precious").unwrap();
    let text = refusal(unix(&at("file")));
    assert!(text.contains("there is a file that is not a socket; move it away"), "{text}");
    assert_eq!(std::fs::read_to_string(at("file")).unwrap(), "precious");

    let other = std::os::unix::net::UnixListener::bind(at("alive")).unwrap();
    let text = refusal(unix(&at("alive")));
    assert!(text.contains("another process listens there; `ss -lxp` names it"), "{text}");
    drop(other);

    let text = refusal(unix(&at("missing").join("socket")));
    assert!(text.contains("the directory must exist"), "{text}");
    let text = refusal(unix(&at(&"x".repeat(108))));
    assert!(text.contains("too long") && text.contains("107 bytes"), "{text}");

    // Whoever has taken the path meanwhile keeps it.
    std::fs::remove_file(at("stale")).unwrap();
    let _heir = std::os::unix::net::UnixListener::bind(at("stale")).unwrap();
    bed.plane.stop_accepting();
    within("drained", bed.plane.drain(LIMIT)).await;
    assert!(at("stale").metadata().unwrap().file_type().is_socket());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_keeps_a_unix_socket_and_hides_a_new_one_until_it_is_applied() {
    let folder = tempfile::tempdir().unwrap();
    let (kept, new) = (folder.path().join("kept"), folder.path().join("new"));
    let bed = Bed::of("test", on(vec![unix(&kept)]));
    let server = Server::postgres("a").await;
    bed.publish(Some(&server), &[]);
    let inode = kept.metadata().unwrap().ino();
    let both = on(vec![unix(&kept), unix(&new)]);
    drop(bed.plane.prepare(&both).unwrap());
    assert_eq!(folder.path().read_dir().unwrap().count(), 1, "undone");
    let prepared = bed.plane.prepare(&both).unwrap();
    assert!(!new.exists());
    bed.plane.apply(prepared, 100);
    for path in [&kept, &new] {
        let mut client = connect(path).await.unwrap();
        client.send(&startup()).await;
        assert_eq!(client.greeting().await, "a");
    }
    bed.reload(on(vec![unix(&kept)]));
    assert!(!new.exists());
    assert_eq!(kept.metadata().unwrap().ino(), inode);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn colons_are_ipv6_alone() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        return; // This machine has no IPv6.
    }
    // The other family's port is another program's.
    let other = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = other.local_addr().unwrap().port();
    let bed = Bed::of("test", on(vec![HostPort::new("::", port).into()]));
    let server = Server::postgres("a").await;
    bed.publish(Some(&server), &[]);
    assert_eq!(bed.session_at(("::1", port)).await.1, "a");
    let text = refusal(HostPort::new("*", port).into());
    assert!(text.contains("EADDRINUSE"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_is_yet_to_come_wants_freebind() {
    let tomorrow = HostPort::new("203.0.113.77", 0);
    let text = refusal(tomorrow.clone().into());
    assert!(text.contains("EADDRNOTAVAIL") && text.contains("`freebind: true`"), "{text}");
    let mut spec = spec("primary", Role::Primary);
    (spec.freebind, spec.listen) = (true, vec![tomorrow.into(), HostPort::new("2001:db8::77", 0).into()]);
    let bed = Bed::of("test", vec![Arc::new(spec)]);
    assert_eq!(bed.plane.addresses("primary").len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_clients_than_may_over_all_listeners_of_a_service() {
    let limited = |clients_max| {
        let mut spec = ServiceSpec { clients_max, ..spec("primary", Role::Primary) };
        spec.listen.push(HostPort::new("127.0.0.1", 0).into());
        vec![Arc::new(spec)]
    };
    let bed = Bed::of("test", limited(2));
    let server = Server::postgres("a").await;
    bed.publish(Some(&server), &[]);
    let addresses = bed.plane.addresses("primary");
    let come = async |index: usize| {
        let mut client = Client(TcpStream::connect(addresses[index % 2]).await.unwrap());
        client.send(&startup()).await;
        client
    };
    let mut clients = Vec::new();
    for index in 0..20 {
        clients.push(come(index).await);
    }
    let served = |count| {
        let server = &server;
        move || server.accepted() == count
    };
    until("two are served", served(2)).await;
    // One that leaves makes room for one. Which is which, only the kernel knows.
    for gone in 1..=3 {
        let open = clients.iter().position(|client| client.0.try_read(&mut [0; 64]).is_ok()).expect("one is served");
        drop(clients.remove(open));
        until("the next one", served(2 + gone)).await;
        until("and is answered", || bed.snapshot("primary").sessions_total == 2 + gone as u64).await;
        until("and only that", || bed.snapshot("primary").clients == 2).await;
    }
    let snapshot = bed.snapshot("primary");
    assert_eq!((snapshot.clients_most, snapshot.clients_total), (2, 5));
    bed.reload(limited(10));
    bed.publish(Some(&server), &[]);
    until("more are served", served(5 + 8)).await;
    bed.reload(limited(0));
    bed.publish(Some(&server), &[]);
    until("all are served", served(20)).await;
    assert_eq!(bed.snapshot("primary").clients_most, 17);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_target_has_its_own_counts() {
    let bed = Bed::new();
    let (a, b) = (Server::postgres("a").await, Server::postgres("b").await);
    bed.publish(None, &[&a]);
    let (mut first, _) = bed.session("replica").await;
    let (second, _) = bed.session("replica").await;
    first.echo(b"12345").await;
    drop(second);
    until("left", || bed.plane.registry().sessions("replica", "a") == 1).await;
    bed.publish(None, &[&b]);
    bed.session("replica").await.0.echo(b"123").await;
    let mut gone = b.target(Role::Replica);
    (gone.member, gone.address) = ("c".into(), HostPort::new("127.0.0.1", free_port()));
    bed.publish_targets(Vec::new(), vec![gone]);
    bed.started("replica").await.fatal().await;
    let hello = greeting("a").len() as u64;
    // A byte is counted just after it has been passed on; the second one's goodbye may find nobody.
    let counted = |snapshot: &pgvane::decide::ServiceSnapshot| {
        let [of_a, of_b, of_c] = &snapshot.targets[..] else { return false };
        let of_a = (of_a.bytes_to_client >= 2 * hello + 5).then_some((
            of_a.sessions,
            of_a.sessions_most,
            of_a.sessions_total,
            of_a.bytes_to_server,
        ));
        of_a == Some((1, 2, 2, 5))
            && (of_b.sessions_total, of_b.bytes_to_server) == (1, 3)
            && (of_c.sessions_total, of_c.connects_failed > 0) == (0, true)
            && (snapshot.bytes_to_server, snapshot.sessions_total) == (8, 3)
    };
    until("all is counted", || counted(&bed.snapshot("replica"))).await;
}
