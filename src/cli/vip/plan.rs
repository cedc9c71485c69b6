//! From settings to what is run: defaults, what belongs together, what cannot be.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use crate::config::flat::show_duration;
use crate::config::{EtcdSpec, Secret, TlsFiles};
use crate::model::{HostPort, MemberName, VIP_LEASE_MIN, VipAddress, VipOnDcsLoss, VipOnExit, VipSpec};
use crate::runtime::log::LogFormat;
use crate::runtime::vip_alone::{Endpoint, Plan, Source, Voucher};

use super::layers::Merged;
use super::settings::{self, Kind};
use super::values::{Placed, Reader, address, endpoint, interface, switch, time, whole, whole_seconds};

const LEASE_SECONDS_MAX: u64 = 60;
const GRACE_MAX: Duration = Duration::from_secs(30);
const KEEP_DEFAULT: Duration = Duration::from_secs(30);
const KEEP_SECONDS_MAX: u64 = 300;
const REFRESH_MAX: Duration = Duration::from_secs(3600);
/// What is older than 2 s is not believed, so nobody is asked more rarely than this.
const INTERVAL_MAX: u64 = 1000;
const INTERVAL_MIN: u64 = 50;
const PATRONI_URL: &str = "http://127.0.0.1:8008";

/// What is to be run, and how it is shown.
pub(super) struct Effective {
    pub plan: Plan,
    pub log_format: Option<LogFormat>,
    pub verbose: bool,
    /// Every setting that says something, with secrets blotted out.
    pub shown: Vec<(&'static str, String)>,
}

/// Where the leader key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DcsType {
    Etcd,
    Consul,
    Patroni,
}

/// None: something is wrong, and the reader has it.
pub(super) fn resolve(reader: &mut Reader<'_>, merged: &Merged, hostname: &str) -> Option<Effective> {
    refuse_other_managers(reader);
    let log_format = log_format(reader);
    let verbose = reader.switch("verbose");
    reader.switch("strict");
    let dcs = reader.value("dcs-type", dcs_type).unwrap_or(DcsType::Etcd);
    for name in ["ip", "interface"] {
        reader.needs(name);
    }
    if dcs != DcsType::Patroni {
        reader.needs("trigger-key");
    }
    let ip = reader.value("ip", address);
    let interface = reader.value("interface", interface);
    let address = ip.map(|ip| VipAddress { ip, prefix: prefix(reader, ip) });
    let trigger = trigger(reader, dcs, hostname);
    let tls = tls(reader);
    let source = source(reader, dcs, &trigger, ip, tls.as_ref());
    let me = if dcs == DcsType::Patroni { hostname } else { trigger.value.as_str() };
    let patroni = voucher(reader, dcs, &trigger);
    let admin = reader.value("admin-listen", |text| {
        HostPort::parse(text, None).ok_or_else(|| format!("\"{text}\" is not HOST:PORT such as 127.0.0.1:8481"))
    });
    let spec = VipSpec::new(address.unwrap_or(UNREAD), &interface.unwrap_or_default(), &cluster(&trigger.key));
    let spec = policy(reader, spec);
    if !reader.problems.is_empty() {
        return None;
    }
    let source = source?;
    let shown = shown(merged, &defaults(&spec, &trigger, &source));
    let me = MemberName::from(me);
    let plan = Plan { spec: spec.into(), me, source, patroni, tls, admin };
    Some(Effective { plan, log_format, verbose, shown })
}

/// Stands for an address that could not be read, which is reported.
const UNREAD: VipAddress = VipAddress { ip: IpAddr::V4(Ipv4Addr::UNSPECIFIED), prefix: 32 };

fn refuse_other_managers(reader: &mut Reader<'_>) {
    let manager = reader.read("manager-type", |text| Ok(text.to_owned()));
    match manager.as_ref().map(|manager| manager.value.as_str()) {
        None | Some("basic") => {}
        Some("hetzner") => {
            let sentence = "`manager-type`: hetzner is not supported: it moves an address by a call to Hetzner's Robot, \
                            where nothing ends a holder that crashed or is cut off, so the promise of one holder \
                            could not be kept; stay with vip-manager there, or write basic on a network of your own";
            if let Some(manager) = &manager {
                reader.report(&manager.origin, sentence);
            }
        }
        Some(other) => {
            let sentence = format!("manager-type {other} is not known and taken as basic, as vip-manager does");
            reader.warn(sentence);
        }
    }
    if let Some(other) = reader.text("hosting-type").filter(|text| text != "basic") {
        reader.warn(format!(
            "hosting-type {other} is not used, as by every version of vip-manager; manager-type is what counts"
        ));
    }
}

