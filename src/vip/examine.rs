//! What on this machine stands in the way of an address, before anything begins.

use std::fs;
use std::net::IpAddr;

use crate::model::VipSpec;

use super::capabilities;
use super::netlink::{KernelError, Netlink};

/// Interfaces named when the wanted one does not exist.
const INTERFACES_NAMED_MAX: usize = 8;

/// What was found.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Findings {
    /// The address cannot be held as it is configured.
    pub errors: Vec<String>,
    /// It can, and somebody should look at it.
    pub warnings: Vec<String>,
}

/// Looks at the rights of this process, the interface and the addresses that are there.
pub async fn examine(spec: &VipSpec) -> Findings {
    let mut findings = Findings::default();
    let missing = capabilities::missing();
    if !missing.is_empty() {
        findings.errors.push(format!(
            "{}: this process may not set addresses and send ARP: it lacks {}. Run it as root, or give its unit \
             `AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW`",
            spec.address,
            missing.join(" and ")
        ));
    }
    if let Err(error) = look(spec, &mut findings).await {
        findings.errors.push(format!("{}: {error}", spec.address));
    }
    findings
}

async fn look(spec: &VipSpec, findings: &mut Findings) -> Result<(), KernelError> {
    let (address, interface) = (spec.address, &spec.interface);
    let (netlink, _changes) = Netlink::open().await?;
    let Some(facts) = netlink.facts(interface).await? else {
        let there = interfaces().join(", ");
        findings.errors.push(format!("{address}: there is no interface `{interface}`; this host has {there}"));
        return Ok(());
    };
    if facts.is_loopback {
        findings.errors.push(format!(
            "{address}: `{interface}` is the loopback interface, which nobody else reaches; name the one that clients come in by"
        ));
        return Ok(());
    }
    if !facts.is_ethernet {
        findings.errors.push(format!(
            "{address}: `{interface}` is no Ethernet interface: no ARP or neighbour discovery can announce an address there"
        ));
        return Ok(());
    }
    if !facts.link.is_running {
        findings
            .warnings
            .push(format!("{address}: `{interface}` is down or has no carrier: the address waits until it runs"));
    }
    let foreign = netlink.entries(address.ip).await?.into_iter().find(|entry| !entry.is_ours);
    if let Some(entry) = foreign.filter(|_| !spec.adopt) {
        let (ip, prefix, on) = (address.ip, entry.prefix, &entry.interface);
        findings.errors.push(format!(
            "{address}: {ip}/{prefix} is on `{on}` of this host already, and not put there by pgvane. If it is this \
             host's own, choose another address; if vip-manager or a person left it, remove it with \
             `ip addr del {ip}/{prefix} dev {on}`, or write `adopt: true` to take it over"
        ));
    }
    let local = netlink.local_addresses().await?;
    let subnets = local.iter().filter(|(index, ip, _)| *index == facts.link.index && *ip != address.ip);
    if !subnets.clone().any(|(_, ip, prefix)| contains(*ip, *prefix, address.ip)) {
        let seen: Vec<String> = subnets.map(|(_, ip, prefix)| format!("{ip}/{prefix}")).collect();
        let has = if seen.is_empty() { "no address".to_owned() } else { seen.join(", ") };
        findings.warnings.push(format!(
            "{address} is in no subnet of `{interface}`, which has {has}: neighbours reach it only if they are told that it is on that link"
        ));
    }
    Ok(())
}

fn contains(ip: IpAddr, prefix: u8, other: IpAddr) -> bool {
    ipnet::IpNet::new(ip, prefix).is_ok_and(|net| net.contains(&other))
}

fn interfaces() -> Vec<String> {
    let Ok(folder) = fs::read_dir("/sys/class/net") else { return Vec::new() };
    let mut names: Vec<String> =
        folder.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned())).collect();
    names.sort();
    names.truncate(INTERFACES_NAMED_MAX);
    names
}
