//! Writes and deletes hand-over keys, over a connection of its own: a session that reads must not wait
//! behind one that writes, nor the other way round.
//!
//! Every call is bounded by [`CALL_MAX`] and asks one endpoint after the other. A key that is taken is bound
//! to a lease of etcd, which a task keeps alive until the key is deleted or the process ends.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use etcd_client::{Client, Compare, CompareOp, Error, PutOptions, Txn, TxnOp, TxnOpResponse, TxnResponse};
use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::EtcdAccess;
use super::link::{connect, describe, is_denied};
use crate::dcs::bounded;
use crate::runtime::clock;

/// One write or one deletion, with all its attempts.
pub const CALL_MAX: Duration = Duration::from_secs(2);
/// One attempt, with its connect: several fit into [`CALL_MAX`], so that a hung endpoint is not the end.
const ATTEMPT_MAX: Duration = Duration::from_millis(700);
/// How often a lease is kept alive while it lasts, and the shortest pause between two times.
const KEEPALIVES_PER_LEASE: u32 = 3;
const KEEPALIVE_GAP_MIN: Duration = Duration::from_millis(500);
const VALUE_CHARS_MAX: usize = 100;

/// Writes the hand-over keys of one etcd cluster.
pub struct MarkWriter {
    line: Arc<Line>,
    /// Leases of keys that were taken, by key.
    taken: Mutex<BTreeMap<String, Taken>>,
}

/// A lease that is kept alive until this is dropped.
struct Taken {
    lease: i64,
    keeping: JoinHandle<()>,
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.keeping.abort();
    }
}

/// `holder` is a member's name; `lease` is how long its kernel keeps the address without it.
pub fn mark_value(holder: &str, lease: Duration) -> String {
    serde_json::json!({ "holder": holder, "lease": lease.as_secs() }).to_string()
}

impl MarkWriter {
    pub fn new(access: EtcdAccess) -> MarkWriter {
        let urls = access.urls();
        let using = Mutex::new(Using { endpoint: 0, client: None });
        MarkWriter { line: Arc::new(Line { access, urls, using }), taken: Mutex::default() }
    }

    /// Writes `key`: gives the revision of what was written. With `take` only where there is none, bound to a
    /// lease of so long (whole seconds, at least one). Needs a tokio runtime.
    ///
    /// # Errors
    /// One line that says why; with `take` also when somebody else has it.
    pub async fn write(&self, key: &str, value: &str, take: Option<Duration>) -> Result<i64, String> {
        let deadline = clock::now() + CALL_MAX;
        match take {
            None => {
                let put = Txn::new().and_then([TxnOp::put(key, value, None)]);
                let answer = self.line.txn(put, deadline).await.map_err(|why| why.about("write", key))?;
                revision(&answer)
            }
            Some(ttl) => self.take(key, value, ttl, deadline).await,
        }
    }

    async fn take(&self, key: &str, value: &str, ttl: Duration, deadline: Instant) -> Result<i64, String> {
        // What an earlier attempt may have left behind goes first.
        self.let_go(key, deadline).await;
        let seconds = i64::try_from(ttl.as_secs().max(1)).unwrap_or(i64::MAX);
        let granted = self.line.ask(deadline, |client| async move {
            client.lease_client().grant(seconds, None).await.map(|granted| granted.id())
        });
        let lease = granted.await.map_err(|why| why.about("get a lease for", key))?;
        let keeping = tokio::spawn(keep(Arc::clone(&self.line), lease, ttl));
        self.taken.lock().insert(key.to_owned(), Taken { lease, keeping });
        let txn = Txn::new()
            .when([Compare::create_revision(key, CompareOp::Equal, 0)])
            .and_then([TxnOp::put(key, value, Some(PutOptions::new().with_lease(lease)))])
            .or_else([TxnOp::get(key, None)]);
        let answer = self.line.txn(txn, deadline).await.map_err(|why| why.about("write", key));
        let taken = answer.and_then(|answer| outcome(&answer, key, lease));
        if taken.is_err() {
            self.let_go(key, deadline).await;
        }
        taken
    }

    /// Ends the lease of a key that was taken. Where that cannot be told to etcd, it runs out.
    async fn let_go(&self, key: &str, deadline: Instant) {
        let Some(lease) = self.taken.lock().remove(key).map(|taken| taken.lease) else { return };
        let revoked = self.line.ask(deadline, |client| async move { client.lease_client().revoke(lease).await });
        let _runs_out = revoked.await;
    }

    /// Deletes `key` if it still is what was written at `mod_revision`.
    ///
    /// # Errors
    /// One line that says why it may still be there.
    pub async fn delete(&self, key: &str, mod_revision: i64) -> Result<(), String> {
        let deadline = clock::now() + CALL_MAX;
        let txn = Txn::new()
            .when([Compare::mod_revision(key, CompareOp::Equal, mod_revision)])
            .and_then([TxnOp::delete(key, None)]);
        let answer = self.line.txn(txn, deadline).await.map(drop).map_err(|why| why.about("delete", key));
        self.let_go(key, deadline).await;
        answer
    }
}