fn log_format(reader: &mut Reader<'_>) -> Option<LogFormat> {
    reader.value("log-format", |text| match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(format!("\"{text}\" is not text or json")),
    })
}

fn dcs_type(text: &str) -> Result<DcsType, String> {
    match text {
        "etcd" | "etcd3" => Ok(DcsType::Etcd),
        "consul" => Ok(DcsType::Consul),
        "patroni" => Ok(DcsType::Patroni),
        _ => Err(format!("given endpoint type not supported: \"{text}\"; write etcd, consul or patroni")),
    }
}

/// As vip-manager: what is no length of an IPv4 prefix means the one of the address's class (Go's
/// `net.IP.DefaultMask`). What is not given is the address alone.
fn prefix(reader: &mut Reader<'_>, ip: IpAddr) -> u8 {
    let single = VipAddress::single(ip).prefix;
    let Some(bits) = reader.read("netmask", bits) else { return single };
    match (u8::try_from(bits.value).ok().filter(|bits| (1..=single).contains(bits)), ip) {
        (Some(bits), _) => bits,
        (None, IpAddr::V4(v4)) => {
            let class = match v4.octets()[0] {
                0..=127 => 8,
                128..=191 => 16,
                _ => 24,
            };
            reader.warn(format!(
                "netmask {} is no prefix length from 1 to 32: /{class} is taken, which is the class of {ip}; without \
                 any netmask it would be /32",
                bits.value
            ));
            class
        }
        (None, IpAddr::V6(_)) => {
            let sentence = format!("`netmask`: {} is no prefix length from 1 to 128 of an IPv6 address", bits.value);
            reader.report(&bits.origin, &sentence);
            single
        }
    }
}

fn bits(text: &str) -> Result<i64, String> {
    whole(text).map_err(|sentence| match text.parse::<Ipv4Addr>().ok().and_then(|mask| length_of(u32::from(mask))) {
        Some(length) => format!("\"{text}\" is a mask; write its length, {length}"),
        None => sentence,
    })
}

/// The length of a mask, if it is one.
fn length_of(mask: u32) -> Option<u32> {
    (mask.leading_ones() + mask.trailing_zeros() == u32::BITS).then_some(mask.leading_ones())
}

struct Trigger {
    key: String,
    value: String,
}

fn trigger(reader: &mut Reader<'_>, dcs: DcsType, hostname: &str) -> Trigger {
    let key = reader.text("trigger-key").unwrap_or_else(|| "/leader".to_owned());
    let default = if dcs == DcsType::Patroni { "200" } else { hostname };
    let value = reader.text("trigger-value").unwrap_or_else(|| {
        if dcs != DcsType::Patroni {
            reader.warn(format!("No trigger-value specified, instead using hostname: {hostname}"));
        }
        default.to_owned()
    });
    Trigger { key, value }
}

fn tls(reader: &mut Reader<'_>) -> Option<TlsFiles> {
    reader.implies("etcd-password", "etcd-user");
    reader.implies("etcd-cert-file", "etcd-key-file");
    reader.implies("etcd-key-file", "etcd-cert-file");
    let path = |name: &str| reader.text(name).map(PathBuf::from);
    let files = TlsFiles { ca: path("etcd-ca-file"), cert: path("etcd-cert-file"), key: path("etcd-key-file") };
    (files != TlsFiles::default()).then_some(files)
}

/// As given, or the one of this host.
fn endpoints(reader: &mut Reader<'_>, default: &str) -> Vec<(String, Endpoint)> {
    let Some(found) = reader.found("dcs-endpoints") else {
        reader.warn(format!("No dcs-endpoints specified, trying to use {default}"));
        return parsed(reader, &[default.to_owned()]);
    };
    parsed(reader, &found.texts)
}

fn parsed(reader: &mut Reader<'_>, texts: &[String]) -> Vec<(String, Endpoint)> {
    let mut all: Vec<(String, Endpoint)> = Vec::new();
    for text in texts {
        match (endpoint(text), reader.found("dcs-endpoints")) {
            (Ok((api, path)), _) => {
                let known = all.iter().any(|(_, other)| other.api == api && other.path == path);
                if !known {
                    all.push((text.trim_end_matches('/').to_owned(), Endpoint { api, path }));
                }
            }
            (Err(sentence), Some(found)) => reader.report(&found.origin, &format!("`dcs-endpoints`: {sentence}")),
            (Err(_), None) => {}
        }
    }
    all
}

