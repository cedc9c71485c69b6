//! Addresses and links of this host by rtnetlink: put, renew, remove, list, and be told of changes.

mod changes;
mod error;
mod reading;
mod requests;

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage};
use rtnetlink::packet_route::route::RouteType;
use tokio::sync::mpsc;

use crate::model::{Mac, VipAddress, VipEntry, VipLink};
use changes::Listening;
use error::Refusal;
use requests::Requests;

pub use error::KernelError;

/// Looks, one right after the other, at whether packets to an address come in; what a worker does then mostly is done.
const SETTLE_LOOKS: usize = 16;
/// Milliseconds before each look behind those; then it is done without.
const SETTLE_PAUSES: [u64; 4] = [1, 2, 4, 8];

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
    /// Only there can frames announce an address.
    pub is_ethernet: bool,
}

/// The kernel's side of addresses. Cheap to clone; with the last one its socket goes.
///
/// Each request is bounded by [`Netlink::ANSWER_MAX`]. One that is late may still be carried out.
#[derive(Debug, Clone)]
pub struct Netlink {
    requests: Arc<Requests>,
}

impl Netlink {
    /// For one answer of the kernel.
    pub const ANSWER_MAX: Duration = requests::ANSWER_MAX;

    /// Must be called within a tokio runtime. The receiver's mailbox is bounded: what does not fit there becomes one
    /// [`Change::Overrun`]. Changes end to be collected when the receiver is dropped.
    pub async fn open() -> Result<(Netlink, mpsc::Receiver<Change>), KernelError> {
        let unopened = |error: std::io::Error| {
            KernelError::new("opening netlink".into(), "", Refusal::Unopened(error.to_string()))
        };
        let listening = Listening::open().map_err(unopened)?;
        let requests = Requests::open().map_err(unopened)?;
        let (sender, receiver) = mpsc::channel(changes::CHANGES_MAX);
        tokio::spawn(changes::tell(listening, sender));
        Ok((Netlink { requests: Arc::new(requests) }, receiver))
    }

    /// None: there is no interface of this name.
    pub async fn link(&self, name: &str) -> Result<Option<VipLink>, KernelError> {
        Ok(self.facts(name).await?.map(|facts| facts.link))
    }

    /// None: there is no interface of this name.
    pub async fn facts(&self, name: &str) -> Result<Option<LinkFacts>, KernelError> {
        if name.is_empty() || name.len() > reading::NAME_BYTES_MAX {
            return Ok(None);
        }
        let mut wanted = unread_link();
        wanted.attributes.push(LinkAttribute::IfName(name.into()));
        match self.one_link(wanted).await {
            Ok(link) => Ok(link.as_ref().map(reading::facts)),
            Err(refusal) => Err(KernelError::new(format!("looking at interface {name}"), name, refusal)),
        }
    }

    async fn one_link(&self, wanted: LinkMessage) -> Result<Option<LinkMessage>, Refusal> {
        match self.requests.ask(RouteNetlinkMessage::GetLink(wanted), 0).await {
            Ok(said) => Ok(said.into_iter().find_map(new_link)),
            Err(Refusal::Errno(Errno::ENODEV, _)) => Ok(None),
            Err(refusal) => Err(refusal),
        }
    }

    /// The hardware addresses of all interfaces of this host.
    pub async fn own_macs(&self) -> Result<Vec<Mac>, KernelError> {
        let said = self.requests.list(RouteNetlinkMessage::GetLink(unread_link())).await;
        let said = said.map_err(|refusal| KernelError::new("listing the interfaces".into(), "", refusal))?;
        let macs = said.into_iter().filter_map(new_link).filter_map(|link| reading::mac(&link));
        Ok(macs.filter(|mac| *mac != Mac([0; 6])).collect())
    }

