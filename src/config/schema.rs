//! The file as written: every value with its place, nothing filled in, nothing compared with anything else.

mod allow;
mod policy;
mod service;
mod vip;
mod vip_address;

use std::time::Duration;

use super::diagnose::{At, Sink};
use super::fields::{Fields, Written};
use super::options::TOP;
use super::yaml::Node;
use super::{OrdersFrom, listen, syslog};
use crate::model::{ApiAddress, HostPort, OnDcsLoss, Splice, Trust};

pub(super) use policy::{Check, Close, Hold, HoldNotice, HoldTimeout, Observing, Policy};
pub(super) use service::{Criteria, Service, Services};
pub(super) use vip::{Exit, Vip};

pub(super) struct File {
    pub state_file: Option<String>,
    pub syslog: Option<syslog::Spec>,
    pub shutdown_delay: Option<Duration>,
    pub shutdown_drain: Option<Duration>,
    /// None without `admin:`.
    pub admin: Option<Admin>,
    pub splice: Option<Splice>,
    pub check: Check,
    pub defaults: Policy,
    pub clusters: Vec<Cluster>,
    pub vips: Vec<Vip>,
}

pub(super) struct Admin {
    pub listen: Vec<Written<HostPort>>,
    pub orders: Option<OrdersFrom>,
}

pub(super) struct Cluster {
    pub at: At,
    pub name: Option<Written<String>>,
    /// Whether `name:` is there, well written or not.
    pub name_given: bool,
    pub alias: Option<Written<String>>,
    pub namespace: Option<Written<String>>,
    pub group: Option<u32>,
    pub trust: Option<Trust>,
    /// Whether `trust:` is there, well written or not.
    pub trust_given: bool,
    /// Where `dcs:` is, well written or not.
    pub dcs_at: Option<At>,
    pub etcd: Option<Etcd>,
    pub patroni_tls: Option<Tls>,
    pub on_dcs_loss: Option<OnDcsLoss>,
    pub on_dcs_loss_at: Option<At>,
    pub members: Vec<Member>,
    pub members_at: Option<At>,
    pub services: Services,
}

pub(super) struct Etcd {
    pub at: At,
    pub endpoints: Option<Vec<Written<String>>>,
    pub username: Option<Written<String>>,
    /// Its place is the key's, because problems show what stands there.
    pub password: Option<Written<String>>,
    pub password_file: Option<Written<String>>,
    pub password_env: Option<Written<String>>,
    /// Whether there is any of the two, well written or not.
    pub username_given: bool,
    pub password_given: bool,
    pub tls: Option<Tls>,
}

pub(super) struct Tls {
    pub at: At,
    pub ca: Option<Written<String>>,
    pub cert: Option<Written<String>>,
    pub key: Option<Written<String>>,
}

pub(super) struct Member {
    pub name: Written<String>,
    pub offline: Option<bool>,
    pub host: Option<Written<String>>,
    /// Whether `host:` is there, well written or not.
    pub host_given: bool,
    pub port: Option<u16>,
    pub api: Option<Written<ApiAddress>>,
    /// Whether `api:` is there, well written or not.
    pub api_given: bool,
    pub weight: Option<u32>,
}

/// Reads the tree of a whole file; what cannot be read is reported and left out.
pub(super) fn read(root: &Node, sink: &Sink) -> Option<File> {
    let top = Fields::open(root, &TOP, sink)?;
    let shutdown = top.section("shutdown");
    let defaults = top.section("defaults");
    let clusters = top.items("clusters");
    if top.node("clusters").is_none() || clusters.as_ref().is_some_and(Vec::is_empty) {
        let at = top.key_at("clusters").unwrap_or(At { width: 1, ..top.at });
        sink.report(at, "no cluster to route to: `clusters:` needs at least one");
    }
    Some(File {
        state_file: owned(top.text("state_file")).map(|path| path.value),
        syslog: top.section("log").and_then(|log| log.section("syslog")).map(|syslog| syslog::read(&syslog)),
        shutdown_delay: shutdown.as_ref().and_then(|s| plain(s.duration("delay"))),
        shutdown_drain: shutdown.as_ref().and_then(|s| plain(s.duration("drain"))),
        admin: top.section("admin").map(|admin| read_admin(&admin)),
        splice: plain(top.word("splice", &[Splice::Auto, Splice::Always, Splice::Off].map(|how| (how.as_str(), how)))),
        check: defaults.as_ref().and_then(|d| d.section("check")).map(|c| policy::read_check(&c)).unwrap_or_default(),
        defaults: defaults.as_ref().map(policy::read_policy).unwrap_or_default(),
        clusters: clusters.unwrap_or_default().iter().map(read_cluster).collect(),
        vips: top.items("vips").unwrap_or_default().iter().map(vip::read).collect(),
    })
}

fn read_admin(admin: &Fields<'_>) -> Admin {
    if admin.node("listen").is_none() {
        let sentence = "`admin` needs `listen`, such as 127.0.0.1:7000; leave `admin` out to have none";
        admin.sink().report(At { width: 1, ..admin.at }, sentence);
    }
    let orders = [("loopback", OrdersFrom::Loopback), ("off", OrdersFrom::Nobody), ("all", OrdersFrom::Everybody)];
    Admin {
        listen: read_listen(admin, listen::parse_tcp).unwrap_or_default(),
        orders: plain(admin.word("orders", &orders)),
    }
}

