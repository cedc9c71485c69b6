//! Virtual addresses: whose role each follows, and what does not go together.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use super::diagnose::{At, Sink, all_of, any_of, nearest};
use super::fields::Written;
use super::listen::ip_of;
use super::quantity::show_duration;
use super::{Cluster, schema};
use crate::model::{HostPort, ListenAddress, MemberName, Trust, VipAddress, VipOnDcsLoss, VipOnExit, VipSpec};

/// Each has a task, a socket and a share of the kernel's list of addresses.
const VIPS_MAX: usize = 256;
/// How long `on_exit: keep` keeps an address: a restart takes less.
const KEEP_DEFAULT: Duration = Duration::from_secs(30);

type Clusters<'a> = [(&'a schema::Cluster, Cluster)];

pub(super) fn resolve(file: &schema::File, clusters: &Clusters<'_>, sink: &Sink) -> Vec<Arc<VipSpec>> {
    if let Some(first) = file.vips.get(VIPS_MAX) {
        sink.report(first.at, format!("`vips` has more than {VIPS_MAX} entries"));
    }
    let mut specs = Vec::new();
    let mut before: Vec<Written<VipAddress>> = Vec::new();
    for written in file.vips.iter().take(VIPS_MAX) {
        let cluster = cluster(written, clusters, sink);
        if let Some(address) = written.address {
            refuse_twin(&before, address, sink);
            refuse_users(file, address, cluster.map(|(written, _)| *written), sink);
            before.push(address);
        }
        specs.extend(one(written, cluster, sink).map(Arc::new));
    }
    specs
}

/// None where the address, the interface or the cluster could not be read, which was reported.
fn one(written: &schema::Vip, cluster: Option<&(&schema::Cluster, Cluster)>, sink: &Sink) -> Option<VipSpec> {
    // What is missing does not keep the rest from being looked at; such a spec is not given out.
    let address = written.address.map(|address| address.value);
    let name = cluster.map_or("", |(_, cluster)| &cluster.spec.name);
    let interface = written.interface.as_ref().map_or("", |interface| &interface.value);
    let nowhere = VipAddress::single(Ipv4Addr::UNSPECIFIED.into());
    let mut spec = VipSpec::new(address.unwrap_or(nowhere), interface, name);
    spec.member = written.member.as_ref().map(|member| MemberName::from(member.value.as_str()));
    spec.role = written.role.unwrap_or(spec.role);
    spec.lease = written.lease.unwrap_or(spec.lease);
    spec.on_dcs_loss = on_dcs_loss(written, &spec, sink);
    spec.grace = grace(written, &spec, sink);
    spec.on_exit = on_exit(written, &spec, sink);
    spec.close_sockets = written.close_sockets.unwrap_or(spec.close_sockets);
    spec.refresh = written.refresh;
    spec.adopt = written.adopt.unwrap_or(spec.adopt);
    (address.is_some() && written.interface.is_some() && cluster.is_some()).then_some(spec)
}

/// Where a problem with a whole VIP is shown.
fn place(written: &schema::Vip) -> At {
    written.address.map_or(written.at, |address| address.at)
}

/// Whose role it follows; None where that cannot be told, which is reported unless something else is to
/// blame that was reported.
fn cluster<'a, 'b>(
    written: &schema::Vip,
    clusters: &'a Clusters<'b>,
    sink: &Sink,
) -> Option<&'a (&'b schema::Cluster, Cluster)> {
    let at = written.cluster.as_ref().map_or(place(written), |cluster| cluster.at);
    let found = match (&written.cluster, clusters) {
        (Some(name), _) => named(name, clusters, sink)?,
        (None, _) if written.cluster_given => return None,
        (None, [only]) => only,
        (None, []) => return None,
        (None, several) => {
            let with_dcs = several.iter().filter(|(_, cluster)| cluster.spec.trust == Trust::Confirm);
            let known = any_of(with_dcs.map(|(_, cluster)| &*cluster.spec.name));
            sink.report(at, format!("whose role this VIP follows is not clear: write `cluster`, which is {known}"));
            return None;
        }
    };
    let (_, cluster) = found;
    if cluster.spec.trust == Trust::Rest {
        let sentence = format!(
            "a VIP follows the leader key, and with `trust: rest` cluster `{}` reads none: give the cluster a `dcs` \
             and `trust: confirm`; beside a Patroni whose DCS is out of reach, `pgvane vip --dcs-type patroni` follows \
             its REST API",
            cluster.spec.name
        );
        sink.report(at, sentence);
    }
    Some(found)
}

