//! Whether splice works here: bytes are sent through it, and what arrives is compared with what was sent.
//!
//! There are machines where it does not: programs in the kernel that take over sockets (eBPF's sockmap, as agents
//! for tracing and transparent proxies inject it) lost or repeated what was spliced, as in
//! <https://github.com/daeuniverse/dae/pull/518>. A copy is what works everywhere.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::runtime::clock;

use super::PIPE_BYTES;
use super::duct::{Duct, Filled};

/// More than one pipe of the usual 64 KiB, and no round number.
const PATTERN_BYTES: usize = 256 * 1024 + 1;
/// Within the machine it takes a few milliseconds.
const TIMEOUT: Duration = Duration::from_secs(1);
/// How long to wait for the kernel at a time.
const LOOK_AGAIN_MS: u8 = 10;

/// What one step of a way from socket to socket came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Moved,
    /// Nothing to do at present.
    Waits,
    /// The first socket ended, and all of it has arrived at the second one.
    Ended,
}

/// The way that is tried out: through a pipe of the usual size.
pub(super) fn by_splice() -> impl FnMut(&TcpStream, &TcpStream) -> io::Result<Step> {
    let mut duct = None;
    move |from, to| {
        let duct: &mut Duct = match &mut duct {
            Some(duct) => duct,
            None => duct.insert(Duct::open(PIPE_BYTES)?),
        };
        let drained = none_if_waiting(duct.drain(to.as_fd(), duct.len))?.unwrap_or(0);
        match none_if_waiting(duct.fill(from.as_fd()))? {
            Some(Filled::Bytes(_)) => Ok(Step::Moved),
            Some(Filled::End) if duct.len == 0 => Ok(Step::Ended),
            _ if drained > 0 => Ok(Step::Moved),
            _ => Ok(Step::Waits),
        }
    }
}

/// Sends the pattern over a connection, one `step` after the other on to a second connection, and compares what
/// comes out of it.
///
/// # Errors
/// What went wrong, as a sentence without its beginning and end.
pub(super) fn run(mut step: impl FnMut(&TcpStream, &TcpStream) -> io::Result<Step>) -> Result<(), String> {
    let connected = |error| format!("a connection within this machine, to try it, failed: {error}");
    let (mut first, from) = connection().map_err(connected)?;
    let (to, mut last) = connection().map_err(connected)?;
    let until = clock::now() + TIMEOUT;
    let pattern = pattern();
    let (mut sent, mut seen, mut ended) = (0, 0, false);
    let mut buffer = vec![0; PATTERN_BYTES];
    loop {
        let mut moved = 0;
        if sent < pattern.len() {
            let n =
                none_if_waiting(first.write(&pattern[sent..])).map_err(|error| format!("sending failed: {error}"))?;
            moved += n.unwrap_or(0);
            sent += n.unwrap_or(0);
            if sent == pattern.len() {
                first.shutdown(Shutdown::Write).map_err(|error| format!("sending failed: {error}"))?;
            }
        }
        if !ended {
            let what = step(&from, &to).map_err(|error| format!("a call failed after {seen} bytes: {error}"))?;
            moved += usize::from(what != Step::Waits);
            ended = what == Step::Ended;
            if ended {
                to.shutdown(Shutdown::Write).map_err(|error| format!("sending failed: {error}"))?;
            }
        }
        match none_if_waiting(last.read(&mut buffer)).map_err(|error| format!("reading failed: {error}"))? {
            Some(0) if seen == pattern.len() => return Ok(()),
            Some(0) => return Err(format!("the stream ended after {seen} of {} bytes", pattern.len())),
            Some(n) => {
                compare(&pattern, seen, &buffer[..n])?;
                seen += n;
                moved += n;
            }
            None => {}
        }
        if moved == 0 {
            wait(&from, &last, until)
                .map_err(|why| format!("{why}, and {seen} of {} bytes came out", pattern.len()))?;
        }
    }
}

fn compare(pattern: &[u8], seen: usize, bytes: &[u8]) -> Result<(), String> {
    let Some(expected) = pattern.get(seen..seen + bytes.len()) else {
        return Err(format!("more came out than the {} bytes that went in", pattern.len()));
    };
    match expected.iter().zip(bytes).position(|(expected, byte)| expected != byte) {
        Some(at) => Err(format!("byte {} of {} came out wrong", seen + at, pattern.len())),
        None => Ok(()),
    }
}

/// Until there is something to read, or at most a moment.
fn wait(from: &TcpStream, last: &TcpStream, until: Instant) -> Result<(), String> {
    if clock::now() >= until {
        return Err(format!("it took longer than {} ms", TIMEOUT.as_millis()));
    }
    let mut asked = [PollFd::new(from.as_fd(), PollFlags::POLLIN), PollFd::new(last.as_fd(), PollFlags::POLLIN)];
    match poll(&mut asked, PollTimeout::from(LOOK_AGAIN_MS)) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(error) => Err(format!("waiting failed: {error}")),
    }
}

/// No two stretches of it are alike that are a page, a segment or a pipe apart.
fn pattern() -> Vec<u8> {
    (0..PATTERN_BYTES as u32).map(|at| (at.wrapping_mul(0x9E37_79B1) >> 24) as u8).collect()
}

/// Both ends of a connection over loopback; they do not block.
fn connection() -> io::Result<(TcpStream, TcpStream)> {
    let places = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), SocketAddr::from((Ipv6Addr::LOCALHOST, 0))];
    let listener = TcpListener::bind(places.as_slice())?;
    let ours = TcpStream::connect_timeout(&listener.local_addr()?, TIMEOUT)?;
    let (theirs, peer) = listener.accept()?;
    if peer != ours.local_addr()? {
        return Err(io::Error::new(ErrorKind::ConnectionRefused, "somebody else came in between"));
    }
    for socket in [&ours, &theirs] {
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
    }
    Ok((ours, theirs))
}

fn none_if_waiting<T>(outcome: io::Result<T>) -> io::Result<Option<T>> {
    match outcome {
        Ok(done) => Ok(Some(done)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}
