//! Frames as they are on the wire, taken apart by the tables of the RFCs and by nothing of ours.

use std::io::Read;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use pgvane::model::Mac;
use socket2::{Domain, Protocol, Socket, Type};

use super::bed::{Bed, VIP, VIP6};

/// include/uapi/linux/if_ether.h; in the network's order, as socket(2) wants it.
const ETH_P_ALL: u16 = 0x0003;
const NA: u8 = 136;
const NS: u8 = 135;

/// Whatever arrives on any interface of `host`.
fn capture(bed: &Bed, host: &str) -> Socket {
    let all = Protocol::from(i32::from(ETH_P_ALL.to_be()));
    let socket = bed.at(host, || Socket::new(Domain::PACKET, Type::RAW, Some(all)).unwrap());
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    socket
}

/// The next frame from `mac` that `is_wanted`.
fn next(capture: &Socket, mac: Mac, is_wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let mut buffer = [0; 2048];
    loop {
        let length = (&*capture).read(&mut buffer).expect("a frame");
        if buffer[6..12] == mac.0 && is_wanted(&buffer[..length]) {
            return buffer[..length].to_vec();
        }
    }
}

fn is_arp(frame: &[u8]) -> bool {
    frame[12..14] == [0x08, 0x06]
}

/// Neighbour discovery about the virtual address.
fn is_nd(kind: u8) -> impl Fn(&[u8]) -> bool {
    move |frame| {
        frame.len() >= 78 && frame[12..14] == [0x86, 0xdd] && frame[54] == kind && frame[62..78] == octets6(VIP6)
    }
}

fn octets4(ip: std::net::IpAddr) -> [u8; 4] {
    let std::net::IpAddr::V4(ip) = ip else { panic!("{ip} is IPv4") };
    ip.octets()
}

fn octets6(ip: std::net::IpAddr) -> [u8; 16] {
    let std::net::IpAddr::V6(ip) = ip else { panic!("{ip} is IPv6") };
    ip.octets()
}

/// RFC 826: hardware space, protocol space, lengths, operation, then sender and target.
fn assert_arp(frame: &[u8], mac: Mac, operation: u8, sender: [u8; 4], target_mac: [u8; 6]) {
    let mut expected = Vec::new();
    expected.extend([0xff; 6]);
    expected.extend(mac.0);
    expected.extend([0x08, 0x06]);
    expected.extend([0x00, 0x01, 0x08, 0x00, 6, 4, 0x00, operation]);
    expected.extend(mac.0);
    expected.extend(sender);
    expected.extend(target_mac);
    expected.extend([192, 0, 2, 100]);
    assert_eq!(expected.len(), 42);
    assert_eq!(frame, expected);
}

#[tokio::test]
async fn an_ipv4_address_is_announced_by_a_request_and_a_reply_and_probed_from_nowhere() {
    let bed = Bed::new(&["a", "b"]);
    let node = bed.node("a").await;
    let segment = bed.segment("a", &node, VIP);
    let wire = capture(&bed, "b");
    segment.announce().unwrap();
    assert_arp(&next(&wire, node.mac(), is_arp), node.mac(), 1, octets4(VIP), [0; 6]);
    assert_arp(&next(&wire, node.mac(), is_arp), node.mac(), 2, octets4(VIP), node.mac().0);
    segment.probe().unwrap();
    assert_arp(&next(&wire, node.mac(), is_arp), node.mac(), 1, Ipv4Addr::UNSPECIFIED.octets(), [0; 6]);
}

/// RFC 4443 section 2.3, by bytes: even positions count 256.
fn icmpv6_checksum(frame: &[u8]) -> u16 {
    let (addresses, message) = (&frame[22..54], &frame[54..]);
    let mut pseudo = addresses.to_vec();
    pseudo.extend((message.len() as u32).to_be_bytes());
    pseudo.extend([0, 0, 0, 58]);
    pseudo.extend(&message[..2]);
    pseudo.extend([0, 0]);
    pseudo.extend(&message[4..]);
    let total: u64 =
        pseudo.iter().enumerate().map(|(at, byte)| u64::from(*byte) << if at % 2 == 0 { 8 } else { 0 }).sum();
    // In ones' complement a number is its remainder by 65535.
    65535 - (total % 65535) as u16
}

/// RFC 8200 section 3: version, payload length, next header, hop limit, source and destination.
fn assert_ipv6(frame: &[u8], mac: Mac, destination_mac: [u8; 6], source: [u8; 16], destination: Ipv6Addr) {
    assert_eq!(frame[..6], destination_mac);
    assert_eq!(frame[6..12], mac.0);
    assert_eq!(frame[12..18], [0x86, 0xdd, 0x60, 0, 0, 0]);
    assert_eq!(usize::from(u16::from_be_bytes([frame[18], frame[19]])), frame.len() - 54);
    assert_eq!(frame[20..22], [58, 255]);
    assert_eq!(frame[22..38], source);
    assert_eq!(frame[38..54], destination.octets());
    assert_eq!(u16::from_be_bytes([frame[56], frame[57]]), icmpv6_checksum(frame));
}

#[tokio::test]
async fn an_ipv6_address_is_announced_to_all_nodes_and_probed_from_nowhere() {
    let bed = Bed::new(&["a", "b"]);
    let node = bed.node("a").await;
    let segment = bed.segment("a", &node, VIP6);
    let wire = capture(&bed, "b");
    segment.announce().unwrap();
    let frame = next(&wire, node.mac(), is_nd(NA));
    assert_eq!(frame.len(), 86);
    let all_nodes = "ff02::1".parse().unwrap();
    assert_ipv6(&frame, node.mac(), [0x33, 0x33, 0, 0, 0, 1], octets6(VIP6), all_nodes);
    // RFC 4861 section 4.4: type, code; then override alone, target, target link-layer address.
    assert_eq!(frame[54..56], [136, 0]);
    assert_eq!(frame[58..62], [0x20, 0, 0, 0]);
    assert_eq!(frame[62..78], octets6(VIP6));
    assert_eq!(frame[78..80], [2, 1]);
    assert_eq!(frame[80..86], node.mac().0);

    segment.probe().unwrap();
    let frame = next(&wire, node.mac(), is_nd(NS));
    // Section 4.3: without any option, since the source is unspecified.
    assert_eq!(frame.len(), 78);
    let group = "ff02::1:ff00:100".parse().unwrap();
    assert_ipv6(&frame, node.mac(), [0x33, 0x33, 0xff, 0, 0x01, 0], [0; 16], group);
    assert_eq!(frame[54..56], [135, 0]);
    assert_eq!(frame[58..62], [0; 4]);
    assert_eq!(frame[62..78], octets6(VIP6));
}

/// The two ways to sum must differ in nothing: over many addresses, so that carries occur.
#[tokio::test]
async fn the_checksum_is_right_for_many_addresses() {
    for number in 0..5000u128 {
        let ip = Ipv6Addr::from(number.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835));
        let mac = Mac([2, 0, 0, (number >> 8) as u8, 0xff, number as u8]);
        for frame in [&pgvane::vip::ndp::advertisement(mac, ip)[..], &pgvane::vip::ndp::solicitation(mac, ip)] {
            let carried = u16::from_be_bytes([frame[56], frame[57]]);
            // Zero and all ones are the same number.
            assert_eq!(carried % 65535, icmpv6_checksum(frame) % 65535, "{ip}");
        }
    }
}
