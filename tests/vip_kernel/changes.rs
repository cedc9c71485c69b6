//! The kernel tells of what others do to addresses and links.

use std::net::{IpAddr, Ipv4Addr};

use pgvane::vip::netlink::{Change, Netlink};

use super::bed::{BOTH, Bed, Node, VIP, single, until, within};

fn is_eth0(change: &Change) -> bool {
    matches!(change, Change::Link { name, notify: false, .. } if name == "eth0")
}

#[tokio::test]
async fn what_is_added_renewed_or_deleted_is_told() {
    let bed = Bed::new(&["a"]);
    let mut node = bed.node("a").await;
    for ip in BOTH {
        let about = |change: &Change| *change == Change::Address { ip };
        bed.ip("a", &format!("addr add {} dev lo", single(ip)));
        node.change(about).await;
        bed.ip("a", &format!("addr del {} dev lo", single(ip)));
        node.change(about).await;
        node.put(ip, Some(30)).await;
        node.change(about).await;
        node.put(ip, Some(30)).await;
        node.change(about).await;
        node.put(ip, Some(1)).await;
        node.change(about).await;
        // And when the kernel takes it away.
        node.change(about).await;
        until("it is gone", async || node.netlink.entries(ip).await.unwrap().is_empty().then_some(())).await;
    }
}

async fn link_is(node: &mut Node, what: &str, is_so: impl Fn(&pgvane::model::VipLink) -> bool) {
    // A change may be told in several steps.
    loop {
        if node.netlink.link("eth0").await.unwrap().is_some_and(|link| is_so(&link)) {
            return;
        }
        within(what, node.change(is_eth0)).await;
    }
}

#[tokio::test]
async fn a_link_that_goes_down_or_changes_its_address_is_told() {
    let bed = Bed::new(&["a"]);
    let mut node = bed.node("a").await;
    assert!(node.link.is_running);
    bed.ip("a", "link set eth0 down");
    link_is(&mut node, "taken down", |link| !link.is_running).await;
    bed.ip("a", "link set eth0 up");
    link_is(&mut node, "set up", |link| link.is_running).await;
    // No carrier: it is still meant to be up.
    bed.ip("switch", "link set dev a down");
    link_is(&mut node, "carrier lost", |link| !link.is_running).await;
    assert!(bed.ip("a", "link show eth0").contains("NO-CARRIER,BROADCAST,MULTICAST,UP"));
    bed.ip("switch", "link set dev a up");
    link_is(&mut node, "carrier back", |link| link.is_running).await;
    bed.ip("a", "link set eth0 address 02:00:00:00:00:99");
    link_is(&mut node, "another MAC address", |link| link.mac.to_string() == "02:00:00:00:00:99").await;
    let index = node.link.index;
    bed.ip("a", "link del eth0");
    let change = node.change(|change| matches!(change, Change::Link { .. })).await;
    assert!(matches!(change, Change::Link { index: of, .. } if of == index));
    assert_eq!(node.netlink.link("eth0").await.unwrap(), None);
}

#[tokio::test]
async fn an_interface_is_known_for_what_it_is() {
    let bed = Bed::new(&["a"]);
    let node = bed.node("a").await;
    let eth0 = node.netlink.facts("eth0").await.unwrap().unwrap();
    assert!(!eth0.is_loopback && eth0.is_ethernet && eth0.name == "eth0");
    let shown = bed.ip("a", "link show eth0");
    assert!(shown.contains(&eth0.link.mac.to_string()), "{} in {shown}", eth0.link.mac);
    let lo = node.netlink.facts("lo").await.unwrap().unwrap();
    assert!(lo.is_loopback && !lo.is_ethernet && lo.link.is_running);
    for name in ["eth7", "", "a-name-that-is-longer-than-names-are"] {
        assert_eq!(node.netlink.facts(name).await.unwrap(), None, "{name}");
    }
    bed.ip("a", "link add spare type veth peer name other");
    let spare = node.netlink.facts("spare").await.unwrap().unwrap();
    assert!(!spare.link.is_running);
    let macs = node.netlink.own_macs().await.unwrap();
    assert!(macs.contains(&eth0.link.mac) && macs.contains(&spare.link.mac) && macs.len() == 3, "{macs:?}");
}

/// A reader that does not keep up learns that it missed something, and what comes after.
#[tokio::test]
async fn more_changes_than_have_room_become_an_overrun() {
    let bed = Bed::new(&["a"]);
    let mut node = bed.node("a").await;
    for number in 0..600u32 {
        let ip = IpAddr::V4(Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 0)) + number));
        node.netlink.put(1, "lo", single(ip), None).await.unwrap();
    }
    let mut before = 0;
    while within("an overrun", node.changes.recv()).await != Some(Change::Overrun) {
        before += 1;
    }
    assert!((1..600).contains(&before), "{before}");
    node.put(VIP, Some(30)).await;
    node.change(|change| *change == Change::Address { ip: VIP }).await;
    assert!(node.netlink.local_addresses().await.unwrap().len() > 600);
}

#[tokio::test]
async fn without_its_reader_netlink_still_answers() {
    let bed = Bed::new(&["a"]);
    let node = bed.node("a").await;
    drop(node.changes);
    let clone: Netlink = node.netlink.clone();
    drop(node.netlink);
    assert!(clone.link("eth0").await.unwrap().is_some());
}
