//! Loopback ports that nobody else gets while they are kept.

use std::net::{Ipv4Addr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

/// A bound socket that does not listen: a connect is refused, no other bind gets the port by chance,
/// and whoever is meant to may listen there because both allow reuse.
#[derive(Debug)]
pub struct Port {
    pub number: u16,
    _kept: Socket,
}

impl Port {
    pub fn reserve() -> Port {
        let socket = tcp();
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        socket.bind(&any.into()).expect("a free loopback port");
        // Only now: a port chosen by the kernel must not be one that another reservation shares.
        socket.set_reuse_address(true).expect("SO_REUSEADDR");
        let number = socket.local_addr().ok().and_then(|at| at.as_socket()).map(|at| at.port());
        Port { number: number.expect("a bound socket has a port"), _kept: socket }
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.number))
    }

    pub fn listen(&self) -> TcpListener {
        let socket = tcp();
        socket.set_reuse_address(true).expect("SO_REUSEADDR");
        socket.set_nonblocking(true).expect("a non-blocking socket");
        socket.bind(&self.address().into()).expect("the reserved port");
        socket.listen(4096).expect("a listening socket");
        TcpListener::from_std(socket.into()).expect("a tokio listener")
    }
}

fn tcp() -> Socket {
    Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).expect("a TCP socket")
}
