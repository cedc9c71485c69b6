//! Neighbour discovery frames of an address as bytes: RFC 4861 advertisements, RFC 4862 probes, on Ethernet.

use std::net::Ipv6Addr;

use crate::model::Mac;

pub const ETHERTYPE: u16 = 0x86dd;
/// An advertisement with its option; Ethernet header included.
pub const ADVERTISEMENT_BYTES: usize = 86;
/// A solicitation without options, as one from the unspecified address must be (RFC 4861 section 4.3).
pub const SOLICITATION_BYTES: usize = 78;
/// Offsets in a frame, Ethernet header included.
pub(super) const NEXT_HEADER_AT: u32 = 20;
pub(super) const TYPE_AT: u32 = 54;
pub(super) const TARGET_AT: u32 = 62;

pub(super) const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;
pub(super) const ADVERTISEMENT: u8 = 136;
/// A router lowers it, so whoever receives 255 has it from the link itself (RFC 4861 section 7.1).
const HOP_LIMIT: u8 = 255;
const SOLICITED_FLAG: u8 = 0x40;
const OVERRIDE_FLAG: u8 = 0x20;
const TARGET_LINK_LAYER_ADDRESS: u8 = 2;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

const ETHERNET_BYTES: usize = 14;
const ICMPV6_AT: usize = ETHERNET_BYTES + 40;
/// Type, code, checksum, flags and target.
const FIXED_BYTES: usize = 24;

/// An advertisement that was understood and that RFC 4861 section 7.1.2 finds valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advertisement {
    pub target: Ipv6Addr,
    /// The target link-layer address, or who sent the frame where it has none.
    pub mac: Mac,
    pub is_solicited: bool,
    pub is_override: bool,
}

/// An unsolicited advertisement to all nodes that overrides what they have (RFC 4861 section 7.2.6).
pub fn advertisement(mac: Mac, ip: Ipv6Addr) -> [u8; ADVERTISEMENT_BYTES] {
    let mut message = [0; 32];
    message[0] = ADVERTISEMENT;
    message[4] = OVERRIDE_FLAG;
    message[8..24].copy_from_slice(&ip.octets());
    // Kind, and length in units of 8 bytes.
    message[24..26].copy_from_slice(&[TARGET_LINK_LAYER_ADDRESS, 1]);
    message[26..32].copy_from_slice(&mac.0);
    let mut frame = [0; ADVERTISEMENT_BYTES];
    fill(&mut frame, mac, ip, ALL_NODES, &message);
    frame
}

/// What duplicate address detection asks, from nobody's address (RFC 4862 section 5.4.2). A holder answers to all
/// nodes.
pub fn solicitation(mac: Mac, ip: Ipv6Addr) -> [u8; SOLICITATION_BYTES] {
    let mut message = [0; FIXED_BYTES];
    message[0] = SOLICITATION;
    message[8..24].copy_from_slice(&ip.octets());
    let mut frame = [0; SOLICITATION_BYTES];
    fill(&mut frame, mac, Ipv6Addr::UNSPECIFIED, solicited_node(ip), &message);
    frame
}

