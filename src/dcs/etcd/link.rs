//! One conversation with one etcd endpoint: connect, read, ask for a lease. Nothing is retried here.

use std::error::Error as _;
use std::time::{Duration, Instant};

use etcd_client::{
    Certificate, Client, ConnectOptions, Error, GetOptions, Identity, KeyValue, TlsOptions, Txn, TxnOp, TxnOpResponse,
};
use futures_util::StreamExt;
use futures_util::future::try_join_all;
use futures_util::stream;

use super::EtcdAccess;
use crate::dcs::bounded;
use crate::dcs::patroni::RawKey;
use crate::dcs::place::Place;
use crate::runtime::clock;

/// etcd refuses transactions of more than 128 operations by default (`--max-txn-ops`).
const RANGES_PER_TXN_MAX: usize = 100;
const SINGLES_AT_ONCE_MAX: usize = 32;
/// Room for a hundred clusters with long `history` keys; gRPC's own default is 4 MiB.
pub(super) const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
const CONNECT_MAX: Duration = Duration::from_millis(1500);
/// etcd drops clients that ping more often than every 5 s.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_MAX: Duration = Duration::from_secs(3);
const PROBLEM_CHARS_MAX: usize = 200;

/// A consistent answer about some of the places.
pub(super) struct Chunk {
    pub cluster_id: u64,
    pub revision: i64,
    /// Per place, in order; the first belongs to place number `first`.
    pub first: usize,
    pub contents: Vec<Vec<RawKey>>,
}

/// The answer to one read of all places.
#[derive(Default)]
pub(super) struct Answers {
    pub chunks: Vec<Chunk>,
    /// Places that this user may not read, and etcd's words for it.
    pub denied: Vec<(usize, String)>,
}

pub(super) struct Reading {
    pub sent_at: Instant,
    pub answers: Answers,
}

pub(super) async fn connect(url: &str, access: &EtcdAccess) -> Result<Client, String> {
    match Client::connect([url], Some(options(url, access, true)?)).await {
        // Patroni too goes on without a password when etcd wants none.
        Err(error) if wants_no_password(&error) => {
            Client::connect([url], Some(options(url, access, false)?)).await.map_err(|error| describe(&error))
        }
        other => other.map_err(|error| describe(&error)),
    }
}

fn wants_no_password(error: &Error) -> bool {
    matches!(error, Error::GRpcStatus(status) if status.message().contains("authentication is not enabled"))
}

fn options(url: &str, access: &EtcdAccess, with_user: bool) -> Result<ConnectOptions, String> {
    let mut options = ConnectOptions::new()
        .with_connect_timeout(CONNECT_MAX)
        .with_keep_alive(KEEPALIVE_INTERVAL, KEEPALIVE_MAX)
        .with_keep_alive_while_idle(true)
        .with_require_leader(true)
        .with_auto_token_refresh(true);
    if let (true, Some(user)) = (with_user, &access.username) {
        options = options.with_user(user, access.password.clone().unwrap_or_default());
    }
    if url.starts_with("https://") {
        options = options.with_tls(tls(access)?);
    }
    Ok(options)
}

fn tls(access: &EtcdAccess) -> Result<TlsOptions, String> {
    let material = access.tls.clone().unwrap_or_default();
    let mut tls = TlsOptions::new();
    match material.ca {
        Some(ca) => tls = tls.ca_certificate(Certificate::from_pem(ca)),
        None => {
            let mut roots = rustls::RootCertStore::empty();
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            tls = tls.trust_anchors(roots.roots);
        }
    }
    match (material.cert, material.key) {
        (None, None) => Ok(tls),
        (Some(cert), Some(key)) => Ok(tls.identity(Identity::from_pem(cert, key))),
        _ => Err("a client certificate needs both the certificate and its key".into()),
    }
}

/// Reads every place, linearizably. `sent_at` is taken just before the first byte can leave.
pub(super) async fn read(client: &Client, places: &[Place]) -> Result<Reading, String> {
    let sent_at = clock::now();
    let starts = (0..places.len()).step_by(RANGES_PER_TXN_MAX);
    let parts = starts.map(|first| {
        let last = places.len().min(first + RANGES_PER_TXN_MAX);
        read_part(client, first, &places[first..last])
    });
    let mut answers = Answers::default();
    for part in try_join_all(parts).await? {
        answers.chunks.extend(part.chunks);
        answers.denied.extend(part.denied);
    }
    match answers.denied.pop() {
        Some((_, problem)) if answers.chunks.is_empty() => Err(problem),
        last => {
            answers.denied.extend(last);
            Ok(Reading { sent_at, answers })
        }
    }
}

