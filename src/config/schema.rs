//! The file as written: every value with its place, nothing filled in, nothing compared with anything else.

use std::time::Duration;

use super::diagnose::{At, Sink, nearest};
use super::fields::{Fields, Written, read_word};
use super::options::{ROLES_LATER, TOP};
use super::yaml::{Data, Node};
use crate::model::{ApiAddress, Balance, HostPort, OnDcsLoss, Role};

pub(super) struct File {
    pub state_file: Option<String>,
    pub shutdown_delay: Option<Duration>,
    pub shutdown_drain: Option<Duration>,
    /// None without `admin:`.
    pub admin: Option<Vec<Written<HostPort>>>,
    pub check: Check,
    pub defaults: Policy,
    pub clusters: Vec<Cluster>,
}

#[derive(Default)]
pub(super) struct Check {
    pub inter: Option<Duration>,
    pub fastinter: Option<Written<Duration>>,
    pub downinter: Option<Duration>,
    pub rise: Option<u32>,
    pub fall: Option<u32>,
    pub timeout: Option<Duration>,
}

/// Keys that `defaults` and every service have.
#[derive(Default)]
pub(super) struct Policy {
    pub hold: Option<Hold>,
    pub balance: Option<Balance>,
    pub connect_timeout: Option<Duration>,
    pub retries: Option<u32>,
    pub close_on_down: Option<bool>,
    pub startup_timeout: Option<Duration>,
    pub keepalive_idle: Option<Duration>,
    pub keepalive_interval: Option<Duration>,
    pub keepalive_count: Option<u32>,
    pub user_timeout: Option<Duration>,
}

pub(super) enum Hold {
    Off,
    On { timeout: Option<HoldTimeout>, max: Option<u32> },
}

#[derive(Clone, Copy)]
pub(super) enum HoldTimeout {
    Auto,
    After(Duration),
}

pub(super) struct Cluster {
    pub at: At,
    pub name: Option<Written<String>>,
    /// Whether `name:` is there, well written or not.
    pub name_given: bool,
    pub namespace: Option<Written<String>>,
    /// Whether `dcs:` is there, well written or not.
    pub has_dcs: bool,
    pub etcd: Option<Etcd>,
    pub patroni_tls: Option<Tls>,
    pub on_dcs_loss: Option<OnDcsLoss>,
    pub members: Vec<Member>,
    pub services: Services,
}

pub(super) enum Services {
    /// No `services:`, so the default ones are meant.
    Default,
    Listed(At, Vec<Service>),
    /// Reported already.
    Broken,
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
    pub port: Option<u16>,
    pub api: Option<Written<ApiAddress>>,
}

pub(super) struct Service {
    pub name: Written<String>,
    pub listen: Option<Vec<Written<HostPort>>>,
    pub role: Option<Role>,
    /// Whether the key is there, well written or not.
    pub role_given: bool,
    pub listen_given: bool,
    pub backup: Vec<Written<Role>>,
    pub backup_at: Option<At>,
    pub port: Option<u16>,
    pub max_lag: Option<Written<u64>>,
    pub streaming: Option<Written<bool>>,
    pub policy: Policy,
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
        shutdown_delay: shutdown.as_ref().and_then(|s| plain(s.duration("delay"))),
        shutdown_drain: shutdown.as_ref().and_then(|s| plain(s.duration("drain"))),
        admin: top.section("admin").map(|admin| read_admin(&admin)),
        check: defaults.as_ref().and_then(|d| d.section("check")).map(|c| read_check(&c)).unwrap_or_default(),
        defaults: defaults.as_ref().map(read_policy).unwrap_or_default(),
        clusters: clusters.unwrap_or_default().iter().map(read_cluster).collect(),
    })
}

fn read_admin(admin: &Fields<'_>) -> Vec<Written<HostPort>> {
    if admin.node("listen").is_none() {
        let sentence = "`admin` needs `listen`, such as 127.0.0.1:7000; leave `admin` out to have none";
        admin.sink().report(At { width: 1, ..admin.at }, sentence);
    }
    read_listen(admin).unwrap_or_default()
}

fn read_check(check: &Fields<'_>) -> Check {
    Check {
        inter: plain(check.duration("inter")),
        fastinter: check.duration("fastinter"),
        downinter: plain(check.duration("downinter")),
        rise: plain(check.count("rise")),
        fall: plain(check.count("fall")),
        timeout: plain(check.duration("timeout")),
    }
}

fn read_policy(fields: &Fields<'_>) -> Policy {
    let tcp = fields.section("tcp");
    let keepalive = tcp.as_ref().and_then(|tcp| tcp.section("keepalive"));
    let seconds = |key| keepalive.as_ref().and_then(|keepalive| whole_seconds(keepalive, key));
    Policy {
        hold: read_hold(fields),
        balance: plain(fields.word("balance", &[Balance::LeastConn, Balance::RoundRobin].map(|b| (b.as_str(), b)))),
        connect_timeout: plain(fields.duration("connect_timeout")),
        retries: plain(fields.count("retries")),
        close_on_down: read_close_on_down(fields),
        startup_timeout: plain(fields.duration("startup_timeout")),
        keepalive_idle: seconds("idle"),
        keepalive_interval: seconds("interval"),
        keepalive_count: keepalive.as_ref().and_then(|keepalive| plain(keepalive.count("count"))),
        user_timeout: tcp.as_ref().and_then(|tcp| plain(tcp.duration("user_timeout"))),
    }
}

