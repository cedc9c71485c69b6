//! Frames about one address on one interface: ARP for IPv4, neighbour discovery for IPv6.

use std::io;
use std::net::IpAddr;

use crate::model::{Mac, VipLink};

/// A socket that hears and says what concerns one address on one interface.
pub struct Segment;

impl Segment {
    /// Must be called within a tokio runtime. Of another index, open another: an interface that was deleted and made
    /// anew is another one.
    pub fn open(link: &VipLink, ip: IpAddr) -> io::Result<Segment> {
        let _ = (link, ip);
        Err(io::ErrorKind::Unsupported.into())
    }

    /// The interface's MAC address as it is now, and all of this host's ([`super::netlink::Netlink::own_macs`]): frames
    /// from those are not foreign, and neither is what had been the interface's before.
    pub fn know(&self, link: &VipLink, own: &[Mac]) {
        let _ = (link, own);
    }

    /// The next frame of another host that says that it has the address. Cancel safe.
    pub async fn heard(&self) -> io::Result<Mac> {
        std::future::pending().await
    }

    /// Asks once who has the address.
    pub fn probe(&self) -> io::Result<()> {
        Ok(())
    }

    /// Says once that we have it.
    pub fn announce(&self) -> io::Result<()> {
        Ok(())
    }
}
