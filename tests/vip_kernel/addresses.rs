//! Addresses come, are renewed, expire and go, and those of others stay.

use std::net::IpAddr;
use std::time::Duration;

use pgvane::model::VipAddress;
use pgvane::vip::netlink::KernelError;
use rtnetlink::packet_route::address::{AddressAttribute, AddressProtocol};

use super::bed::{BOTH, Bed, VIP, VIP6, single, until};

#[tokio::test]
async fn an_address_is_put_shown_and_removed() {
    let bed = Bed::new(&["a"]);
    let node = bed.node("a").await;
    for ip in BOTH {
        assert_eq!(node.netlink.entries(ip).await.unwrap(), []);
        node.put(ip, Some(30)).await;
        let [entry] = &node.netlink.entries(ip).await.unwrap()[..] else { panic!("one entry of {ip}") };
        assert_eq!((&*entry.interface, entry.index, entry.prefix), ("eth0", node.link.index, single(ip).prefix));
        assert!(entry.is_ours && !entry.is_failed, "{entry:?}");
        let left = entry.valid_for.expect("a lifetime");
        assert!(left <= Duration::from_secs(30) && left > Duration::from_secs(10), "{left:?}");
        let all = node.netlink.local_addresses().await.unwrap();
        assert!(all.contains(&(node.link.index, ip, single(ip).prefix)), "{all:?}");
        node.netlink.remove(entry, ip).await.unwrap();
        assert_eq!(node.netlink.entries(ip).await.unwrap(), []);
        // What is gone is well removed, and so is what was on an interface that is gone.
        node.netlink.remove(entry, ip).await.unwrap();
        let elsewhere = pgvane::model::VipEntry { index: 4711, ..entry.clone() };
        node.netlink.remove(&elsewhere, ip).await.unwrap();
    }
}

#[tokio::test]
async fn what_is_not_renewed_is_taken_away_by_the_kernel() {
    let bed = Bed::new(&["a"]);
    let node = bed.node("a").await;
    for ip in BOTH {
        node.put(ip, Some(2)).await;
        let began = pgvane::runtime::clock::now();
        until("it expires", async || node.netlink.entries(ip).await.unwrap().is_empty().then_some(())).await;
        let lived = began.elapsed();
        eprintln!("{ip} with 2 s was gone after {:.2} s", lived.as_secs_f64());
        assert!(lived > Duration::from_millis(1900), "{lived:?}");
    }
}

#[tokio::test]
async fn an_address_without_lifetime_stays_until_it_is_given_one() {
    let bed = Bed::new(&["a"]);
    let node = bed.node("a").await;
    for ip in BOTH {
        node.put(ip, None).await;
        let entries = node.netlink.entries(ip).await.unwrap();
        assert!(entries.len() == 1 && entries[0].is_ours && entries[0].valid_for.is_none(), "{entries:?}");
        node.put(ip, Some(30)).await;
        let entries = node.netlink.entries(ip).await.unwrap();
        assert!(entries.len() == 1 && entries[0].valid_for.is_some(), "{entries:?}");
    }
}

/// An administrator who makes ours permanent has not made it his.
#[tokio::test]
async fn a_lifetime_that_somebody_changed_is_seen_and_the_address_is_still_ours() {
    let bed = Bed::new(&["a"]);
    let node = bed.node("a").await;
    for ip in BOTH {
        node.put(ip, Some(30)).await;
        bed.ip("a", &format!("addr change {} dev eth0 valid_lft forever preferred_lft forever", single(ip)));
        let entries = node.netlink.entries(ip).await.unwrap();
        assert!(entries.len() == 1 && entries[0].is_ours && entries[0].valid_for.is_none(), "{entries:?}");
    }
}

/// By rtnetlink alone: iproute2 sets IFA_PROTO from 6.3 on.
async fn add_tagged(bed: &Bed, ip: IpAddr, index: u32, tag: u8) {
    let (connection, handle, _) = bed.at("a", || rtnetlink::new_connection().unwrap());
    let serving = tokio::spawn(connection);
    let mut request = handle.address().add(index, ip, single(ip).prefix);
    request.message_mut().attributes.push(AddressAttribute::Protocol(AddressProtocol::Other(tag)));
    request.execute().await.unwrap();
    serving.abort();
}

