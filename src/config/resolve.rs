//! From the file as written to the configuration as meant: defaults filled in, everything compared
//! with everything else, files and environment read.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::diagnose::{At, Sink};
use super::fields::Written;
use super::listen::Listeners;
use super::services::{Labels, Of, is_plain_name};
use super::{
    Admin, Cluster, Config, EtcdSpec, LogSpec, Outside, Shutdown, etcd, members, schema, services, syslog, vips,
};
use crate::model::{ClusterSpec, ListenAddress, OnDcsLoss, Role, ServiceSpec, Trust};

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

/// What all clusters of a file have in common, or may not have twice.
pub(super) struct Whole<'a> {
    pub around: &'a Around<'a>,
    /// A service with nothing but `defaults`.
    pub base: ServiceSpec,
    /// `defaults.check`
    pub check: &'a schema::Check,
    pub listeners: Listeners,
    pub labels: Labels,
    /// The virtual addresses, which come and go.
    pub vips: Vec<IpAddr>,
}

/// A configuration; good for use only if nothing was reported.
pub(super) fn resolve(file: &schema::File, around: &Around<'_>) -> Config {
    let sink = around.sink;
    file.check.refuse_slow_fastinter(None, sink);
    let mut base = ServiceSpec::new("", Role::Replica);
    file.defaults.apply(&mut base);
    let mut whole = Whole {
        around,
        base,
        check: &file.check,
        listeners: Listeners::default(),
        labels: Labels::default(),
        vips: file.vips.iter().filter_map(|vip| vip.address).map(|address| address.value.ip).collect(),
    };
    let admin = file.admin.as_ref().map(|admin| resolve_admin(admin, &mut whole));
    let mut clusters: Vec<(&schema::Cluster, Cluster)> = Vec::new();
    for written in &file.clusters {
        let cluster = resolve_cluster(written, &mut whole);
        refuse_twins(&clusters, written, &cluster, sink);
        clusters.push((written, cluster));
    }
    if !clusters.iter().any(|(written, cluster)| asks_for_services(written, cluster)) {
        file.check.refuse_unused_by_all(sink);
    }
    let vips = vips::resolve(file, &clusters, sink);
    let shutdown = Shutdown::default();
    Config {
        state_file: file.state_file.as_ref().map(|path| around.path(path)),
        log: LogSpec { syslog: file.syslog.as_ref().map(|written| syslog::resolve(written, around)) },
        shutdown: Shutdown {
            delay: file.shutdown_delay.unwrap_or(shutdown.delay),
            drain: file.shutdown_drain.unwrap_or(shutdown.drain),
        },
        admin,
        splice: file.splice.unwrap_or_default(),
        clusters: clusters.into_iter().map(|(_, cluster)| cluster).collect(),
        vips,
    }
}

fn resolve_admin(written: &schema::Admin, whole: &mut Whole<'_>) -> Admin {
    for address in &written.listen {
        let address = Written { value: ListenAddress::Tcp(address.value.clone()), at: address.at };
        whole.listeners.add(&address, "`admin`", whole.around.sink);
    }
    Admin {
        listen: written.listen.iter().map(|address| address.value.clone()).collect(),
        orders: written.orders.unwrap_or_default(),
    }
}

/// Whether any service has HTTP checks of its own, as far as can be told.
fn asks_for_services(written: &schema::Cluster, cluster: &Cluster) -> bool {
    let unclear = written.trust_given && written.trust.is_none();
    unclear || cluster.spec.trust == Trust::Rest || cluster.spec.services.iter().any(|s| s.check.path.is_some())
}

fn resolve_cluster(written: &schema::Cluster, whole: &mut Whole<'_>) -> Cluster {
    let around = whole.around;
    let sink = around.sink;
    let scope = scope(written, sink);
    let name = name(written, &scope, sink);
    let trust = written.trust.unwrap_or(Trust::Confirm);
    check_trust(written, trust, sink);
    let services = services::resolve(&Of { name: &name, written, trust }, whole);
    let etcd = match trust {
        Trust::Confirm => {
            Some(written.etcd.as_ref().map_or_else(EtcdSpec::default, |etcd| etcd::resolve(etcd, around)))
        }
        Trust::Rest => None,
    };
    let spec = ClusterSpec {
        name: Arc::from(name),
        scope: Arc::from(scope),
        namespace: namespace(written, sink),
        group: written.group,
        trust,
        on_dcs_loss: written.on_dcs_loss.unwrap_or(OnDcsLoss::Keep),
        check: whole.check.timing(),
        members: members::resolve(written, trust, sink),
        services: services.into_iter().map(Arc::new).collect(),
    };
    Cluster {
        spec: Arc::new(spec),
        etcd,
        patroni_tls: written.patroni_tls.as_ref().map(|tls| etcd::resolve_tls(tls, around)),
    }
}

