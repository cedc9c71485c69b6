//! Services: who may be wanted, from whom, and what goes together.

use super::diagnose::{At, Sink, any_of, nearest};
use super::fields::Written;
use super::listen::{ip_of, socket_path};
use super::policy::{for_role, has_one_target};
use super::resolve::Whole;
use super::schema;
use crate::model::{HostPort, ListenAddress, MemberName, Role, ServiceSpec, Trust};

/// The cluster that a service belongs to.
pub(super) struct Of<'a> {
    pub name: &'a str,
    pub written: &'a schema::Cluster,
    pub trust: Trust,
}

pub(super) fn resolve(of: &Of<'_>, whole: &mut Whole<'_>) -> Vec<ServiceSpec> {
    match &of.written.services {
        schema::Services::Listed(at, services) => {
            if services.is_empty() {
                whole.around.sink.report(
                    *at,
                    "`services` is empty: there is nothing to listen for; leave it out to have the default ones",
                );
            }
            services.iter().map(|service| one(service, of, whole)).collect()
        }
        schema::Services::Default => default_services(of, whole),
        schema::Services::Broken => Vec::new(),
    }
}

fn one(written: &schema::Service, of: &Of<'_>, whole: &mut Whole<'_>) -> ServiceSpec {
    let sink = whole.around.sink;
    check_name(written, sink);
    let owner = format!("service `{}` of cluster `{}`", written.name.value, of.name);
    let listen = listen(written, &owner, whole);
    whole.labels.add(of.name, &written.name.value, written.name.at, sink);
    if let Some(role) = written.role {
        check_backup(written, role, sink);
        check_criteria(&written.criteria, role, sink);
        written.policy.refuse_for(role, sink);
        written.check.refuse_unused(role, of.trust, sink);
    }
    check_selected(&written.criteria, of, sink);
    written.check.refuse_slow_fastinter(Some(whole.check), sink);
    check_allow(written, &listen, sink);
    let mut service = for_role(&whole.base, &written.name.value, written.role.unwrap_or(Role::Primary));
    written.policy.apply(&mut service);
    // It could not listen on an address that this host has only at times.
    service.freebind |= listen.iter().any(|address| ip_of(address).is_some_and(|ip| whole.vips.contains(&ip)));
    service.listen = listen;
    service.backup = written.backup.iter().map(|role| role.value).collect();
    service.port = written.port;
    service.check = written.check.over(whole.check);
    let criteria = &written.criteria;
    service.filter.tags = criteria.tags.iter().map(|(key, value)| (key.value.clone(), value.clone())).collect();
    service.filter.members =
        criteria.members.iter().flatten().map(|name| MemberName::from(name.value.as_str())).collect();
    service.filter.max_lag = criteria.max_lag.map(|lag| lag.value);
    service.filter.streaming = criteria.streaming.is_some_and(|streaming| streaming.value);
    service
}

/// What may be part of a name in logs and labels.
pub(super) fn is_plain_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

fn check_name(written: &schema::Service, sink: &Sink) {
    let name = &written.name;
    if !is_plain_name(&name.value) {
        sink.report(name.at, format!("`{}` cannot name a service: use letters, digits, `-`, `_` and `.`", name.value));
    }
    if !written.listen_given {
        sink.report(name.at, format!("service `{}` needs `listen`, such as \"*:5433\"", name.value));
    }
    if !written.role_given {
        let roles = any_of(Role::ALL.map(Role::as_str));
        sink.report(name.at, format!("service `{}` needs a `role`: {roles}", name.value));
    }
}

/// A list of networks where nobody comes by one.
fn check_allow(written: &schema::Service, listen: &[ListenAddress], sink: &Sink) {
    let only_sockets = !listen.is_empty() && listen.iter().all(|at| matches!(at, ListenAddress::Unix(_)));
    if let Some(allow) = written.policy.allow.as_ref().filter(|_| only_sockets) {
        let sentence = format!(
            "`allow` is about clients by TCP, and service `{}` listens on Unix sockets alone: leave it out, and let \
             the socket's directory say who may",
            written.name.value
        );
        sink.report(allow.at, sentence);
    }
}