#[tokio::test]
async fn ours_are_told_from_those_of_others() {
    let bed = Bed::new(&["a"]);
    let node = bed.node("a").await;
    for ip in BOTH {
        for (tag, is_ours) in [(99, false), (118, true)] {
            add_tagged(&bed, ip, node.link.index, tag).await;
            let entries = node.netlink.entries(ip).await.unwrap();
            assert_eq!(entries.iter().map(|entry| entry.is_ours).collect::<Vec<_>>(), [is_ours], "{tag}: {entries:?}");
            node.netlink.remove(&entries[0], ip).await.unwrap();
        }
    }
    let cases = [("add {vip} dev eth0", false), ("add {vip} dev lo", false)];
    // Before 5.18 the kernel keeps no protocol; then a label tells, or for IPv6 the metric of a route.
    let of_old_kernels = [
        (VIP, "add {vip} dev eth0 label eth0:pgv", true),
        (VIP, "add {vip} dev eth0 label eth0:vip", false),
        (VIP6, "add {vip} dev eth0 metric 118118", true),
        (VIP6, "add {vip} dev eth0 metric 100", false),
    ];
    let both = BOTH.iter().flat_map(|ip| cases.map(|(how, is_ours)| (*ip, how, is_ours)));
    for (ip, how, is_ours) in both.chain(of_old_kernels) {
        let how = how.replace("{vip}", &single(ip).to_string());
        bed.ip("a", &format!("addr {how}"));
        let entries = node.netlink.entries(ip).await.unwrap();
        assert_eq!(entries.iter().map(|entry| entry.is_ours).collect::<Vec<_>>(), [is_ours], "{how}: {entries:?}");
        node.netlink.remove(&entries[0], ip).await.unwrap();
    }
}

#[tokio::test]
async fn of_two_entries_with_one_address_only_ours_goes() {
    let bed = Bed::new(&["a"]);
    let node = bed.node("a").await;
    bed.ip("a", "addr add 192.0.2.100/24 dev eth0");
    node.put(VIP, Some(30)).await;
    let entries = node.netlink.entries(VIP).await.unwrap();
    let seen: Vec<_> = entries.iter().map(|entry| (entry.prefix, entry.is_ours)).collect();
    assert_eq!(seen, [(24, false), (32, true)]);
    node.remove(VIP).await;
    let entries = node.netlink.entries(VIP).await.unwrap();
    let seen: Vec<_> = entries.iter().map(|entry| (entry.prefix, entry.is_ours)).collect();
    assert_eq!(seen, [(24, false)]);
}

/// Alone, it adds no route and is nobody's source; with a prefix it leads to its network, as vip-manager's does.
#[tokio::test]
async fn a_prefix_that_was_asked_for_brings_its_route_and_none_brings_none() {
    let bed = Bed::new(&["a"]);
    let node = bed.node("a").await;
    bed.ip("a", "addr flush dev eth0 scope global");
    for ip in BOTH {
        node.put(ip, Some(30)).await;
    }
    let routes = || bed.ip("a", "route show dev eth0") + &bed.ip("a", "-6 route show dev eth0");
    let without_link_local = |routes: String| routes.lines().filter(|line| !line.starts_with("fe80")).count();
    assert_eq!(without_link_local(routes()), 0, "{}", routes());
    for (ip, prefix) in [(VIP, 24), (VIP6, 64)] {
        node.remove(ip).await;
        let address = VipAddress { ip, prefix };
        node.netlink.put(node.link.index, "eth0", address, Some(30)).await.unwrap();
        // And again, as a renewal.
        node.netlink.put(node.link.index, "eth0", address, Some(30)).await.unwrap();
        let entries = node.netlink.entries(ip).await.unwrap();
        assert!(entries.len() == 1 && entries[0].prefix == prefix, "{entries:?}");
    }
    let shown = routes();
    assert!(shown.contains("192.0.2.0/24 ") && shown.contains("2001:db8::/64 "), "{shown}");
    assert!(!bed.ip("a", "addr show dev eth0").contains("brd 192.0.2"), "no broadcast address comes with it");
}

