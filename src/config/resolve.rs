//! From the file as written to the configuration as meant: defaults filled in, everything compared
//! with everything else, files and environment read.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::diagnose::{At, Sink};
use super::fields::Written;
use super::listen::{Listeners, is_host};
use super::{Admin, Cluster, Config, EtcdSpec, LogSpec, OrdersFrom, Outside, Shutdown, etcd, schema};
use crate::model::service::TcpSpec;
use crate::model::{
    Balance, CheckTiming, CloseOnDown, ClusterSpec, HoldSpec, HostPort, MemberName, OnDcsLoss, Role, ServiceSpec,
    StaticMember, Trust,
};

/// Everything a value may be resolved against.
pub(super) struct Around<'a> {
    /// The directory of the file: relative paths begin here.
    pub base: &'a Path,
    pub outside: &'a Outside<'a>,
    pub sink: &'a Sink,
}

impl Around<'_> {
    pub fn path(&self, written: &str) -> PathBuf {
        self.base.join(written)
    }
}

/// A configuration; good for use only if nothing was reported.
pub(super) fn resolve(file: &schema::File, around: &Around<'_>) -> Config {
    let mut listeners = Listeners::default();
    let check = check_timing(&file.check, around.sink);
    let defaults = file.defaults.over(&Policy::default());
    let shutdown = Shutdown::default();
    let admin = file.admin.as_ref().map(|listen| {
        listen.iter().for_each(|address| listeners.add(address, "`admin`", around.sink));
        Admin { listen: listen.iter().map(|address| address.value.clone()).collect(), orders: OrdersFrom::default() }
    });
    let mut clusters: Vec<(&schema::Cluster, Cluster)> = Vec::new();
    for written in &file.clusters {
        let cluster = resolve_cluster(written, &check, &defaults, &mut listeners, around);
        refuse_twins(&clusters, written, &cluster, around.sink);
        clusters.push((written, cluster));
    }
    Config {
        state_file: file.state_file.as_ref().map(|path| around.path(path)),
        log: LogSpec::default(),
        shutdown: Shutdown {
            delay: file.shutdown_delay.unwrap_or(shutdown.delay),
            drain: file.shutdown_drain.unwrap_or(shutdown.drain),
        },
        admin,
        clusters: clusters.into_iter().map(|(_, cluster)| cluster).collect(),
    }
}

fn check_timing(written: &schema::Check, sink: &Sink) -> CheckTiming {
    let usual = CheckTiming::default();
    let inter = written.inter.unwrap_or(usual.inter);
    if let Some(fast) = &written.fastinter
        && fast.value > inter
    {
        let sentence =
            "`fastinter` is longer than `inter`: a member that changes would be checked less often, not more";
        sink.report(fast.at, sentence);
    }
    CheckTiming {
        inter,
        fastinter: written.fastinter.map_or(usual.fastinter.min(inter), |fast| fast.value),
        downinter: written.downinter.unwrap_or(usual.downinter),
        rise: written.rise.unwrap_or(usual.rise),
        fall: written.fall.unwrap_or(usual.fall),
        timeout: written.timeout.unwrap_or(usual.timeout),
    }
}

/// How a service treats its clients, complete.
struct Policy {
    hold: HoldSpec,
    balance: Balance,
    connect_timeout: Duration,
    retries: u32,
    close_on_down: bool,
    startup_timeout: Duration,
    tcp: TcpSpec,
}

const HOLD_MAX: usize = 10_000;

impl Default for Policy {
    fn default() -> Self {
        Policy {
            hold: HoldSpec::On { timeout: None, max: HOLD_MAX },
            balance: Balance::LeastConn,
            connect_timeout: Duration::from_secs(3),
            retries: 3,
            close_on_down: true,
            startup_timeout: Duration::from_secs(60),
            tcp: TcpSpec::default(),
        }
    }
}

