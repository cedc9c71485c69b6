//! The open sessions of one Patroni cluster, and the gate that decides whether one more may open.
//!
//! **Opening and closing share one lock.** A session opens only if the table of that moment still
//! opens its target; `close` fences every session opened before it. So a table that takes a target
//! away, followed by a close, leaves no session behind, however the threads interleave.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::decide::balance::Balancer;
use crate::decide::{Caller, Pick, Routes, ServiceRoutes, Target};
use crate::model::{ClusterSettings, HoldSpec, MemberName, Reason, ServiceName, ServiceSpec};
use crate::runtime::clock;

use super::hold::{Queue, Terms};
use super::stats::{self, Counters, ServiceSnapshot};

/// Shared by all sessions of one service to one member; closed once, for all of them at once.
/// Whoever forwards looks at it right before each write.
#[derive(Debug, Default)]
pub struct Fence {
    /// 0 while open, else the reason's place in [`Reason::ALL`] plus one.
    reason: AtomicU8,
    wake: Notify,
}

impl Fence {
    pub fn reason(&self) -> Option<Reason> {
        let place = usize::from(self.reason.load(Ordering::SeqCst)).checked_sub(1)?;
        Reason::ALL.get(place).copied()
    }

    /// Completes at the next close. Ask [`Fence::reason`] after creating it, or a close is missed.
    pub fn next_close(&self) -> Notified<'_> {
        self.wake.notified()
    }

    pub async fn closed(&self) -> Reason {
        loop {
            let next = self.next_close();
            match self.reason() {
                Some(reason) => return reason,
                None => next.await,
            }
        }
    }

    /// From here on nothing is forwarded; who waits on it is not woken yet.
    fn seal(&self, reason: Reason) {
        let place = u8::try_from(reason as usize + 1).unwrap_or(u8::MAX);
        // The first reason stays: it is the one that cut them.
        let _ = self.reason.compare_exchange(0, place, Ordering::SeqCst, Ordering::SeqCst);
    }
}

/// The target was taken away between pick and open, or its confirmation ran out: pick again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stale;

/// What the table of this moment says to one client.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Choice {
    Target {
        target: Target,
        generation: u64,
    },
    /// No target, or none that may be used now.
    Wait,
    Exhausted,
    Full,
}

/// One service of the cluster: its policy, its counters and its waiting clients.
#[derive(Debug)]
pub struct Service {
    pub spec: Arc<ServiceSpec>,
    pub counters: Counters,
    pub(super) hold_max: usize,
    pub(super) waiting: Queue,
}

#[derive(Debug)]
pub struct Registry {
    pub cluster: Arc<str>,
    services: BTreeMap<ServiceName, Arc<Service>>,
    gate: Mutex<Gate>,
    published: Notify,
}

#[derive(Debug)]
struct Gate {
    routes: Arc<Routes>,
    /// Write targets may be used while now is before this.
    confirmed_until: Instant,
    groups: HashMap<ServiceName, HashMap<MemberName, Group>>,
}

#[derive(Debug, Default)]
struct Group {
    fence: Arc<Fence>,
    open: Arc<AtomicUsize>,
}

impl Registry {
    /// `hold_max_clamp` bounds every service's `hold.max` (it comes from the descriptors there are).
    pub fn new(cluster: Arc<str>, specs: &[Arc<ServiceSpec>], hold_max_clamp: usize) -> Arc<Registry> {
        let now = clock::now();
        let service = |spec: &Arc<ServiceSpec>| {
            let max = match spec.hold {
                HoldSpec::Off => 0,
                HoldSpec::On { max, .. } => max.min(hold_max_clamp),
            };
            let service =
                Service { spec: spec.clone(), counters: Counters::default(), hold_max: max, waiting: Queue::default() };
            (spec.name.clone(), Arc::new(service))
        };
        let gate = Gate { routes: starting(&cluster, specs, now), confirmed_until: now, groups: HashMap::new() };
        let services = specs.iter().map(service).collect();
        Arc::new(Registry { cluster, services, gate: Mutex::new(gate), published: Notify::new() })
    }

