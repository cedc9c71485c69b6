//! Accepting a client in one system call.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use socket2::{SockAddr, SockAddrStorage, Socket};

/// The next client of a listening socket, and its address: already non-blocking and closed on exec, which takes two
/// more calls where each is asked for by itself. WouldBlock: there is none.
pub fn accept(listener: &Socket) -> io::Result<(OwnedFd, SockAddr)> {
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    let accepted = |storage: *mut SockAddrStorage, length: *mut libc::socklen_t| {
        // SAFETY: the descriptor is open as long as `listener` is borrowed; socket2 gives room for an address of
        // any kind and its length, and the kernel writes no more than that.
        let accepted = unsafe { libc::accept4(listener.as_raw_fd(), storage.cast(), length, flags) };
        let descriptor = Errno::result(accepted)?;
        // SAFETY: the kernel has just made it, and nobody else knows of it.
        Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
    };
    // SAFETY: on success the kernel has written the address and its length.
    unsafe { SockAddr::try_init(accepted) }
}