/// The cluster that is called so, else the one with this scope.
fn named<'a, 'b>(
    name: &Written<String>,
    clusters: &'a Clusters<'b>,
    sink: &Sink,
) -> Option<&'a (&'b schema::Cluster, Cluster)> {
    if let Some(found) = clusters.iter().find(|(_, cluster)| *cluster.spec.name == name.value) {
        return Some(found);
    }
    let of_scope: Vec<_> = clusters.iter().filter(|(_, cluster)| *cluster.spec.scope == name.value).collect();
    match of_scope.as_slice() {
        [only] => return Some(only),
        // A cluster whose name could not be read may be the one.
        [] if clusters.iter().any(|(written, _)| written.name.is_none()) => {}
        [] => {
            let known = || clusters.iter().map(|(_, cluster)| &*cluster.spec.name);
            let meant = match nearest(&name.value, known()) {
                Some(word) => format!("did you mean `{word}`?"),
                None => format!("known: {}", all_of(known())),
            };
            sink.report(name.at, format!("there is no cluster `{}`; {meant}", name.value));
        }
        several => {
            let known = any_of(several.iter().map(|(_, cluster)| &*cluster.spec.name));
            sink.report(name.at, format!("several clusters have the scope `{}`; write {known}", name.value));
        }
    }
    None
}

fn refuse_twin(before: &[Written<VipAddress>], address: Written<VipAddress>, sink: &Sink) {
    if let Some(other) = before.iter().find(|other| other.value.ip == address.value.ip) {
        let sentence = format!(
            "`{}` is a VIP already, at line {}: one address follows one role, whatever its prefix",
            address.value.ip, other.at.line
        );
        sink.report(address.at, sentence);
    }
}

/// Reports whoever uses the address for something that a moving one is no good for.
fn refuse_users(file: &schema::File, vip: Written<VipAddress>, follows: Option<&schema::Cluster>, sink: &Sink) {
    let (ip, line) = (vip.value.ip, vip.at.line);
    let is_it = |host: &str| host.parse::<IpAddr>().is_ok_and(|host| host.to_canonical() == ip);
    for at in file.admin.iter().flat_map(|admin| &admin.listen).filter(|at| is_it(&at.value.host)) {
        let sentence = format!(
            "`{ip}` is a VIP (line {line}), which is not always on this host; let `admin` listen on an address that is"
        );
        sink.report(at.at, sentence);
    }
    for cluster in &file.clusters {
        let endpoints = cluster.etcd.iter().flat_map(|etcd| etcd.endpoints.iter().flatten());
        for endpoint in endpoints.filter(|endpoint| host_of(&endpoint.value).is_some_and(|host| is_it(&host))) {
            let sentence = format!(
                "`{ip}` is a VIP (line {line}), and who has that is known from etcd alone; write etcd's own address"
            );
            sink.report(endpoint.at, sentence);
        }
        for member in &cluster.members {
            let host = member.host.iter().filter(|host| is_it(&host.value)).map(|host| host.at);
            let api = member.api.iter().filter(|api| is_it(&api.value.at.host)).map(|api| api.at);
            for at in host.chain(api) {
                let sentence = format!(
                    "`{ip}` is a VIP (line {line}), which moves between members; write the member's own address"
                );
                sink.report(at, sentence);
            }
        }
        if let Some(own) = follows.filter(|own| !std::ptr::eq(*own, cluster)) {
            refuse_strangers(cluster, own, vip, sink);
        }
    }
}

/// Services of `cluster` on an address that follows a role in `own`.
fn refuse_strangers(cluster: &schema::Cluster, own: &schema::Cluster, vip: Written<VipAddress>, sink: &Sink) {
    let schema::Services::Listed(_, services) = &cluster.services else { return };
    let name = own.alias.as_ref().or(own.name.as_ref()).map_or("", |name| &name.value);
    for service in services {
        let on_it = |at: &&Written<ListenAddress>| ip_of(&at.value) == Some(vip.value.ip);
        for at in service.listen.iter().flatten().filter(on_it) {
            let sentence = format!(
                "the VIP `{}` (line {}) follows cluster `{name}` and would take the clients of this one away with it; \
                 give this cluster a VIP of its own, or let the service listen on an address that stays",
                vip.value.ip, vip.at.line
            );
            sink.report(at.at, sentence);
        }
    }
}