    pub fn service(&self, name: &str) -> Option<&Arc<Service>> {
        self.services.get(name)
    }

    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }

    pub fn routes(&self) -> Arc<Routes> {
        self.gate.lock().routes.clone()
    }

    /// Swaps the table and lets held clients go where it has targets for them.
    pub fn publish(self: &Arc<Self>, routes: Arc<Routes>) {
        {
            let mut gate = self.gate.lock();
            gate.routes = routes;
            gate.forget_unused();
        }
        // Only those who are connecting right now listen to this; held ones are released one by one.
        self.published.notify_waiters();
        self.release_all();
    }

    /// Write targets may be used until then.
    pub fn confirm(self: &Arc<Self>, until: Instant) {
        let was_expired = {
            let mut gate = self.gate.lock();
            let was_expired = !gate.is_confirmed();
            gate.confirmed_until = until;
            was_expired && gate.is_confirmed()
        };
        if was_expired {
            self.release_all();
        }
    }

    /// Fences all sessions to `member` of these services (None: of all). When this returns, none of
    /// them forwards another byte (a write that is in the kernel already is not taken back); their
    /// tasks then close the sockets.
    pub fn close(&self, member: &MemberName, services: Option<&[ServiceName]>, reason: Reason) {
        self.fence(reason, |service, of| of == member && services.is_none_or(|names| names.contains(service)));
    }

    /// Fences every session there is.
    pub fn close_all(&self, reason: Reason) {
        self.fence(reason, |_, _| true);
    }

    fn fence(&self, reason: Reason, which: impl Fn(&ServiceName, &MemberName) -> bool) {
        let mut sealed = Vec::new();
        {
            let mut gate = self.gate.lock();
            for (service, groups) in &mut gate.groups {
                for (_, group) in groups.iter_mut().filter(|(member, _)| which(service, member)) {
                    let fence = std::mem::take(&mut group.fence);
                    fence.seal(reason);
                    sealed.push(fence);
                }
            }
        }
        // Waking thousands takes a while, and new sessions need not wait for it.
        for fence in sealed {
            fence.wake.notify_waiters();
        }
    }

    /// Opens a session to a target picked from the table of `picked_generation`, if the table of now
    /// still opens it.
    pub fn open(
        self: &Arc<Self>,
        service: &Arc<Service>,
        target: &Target,
        picked_generation: u64,
        client: SocketAddr,
    ) -> Result<SessionGuard, Stale> {
        let mut gate = self.gate.lock();
        if !gate.opens(&service.spec.name, target, picked_generation) {
            return Err(Stale);
        }
        let group = gate.groups.entry(service.spec.name.clone()).or_default().entry(target.member.clone()).or_default();
        group.open.fetch_add(1, Ordering::Relaxed);
        Ok(SessionGuard {
            registry: self.clone(),
            service: service.clone(),
            target: target.clone(),
            generation: picked_generation,
            fence: group.fence.clone(),
            open: group.open.clone(),
            client,
            opened: clock::now(),
            to_server: 0,
            to_client: 0,
            answered: false,
            reason: None,
        })
    }

    /// Chooses for one client. `load` tells a member's sessions of this service, those on their way included.
    pub(super) fn choose(
        &self,
        service: &ServiceName,
        balancer: &mut Balancer,
        caller: Caller<'_>,
        load: impl Fn(&MemberName) -> usize,
    ) -> Choice {
        let gate = self.gate.lock();
        let Some(routes) = gate.routes.service(service) else {
            return Choice::Wait;
        };
        // Before the pick, which would take somebody's turn in vain.
        if gate.must_wait_for_confirmation(routes) {
            return Choice::Wait;
        }
        match routes.pick(balancer, caller, load) {
            Pick::Target(target) if target.needs_confirmation && !gate.is_confirmed() => Choice::Wait,
            Pick::Target(target) => Choice::Target { target: target.clone(), generation: gate.routes.generation },
            Pick::Hold { .. } | Pick::Refuse { .. } => Choice::Wait,
            Pick::Exhausted => Choice::Exhausted,
            Pick::Full => Choice::Full,
        }
    }

    /// Completes when a table no longer opens this target.
    pub(super) async fn withdrawn(&self, service: &Service, target: &Target, picked_generation: u64) {
        loop {
            let next = self.published.notified();
            if !self.gate.lock().lists(&service.spec.name, target, picked_generation) {
                return;
            }
            next.await;
        }
    }

    /// Completes when the table has a target that this client has not tried, or none at all (false).
    pub(super) async fn offers_other(&self, service: &Service, tried: &[MemberName]) -> bool {
        loop {
            let next = self.published.notified();
            let routes = self.routes();
            let targets = routes.service(&service.spec.name).map_or(&[][..], |routes| &routes.targets);
            if targets.is_empty() || targets.iter().any(|target| !tried.contains(&target.member)) {
                return !targets.is_empty();
            }
            next.await;
        }
    }

    /// The rules for those who wait, as of now; None: the table has no such service.
    pub(super) fn terms(&self, service: &ServiceName) -> Option<Terms> {
        let gate = self.gate.lock();
        let routes = gate.routes.service(service)?;
        Some(Terms {
            hold_limit: routes.hold_limit,
            available: !routes.targets.is_empty() && !gate.must_wait_for_confirmation(routes),
            spec: routes.spec.clone(),
        })
    }

    pub(super) fn generation(&self) -> u64 {
        self.gate.lock().routes.generation
    }

    /// Open sessions of all services.
    pub fn sessions_open(&self) -> usize {
        let gate = self.gate.lock();
        let groups = gate.groups.values().flat_map(HashMap::values);
        groups.map(|group| group.open.load(Ordering::Acquire)).sum()
    }

    /// Open sessions of one service to one member.
    pub fn sessions(&self, service: &str, member: &str) -> usize {
        let gate = self.gate.lock();
        let group = gate.groups.get(service).and_then(|groups| groups.get(member));
        group.map_or(0, |group| group.open.load(Ordering::Acquire))
    }

    pub fn snapshot(&self) -> Vec<ServiceSnapshot> {
        self.services().map(|service| self.snapshot_of(service)).collect()
    }

    fn snapshot_of(&self, service: &Service) -> ServiceSnapshot {
        let mut snapshot = stats::of(service.spec.name.clone(), &service.counters);
        {
            let gate = self.gate.lock();
            for (member, group) in gate.groups.get(&service.spec.name).into_iter().flatten() {
                snapshot.sessions.push((member.clone(), group.open.load(Ordering::Relaxed)));
            }
        }
        snapshot.sessions.sort();
        service.waiting.lock().describe(&mut snapshot);
        snapshot
    }
}

