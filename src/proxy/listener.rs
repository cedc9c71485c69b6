//! Sockets that clients come in by: opening them, and handing an address from one to the next.
//!
//! **Two sockets for one address.** Linux refuses a bind that overlaps a listening socket (`*` and one
//! address of the same port) unless both have SO_REUSEPORT at that moment. So where only sockets
//! of this process that are about to go are in the way, all get the option for the time of the
//! system call and lose it at once: a second router still gets EADDRINUSE. The kernel, however,
//! remembers with the port that the last bind had the option, and would let another program of
//! the same user join that has it, too; the next bind without it ends that ([`forget_sharing`]).

use std::borrow::Cow;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use nix::errno::Errno;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use parking_lot::Mutex;
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use crate::model::{HostPort, ListenAddress, ServiceName, ServiceSpec};
use crate::sys;

use super::connect::set_options;
use super::peer::Peer;
use super::unix_socket::{self, SocketFile, UnixError};

/// The kernel clamps it to net.core.somaxconn.
pub(super) const BACKLOG: i32 = 4096;
/// Addresses that every machine has and nobody listens on; see [`forget_sharing`].
const SPARE: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::new(127, 83, 91, 7)), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// Every open listening socket of this process, of all clusters: what may be in the way of the next.
static OURS: Mutex<Vec<Weak<Inlet>>> = Mutex::new(Vec::new());

/// A listener that could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("service {service}: cannot listen on {address}: {source}; {advice}")]
pub struct ListenError {
    pub service: ServiceName,
    pub address: ListenAddress,
    pub advice: Cow<'static, str>,
    pub source: io::Error,
}

/// One socket's address, as asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    Tcp {
        address: SocketAddr,
        /// A wildcard for both families. Only with port 0: two sockets would get two ports.
        dual: bool,
        /// One half of `*`, which a kernel without that family does without.
        optional: bool,
    },
    Unix(PathBuf),
}

impl Place {
    /// The sockets that `address` wants. May look up a host name, which blocks; literals do not.
    /// `*` is two sockets, one per family, so that each half can be handed over alone.
    pub fn all(address: &ListenAddress) -> io::Result<Vec<Place>> {
        let at = match address {
            ListenAddress::Unix(path) => return Ok(vec![Place::Unix(path.clone())]),
            ListenAddress::Tcp(at) => at,
        };
        let tcp = |address, dual, optional| Place::Tcp { address, dual, optional };
        let any = |ip: IpAddr| SocketAddr::new(ip, at.port);
        let (v4, v6) = (any(Ipv4Addr::UNSPECIFIED.into()), any(Ipv6Addr::UNSPECIFIED.into()));
        Ok(match (at.host.as_str(), at.port) {
            ("*", 0) => vec![tcp(v6, true, false)],
            ("*", _) => vec![tcp(v4, false, false), tcp(v6, false, true)],
            _ => resolve(at)?.into_iter().map(|address| tcp(address, false, false)).collect(),
        })
    }

    /// Whether an open socket for the one can serve for the other.
    pub fn is_same_as(&self, other: &Place) -> bool {
        match (self, other) {
            (Place::Tcp { address: a, dual: x, .. }, Place::Tcp { address: b, dual: y, .. }) => (a, x) == (b, y),
            (Place::Unix(a), Place::Unix(b)) => a == b,
            _ => false,
        }
    }

    /// The kernel is to choose a port: another service would get another one.
    pub fn is_any_port(&self) -> bool {
        matches!(self, Place::Tcp { address, .. } if address.port() == 0)
    }
}

fn resolve(at: &HostPort) -> io::Result<Vec<SocketAddr>> {
    if let Ok(ip) = at.host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, at.port)]);
    }
    let mut addresses: Vec<SocketAddr> = (at.host.as_str(), at.port).to_socket_addrs()?.collect();
    addresses.sort();
    addresses.dedup();
    Ok(addresses)
}

/// One bound socket.
#[derive(Debug)]
pub(super) struct Inlet {
    socket: Arc<Socket>,
    /// As bound; None for a Unix socket.
    address: Option<SocketAddr>,
    file: Option<SocketFile>,
    /// Its bind overlaps another socket of ours.
    joined: bool,
}

impl Drop for Inlet {
    fn drop(&mut self) {
        if let Some(address) = self.address.filter(|_| self.joined) {
            forget_sharing(address.port());
        }
    }
}

