//! An own watch on the leader key: when it named whom, to the moment.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use etcd_client::{Client, ConnectOptions, EventType, WatchOptions};
use parking_lot::Mutex;
use pgvane::model::HostPort;
use pgvane::runtime::clock;
use tokio::task::JoinHandle;

const REQUEST_MAX: Duration = Duration::from_secs(2);
const CONNECT_AGAIN_AFTER: Duration = Duration::from_millis(200);

/// The key named `holder` from `at` on; None when it was deleted.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    pub at: Instant,
    /// The same moment on the clock that PostgreSQL stamps rows with.
    pub unix_seconds: f64,
    pub holder: Option<String>,
}

type Changes = Arc<Mutex<Vec<Change>>>;

/// Runs until it is dropped.
#[derive(Debug)]
pub struct KeyWatch {
    changes: Changes,
    /// The last word from etcd.
    seen: Arc<Mutex<Option<Instant>>>,
    task: JoinHandle<()>,
}

impl Drop for KeyWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl KeyWatch {
    /// `key` is like `/service/demo/leader`.
    pub fn start(etcd: &HostPort, key: &str) -> KeyWatch {
        let (changes, seen) = (Changes::default(), Arc::default());
        let (endpoint, key) = (format!("http://{etcd}"), key.to_owned());
        let (notes, heard) = (changes.clone(), Arc::clone(&seen));
        let task = tokio::spawn(async move {
            loop {
                drop(follow(&endpoint, &key, &notes, &heard).await); // a lost watch is read anew
                tokio::time::sleep(CONNECT_AGAIN_AFTER).await;
            }
        });
        KeyWatch { changes, seen, task }
    }

    pub fn changes(&self) -> Vec<Change> {
        self.changes.lock().clone()
    }

    /// Whom the key names now.
    pub fn holder(&self) -> Option<String> {
        self.changes.lock().last().and_then(|change| change.holder.clone())
    }

    /// The first moment after `from` at which the key named anyone but `old`.
    pub fn moved(&self, from: Instant, old: &str) -> Option<Change> {
        let changes = self.changes.lock();
        changes.iter().find(|it| it.at >= from && it.holder.as_deref().is_some_and(|name| name != old)).cloned()
    }

    /// Whether the key was seen naming `holder` at or after `from`.
    pub fn named_since(&self, from: Instant, holder: &str) -> bool {
        self.seen.lock().is_some_and(|seen| seen >= from) && self.holder().as_deref() == Some(holder)
    }

    /// When the key was deleted after `from`, before it named anyone else.
    pub fn deleted(&self, from: Instant) -> Option<Change> {
        self.changes.lock().iter().find(|it| it.at >= from && it.holder.is_none()).cloned()
    }
}

async fn follow(endpoint: &str, key: &str, notes: &Changes, heard: &Mutex<Option<Instant>>) -> Result<()> {
    let options = ConnectOptions::new().with_connect_timeout(REQUEST_MAX);
    let mut client = Client::connect([endpoint], Some(options)).await?;
    let now = tokio::time::timeout(REQUEST_MAX, client.get(key, None)).await.context("etcd is silent")??;
    let revision = now.header().context("etcd sent no header")?.revision();
    *heard.lock() = Some(clock::now());
    note(notes, now.kvs().first().and_then(|kv| kv.value_str().ok()));
    let watch = WatchOptions::new().with_start_revision(revision + 1);
    let mut stream = client.watch(key, Some(watch)).await?;
    while let Some(answer) = stream.message().await? {
        *heard.lock() = Some(clock::now());
        for event in answer.events() {
            match event.event_type() {
                EventType::Put => note(notes, event.kv().and_then(|kv| kv.value_str().ok())),
                EventType::Delete => note(notes, None),
            }
        }
    }
    Ok(())
}

fn note(notes: &Changes, holder: Option<&str>) {
    let mut changes = notes.lock();
    let holder = holder.map(str::to_owned);
    if changes.last().is_none_or(|last| last.holder != holder) {
        changes.push(Change { at: clock::now(), unix_seconds: clock::unix_seconds(), holder });
    }
}
