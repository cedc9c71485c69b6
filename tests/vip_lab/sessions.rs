//! Clients that come in by the address, and servers behind it that speak enough PostgreSQL.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener as StdListener, TcpStream as StdStream};
use std::time::{Duration, Instant};

use pgvane::runtime::clock;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::namespaces::Network;

/// Where the routers of this bed let writers in.
pub const ROUTER: u16 = 6432;
const POSTGRES: u16 = 5432;
/// Longer than any situation lasts.
const LISTENS_MAX: Duration = Duration::from_secs(60);
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Protocol 3.0, of the user `lab`.
const STARTUP: &[u8] = b"\0\0\0\x12\0\x03\0\0user\0lab\0\0";

/// Listening ports that let everybody in.
#[derive(Debug, Default)]
pub struct Servers(JoinSet<()>);

impl Servers {
    /// PostgreSQLs that let every user in and answer nothing more.
    pub fn start(network: &Network, hosts: &[&str]) -> Servers {
        let mut servers = Servers::default();
        for host in hosts {
            let listener = listener(network, host, POSTGRES);
            servers.0.spawn(accept(listener, true));
        }
        servers
    }

    /// One that says nothing.
    pub fn silent(network: &Network, host: &str, port: u16) -> Servers {
        let mut servers = Servers::default();
        servers.0.spawn(accept(listener(network, host, port), false));
        servers
    }
}

fn listener(network: &Network, host: &str, port: u16) -> TcpListener {
    let listener = network.inside(host, || StdListener::bind(("0.0.0.0", port))).expect("a port of our own host");
    listener.set_nonblocking(true).expect("a non-blocking socket");
    TcpListener::from_std(listener).expect("a listener")
}

async fn accept(listener: TcpListener, is_postgres: bool) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(async move { drop(serve(stream, is_postgres).await) });
    }
}

async fn serve(mut stream: TcpStream, is_postgres: bool) -> io::Result<()> {
    if is_postgres {
        let length = stream.read_u32().await? as usize;
        stream.read_exact(&mut vec![0; length.saturating_sub(4)]).await?;
        stream.write_all(b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I").await?;
    }
    while stream.read(&mut [0; 1024]).await? > 0 {}
    Ok(())
}

/// What a client heard, and how it ended.
#[derive(Debug, Default)]
pub struct Heard {
    /// ReadyForQuery: it has a session.
    pub ready_at: Option<Instant>,
    pub ended_at: Option<Instant>,
    /// Of the last error.
    pub sqlstate: Option<String>,
    pub was_reset: bool,
}

/// A client on `host` that asks for a session, or for nothing, and listens to the end. One that cannot connect
/// hears nothing, and has no end.
pub fn connect(network: &Network, host: &str, ip: IpAddr, port: u16) -> JoinHandle<Heard> {
    let at = SocketAddr::from((ip, port));
    let connected = network.inside(host, || StdStream::connect_timeout(&at, CONNECT_MAX));
    tokio::task::spawn_blocking(move || connected.and_then(|stream| listen(stream, port)).unwrap_or_default())
}

fn listen(mut stream: StdStream, port: u16) -> io::Result<Heard> {
    stream.set_read_timeout(Some(LISTENS_MAX))?;
    if port == ROUTER {
        stream.write_all(STARTUP)?;
    }
    let mut heard = Heard::default();
    let end = loop {
        match message(&mut stream) {
            Ok((b'Z', _)) => heard.ready_at = Some(clock::now()),
            Ok((b'E', body)) => heard.sqlstate = sqlstate(&body),
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    if !matches!(end.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) {
        heard.ended_at = Some(clock::now());
    }
    heard.was_reset = end.kind() == io::ErrorKind::ConnectionReset;
    Ok(heard)
}

fn message(stream: &mut StdStream) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 5];
    stream.read_exact(&mut head)?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    let mut body = vec![0; length.saturating_sub(4)];
    stream.read_exact(&mut body)?;
    Ok((head[0], body))
}

/// Fields of an ErrorResponse begin with their kind and end with a NUL.
fn sqlstate(body: &[u8]) -> Option<String> {
    let field = body.split(|byte| *byte == 0).find(|field| field.first() == Some(&b'C'))?;
    Some(String::from_utf8_lossy(&field[1..]).into_owned())
}