impl schema::Policy {
    /// These keys where they are written, `base` elsewhere.
    fn over(&self, base: &Policy) -> Policy {
        Policy {
            hold: self.hold.as_ref().map_or_else(|| base.hold.clone(), |hold| hold.over(&base.hold)),
            balance: self.balance.unwrap_or(base.balance),
            connect_timeout: self.connect_timeout.unwrap_or(base.connect_timeout),
            retries: self.retries.unwrap_or(base.retries),
            close_on_down: self.close_on_down.unwrap_or(base.close_on_down),
            startup_timeout: self.startup_timeout.unwrap_or(base.startup_timeout),
            tcp: TcpSpec {
                keepalive_idle: self.keepalive_idle.unwrap_or(base.tcp.keepalive_idle),
                keepalive_interval: self.keepalive_interval.unwrap_or(base.tcp.keepalive_interval),
                keepalive_count: self.keepalive_count.unwrap_or(base.tcp.keepalive_count),
                user_timeout: self.user_timeout.unwrap_or(base.tcp.user_timeout),
            },
        }
    }
}

impl schema::Hold {
    fn over(&self, base: &HoldSpec) -> HoldSpec {
        let schema::Hold::On { timeout, max } = self else { return HoldSpec::Off };
        let (base_timeout, base_max) = match base {
            HoldSpec::On { timeout, max } => (*timeout, *max),
            HoldSpec::Off => (None, HOLD_MAX),
        };
        let timeout = match timeout {
            Some(schema::HoldTimeout::Auto) => None,
            Some(schema::HoldTimeout::After(limit)) => Some(*limit),
            None => base_timeout,
        };
        HoldSpec::On { timeout, max: max.map_or(base_max, |max| max as usize) }
    }
}

fn resolve_cluster(
    written: &schema::Cluster,
    check: &CheckTiming,
    defaults: &Policy,
    listeners: &mut Listeners,
    around: &Around<'_>,
) -> Cluster {
    let sink = around.sink;
    let name = cluster_name(written, sink);
    if !written.has_dcs {
        let at = written.name.as_ref().map_or(written.at, |name| name.at);
        let sentence = "`trust: confirm` needs a `dcs`: without the leader key nobody can say who leads; \
                        write `dcs: { etcd: { endpoints: [...] } }`";
        sink.report(at, sentence);
    }
    let services = match &written.services {
        schema::Services::Listed(at, services) => {
            if services.is_empty() {
                sink.report(
                    *at,
                    "`services` is empty: there is nothing to listen for; leave it out to have the default ones",
                );
            }
            services.iter().map(|service| resolve_service(service, &name, defaults, listeners, sink)).collect()
        }
        schema::Services::Default => default_services(written, &name, defaults, listeners, sink),
        schema::Services::Broken => Vec::new(),
    };
    let spec = ClusterSpec {
        name: Arc::from(name.as_str()),
        scope: Arc::from(name),
        namespace: namespace(written, sink),
        group: None,
        trust: Trust::Confirm,
        on_dcs_loss: written.on_dcs_loss.unwrap_or(OnDcsLoss::Keep),
        check: check.clone(),
        members: resolve_members(&written.members, written.patroni_tls.is_some(), sink),
        services: services.into_iter().map(Arc::new).collect(),
    };
    Cluster {
        spec: Arc::new(spec),
        etcd: Some(written.etcd.as_ref().map_or_else(EtcdSpec::default, |etcd| etcd::resolve(etcd, around))),
        patroni_tls: written.patroni_tls.as_ref().map(|tls| etcd::resolve_tls(tls, around)),
    }
}

fn cluster_name(written: &schema::Cluster, sink: &Sink) -> String {
    let Some(name) = &written.name else {
        if !written.name_given {
            sink.report(written.at, "the cluster needs a `name`: Patroni's `scope`");
        }
        return String::new();
    };
    if name.value.contains(|c: char| c == '/' || c.is_whitespace() || c.is_control()) {
        let sentence = format!("`{}` cannot be Patroni's scope: no slashes, no blanks", name.value);
        sink.report(name.at, sentence);
    }
    name.value.clone()
}

fn namespace(written: &schema::Cluster, sink: &Sink) -> String {
    let Some(namespace) = &written.namespace else { return "service".to_string() };
    let trimmed = namespace.value.trim_matches('/');
    if trimmed.contains(|c: char| c.is_whitespace() || c.is_control()) || trimmed.contains("//") {
        sink.report(namespace.at, format!("`{}` cannot be Patroni's namespace, such as /service", namespace.value));
    }
    trimmed.to_string()
}

