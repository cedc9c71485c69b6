//! The data plane: accept, hold, connect, relay, close.
//!
//! A [`Plane`] serves one Patroni cluster. The driver gives it the effects that concern clients;
//! it gives the driver what clients saw of members.

pub mod cancel;
pub mod client;
pub mod connect;
pub mod connection;
pub mod handshake;
pub mod hold;
pub mod listener;
pub mod relay;
pub mod sessions;
pub mod startup;
pub mod stats;
pub mod suspects;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::decide::{Effect, Report};
use crate::model::{ListenAddress, Reason, ServiceName, ServiceSpec};
use crate::runtime::clock;

use connection::Plumbing;
use listener::ListenError;
use sessions::Registry;
use stats::ServiceSnapshot;

/// For sessions that were cut at the end of a drain to close their sockets.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// The clients of one Patroni cluster.
#[derive(Debug)]
pub struct Plane {
    plumbing: Arc<Plumbing>,
    connections: TaskTracker,
    stop_accepting: CancellationToken,
    addresses: BTreeMap<ServiceName, Vec<SocketAddr>>,
    /// What ends each listener that accepts.
    accepting: Mutex<BTreeMap<(ServiceName, ListenAddress), CancellationToken>>,
}

/// Services whose new listeners are open and do not accept yet. Its drop closes them.
#[derive(Debug)]
pub struct Prepared {
    services: Vec<Arc<ServiceSpec>>,
    opened: Vec<(ServiceName, ListenAddress, tokio::net::TcpListener)>,
}

impl Plane {
    /// Opens every listener and begins to accept; clients wait until the first table. Needs a tokio
    /// runtime. All listeners that cannot be opened are told at once, and then none is.
    ///
    /// `suspicions` is never waited for. `hold_max_clamp` bounds every service's `hold.max`.
    pub fn start(
        cluster: Arc<str>,
        services: &[Arc<ServiceSpec>],
        suspicions: mpsc::Sender<Report>,
        hold_max_clamp: usize,
    ) -> Result<Plane, Vec<ListenError>> {
        let plumbing = Arc::new(Plumbing {
            registry: Registry::new(cluster, services, hold_max_clamp),
            connector: connect::Connector::default(),
            suspects: suspects::Suspects::new(suspicions),
            stopping: CancellationToken::new(),
            abort: CancellationToken::new(),
        });
        let mut plane = Plane {
            plumbing,
            connections: TaskTracker::new(),
            stop_accepting: CancellationToken::new(),
            addresses: BTreeMap::new(),
            accepting: Mutex::default(),
        };
        let prepared = plane.prepare(services)?;
        for (service, _, listener) in &prepared.opened {
            if let Ok(address) = listener.local_addr() {
                plane.addresses.entry(service.clone()).or_default().push(address);
            }
        }
        plane.apply(prepared, hold_max_clamp);
        Ok(plane)
    }

    /// Opens the listeners of these services that are not open yet, and changes nothing else. All that
    /// cannot be opened are told at once, and then none is. Needs a tokio runtime; may look up names.
    pub fn prepare(&self, services: &[Arc<ServiceSpec>]) -> Result<Prepared, Vec<ListenError>> {
        let (mut opened, mut errors) = (Vec::new(), Vec::new());
        for spec in services {
            for listen in &spec.listen {
                let ListenAddress::Tcp(address) = listen else { continue };
                if self.accepting.lock().contains_key(&(spec.name.clone(), listen.clone())) {
                    continue;
                }
                match listener::bind(&spec.name, address, &spec.tcp) {
                    Ok(all) => opened.extend(all.into_iter().map(|one| (spec.name.clone(), listen.clone(), one))),
                    Err(error) => errors.push(error),
                }
            }
        }
        if errors.is_empty() { Ok(Prepared { services: services.to_vec(), opened }) } else { Err(errors) }
    }

    /// From here on these are the services: new ones accept, and the listeners of those that are no
    /// longer named close. Needs a tokio runtime.
    pub fn apply(&self, prepared: Prepared, hold_max_clamp: usize) {
        self.plumbing.registry.add(&prepared.services, hold_max_clamp);
        let named = |service: &ServiceName, listen: &ListenAddress| {
            prepared.services.iter().any(|spec| spec.name == *service && spec.listen.contains(listen))
        };
        let mut accepting = self.accepting.lock();
        accepting.retain(|(service, listen), stop| {
            let stays = named(service, listen);
            if !stays {
                stop.cancel();
            }
            stays
        });
        for (name, listen, listener) in prepared.opened {
            let Some(service) = self.plumbing.registry.service(&name) else { continue };
            let stop = accepting.entry((name, listen)).or_insert_with(|| self.stop_accepting.child_token()).clone();
            let (plumbing, connections) = (self.plumbing.clone(), self.connections.clone());
            self.connections.spawn(listener::accept_all(listener, plumbing, service, stop, connections));
        }
    }

    /// Carries out the effects that concern clients, each wholly before it returns; false for others.
    pub fn execute(&self, effect: &Effect) -> bool {
        let registry = &self.plumbing.registry;
        match effect {
            Effect::PublishRoutes(routes) => registry.publish(routes.clone()),
            Effect::Confirm { until } => registry.confirm(*until),
            Effect::CloseSessions { member, services, reason } => registry.close(member, services.as_deref(), *reason),
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

    /// Where a service listens, with the ports the kernel chose for port 0.
    pub fn addresses(&self, service: &str) -> &[SocketAddr] {
        self.addresses.get(service).map_or(&[], Vec::as_slice)
    }

    pub fn snapshot(&self) -> Vec<ServiceSnapshot> {
        self.plumbing.registry.snapshot()
    }

    /// Closes the listeners; held clients are told at once, sessions go on.
    pub fn stop_accepting(&self) {
        self.stop_accepting.cancel();
        self.plumbing.stopping.cancel();
        self.connections.close();
    }

    /// Waits until the last client has gone, at most `limit`, then ends the rest. Returns how many
    /// sessions were cut.
    pub async fn drain(&self, limit: Duration) -> usize {
        self.stop_accepting();
        let until = |limit| Instant::from_std(clock::now() + limit);
        if timeout_at(until(limit), self.connections.wait()).await.is_ok() {
            return 0;
        }
        let cut = self.plumbing.registry.sessions_open();
        self.plumbing.abort.cancel();
        self.plumbing.registry.close_all(Reason::Shutdown);
        let _ = timeout_at(until(CLOSE_TIMEOUT), self.connections.wait()).await;
        cut
    }
}