impl Inlet {
    /// Binds, and does not listen yet. Sockets of this process that are not in `kept` may be in the
    /// way. None: an optional address that this kernel does not have.
    pub fn bind(place: &Place, spec: &ServiceSpec, kept: &[Arc<Inlet>]) -> io::Result<Option<Arc<Inlet>>> {
        let (address, dual, optional) = match place {
            Place::Tcp { address, dual, optional } => (*address, *dual, *optional),
            Place::Unix(path) => {
                let (socket, file) = unix_socket::bind(path, &ours())?;
                return Ok(Some(register(Inlet {
                    socket: Arc::new(socket),
                    address: None,
                    file: Some(file),
                    joined: false,
                })));
            }
        };
        match bind_tcp(address, dual, spec, kept) {
            Err(error) if optional && is_no_family(&error) => Ok(None),
            Err(error) if dual && is_no_family(&error) => {
                let v4 = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port());
                bind_tcp(v4, false, spec, kept).map(|inlet| Some(register(inlet)))
            }
            bound => bound.map(|inlet| Some(register(inlet))),
        }
    }

    pub fn listen(&self) -> io::Result<()> {
        if !self.joined {
            return self.socket.listen(BACKLOG);
        }
        let others: Vec<_> = self.on_same_port().collect();
        sharing(&self.socket, &others, || self.socket.listen(BACKLOG))
    }

    /// Puts a Unix socket's file in its place. From then on clients come here.
    pub fn reveal(&self) -> io::Result<()> {
        self.file.as_ref().map_or(Ok(()), SocketFile::reveal)
    }

    /// Takes a Unix socket's file away, if it is still this one.
    pub fn remove_file(&self) {
        if let Some(file) = &self.file {
            file.remove();
        }
    }

    /// None for a Unix socket.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    pub fn socket(&self) -> &Arc<Socket> {
        &self.socket
    }

    pub fn is_joined(&self) -> bool {
        self.joined
    }

    pub fn file(&self) -> Option<&SocketFile> {
        self.file.as_ref()
    }

    /// For clients that come from now on.
    pub fn set_options(&self, spec: &ServiceSpec) {
        if self.address.is_some() {
            set_options(&self.socket, &spec.tcp);
        }
    }

    /// The next client, if there is one.
    pub fn accept(&self) -> io::Result<(std::net::TcpStream, Peer)> {
        let (socket, address) = sys::accept::accept(&self.socket)?;
        let peer = match address.as_socket() {
            Some(address) => Peer::from(address),
            None => {
                let known = getsockopt(&socket, PeerCredentials).ok();
                Peer::Unix { pid: known.map(|c| c.pid()), uid: known.map(|c| c.uid()) }
            }
        };
        // Read, write, peek, shutdown and linger are the same system calls for both kinds of sockets,
        // and nobody asks the stream for its addresses.
        Ok((socket.into(), peer))
    }

    /// Whether clients of this socket's address find another one of ours when this one closes.
    pub fn has_heir(&self) -> bool {
        let Some(mine) = self.address else { return false };
        let overlaps =
            |other: SocketAddr| mine.ip() == other.ip() || mine.ip().is_unspecified() || other.ip().is_unspecified();
        self.on_same_port().any(|other| other.address.is_some_and(overlaps))
    }

    /// Takes no more handshakes: first packets are dropped unanswered, so that clients send them again
    /// after TCP's 1 s, when another socket has the address. Handshakes under way are finished.
    pub fn ignore_newcomers(&self) {
        // tcp[13] & (SYN|ACK) == SYN
        let only_answers = [
            SockFilter::new(0x30, 0, 0, 13),
            SockFilter::new(0x54, 0, 0, 0x12),
            SockFilter::new(0x15, 0, 1, 0x02),
            SockFilter::new(0x06, 0, 0, 0),
            SockFilter::new(0x06, 0, 0, u32::MAX),
        ];
        if let Err(error) = self.socket.attach_filter(&only_answers) {
            tracing::debug!(target: "pgvane::listen", %error, "cannot filter; a client may meet the closing socket");
        }
    }

    fn on_same_port(&self) -> impl Iterator<Item = Arc<Inlet>> {
        let (port, me) = (self.address.map(|address| address.port()), self.socket.as_raw_fd());
        ours().into_iter().filter(move |other| {
            port.is_some() && other.address.map(|address| address.port()) == port && other.socket.as_raw_fd() != me
        })
    }
}

fn register(inlet: Inlet) -> Arc<Inlet> {
    let inlet = Arc::new(inlet);
    let mut ours = OURS.lock();
    ours.retain(|known| known.strong_count() > 0);
    ours.push(Arc::downgrade(&inlet));
    inlet
}

fn ours() -> Vec<Arc<Inlet>> {
    OURS.lock().iter().filter_map(Weak::upgrade).collect()
}

fn bind_tcp(address: SocketAddr, dual: bool, spec: &ServiceSpec, kept: &[Arc<Inlet>]) -> io::Result<Inlet> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!dual)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    if spec.freebind {
        match address {
            SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
            SocketAddr::V6(_) => socket.set_freebind_v6(true)?,
        }
    }
    // Linux hands them down to every accepted socket, which saves each client six system calls.
    set_options(&socket, &spec.tcp);
    let joined = match socket.bind(&address.into()) {
        Err(error) if is(&error, Errno::EADDRINUSE) => {
            let others = ours().into_iter().filter(|other| other.address.map(|a| a.port()) == Some(address.port()));
            let others: Vec<_> = others.filter(|other| !kept.iter().any(|kept| Arc::ptr_eq(kept, other))).collect();
            if others.is_empty() {
                return Err(error);
            }
            sharing(&socket, &others, || socket.bind(&address.into()))?;
            true
        }
        bound => bound.map(|()| false)?,
    };
    let address = socket.local_addr()?.as_socket();
    Ok(Inlet { socket: Arc::new(socket), address, file: None, joined })
}

