//! The data plane: accept, hold, connect, relay, close.
//!
//! A [`Plane`] serves one Patroni cluster. The driver gives it the effects that concern clients;
//! it gives the driver what clients saw of members.

mod accept;
pub mod cancel;
pub mod client;
pub mod connect;
pub mod connection;
pub mod crew;
pub mod fence;
mod guard;
pub mod handshake;
pub mod hold;
pub mod listener;
pub mod listeners;
mod parting;
pub mod peer;
pub mod pipes;
mod ports;
pub mod premises;
pub mod protocol;
pub mod rates;
pub mod relay;
mod rounds;
pub mod service;
pub mod session_log;
pub mod sessions;
mod stall;
pub mod stats;
pub mod suspects;
pub mod targets;
pub mod timers;
pub mod unix_socket;

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::decide::{Effect, Report};
use crate::model::{Reason, ServiceSpec};
use crate::runtime::clock;

use accept::Acceptor;
use connection::Plumbing;
pub use crew::Crew;
use listener::ListenError;
use listeners::Doors;
pub use listeners::Prepared;
use sessions::Registry;
use stats::ServiceSnapshot;
use timers::timeout_at;

/// For sessions that were cut at the end of a drain to close their sockets.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// The clients of one Patroni cluster.
#[derive(Debug)]
pub struct Plane {
    plumbing: Arc<Plumbing>,
    connections: TaskTracker,
    stop_accepting: CancellationToken,
    doors: Mutex<Doors>,
    crew: Crew,
    /// Listening sockets so far: each is accepted from by the next thread.
    opened: AtomicUsize,
}

impl Plane {
    /// Opens every listener and begins to accept; clients wait until the first table. All listeners that
    /// cannot be opened are told at once, and then none is.
    ///
    /// `suspicions` is never waited for. `hold_max_clamp` bounds every service's `hold.max`.
    pub fn start(
        crew: Crew,
        cluster: Arc<str>,
        services: &[Arc<ServiceSpec>],
        suspicions: mpsc::Sender<Report>,
        hold_max_clamp: usize,
    ) -> Result<Plane, Vec<ListenError>> {
        let plumbing = Arc::new(Plumbing {
            registry: Registry::new(cluster, &[], hold_max_clamp),
            connector: connect::Connector::new(),
            suspects: suspects::Suspects::new(suspicions),
            stopping: CancellationToken::new(),
        });
        let plane = Plane {
            plumbing,
            connections: TaskTracker::new(),
            stop_accepting: CancellationToken::new(),
            doors: Mutex::default(),
            crew,
            opened: AtomicUsize::new(0),
        };
        let prepared = plane.prepare(services)?;
        plane.apply(prepared, hold_max_clamp);
        Ok(plane)
    }

    /// The first half of a reload: opens every address that is not open yet, so that what cannot be
    /// opened is known before anything has changed. Dropping the outcome undoes it.
    ///
    /// Sockets of other clusters in this process do not stand in the way, so that an address can
    /// move between clusters: prepare all, then apply all.
    pub fn prepare(&self, services: &[Arc<ServiceSpec>]) -> Result<Prepared, Vec<ListenError>> {
        self.doors.lock().prepare(services)
    }

    /// The second half: from now on these are the services. A socket whose address stays is kept, also
    /// for another service; what is gone closes once whoever the kernel has accepted is served.
    /// Sessions go on; a client that is held by a service that is gone is told at once. New
    /// services hold their clients until a table has them.
    pub fn apply(&self, prepared: Prepared, hold_max_clamp: usize) {
        let mut doors = self.doors.lock();
        let registry = &self.plumbing.registry;
        registry.update(prepared.specs(), hold_max_clamp);
        if self.stop_accepting.is_cancelled() {
            return;
        }
        let opened = doors.switch(prepared, |name| registry.service(name), &self.stop_accepting);
        for door in opened {
            let thread = self.opened.fetch_add(1, Relaxed);
            let acceptor = Acceptor {
                inlet: door.inlet.clone(),
                service: door.service.clone(),
                stop: door.stop.clone(),
                plumbing: self.plumbing.clone(),
                connections: self.connections.clone(),
                crew: self.crew.clone(),
                thread,
            };
            self.connections.spawn_on(acceptor.run(), self.crew.runtime(thread));
        }
        // Those that wait for room under the limit of another service, or of an older policy.
        registry.services().iter().for_each(|service| service.wake_acceptors());
    }

    /// Carries out the effects that concern clients, each wholly before it returns; false for others.
    pub fn execute(&self, effect: &Effect) -> bool {
        let registry = &self.plumbing.registry;
        match effect {
            Effect::PublishRoutes(routes) => registry.publish(routes.clone()),
            Effect::Confirm { until } => registry.confirm(*until),
            Effect::CloseSessions { member, services, reason } => registry.close(member, services.as_deref(), *reason),
            Effect::DrainSessions { member, services, reason } => registry.drain(member, services.as_deref(), *reason),
            Effect::ForgetAddress { host } => self.plumbing.connector.forget(host),
            _ => return false,
        }
        true
    }

    /// Resolves and remembers host names; checks of the same members use it, too.
    pub fn connector(&self) -> &connect::Connector {
        &self.plumbing.connector
    }

    pub fn registry(&self) -> &Arc<Registry> {
        &self.plumbing.registry
    }

    /// Where a service listens on TCP, with the ports the kernel chose for port 0.
    pub fn addresses(&self, service: &str) -> Vec<SocketAddr> {
        self.doors.lock().addresses(service)
    }

    /// Clients and listening sockets that are not done yet.
    pub fn connections_open(&self) -> usize {
        self.connections.len()
    }

    pub fn snapshot(&self) -> Vec<ServiceSnapshot> {
        self.plumbing.registry.snapshot()
    }

    /// See [`Registry::welcome`].
    pub fn welcome(&self, ip: IpAddr) {
        self.plumbing.registry.welcome(ip);
    }

    /// What is to be done at once is done when this returns; the future tells when the sockets are closed. See
    /// [`Registry::send_away`].
    pub fn send_away(&self, ip: IpAddr, reason: Reason) -> impl Future<Output = usize> + Send + use<> {
        self.plumbing.registry.send_away(ip, reason)
    }

    /// Closes the listeners; held clients are told at once, sessions go on.
    pub fn stop_accepting(&self) {
        self.stop_accepting.cancel();
        self.doors.lock().close_all();
        self.plumbing.stopping.cancel();
        self.connections.close();
    }

    /// Asks every session to end as soon as it is idle, waits until the last client has gone, at most
    /// `limit`, then ends the rest. Returns how many sessions were cut.
    pub async fn drain(&self, limit: Duration) -> usize {
        self.stop_accepting();
        self.plumbing.registry.drain_all(Reason::Shutdown);
        let until = |limit| Instant::from_std(clock::now() + limit);
        if timeout_at(until(limit), self.connections.wait()).await.is_ok() {
            return 0;
        }
        let cut = self.plumbing.registry.sessions_open();
        self.plumbing.registry.premises.abort();
        self.plumbing.registry.close_all(Reason::Shutdown);
        let _ = timeout_at(until(CLOSE_TIMEOUT), self.connections.wait()).await;
        cut
    }

    /// Closes the listeners and waits until the last client has gone by itself.
    pub async fn outlast(&self) {
        self.stop_accepting();
        self.connections.wait().await;
    }
}