impl Gate {
    fn is_confirmed(&self) -> bool {
        clock::now() < self.confirmed_until
    }

    /// All targets of a service have one role, so they need a confirmation all or none.
    fn must_wait_for_confirmation(&self, routes: &ServiceRoutes) -> bool {
        let needed = routes.targets.iter().all(|target| target.needs_confirmation);
        !routes.targets.is_empty() && needed && !self.is_confirmed()
    }

    fn opens(&self, service: &ServiceName, target: &Target, picked_generation: u64) -> bool {
        self.lists(service, target, picked_generation) && (!target.needs_confirmation || self.is_confirmed())
    }

    fn lists(&self, service: &ServiceName, target: &Target, picked_generation: u64) -> bool {
        self.routes.generation == picked_generation || self.routes.still_opens(service, target)
    }

    /// Groups without sessions whose member is no target any more would pile up over the years.
    fn forget_unused(&mut self) {
        for (service, groups) in &mut self.groups {
            let targets = self.routes.service(service).map_or(&[][..], |routes| &routes.targets);
            groups.retain(|member, group| {
                group.open.load(Ordering::Acquire) > 0 || targets.iter().any(|target| target.member == *member)
            });
        }
    }
}

/// The table before the first table: everybody waits.
fn starting(cluster: &Arc<str>, specs: &[Arc<ServiceSpec>], now: Instant) -> Arc<Routes> {
    let service = |spec: &Arc<ServiceSpec>| ServiceRoutes {
        spec: spec.clone(),
        targets: Vec::new(),
        wait: Some((Reason::Starting, now)),
        hold_limit: spec.hold.limit(ClusterSettings::default().ttl),
        cancel: Vec::new(),
        standings: Vec::new(),
    };
    Arc::new(Routes { cluster: cluster.clone(), generation: 0, services: specs.iter().map(service).collect() })
}

/// One open session. Its drop unregisters it, counts it and writes its line in the log.
#[derive(Debug)]
pub struct SessionGuard {
    registry: Arc<Registry>,
    service: Arc<Service>,
    target: Target,
    generation: u64,
    fence: Arc<Fence>,
    open: Arc<AtomicUsize>,
    client: SocketAddr,
    opened: Instant,
    to_server: u64,
    to_client: u64,
    /// The server's first answer is on its way to the client: from here on it is not replayed.
    answered: bool,
    reason: Option<Reason>,
}

impl SessionGuard {
    pub fn fence(&self) -> &Arc<Fence> {
        &self.fence
    }

    pub fn target(&self) -> &Target {
        &self.target
    }

    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether a session to the same target could open now. A client may take its time between its
    /// SSLRequest and its StartupMessage.
    pub fn may_start(&self) -> bool {
        let gate = self.registry.gate.lock();
        self.fence.reason().is_none() && gate.opens(&self.service.spec.name, &self.target, self.generation)
    }

    /// The client got an answer: now it is a session that counts.
    pub fn answered(&mut self) {
        self.answered = true;
        self.service.counters.sessions_total.fetch_add(1, Ordering::Relaxed);
    }

    /// Why it ends; the first reason stays.
    pub fn finish(&mut self, reason: Reason) {
        self.reason.get_or_insert(reason);
    }

    pub fn add_to_server(&mut self, bytes: usize) {
        self.to_server += bytes as u64;
        self.service.counters.bytes_to_server.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub fn add_to_client(&mut self, bytes: usize) {
        self.to_client += bytes as u64;
        self.service.counters.bytes_to_client.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

impl Drop for SessionGuard {
    fn drop(&mut self) {
        // A task that is dropped in the middle: the runtime goes away.
        let reason = self.reason.or(self.fence.reason()).unwrap_or(Reason::Shutdown);
        if self.answered {
            self.service.counters.closed.add(reason);
        }
        self.log(reason);
        self.open.fetch_sub(1, Ordering::Release);
    }
}

impl SessionGuard {
    fn log(&self, reason: Reason) {
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    target: "pgvane::session",
                    cluster = %self.registry.cluster,
                    service = %self.service.spec.name,
                    member = %self.target.member,
                    client = %self.client,
                    %reason,
                    answered = self.answered,
                    seconds = clock::now().saturating_duration_since(self.opened).as_secs_f64(),
                    to_server = self.to_server,
                    to_client = self.to_client,
                    "session ended: {}", reason.sentence()
                )
            };
        }
        if self.answered && self.fence.reason().is_some() { line!(info) } else { line!(debug) }
    }
}