fn revision(answer: &TxnResponse) -> Result<i64, String> {
    answer.header().map(|header| header.revision()).ok_or_else(|| "etcd gave an answer without a header".to_owned())
}

/// Whether the key is ours. An attempt whose answer was lost may have written it already.
fn outcome(answer: &TxnResponse, key: &str, lease: i64) -> Result<i64, String> {
    if answer.succeeded() {
        return revision(answer);
    }
    let found = answer.op_responses().into_iter().find_map(|response| match response {
        TxnOpResponse::Get(mut range) => range.take_kvs().into_iter().next(),
        _ => None,
    });
    match found {
        Some(kv) if kv.lease() == lease => Ok(kv.mod_revision()),
        Some(kv) => {
            let value = String::from_utf8_lossy(kv.value()).into_owned();
            Err(format!("{key} is taken: {}", bounded(&value, VALUE_CHARS_MAX)))
        }
        None => Err(format!("{key} was taken a moment ago")),
    }
}

/// Until etcd says that the lease is over.
async fn keep(line: Arc<Line>, lease: i64, ttl: Duration) {
    let pause = (ttl / KEEPALIVES_PER_LEASE).max(KEEPALIVE_GAP_MIN);
    loop {
        sleep(pause).await;
        let once = line.ask(clock::now() + CALL_MAX, |client| async move {
            let (mut keeper, mut answers) = client.lease_client().keep_alive(lease).await?;
            keeper.keep_alive().await?;
            answers.message().await
        });
        if let Ok(Some(answer)) = once.await
            && answer.ttl() <= 0
        {
            return;
        }
    }
}

/// Why etcd did not do it.
enum Refusal {
    /// This user may not, now or when asked again.
    Denied(String),
    Failed(String),
}

impl Refusal {
    fn about(self, verb: &str, key: &str) -> String {
        match self {
            Refusal::Denied(words) => format!(
                "etcd does not let this user {verb} {key}: {words}; grant readwrite on it, because without it the next \
                 holder must ask the network first, which takes 75 ms"
            ),
            Refusal::Failed(words) => format!("cannot {verb} {key}: {words}"),
        }
    }
}

/// Requests over one connection to one endpoint at a time.
struct Line {
    access: EtcdAccess,
    urls: Vec<String>,
    using: Mutex<Using>,
}

struct Using {
    /// Counts up; which endpoint it is, is the rest of the division by their number.
    endpoint: usize,
    client: Option<Client>,
}

impl Line {
    async fn txn(&self, txn: Txn, deadline: Instant) -> Result<TxnResponse, Refusal> {
        self.ask(deadline, |client| {
            let txn = txn.clone();
            async move { client.kv_client().txn(txn).await }
        })
        .await
    }

    /// Asks one endpoint after the other, and the one in use once more over a new connection.
    async fn ask<T, F>(&self, deadline: Instant, question: impl Fn(Client) -> F) -> Result<T, Refusal>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let mut last = Refusal::Failed("no etcd endpoints are configured".into());
        for _ in 0..=self.urls.len() {
            let left = deadline.saturating_duration_since(clock::now());
            if left.is_zero() {
                break;
            }
            let endpoint = self.using.lock().endpoint;
            // The client library panics over an answer with a part missing; that is this endpoint's failure.
            let attempt = AssertUnwindSafe(self.attempt(endpoint, &question)).catch_unwind();
            last = match timeout(left.min(ATTEMPT_MAX), attempt).await {
                Ok(Ok(Ok(answer))) => return Ok(answer),
                Ok(Ok(Err(denied @ Refusal::Denied(_)))) => return Err(denied),
                Ok(Ok(Err(failed))) => failed,
                Ok(Err(_panic)) => Refusal::Failed("an answer that no etcd gives".into()),
                Err(_elapsed) => Refusal::Failed("no answer in time".into()),
            };
            self.leave(endpoint);
        }
        Err(last)
    }

    async fn attempt<T, F>(&self, endpoint: usize, question: &impl Fn(Client) -> F) -> Result<T, Refusal>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let known = self.using.lock().client.clone();
        let client = match known {
            Some(client) => client,
            None => {
                let url = self.urls.get(endpoint % self.urls.len().max(1)).map(String::as_str).unwrap_or_default();
                let client = connect(url, &self.access).await.map_err(Refusal::Failed)?;
                let mut using = self.using.lock();
                if using.endpoint == endpoint {
                    using.client = Some(client.clone());
                }
                client
            }
        };
        question(client).await.map_err(|error| {
            let words = describe(&error);
            if is_denied(&error) { Refusal::Denied(words) } else { Refusal::Failed(words) }
        })
    }

    /// Whoever asks next begins with the next endpoint, unless another one has moved on already.
    fn leave(&self, endpoint: usize) {
        let mut using = self.using.lock();
        if using.endpoint == endpoint {
            using.endpoint = endpoint.wrapping_add(1);
            using.client = None;
        }
    }
}
