//! One service at work: its policy, which a reload swaps, its counters, its clients.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::AcqRel, Ordering::Relaxed};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::model::{HoldSpec, ServiceName, ServiceSpec};
use crate::runtime::clock;

use super::cancel::UnderWay;
use super::hold::Queue;
use super::peer::Peer;
use super::rates::{Pace, Rates};
use super::stats::Counters;

/// Services that the configuration has no more and whose counters are kept for their return.
pub const REMOVED_MAX: usize = 64;

/// Clients of all services of this process.
static CLIENTS: AtomicUsize = AtomicUsize::new(0);

/// Clients of all services of this process, served or not.
pub fn clients_of_process() -> usize {
    CLIENTS.load(Relaxed)
}

/// One service of the cluster. It outlives its place in the configuration: sessions go on, and when
/// it comes back its counters do, too.
#[derive(Debug)]
pub struct Service {
    pub cluster: Arc<str>,
    pub name: ServiceName,
    spec: ArcSwap<ServiceSpec>,
    pub counters: Counters,
    pub clients: Clients,
    /// Clients accepted (`rate.max`).
    pub pace: Pace,
    /// Clients of one address (`rate.per_client_max`).
    pub connects: Rates,
    /// Cancel requests of one address (`rate.cancels_max`).
    pub cancels: Rates,
    pub(super) cancels_under_way: UnderWay,
    hold_max: AtomicUsize,
    pub(super) waiting: Queue,
    removal: Mutex<Removal>,
}

/// Cancelled, and since when, while the configuration has no such service.
#[derive(Debug, Default)]
struct Removal {
    token: CancellationToken,
    since: Option<Instant>,
}

/// How many clients a service has.
#[derive(Debug, Default)]
pub struct Clients {
    /// Places taken: clients, and acceptors that have seen one and not accepted it yet.
    places: AtomicUsize,
    now: AtomicUsize,
    most: AtomicUsize,
    /// One left, or the limit was changed.
    room: Notify,
}

impl Clients {
    pub fn now(&self) -> usize {
        self.now.load(Relaxed)
    }

    pub fn most(&self) -> usize {
        self.most.load(Relaxed)
    }

    /// Ask [`Service::enter`] after enabling it, or a place that becomes free is missed.
    pub(super) fn room(&self) -> tokio::sync::futures::Notified<'_> {
        self.room.notified()
    }
}

impl Service {
    fn new(cluster: &Arc<str>, spec: &Arc<ServiceSpec>, hold_max_clamp: usize) -> Service {
        Service {
            cluster: cluster.clone(),
            name: spec.name.clone(),
            spec: ArcSwap::new(spec.clone()),
            counters: Counters::default(),
            clients: Clients::default(),
            pace: Pace::default(),
            connects: Rates::default(),
            cancels: Rates::default(),
            cancels_under_way: UnderWay::default(),
            hold_max: AtomicUsize::new(hold_max(spec, hold_max_clamp)),
            waiting: Queue::default(),
            removal: Mutex::default(),
        }
    }

    /// As of now; a client keeps the one it came under.
    pub fn spec(&self) -> Arc<ServiceSpec> {
        self.spec.load_full()
    }

    /// Clients that may be held at a time, now.
    pub(super) fn hold_max(&self) -> usize {
        self.hold_max.load(Relaxed)
    }

    pub fn is_removed(&self) -> bool {
        self.removal.lock().since.is_some()
    }

    /// Cancelled when the configuration drops this service.
    pub(super) fn removal(&self) -> CancellationToken {
        self.removal.lock().token.clone()
    }

    /// A place under `clients_max`, within `rate.max`.
    pub(super) fn enter(self: &Arc<Self>) -> Result<Slot, Full> {
        let spec = self.spec.load();
        let is_paced = spec.rate.max > 0;
        if is_paced {
            self.pace.take(spec.rate.max, clock::now()).map_err(|left| Full::Second { left })?;
        }
        let max = spec.clients_max;
        let more = |now: usize| (max == 0 || now < max).then_some(now + 1);
        if self.clients.places.fetch_update(AcqRel, Relaxed, more).is_err() {
            if is_paced {
                self.pace.give_back();
            }
            return Err(Full::Clients);
        }
        Ok(Slot { service: self.clone(), is_client: false, is_counted: is_paced })
    }

