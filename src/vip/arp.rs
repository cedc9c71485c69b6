//! ARP frames of an address as bytes: RFC 826 on Ethernet, announcements and probes by RFC 5227.

use std::net::Ipv4Addr;

use crate::model::Mac;

/// Ethernet header and packet; the driver pads it to what Ethernet wants.
pub const FRAME_BYTES: usize = 42;
pub const ETHERTYPE: u16 = 0x0806;
/// Offset of the sender's protocol address in a frame.
pub(super) const SENDER_IP_AT: u32 = 28;

const BROADCAST: Mac = Mac([0xff; 6]);
const NO_MAC: Mac = Mac([0; 6]);
/// Hardware type Ethernet, protocol type IPv4, lengths of their addresses.
const ETHERNET_IPV4: [u8; 6] = [0, 1, 0x08, 0x00, 6, 4];
const REQUEST: u16 = 1;
const REPLY: u16 = 2;

/// A packet that was understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    pub is_request: bool,
    pub sender_mac: Mac,
    pub sender_ip: Ipv4Addr,
    pub target_mac: Mac,
    pub target_ip: Ipv4Addr,
}

/// What RFC 5227 calls an announcement. Linux takes it from whoever says it, be its own entry a moment old
/// (net/ipv4/arp.c, `arp_is_garp`).
pub fn announcement(mac: Mac, ip: Ipv4Addr) -> [u8; FRAME_BYTES] {
    let packet = Packet { is_request: true, sender_mac: mac, sender_ip: ip, target_mac: NO_MAC, target_ip: ip };
    broadcast(&packet)
}

/// The same for those who listen to replies only. The target is the sender, as RFC 5944 section 4.6 has it and as
/// Linux wants of a reply that is to overwrite an entry less than `locktime` old.
pub fn unsolicited_reply(mac: Mac, ip: Ipv4Addr) -> [u8; FRAME_BYTES] {
    let packet = Packet { is_request: false, sender_mac: mac, sender_ip: ip, target_mac: mac, target_ip: ip };
    broadcast(&packet)
}

/// Asks who has `ip`, from nobody's address: no table learns anything from it (RFC 5227 section 2.1.1).
pub fn probe(mac: Mac, ip: Ipv4Addr) -> [u8; FRAME_BYTES] {
    let nobody = Ipv4Addr::UNSPECIFIED;
    let packet = Packet { is_request: true, sender_mac: mac, sender_ip: nobody, target_mac: NO_MAC, target_ip: ip };
    broadcast(&packet)
}

fn broadcast(packet: &Packet) -> [u8; FRAME_BYTES] {
    let mut frame = [0; FRAME_BYTES];
    let operation = if packet.is_request { REQUEST } else { REPLY };
    frame[0..6].copy_from_slice(&BROADCAST.0);
    frame[6..12].copy_from_slice(&packet.sender_mac.0);
    frame[12..14].copy_from_slice(&ETHERTYPE.to_be_bytes());
    frame[14..20].copy_from_slice(&ETHERNET_IPV4);
    frame[20..22].copy_from_slice(&operation.to_be_bytes());
    frame[22..28].copy_from_slice(&packet.sender_mac.0);
    frame[28..32].copy_from_slice(&packet.sender_ip.octets());
    frame[32..38].copy_from_slice(&packet.target_mac.0);
    frame[38..42].copy_from_slice(&packet.target_ip.octets());
    frame
}

/// None: it is not a request or reply of IPv4 on Ethernet. Whatever pads the frame is ignored.
pub fn decode(frame: &[u8]) -> Option<Packet> {
    let frame: &[u8; FRAME_BYTES] = frame.first_chunk()?;
    if frame[12..14] != ETHERTYPE.to_be_bytes() || frame[14..20] != ETHERNET_IPV4 {
        return None;
    }
    let is_request = match u16::from_be_bytes([frame[20], frame[21]]) {
        REQUEST => true,
        REPLY => false,
        _ => return None,
    };
    Some(Packet {
        is_request,
        sender_mac: Mac(array(frame, 22)),
        sender_ip: Ipv4Addr::from(array::<4>(frame, 28)),
        target_mac: Mac(array(frame, 32)),
        target_ip: Ipv4Addr::from(array::<4>(frame, 38)),
    })
}

/// Who says in this frame that it has `ip`. A probe does not.
pub fn holder(frame: &[u8], ip: Ipv4Addr) -> Option<Mac> {
    let packet = decode(frame)?;
    (packet.sender_ip == ip).then_some(packet.sender_mac)
}

/// Offsets are ours, and within the frame.
fn array<const N: usize>(frame: &[u8; FRAME_BYTES], at: usize) -> [u8; N] {
    std::array::from_fn(|index| frame[at + index])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 7]);
    const IP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);

    #[test]
    fn whoever_announces_or_replies_says_that_it_has_the_address_and_a_probe_does_not() {
        assert_eq!(holder(&announcement(MAC, IP), IP), Some(MAC));
        assert_eq!(holder(&unsolicited_reply(MAC, IP), IP), Some(MAC));
        assert_eq!(holder(&announcement(MAC, IP), Ipv4Addr::new(192, 0, 2, 11)), None);
        assert_eq!(holder(&probe(MAC, IP), IP), None);
        let mut padded = announcement(MAC, IP).to_vec();
        padded.resize(60, 0xaa);
        assert_eq!(holder(&padded, IP), Some(MAC));
        let mut other_medium = announcement(MAC, IP);
        other_medium[15] = 6;
        assert_eq!(decode(&other_medium), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = (decode(&bytes), holder(&bytes, IP));
        }

        #[test]
        fn a_damaged_frame_is_read(at in 0..FRAME_BYTES, byte: u8, cut in 0..=FRAME_BYTES) {
            let mut frame = announcement(MAC, IP);
            frame[at] = byte;
            prop_assert_eq!(decode(&frame[..cut]).is_some(), cut == FRAME_BYTES && decode(&frame).is_some());
        }
    }
}