    /// Everything the kernel has under this address, on all interfaces, in the order of their indices.
    pub async fn entries(&self, ip: IpAddr) -> Result<Vec<VipEntry>, KernelError> {
        let failed = |refusal| KernelError::new(format!("looking for {ip}"), "", refusal);
        let mut wanted = AddressMessage::default();
        wanted.header.family = reading::family(ip);
        let said = self.requests.list(RouteNetlinkMessage::GetAddress(wanted)).await.map_err(failed)?;
        let mut entries = Vec::new();
        for message in said.into_iter().filter_map(new_address) {
            if reading::ip(&message) != Some(ip) {
                continue;
            }
            let mut link = unread_link();
            link.header.index = message.header.index;
            // Without its interface it is gone, too.
            if let Some(link) = self.one_link(link).await.map_err(failed)? {
                entries.push(reading::entry(&message, &reading::link_name(&link).unwrap_or_default()));
            }
        }
        entries.sort_by_key(|entry| (entry.index, entry.prefix));
        Ok(entries)
    }

    /// Index of the interface, address and prefix of everything this host has.
    pub async fn local_addresses(&self) -> Result<Vec<(u32, IpAddr, u8)>, KernelError> {
        let said = self.requests.list(RouteNetlinkMessage::GetAddress(AddressMessage::default())).await;
        let said = said.map_err(|refusal| KernelError::new("listing the addresses".into(), "", refusal))?;
        let addresses = said.into_iter().filter_map(new_address);
        let known = addresses.filter_map(|message| {
            reading::ip(&message).map(|ip| (message.header.index, ip, message.header.prefix_len))
        });
        Ok(known.collect())
    }

    /// Adds or renews: of what is there already only lifetime and tag change, and nobody notices. `valid` in seconds;
    /// None: for ever. The kernel takes it away that long after the last call, up to a second late.
    ///
    /// An IPv6 address whose duplicate detection has failed stays failed: remove it before.
    pub async fn put(
        &self,
        link: u32,
        interface: &str,
        address: VipAddress,
        valid: Option<u32>,
    ) -> Result<(), KernelError> {
        let message = RouteNetlinkMessage::NewAddress(reading::wanted(link, interface, address, valid));
        match self.requests.ask(message, NLM_F_CREATE | NLM_F_REPLACE).await {
            Ok(_) => self.settle(address.ip).await,
            Err(refusal) => {
                return Err(KernelError::new(format!("putting {address} on {interface}"), interface, refusal));
            }
        }
        Ok(())
    }

    /// The kernel lets IPv6 addresses in a moment later, by a worker (net/ipv6/addrconf.c, addrconf_dad_work). Whoever
    /// is told of one before may send a first packet into nothing, and the next after a second.
    async fn settle(&self, ip: IpAddr) {
        let IpAddr::V6(ip) = ip else { return };
        let wanted = RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(ip, 128).build();
        for pause in std::iter::repeat_n(0, SETTLE_LOOKS).chain(SETTLE_PAUSES) {
            if pause > 0 {
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
            let route = self.requests.ask(RouteNetlinkMessage::GetRoute(wanted.clone()), 0).await;
            let is_local = |message: &RouteNetlinkMessage| matches!(message, RouteNetlinkMessage::NewRoute(route) if route.header.kind == RouteType::Local);
            if route.is_ok_and(|said| said.iter().any(is_local)) {
                return;
            }
        }
    }

    /// One that is gone already is well removed, and so is one whose interface is gone.
    pub async fn remove(&self, entry: &VipEntry, ip: IpAddr) -> Result<(), KernelError> {
        let address = VipAddress { ip, prefix: entry.prefix };
        let message = RouteNetlinkMessage::DelAddress(reading::named(entry.index, address));
        match self.requests.ask(message, 0).await {
            Ok(_) | Err(Refusal::Errno(Errno::ENODEV | Errno::EADDRNOTAVAIL, _)) => Ok(()),
            Err(refusal) => {
                let what = format!("removing {address} from {}", entry.interface);
                Err(KernelError::new(what, &entry.interface, refusal))
            }
        }
    }
}

/// Asks for links without their counters.
fn unread_link() -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    message
}

fn new_link(message: RouteNetlinkMessage) -> Option<LinkMessage> {
    match message {
        RouteNetlinkMessage::NewLink(link) => Some(link),
        _ => None,
    }
}

fn new_address(message: RouteNetlinkMessage) -> Option<AddressMessage> {
    match message {
        RouteNetlinkMessage::NewAddress(address) => Some(address),
        _ => None,
    }
}
