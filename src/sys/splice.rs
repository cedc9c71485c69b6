//! Pipes that bytes go through from one socket to another without ever being copied to this process: splice(2).
//!
//! Nothing here waits: every call gives [`io::ErrorKind::WouldBlock`] instead. That takes sockets that do not
//! block, because whether a TCP socket waits for data goes by its own O_NONBLOCK and not by the flags of the call
//! (`net/ipv4/tcp.c`, `tcp_splice_read`).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::libc::c_int;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd;

/// A pipe, closed when it is dropped, with whatever is in it.
#[derive(Debug)]
pub struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
}

impl Pipe {
    /// A pipe that child processes do not get, as large as the kernel allows up to `wanted` bytes; and how large
    /// that is. Without CAP_SYS_RESOURCE the bounds are `fs.pipe-max-size` for one pipe and
    /// `fs.pipe-user-pages-soft` for all of one user: beyond it a pipe has two pages and cannot be made larger
    /// (pipe(7)).
    pub fn open(wanted: usize) -> io::Result<(Pipe, usize)> {
        let (reader, writer) = unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        let given = capacity(fcntl(&writer, FcntlArg::F_GETPIPE_SZ)?);
        let mut size = wanted;
        while size > given {
            let asked = c_int::try_from(size).unwrap_or(c_int::MAX);
            if let Ok(given) = fcntl(&writer, FcntlArg::F_SETPIPE_SZ(asked)) {
                return Ok((Pipe { reader, writer }, capacity(given)));
            }
            size /= 2;
        }
        Ok((Pipe { reader, writer }, given))
    }

    /// From a socket, at most `most` bytes; 0 at the end of its stream. WouldBlock when the socket has nothing, *or*
    /// the pipe has no free slot: [`Pipe::has_room`] tells which.
    pub fn fill(&self, from: BorrowedFd<'_>, most: usize) -> io::Result<usize> {
        moved(from, self.writer.as_fd(), most)
    }

    /// To a socket, at most `most` bytes. WouldBlock when the socket takes nothing, *or* the pipe is empty.
    ///
    /// A socket whose peer is gone raises SIGPIPE, which the Rust runtime has told the kernel to ignore.
    pub fn drain(&self, to: BorrowedFd<'_>, most: usize) -> io::Result<usize> {
        moved(self.reader.as_fd(), to, most)
    }

    /// To memory. WouldBlock when the pipe is empty.
    pub fn read(&self, into: &mut [u8]) -> io::Result<usize> {
        Ok(uninterrupted(|| unistd::read(&self.reader, into))?)
    }

    /// Whether a slot is free. The kernel answers by the same test that lets splice in (`fs/pipe.c`, `pipe_poll`
    /// and `fs/splice.c`, `wait_for_space`: both `pipe_full`).
    pub fn has_room(&self) -> io::Result<bool> {
        is(self.writer.as_fd(), PollFlags::POLLOUT)
    }

    /// Whether no slot is taken.
    pub fn is_empty(&self) -> io::Result<bool> {
        Ok(!is(self.reader.as_fd(), PollFlags::POLLIN)?)
    }
}

/// Whether a descriptor is in that state right now.
fn is(descriptor: BorrowedFd<'_>, state: PollFlags) -> io::Result<bool> {
    let mut asked = [PollFd::new(descriptor, state)];
    uninterrupted(|| poll(&mut asked, PollTimeout::ZERO))?;
    Ok(asked[0].revents().is_some_and(|told| told.contains(state)))
}

fn capacity(told: c_int) -> usize {
    usize::try_from(told).unwrap_or(0)
}

fn moved(from: BorrowedFd<'_>, to: BorrowedFd<'_>, most: usize) -> io::Result<usize> {
    let flags = SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK;
    Ok(uninterrupted(|| splice(from, None, to, None, most, flags))?)
}

fn uninterrupted<T>(mut call: impl FnMut() -> nix::Result<T>) -> nix::Result<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            done => return done,
        }
    }
}
