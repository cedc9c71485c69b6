//! One virtual address, as written.

use std::time::Duration;

use super::policy::{is_off, whole_seconds};
use super::{owned, plain, vip_address};
use crate::config::diagnose::At;
use crate::config::fields::{Fields, Written, read_word};
use crate::config::yaml::Data;
use crate::model::{Role, VipAddress, VipOnDcsLoss};

pub(in crate::config) struct Vip {
    /// Where it begins.
    pub at: At,
    pub address: Option<Written<VipAddress>>,
    pub interface: Option<Written<String>>,
    pub cluster: Option<Written<String>>,
    /// Whether the key is there, well written or not.
    pub cluster_given: bool,
    pub member: Option<Written<String>>,
    pub role: Option<Role>,
    pub on_dcs_loss: Option<Written<VipOnDcsLoss>>,
    pub grace: Option<Written<Duration>>,
    pub lease: Option<Duration>,
    pub on_exit: Option<Exit>,
    pub close_sockets: Option<bool>,
    /// `off` is like nothing.
    pub refresh: Option<Duration>,
    pub adopt: Option<bool>,
}

pub(in crate::config) enum Exit {
    Release,
    /// `keep` alone says no time.
    Keep(Option<Written<Duration>>),
}

pub(super) fn read(vip: &Fields<'_>) -> Vip {
    Vip {
        at: At { width: 1, ..vip.at },
        address: read_address(vip),
        interface: read_interface(vip),
        cluster: owned(vip.text("cluster")),
        cluster_given: vip.node("cluster").is_some(),
        member: read_member(vip),
        role: read_role(vip),
        on_dcs_loss: vip.word("on_dcs_loss", &policies()),
        grace: vip.duration("grace"),
        lease: plain(whole_seconds(vip, "lease")),
        on_exit: read_on_exit(vip),
        close_sockets: plain(vip.switch("close_sockets")),
        refresh: read_refresh(vip),
        adopt: plain(vip.switch("adopt")),
    }
}

fn policies() -> [(&'static str, VipOnDcsLoss); 3] {
    [VipOnDcsLoss::KeepWhilePatroniLeads, VipOnDcsLoss::Release, VipOnDcsLoss::Hold]
        .map(|policy| (policy.as_str(), policy))
}

/// A text that no VIP can do without.
fn needed<'a>(vip: &Fields<'a>, key: &str, example: &str) -> Option<Written<&'a str>> {
    let is_empty = match vip.node(key).map(|node| &node.data) {
        None | Some(Data::Null) => true,
        Some(Data::Scalar(text)) => text.trim().is_empty(),
        Some(_) => false,
    };
    if is_empty {
        let at = vip.key_at(key).unwrap_or(At { width: 1, ..vip.at });
        vip.sink().report(at, format!("a VIP needs an `{key}`, such as {example}"));
        return None;
    }
    vip.text(key)
}

fn read_address(vip: &Fields<'_>) -> Option<Written<VipAddress>> {
    let written = needed(vip, "address", "10.10.10.100/32")?;
    match vip_address::parse(written.value) {
        Ok(value) => Some(Written { value, at: written.at }),
        Err(sentence) => {
            vip.sink().report(written.at, format!("`address`: {sentence}"));
            None
        }
    }
}

/// IFNAMSIZ of linux/if.h is 16, and the last one is a NUL.
const INTERFACE_BYTES_MAX: usize = 15;

fn read_interface(vip: &Fields<'_>) -> Option<Written<String>> {
    let written = needed(vip, "interface", "eth0")?;
    let name = written.value;
    // net/core/dev.c, `dev_valid_name`.
    let strange = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    let sentence = if let Some((device, _)) = name.split_once(':').filter(|(device, _)| !device.contains(strange)) {
        format!("`{name}` is a label of an address, not an interface: write `{device}`")
    } else if let Some(device) = name.strip_prefix("/dev/").or(name.strip_prefix("/sys/class/net/")) {
        format!("`{name}` is a path, and an interface has a name alone: write `{device}`")
    } else if name == "." || name == ".." || name.contains(strange) {
        format!("`{name}` cannot name an interface: no slash, no colon, no blank; `ip link` shows their names")
    } else if name.len() > INTERFACE_BYTES_MAX {
        format!(
            "`{name}` is {} bytes long, and the name of an interface has at most {INTERFACE_BYTES_MAX}; write the one \
             that `ip link` shows behind the number, not an alternative one",
            name.len()
        )
    } else {
        return owned(Some(written));
    };
    vip.sink().report(written.at, sentence);
    None
}

fn read_member(vip: &Fields<'_>) -> Option<Written<String>> {
    let written = vip.text("member")?;
    if written.value.contains(|c: char| c == '/' || c.is_control()) {
        let sentence = format!("`{}` cannot be a member: write the `name` of its patroni.yml", written.value);
        vip.sink().report(written.at, sentence);
        return None;
    }
    owned(Some(written))
}

fn roles() -> [(&'static str, Role); 4] {
    [Role::Primary, Role::Replica, Role::Sync, Role::StandbyLeader].map(|role| (role.as_str(), role))
}

fn read_role(vip: &Fields<'_>) -> Option<Role> {
    let written = vip.text("role")?;
    let other = Role::ALL.into_iter().find(|role| role.as_str() == written.value);
    let sentence = match other.and_then(unfit) {
        Some(why) => format!("a VIP does not follow `{}`: {why}", written.value),
        None => match read_word("role", written.value, &roles()) {
            Ok(role) => return Some(role),
            Err(sentence) => sentence,
        },
    };
    vip.sink().report(written.at, sentence);
    None
}

/// Why no address follows a role, if it is one of those.
fn unfit(role: Role) -> Option<&'static str> {
    match role {
        Role::Primary | Role::Replica | Role::Sync | Role::StandbyLeader => None,
        Role::Offline => Some(
            "those are few and chosen by hand, so a move would find nobody; let clients use the member's own address, \
             or write `replica`",
        ),
        Role::Async => Some("whether a standby is synchronous says nothing to its readers; write `replica`, or `sync`"),
        Role::ReadOnly => Some(
            "the primary has that role, too, so readers would weigh on it while replicas are there; write `replica`, \
             or `primary`",
        ),
        Role::Any => Some(
            "whoever runs has that role, so clients could not know whether they may write; write `primary` or `replica`",
        ),
    }
}

fn read_on_exit(vip: &Fields<'_>) -> Option<Exit> {
    let node = vip.node("on_exit")?;
    match &node.data {
        Data::Map(_) => {
            let exit = vip.section("on_exit")?;
            if exit.node("keep").is_none() && exit.is_clean() {
                vip.sink().report(node.at, "`on_exit` is `release`, `keep` or { keep: 30s }");
            }
            whole_seconds(&exit, "keep").map(|keep| Exit::Keep(Some(keep)))
        }
        _ => plain(vip.word("on_exit", &[("release", false), ("keep", true)]))
            .map(|keep| if keep { Exit::Keep(None) } else { Exit::Release }),
    }
}

fn read_refresh(vip: &Fields<'_>) -> Option<Duration> {
    let node = vip.node("refresh")?;
    match &node.data {
        Data::Scalar(word) if is_off(word) => None,
        Data::Scalar(word) if word.starts_with(|c: char| c.is_alphabetic()) => {
            vip.sink().report(node.at, format!("`refresh` is `off` or a duration such as 1m, not `{word}`"));
            None
        }
        _ => plain(vip.duration("refresh")),
    }
}
