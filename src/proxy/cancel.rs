//! CancelRequest: to the server that gave out its key where that could be read, else to every server that may
//! have; those that did not ignore it. Never held.
//!
//! PostgreSQL has no answer to a cancel: the server closes, and libpq waits for that. So the client's socket
//! stays open until the servers have closed theirs, and one that is dropped is closed at once.

pub mod keys;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::model::{HostPort, Reason};
use crate::runtime::clock;

use super::accept::Complaints;
use super::connection::Plumbing;
use super::peer::Peer;
use super::sessions::Service;
use super::timers::timeout;

/// For the whole of a cancel, from the first connect to the last server's close.
pub const CANCEL_TIMEOUT: Duration = Duration::from_secs(10);
/// Cancels of one service under way at a time. Each has a socket to its client and one to every server it
/// is sent to.
pub const CANCELS_AT_A_TIME_MAX: usize = 256;
/// Length and code; what follows is the key.
const HEADER_BYTES: usize = 8;

/// How many cancels of one service are under way, and what was said of those that were dropped.
#[derive(Debug)]
pub struct UnderWay {
    places: Semaphore,
    complaints: Mutex<Complaints>,
}

impl Default for UnderWay {
    fn default() -> UnderWay {
        UnderWay { places: Semaphore::new(CANCELS_AT_A_TIME_MAX), complaints: Mutex::default() }
    }
}

/// Returns why the client's connection ends, once every server has closed or time is up. A client that does
/// not wait for that is served all the same.
pub async fn forward(plumbing: &Plumbing, service: &Arc<Service>, peer: Peer, packet: &[u8]) -> Reason {
    let _place = match place(service, peer) {
        Ok(place) => place,
        Err(why) => {
            tracing::debug!(target: "pgvane::session", service = %service.name, client = %peer, why, "dropped a cancel request");
            if let Some(unsaid) = service.cancels_under_way.complaints.lock().due() {
                tracing::warn!(target: "pgvane::session", service = %service.name, client = %peer, why, unsaid, "dropped a cancel request");
            }
            return Reason::CancelLimited;
        }
    };
    service.counters.cancels_total.fetch_add(1, Relaxed);
    deliver_all(plumbing, service, packet, CANCEL_TIMEOUT).await;
    Reason::CancelForwarded
}

/// Err is why there is none. Clients by Unix sockets have no address to be counted by, and are bounded by
/// the places alone.
fn place(service: &Service, peer: Peer) -> Result<SemaphorePermit<'_>, &'static str> {
    let place = service.cancels_under_way.places.try_acquire();
    let place = place.map_err(|_| "too many of its service are under way")?;
    let max = service.spec().rate.cancels_max;
    if service.cancels.admits(&peer, max, clock::now()) { Ok(place) } else { Err("too many of its address") }
}

async fn deliver_all(plumbing: &Plumbing, service: &Arc<Service>, packet: &[u8], limit: Duration) {
    let servers = destinations(plumbing, service, packet);
    let copies = servers.iter().map(|server| deliver(plumbing, service, server, packet));
    if timeout(limit, join_all(copies)).await.is_err() {
        tracing::debug!(target: "pgvane::session", service = %service.name, "a cancel request took too long");
    }
}

/// Whoever gave out the key, whatever the service that is asked: its sessions outlive its right to new ones.
/// Where no session of this router has the key (it is encrypted, or another router's), wherever one of this
/// service may be.
///
/// Keys are not compared in constant time: what depends on it is where the request goes, and the server
/// there decides. That a key is known tells nothing about any other, because hashes are compared.
fn destinations(plumbing: &Plumbing, service: &Service, packet: &[u8]) -> Vec<HostPort> {
    let key = packet.get(HEADER_BYTES..).unwrap_or_default();
    let owners = plumbing.registry.cancel_keys.owners(key);
    if !owners.is_empty() {
        service.counters.cancels_by_key_total.fetch_add(1, Relaxed);
        return owners;
    }
    let routes = plumbing.registry.routes();
    routes.service(&service.name).map_or_else(Vec::new, |routes| routes.cancel.clone())
}

async fn deliver(plumbing: &Plumbing, service: &Arc<Service>, server: &HostPort, packet: &[u8]) {
    let spec = service.spec();
    let undelivered = |why: &str| {
        tracing::debug!(target: "pgvane::session", service = %service.name, %server, why, "a cancel request was not delivered");
    };
    let mut stream = match plumbing.connector.connect(server, spec.connect_timeout, &spec.tcp).await {
        Ok(connected) => connected.stream,
        Err(error) => return undelivered(error.reason().as_str()),
    };
    if let Err(error) = stream.write_all(packet).await {
        return undelivered(&error.to_string());
    }
    // A server closes without a word; whatever it says is not for the client.
    let mut ignored = [0; 64];
    while matches!(stream.read(&mut ignored).await, Ok(1..)) {}
}