/// Two routers' worth of decisions about one Patroni cluster in one process is a mistake in copying.
fn refuse_twins(before: &[(&schema::Cluster, Cluster)], written: &schema::Cluster, cluster: &Cluster, sink: &Sink) {
    let twin = before.iter().find(|(_, other)| {
        other.spec.prefix() == cluster.spec.prefix()
            && endpoints(other).iter().any(|endpoint| endpoints(cluster).contains(endpoint))
    });
    if let (Some((other, _)), Some(name)) = (twin, &written.name) {
        let line = other.name.as_ref().map_or(other.at.line, |name| name.at.line);
        let sentence = format!(
            "cluster `{}` with this namespace and etcd is at line {line} already: give it more services there",
            name.value
        );
        sink.report(name.at, sentence);
    }
}

fn endpoints(cluster: &Cluster) -> &[String] {
    cluster.etcd.as_ref().map_or(&[], |etcd| &etcd.endpoints)
}

fn resolve_members(written: &[schema::Member], patroni_tls: bool, sink: &Sink) -> BTreeMap<MemberName, StaticMember> {
    let mut members = BTreeMap::new();
    for (index, member) in written.iter().enumerate() {
        if let Some(host) = member.host.as_ref().filter(|host| !is_host(&host.value)) {
            sink.report(host.at, format!("`{}` is not a host name or address; the port goes into `port`", host.value));
        }
        if let Some(api) = member.api.as_ref().filter(|api| api.value.tls && !patroni_tls) {
            let sentence = "an https:// `api` needs `patroni: { tls: { ca: FILE } }` in this cluster \
                            (`tls: {}` trusts whom this system trusts)";
            sink.report(api.at, sentence);
        }
        if let Some(host) = member.host.as_ref().filter(|host| is_unspecified(&host.value)) {
            sink.report(host.at, format!("`{}` is where one listens, not where a member is reached", host.value));
        }
        refuse_same_place(&written[..index], member, sink);
        let facts = StaticMember {
            offline: member.offline,
            host: member.host.as_ref().map(|host| host.value.clone()),
            port: member.port,
            api: member.api.as_ref().map(|api| api.value.clone()),
            weight: None,
        };
        members.insert(MemberName::from(member.name.value.as_str()), facts);
    }
    members
}

fn is_unspecified(host: &str) -> bool {
    host.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified())
}

fn refuse_same_place(before: &[schema::Member], member: &schema::Member, sink: &Sink) {
    for other in before {
        let same_host = member.port.is_some()
            && member.port == other.port
            && member.host.as_ref().map(|host| &host.value) == other.host.as_ref().map(|host| &host.value);
        if let Some(host) = member.host.as_ref().filter(|_| same_host) {
            sink.report(host.at, format!("member `{}` has this host and port already", other.name.value));
        }
        if let (Some(api), Some(others)) = (&member.api, &other.api)
            && api.value == others.value
        {
            sink.report(api.at, format!("member `{}` has this `api` already", other.name.value));
        }
    }
}

fn resolve_service(
    written: &schema::Service,
    cluster: &str,
    defaults: &Policy,
    listeners: &mut Listeners,
    sink: &Sink,
) -> ServiceSpec {
    let name = &written.name;
    let odd = |c: char| !(c.is_ascii_alphanumeric() || "-_.".contains(c));
    if name.value.is_empty() || name.value.contains(odd) {
        sink.report(name.at, format!("`{}` cannot name a service: use letters, digits, `-`, `_` and `.`", name.value));
    }
    if !written.listen_given {
        sink.report(name.at, format!("service `{}` needs `listen`, such as \"*:5433\"", name.value));
    }
    if !written.role_given {
        sink.report(name.at, format!("service `{}` needs a `role`: primary, replica or offline", name.value));
    }
    let owner = format!("service `{}` of cluster `{cluster}`", name.value);
    let listen: &[Written<HostPort>] = written.listen.as_deref().unwrap_or_default();
    listen.iter().for_each(|address| listeners.add(address, &owner, sink));
    if let Some(role) = written.role {
        check_backup(written, role, sink);
        check_criteria(written, role, sink);
    }
    let listen = listen.iter().map(|address| address.value.clone()).collect();
    let mut service =
        service(&name.value, listen, written.role.unwrap_or(Role::Primary), written.policy.over(defaults));
    service.backup = written.backup.iter().map(|role| role.value).collect();
    service.port = written.port;
    service.filter.max_lag = written.max_lag.map(|lag| lag.value);
    service.filter.streaming = written.streaming.is_some_and(|streaming| streaming.value);
    service
}