/// The host of an endpoint as it is written.
fn host_of(endpoint: &str) -> Option<String> {
    let (_, rest) = endpoint.split_once("://")?;
    let authority = rest.split('/').next()?;
    HostPort::parse(authority, Some(1)).map(|at| at.host)
}

fn on_dcs_loss(written: &schema::Vip, spec: &VipSpec, sink: &Sink) -> VipOnDcsLoss {
    if !spec.is_exclusive_by_mark() {
        return written.on_dcs_loss.map_or(spec.on_dcs_loss, |policy| policy.value);
    }
    if let Some(policy) = written.on_dcs_loss.filter(|policy| policy.value != VipOnDcsLoss::Release) {
        let sentence = format!(
            "several members may have the role `{role}` at a time, and the DCS alone says which of them has the VIP: \
             without it the VIP is let go; leave `on_dcs_loss` out, or write `release`",
            role = spec.role
        );
        sink.report(policy.at, sentence);
    }
    VipOnDcsLoss::Release
}

/// What `grace` may be with a lease: the address is renewed at least by a third of its lease and only by fresh
/// views, a view is stale after 2 s, and the address goes one second before the kernel would take it.
fn grace_max(lease: Duration) -> Duration {
    let millis = lease.as_secs() * 2000 / 3;
    Duration::from_millis(millis.saturating_sub(2000))
}

/// The shortest lease, in whole seconds, with which `grace` is possible.
fn lease_for(grace: Duration) -> Duration {
    let lease = (grace + Duration::from_secs(2)) * 3 / 2;
    Duration::from_secs(lease.as_secs() + u64::from(lease.subsec_nanos() > 0))
}

fn grace(written: &schema::Vip, spec: &VipSpec, sink: &Sink) -> Duration {
    let longest = grace_max(spec.lease);
    let Some(grace) = written.grace else { return spec.grace.min(longest) };
    if spec.on_dcs_loss != VipOnDcsLoss::Release {
        let sentence = format!(
            "`grace` is for `on_dcs_loss: release`, and this VIP has `{}`: write the one, or leave the other out",
            spec.on_dcs_loss.as_str()
        );
        sink.report(grace.at, sentence);
    } else if grace.value > longest {
        let sentence = format!(
            "nothing renews the VIP without the DCS, so that `grace: {}` needs a `lease` of {}; with {} write {} at most",
            show_duration(grace.value),
            show_duration(lease_for(grace.value)),
            show_duration(spec.lease),
            show_duration(longest),
        );
        sink.report(grace.at, sentence);
    }
    grace.value
}

fn on_exit(written: &schema::Vip, spec: &VipSpec, sink: &Sink) -> VipOnExit {
    // Beyond its own lease our mark in the DCS may be gone and the address with another member.
    let longest = if spec.is_exclusive_by_mark() { spec.lease } else { Duration::MAX };
    match &written.on_exit {
        None => spec.on_exit,
        Some(schema::Exit::Release) => VipOnExit::Release,
        Some(schema::Exit::Keep(None)) => VipOnExit::Keep(KEEP_DEFAULT.min(longest)),
        Some(schema::Exit::Keep(Some(keep))) => {
            if keep.value > longest {
                let sentence = format!(
                    "another {} may take the VIP when its lease is over: keep it for {} at most, or make `lease` longer",
                    spec.role,
                    show_duration(longest)
                );
                sink.report(keep.at, sentence);
            }
            VipOnExit::Keep(keep.value)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_lease_for_a_grace_allows_it() {
        for millis in (0..=30_000).step_by(125) {
            let grace = Duration::from_millis(millis);
            let lease = lease_for(grace);
            assert!(grace_max(lease) >= grace, "{grace:?}");
            assert!(grace_max(lease - Duration::from_secs(1)) < grace || grace.is_zero(), "{grace:?}");
        }
    }
}