/// The kernel counts these in seconds.
fn whole_seconds(keepalive: &Fields<'_>, key: &str) -> Option<Duration> {
    let written = keepalive.duration(key)?;
    if written.value.subsec_nanos() != 0 {
        keepalive.sink().report(written.at, format!("`{key}` is in whole seconds: the kernel knows no others"));
        return None;
    }
    Some(written.value)
}

fn read_hold(fields: &Fields<'_>) -> Option<Hold> {
    let node = fields.node("hold")?;
    match &node.data {
        // Everything below it commented out: not a wish to undo `hold: off` of the defaults.
        Data::Null => return None,
        Data::Scalar(word) if matches!(word.as_str(), "off" | "false" | "no") => return Some(Hold::Off),
        Data::Scalar(word) => {
            let sentence =
                format!("`hold` is `off` or a mapping such as {{ timeout: auto, max: 10000 }}, not `{word}`");
            fields.sink().report(node.at, sentence);
            return None;
        }
        _ => {}
    }
    let hold = fields.section("hold")?;
    Some(Hold::On { timeout: read_hold_timeout(&hold), max: plain(hold.count("max")) })
}

fn read_hold_timeout(hold: &Fields<'_>) -> Option<HoldTimeout> {
    let node = hold.node("timeout")?;
    match &node.data {
        Data::Scalar(word) if word == "auto" => Some(HoldTimeout::Auto),
        Data::Scalar(word) if matches!(word.as_str(), "off" | "0" | "0s" | "0ms") => {
            hold.sink().report(node.at, "to refuse clients at once, write `hold: off`");
            None
        }
        Data::Scalar(word) if !word.starts_with(|c: char| c.is_ascii_digit()) => {
            let meant = nearest(word, ["auto"]).map(|_| "; did you mean `auto`?").unwrap_or_default();
            hold.sink().report(node.at, format!("`timeout` is `auto` or a duration such as 45s, not `{word}`{meant}"));
            None
        }
        _ => hold.duration("timeout").map(|limit| HoldTimeout::After(limit.value)),
    }
}

fn read_close_on_down(fields: &Fields<'_>) -> Option<bool> {
    let node = fields.node("close_on_down")?;
    if matches!(node.data, Data::Map(_)) {
        let sentence = "`close_on_down` with a `grace` is not in this version: write true or false";
        fields.sink().report(node.at, sentence);
        return None;
    }
    plain(fields.switch("close_on_down"))
}

fn read_cluster(cluster: &Fields<'_>) -> Cluster {
    let patroni = cluster.section("patroni");
    cluster.word("trust", &[("confirm", ())]);
    let dcs = cluster.section("dcs");
    if let Some(dcs) = dcs.as_ref().filter(|dcs| dcs.node("etcd").is_none() && dcs.is_clean()) {
        let sentence = "`dcs` names no etcd: write `dcs: { etcd: { endpoints: [http://127.0.0.1:2379] } }`";
        dcs.sink().report(cluster.key_at("dcs").unwrap_or(dcs.at), sentence);
    }
    Cluster {
        at: At { width: 1, ..cluster.at },
        name: owned(cluster.text("name")),
        name_given: cluster.node("name").is_some(),
        namespace: owned(cluster.text("namespace")),
        has_dcs: cluster.node("dcs").is_some(),
        etcd: dcs.and_then(|dcs| read_etcd(&dcs)),
        patroni_tls: patroni.and_then(|patroni| read_tls(&patroni)),
        on_dcs_loss: plain(cluster.word("on_dcs_loss", &[("keep", OnDcsLoss::Keep), ("close", OnDcsLoss::Close)])),
        members: cluster.named("members").unwrap_or_default().iter().map(|(name, m)| read_member(*name, m)).collect(),
        services: read_services(cluster),
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
        port: plain(member.port("port")),
        api: read_api(member),
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

fn read_services(cluster: &Fields<'_>) -> Services {
    match (cluster.key_at("services"), cluster.named("services")) {
        (None, _) => Services::Default,
        (Some(at), Some(services)) => {
            Services::Listed(at, services.iter().map(|(name, service)| read_service(*name, service)).collect())
        }
        (Some(_), None) => Services::Broken,
    }
}

fn read_service(name: Written<&str>, service: &Fields<'_>) -> Service {
    let criteria = service.section("where");
    Service {
        name: name.map(str::to_string),
        listen: read_listen(service),
        listen_given: service.node("listen").is_some(),
        role: plain(service.word("role", &ROLES)),
        role_given: service.node("role").is_some(),
        backup: read_backup(service),
        backup_at: service.key_at("backup"),
        port: plain(service.port("port")),
        max_lag: criteria.as_ref().and_then(|c| c.size("max_lag")),
        streaming: criteria.as_ref().and_then(|c| c.switch("streaming")),
        policy: read_policy(service),
    }
}

const ROLES: [(&str, Role); 3] = [("primary", Role::Primary), ("replica", Role::Replica), ("offline", Role::Offline)];

fn read_backup(service: &Fields<'_>) -> Vec<Written<Role>> {
    let mut roles = Vec::new();
    for written in service.texts("backup").unwrap_or_default() {
        match read_word("backup", written.value, &ROLES, ROLES_LATER) {
            Ok(value) => roles.push(Written { value, at: written.at }),
            Err(sentence) => service.sink().report(written.at, sentence),
        }
    }
    roles
}

fn read_listen(fields: &Fields<'_>) -> Option<Vec<Written<HostPort>>> {
    let written = fields.texts("listen")?;
    if written.is_empty() {
        fields.sink().report(fields.key_at("listen").unwrap_or(fields.at), "`listen` names no address");
    }
    let read = |address: Written<&str>| match super::listen::parse(address.value) {
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
