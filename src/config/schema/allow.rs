//! `allow:`, the networks that clients may come from, as written.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use super::{At, Fields};
use crate::config::yaml::Data;
use crate::model::Cidr;

/// Every new connection is looked up in the list.
const ALLOW_MAX: usize = 1024;

pub(in crate::config) struct Allow {
    /// Where the key stands.
    pub at: At,
    pub networks: Vec<Cidr>,
}

pub(super) fn read(fields: &Fields<'_>) -> Option<Allow> {
    let at = fields.key_at("allow")?;
    let written = fields.texts("allow")?;
    let sink = fields.sink();
    if written.is_empty() {
        // Items that are no texts were reported each.
        if matches!(fields.node("allow").map(|node| &node.data), Some(Data::List(items)) if items.is_empty()) {
            sink.report(at, format!("`allow` is empty, so nobody could connect: {EVERYBODY}"));
        }
        return None;
    }
    if let Some(first) = written.get(ALLOW_MAX) {
        let sentence = format!("`allow` has more than {ALLOW_MAX} entries: write larger networks");
        sink.report(first.at, sentence);
    }
    let mut known: BTreeSet<Cidr> = BTreeSet::new();
    let mut networks = Vec::new();
    for entry in written.iter().take(ALLOW_MAX) {
        match network(entry.value) {
            Err(sentence) => sink.report(entry.at, format!("`allow`: {sentence}")),
            Ok(network) if known.insert(network) => networks.push(network),
            Ok(_) => sink.report(entry.at, format!("`{}` is in `allow` twice", entry.value)),
        }
    }
    Some(Allow { at, networks })
}

const EVERYBODY: &str = "leave it out to let everybody in, or write [0.0.0.0/0, \"::/0\"]";

/// An address or a network; the error is a sentence that says what to write.
fn network(text: &str) -> Result<Cidr, String> {
    let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
    let Ok(address) = address.parse::<IpAddr>() else { return Err(no_address(text, address)) };
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let length = match prefix {
        None => bits,
        Some(prefix) => prefix_length(prefix, bits).map_err(|meant| match meant {
            Some(meant) => format!("`{text}` has a mask; write {address}/{meant}"),
            None => format!("`{text}` is not a network: what follows the slash is from 0 to {bits}"),
        })?,
    };
    let network = Cidr::new(address, length).map_err(|_| format!("`{text}` is not a network"))?;
    if network.trunc() != network {
        return Err(format!(
            "`{text}` is an address in a network: write {} for the network, or {address} for this address",
            network.trunc()
        ));
    }
    match (network, address) {
        // Clients of both families are told apart by their own addresses.
        (Cidr::V6(mapped), IpAddr::V6(v6)) if length >= 96 && v6.to_ipv4_mapped().is_some() => {
            let v4 = v6.to_ipv4_mapped().unwrap_or(Ipv4Addr::UNSPECIFIED);
            Err(format!("`{text}` is an IPv4 network written in IPv6: write {v4}/{}", mapped.prefix_len() - 96))
        }
        _ => Ok(network),
    }
}

/// The error is the length that a dotted mask means, if it is one.
pub(super) fn prefix_length(text: &str, bits: u8) -> Result<u8, Option<u8>> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse::<u8>() {
        Ok(length) if digits && length <= bits => Ok(length),
        _ => {
            let mask = text.parse::<Ipv4Addr>().ok().filter(|_| bits == 32).map(u32::from);
            let ones = mask.map(u32::leading_ones);
            let plain = mask.zip(ones).filter(|(mask, ones)| mask.count_ones() == *ones);
            Err(plain.and_then(|(_, ones)| u8::try_from(ones).ok()))
        }
    }
}

fn no_address(text: &str, address: &str) -> String {
    if matches!(text, "*" | "all" | "any" | "everybody" | "0/0") {
        return format!("`{text}` is not an address: {EVERYBODY}");
    }
    let bare = address.trim_start_matches('[').trim_end_matches(']');
    match (text, bare.parse::<IpAddr>()) {
        ("localhost", _) => "`localhost` is not an address: write 127.0.0.1 and \"::1\"".to_string(),
        (_, Ok(meant)) => format!("`{text}` is an address in brackets: write \"{meant}\""),
        _ => format!("`{text}` is not an address or a network such as 10.0.0.0/8; names are not looked up"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_read_as_people_write_them() {
        for text in ["10.0.0.0/8", "0.0.0.0/0", "fd00::/8", "::/0", "192.168.1.4/30"] {
            assert_eq!(network(text).map(|network| network.to_string()).as_deref(), Ok(text));
        }
        assert_eq!(network("192.168.1.7").map(|network| network.to_string()).as_deref(), Ok("192.168.1.7/32"));
        assert_eq!(network("::1").map(|network| network.to_string()).as_deref(), Ok("::1/128"));
    }

    #[test]
    fn what_was_meant_is_said() {
        let meant = [
            ("10.0.0.1/8", "write 10.0.0.0/8 for the network, or 10.0.0.1"),
            ("fd00::1/8", "write fd00::/8 for the network, or fd00::1"),
            ("10.0.0.0/255.255.0.0", "write 10.0.0.0/16"),
            ("10.0.0.0/255.0.255.0", "from 0 to 32"),
            ("10.0.0.0/33", "from 0 to 32"),
            ("10.0.0.0/", "from 0 to 32"),
            ("10.0.0.0/+8", "from 0 to 32"),
            ("::/129", "from 0 to 128"),
            ("::ffff:10.0.0.0/104", "write 10.0.0.0/8"),
            ("[::1]", "write \"::1\""),
            ("localhost", "127.0.0.1"),
            ("all", "leave it out to let everybody in"),
            ("10.0.0", "not an address or a network"),
            ("10.0.0.1-10.0.0.9", "not an address or a network"),
            ("db1", "names are not looked up"),
        ];
        for (text, said) in meant {
            let sentence = network(text).unwrap_err();
            assert!(sentence.contains(said), "{text}: {sentence}");
        }
    }
}