fn source(
    reader: &mut Reader<'_>,
    dcs: DcsType,
    trigger: &Trigger,
    ip: Option<IpAddr>,
    tls: Option<&TlsFiles>,
) -> Option<Source> {
    let (key, value) = (trigger.key.clone(), trigger.value.clone());
    match dcs {
        DcsType::Etcd => {
            let endpoints = endpoints(reader, "http://127.0.0.1:2379");
            let mark_key = mark_key(reader, &trigger.key, ip);
            let endpoints = endpoints.into_iter().map(|(text, _)| text).collect();
            let password = reader.text("etcd-password").map(Secret::new);
            let etcd = EtcdSpec { endpoints, username: reader.text("etcd-user"), password, tls: tls.cloned() };
            Some(Source::Etcd { etcd, key, value, mark_key })
        }
        DcsType::Consul => {
            let endpoints = endpoints(reader, "http://127.0.0.1:8500").into_iter().map(|(_, endpoint)| endpoint);
            let token = reader.text("consul-token").map(Secret::new);
            Some(Source::Consul { endpoints: endpoints.collect(), key, value, token })
        }
        DcsType::Patroni => {
            let mut endpoints = endpoints(reader, "http://127.0.0.1:8008").into_iter().map(|(_, endpoint)| endpoint);
            let first = endpoints.next();
            if endpoints.next().is_some() {
                reader.warn(
                    "dcs-endpoints: only the first is asked, as by vip-manager: Patroni speaks for its own member"
                        .into(),
                );
            }
            let every = interval(reader);
            let path = if key.starts_with('/') { key } else { format!("/{key}") };
            Some(Source::Patroni { endpoint: first?, path, value, every })
        }
    }
}

fn interval(reader: &mut Reader<'_>) -> Duration {
    let millis = reader.value("interval", whole::<u64>).unwrap_or(INTERVAL_MAX);
    if millis > INTERVAL_MAX {
        reader.warn(format!(
            "interval {millis}: asked every {INTERVAL_MAX} ms all the same, because an answer is believed for 2 s"
        ));
    }
    Duration::from_millis(millis.clamp(INTERVAL_MIN, INTERVAL_MAX))
}

fn mark_key(reader: &Reader<'_>, trigger_key: &str, ip: Option<IpAddr>) -> Option<String> {
    let ip = ip?;
    match reader.text("mark-key") {
        Some(word) if switch(&word) == Ok(false) => None,
        Some(key) => Some(key),
        None => {
            let folder = trigger_key.rfind('/').map_or("", |slash| &trigger_key[..=slash]);
            Some(format!("{folder}pgvane/vip/{ip}"))
        }
    }
}

fn voucher(reader: &mut Reader<'_>, dcs: DcsType, trigger: &Trigger) -> Option<Voucher> {
    let read = |text: &str| endpoint(text).map(|(api, path)| Endpoint { api, path });
    let endpoint = match reader.found("patroni-url") {
        Some(_) => reader.value("patroni-url", read),
        None => read(PATRONI_URL).ok(),
    }?;
    // There the same Patroni is the source, and cannot vouch for itself.
    let needed = dcs != DcsType::Patroni;
    needed.then(|| Voucher { endpoint, member: trigger.value.clone(), key: trigger.key.clone() })
}

/// What logs and metrics call the cluster: the folder of its leader key, of Citus with the group.
fn cluster(key: &str) -> String {
    let mut words: Vec<&str> = key.split('/').filter(|word| !word.is_empty()).collect();
    words.pop();
    let is_group = |word: &&str| word.bytes().all(|byte| byte.is_ascii_digit());
    match words.as_slice() {
        [.., shard, group] if is_group(group) => format!("{shard}/{group}"),
        [.., scope] => (*scope).to_owned(),
        [] => "vip".to_owned(),
    }
}