/// The group of all who may have an address that ends like `ip` (RFC 4291 section 2.7.1).
fn solicited_node(ip: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = ip.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

/// Where a multicast goes on Ethernet (RFC 2464 section 7).
fn multicast_mac(group: Ipv6Addr) -> Mac {
    let [.., a, b, c, d] = group.octets();
    Mac([0x33, 0x33, a, b, c, d])
}

/// `frame` has room for the headers and `message`, whose checksum is still zero.
fn fill(frame: &mut [u8], mac: Mac, source: Ipv6Addr, group: Ipv6Addr, message: &[u8]) {
    let length = message.len() as u16;
    frame[0..6].copy_from_slice(&multicast_mac(group).0);
    frame[6..12].copy_from_slice(&mac.0);
    frame[12..14].copy_from_slice(&ETHERTYPE.to_be_bytes());
    frame[14] = 6 << 4;
    frame[18..20].copy_from_slice(&length.to_be_bytes());
    frame[20] = ICMPV6;
    frame[21] = HOP_LIMIT;
    frame[22..38].copy_from_slice(&source.octets());
    frame[38..54].copy_from_slice(&group.octets());
    frame[ICMPV6_AT..].copy_from_slice(message);
    let checksum = !sum(source, group, message);
    frame[ICMPV6_AT + 2..ICMPV6_AT + 4].copy_from_slice(&checksum.to_be_bytes());
}

/// Ones' complement sum over the pseudo header and the message (RFC 4443 section 2.3); all ones over a message whose
/// checksum is right.
fn sum(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u16 {
    let add = |total: u64, bytes: &[u8]| {
        bytes.chunks(2).fold(total, |total, pair| {
            let low = pair.get(1).copied().unwrap_or(0);
            total + u64::from(u16::from_be_bytes([pair[0], low]))
        })
    };
    let mut total = add(0, &source.octets());
    total = add(total, &destination.octets());
    total += message.len() as u64 + u64::from(ICMPV6);
    total = add(total, message);
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

/// None: it is not an advertisement, or not a valid one, or hidden behind extension headers.
pub fn decode(frame: &[u8]) -> Option<Advertisement> {
    let (ethernet, packet) = frame.split_first_chunk::<ETHERNET_BYTES>()?;
    let (header, rest) = packet.split_first_chunk::<40>()?;
    if ethernet[12..14] != ETHERTYPE.to_be_bytes() || header[0] >> 4 != 6 {
        return None;
    }
    let message = rest.get(..usize::from(u16::from_be_bytes([header[4], header[5]])))?;
    let (fixed, options) = message.split_first_chunk::<FIXED_BYTES>()?;
    if header[6] != ICMPV6 || header[7] != HOP_LIMIT || fixed[0] != ADVERTISEMENT || fixed[1] != 0 {
        return None;
    }
    let destination = Ipv6Addr::from(array::<16>(&header[24..])?);
    if sum(Ipv6Addr::from(array::<16>(&header[8..])?), destination, message) != 0xffff {
        return None;
    }
    let target = Ipv6Addr::from(array::<16>(&fixed[8..])?);
    let is_solicited = fixed[4] & SOLICITED_FLAG != 0;
    if target.is_multicast() || (destination.is_multicast() && is_solicited) {
        return None;
    }
    let mac = target_mac(options)?.unwrap_or(Mac(array(&ethernet[6..])?));
    Some(Advertisement { target, mac, is_solicited, is_override: fixed[4] & OVERRIDE_FLAG != 0 })
}

/// None: malformed. Some(None): there is no such option.
fn target_mac(mut options: &[u8]) -> Option<Option<Mac>> {
    while let [kind, length, ..] = *options {
        let length = usize::from(length) * 8;
        let option = options.get(..length).filter(|option| !option.is_empty())?;
        if kind == TARGET_LINK_LAYER_ADDRESS {
            return Some(Some(Mac(array(&option[2..])?)));
        }
        options = &options[length..];
    }
    options.is_empty().then_some(None)
}

/// Who says in this frame that it has `ip`.
pub fn holder(frame: &[u8], ip: Ipv6Addr) -> Option<Mac> {
    let advertisement = decode(frame)?;
    (advertisement.target == ip).then_some(advertisement.mac)
}

fn array<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    bytes.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 7]);
    const IP: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0x12, 0x3456);

    #[test]
    fn an_advertisement_says_who_has_the_address_and_a_probe_does_not() {
        let said = decode(&advertisement(MAC, IP)).unwrap();
        assert_eq!(said, Advertisement { target: IP, mac: MAC, is_solicited: false, is_override: true });
        assert_eq!(holder(&advertisement(MAC, IP), IP), Some(MAC));
        assert_eq!(holder(&advertisement(MAC, IP), Ipv6Addr::LOCALHOST), None);
        assert_eq!(decode(&solicitation(MAC, IP)), None);
    }

    #[test]
    fn without_its_option_the_sender_of_the_frame_is_meant() {
        let other = Mac([2, 0, 0, 0, 0, 8]);
        let mut message = [0; FIXED_BYTES];
        message[0] = ADVERTISEMENT;
        message[8..24].copy_from_slice(&IP.octets());
        let mut frame = [0; SOLICITATION_BYTES];
        fill(&mut frame, other, IP, ALL_NODES, &message);
        assert_eq!(holder(&frame, IP), Some(other));
    }

    #[test]
    fn one_that_a_router_passed_on_or_that_was_damaged_is_not_believed() {
        let good = advertisement(MAC, IP);
        for at in 14 + 4..good.len() {
            let mut frame = good;
            frame[at] ^= 0x10;
            assert_eq!(decode(&frame), None, "byte {at}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = (decode(&bytes), holder(&bytes, IP), target_mac(&bytes));
        }

        #[test]
        fn a_damaged_frame_is_read(at in 0..ADVERTISEMENT_BYTES, byte: u8, cut in 0..=ADVERTISEMENT_BYTES) {
            let mut frame = advertisement(MAC, IP);
            frame[at] = byte;
            let _ = decode(&frame[..cut]);
        }

        #[test]
        fn whatever_the_options_a_right_checksum_lets_them_be_read(
            options in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let mut message = vec![0; FIXED_BYTES];
            message[0] = ADVERTISEMENT;
            message[8..24].copy_from_slice(&IP.octets());
            message.extend(&options);
            let mut frame = vec![0; ICMPV6_AT + message.len()];
            fill(&mut frame, MAC, IP, ALL_NODES, &message);
            prop_assert_eq!(decode(&frame).is_some(), target_mac(&options).is_some());
        }
    }
}