#[tokio::test]
async fn beside_other_addresses_it_is_no_source() {
    let bed = Bed::new(&["a", "b"]);
    let node = bed.node("a").await;
    for ip in BOTH {
        node.put(ip, Some(30)).await;
    }
    let to = bed.ip("a", "route get 192.0.2.12");
    assert!(to.contains("src 192.0.2.11"), "{to}");
    let to = bed.ip("a", "-6 route get 2001:db8::12");
    assert!(to.contains("src 2001:db8::11"), "{to}");
    // It can be used at once, although nobody has looked for duplicates.
    let shown = bed.ip("a", "-6 addr show dev eth0");
    let of_ours = shown.lines().find(|line| line.contains("2001:db8::100/128")).expect("it is shown");
    assert!(of_ours.contains("deprecated") && !of_ours.contains("tentative"), "{shown}");
}

#[tokio::test]
async fn an_interface_with_a_long_name_holds_addresses_too() {
    let bed = Bed::new(&["a"]);
    let node = bed.node("a").await;
    bed.ip("a", "link add averylongname1 type veth peer name other");
    let link = node.netlink.link("averylongname1").await.unwrap().unwrap();
    node.netlink.put(link.index, "averylongname1", single(VIP), Some(30)).await.unwrap();
    let entries = node.netlink.entries(VIP).await.unwrap();
    assert!(entries.len() == 1 && entries[0].is_ours && &*entries[0].interface == "averylongname1", "{entries:?}");
}

/// With detection on, an address that another host answers for is failed for ever.
#[tokio::test]
async fn an_address_whose_detection_failed_is_seen_and_is_well_once_removed_and_put() {
    let bed = Bed::new(&["a", "b"]);
    let (node, other) = (bed.node("a").await, bed.node("b").await);
    other.put(VIP6, Some(60)).await;
    bed.ip("a", &format!("addr add {} dev eth0", single(VIP6)));
    let failed = until("detection fails", async || {
        node.netlink.entries(VIP6).await.unwrap().into_iter().find(|entry| entry.is_failed)
    });
    let failed = failed.await;
    other.remove(VIP6).await;
    node.netlink.remove(&failed, VIP6).await.unwrap();
    node.put(VIP6, Some(30)).await;
    assert!(!node.netlink.entries(VIP6).await.unwrap()[0].is_failed);
}

#[tokio::test]
async fn what_cannot_be_put_says_why() {
    let bed = Bed::new(&["a"]);
    let node = bed.node("a").await;
    let refused = node.netlink.put(4711, "eth7", single(VIP), Some(30)).await.unwrap_err();
    assert!(matches!(refused, KernelError::NoSuchLink { .. }), "{refused:?}");
    let said = refused.to_string();
    assert_eq!(
        said,
        "putting 192.0.2.100/32 on eth7: there is no interface eth7 on this host; `ip link` lists those there are"
    );
    let impossible = VipAddress { ip: VIP, prefix: 33 };
    let refused = node.netlink.put(node.link.index, "eth0", impossible, Some(30)).await.unwrap_err().to_string();
    assert!(refused.starts_with("putting 192.0.2.100/33 on eth0: the kernel says EINVAL"), "{refused}");
    let disabled = "/proc/sys/net/ipv6/conf/eth0/disable_ipv6";
    assert!(bed.command("a", "sh").args(["-c", &format!("echo 1 >{disabled}")]).status().unwrap().success());
    let refused = node.netlink.put(node.link.index, "eth0", single(VIP6), Some(30)).await.unwrap_err().to_string();
    assert!(refused.contains("sysctl net.ipv6.conf.eth0.disable_ipv6=0"), "{refused}");
}