    /// A place beyond the limit, for a client that the kernel has accepted and nobody else will.
    pub(super) fn squeeze_in(self: &Arc<Self>) -> Slot {
        self.clients.places.fetch_add(1, AcqRel);
        Slot { service: self.clone(), is_client: false, is_counted: false }
    }

    /// Whether clients from there are welcome, as of now.
    pub(super) fn allows(&self, peer: &Peer) -> bool {
        let spec = self.spec.load();
        spec.allow.is_empty() || peer.ip().is_none_or(|ip| spec.allow.iter().any(|network| network.contains(&ip)))
    }

    /// A limit or a listener's service has changed: look again whether there is room.
    pub(super) fn wake_acceptors(&self) {
        self.clients.room.notify_waiters();
    }

    fn set(&self, spec: &Arc<ServiceSpec>, hold_max_clamp: usize) {
        self.hold_max.store(hold_max(spec, hold_max_clamp), Relaxed);
        self.spec.store(spec.clone());
        let mut removal = self.removal.lock();
        if removal.since.is_some() {
            *removal = Removal::default();
        }
    }

    /// Whoever waits is told; new clients are, too.
    fn remove(&self, now: Instant) {
        let token = {
            let mut removal = self.removal.lock();
            removal.since.get_or_insert(now);
            removal.token.clone()
        };
        token.cancel();
    }

    fn removed_since(&self) -> Option<Instant> {
        self.removal.lock().since
    }
}

fn hold_max(spec: &ServiceSpec, clamp: usize) -> usize {
    match spec.hold {
        HoldSpec::Off => 0,
        HoldSpec::On { max, .. } => max.min(clamp),
    }
}

/// Why nobody is to be accepted now.
#[derive(Debug)]
pub(super) enum Full {
    /// `clients_max` are there.
    Clients,
    /// `rate.max` came in the last second, and the next may come after what is left of it.
    Second { left: Duration },
}

/// One connected client. Its drop makes room for the next one.
#[derive(Debug)]
pub struct Slot {
    service: Arc<Service>,
    is_client: bool,
    /// Under `rate.max`, for a client that may not come.
    is_counted: bool,
}

impl Slot {
    pub fn service(&self) -> &Arc<Service> {
        &self.service
    }

    /// There is a client for it.
    pub(super) fn take(mut self) -> Slot {
        (self.is_client, self.is_counted) = (true, false);
        CLIENTS.fetch_add(1, Relaxed);
        let Clients { now, most, .. } = &self.service.clients;
        most.fetch_max(now.fetch_add(1, Relaxed) + 1, Relaxed);
        self.service.counters.clients_total.fetch_add(1, Relaxed);
        self
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.is_client {
            CLIENTS.fetch_sub(1, Relaxed);
            self.service.clients.now.fetch_sub(1, Relaxed);
        }
        if self.is_counted {
            self.service.pace.give_back();
        }
        self.service.clients.places.fetch_sub(1, AcqRel);
        self.service.clients.room.notify_waiters();
    }
}

/// Every service of a cluster by name, removed ones that are still remembered included.
pub(super) type Services = BTreeMap<ServiceName, Arc<Service>>;

/// The services after a reload. `has_sessions` keeps one that was removed long ago.
pub(super) fn updated(
    cluster: &Arc<str>,
    known: &Services,
    specs: &[Arc<ServiceSpec>],
    hold_max_clamp: usize,
    has_sessions: impl Fn(&str) -> bool,
) -> Services {
    let now = clock::now();
    let mut services = known.clone();
    for spec in specs {
        match services.get(&spec.name) {
            Some(service) => service.set(spec, hold_max_clamp),
            None => drop(services.insert(spec.name.clone(), Arc::new(Service::new(cluster, spec, hold_max_clamp)))),
        }
    }
    let unwanted = services.values().filter(|service| specs.iter().all(|spec| spec.name != service.name));
    unwanted.for_each(|service| service.remove(now));
    let is_idle = |service: &&Arc<Service>| service.clients.now() == 0 && !has_sessions(&service.name);
    let idle = services.values().filter(is_idle);
    let mut idle: Vec<_> = idle.filter_map(|service| Some((service.removed_since()?, service.name.clone()))).collect();
    idle.sort();
    let excess = idle.len().saturating_sub(REMOVED_MAX);
    for (_, name) in idle.into_iter().take(excess) {
        services.remove(&name);
    }
    services
}