/// One transaction; where etcd refuses it for the sake of one place, each place by itself, so that
/// one cluster's missing grant is not the others' outage.
async fn read_part(client: &Client, first: usize, places: &[Place]) -> Result<Answers, String> {
    match read_chunk(client, first, places).await {
        Ok(chunk) => return Ok(Answers { chunks: vec![chunk], denied: Vec::new() }),
        Err(error) if !is_denied(&error) => return Err(describe(&error)),
        Err(_denied) => {}
    }
    let single = |offset: usize| async move {
        (first + offset, read_chunk(client, first + offset, &places[offset..=offset]).await)
    };
    let mut singles = stream::iter(0..places.len()).map(single).buffer_unordered(SINGLES_AT_ONCE_MAX);
    let mut answers = Answers::default();
    while let Some((index, answer)) = singles.next().await {
        match answer {
            Ok(chunk) => answers.chunks.push(chunk),
            Err(error) if is_denied(&error) => answers.denied.push((index, describe(&error))),
            Err(error) => return Err(describe(&error)),
        }
    }
    Ok(answers)
}

pub(super) fn is_denied(error: &Error) -> bool {
    matches!(error, Error::GRpcStatus(status) if status.message().contains("permission denied"))
}

async fn read_chunk(client: &Client, first: usize, places: &[Place]) -> Result<Chunk, Error> {
    let range = |place: &Place| {
        let options = place.is_prefix().then(|| GetOptions::new().with_prefix());
        TxnOp::get(place.text().as_bytes(), options)
    };
    let txn = Txn::new().and_then(places.iter().map(range).collect::<Vec<_>>());
    let mut kv = client.kv_client().max_decoding_message_size(ANSWER_BYTES_MAX);
    let answer = kv.txn(txn).await?;
    let header = answer.header().ok_or_else(|| Error::Internal("an answer without a header".into()))?;
    let contents: Vec<_> = answer.op_responses().into_iter().filter_map(keys).collect();
    if contents.len() != places.len() {
        return Err(Error::Internal(format!("{} ranges asked, {} answered", places.len(), contents.len())));
    }
    Ok(Chunk { cluster_id: header.cluster_id(), revision: header.revision(), first, contents })
}

fn keys(response: TxnOpResponse) -> Option<Vec<RawKey>> {
    match response {
        TxnOpResponse::Get(mut range) => Some(range.take_kvs().into_iter().map(raw_key).collect()),
        _ => None,
    }
}

pub(super) fn raw_key(kv: KeyValue) -> RawKey {
    let (create_revision, mod_revision, lease) = (kv.create_revision(), kv.mod_revision(), kv.lease());
    let (key, value) = kv.into_key_value();
    RawKey { key, value, create_revision, mod_revision, lease }
}

/// What remains of a lease, in whole seconds and never too much; zero when it is gone.
pub(super) async fn lease_left(client: &Client, lease: i64) -> Option<Duration> {
    let answer = client.lease_client().time_to_live(lease, None).await.ok()?;
    Some(Duration::from_secs(u64::try_from(answer.ttl()).unwrap_or(0)))
}

/// The error in one bounded line, with its innermost cause: the outer ones say "transport error".
pub(super) fn describe(error: &Error) -> String {
    let mut text = match error {
        Error::GRpcStatus(status) => status.message().to_owned(),
        other => other.to_string(),
    };
    let mut cause = match error {
        Error::GRpcStatus(status) => status.source(),
        other => other.source(),
    };
    let mut innermost = None;
    while let Some(source) = cause {
        innermost = Some(source.to_string());
        cause = source.source();
    }
    if let Some(innermost) = innermost.filter(|innermost| !text.contains(innermost.as_str())) {
        text = format!("{text}: {innermost}");
    }
    bounded(&text, PROBLEM_CHARS_MAX)
}
