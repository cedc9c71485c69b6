//! From a member's name to an open socket.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use parking_lot::Mutex;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::Instant;

use crate::decide::Suspicion;
use crate::model::service::TcpSpec;
use crate::model::{HostPort, Reason};
use crate::runtime::clock;
use crate::sys::readiness::{self, Connecting};

use super::ports::Reuse;
use super::timers::{timeout, timeout_at};

/// Host names remembered; with more, all are asked for anew.
const NAMES_MAX: usize = 1000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectError {
    /// Says something about the member.
    Member(Suspicion),
    /// Says something about this machine: descriptors, ports or memory.
    Local,
}

impl ConnectError {
    pub fn reason(self) -> Reason {
        match self {
            ConnectError::Member(suspicion) => suspicion.reason(),
            ConnectError::Local => Reason::NoDescriptors,
        }
    }
}

/// Connects, and remembers what host names resolve to until a connect fails.
#[derive(Debug, Default)]
pub struct Connector {
    names: Mutex<HashMap<String, Arc<[IpAddr]>>>,
    /// None of its ports, by default.
    reuse: Reuse,
}

/// A connection to a server.
#[derive(Debug)]
pub struct Connected {
    pub stream: TcpStream,
    /// It may be ended from here: its port is soon free again.
    pub port_returns: bool,
}

impl Connector {
    /// With the kernel's ways of this network namespace, as they are now.
    pub fn new() -> Connector {
        Connector { names: Mutex::default(), reuse: Reuse::of_kernel() }
    }

    /// From here on it is left to servers to end connections first, and to keep their ports.
    pub fn spares_ports(&self) {
        self.reuse.ran_out();
    }

    /// Resolve this host name anew at its next use.
    pub fn forget(&self, host: &str) {
        self.names.lock().remove(host);
    }

    /// Tries every address of the host in order, all within `limit`.
    pub async fn connect(&self, to: &HostPort, limit: Duration, tcp: &TcpSpec) -> Result<Connected, ConnectError> {
        let deadline = Instant::from_std(clock::now() + limit);
        let outcome = match to.host.parse::<IpAddr>() {
            Ok(literal) => self.connect_any(&[literal], to.port, deadline, tcp).await,
            Err(_a_name) => match timeout_at(deadline, self.addresses(to)).await {
                Ok(Ok(addresses)) => self.connect_any(&addresses, to.port, deadline, tcp).await,
                Ok(Err(error)) => Err(error),
                Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "name lookup took too long")),
            },
        };
        outcome.map_err(|error| {
            self.forget(&to.host);
            tracing::debug!(target: "pgvane::connect", address = %to, %error, "connect failed");
            if error.kind() == io::ErrorKind::AddrNotAvailable {
                self.spares_ports();
            }
            classify(&error)
        })
    }

    /// The addresses of a host name, as last resolved.
    pub async fn addresses(&self, to: &HostPort) -> io::Result<Arc<[IpAddr]>> {
        if let Ok(literal) = to.host.parse::<IpAddr>() {
            return Ok(Arc::from([literal]));
        }
        if let Some(known) = self.names.lock().get(&to.host) {
            return Ok(known.clone());
        }
        let found = lookup_host((to.host.as_str(), to.port)).await?;
        let addresses: Arc<[IpAddr]> = found.map(|address| address.ip()).collect();
        let mut names = self.names.lock();
        if names.len() >= NAMES_MAX {
            names.clear();
        }
        names.insert(to.host.clone(), addresses.clone());
        Ok(addresses)
    }

    async fn connect_any(
        &self,
        addresses: &[IpAddr],
        port: u16,
        deadline: Instant,
        tcp: &TcpSpec,
    ) -> io::Result<Connected> {
        let mut last = None;
        for (index, ip) in addresses.iter().enumerate() {
            let left = deadline.saturating_duration_since(Instant::from_std(clock::now()));
            // An address that swallows packets must not use up the time of those behind it.
            let share = left / u32::try_from(addresses.len() - index).unwrap_or(u32::MAX);
            match timeout(share, connect_one(SocketAddr::new(*ip, port), tcp)).await {
                Ok(Ok(stream)) => return Ok(Connected { stream, port_returns: self.reuse.covers(*ip) }),
                Ok(Err(error)) => last = Some(error),
                Err(_) => last = Some(io::Error::new(io::ErrorKind::TimedOut, "no answer to the connect")),
            }
        }
        Err(last.unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the host name has no address")))
    }
}

