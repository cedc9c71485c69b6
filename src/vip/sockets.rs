//! Connections of all programs on an address, reset before it goes: what `ss -K` does (SOCK_DESTROY).

mod wire;

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, setsockopt, socket,
};
use nix::sys::time::TimeVal;

use crate::runtime::clock;
use wire::{Answer, Found};

/// For all of it, and for one answer of the kernel's beyond that.
const DESTROY_MAX: Duration = Duration::from_secs(1);
/// While connections are reset new ones may come in; so many times it is looked for more.
const PASSES_MAX: usize = 3;
/// The kernel's lists come in pieces of at most 32 KiB (net/netlink/af_netlink.c, netlink_recvmsg).
const PIECE_BYTES: usize = 32 * 1024;

/// Resets every TCP connection of this host whose local address is `ip`, whichever program has it, and tells how many.
/// Each peer is sent an RST, so the address must still be there. Listening sockets stay, ours and those of others:
/// they cut nobody, and serve when the address comes back. Blocks, for two seconds at most. Needs CAP_NET_ADMIN.
pub fn destroy(ip: IpAddr) -> io::Result<usize> {
    let deadline = clock::now() + DESTROY_MAX;
    let mut kernel = Kernel::open()?;
    let mut destroyed = 0;
    for _ in 0..PASSES_MAX {
        let found = kernel.connections_on(ip)?;
        if found.is_empty() {
            break;
        }
        for connection in &found {
            if clock::now() >= deadline {
                let why = format!("after {DESTROY_MAX:?} only {destroyed} connections on {ip} were reset");
                return Err(io::Error::new(io::ErrorKind::TimedOut, why));
            }
            destroyed += usize::from(kernel.destroy(connection, ip)?);
        }
    }
    Ok(destroyed)
}

struct Kernel {
    socket: OwnedFd,
    piece: Vec<u8>,
}

impl Kernel {
    fn open() -> io::Result<Kernel> {
        let protocol = SockProtocol::NetlinkSockDiag;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        setsockopt(&socket, ReceiveTimeout, &TimeVal::new(DESTROY_MAX.as_secs().cast_signed(), 0))?;
        Ok(Kernel { socket, piece: vec![0; PIECE_BYTES] })
    }

    fn say(&self, message: &[u8]) -> io::Result<()> {
        sendto(self.socket.as_raw_fd(), message, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        Ok(())
    }

    fn hear(&mut self, ip: IpAddr) -> io::Result<Vec<Answer>> {
        match recv(self.socket.as_raw_fd(), &mut self.piece, MsgFlags::empty()) {
            Ok(length) => Ok(wire::answers(self.piece.get(..length).unwrap_or_default(), ip)),
            Err(Errno::EAGAIN) => {
                let why = format!("the kernel has not answered for {DESTROY_MAX:?}");
                Err(io::Error::new(io::ErrorKind::TimedOut, why))
            }
            Err(errno) => Err(errno.into()),
        }
    }

    /// An IPv4 address may also be that of a socket that serves both families.
    fn connections_on(&mut self, ip: IpAddr) -> io::Result<Vec<Found>> {
        let mut found = self.connections_of(AddressFamily::Inet6, ip)?;
        if ip.is_ipv4() {
            found.extend(self.connections_of(AddressFamily::Inet, ip)?);
        }
        Ok(found)
    }

    fn connections_of(&mut self, family: AddressFamily, ip: IpAddr) -> io::Result<Vec<Found>> {
        self.say(&wire::list(family, ip))?;
        let mut found = Vec::new();
        loop {
            for answer in self.hear(ip)? {
                match answer {
                    Answer::Socket(connection) => found.push(connection),
                    Answer::Done => return Ok(found),
                    Answer::Refused(errno) => return Err(not_listed(errno)),
                }
            }
        }
    }

    /// False: it has ended by itself.
    fn destroy(&mut self, connection: &Found, ip: IpAddr) -> io::Result<bool> {
        self.say(&wire::destroy(connection))?;
        loop {
            for answer in self.hear(ip)? {
                match answer {
                    Answer::Socket(_) => {}
                    Answer::Done => return Ok(true),
                    Answer::Refused(Errno::ENOENT) => return Ok(false),
                    Answer::Refused(errno) => return Err(not_destroyed(errno)),
                }
            }
        }
    }
}

fn not_listed(errno: Errno) -> io::Error {
    let why = match errno {
        Errno::ENOENT => "the kernel cannot list TCP connections (CONFIG_INET_TCP_DIAG, module tcp_diag)",
        _ => return errno.into(),
    };
    io::Error::new(io::ErrorKind::Unsupported, why)
}

fn not_destroyed(errno: Errno) -> io::Error {
    match errno {
        Errno::EOPNOTSUPP => io::Error::new(
            io::ErrorKind::Unsupported,
            "the kernel is built without CONFIG_INET_DIAG_DESTROY, so other programs' connections cannot be reset; \
             set close_sockets: false",
        ),
        Errno::EPERM => io::Error::new(
            io::ErrorKind::PermissionDenied,
            "resetting other programs' connections takes CAP_NET_ADMIN, which this process lacks",
        ),
        errno => errno.into(),
    }
}
