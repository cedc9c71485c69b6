//! Packet sockets: the address that binds one to an interface and an EtherType.

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{LinkAddr, SockaddrLike, bind};

/// Ethernet, and what looks like it: veth, bridges, bonds, VLANs (include/uapi/linux/if_arp.h).
const ARPHRD_ETHER: u16 = 1;

/// From here on an AF_PACKET socket hears the frames of one EtherType on one interface, and sends there. A filter
/// that is to see all of them must be attached before.
pub fn bind_to(socket: &impl AsFd, index: u32, ethertype: u16) -> io::Result<()> {
    // SAFETY: a struct of integers, for which zeros are a value.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = libc::AF_PACKET as libc::sa_family_t;
    address.sll_protocol = ethertype.to_be();
    address.sll_ifindex = libc::c_int::try_from(index).map_err(|_| io::ErrorKind::InvalidInput)?;
    let length = mem::size_of_val(&address) as libc::socklen_t;
    // SAFETY: it points to a sockaddr_ll of this length that lives until the call returns.
    let address = unsafe { LinkAddr::from_raw((&raw const address).cast(), Some(length)) };
    let address = address.ok_or(io::ErrorKind::InvalidInput)?;
    Ok(bind(socket.as_fd().as_raw_fd(), &address)?)
}

/// Whether the interface that an AF_PACKET socket is bound to has Ethernet's frames and addresses.
pub fn is_ethernet(socket: &impl AsFd) -> io::Result<bool> {
    // SAFETY: a struct of integers, for which zeros are a value.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    // The kernel writes as much of it as the hardware address is long.
    let mut length = mem::size_of_val(&address) as libc::socklen_t;
    let descriptor = socket.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open as long as `socket` is borrowed, and the kernel writes `length` bytes at most,
    // which is what there is room for.
    let asked = unsafe { libc::getsockname(descriptor, (&raw mut address).cast(), &raw mut length) };
    Errno::result(asked)?;
    Ok(address.sll_hatype == ARPHRD_ETHER)
}
