//! A plane on loopback, servers that speak enough PostgreSQL, and clients.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use pgvane::decide::{Effect, Report, Routes, ServiceRoutes, Target};
use pgvane::model::{HoldSpec, HostPort, MemberName, Reason, Role, ServiceSpec};
use pgvane::proxy::stats::ServiceSnapshot;
use pgvane::proxy::{Crew, Plane, pipes};
use pgvane::runtime::clock::now;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// Longer than anything here may take on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(20);

pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future).await.unwrap_or_else(|_| panic!("{what}: not within {LIMIT:?}"))
}

/// Asks again until it is so: a condition, not a pause.
pub async fn until(what: &str, condition: impl Fn() -> bool) {
    within(what, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

/// How bulk data goes in this run of the tests: PGVANE_TEST_SPLICE, `auto` without it.
fn splice_mode() -> pipes::Mode {
    match std::env::var("PGVANE_TEST_SPLICE").as_deref() {
        Ok("always") => pipes::Mode::Always,
        Ok("off") => pipes::Mode::Off,
        Ok("auto") | Err(_) => pipes::Mode::Auto,
        Ok(other) => panic!("PGVANE_TEST_SPLICE is auto, always or off, not {other}"),
    }
}

pub fn spec(name: &str, role: Role) -> ServiceSpec {
    ServiceSpec {
        listen: vec![HostPort::new("127.0.0.1", 0).into()],
        hold: HoldSpec::On { timeout: Some(LIMIT), max: 10_000 },
        startup_timeout: Duration::from_secs(10),
        ..ServiceSpec::new(name, role)
    }
}

pub struct Bed {
    pub plane: Plane,
    pub reports: mpsc::Receiver<Report>,
    specs: parking_lot::Mutex<Vec<Arc<ServiceSpec>>>,
    generation: AtomicU64,
}

impl Bed {
    pub fn new() -> Bed {
        Bed::with(|_| {})
    }

    /// Services `primary` and `replica`, changed as wanted.
    pub fn with(change: impl Fn(&mut ServiceSpec)) -> Bed {
        let make = |name, role| {
            let mut spec = spec(name, role);
            change(&mut spec);
            Arc::new(spec)
        };
        Bed::of("test", vec![make("primary", Role::Primary), make("replica", Role::Replica)])
    }

    /// Any services of a cluster of this name.
    pub fn of(cluster: &str, specs: Vec<Arc<ServiceSpec>>) -> Bed {
        // Thousands of sessions have four sockets each in this one process.
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
        pipes::set(splice_mode());
        let (sender, reports) = mpsc::channel(1000);
        let plane = Plane::start(Crew::here(), cluster.into(), &specs, sender, 10_000).unwrap();
        let bed = Bed { plane, reports, specs: specs.into(), generation: AtomicU64::new(0) };
        bed.confirm(Duration::from_secs(3600));
        bed
    }

    /// As a reload does it; the table is published by the caller.
    pub fn reload(&self, specs: Vec<Arc<ServiceSpec>>) {
        let prepared = self.plane.prepare(&specs).unwrap();
        self.plane.apply(prepared, 10_000);
        *self.specs.lock() = specs;
    }

    pub fn confirm(&self, lasting: Duration) {
        assert!(self.plane.execute(&Effect::Confirm { until: now() + lasting }));
    }

    /// A table with this leader and these replicas.
    pub fn publish(&self, leader: Option<&Server>, replicas: &[&Server]) {
        self.publish_targets(
            leader.map(|s| s.target(Role::Primary)).into_iter().collect(),
            replicas.iter().map(|s| s.target(Role::Replica)).collect(),
        );
    }

    pub fn publish_targets(&self, primary: Vec<Target>, replica: Vec<Target>) {
        let service = |spec: &Arc<ServiceSpec>, targets: Vec<Target>| ServiceRoutes {
            wait: targets.is_empty().then(|| (Reason::NoLeaderKey, now())),
            hold_limit: spec.hold.limit(Duration::from_secs(30)),
            cancel: targets.iter().map(|target| target.address.clone()).collect(),
            standings: Vec::new(),
            spec: spec.clone(),
            targets: targets.into_iter().map(Arc::new).collect(),
        };
        let of_role = |spec: &Arc<ServiceSpec>| match spec.role {
            Role::Primary => service(spec, primary.clone()),
            _ => service(spec, replica.clone()),
        };
        let services = self.specs.lock().iter().map(of_role).collect();
        let generation = self.generation.fetch_add(1, SeqCst) + 1;
        let routes = Arc::new(Routes { cluster: self.plane.registry().cluster.clone(), generation, services });
        assert!(self.plane.execute(&Effect::PublishRoutes(routes)));
    }

    pub fn close(&self, server: &Server, reason: Reason) {
        assert!(self.plane.execute(&Effect::CloseSessions { member: server.member(), services: None, reason }));
    }

    pub fn address(&self, service: &str) -> SocketAddr {
        self.plane.addresses(service)[0]
    }

    pub fn snapshot(&self, service: &str) -> ServiceSnapshot {
        self.plane.snapshot().into_iter().find(|s| &*s.service == service).unwrap()
    }

    pub fn refused(&self, service: &str, reason: Reason) -> u64 {
        self.snapshot(service).refused.iter().find(|(r, _)| *r == reason).map_or(0, |(_, n)| *n)
    }

    pub async fn held(&self, count: usize) {
        until("clients held", || self.snapshot("primary").held == count).await;
    }

    pub async fn client(&self, service: &str) -> Client {
        Client(TcpStream::connect(self.address(service)).await.unwrap())
    }

    /// A client that has sent its StartupMessage.
    pub async fn started(&self, service: &str) -> Client {
        let mut client = self.client(service).await;
        client.send(&startup()).await;
        client
    }

    /// The same by an address of one's own choice.
    pub async fn session_at(&self, address: impl tokio::net::ToSocketAddrs) -> (Client, String) {
        let mut client = Client(TcpStream::connect(address).await.unwrap());
        client.send(&startup()).await;
        let who = client.greeting().await;
        (client, who)
    }

    /// A client with an open session, and who serves it.
    pub async fn session(&self, service: &str) -> (Client, String) {
        let mut client = self.started(service).await;
        let who = client.greeting().await;
        (client, who)
    }
}

/// A port where nobody listens, kept from all that leave the choice to the kernel until this process
/// ends. Whoever allows reuse, as listeners do, may have it.
pub fn free_port() -> u16 {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([0, 0, 0, 0], 0)).into()).unwrap();
    // Only now: the kernel must not have chosen one that is kept already.
    socket.set_reuse_address(true).unwrap();
    let port = socket.local_addr().unwrap().as_socket().unwrap().port();
    std::mem::forget(socket);
    port
}

