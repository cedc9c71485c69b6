//! One session per etcd cluster, however many Patroni clusters it serves.
//!
//! A linearizable read of everything once a second proves that what is known is still so; a watch of
//! every place brings changes at once and proves nothing. The session talks to one endpoint at a time
//! and moves when another one answers first.

mod ledger;
mod link;
mod marks;
mod rounds;
mod session;
mod watch;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::DcsEvent;
use super::patroni::Change;
use super::place::Place;
use session::Session;

pub use marks::{CALL_MAX, MarkWriter, mark_value};

/// How to reach one etcd cluster. Equal ones reach it the same way, secrets and certificates included.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct EtcdAccess {
    /// URLs in order of preference; without a scheme, `tls` decides which one is meant.
    pub endpoints: Vec<String>,
    pub username: Option<String>,
    pub password: Option<String>,
    pub tls: Option<EtcdTls>,
}

impl EtcdAccess {
    fn urls(&self) -> Vec<String> {
        let scheme = if self.tls.is_some() { "https://" } else { "http://" };
        let full = |url: &String| if url.contains("://") { url.clone() } else { format!("{scheme}{url}") };
        self.endpoints.iter().map(full).collect()
    }
}

/// PEM texts, already read from their files.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct EtcdTls {
    /// Without one, the system's roots are believed.
    pub ca: Option<Vec<u8>>,
    /// The client certificate with its chain; needs `key`.
    pub cert: Option<Vec<u8>>,
    pub key: Option<Vec<u8>>,
}

/// Secrets stay out of logs.
impl fmt::Debug for EtcdAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("EtcdAccess");
        shown.field("endpoints", &self.endpoints).field("username", &self.username);
        shown.field("tls", &self.tls.is_some()).finish_non_exhaustive()
    }
}

/// One Patroni cluster to follow, or one key of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    pub place: Place,
    /// The sink's name for it.
    pub id: usize,
}

/// Keeps the session alive; dropping it ends the session and closes its connections.
#[derive(Debug)]
pub struct Handle {
    wanted: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Handle {
    /// One extra read, sent after this call. Calls while one is due are one read.
    pub fn read_now(&self) {
        self.wanted.notify_one();
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Starts a session. `sink` is called with a subscription's id, in order, from one task, and must not block.
pub fn spawn<S>(access: EtcdAccess, subscriptions: Vec<Subscription>, sink: S) -> Handle
where
    S: Fn(usize, DcsEvent) + Send + Sync + 'static,
{
    let wanted = Arc::new(Notify::new());
    let session = Session::new(access, subscriptions, sink, Arc::clone(&wanted));
    Handle { wanted, task: tokio::spawn(session.run()) }
}

/// What the session's own tasks tell it.
enum Message {
    /// Events of place number `index`, in order of revision, never half of one.
    Events {
        serial: u64,
        index: usize,
        events: Vec<(i64, Change)>,
    },
    Lease {
        serial: u64,
        lease: i64,
        left: Option<Duration>,
    },
}
