//! A direction that streams: from socket to pipe to socket, unseen, until it pauses.
//!
//! The last [`TAIL_BYTES`] stay in the pipe as long as more comes at once. When the server's socket is empty, has
//! ended or has failed, and when the client has something to say, they are read and passed on like any other bytes: so
//! the end of an answer is always seen, and the conversation finds its place again.
//!
//! Readiness of the server's socket is neither asked for nor cleared here. Whatever fills the pipe no more (nothing
//! there, no free slot, an urgent byte) ends in an ordinary read, and that one tells the runtime the truth.

use std::io;
use std::os::fd::AsFd;
use std::task::{Context, Poll, ready};

use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::proxy::pipes::{Filled, Pipe};
use crate::proxy::protocol::sight::TAIL_BYTES;

use super::lane::{Bounds, Broken};

/// A burst that is shorter is copied next time.
const BURST_BYTES_MIN: u64 = 64 * 1024;

#[derive(Debug)]
pub(super) struct Away {
    pipe: Pipe,
    /// Nothing more goes into the pipe.
    paused: bool,
    /// What went through since it was filled first.
    passed: u64,
    broken: Option<Box<io::Error>>,
}

pub(super) enum Step {
    Moved(usize),
    /// All but the tail has gone.
    Paused,
}

impl Away {
    pub fn new(pipe: Pipe) -> Away {
        Away { pipe, paused: false, passed: 0, broken: None }
    }

    /// The rest goes seen.
    pub fn pause(&mut self) {
        self.paused = true;
    }

    /// It was worth it, and may begin anew with the next bytes.
    pub fn was_worth_it(&self) -> bool {
        self.passed >= BURST_BYTES_MIN
    }

    /// Moves what one call moves. Pending has registered the wake-up, for the client has no room.
    pub fn poll_step(
        &mut self,
        cx: &mut Context<'_>,
        server: &TcpStream,
        client: &TcpStream,
        bounds: Bounds<'_>,
    ) -> Poll<Result<Step, Broken>> {
        if !self.paused && self.pipe.len() <= TAIL_BYTES {
            self.fill(server);
        }
        let most = self.pipe.len().saturating_sub(TAIL_BYTES);
        if most == 0 {
            return Poll::Ready(Ok(if self.paused { Step::Paused } else { Step::Moved(0) }));
        }
        loop {
            ready!(client.poll_write_ready(cx)).map_err(Broken::Write)?;
            ready!(bounds.poll_right(cx))?;
            match client.try_io(Interest::WRITABLE, || self.pipe.drain(client.as_fd(), most)) {
                Ok(0) => return Poll::Ready(Err(Broken::Write(io::ErrorKind::WriteZero.into()))),
                Ok(n) => {
                    self.passed += n as u64;
                    return Poll::Ready(Ok(Step::Moved(n)));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(Broken::Write(error))),
            }
        }
    }

    fn fill(&mut self, server: &TcpStream) {
        match self.pipe.fill(server.as_fd()) {
            Ok(Filled::Bytes(_)) => {}
            Ok(Filled::End | Filled::Full) => self.paused = true,
            Err(error) => {
                self.paused = true;
                // The kernel tells an error of a connection once.
                if error.kind() != io::ErrorKind::WouldBlock {
                    self.broken = Some(Box::new(error));
                }
            }
        }
    }

    /// What is left in the pipe, at most [`TAIL_BYTES`].
    pub fn read_tail(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.pipe.read(into)
    }

    /// How the server's socket failed, behind the tail.
    pub fn take_error(&mut self) -> Option<Box<io::Error>> {
        self.broken.take()
    }
}
