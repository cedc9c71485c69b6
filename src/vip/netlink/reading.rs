//! What messages of the kernel say about addresses and links, and what one says to it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeader, AddressMessage, AddressProtocol, AddressScope, CacheInfo,
};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};

use super::LinkFacts;
use crate::model::{Mac, VIP_PROTOCOL, VipAddress, VipEntry, VipLink};

/// A lifetime that does not end.
const FOREVER: u32 = u32::MAX;
/// What a label of ours ends with, for kernels that keep no IFA_PROTO (before 5.18). IPv4 only.
const LABEL_ENDING: &str = ":pgv";
/// Include/uapi/linux/if.h: IFNAMSIZ, less the terminator.
pub(super) const NAME_BYTES_MAX: usize = 15;
/// For the same kernels and IPv6, which has no labels: the metric of the prefix route, if there is one. The kernel
/// keeps it with the address (IFA_RT_PRIORITY, 4.18).
const METRIC: u32 = 118_118;

pub(super) fn family(ip: IpAddr) -> AddressFamily {
    match ip {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

/// The address itself; of a point-to-point link, ours and not the peer's.
pub(super) fn ip(message: &AddressMessage) -> Option<IpAddr> {
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(ip) => Some(*ip),
        _ => None,
    });
    local.or_else(|| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(ip) => Some(*ip),
            _ => None,
        })
    })
}

/// `interface`: the name that goes with the message's index.
pub(super) fn entry(message: &AddressMessage, interface: &str) -> VipEntry {
    let (mut valid_for, mut is_failed) = (None, false);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::CacheInfo(lifetimes) if lifetimes.ifa_valid != FOREVER => {
                valid_for = Some(Duration::from_secs(lifetimes.ifa_valid.into()));
            }
            AddressAttribute::Flags(flags) => is_failed = flags.contains(AddressFlags::Dadfailed),
            _ => {}
        }
    }
    VipEntry {
        interface: Arc::from(interface),
        index: message.header.index,
        prefix: message.header.prefix_len,
        is_ours: is_ours(&message.attributes),
        valid_for,
        is_failed,
    }
}

fn is_ours(attributes: &[AddressAttribute]) -> bool {
    let protocol = attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Protocol(protocol) => Some(u8::from(*protocol)),
        _ => None,
    });
    let is_tagged = || {
        attributes.iter().any(|attribute| match attribute {
            AddressAttribute::Label(label) => label.ends_with(LABEL_ENDING),
            AddressAttribute::RoutePriority(metric) => *metric == METRIC,
            _ => false,
        })
    };
    protocol.map_or_else(is_tagged, |protocol| protocol == VIP_PROTOCOL)
}

/// What adds or renews an address. `valid` in seconds.
pub(super) fn wanted(link: u32, interface: &str, address: VipAddress, valid: Option<u32>) -> AddressMessage {
    let mut message = named(link, address);
    let valid = valid.unwrap_or(FOREVER);
    let mut lifetimes = CacheInfo::default();
    lifetimes.ifa_valid = valid;
    // One that is not preferred is not chosen as a source, which IPv4 does not know. So keepalived has it
    // (vrrp_ipaddress.c).
    lifetimes.ifa_preferred = if address.ip.is_ipv4() { valid } else { 0 };
    // An address alone has no network to lead to. With a prefix that was asked for, the route to it comes as it does
    // with `ip addr add`.
    let mut flags = AddressFlags::empty();
    if address == VipAddress::single(address.ip) {
        flags |= AddressFlags::Noprefixroute;
    }
    let label = format!("{interface}{LABEL_ENDING}");
    match address.ip {
        // Who has it is asked before it is put; the kernel's own detection makes it useless for over a second, and for
        // ever where another host answers.
        IpAddr::V6(_) => {
            flags |= AddressFlags::Nodad;
            message.attributes.push(AddressAttribute::RoutePriority(METRIC));
        }
        IpAddr::V4(_) if label.len() <= NAME_BYTES_MAX => message.attributes.push(AddressAttribute::Label(label)),
        IpAddr::V4(_) => {}
    }
    message.attributes.push(AddressAttribute::Flags(flags));
    message.attributes.push(AddressAttribute::CacheInfo(lifetimes));
    message.attributes.push(AddressAttribute::Protocol(AddressProtocol::Other(VIP_PROTOCOL)));
    message
}

/// What names one entry: interface, address and prefix.
pub(super) fn named(link: u32, address: VipAddress) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header = AddressHeader {
        family: family(address.ip),
        prefix_len: address.prefix,
        scope: AddressScope::Universe,
        index: link,
        ..AddressHeader::default()
    };
    message.attributes = vec![AddressAttribute::Local(address.ip), AddressAttribute::Address(address.ip)];
    message
}

pub(super) fn link_name(message: &LinkMessage) -> Option<String> {
    message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    })
}

/// None: it has no hardware address of Ethernet's length.
pub(super) fn mac(message: &LinkMessage) -> Option<Mac> {
    message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Address(bytes) => bytes.as_slice().try_into().ok().map(Mac),
        _ => None,
    })
}

pub(super) fn facts(message: &LinkMessage) -> LinkFacts {
    let header = &message.header;
    let mac = mac(message);
    // IFF_RUNNING is the operational state: up, or a driver that does not tell (net/core/dev.c, dev_get_flags).
    let running = LinkFlags::Up | LinkFlags::LowerUp | LinkFlags::Running;
    LinkFacts {
        link: VipLink {
            index: header.index,
            mac: mac.unwrap_or(Mac([0; 6])),
            is_running: header.flags.contains(running),
        },
        name: link_name(message).unwrap_or_default(),
        is_loopback: header.flags.contains(LinkFlags::Loopback),
        is_ethernet: header.link_layer_type == LinkLayerType::Ether && mac.is_some(),
    }
}