pub fn startup() -> Vec<u8> {
    let mut bytes = vec![0, 0, 0, 24, 0, 3, 0, 0];
    bytes.extend(b"user\0postgres\0\0\0");
    bytes[3] = bytes.len() as u8;
    bytes
}

pub const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
pub const GSSENC_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x30];
pub const CANCEL_REQUEST: [u8; 16] = [0, 0, 0, 16, 0x04, 0xd2, 0x16, 0x2e, 0, 0, 0, 42, 1, 2, 3, 4];

pub struct Client(pub TcpStream);

impl Client {
    pub async fn send(&mut self, bytes: &[u8]) {
        within("send", self.0.write_all(bytes)).await.unwrap();
    }

    pub async fn expect(&mut self, bytes: &[u8]) {
        let mut got = vec![0; bytes.len()];
        within("read", self.0.read_exact(&mut got)).await.unwrap();
        assert_eq!(got, bytes);
    }

    pub async fn echo(&mut self, bytes: &[u8]) {
        self.send(bytes).await;
        self.expect(bytes).await;
    }

    pub async fn message(&mut self) -> (u8, Vec<u8>) {
        let kind = within("message", self.0.read_u8()).await.unwrap();
        let length = within("length", self.0.read_u32()).await.unwrap() as usize;
        let mut body = vec![0; length - 4];
        within("body", self.0.read_exact(&mut body)).await.unwrap();
        (kind, body)
    }

    /// AuthenticationOk, who it is, ReadyForQuery.
    pub async fn greeting(&mut self) -> String {
        assert_eq!(self.message().await, (b'R', vec![0; 4]));
        let (kind, who) = self.message().await;
        assert_eq!(kind, b'S');
        assert_eq!(self.message().await, (b'Z', b"I".to_vec()));
        String::from_utf8(who).unwrap()
    }

    /// The fields of a FATAL, after which the connection is closed.
    pub async fn fatal(&mut self) -> Fatal {
        let (kind, body) = self.message().await;
        assert_eq!(kind, b'E');
        let field = |tag: u8| {
            let field = body.split(|b| *b == 0).find(|f| f.first() == Some(&tag));
            String::from_utf8(field.map_or(Vec::new(), |f| f[1..].to_vec())).unwrap()
        };
        assert_eq!((field(b'S'), field(b'V')), ("FATAL".into(), "FATAL".into()));
        assert!(body.ends_with(b"\0\0"));
        self.end().await;
        Fatal { code: field(b'C'), message: field(b'M'), detail: field(b'D') }
    }

