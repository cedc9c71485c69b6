//! Waiting until a socket has something to read or to accept.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::Socket;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Must be called within a tokio runtime, which then watches the socket; it must not block.
pub fn watch(socket: Arc<Socket>) -> io::Result<AsyncFd<Arc<Socket>>> {
    // SAFETY: the Arc, which the AsyncFd owns, keeps the socket open until the AsyncFd has let go of
    // it, and a Socket names the same descriptor all its life.
    let watched = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
    Ok(watched?)
}

/// How far a connect has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connecting {
    UnderWay,
    Done,
    /// SO_ERROR says how.
    Failed,
}

/// Asks the kernel once, and does not wait.
pub fn connecting(socket: &impl AsFd) -> io::Result<Connecting> {
    let mut asked = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
    poll(&mut asked, PollTimeout::ZERO)?;
    let said = asked[0].revents().unwrap_or(PollFlags::POLLERR);
    Ok(if said.intersects(PollFlags::POLLERR | PollFlags::POLLHUP) {
        Connecting::Failed
    } else if said.contains(PollFlags::POLLOUT) {
        Connecting::Done
    } else {
        Connecting::UnderWay
    })
}
