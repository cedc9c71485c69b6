//! `/api/v1/status` and one member's part of it: everything known, with ages instead of clock times.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::decide::status::MemberSnapshot;
use crate::decide::track::Proof;
use crate::decide::vip::VipSnapshot;
use crate::decide::{CheckSnapshot, ServiceRoutes, ServiceSnapshot, Standing};
use crate::model::{MemberName, RestRole, SpliceSnapshot, Trust};

use super::{ClusterReport, Lifecycle, vips};

pub fn status(
    lifecycle: &Lifecycle,
    reports: &[ClusterReport],
    vips: &[VipSnapshot],
    bulk: Option<&SpliceSnapshot>,
    now: Instant,
) -> Value {
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "stopping": lifecycle.is_stopping(),
        "configuration": configuration(lifecycle),
        "clusters": reports.iter().map(|report| cluster(report, now)).collect::<Vec<_>>(),
        "vips": vips.iter().map(|vip| vips::status(vip, now)).collect::<Vec<_>>(),
        "splice": bulk.map(splice),
    })
}

/// One member: what the status tells of it, and how it stands to each service.
pub fn of_member(report: &ClusterReport, name: &MemberName, now: Instant) -> Value {
    let snapshot = &report.snapshot;
    let mut told = snapshot.members.iter().find(|m| m.name == *name).map_or_else(|| json!({}), |m| member(m, now));
    let services = snapshot.routes.services.iter().filter_map(|routes| {
        let standing = routes.standings.iter().find(|standing| standing.member == *name)?;
        let mut told = target(routes, counted(report, routes), standing, now);
        told["service"] = json!(&*routes.spec.name);
        Some(told)
    });
    told["cluster"] = json!(&*report.name);
    told["services"] = services.collect();
    told
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

fn splice(bulk: &SpliceSnapshot) -> Value {
    json!({
        "configured": bulk.configured.as_str(),
        "state": bulk.state(),
        "unusable_because": bulk.unusable,
        "bytes": bulk.bytes,
    })
}

fn cluster(report: &ClusterReport, now: Instant) -> Value {
    let snapshot = &report.snapshot;
    json!({
        "name": &*report.name,
        "namespace": report.namespace,
        "trust": trust(snapshot.trust),
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
        "admin": member.admin.as_str(),
        "weight": member.weight,
        "check": member.check.as_ref().map(|c| check(c, now)),
        "checks": member.checks.iter().map(|c| check(c, now)).collect::<Vec<_>>(),
    })
}

fn check(check: &CheckSnapshot, now: Instant) -> Value {
    let spec = check.spec.as_ref();
    json!({
        "path": spec.map_or("/primary", |spec| &spec.path),
        "port": spec.and_then(|spec| spec.port),
        "expect": spec.map(|spec| spec.expect.to_string()),
        "state": match check.up { None => "unknown", Some(true) => "up", Some(false) => "down" },
        "status": check.status.as_str(),
        "code": check.code,
        "took_ms": millis(check.took),
        "health": health(check),
        "failures": check.failures,
        "downs": check.downs,
        "down_seconds": check.down_for.as_secs_f64(),
        "since_s": since(check.since, now),
        "reason": check.reason.as_str(),
        "because": check.reason.sentence(),
        "problem": check.problem,
    })
}

/// How far the counter is on its way up or down, as HAProxy shows it; None at either end.
pub(super) fn health(check: &CheckSnapshot) -> Option<String> {
    let full = (check.rise + check.fall).saturating_sub(1);
    match check.points {
        0 => None,
        points if points >= full => None,
        points if points >= check.rise => Some(format!("{}/{}", points - check.rise + 1, check.fall)),
        points => Some(format!("{points}/{}", check.rise)),
    }
}

fn counted<'a>(report: &'a ClusterReport, routes: &ServiceRoutes) -> Option<&'a ServiceSnapshot> {
    report.services.iter().find(|counted| counted.service == routes.spec.name)
}

fn service(report: &ClusterReport, routes: &ServiceRoutes, now: Instant) -> Value {
    let counted = counted(report, routes);
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
        "clients": counted.map_or(0, |c| c.clients),
        "clients_most": counted.map_or(0, |c| c.clients_most),
        "queued": counted.map_or(0, |c| c.queued),
        "queued_most": counted.map_or(0, |c| c.queued_most),
        "held": counted.map_or(0, |c| c.held),
        "held_longest_s": counted.map_or(0.0, |c| c.held_longest.as_secs_f64()),
        "sessions": counted.map_or(0, ServiceSnapshot::sessions_open),
        "totals": counted.map(totals),
        "targets": routes.standings.iter().map(|s| target(routes, counted, s, now)).collect::<Vec<_>>(),
    })
}

/// How one member stands to one service, and what went there.
fn target(routes: &ServiceRoutes, counted: Option<&ServiceSnapshot>, standing: &Standing, now: Instant) -> Value {
    let member = &standing.member;
    let open = counted.and_then(|c| c.sessions.iter().find(|(m, _)| m == member)).map_or(0, |(_, open)| *open);
    let counts = counted.and_then(|c| c.targets.iter().find(|t| t.member == *member));
    let taken = routes.targets.iter().find(|target| target.member == *member);
    json!({
        "member": member.as_str(),
        "state": standing.state.as_str(),
        "reason": standing.reason.as_str(),
        "because": standing.reason.sentence(),
        "since_s": since(standing.since, now),
        "as": taken.map(|target| target.role.as_str()),
        "weight": taken.map(|target| target.weight),
        "sessions": counts.map_or(open, |c| c.sessions),
        "sessions_most": counts.map_or(0, |c| c.sessions_most),
        "sessions_total": counts.map_or(0, |c| c.sessions_total),
        "bytes_to_server": counts.map_or(0, |c| c.bytes_to_server),
        "bytes_to_client": counts.map_or(0, |c| c.bytes_to_client),
        "connects_failed": counts.map_or(0, |c| c.connects_failed),
    })
}

fn totals(counted: &ServiceSnapshot) -> Value {
    let by_reason = |list: &[(crate::model::Reason, u64)]| -> serde_json::Map<String, Value> {
        list.iter().map(|(reason, count)| (reason.as_str().to_owned(), json!(count))).collect()
    };
    json!({
        "clients": counted.clients_total,
        "sessions": counted.sessions_total,
        "queued": counted.queued_total,
        "held": counted.held_total,
        "hold_max_s": counted.hold_max.as_secs_f64(),
        "closed": by_reason(&counted.closed),
        "refused": by_reason(&counted.refused),
        "cancels": counted.cancels_total,
        "cancels_by_key": counted.cancels_by_key_total,
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

fn trust(trust: Trust) -> &'static str {
    match trust {
        Trust::Confirm => "confirm",
        Trust::Rest => "rest",
    }
}

fn name(member: Option<&MemberName>) -> Option<&str> {
    member.map(MemberName::as_str)
}

/// Seconds.
pub(super) fn since(at: Instant, now: Instant) -> f64 {
    now.saturating_duration_since(at).as_secs_f64()
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