/// Whether there is what `trust` goes by, and nothing that it does not look at.
fn check_trust(written: &schema::Cluster, trust: Trust, sink: &Sink) {
    match trust {
        Trust::Confirm if written.dcs_at.is_none() && written.trust_given == written.trust.is_some() => {
            let hosts = written.members.iter().any(|member| member.host_given);
            let members = if hosts { "these `members`" } else { "`members: { NAME: { host: ADDRESS } }`" };
            let sentence = format!(
                "`trust: confirm` needs a `dcs`: without the leader key nobody can say who leads; write \
                 `dcs: {{ etcd: {{ endpoints: [...] }} }}`, or `trust: rest` to have {members} checked over their REST \
                 API as HAProxy does"
            );
            sink.report(place(written), sentence);
        }
        Trust::Confirm => {}
        Trust::Rest => {
            if let Some(at) = written.dcs_at {
                let sentence = "with `trust: rest` nothing reads a DCS: leave `dcs` out or write `trust: confirm`";
                sink.report(at, sentence);
            }
            if let Some(at) = written.on_dcs_loss_at {
                sink.report(at, "with `trust: rest` nothing reads a DCS, so none can be lost: leave `on_dcs_loss` out");
            }
        }
    }
}

/// Where a problem with a whole cluster is shown.
fn place(written: &schema::Cluster) -> At {
    written.name.as_ref().map_or(written.at, |name| name.at)
}

fn scope(written: &schema::Cluster, sink: &Sink) -> String {
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

/// What the cluster is called by us.
fn name(written: &schema::Cluster, scope: &str, sink: &Sink) -> String {
    if let Some(alias) = &written.alias {
        if !is_plain_name(&alias.value) {
            let sentence = format!("`{}` cannot be an alias: use letters, digits, `-`, `_` and `.`", alias.value);
            sink.report(alias.at, sentence);
        }
        return alias.value.clone();
    }
    match written.group {
        Some(group) if !scope.is_empty() => format!("{scope}-{group}"),
        _ => scope.to_string(),
    }
}

fn namespace(written: &schema::Cluster, sink: &Sink) -> String {
    let Some(namespace) = &written.namespace else { return "service".to_string() };
    let trimmed = namespace.value.trim_matches('/');
    if trimmed.contains(|c: char| c.is_whitespace() || c.is_control()) || trimmed.contains("//") {
        sink.report(namespace.at, format!("`{}` cannot be Patroni's namespace, such as /service", namespace.value));
    }
    trimmed.to_string()
}

/// Two routers' worth of decisions about one Patroni cluster in one process is a mistake in copying;
/// two clusters of one name could not be told apart in logs and metrics.
fn refuse_twins(before: &[(&schema::Cluster, Cluster)], written: &schema::Cluster, cluster: &Cluster, sink: &Sink) {
    let Some(scope) = &written.name else { return };
    let twin = before.iter().find(|(_, other)| {
        other.spec.prefix() == cluster.spec.prefix()
            && endpoints(other).iter().any(|endpoint| endpoints(cluster).contains(endpoint))
    });
    if let Some((other, _)) = twin {
        let sentence = format!(
            "cluster `{}` with this namespace and etcd is at line {} already: give it more services there",
            scope.value,
            place(other).line
        );
        return sink.report(scope.at, sentence);
    }
    let name = &cluster.spec.name;
    if let Some((other, _)) = before.iter().find(|(_, other)| other.spec.name == *name) {
        let sentence = format!(
            "a cluster is called `{name}` at line {} already, and logs and metrics go by that: give one of them an \
             `alias` of its own",
            place(other).line
        );
        sink.report(written.alias.as_ref().map_or(scope.at, |alias| alias.at), sentence);
    }
}

fn endpoints(cluster: &Cluster) -> &[String] {
    cluster.etcd.as_ref().map_or(&[], |etcd| &etcd.endpoints)
}
