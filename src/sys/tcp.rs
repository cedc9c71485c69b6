//! What the kernel knows of a TCP connection.

use std::io;
use std::mem;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use socket2::SockRef;

/// Sends the last bytes of a connection and its end in one packet: the kernel keeps the bytes for the FIN (MSG_MORE,
/// send(2)). What it did not take is for the caller to send, and so is the end then.
pub fn send_last(socket: &impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    let socket = SockRef::from(socket);
    let sent = socket.send_with_flags(bytes, libc::MSG_MORE | libc::MSG_NOSIGNAL)?;
    if sent == bytes.len() {
        // The other side may be gone already, which the next read tells.
        let _ = socket.shutdown(Shutdown::Write);
    }
    Ok(sent)
}

/// What waits in a socket for its peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outgoing {
    /// Bytes that the peer has not acknowledged, sent or not.
    pub queued: usize,
    /// Some of them are on their way. If not, the peer has no room for them.
    pub in_flight: bool,
    /// Since the peer acknowledged anything, be it a probe.
    pub heard: Duration,
}

/// Fails for what is not a TCP socket.
pub fn outgoing(socket: &impl AsFd) -> io::Result<Outgoing> {
    let descriptor = socket.as_fd().as_raw_fd();
    // SAFETY: a struct of integers, for which zeros are a value.
    let mut info: libc::tcp_info = unsafe { mem::zeroed() };
    let mut length = mem::size_of_val(&info) as libc::socklen_t;
    let place = (&raw mut info).cast();
    // SAFETY: the descriptor is open as long as `socket` is borrowed, and the kernel writes `length` bytes at
    // most, which is what there is room for.
    let asked = unsafe { libc::getsockopt(descriptor, libc::IPPROTO_TCP, libc::TCP_INFO, place, &raw mut length) };
    Errno::result(asked)?;
    let mut queued: libc::c_int = 0;
    // SAFETY: as above; this request (SIOCOUTQ) writes one int.
    let asked = unsafe { libc::ioctl(descriptor, libc::TIOCOUTQ, &raw mut queued) };
    Errno::result(asked)?;
    Ok(Outgoing {
        queued: usize::try_from(queued).unwrap_or(0),
        in_flight: info.tcpi_unacked > 0,
        heard: Duration::from_millis(u64::from(info.tcpi_last_ack_recv)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn bytes_that_nobody_reads_wait() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut theirs, _) = listener.accept().unwrap();
        assert_eq!(outgoing(&ours).unwrap().queued, 0);
        ours.set_nonblocking(true).unwrap();
        let mut written = 0;
        while let Ok(n) = ours.write(&[0; 65536]) {
            written += n;
        }
        let waiting = outgoing(&ours).unwrap().queued;
        assert!(waiting > 0 && waiting < written, "{waiting} of {written}");
        theirs.read_exact(&mut vec![0; written]).unwrap();
        while outgoing(&ours).unwrap().queued > 0 {
            std::thread::yield_now();
        }
        assert!(outgoing(&std::os::unix::net::UnixStream::pair().unwrap().0).is_err());
    }
}
