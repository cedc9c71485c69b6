//! A pipe that knows how many bytes are in it, and so what EAGAIN means.

use std::io;
use std::os::fd::BorrowedFd;

use crate::sys::splice;

/// What came of [`super::Pipe::fill`]. That the socket has nothing at present is the error WouldBlock instead, as with
/// every read, so that `try_io` forgets the socket's readiness for that and for nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filled {
    /// So many bytes, at least one.
    Bytes(usize),
    /// The end of the stream: nothing comes any more. What is in the pipe is still there.
    End,
    /// There is no room, whether the socket has something or not, and perhaps with very few bytes inside. The
    /// pipe must be drained or read before it is filled again.
    Full,
}

/// See [`super::Pipe`], which is one of these on loan.
#[derive(Debug)]
pub(super) struct Duct {
    pipe: splice::Pipe,
    pub capacity: usize,
    pub len: usize,
}

impl Duct {
    /// Of `wanted` bytes, or of what the kernel allows.
    pub fn open(wanted: usize) -> io::Result<Duct> {
        let (pipe, capacity) = splice::Pipe::open(wanted)?;
        Ok(Duct { pipe, capacity, len: 0 })
    }

    pub fn fill(&mut self, from: BorrowedFd<'_>) -> io::Result<Filled> {
        let free = self.capacity.saturating_sub(self.len);
        if free == 0 {
            return Ok(Filled::Full);
        }
        match self.pipe.fill(from, free) {
            Ok(0) => Ok(Filled::End),
            Ok(n) => {
                self.len += n;
                Ok(Filled::Bytes(n))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && self.len > 0 && !self.pipe.has_room()? => {
                Ok(Filled::Full)
            }
            Err(error) => Err(error),
        }
    }

    pub fn drain(&mut self, to: BorrowedFd<'_>, most: usize) -> io::Result<usize> {
        let most = most.min(self.len);
        if most == 0 {
            return Ok(0);
        }
        let n = self.pipe.drain(to, most)?;
        self.len = self.len.saturating_sub(n);
        Ok(n)
    }

    pub fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut taken = 0;
        while self.len > 0 && taken < into.len() {
            let n = self.pipe.read(&mut into[taken..])?;
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            taken += n;
            self.len = self.len.saturating_sub(n);
        }
        Ok(taken)
    }

    /// By our count, and by the kernel's, because one byte left would be another session's.
    pub fn is_surely_empty(&self) -> bool {
        self.len == 0 && self.pipe.is_empty().unwrap_or(false)
    }
}