async fn connect_one(address: SocketAddr, tcp: &TcpSpec) -> io::Result<TcpStream> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new_raw(Domain::for_address(address), kind, Some(Protocol::TCP))?;
    set_options(&socket, tcp);
    // The last packet of the handshake waits for the first bytes, which follow at once, and goes with them
    // (net/ipv4/tcp_input.c, `tcp_rcv_synsent_state_process`).
    let _ = socket.set_tcp_quickack(false);
    let how_far = match socket.connect(&address.into()) {
        Ok(()) => Connecting::Done,
        // A member on this host has answered already: it is asked for by a call, and not by a turn of the loop.
        Err(error) if is_in_progress(&error) => readiness::connecting(&socket)?,
        Err(error) => return Err(error),
    };
    let stream = TcpStream::from_std(socket.into())?;
    match how_far {
        Connecting::Done => return Ok(stream),
        Connecting::UnderWay => stream.writable().await?,
        Connecting::Failed => {}
    }
    match stream.take_error()? {
        None => Ok(stream),
        Some(error) => Err(error),
    }
}

fn is_in_progress(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::EINPROGRESS as i32)
}

/// Both sides of every session get the same (a client's socket from its listener). A kernel that refuses an option does not cost a session.
pub fn set_options(socket: &impl AsFd, tcp: &TcpSpec) {
    let socket = SockRef::from(socket);
    let keepalive = TcpKeepalive::new()
        .with_time(tcp.keepalive_idle)
        .with_interval(tcp.keepalive_interval)
        .with_retries(tcp.keepalive_count);
    let options = [
        socket.set_tcp_nodelay(true),
        socket.set_tcp_keepalive(&keepalive),
        socket.set_tcp_user_timeout(Some(tcp.user_timeout)),
    ];
    for error in options.into_iter().filter_map(Result::err) {
        tracing::debug!(target: "pgvane::connect", %error, "a socket option was refused");
    }
}

/// The next close sends RST, and what was not delivered yet never is.
pub fn reset_on_close(socket: &impl AsFd) {
    if let Err(error) = SockRef::from(socket).set_linger(Some(Duration::ZERO)) {
        tracing::warn!(target: "pgvane::connect", %error, "cannot set SO_LINGER; bytes under way may be delivered");
    }
}

/// Whether an error of `socket`, `accept` or `connect` is about this machine's own limits.
pub fn is_exhaustion(error: &io::Error) -> bool {
    let local = [Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM, Errno::ENOBUFS, Errno::EADDRNOTAVAIL];
    error.raw_os_error().is_some_and(|code| local.contains(&Errno::from_raw(code)))
}

fn classify(error: &io::Error) -> ConnectError {
    match error.kind() {
        _ if is_exhaustion(error) => ConnectError::Local,
        io::ErrorKind::ConnectionRefused => ConnectError::Member(Suspicion::ConnectRefused),
        io::ErrorKind::TimedOut => ConnectError::Member(Suspicion::ConnectTimedOut),
        _ => ConnectError::Member(Suspicion::ConnectFailed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn names_are_remembered_until_forgotten_or_failed() {
        let connector = Connector::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = HostPort::new("localhost", listener.local_addr().unwrap().port());
        let known = || connector.names.lock().contains_key("localhost");
        // Where localhost is ::1 too, that address refuses and the next one is tried.
        connector.connect(&to, LIMIT, &TcpSpec::default()).await.unwrap();
        assert!(known());
        connector.forget("localhost");
        assert!(!known());
        connector.connect(&to, LIMIT, &TcpSpec::default()).await.unwrap();
        drop(listener);
        let refused = connector.connect(&to, LIMIT, &TcpSpec::default()).await.unwrap_err();
        assert_eq!(refused, ConnectError::Member(Suspicion::ConnectRefused));
        assert!(!known());
    }

    #[test]
    fn what_this_machine_lacks_is_no_members_fault() {
        let of = |errno: Errno| classify(&io::Error::from_raw_os_error(errno as i32));
        assert_eq!(of(Errno::EMFILE), ConnectError::Local);
        assert_eq!(of(Errno::EADDRNOTAVAIL), ConnectError::Local);
        assert_eq!(of(Errno::ETIMEDOUT), ConnectError::Member(Suspicion::ConnectTimedOut));
        assert_eq!(of(Errno::EHOSTUNREACH), ConnectError::Member(Suspicion::ConnectFailed));
    }
}
