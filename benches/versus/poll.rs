//! One epoll instance, and sockets as cheap as they come: what backend, load and bare relay stand on.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;

use anyhow::{Context, Result};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};

const EVENTS: usize = 256;
pub const IN: EpollFlags = EpollFlags::EPOLLIN;
pub const OUT: EpollFlags = EpollFlags::EPOLLOUT;
pub const BOTH: EpollFlags = IN.union(OUT);
pub const EDGES: EpollFlags = EpollFlags::EPOLLET;
pub const NOTHING: EpollFlags = EpollFlags::empty();

#[derive(Debug)]
pub struct Poll {
    epoll: Epoll,
    events: Vec<EpollEvent>,
}

impl Poll {
    pub fn new() -> Result<Poll> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("epoll")?;
        Ok(Poll { epoll, events: vec![EpollEvent::empty(); EVENTS] })
    }

    pub fn add(&self, fd: impl AsFd, token: usize, interest: EpollFlags) -> Result<()> {
        self.epoll.add(fd, EpollEvent::new(interest, token as u64)).context("epoll_ctl")
    }

    pub fn change(&self, fd: impl AsFd, token: usize, interest: EpollFlags) -> Result<()> {
        self.epoll.modify(fd, &mut EpollEvent::new(interest, token as u64)).context("epoll_ctl")
    }

    pub fn remove(&self, fd: impl AsFd) -> Result<()> {
        self.epoll.delete(fd).context("epoll_ctl")
    }

    /// Tokens and what they are ready for; none when `millis` are over. Without `millis` there is no end.
    pub fn wait(&mut self, millis: Option<u16>) -> Result<Vec<(usize, EpollFlags)>> {
        let timeout = millis.map_or(EpollTimeout::NONE, EpollTimeout::from);
        let count = match self.epoll.wait(&mut self.events, timeout) {
            Ok(count) => count,
            Err(nix::Error::EINTR) => 0,
            Err(error) => return Err(error).context("epoll_wait"),
        };
        let token = |event: &EpollEvent| (usize::try_from(event.data()).expect("a token"), event.events());
        Ok(self.events[..count].iter().map(token).collect())
    }
}

/// Bytes read, None when there are none yet; 0 is the end.
pub fn read(mut from: &TcpStream, into: &mut [u8]) -> io::Result<Option<usize>> {
    later(from.read(into))
}

/// Bytes written, None when there is no room.
pub fn write(mut to: &TcpStream, bytes: &[u8]) -> io::Result<Option<usize>> {
    later(to.write(bytes))
}

fn later(done: io::Result<usize>) -> io::Result<Option<usize>> {
    match done {
        Ok(count) => Ok(Some(count)),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The next one that waits, non-blocking and without Nagle's algorithm.
pub fn accept(listener: &TcpListener) -> Result<Option<TcpStream>> {
    match listener.accept() {
        Ok((stream, _)) => {
            stream.set_nonblocking(true)?;
            // It may be gone already.
            let _ = stream.set_nodelay(true);
            Ok(Some(stream))
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => Ok(None),
        Err(error) => Err(error).context("accept"),
    }
}

pub fn listen() -> Result<TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
    socket.listen(4096)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// A non-blocking socket whose connect is under way or done.
pub fn connect(to: SocketAddr) -> Result<TcpStream> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM.nonblocking(), None)?;
    socket.set_tcp_nodelay(true)?;
    match socket.connect(&to.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(nix::libc::EINPROGRESS) => {}
        Err(error) => return Err(error).with_context(|| format!("connecting to {to}")),
    }
    Ok(socket.into())
}

/// Nanoseconds of a clock that all processes share.
pub fn nanos() -> u64 {
    to_nanos(clock_gettime(ClockId::CLOCK_MONOTONIC).expect("a clock"))
}

pub fn to_nanos(time: TimeSpec) -> u64 {
    u64::try_from(time.tv_sec()).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec()).unwrap_or(0)
}