    /// EOF, and not one byte before it.
    pub async fn end(&mut self) {
        let mut rest = Vec::new();
        within("end", self.0.read_to_end(&mut rest)).await.unwrap();
        assert_eq!(rest, b"");
    }
}

#[derive(Debug)]
pub struct Fatal {
    pub code: String,
    pub message: String,
    pub detail: String,
}

/// What all connections of a server share.
#[derive(Default)]
pub struct Seen {
    pub accepted: AtomicUsize,
    pub open: AtomicUsize,
    pub bytes: AtomicU64,
    pub resets: AtomicUsize,
    pub first: parking_lot::Mutex<Vec<Vec<u8>>>,
}

pub struct Server {
    pub name: &'static str,
    pub address: SocketAddr,
    pub seen: Arc<Seen>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// Runs `serve` for every connection.
    pub async fn start<F>(name: &'static str, serve: impl Fn(TcpStream, Arc<Seen>) -> F + Send + 'static) -> Server
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Seen::default());
        let shared = seen.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // As PostgreSQL does (src/backend/libpq/pqcomm.c, `pq_init`).
                stream.set_nodelay(true).unwrap();
                shared.accepted.fetch_add(1, SeqCst);
                shared.open.fetch_add(1, SeqCst);
                let (served, seen) = (serve(stream, shared.clone()), shared.clone());
                tokio::spawn(async move {
                    served.await;
                    seen.open.fetch_sub(1, SeqCst);
                });
            }
        });
        Server { name, address, seen, task }
    }

    /// Says no to encryption, lets everybody in, echoes.
    pub async fn postgres(name: &'static str) -> Server {
        Server::start(name, move |stream, seen| postgres(stream, seen, name)).await
    }

    pub fn member(&self) -> MemberName {
        self.name.into()
    }

    pub fn target(&self, role: Role) -> Target {
        Target {
            member: self.member(),
            address: HostPort::new(self.address.ip().to_string(), self.address.port()),
            role,
            needs_confirmation: role == Role::Primary,
            weight: 100,
            risen_at: None,
        }
    }

    pub fn accepted(&self) -> usize {
        self.seen.accepted.load(SeqCst)
    }

    pub fn open(&self) -> usize {
        self.seen.open.load(SeqCst)
    }
}

pub async fn read_packet(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut bytes = vec![0; 4];
    stream.read_exact(&mut bytes).await.ok()?;
    let length = u32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize;
    bytes.resize(length, 0);
    stream.read_exact(&mut bytes[4..]).await.ok()?;
    Some(bytes)
}

pub fn greeting(name: &str) -> Vec<u8> {
    let mut bytes = b"R\0\0\0\x08\0\0\0\0S".to_vec();
    bytes.extend((name.len() as u32 + 4).to_be_bytes());
    bytes.extend(name.bytes());
    bytes.extend(b"Z\0\0\0\x05I");
    bytes
}

pub async fn postgres(mut stream: TcpStream, seen: Arc<Seen>, name: &str) {
    loop {
        let Some(packet) = read_packet(&mut stream).await else { return };
        seen.first.lock().push(packet.clone());
        if packet == SSL_REQUEST || packet == GSSENC_REQUEST {
            let _ = stream.write_all(b"N").await;
        } else if packet == CANCEL_REQUEST {
            return;
        } else {
            break;
        }
    }
    let _ = stream.write_all(&greeting(name)).await;
    echo(stream, seen).await;
}

/// Echoes until EOF, then says goodbye.
pub async fn echo(mut stream: TcpStream, seen: Arc<Seen>) {
    if echo_until_eof(&mut stream, &seen).await.is_err_and(|error| {
        // Whoever writes into a reset connection may hear of it either way.
        matches!(error.kind(), std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe)
    }) {
        seen.resets.fetch_add(1, SeqCst);
    }
}

async fn echo_until_eof(stream: &mut TcpStream, seen: &Seen) -> std::io::Result<()> {
    let mut chunk = vec![0; 65536];
    loop {
        let n = stream.read(&mut chunk).await?;
        if n == 0 {
            return stream.write_all(b"bye").await;
        }
        seen.bytes.fetch_add(n as u64, SeqCst);
        stream.write_all(&chunk[..n]).await?;
    }
}

pub fn elapsed(since: Instant) -> Duration {
    now().saturating_duration_since(since)
}
