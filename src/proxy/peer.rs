//! Who a client is, as far as its socket tells.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::Deref;

/// The other end of a client's connection. Small: every session has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    Ip {
        ip: IpAddr,
        port: u16,
    },
    /// By a Unix socket; what the kernel knows of the process that connected (SO_PEERCRED).
    Unix {
        pid: Option<i32>,
        uid: Option<u32>,
    },
}

impl From<SocketAddr> for Peer {
    /// An IPv4 client of a socket for both families is an IPv4 client.
    fn from(address: SocketAddr) -> Peer {
        Peer::Ip { ip: address.ip().to_canonical(), port: address.port() }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Ip { ip, port } => SocketAddr::new(*ip, *port).fmt(f),
            Peer::Unix { pid, .. } => write!(f, "unix:{}", pid.unwrap_or(0)),
        }
    }
}

/// 4, 16 or no bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HashBytes {
    bytes: [u8; 16],
    length: usize,
}

impl Deref for HashBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

impl Peer {
    /// None for a client by a Unix socket.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Peer::Ip { ip, .. } => Some(*ip),
            Peer::Unix { .. } => None,
        }
    }

    /// What a choice by source is made from: the IP address without its port. All clients of Unix
    /// sockets are one source.
    pub fn hash_bytes(&self) -> HashBytes {
        let mut bytes = [0; 16];
        let length = match self {
            Peer::Ip { ip, .. } => match ip {
                IpAddr::V4(ip) => {
                    bytes[..4].copy_from_slice(&ip.octets());
                    4
                }
                IpAddr::V6(ip) => {
                    bytes = ip.octets();
                    16
                }
            },
            Peer::Unix { .. } => 0,
        };
        HashBytes { bytes, length }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(text: &str) -> Peer {
        Peer::from(text.parse::<SocketAddr>().unwrap())
    }

    #[test]
    fn one_host_is_one_source_whatever_port_and_socket_it_comes_by() {
        assert_eq!(peer("10.0.0.1:1").hash_bytes(), peer("[::ffff:10.0.0.1]:2").hash_bytes());
        assert_eq!(*peer("10.0.0.1:1").hash_bytes(), [10, 0, 0, 1]);
        assert_eq!(peer("[fe80::1]:1").hash_bytes().len(), 16);
        assert!(Peer::Unix { pid: Some(7), uid: Some(0) }.hash_bytes().is_empty());
    }

    #[test]
    fn a_peer_is_named_as_people_write_it() {
        assert_eq!(peer("[::ffff:10.0.0.1]:5").to_string(), "10.0.0.1:5");
        assert_eq!(peer("[::1]:5").to_string(), "[::1]:5");
        assert_eq!(Peer::Unix { pid: Some(7), uid: None }.to_string(), "unix:7");
    }
}