/// `act` while `socket` and `others` may share a port.
fn sharing(socket: &Socket, others: &[Arc<Inlet>], act: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let all = || std::iter::once(socket).chain(others.iter().map(|other| &*other.socket));
    let mut outcome = all().try_for_each(|socket| socket.set_reuse_port(true));
    if outcome.is_ok() {
        outcome = act();
    }
    for error in all().filter_map(|socket| socket.set_reuse_port(false).err()) {
        tracing::warn!(target: "pgvane::listen", %error, "cannot clear SO_REUSEPORT; another program could share a port");
    }
    outcome
}

/// Makes the kernel forget that sockets of this port ever shared it, as far as a spare address is free
/// there. (With `*` none is; there the socket for IPv6, opened last and alone, has done it.)
pub(super) fn forget_sharing(port: u16) {
    for ip in SPARE {
        let address = SocketAddr::new(ip, port);
        let bound = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP)).and_then(|socket| {
            if address.is_ipv6() {
                socket.set_only_v6(true)?;
            }
            socket.set_reuse_address(true)?;
            socket.bind(&address.into())
        });
        if bound.is_ok() {
            return;
        }
    }
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno as i32)
}

fn is_no_family(error: &io::Error) -> bool {
    is(error, Errno::EAFNOSUPPORT) || is(error, Errno::EADDRNOTAVAIL)
}

/// The whole of what is wrong with one address.
pub(super) fn explain(service: &ServiceName, address: &ListenAddress, source: io::Error) -> ListenError {
    let advice = match source.get_ref().and_then(|inner| inner.downcast_ref::<UnixError>()) {
        Some(unix) => unix.advice().into(),
        None => advice(&source, address).into(),
    };
    ListenError { service: service.clone(), address: address.clone(), advice, source }
}

fn advice(error: &io::Error, address: &ListenAddress) -> &'static str {
    let unix = matches!(address, ListenAddress::Unix(_));
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOENT | Errno::ENOTDIR) if unix => "ENOENT: the directory must exist; create it first",
        Some(Errno::EACCES | Errno::EPERM | Errno::EROFS) if unix => {
            "the router's user must be allowed to create files in that directory"
        }
        _ if unix => "give the path of a socket in a directory that the router's user may write to",
        Some(Errno::EADDRINUSE) => {
            "EADDRINUSE: another process listens there, `ss -ltnp` names it; stop it or give this service another port"
        }
        Some(Errno::EACCES) => {
            "EACCES: ports below 1024 need CAP_NET_BIND_SERVICE; grant it or give this service a higher port"
        }
        Some(Errno::EADDRNOTAVAIL) => {
            "EADDRNOTAVAIL: this machine does not have the address; listen on `*` or on one that `ip addr` shows, \
             or set `freebind: true` for one that is yet to come"
        }
        Some(Errno::EMFILE | Errno::ENFILE) => "out of file descriptors; raise LimitNOFILE",
        _ => "give an address of this machine, or `*`",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Role;
    use socket2::SockRef;

    fn open(host: &str, port: u16) -> Arc<Inlet> {
        let address = ListenAddress::from(HostPort::new(host, port));
        let place = Place::all(&address).unwrap().remove(0);
        let inlet = Inlet::bind(&place, &ServiceSpec::new("a", Role::Primary), &[]).unwrap().unwrap();
        inlet.listen().unwrap();
        inlet
    }

    #[test]
    fn accepted_sockets_have_the_listeners_options() {
        let tcp = ServiceSpec::new("a", Role::Primary).tcp;
        let inlet = open("127.0.0.1", 0);
        let _client = std::net::TcpStream::connect(inlet.address().unwrap()).unwrap();
        let (accepted, _) = inlet.accept().unwrap();
        let socket = SockRef::from(&accepted);
        assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), tcp.keepalive_idle);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), tcp.keepalive_interval);
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), tcp.keepalive_count);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(tcp.user_timeout));
    }

    #[test]
    fn a_star_is_one_socket_per_family_and_colons_are_ipv6_alone() {
        let places = |host, port| Place::all(&ListenAddress::from(HostPort::new(host, port))).unwrap();
        assert_eq!(places("*", 5433).len(), 2);
        assert_eq!(places("0.0.0.0", 5433).len(), 1);
        assert!(places("*", 5433)[0].is_same_as(&places("0.0.0.0", 5433)[0]));
        assert!(places("*", 5433)[1].is_same_as(&places("::", 5433)[0]));
        assert!(!places("*", 0)[0].is_same_as(&places("::", 0)[0]));
    }

    #[test]
    fn a_socket_that_ignores_newcomers_still_has_those_that_came_before() {
        let inlet = open("127.0.0.1", 0);
        let at = inlet.address().unwrap();
        let _before = std::net::TcpStream::connect(at).unwrap();
        inlet.ignore_newcomers();
        let late = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        late.set_nonblocking(true).unwrap();
        assert!(is(&late.connect(&at.into()).unwrap_err(), Errno::EINPROGRESS));
        let (accepted, _) = inlet.accept().unwrap();
        assert_eq!(inlet.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(accepted);
    }
}
