//! `GET /primary` of one Patroni, over HTTP/1.0 that closes after each answer.

use std::error::Error as _;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Body, Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::{Map, Value};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::model::member::tags_as_text;
use crate::model::{Lsn, ProbeOutcome, RestAnswer, RestRole, Timeline};

use super::watchful::{Limited, describe, limited};

const BODY_BYTES_MAX: usize = 256 * 1024;
const HEAD_BYTES_MAX: usize = 64 * 1024;
const PROBLEM_CHARS_MAX: usize = 120;

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

type Reply = Result<(u16, Vec<u8>), ProbeOutcome>;

async fn ask(address: SocketAddr, host: &str, tls: Option<&Arc<rustls::ClientConfig>>) -> Reply {
    let stream = TcpStream::connect(address).await.map_err(unreachable)?;
    // A whole request fits one segment; failing to say so costs nothing.
    let _ = stream.set_nodelay(true);
    let named =
        if host.contains(':') { format!("[{host}]:{}", address.port()) } else { format!("{host}:{}", address.port()) };
    let Some(config) = tls else { return exchange(stream, &named).await };
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| ProbeOutcome::Unreachable(bounded(&format!("\"{host}\" cannot be a name in a certificate"))))?;
    let stream = TlsConnector::from(Arc::clone(config)).connect(name, stream).await.map_err(unreachable)?;
    exchange(stream, &named).await
}

fn unreachable(error: io::Error) -> ProbeOutcome {
    match error.kind() {
        ErrorKind::ConnectionRefused => ProbeOutcome::Refused,
        _ => ProbeOutcome::Unreachable(describe(&error)),
    }
}

/// Request and connection in one task: a spawn per probe would cost more than the probe.
async fn exchange(stream: impl AsyncRead + AsyncWrite + Unpin, host: &str) -> Reply {
    let request = Request::get("/primary")
        .header(HOST, host)
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| ProbeOutcome::Unreachable(bounded(&error.to_string())))?;
    let handshake = http1::Builder::new().max_buf_size(HEAD_BYTES_MAX).handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| failed(&error))?;
    let mut connection = pin!(connection);
    let mut reply = pin!(async {
        let response = sender.send_request(request).await.map_err(|error| failed(&error))?;
        collect(response).await
    });
    tokio::select! {
        biased;
        reply = &mut reply => reply,
        // Its error reaches the reply too; what was already read is still there.
        _ended = &mut connection => reply.await,
    }
}

async fn collect(response: Response<Incoming>) -> Reply {
    let status = response.status().as_u16();
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let data = match frame {
            Ok(frame) => frame.into_data().unwrap_or_default(),
            // An HTTP/1.0 body without a length ends at close, and Python closes TLS without saying so.
            Err(error) if is_bare_eof(&error) && is_whole(&bytes) => break,
            Err(error) => return Err(failed(&error)),
        };
        if bytes.len() + data.len() > BODY_BYTES_MAX {
            return Err(ProbeOutcome::Garbled(format!("the answer is longer than {BODY_BYTES_MAX} bytes")));
        }
        bytes.extend_from_slice(&data);
        if body.is_end_stream() {
            break;
        }
    }
    Ok((status, bytes))
}

fn is_bare_eof(error: &hyper::Error) -> bool {
    let source = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    source.is_some_and(|io| io.kind() == ErrorKind::UnexpectedEof)
}

fn is_whole(bytes: &[u8]) -> bool {
    serde_json::from_slice::<serde::de::IgnoredAny>(bytes).is_ok()
}

fn failed(error: &hyper::Error) -> ProbeOutcome {
    if error.is_parse() {
        return ProbeOutcome::Garbled(bounded(&format!("not HTTP: {error}")));
    }
    if error.is_incomplete_message() {
        return ProbeOutcome::Unreachable("closed before the end of its answer".into());
    }
    let cause = error.source().map(ToString::to_string);
    ProbeOutcome::Unreachable(bounded(&cause.unwrap_or_else(|| error.to_string())))
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

pub(super) fn bounded(text: &str) -> String {
    text.chars().take(PROBLEM_CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
}