fn read_cluster(cluster: &Fields<'_>) -> Cluster {
    let patroni = cluster.section("patroni");
    let dcs = cluster.section("dcs");
    if let Some(dcs) = dcs.as_ref().filter(|dcs| dcs.node("etcd").is_none() && dcs.is_clean()) {
        let sentence = "`dcs` names no etcd: write `dcs: { etcd: { endpoints: [http://127.0.0.1:2379] } }`";
        dcs.sink().report(cluster.key_at("dcs").unwrap_or(dcs.at), sentence);
    }
    Cluster {
        at: At { width: 1, ..cluster.at },
        name: owned(cluster.text("name")),
        name_given: cluster.node("name").is_some(),
        alias: owned(cluster.text("alias")),
        namespace: owned(cluster.text("namespace")),
        group: plain(cluster.count("group")),
        trust: plain(cluster.word("trust", &[("confirm", Trust::Confirm), ("rest", Trust::Rest)])),
        trust_given: cluster.node("trust").is_some(),
        dcs_at: cluster.key_at("dcs"),
        etcd: dcs.and_then(|dcs| read_etcd(&dcs)),
        patroni_tls: patroni.and_then(|patroni| read_tls(&patroni)),
        on_dcs_loss: plain(cluster.word("on_dcs_loss", &[("keep", OnDcsLoss::Keep), ("close", OnDcsLoss::Close)])),
        on_dcs_loss_at: cluster.key_at("on_dcs_loss"),
        members: cluster.named("members").unwrap_or_default().iter().map(|(name, m)| read_member(*name, m)).collect(),
        members_at: cluster.key_at("members"),
        services: service::read_services(cluster),
    }
}

fn read_etcd(dcs: &Fields<'_>) -> Option<Etcd> {
    let etcd = dcs.section("etcd")?;
    let key = dcs.key_at("etcd").unwrap_or(etcd.at);
    if etcd.node("endpoints").is_none() {
        etcd.sink().report(key, "`etcd` needs `endpoints`, such as [http://127.0.0.1:2379]");
    }
    let password = owned(etcd.text("password"));
    Some(Etcd {
        at: key,
        endpoints: etcd.texts("endpoints").map(|list| list.into_iter().map(|e| e.map(str::to_string)).collect()),
        username: owned(etcd.text("username")),
        password: password.map(|p| Written { at: etcd.key_at("password").unwrap_or(p.at), ..p }),
        password_file: owned(etcd.text("password_file")),
        password_env: owned(etcd.text("password_env")),
        username_given: etcd.node("username").is_some(),
        password_given: ["password", "password_file", "password_env"].iter().any(|key| etcd.node(key).is_some()),
        tls: read_tls(&etcd),
    })
}

fn read_tls(parent: &Fields<'_>) -> Option<Tls> {
    let tls = parent.section("tls")?;
    Some(Tls {
        at: parent.key_at("tls").unwrap_or(tls.at),
        ca: owned(tls.text("ca")),
        cert: owned(tls.text("cert")),
        key: owned(tls.text("key")),
    })
}

fn read_member(name: Written<&str>, member: &Fields<'_>) -> Member {
    Member {
        name: name.map(str::to_string),
        offline: plain(member.switch("offline")),
        host: owned(member.text("host")),
        host_given: member.node("host").is_some(),
        port: plain(member.port("port")),
        api: read_api(member),
        api_given: member.node("api").is_some(),
        weight: plain(member.count("weight")),
    }
}

fn read_api(member: &Fields<'_>) -> Option<Written<ApiAddress>> {
    let written = member.text("api")?;
    let authority = written.value.split_once("://").map(|(_, rest)| rest.split('/').next().unwrap_or_default());
    // 80 and 443 are no defaults that anyone means for Patroni.
    let has_port = authority.is_some_and(|authority| HostPort::parse(authority, None).is_some());
    let read = ApiAddress::parse(written.value).filter(|api| has_port && api.at.port != 0);
    if read.is_none() {
        let sentence = format!("`api` is a URL with a port, such as http://10.0.0.13:8008, not `{}`", written.value);
        member.sink().report(written.at, sentence);
    }
    read.map(|value| Written { value, at: written.at })
}

fn read_listen<T>(fields: &Fields<'_>, parse: impl Fn(&str) -> Result<T, String>) -> Option<Vec<Written<T>>> {
    let written = fields.texts("listen")?;
    if written.is_empty() {
        fields.sink().report(fields.key_at("listen").unwrap_or(fields.at), "`listen` names no address");
    }
    let read = |address: Written<&str>| match parse(address.value) {
        Ok(value) => Some(Written { value, at: address.at }),
        Err(sentence) => {
            fields.sink().report(address.at, sentence);
            None
        }
    };
    Some(written.into_iter().filter_map(read).collect())
}

fn owned(written: Option<Written<&str>>) -> Option<Written<String>> {
    written.map(|written| written.map(str::to_string))
}

fn plain<T>(written: Option<Written<T>>) -> Option<T> {
    written.map(|written| written.value)
}
