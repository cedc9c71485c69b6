//! `GET /primary` of one Patroni, over HTTP/1.0 that closes after each answer.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::model::member::tags_as_text;
use crate::model::{Lsn, ProbeOutcome, RestAnswer, RestRole, Timeline};

use super::http::{self, BODY_BYTES_MAX, Failure, bounded};
use super::watchful::{Limited, describe, limited};

/// Asks once. `host` is the name the member is known by: the Host header and the name in its certificate.
pub async fn rest(
    address: SocketAddr,
    host: &str,
    tls: Option<&Arc<rustls::ClientConfig>>,
    limit: Duration,
) -> ProbeOutcome {
    match limited(limit, ask(address, host, tls)).await {
        Limited::Done(Ok((status, body))) => judge(status, &body),
        Limited::Done(Err(outcome)) => outcome,
        Limited::TimedOut => ProbeOutcome::TimedOut,
        Limited::CheckerLate => ProbeOutcome::CheckerLate,
    }
}

async fn ask(
    address: SocketAddr,
    host: &str,
    tls: Option<&Arc<rustls::ClientConfig>>,
) -> Result<(u16, Vec<u8>), ProbeOutcome> {
    let stream = http::connect(address).await.map_err(unreachable)?;
    let stream = http::secure(stream, host, tls).await.map_err(unreachable)?;
    let mut answer = http::get(stream, "/primary", &http::authority(host, address.port())).await.map_err(failed)?;
    let body = answer.body(is_whole).await.map_err(failed)?;
    Ok((answer.status, body))
}

fn unreachable(error: io::Error) -> ProbeOutcome {
    match error.kind() {
        ErrorKind::ConnectionRefused => ProbeOutcome::Refused,
        _ => ProbeOutcome::Unreachable(describe(&error)),
    }
}

fn failed(failure: Failure) -> ProbeOutcome {
    match failure {
        Failure::NotHttp(problem) => ProbeOutcome::Garbled(problem),
        Failure::BrokeOff => ProbeOutcome::Unreachable("closed before the end of its answer".into()),
        Failure::TooLong => ProbeOutcome::Garbled(format!("the answer is longer than {BODY_BYTES_MAX} bytes")),
        Failure::Io(error) => ProbeOutcome::Unreachable(describe(&error)),
        Failure::Other(problem) => ProbeOutcome::Unreachable(problem),
    }
}

pub(super) fn is_whole(bytes: &[u8]) -> bool {
    serde_json::from_slice::<serde::de::IgnoredAny>(bytes).is_ok()
}

/// Patroni sends the same JSON with 200 and with 503, and nothing else for this path.
fn judge(status: u16, body: &[u8]) -> ProbeOutcome {
    if !matches!(status, 200 | 503) {
        return ProbeOutcome::Garbled(format!("HTTP status {status}"));
    }
    match serde_json::from_slice::<Value>(body) {
        Ok(Value::Object(map)) => match answer(status, &map) {
            Some(answer) => ProbeOutcome::Answer(Box::new(answer)),
            None => ProbeOutcome::Garbled("JSON without a role".into()),
        },
        Ok(_) => ProbeOutcome::Garbled("JSON, but not an object".into()),
        Err(error) => ProbeOutcome::Garbled(bounded(&format!("not JSON: {error}"))),
    }
}

/// What Patroni says of its member, with any status.
pub(super) fn answer_of(status: u16, body: &[u8]) -> Option<Box<RestAnswer>> {
    match serde_json::from_slice::<Value>(body) {
        Ok(Value::Object(map)) => answer(status, &map).map(Box::new),
        _ => None,
    }
}

fn answer(status: u16, map: &Map<String, Value>) -> Option<RestAnswer> {
    let role = map.get("role")?.as_str()?;
    let text = |name: &str| map.get(name).and_then(Value::as_str).map(str::to_owned);
    let flag = |name: &str| map.get(name).and_then(Value::as_bool).unwrap_or(false);
    let xlog = |name: &str| map.get("xlog").and_then(|xlog| xlog.get(name)).and_then(Value::as_u64).map(Lsn);
    let timeline = map.get("timeline").and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
    Some(RestAnswer {
        status,
        role: match role {
            "primary" | "master" => RestRole::Primary,
            "replica" => RestRole::Replica,
            "standby_leader" => RestRole::StandbyLeader,
            _ => RestRole::Other,
        },
        state: text("state").unwrap_or_default(),
        location: xlog("location"),
        replayed: xlog("replayed_location"),
        received: xlog("received_location"),
        timeline: timeline.filter(|&n| n != 0).map(Timeline),
        replication_state: text("replication_state"),
        system_id: text("database_system_identifier").filter(|id| !id.is_empty()),
        failsafe_active: flag("failsafe_mode_is_active"),
        cluster_unlocked: flag("cluster_unlocked"),
        pause: flag("pause"),
        tags: map.get("tags").and_then(Value::as_object).map(tags_as_text).unwrap_or_default(),
    })
}
