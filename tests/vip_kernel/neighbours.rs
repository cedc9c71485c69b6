//! What a Linux neighbour table does with the frames, and what is heard of other hosts.

use std::io::Write;
use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use pgvane::model::Mac;
use pgvane::runtime::clock;
use pgvane::vip::netlink::Change;
use pgvane::vip::packet::Segment;
use pgvane::vip::{arp, ndp};
use socket2::{Domain, Socket, Type};

use super::bed::{BOTH, Bed, Node, VIP, VIP6, until, within};

/// What nobody says is not heard for so long.
const SILENCE: Duration = Duration::from_millis(300);
/// net/ipv4/arp.c: an entry changed less than that ago is not overwritten by what is not "gratuitous".
const LOCKTIME: Duration = Duration::from_secs(1);

/// `host` has talked to `ip`, and knows where it is.
async fn meet(bed: &Bed, host: &str, ip: IpAddr) {
    let socket = bed.at(host, || UdpSocket::bind(if ip.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap());
    until("the neighbour is reachable", async || {
        let _ = socket.send_to(b"?", (ip, 9));
        bed.neighbour(host, ip).filter(|(_, state)| state == "REACHABLE")
    })
    .await;
}

async fn moved(bed: &Bed, ip: IpAddr, to: Mac) {
    until("the neighbour has moved", async || bed.neighbour("client", ip).filter(|(mac, _)| *mac == to.to_string()))
        .await;
}

async fn change_holder(from: &Node, to: &Node, ip: IpAddr) {
    from.remove(ip).await;
    to.put(ip, Some(60)).await;
}

#[tokio::test]
async fn a_neighbour_that_just_talked_to_the_old_holder_goes_to_the_new_one_at_once() {
    let bed = Bed::new(&["a", "b", "client"]);
    let (a, b) = (bed.node("a").await, bed.node("b").await);
    for ip in BOTH {
        let segment = bed.segment("b", &b, ip);
        a.put(ip, Some(60)).await;
        meet(&bed, "client", ip).await;
        assert_eq!(bed.neighbour("client", ip).unwrap().0, a.mac().to_string());
        change_holder(&a, &b, ip).await;
        assert_eq!(bed.neighbour("client", ip).unwrap().0, a.mac().to_string(), "nobody has told it yet");
        segment.announce().unwrap();
        moved(&bed, ip, b.mac()).await;
        let socket = bed.at("client", || UdpSocket::bind(if ip.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap());
        let _ = socket.send_to(b"?", (ip, 9));
        assert_eq!(bed.neighbour("client", ip).unwrap().0, b.mac().to_string());
        b.remove(ip).await;
    }
}

/// Each of an IPv4 pair of frames alone suffices, also within the time for which Linux holds to an entry.
#[tokio::test]
async fn moves_back_to_back_are_followed() {
    let bed = Bed::new(&["a", "b", "client"]);
    let nodes = [bed.node("a").await, bed.node("b").await];
    let wires = ["a", "b"].map(|host| bare_wire(&bed, host, &nodes[usize::from(host == "b")]));
    let std::net::IpAddr::V4(ip) = VIP else { unreachable!("it is IPv4") };
    nodes[0].put(VIP, Some(60)).await;
    meet(&bed, "client", VIP).await;
    let frames = [arp::announcement, arp::unsolicited_reply];
    let (mut changed, mut quick) = (clock::now(), 0);
    for round in 1..=12 {
        let (old, new) = (&nodes[(round + 1) % 2], &nodes[round % 2]);
        change_holder(old, new, VIP).await;
        (&wires[round % 2]).write_all(&frames[round / 2 % 2](new.mac(), ip)).unwrap();
        moved(&bed, VIP, new.mac()).await;
        quick += usize::from(changed.elapsed() < LOCKTIME / 2);
        changed = clock::now();
    }
    assert!(quick >= 4, "this machine was too slow to show anything: {quick} of 12 moves");
    // The same for IPv6, which has no such time.
    nodes[0].remove(VIP).await;
    nodes[0].put(VIP6, Some(60)).await;
    meet(&bed, "client", VIP6).await;
    let segments = ["a", "b"].map(|host| bed.segment(host, &nodes[usize::from(host == "b")], VIP6));
    for round in 1..=6 {
        change_holder(&nodes[(round + 1) % 2], &nodes[round % 2], VIP6).await;
        segments[round % 2].announce().unwrap();
        moved(&bed, VIP6, nodes[round % 2].mac()).await;
    }
}

/// A packet socket that says any frame.
fn bare_wire(bed: &Bed, host: &str, node: &Node) -> Socket {
    let socket = bed.at(host, || Socket::new(Domain::PACKET, Type::RAW, None).unwrap());
    pgvane::sys::packet::bind_to(&socket, node.link.index, arp::ETHERTYPE).unwrap();
    socket
}

async fn is_silent(segment: &Segment) {
    let heard = tokio::time::timeout(SILENCE, segment.heard()).await;
    assert!(heard.is_err(), "{heard:?}");
}

async fn heard(segment: &Segment) -> Mac {
    within("a frame", segment.heard()).await.unwrap()
}

#[tokio::test]
async fn a_probe_is_answered_by_the_holder_and_by_nobody_else() {
    let bed = Bed::new(&["a", "b"]);
    let (a, b) = (bed.node("a").await, bed.node("b").await);
    for ip in BOTH {
        let (of_a, of_b) = (bed.segment("a", &a, ip), bed.segment("b", &b, ip));
        of_b.probe().unwrap();
        is_silent(&of_b).await;
        a.put(ip, Some(60)).await;
        of_b.probe().unwrap();
        assert_eq!(heard(&of_b).await, a.mac());
        // Whoever probes claims nothing, and our own frames say nothing to ourselves.
        of_a.announce().unwrap();
        is_silent(&of_a).await;
        assert_eq!(heard(&of_b).await, a.mac());
        of_b.announce().unwrap();
        assert_eq!(heard(&of_a).await, b.mac());
        a.remove(ip).await;
        drop(of_b);
        let of_b = bed.segment("b", &b, ip);
        of_b.probe().unwrap();
        is_silent(&of_b).await;
    }
}

/// Whoever hears of it in the same millisecond is served: the kernel lets IPv6 addresses in by a worker.
#[tokio::test]
async fn an_address_that_was_put_is_there() {
    let bed = Bed::new(&["a", "b"]);
    let (a, b) = (bed.node("a").await, bed.node("b").await);
    let of_b = bed.segment("b", &b, VIP6);
    for _ in 0..50 {
        a.put(VIP6, Some(60)).await;
        of_b.probe().unwrap();
        assert_eq!(heard(&of_b).await, a.mac());
        a.remove(VIP6).await;
    }
}

#[tokio::test]
async fn other_addresses_and_other_vlans_are_not_heard() {
    let bed = Bed::new(&["a", "b"]);
    let (a, b) = (bed.node("a").await, bed.node("b").await);
    let wire = bare_wire(&bed, "b", &b);
    for ip in BOTH {
        let segment = bed.segment("a", &a, ip);
        let about = |ip: IpAddr| match ip {
            IpAddr::V4(ip) => arp::announcement(b.mac(), ip).to_vec(),
            IpAddr::V6(ip) => ndp::advertisement(b.mac(), ip).to_vec(),
        };
        let neighbour: IpAddr = if ip.is_ipv4() { "192.0.2.101" } else { "2001:db8::101" }.parse().unwrap();
        (&wire).write_all(&about(neighbour)).unwrap();
        let mut tagged = about(ip);
        // 802.1Q: VLAN 5.
        tagged.splice(12..12, [0x81, 0x00, 0x00, 0x05]);
        (&wire).write_all(&tagged).unwrap();
        is_silent(&segment).await;
        // VLAN 0 is none: only a priority.
        tagged[15] = 0;
        (&wire).write_all(&tagged).unwrap();
        assert_eq!(heard(&segment).await, b.mac());
    }
}

#[tokio::test]
async fn a_link_that_was_down_and_a_mac_address_that_changed_are_survived() {
    let bed = Bed::new(&["a", "b"]);
    let (mut a, b) = (bed.node("a").await, bed.node("b").await);
    let (of_a, of_b) = (bed.segment("a", &a, VIP), bed.segment("b", &b, VIP));
    let before = a.mac();
    bed.ip("a", "link set eth0 down");
    assert!(of_a.announce().is_err());
    is_silent(&of_a).await;
    bed.ip("a", "link set eth0 address 02:00:00:00:00:99");
    bed.ip("a", "link set eth0 up");
    loop {
        a.link = a.netlink.link("eth0").await.unwrap().unwrap();
        if a.link.is_running {
            break;
        }
        a.change(|change| matches!(change, Change::Link { .. })).await;
    }
    of_a.know(&a.link, &a.netlink.own_macs().await.unwrap());
    of_a.announce().unwrap();
    assert_eq!(heard(&of_b).await.to_string(), "02:00:00:00:00:99");
    assert_eq!(heard(&of_b).await.to_string(), "02:00:00:00:00:99");
    // What still has the former address in it is no other host's.
    let wire = bare_wire(&bed, "b", &b);
    (&wire).write_all(&arp::announcement(before, "192.0.2.100".parse().unwrap())).unwrap();
    is_silent(&of_a).await;
    of_b.announce().unwrap();
    assert_eq!(heard(&of_a).await, b.mac());
}

/// With two interfaces on one segment both answer for an address of either.
#[tokio::test]
async fn the_other_interface_of_the_same_host_is_not_foreign() {
    let bed = Bed::new(&["a", "b"]);
    let (a, b) = (bed.node("a").await, bed.node("b").await);
    let segment = bed.segment("a", &a, VIP);
    let wire = bare_wire(&bed, "b", &b);
    bed.ip("a", "link add spare type veth peer name other");
    let spare = a.netlink.link("spare").await.unwrap().unwrap().mac;
    segment.know(&a.link, &a.netlink.own_macs().await.unwrap());
    (&wire).write_all(&arp::announcement(spare, "192.0.2.100".parse().unwrap())).unwrap();
    is_silent(&segment).await;
}

#[tokio::test]
async fn where_frames_cannot_announce_an_address_it_is_said() {
    let bed = Bed::new(&["a"]);
    let a = bed.node("a").await;
    let lo = a.netlink.link("lo").await.unwrap().unwrap();
    let refused = bed.at("a", || Segment::open(&lo, VIP).unwrap_err());
    assert!(refused.to_string().contains("not an Ethernet interface"), "{refused}");
}
