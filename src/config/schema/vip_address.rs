//! A virtual address as people write it, and why some addresses cannot be one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::allow::prefix_length;
use crate::model::{Cidr, HostPort, VipAddress};

/// Reads `10.10.10.100`, `10.10.10.100/24`, `fd00::100/64`. The error says what to write.
pub(super) fn parse(text: &str) -> Result<VipAddress, String> {
    let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
    let Ok(ip) = address.parse::<IpAddr>() else { return Err(no_address(text, address)) };
    let single = VipAddress::single(ip);
    let prefix = match prefix {
        None => single.prefix,
        Some(prefix) => prefix_length(prefix, single.prefix).map_err(|meant| match meant {
            Some(meant) if meant > 0 => format!("`{text}` has a mask; write {address}/{meant}"),
            _ => no_prefix(text, single),
        })?,
    };
    match (prefix, unfit(ip).or_else(|| unfit_in_network(ip, prefix))) {
        (0, _) => Err(no_prefix(text, single)),
        (_, Some(why)) => Err(format!("`{text}` {why}")),
        (prefix, None) => Ok(VipAddress { ip, prefix }),
    }
}

fn no_prefix(text: &str, single: VipAddress) -> String {
    format!(
        "`{text}` has an impossible prefix: what follows the slash is from 1 to {}; write {single} for the address alone",
        single.prefix
    )
}

fn no_address(text: &str, address: &str) -> String {
    let bare = address.trim_start_matches('[').trim_end_matches(']');
    if let Some((ip, _)) = address.split_once('%').filter(|(ip, _)| ip.parse::<Ipv6Addr>().is_ok()) {
        return format!("`{text}` names an interface, which goes into `interface`; write {ip}");
    }
    if bare.parse::<IpAddr>().is_ok() {
        return format!("`{text}` is an address in brackets: write \"{bare}\"");
    }
    let with_port = HostPort::parse(text, None).filter(|at| at.host.parse::<IpAddr>().is_ok());
    match with_port {
        Some(at) => format!("`{text}` has a port, which goes into the `listen` of a service; write {}", at.host),
        None => {
            format!("`{text}` is not an address such as 10.10.10.100/32 or \"fd00::100/128\"; names are not looked up")
        }
    }
}

/// What an address is that no host can have for its clients.
fn unfit(ip: IpAddr) -> Option<String> {
    let which = "write the one that clients connect to";
    match ip {
        _ if ip.is_unspecified() => Some(format!("is every address of a host, and none; {which}")),
        _ if ip.is_loopback() => Some(format!("is a loopback address, which no other host can reach; {which}")),
        _ if ip.is_multicast() => Some(format!("is a multicast address, which nobody has for himself; {which}")),
        IpAddr::V4(Ipv4Addr::BROADCAST) => Some(format!("is the broadcast address; {which}")),
        // RFC 1122, 3.2.1.3: this host on this network.
        IpAddr::V4(v4) if v4.octets()[0] == 0 => Some(format!("is an address of no network; {which}")),
        IpAddr::V4(_) => None,
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => Some(format!("is an IPv4 address written in IPv6: write {v4}")),
            None if v6.is_unicast_link_local() => Some(
                "is link-local, so each client would have to name an interface of its own with it; write a global \
                 address, or a unique local one such as \"fd00::100\""
                    .to_string(),
            ),
            None => None,
        },
    }
}

/// The first and the last address of an IPv4 network, and the first of an IPv6 one, which all its routers
/// have (RFC 4291, 2.6.1). Networks of two addresses and of one have no such (RFC 3021, RFC 6164).
fn unfit_in_network(ip: IpAddr, prefix: u8) -> Option<String> {
    let network = Cidr::new(ip, prefix).ok()?.trunc();
    let bits = if ip.is_ipv4() { 32 } else { 128 };
    if prefix + 1 >= bits {
        return None;
    }
    let inside = "write an address in it, or leave the prefix out";
    match ip {
        IpAddr::V4(_) if network.addr() == ip => Some(format!("is the network itself; {inside}")),
        IpAddr::V4(v4) if u32::from(v4).trailing_ones() >= u32::from(bits - prefix) => {
            Some(format!("is the broadcast address of {network}; {inside}"))
        }
        IpAddr::V6(_) if network.addr() == ip => Some(format!("is the address of all routers of {network}; {inside}")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_alone_unless_its_prefix_is_written() {
        let good = [
            ("10.10.10.100", "10.10.10.100/32"),
            ("10.10.10.100/24", "10.10.10.100/24"),
            ("10.10.10.0/32", "10.10.10.0/32"),
            ("10.10.10.0", "10.10.10.0/32"),
            ("10.10.10.0/31", "10.10.10.0/31"),
            ("10.10.10.255/31", "10.10.10.255/31"),
            ("10.10.10.255/8", "10.10.10.255/8"),
            ("fd00::100", "fd00::100/128"),
            ("FD00:0:0::0100/64", "fd00::100/64"),
            ("fd00::/127", "fd00::/127"),
        ];
        for (text, read) in good {
            assert_eq!(parse(text).map(|address| address.to_string()).as_deref(), Ok(read), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_one_is_told_what_it_is() {
        let bad = [
            ("10.0.0.1/33", "from 1 to 32; write 10.0.0.1/32"),
            ("10.0.0.1/0", "from 1 to 32"),
            ("10.0.0.1/", "from 1 to 32"),
            ("10.0.0.1/+8", "from 1 to 32"),
            ("10.0.0.1/0.0.0.0", "from 1 to 32"),
            ("10.0.0.1/255.255.255.0", "write 10.0.0.1/24"),
            ("fd00::1/129", "from 1 to 128; write fd00::1/128"),
            ("fd00::1/0", "from 1 to 128"),
            ("0.0.0.0", "every address"),
            ("::", "every address"),
            ("0.1.2.3", "no network"),
            ("127.0.0.53", "loopback"),
            ("::1", "loopback"),
            ("224.0.0.18", "multicast"),
            ("ff02::1", "multicast"),
            ("255.255.255.255", "is the broadcast address; "),
            ("10.0.0.0/24", "the network itself"),
            ("10.0.0.255/24", "broadcast address of 10.0.0.0/24"),
            ("fd00::/64", "all routers of fd00::/64"),
            ("fe80::1", "link-local"),
            ("fe80::1%eth0", "goes into `interface`"),
            ("::ffff:10.0.0.1", "write 10.0.0.1"),
            ("[fd00::1]", "write \"fd00::1\""),
            ("[fd00::1]/64", "in brackets"),
            ("10.0.0.1:5432", "has a port"),
            ("[fd00::1]:5432", "has a port"),
            ("db1", "names are not looked up"),
            ("10.0.0", "is not an address"),
            ("*", "is not an address"),
        ];
        for (text, said) in bad {
            let sentence = parse(text).unwrap_err();
            assert!(sentence.contains(said), "{text}: {sentence}");
        }
    }
}