fn listen(written: &schema::Service, owner: &str, whole: &mut Whole<'_>) -> Vec<ListenAddress> {
    let mut listen = Vec::new();
    for address in written.listen.iter().flatten() {
        let value = match &address.value {
            ListenAddress::Unix(path) => ListenAddress::Unix(socket_path(path, address.at, whole.around)),
            tcp => tcp.clone(),
        };
        let address = Written { value, at: address.at };
        whole.listeners.add(&address, owner, whole.around.sink);
        listen.push(address.value);
    }
    listen
}

/// Whether every member of `other` is one of `role`, so that it has nobody where `role` has nobody.
fn covers(role: Role, other: Role) -> bool {
    match role {
        Role::Any => true,
        Role::ReadOnly => matches!(other, Role::ReadOnly | Role::Primary | Role::Replica | Role::Sync | Role::Async),
        role => role == other,
    }
}

fn check_backup(written: &schema::Service, role: Role, sink: &Sink) {
    if role == Role::Primary {
        if let Some(at) = written.backup_at {
            let sentence = "a primary service takes no `backup`: writers would reach a read-only member (SQLSTATE 25006); \
                            they are held until there is a primary";
            sink.report(at, sentence);
        }
        return;
    }
    // A check of its own may refuse members of the role that a backup's check takes.
    let own = (written.check.path.is_none()).then_some(role);
    for (index, backup) in written.backup.iter().enumerate() {
        let before = written.backup[..index].iter().map(|other| other.value);
        let covering = own.into_iter().chain(before.clone()).find(|other| covers(*other, backup.value));
        if backup.value == role {
            sink.report(backup.at, format!("`{role}` is this service's own role, so it is no backup"));
        } else if before.clone().any(|other| other == backup.value) {
            sink.report(backup.at, format!("`{}` is in `backup` twice", backup.value));
        } else if let Some(other) = covering {
            let sentence = format!("`{}` adds nobody: all of them are `{other}`, which comes before it", backup.value);
            sink.report(backup.at, sentence);
        } else if backup.value.includes_primary() {
            refuse_primary(role, backup, sink);
        }
    }
}

/// Where falling back on the primary, alone or with others, would do harm.
fn refuse_primary(role: Role, backup: &Written<Role>, sink: &Sink) {
    let why = match role {
        Role::Offline => "what runs there would weigh on every writer",
        Role::StandbyLeader => {
            "there is one only when the standby cluster was promoted, and clients that were meant to read would write"
        }
        _ => return,
    };
    let whom = match backup.value {
        Role::Primary => "the primary".to_string(),
        role => format!("`{role}`, which the primary is, too"),
    };
    let article = if role == Role::Offline { "an" } else { "a" };
    let sentence = format!(
        "{article} {role} service does not fall back on {whom}: {why}; write a service with `role: primary` for it"
    );
    sink.report(backup.at, sentence);
}

fn check_criteria(criteria: &schema::Criteria, role: Role, sink: &Sink) {
    if let Some(lag) = criteria.max_lag.filter(|lag| lag.value == 0) {
        let sentence = "`max_lag` of 0 would exclude every replica while anyone writes; leave it out for no limit";
        sink.report(lag.at, sentence);
    }
    if !has_one_target(role) {
        return;
    }
    let given = [
        criteria.tags_at.map(|at| ("tags", at)),
        criteria.max_lag.map(|lag| ("max_lag", lag.at)),
        criteria.streaming.filter(|s| s.value).map(|s| ("streaming", s.at)),
    ];
    for (key, at) in given.into_iter().flatten() {
        sink.report(at, format!("`{key}` is about replicas, and this is a {role} service"));
    }
}

