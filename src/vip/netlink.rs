//! Addresses and links of this host by rtnetlink: put, renew, remove, list, and be told of changes.

mod error;

use std::net::IpAddr;

use tokio::sync::mpsc;

use crate::model::{Mac, VipAddress, VipEntry, VipLink};

pub use error::KernelError;

/// What of the host's network has changed; the reader asks for the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// An entry of this address was added, renewed or deleted, on whatever interface.
    Address { ip: IpAddr },
    /// `notify`: the kernel wishes that neighbours be told (NETDEV_NOTIFY_PEERS, a bond's failover).
    Link { index: u32, name: String, notify: bool },
    /// Changes were lost: list everything anew.
    Overrun,
}

/// An interface as the kernel shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkFacts {
    pub link: VipLink,
    pub name: String,
    pub is_loopback: bool,
    /// Ethernet or what calls itself so, and does ARP: frames can announce an address there.
    pub is_ethernet: bool,
}

/// The kernel's side of addresses. Cheap to clone.
#[derive(Clone)]
pub struct Netlink;

impl Netlink {
    /// Must be called within a tokio runtime. The receiver's mailbox is bounded; what does not fit there becomes
    /// one [`Change::Overrun`].
    pub async fn open() -> Result<(Netlink, mpsc::Receiver<Change>), KernelError> {
        Err(KernelError::other("opening netlink".into(), "unfinished"))
    }

    /// None: there is no interface of this name.
    pub async fn link(&self, name: &str) -> Result<Option<VipLink>, KernelError> {
        Ok(self.facts(name).await?.map(|facts| facts.link))
    }

    /// None: there is no interface of this name.
    pub async fn facts(&self, name: &str) -> Result<Option<LinkFacts>, KernelError> {
        let _ = name;
        Ok(None)
    }

    /// The hardware addresses of all interfaces of this host.
    pub async fn own_macs(&self) -> Result<Vec<Mac>, KernelError> {
        Ok(Vec::new())
    }

    /// Everything the kernel has under this address, on all interfaces.
    pub async fn entries(&self, ip: IpAddr) -> Result<Vec<VipEntry>, KernelError> {
        let _ = ip;
        Ok(Vec::new())
    }

    /// Index of the interface, address and prefix of everything this host has.
    pub async fn local_addresses(&self) -> Result<Vec<(u32, IpAddr, u8)>, KernelError> {
        Ok(Vec::new())
    }

    /// Adds or renews. `valid`: seconds; None: for ever.
    pub async fn put(
        &self,
        link: u32,
        interface: &str,
        address: VipAddress,
        valid: Option<u32>,
    ) -> Result<(), KernelError> {
        let _ = (link, interface, address, valid);
        Ok(())
    }

    /// One that is gone already is well removed.
    pub async fn remove(&self, entry: &VipEntry, ip: IpAddr) -> Result<(), KernelError> {
        let _ = (entry, ip);
        Ok(())
    }
}
