//! Sockets that clients come in by.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::model::service::TcpSpec;
use crate::model::{HostPort, ServiceName};
use crate::runtime::clock;

use super::connect::{is_exhaustion, set_options};
use super::connection::{Plumbing, serve};
use super::sessions::Service;

/// The kernel clamps it to net.core.somaxconn.
const BACKLOG: i32 = 4096;
/// Without a free descriptor the next accept would fail at once again.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);
const EXHAUSTED_LOG_EVERY: Duration = Duration::from_secs(10);

/// A listener that could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("service {service}: cannot listen on {address}: {source}; {advice}")]
pub struct ListenError {
    pub service: ServiceName,
    pub address: HostPort,
    pub advice: &'static str,
    pub source: io::Error,
}

/// Opens every address of `address`; `*` is all of IPv6 and IPv4.
pub fn bind(service: &ServiceName, address: &HostPort, tcp: &TcpSpec) -> Result<Vec<TcpListener>, ListenError> {
    let opened = if address.host == "*" {
        let dual = listen_on(SocketAddr::from((Ipv6Addr::UNSPECIFIED, address.port)), tcp);
        let opened = match dual {
            // A kernel without IPv6.
            Err(error) if is(&error, Errno::EAFNOSUPPORT) || is(&error, Errno::EADDRNOTAVAIL) => {
                listen_on(SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port)), tcp)
            }
            other => other,
        };
        opened.map(|listener| vec![listener])
    } else {
        listen_on_name(address, tcp)
    };
    opened.map_err(|source| {
        let (service, address, advice) = (service.clone(), address.clone(), advice(&source));
        ListenError { service, address, advice, source }
    })
}

fn listen_on_name(address: &HostPort, tcp: &TcpSpec) -> io::Result<Vec<TcpListener>> {
    let mut addresses: Vec<SocketAddr> = (address.host.as_str(), address.port).to_socket_addrs()?.collect();
    addresses.sort();
    addresses.dedup();
    addresses.into_iter().map(|address| listen_on(address, tcp)).collect()
}

fn listen_on(address: SocketAddr, tcp: &TcpSpec) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    // Linux hands them down to every accepted socket, which saves each client six system calls.
    set_options(&socket, tcp);
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno as i32)
}

fn advice(error: &io::Error) -> &'static str {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EADDRINUSE) => {
            "EADDRINUSE: another process listens there, `ss -ltnp` names it; stop it or give this service another port"
        }
        Some(Errno::EACCES) => {
            "EACCES: ports below 1024 need CAP_NET_BIND_SERVICE; grant it or give this service a higher port"
        }
        Some(Errno::EADDRNOTAVAIL) => {
            "EADDRNOTAVAIL: this machine does not have the address; listen on `*` or on one that `ip addr` shows"
        }
        Some(Errno::EMFILE | Errno::ENFILE) => "out of file descriptors; raise LimitNOFILE",
        _ => "give an address of this machine, or `*`",
    }
}

/// Accepts until told to stop. A machine that is out of descriptors gets a pause, not an end.
pub async fn accept_all(
    listener: TcpListener,
    plumbing: Arc<Plumbing>,
    service: Arc<Service>,
    stop: CancellationToken,
    connections: TaskTracker,
) {
    let mut complaints = Complaints::default();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((client, peer)) => {
                connections.spawn(serve(plumbing.clone(), service.clone(), client, peer));
            }
            Err(error) => {
                if let Some(silent) = complaints.due() {
                    let (service, unsaid) = (&service.spec.name, silent);
                    tracing::warn!(target: "pgvane::listen", %service, %error, unsaid, "cannot accept a connection");
                }
                // Other errors belong to the one connection that was to be accepted.
                if is_exhaustion(&error) {
                    let until = tokio::time::Instant::from_std(clock::now() + EXHAUSTED_PAUSE);
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep_until(until) => {}
                    }
                }
            }
        }
    }
}

/// One line per [`EXHAUSTED_LOG_EVERY`], with how many were left out.
#[derive(Default)]
struct Complaints {
    last: Option<std::time::Instant>,
    unsaid: u64,
}

impl Complaints {
    fn due(&mut self) -> Option<u64> {
        let now = clock::now();
        if self.last.is_some_and(|last| now.saturating_duration_since(last) < EXHAUSTED_LOG_EVERY) {
            self.unsaid += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::SockRef;

    #[tokio::test]
    async fn accepted_sockets_have_the_listeners_options() {
        let tcp = TcpSpec::default();
        let listener = bind(&"a".into(), &HostPort::new("127.0.0.1", 0), &tcp).unwrap().remove(0);
        let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        let socket = SockRef::from(&accepted);
        assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), tcp.keepalive_idle);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), tcp.keepalive_interval);
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), tcp.keepalive_count);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(tcp.user_timeout));
    }

    #[test]
    fn complaints_are_rare() {
        let mut complaints = Complaints::default();
        assert_eq!(complaints.due(), Some(0));
        assert_eq!((complaints.due(), complaints.unsaid), (None, 1));
        complaints.last = complaints.last.and_then(|last| last.checked_sub(EXHAUSTED_LOG_EVERY));
        assert_eq!((complaints.due(), complaints.due()), (Some(1), None));
    }
}