fn service(name: &str, listen: Vec<HostPort>, role: Role, policy: Policy) -> ServiceSpec {
    ServiceSpec {
        listen: listen.into_iter().map(Into::into).collect(),
        balance: policy.balance,
        hold: policy.hold,
        connect_timeout: policy.connect_timeout,
        retries: policy.retries,
        startup_timeout: policy.startup_timeout,
        close_on_down: if policy.close_on_down {
            CloseOnDown::Cut { grace: Duration::ZERO }
        } else {
            CloseOnDown::Stay
        },
        tcp: policy.tcp,
        ..ServiceSpec::new(name, role)
    }
}

fn check_backup(written: &schema::Service, role: Role, sink: &Sink) {
    if role == Role::Primary {
        if let Some(at) = written.backup_at.filter(|_| !written.backup.is_empty()) {
            let sentence = "a primary service takes no `backup`: writers would reach a read-only member (SQLSTATE 25006); \
                            they are held until there is a primary";
            sink.report(at, sentence);
        }
        return;
    }
    for (index, backup) in written.backup.iter().enumerate() {
        if backup.value == role {
            sink.report(backup.at, format!("`{role}` is this service's own role, so it is no backup"));
        } else if written.backup[..index].iter().any(|other| other.value == backup.value) {
            sink.report(backup.at, format!("`{}` is in `backup` twice", backup.value));
        } else if role == Role::Offline && backup.value == Role::Primary {
            let sentence = "an offline service does not fall back on the primary: what runs there would weigh on every \
                            writer; write a service with `role: primary` for it";
            sink.report(backup.at, sentence);
        }
    }
}

fn check_criteria(written: &schema::Service, role: Role, sink: &Sink) {
    if let Some(lag) = written.max_lag.filter(|lag| lag.value == 0) {
        let sentence = "`max_lag` of 0 would exclude every replica while anyone writes; leave it out for no limit";
        sink.report(lag.at, sentence);
    }
    if role != Role::Primary {
        return;
    }
    let given = [
        written.max_lag.map(|lag| ("max_lag", lag.at)),
        written.streaming.filter(|s| s.value).map(|s| ("streaming", s.at)),
    ];
    for (key, at) in given.into_iter().flatten() {
        sink.report(at, format!("`{key}` is about replicas, and this is a primary service"));
    }
}

/// Pigsty's ports and roles.
const DEFAULT_SERVICES: [(&str, u16, Role, &[Role]); 4] = [
    ("primary", 5433, Role::Primary, &[]),
    ("replica", 5434, Role::Replica, &[Role::Primary, Role::Offline]),
    ("default", 5436, Role::Primary, &[]),
    ("offline", 5438, Role::Offline, &[Role::Replica]),
];

fn default_services(
    written: &schema::Cluster,
    cluster: &str,
    defaults: &Policy,
    listeners: &mut Listeners,
    sink: &Sink,
) -> Vec<ServiceSpec> {
    let at: At = written.name.as_ref().map_or(written.at, |name| name.at);
    let address = |port| Written { value: HostPort::new("*", port), at };
    let taken = DEFAULT_SERVICES.iter().find_map(|(_, port, ..)| listeners.conflict(&address(*port).value));
    if let Some((other, by, place)) = taken {
        let sentence = format!(
            "cluster `{cluster}` leaves out `services:` and so gets the default ports 5433, 5434, 5436 and 5438, but \
             {by} listens on `{other}` (line {}, column {}); write `services:` with ports of its own",
            place.line, place.column
        );
        sink.report(at, sentence);
    }
    let mut services = Vec::new();
    for (name, port, role, backup) in DEFAULT_SERVICES {
        let address = address(port);
        if listeners.conflict(&address.value).is_none() {
            listeners.add(&address, &format!("default service `{name}` of cluster `{cluster}`"), sink);
        }
        let policy = schema::Policy::default().over(defaults);
        let mut spec = service(name, vec![address.value], role, policy);
        spec.backup = backup.to_vec();
        services.push(spec);
    }
    services
}
