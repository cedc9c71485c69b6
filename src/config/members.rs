//! Static members: facts beside those of the DCS, or with `trust: rest` all there is.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::diagnose::Sink;
use super::listen::is_host;
use super::schema;
use crate::model::{ApiAddress, HostPort, MemberName, StaticMember, Trust};

/// PostgreSQL's port, and Patroni's in every template of a REST API's address.
const PORT: u16 = 5432;
const API_PORT: u16 = 8008;

pub(super) fn resolve(written: &schema::Cluster, trust: Trust, sink: &Sink) -> BTreeMap<MemberName, StaticMember> {
    let tls = written.patroni_tls.is_some();
    if trust == Trust::Rest {
        demand_hosts(written, sink);
    }
    let mut members = BTreeMap::new();
    let mut before: Vec<(&schema::Member, StaticMember)> = Vec::new();
    for member in &written.members {
        check_place(member, tls, sink);
        let facts = facts(member, trust, tls);
        refuse_same_place(&before, member, &facts, sink);
        members.insert(MemberName::from(member.name.value.as_str()), facts.clone());
        before.push((member, facts));
    }
    members
}

fn demand_hosts(written: &schema::Cluster, sink: &Sink) {
    if written.members.is_empty() {
        let name_at = written.name.as_ref().map_or(written.at, |name| name.at);
        let at = written.members_at.unwrap_or(name_at);
        let sentence = "with `trust: rest` nothing but `members` says who there is: write \
                        `members: { NAME: { host: ADDRESS } }`";
        sink.report(at, sentence);
    }
    for member in written.members.iter().filter(|member| !member.host_given) {
        let sentence =
            format!("member `{}` needs a `host`: with `trust: rest` nothing else says where it is", member.name.value);
        sink.report(member.name.at, sentence);
    }
}

fn check_place(member: &schema::Member, tls: bool, sink: &Sink) {
    if let Some(host) = member.host.as_ref().filter(|host| !is_host(&host.value)) {
        sink.report(host.at, format!("`{}` is not a host name or address; the port goes into `port`", host.value));
    }
    if let Some(api) = member.api.as_ref().filter(|api| api.value.tls && !tls) {
        let sentence = "an https:// `api` needs `patroni: { tls: { ca: FILE } }` in this cluster \
                        (`tls: {}` trusts whom this system trusts)";
        sink.report(api.at, sentence);
    }
    if let Some(host) = member.host.as_ref().filter(|host| is_unspecified(&host.value)) {
        sink.report(host.at, format!("`{}` is where one listens, not where a member is reached", host.value));
    }
}

fn is_unspecified(host: &str) -> bool {
    host.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified())
}

fn facts(member: &schema::Member, trust: Trust, tls: bool) -> StaticMember {
    let host = member.host.as_ref().map(|host| host.value.clone());
    let mut port = member.port;
    let mut api = member.api.as_ref().map(|api| api.value.clone());
    if let (Trust::Rest, Some(host)) = (trust, &host) {
        port = port.or(Some(PORT));
        if !member.api_given {
            api = Some(ApiAddress { tls, at: HostPort::new(host.clone(), API_PORT) });
        }
    }
    StaticMember { offline: member.offline, host, port, api, weight: member.weight }
}

fn refuse_same_place(
    before: &[(&schema::Member, StaticMember)],
    member: &schema::Member,
    facts: &StaticMember,
    sink: &Sink,
) {
    let same_place = |(_, known): &&(&schema::Member, StaticMember)| {
        facts.port.is_some() && facts.port == known.port && facts.host == known.host
    };
    let same_api = |(_, known): &&(&schema::Member, StaticMember)| facts.api.is_some() && facts.api == known.api;
    let place_taken = before.iter().find(same_place);
    if let (Some((other, _)), Some(host)) = (place_taken, &member.host) {
        sink.report(host.at, format!("member `{}` has this host and port already", other.name.value));
    }
    let Some((other, _)) = before.iter().find(same_api) else { return };
    let name = &other.name.value;
    match (&member.api, &member.host, &facts.api) {
        (Some(api), ..) => sink.report(api.at, format!("member `{name}` has this `api` already")),
        (None, Some(host), Some(api)) if place_taken.is_none() => {
            let sentence = format!("member `{name}` has its REST API at {api} already: write the `api` of this one");
            sink.report(host.at, sentence);
        }
        _ => {}
    }
}