/// Members that a service names: each once, and with `trust: rest` among those that there are.
fn check_selected(criteria: &schema::Criteria, of: &Of<'_>, sink: &Sink) {
    let Some(names) = &criteria.members else { return };
    if let (true, Some(at)) = (names.is_empty(), criteria.members_at) {
        sink.report(at, "`members` names nobody, so the service would have no target; leave it out to mean all");
    }
    for (index, name) in names.iter().enumerate() {
        let known = || of.written.members.iter().map(|member| member.name.value.as_str());
        if names[..index].iter().any(|other| other.value == name.value) {
            sink.report(name.at, format!("`{}` is in `members` twice", name.value));
        } else if of.trust == Trust::Rest && !known().any(|member| member == name.value) {
            let meant = nearest(&name.value, known()).map(|word| format!("; did you mean `{word}`?"));
            let sentence = format!("`{}` is no member of this cluster{}", name.value, meant.unwrap_or_default());
            sink.report(name.at, sentence);
        }
    }
}

/// Pigsty's ports and roles.
const DEFAULT_SERVICES: [(&str, u16, Role, &[Role]); 4] = [
    ("primary", 5433, Role::Primary, &[]),
    ("replica", 5434, Role::Replica, &[Role::Primary, Role::Offline]),
    ("default", 5436, Role::Primary, &[]),
    ("offline", 5438, Role::Offline, &[Role::Replica]),
];

fn default_services(of: &Of<'_>, whole: &mut Whole<'_>) -> Vec<ServiceSpec> {
    let sink = whole.around.sink;
    let at = of.written.name.as_ref().map_or(of.written.at, |name| name.at);
    let address = |port| Written { value: ListenAddress::Tcp(HostPort::new("*", port)), at };
    let taken = DEFAULT_SERVICES.iter().find_map(|(_, port, ..)| whole.listeners.conflict(&address(*port).value));
    if let Some((other, by, place)) = taken {
        let sentence = format!(
            "cluster `{}` leaves out `services:` and so gets the default ports 5433, 5434, 5436 and 5438, but \
             {by} listens on `{other}` (line {}, column {}); write `services:` with ports of its own",
            of.name, place.line, place.column
        );
        sink.report(at, sentence);
    }
    let mut services = Vec::new();
    for (name, port, role, backup) in DEFAULT_SERVICES {
        let address = address(port);
        if whole.listeners.conflict(&address.value).is_none() {
            whole.listeners.add(&address, &format!("default service `{name}` of cluster `{}`", of.name), sink);
        }
        whole.labels.add(of.name, name, at, sink);
        let mut spec = for_role(&whole.base, name, role);
        spec.listen = vec![address.value];
        spec.backup = backup.to_vec();
        spec.check = schema::Check::default().over(whole.check);
        services.push(spec);
    }
    services
}

/// What services are called in metrics, `<cluster>-<service>`, in the order of the file.
#[derive(Default)]
pub(super) struct Labels {
    taken: Vec<Label>,
}

struct Label {
    cluster: String,
    service: String,
    at: At,
}

impl Labels {
    fn add(&mut self, cluster: &str, service: &str, at: At, sink: &Sink) {
        let label = format!("{cluster}-{service}");
        let same = |other: &&Label| format!("{}-{}", other.cluster, other.service) == label;
        // Two clusters of one name are a problem of their own.
        match self.taken.iter().find(same) {
            Some(other) if other.cluster != cluster => {
                let sentence = format!(
                    "service `{service}` of cluster `{cluster}` would be `{label}` in metrics, as service `{}` of \
                     cluster `{}` is (line {}): rename it, or give a cluster an `alias`",
                    other.service, other.cluster, other.at.line
                );
                sink.report(at, sentence);
            }
            Some(_) => {}
            None => self.taken.push(Label { cluster: cluster.to_string(), service: service.to_string(), at }),
        }
    }
}