fn policy(reader: &mut Reader<'_>, mut spec: VipSpec) -> VipSpec {
    let lease = reader.value("lease", whole_seconds(VIP_LEASE_MIN.as_secs(), LEASE_SECONDS_MAX));
    spec.lease = lease.unwrap_or(spec.lease);
    spec.on_dcs_loss = reader.value("on-dcs-loss", on_dcs_loss).unwrap_or(spec.on_dcs_loss);
    spec.grace = grace(reader, &spec);
    spec.on_exit = reader.value("on-exit", on_exit).unwrap_or(spec.on_exit);
    spec.close_sockets = reader.switch("close-sockets");
    spec.adopt = reader.switch("adopt");
    spec.refresh = reader.value("refresh", refresh).flatten();
    spec
}

fn on_dcs_loss(text: &str) -> Result<VipOnDcsLoss, String> {
    let all = [VipOnDcsLoss::KeepWhilePatroniLeads, VipOnDcsLoss::Release, VipOnDcsLoss::Hold];
    let plain = text.replace('-', "_");
    let known = all.into_iter().find(|policy| policy.as_str() == plain);
    known.ok_or_else(|| format!("\"{text}\" is not keep_while_patroni_leads, release or hold"))
}

/// Nothing renews the address meanwhile: it is renewed at least by a third of its lease and by views of 2 s at most.
fn grace(reader: &mut Reader<'_>, spec: &VipSpec) -> Duration {
    let longest = Duration::from_millis((spec.lease.as_secs() * 2000 / 3).saturating_sub(2000));
    let Some(Placed { value, origin }) = reader.read("grace", time(Duration::ZERO, GRACE_MAX)) else {
        return spec.grace.min(longest);
    };
    if value > longest {
        let (lease, longest) = (show_duration(spec.lease), show_duration(longest));
        let sentence = format!(
            "`grace`: nothing renews the address without the DCS, so that with a lease of {lease} it is {longest} at most"
        );
        reader.report(&origin, &sentence);
    }
    value
}

fn on_exit(text: &str) -> Result<VipOnExit, String> {
    match text.split_once(':') {
        None if text == "release" => Ok(VipOnExit::Release),
        None if text == "keep" => Ok(VipOnExit::Keep(KEEP_DEFAULT)),
        Some(("keep", time)) => whole_seconds(1, KEEP_SECONDS_MAX)(time.trim()).map(VipOnExit::Keep),
        _ => Err(format!("\"{text}\" is not release, keep, or keep with a time such as keep:10s")),
    }
}

fn refresh(text: &str) -> Result<Option<Duration>, String> {
    if switch(text) == Ok(false) { Ok(None) } else { time(Duration::from_secs(1), REFRESH_MAX)(text).map(Some) }
}

/// What settings are that were not given.
fn defaults(spec: &VipSpec, trigger: &Trigger, source: &Source) -> Vec<(&'static str, String)> {
    let (dcs, mark) = match source {
        Source::Etcd { mark_key, .. } => ("etcd", mark_key.clone().unwrap_or_else(|| "off".to_owned())),
        Source::Consul { .. } => ("consul", String::new()),
        Source::Patroni { .. } => ("patroni", String::new()),
    };
    let exit = match spec.on_exit {
        VipOnExit::Release => "release".to_owned(),
        VipOnExit::Keep(time) => format!("keep:{}", show_duration(time)),
    };
    vec![
        ("netmask", spec.address.prefix.to_string()),
        ("trigger-key", trigger.key.clone()),
        ("trigger-value", trigger.value.clone()),
        ("dcs-type", dcs.to_owned()),
        ("dcs-endpoints", source.endpoints().join(",")),
        ("manager-type", "basic".to_owned()),
        ("lease", show_duration(spec.lease)),
        ("on-dcs-loss", spec.on_dcs_loss.as_str().to_owned()),
        ("grace", show_duration(spec.grace)),
        ("on-exit", exit),
        ("mark-key", mark),
    ]
}

fn shown(merged: &Merged, defaults: &[(&'static str, String)]) -> Vec<(&'static str, String)> {
    let value = |setting: &settings::Setting| {
        let found = merged.values.get(setting.name);
        let default = defaults.iter().find(|(name, _)| *name == setting.name).map(|(_, value)| value.clone());
        match (setting.kind, found) {
            (Kind::Secret, Some(_)) => Some("*****".to_owned()),
            // What was given may mean something else, as a netmask of -1 does.
            (_, found) => default.or_else(|| found.map(super::layers::Found::text)),
        }
    };
    let mut all: Vec<_> = settings::all().filter_map(|setting| Some((setting.name, value(setting)?))).collect();
    all.retain(|(_, value)| !value.is_empty());
    all.sort_unstable();
    all
}
