//! `/api/v1/status`: everything known, with ages instead of clock times.

use std::time::Instant;

use serde_json::{Value, json};

use crate::decide::status::MemberSnapshot;
use crate::decide::track::Proof;
use crate::decide::{ServiceRoutes, ServiceSnapshot};
use crate::model::{MemberName, RestRole};

use super::{ClusterReport, Lifecycle};

pub fn status(lifecycle: &Lifecycle, reports: &[ClusterReport], now: Instant) -> Value {
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "stopping": lifecycle.is_stopping(),
        "configuration": configuration(lifecycle),
        "clusters": reports.iter().map(|report| cluster(report, now)).collect::<Vec<_>>(),
    })
}

fn configuration(lifecycle: &Lifecycle) -> Value {
    let reloads = lifecycle.reloads();
    json!({
        "read_at": reloads.configured_at,
        "reloads": reloads.ok,
        "reloads_refused": reloads.refused,
        "last_reload_refused": reloads.stale,
        "clusters_leaving": lifecycle.leaving(),
    })
}

fn cluster(report: &ClusterReport, now: Instant) -> Value {
    let snapshot = &report.snapshot;
    json!({
        "name": &*report.name,
        "namespace": report.namespace,
        "generation": snapshot.routes.generation,
        "dcs": dcs(report, now),
        "leader": leader(report, now),
        "members": snapshot.members.iter().map(|m| member(m, now)).collect::<Vec<_>>(),
        "services": snapshot.routes.services.iter().map(|s| service(report, s, now)).collect::<Vec<_>>(),
        "problems": snapshot.problems.iter().map(|p| json!({ "key": p.key, "problem": p.problem })).collect::<Vec<_>>(),
    })
}

fn dcs(report: &ClusterReport, now: Instant) -> Value {
    let dcs = &report.snapshot.dcs;
    let trouble = report.trouble.as_ref();
    json!({
        "state": dcs.state.as_str(),
        "cluster_id": dcs.cluster_id.map(|id| format!("{id:x}")),
        "revision": dcs.revision,
        "read_age_ms": dcs.confirmed_at.map(|at| since(at, now) * 1000.0),
        "lease_left_s": dcs.lease_end.map(|at| at.saturating_duration_since(now).as_secs_f64()),
        "paused": dcs.pause,
        "last_trouble": trouble.map(|(at, endpoint, problem)| {
            json!({ "age_s": since(*at, now), "endpoint": endpoint, "problem": problem })
        }),
    })
}

fn leader(report: &ClusterReport, now: Instant) -> Value {
    let lead = &report.snapshot.lead;
    let system = lead.proof.as_ref().and_then(|p| p.system_id.as_ref());
    json!({
        "key": name(lead.key.as_ref()),
        "open": name(lead.open.as_ref()),
        "reason": lead.reason.as_str(),
        "because": lead.reason.sentence(),
        "since_s": since(lead.since, now),
        "proof": lead.proof.as_ref().map(|p| proof(p, now)),
        "timeline": lead.proof.as_ref().and_then(|p| p.timeline).map(|t| t.0),
        "timeline_mark": system.and_then(|s| report.snapshot.marks.get(s)).map(|t| t.0),
        "timeline_marks": report.snapshot.marks.iter().map(|(s, t)| (s.clone(), json!(t.0))).collect::<serde_json::Map<_, _>>(),
        "planned_hold_left_s": lead.planned_until.map(|at| at.saturating_duration_since(now).as_secs_f64()),
    })
}

fn proof(proof: &Proof, now: Instant) -> Value {
    json!({
        "by": "rest",
        "age_s": since(proof.at, now),
        "since_s": since(proof.since, now),
        "timeline": proof.timeline.map(|t| t.0),
        "system_id": proof.system_id,
    })
}

fn member(member: &MemberSnapshot, now: Instant) -> Value {
    json!({
        "name": member.name.as_str(),
        "pg": member.conn.as_ref().map(ToString::to_string),
        "api": member.api.as_ref().map(ToString::to_string),
        "has_key": member.has_key,
        "health": match member.up { None => "unknown", Some(true) => "up", Some(false) => "down" },
        "reason": member.reason.as_str(),
        "because": member.reason.sentence(),
        "since_s": since(member.since, now),
        "role": member.role.map(role),
        "state": member.state,
        "timeline": member.timeline.map(|t| t.0),
        "lag_bytes": member.lag,
        "proof": member.proof.as_ref().map(|p| proof(p, now)),
        "unproven_because": member.proof.is_none().then(|| member.doubt.as_str()),
        "tags": member.tags,
    })
}

fn service(report: &ClusterReport, routes: &ServiceRoutes, now: Instant) -> Value {
    let counted = report.services.iter().find(|s| s.service == routes.spec.name);
    let sessions = |member: &MemberName| {
        counted.and_then(|c| c.sessions.iter().find(|(m, _)| m == member)).map_or(0, |(_, open)| *open)
    };
    let target = |standing: &crate::decide::Standing| {
        json!({
            "member": standing.member.as_str(),
            "state": standing.state.as_str(),
            "reason": standing.reason.as_str(),
            "because": standing.reason.sentence(),
            "since_s": since(standing.since, now),
            "sessions": sessions(&standing.member),
        })
    };
    json!({
        "name": &*routes.spec.name,
        "role": routes.spec.role.as_str(),
        "backup": routes.spec.backup.iter().map(|r| r.as_str()).collect::<Vec<_>>(),
        "listen": routes.spec.listen.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "balance": routes.spec.balance.as_str(),
        "waits": routes.wait.map(|(reason, at)| {
            json!({ "reason": reason.as_str(), "because": reason.sentence(), "since_s": since(at, now) })
        }),
        "hold_limit_s": routes.hold_limit.map(|limit| limit.as_secs_f64()),
        "held": counted.map_or(0, |c| c.held),
        "held_longest_s": counted.map_or(0.0, |c| c.held_longest.as_secs_f64()),
        "sessions": counted.map_or(0, ServiceSnapshot::sessions_open),
        "totals": counted.map(totals),
        "targets": routes.standings.iter().map(target).collect::<Vec<_>>(),
    })
}

fn totals(counted: &ServiceSnapshot) -> Value {
    let by_reason = |list: &[(crate::model::Reason, u64)]| -> serde_json::Map<String, Value> {
        list.iter().map(|(reason, count)| (reason.as_str().to_owned(), json!(count))).collect()
    };
    json!({
        "clients": counted.clients_total,
        "sessions": counted.sessions_total,
        "held": counted.held_total,
        "hold_max_s": counted.hold_max.as_secs_f64(),
        "closed": by_reason(&counted.closed),
        "refused": by_reason(&counted.refused),
        "cancels": counted.cancels_total,
        "replays": counted.replays_total,
        "bytes_to_server": counted.bytes_to_server,
        "bytes_to_client": counted.bytes_to_client,
    })
}

fn role(role: RestRole) -> &'static str {
    match role {
        RestRole::Primary => "primary",
        RestRole::Replica => "replica",
        RestRole::StandbyLeader => "standby_leader",
        RestRole::Other => "other",
    }
}

fn name(member: Option<&MemberName>) -> Option<&str> {
    member.map(MemberName::as_str)
}

/// Seconds.
fn since(at: Instant, now: Instant) -> f64 {
    now.saturating_duration_since(at).as_secs_f64()
}
