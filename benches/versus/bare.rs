//! A relay that does nothing but move bytes: one thread, one epoll instance, no protocol, no memory between
//! two reads. With `splice` the bytes go through pipes that are taken for as long as they hold something.

use std::io::{self, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;

use anyhow::{Context, Result};
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::sys::epoll::EpollFlags;
use nix::unistd::pipe2;

use super::poll::{self, IN, NOTHING, OUT, Poll};

const SCRATCH_BYTES: usize = 64 * 1024;
const PIPE_BYTES: usize = 1 << 20;
const LISTENER: usize = usize::MAX;

/// From one socket to the other.
#[derive(Default)]
struct Way {
    /// Read, and not yet written.
    rest: Vec<u8>,
    pipe: Option<Pipe>,
    has_ended: bool,
}

struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
    holds: usize,
}

struct Pair {
    /// Of the client and of the server.
    sockets: [TcpStream; 2],
    /// From each of them to the other.
    ways: [Way; 2],
    interest: [EpollFlags; 2],
}

struct Relay {
    poll: Poll,
    to: SocketAddr,
    pairs: Vec<Option<Pair>>,
    free: Vec<usize>,
    mover: Mover,
}

struct Mover {
    scratch: Vec<u8>,
    pipes: Vec<Pipe>,
    splices: bool,
}

/// Listens on a port, prints it and relays until it is killed.
pub fn run(to: SocketAddr, splices: bool) -> Result<()> {
    let listener = poll::listen()?;
    let poll = Poll::new()?;
    poll.add(&listener, LISTENER, IN)?;
    println!("{}", listener.local_addr()?.port());
    io::stdout().flush()?;
    let mover = Mover { scratch: vec![0; SCRATCH_BYTES], pipes: Vec::new(), splices };
    let mut relay = Relay { poll, to, pairs: Vec::new(), free: Vec::new(), mover };
    loop {
        for (token, ready) in relay.poll.wait(None)? {
            match token {
                LISTENER => relay.accept(&listener)?,
                token => relay.attend(token / 2, token % 2, ready)?,
            }
        }
    }
}

impl Relay {
    fn accept(&mut self, listener: &TcpListener) -> Result<()> {
        while let Some(client) = poll::accept(listener)? {
            let server = poll::connect(self.to)?;
            let at = self.free.pop().unwrap_or(self.pairs.len());
            if at == self.pairs.len() {
                self.pairs.push(None);
            }
            self.poll.add(&client, at * 2, IN)?;
            self.poll.add(&server, at * 2 + 1, IN)?;
            self.pairs[at] = Some(Pair { sockets: [client, server], ways: Default::default(), interest: [IN; 2] });
        }
        Ok(())
    }

    fn attend(&mut self, at: usize, side: usize, ready: EpollFlags) -> Result<()> {
        // An event of the same round may be of one that has left.
        let Some(pair) = &mut self.pairs[at] else { return Ok(()) };
        let mut moved = Ok(());
        if ready.contains(OUT) {
            moved = self.mover.pass(pair, 1 - side);
        }
        if ready.intersects(!OUT) {
            moved = moved.and_then(|()| self.mover.pass(pair, side));
        }
        if moved.is_err() || pair.ways.iter().all(|way| way.has_ended) {
            self.pairs[at] = None;
            self.free.push(at);
            return Ok(());
        }
        for side in [0, 1] {
            let mut wanted = NOTHING;
            wanted.set(IN, !pair.ways[side].has_ended && pair.ways[side].is_empty());
            wanted.set(OUT, !pair.ways[1 - side].is_empty());
            if pair.interest[side] != wanted {
                pair.interest[side] = wanted;
                self.poll.change(&pair.sockets[side], at * 2 + side, wanted).context("a pair's interest")?;
            }
        }
        Ok(())
    }
}

impl Way {
    fn is_empty(&self) -> bool {
        self.rest.is_empty() && self.pipe.is_none()
    }
}

impl Mover {
    /// What one socket of a pair has for the other, as much as one turn gives.
    fn pass(&mut self, pair: &mut Pair, side: usize) -> io::Result<()> {
        let (from, to) = (&pair.sockets[side], &pair.sockets[1 - side]);
        let way = &mut pair.ways[side];
        if way.has_ended && way.is_empty() {
            return Ok(());
        }
        let has_ended = if self.splices { self.splice(way, from, to)? } else { self.copy(way, from, to)? };
        if has_ended {
            way.has_ended = true;
            // It may be closed already.
            let _ = to.shutdown(Shutdown::Write);
        }
        Ok(())
    }

    /// True when nothing more will come.
    fn copy(&mut self, way: &mut Way, from: &TcpStream, to: &TcpStream) -> io::Result<bool> {
        if !way.rest.is_empty() {
            let count = poll::write(to, &way.rest)?.unwrap_or(0);
            way.rest.drain(..count);
            return Ok(false);
        }
        let Some(count) = poll::read(from, &mut self.scratch)? else { return Ok(false) };
        let written = if count == 0 { 0 } else { poll::write(to, &self.scratch[..count])?.unwrap_or(0) };
        way.rest = self.scratch[written..count].to_vec();
        Ok(count == 0)
    }

    fn splice(&mut self, way: &mut Way, from: &TcpStream, to: &TcpStream) -> io::Result<bool> {
        let mut pipe = match way.pipe.take() {
            Some(pipe) => pipe,
            None => self.pipes.pop().map_or_else(Pipe::new, Ok)?,
        };
        let flags = SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK;
        let mut has_ended = false;
        if pipe.holds == 0 {
            let filled = later(splice(from, None, &pipe.writer, None, PIPE_BYTES, flags));
            has_ended = matches!(filled, Ok(Some(0)));
            pipe.holds = filled?.unwrap_or(0);
        }
        if pipe.holds > 0 {
            pipe.holds -= later(splice(&pipe.reader, None, to, None, pipe.holds, flags))?.unwrap_or(0);
        }
        if pipe.holds == 0 {
            self.pipes.push(pipe);
        } else {
            way.pipe = Some(pipe);
        }
        Ok(has_ended)
    }
}

fn later(done: nix::Result<usize>) -> io::Result<Option<usize>> {
    match done {
        Ok(count) => Ok(Some(count)),
        Err(nix::Error::EAGAIN | nix::Error::EINTR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

impl Pipe {
    fn new() -> io::Result<Pipe> {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        fcntl(&writer, FcntlArg::F_SETPIPE_SZ(1 << 20))?;
        Ok(Pipe { reader, writer, holds: 0 })
    }
}
