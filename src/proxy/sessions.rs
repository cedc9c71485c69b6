//! The open sessions of one Patroni cluster, and the gate that decides whether one more may open.
//!
//! **Opening and closing share one lock.** A session opens only if the table of that moment still
//! opens its target; `close` fences every session opened before it. So a table that takes a target
//! away, followed by a close, leaves no session behind, however the threads interleave.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::decide::balance::Balancer;
use crate::decide::{Caller, Pick, Routes, ServiceRoutes, Target};
use crate::model::{CloseOnDown, ClusterSettings, MemberName, Reason, ServiceName, ServiceSpec};
use crate::runtime::clock;

use super::cancel::keys::Keys;
use super::fence::Fence;
pub use super::guard::SessionGuard;
use super::guard::Shared;
use super::hold::{Book, Chosen, Terms};
use super::premises::Premises;
pub use super::service::Service;
use super::service::{self, Services};
use super::stats::{self, ServiceSnapshot};
use super::targets::{Group, Groups};

/// The target was taken away between pick and open, or its confirmation ran out: pick again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stale;

/// What the table of this moment says to one client.
#[derive(Debug, Clone)]
pub(super) enum Choice {
    Target(Chosen),
    /// No target, or none that may be used now.
    Wait,
    Exhausted,
    Full,
}

#[derive(Debug)]
pub struct Registry {
    pub cluster: Arc<str>,
    /// Which server gave out which key for cancels.
    pub cancel_keys: Keys,
    services: ArcSwap<Services>,
    gate: Mutex<Gate>,
    published: Notify,
    pub(super) premises: Premises,
}

#[derive(Debug)]
struct Gate {
    routes: Arc<Routes>,
    /// Another one with every change of `routes`, also within a generation.
    edition: u64,
    /// Write targets may be used while now is before this.
    confirmed_until: Instant,
    groups: HashMap<ServiceName, Groups>,
    /// Everybody is to end, also those who come only now.
    leaving: Option<Reason>,
}

impl Registry {
    /// `hold_max_clamp` bounds every service's `hold.max` (it comes from the descriptors there are).
    pub fn new(cluster: Arc<str>, specs: &[Arc<ServiceSpec>], hold_max_clamp: usize) -> Arc<Registry> {
        let now = clock::now();
        let routes = Arc::new(Routes { cluster: cluster.clone(), generation: 0, services: Vec::new() });
        let gate = Gate { routes, edition: 1, confirmed_until: now, groups: HashMap::new(), leaving: None };
        let registry = Arc::new(Registry {
            cluster,
            cancel_keys: Keys::default(),
            services: ArcSwap::default(),
            gate: Mutex::new(gate),
            published: Notify::new(),
            premises: Premises::default(),
        });
        registry.update(specs, hold_max_clamp);
        registry
    }

    /// From now on these are the services. Their clients wait for a table that has them; those of a
    /// service that is missing here are told at once, if they wait. One caller at a time.
    pub fn update(self: &Arc<Self>, specs: &[Arc<ServiceSpec>], hold_max_clamp: usize) {
        {
            let mut gate = self.gate.lock();
            let has_sessions = |name: &str| gate.groups.get(name).is_some_and(|groups| groups.open() > 0);
            let services = service::updated(&self.cluster, &self.services.load(), specs, hold_max_clamp, has_sessions);
            gate.groups.retain(|name, groups| services.contains_key(name) || groups.open() > 0);
            self.services.store(Arc::new(services));
            let routes = self.completed(gate.routes.clone());
            gate.replace(routes);
        }
        self.release_all();
    }

    /// A service of this name, even if the configuration has dropped it.
    pub fn service(&self, name: &str) -> Option<Arc<Service>> {
        self.services.load().get(name).cloned()
    }

    /// Those that the configuration has, and those that it had and that are remembered.
    pub fn services(&self) -> Vec<Arc<Service>> {
        self.services.load().values().cloned().collect()
    }

    /// A table that does not know a service yet, or knows it in another role, makes its clients wait, as
    /// before the first table.
    fn completed(&self, routes: Arc<Routes>) -> Arc<Routes> {
        let now = clock::now();
        let services = self.services.load();
        let is_known =
            |service: &Service| routes.service(&service.name).is_some_and(|r| r.spec.role == service.spec().role);
        let missing = services.values().filter(|service| !service.is_removed() && !is_known(service));
        let missing: Vec<ServiceRoutes> = missing.map(|service| starting(service.spec(), now)).collect();
        if missing.is_empty() {
            return routes;
        }
        let mut completed = Routes::clone(&routes);
        completed.services.retain(|known| missing.iter().all(|new| new.spec.name != known.spec.name));
        completed.services.extend(missing);
        Arc::new(completed)
    }

    pub fn routes(&self) -> Arc<Routes> {
        self.gate.lock().routes.clone()
    }

    /// Swaps the table and lets held clients go where it has targets for them.
    pub fn publish(self: &Arc<Self>, routes: Arc<Routes>) {
        {
            let mut gate = self.gate.lock();
            gate.replace(self.completed(routes));
            self.forget_unused(&mut gate);
        }
        // Only those who are connecting right now listen to this; held ones are released one by one.
        self.published.notify_waiters();
        self.release_all();
    }

    /// Write targets may be used until then.
    pub fn confirm(self: &Arc<Self>, until: Instant) {
        let was_expired = {
            let mut gate = self.gate.lock();
            let was_expired = !gate.is_confirmed(clock::now());
            gate.confirmed_until = until;
            was_expired && gate.is_confirmed(clock::now())
        };
        if was_expired {
            self.release_all();
        }
    }

    /// Fences all sessions to `member` of these services (None: of all). When this returns, none of
    /// them forwards another byte (a write that is in the kernel already is not taken back); their
    /// tasks then close the sockets.
    pub fn close(&self, member: &MemberName, services: Option<&[ServiceName]>, reason: Reason) {
        self.seal(reason, |service, of| of == member && self.is_meant(service, services, reason));
    }

    /// Fences every session there is.
    pub fn close_all(&self, reason: Reason) {
        self.seal(reason, |_, _| true);
    }

    /// Asks all sessions to `member` of these services (None: of all) to end as soon as they are idle. A
    /// later close finds those that are not; sessions that open from now on are not meant.
    pub fn drain(&self, member: &MemberName, services: Option<&[ServiceName]>, reason: Reason) {
        self.ask_to_end(reason, |service, of| of == member && self.is_meant(service, services, reason));
    }

    /// Asks every session to end as soon as it is idle, also those that open from now on.
    pub fn drain_all(&self, reason: Reason) {
        self.gate.lock().leaving = Some(reason);
        self.ask_to_end(reason, |_, _| true);
    }

    /// A member that is down is down for services, too, that were removed and that the list may not know:
    /// these follow their last word. A planned close names all that it means.
    fn is_meant(&self, name: &ServiceName, services: Option<&[ServiceName]>, reason: Reason) -> bool {
        let Some(names) = services else { return true };
        if reason == Reason::Maintenance {
            return names.contains(name);
        }
        let known = self.services.load();
        let is_cut = |service: &Arc<Service>| service.spec().close_on_down != CloseOnDown::Stay;
        names.contains(name) || known.get(name).is_none_or(|service| service.is_removed() && is_cut(service))
    }

    fn seal(&self, reason: Reason, which: impl Fn(&ServiceName, &MemberName) -> bool) {
        self.change_fences(which, |group| {
            let fences = group.take_fences();
            fences.iter().for_each(|fence| fence.seal(reason));
            fences
        });
    }

    fn ask_to_end(&self, reason: Reason, which: impl Fn(&ServiceName, &MemberName) -> bool) {
        self.change_fences(which, |group| {
            let fence = group.drain_fence();
            fence.ask_to_end(reason);
            vec![fence]
        });
    }

    /// Makes every session look whether it may go on.
    pub(super) fn wake_sessions(&self) {
        self.change_fences(|_, _| true, |group| group.fences());
    }

    fn change_fences(
        &self,
        which: impl Fn(&ServiceName, &MemberName) -> bool,
        change: impl Fn(&mut Group) -> Vec<Arc<Fence>>,
    ) {
        let mut changed = Vec::new();
        {
            let mut gate = self.gate.lock();
            for (service, groups) in &mut gate.groups {
                for (_, group) in groups.iter_mut().filter(|(member, _)| which(service, member)) {
                    changed.extend(change(group));
                }
            }
        }
        // Waking thousands takes a while, and new sessions need not wait for it.
        for fence in changed {
            fence.wake();
        }
    }

    /// Opens a session to a target picked from the table of `picked_generation`, if the table of now
    /// still opens it.
    pub fn open(
        self: &Arc<Self>,
        service: &Arc<Service>,
        target: &Arc<Target>,
        picked_generation: u64,
    ) -> Result<SessionGuard, Stale> {
        let mut gate = self.gate.lock();
        if !gate.opens(&service.name, target, picked_generation) {
            return Err(Stale);
        }
        let leaving = gate.leaving;
        let group = gate.groups.entry(service.name.clone()).or_default().of(&target.member);
        group.counters.enter();
        if let Some(reason) = leaving {
            group.fence.ask_to_end(reason);
        }
        let shared = group.shared(service, target, |fence, counters| Shared {
            registry: Arc::downgrade(self),
            issuer: self.cancel_keys.issuer(&target.address),
            service: service.clone(),
            target: target.clone(),
            fence,
            counters,
        });
        Ok(SessionGuard::new(shared, picked_generation))
    }

    /// Whether the table of now opens sessions to a target that was picked from an older one.
    pub(super) fn opens(&self, service: &ServiceName, target: &Target, picked_generation: u64) -> bool {
        self.gate.lock().opens(service, target, picked_generation)
    }

    /// Chooses for one client. `book` is this service's own.
    pub(super) fn choose(
        &self,
        service: &ServiceName,
        balancer: &mut Balancer,
        book: &mut Book,
        caller: Caller<'_>,
    ) -> Choice {
        let gate = self.gate.lock();
        let Some(routes) = gate.routes.service(service) else {
            return Choice::Wait;
        };
        // Before the pick, which would take somebody's turn in vain.
        if gate.must_wait_for_confirmation(routes, caller.now) {
            return Choice::Wait;
        }
        let unconfirmed = gate.unconfirmed(routes, caller.now);
        let both: Vec<MemberName>;
        let tried = if unconfirmed.is_empty() {
            caller.tried
        } else {
            both = [caller.tried, &unconfirmed[..]].concat();
            &both
        };
        let slots = book.of(gate.edition, &routes.targets);
        match routes
            .pick(balancer, Caller { tried, ..caller }, |place| slots.get(place).map_or(0, |slots| slots.taken()))
        {
            Pick::Exhausted if !unconfirmed.is_empty() => Choice::Wait,
            Pick::Target(target) => {
                let place = routes.targets.iter().position(|one| Arc::ptr_eq(one, target));
                let slots = place.and_then(|place| slots.get(place)).cloned().unwrap_or_default();
                Choice::Target(Chosen { target: target.clone(), generation: gate.routes.generation, slots })
            }
            Pick::Hold { .. } | Pick::Refuse { .. } => Choice::Wait,
            Pick::Exhausted => Choice::Exhausted,
            Pick::Full => Choice::Full,
        }
    }

    /// Completes when a table no longer opens this target.
    pub(super) async fn withdrawn(&self, service: &Service, target: &Target, picked_generation: u64) {
        loop {
            let next = self.published.notified();
            if !self.gate.lock().lists(&service.name, target, picked_generation) {
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
            let targets = routes.service(&service.name).map_or(&[][..], |routes| &routes.targets);
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
            available: !routes.targets.is_empty() && !gate.must_wait_for_confirmation(routes, clock::now()),
            spec: routes.spec.clone(),
        })
    }

    pub(super) fn generation(&self) -> u64 {
        self.gate.lock().routes.generation
    }

    /// Open sessions of all services.
    pub fn sessions_open(&self) -> usize {
        self.gate.lock().groups.values().map(Groups::open).sum()
    }

    /// Open sessions of one service to one member.
    pub fn sessions(&self, service: &str, member: &str) -> usize {
        self.gate.lock().groups.get(service).map_or(0, |groups| groups.open_to(member))
    }

    /// A connect of a client to this member failed.
    pub(super) fn count_failed_connect(&self, service: &Service, member: &MemberName) {
        let mut gate = self.gate.lock();
        let group = gate.groups.entry(service.name.clone()).or_default().of(member);
        group.counters.connects_failed.fetch_add(1, Ordering::Relaxed);
    }

    /// Services of the configuration, and removed ones that still have clients.
    pub fn snapshot(&self) -> Vec<ServiceSnapshot> {
        let services = self.services();
        let shown = services.iter().filter(|service| !service.is_removed() || service.clients.now() > 0);
        shown.map(|service| self.snapshot_of(service)).collect()
    }

    fn snapshot_of(&self, service: &Service) -> ServiceSnapshot {
        let mut snapshot = stats::of(service.name.clone(), &service.counters);
        (snapshot.clients, snapshot.clients_most) = (service.clients.now(), service.clients.most());
        snapshot.targets = self.gate.lock().groups.get(&service.name).map_or_else(Vec::new, Groups::snapshot);
        for target in &snapshot.targets {
            snapshot.sessions.push((target.member.clone(), target.sessions));
            snapshot.bytes_to_server += target.bytes_to_server;
            snapshot.bytes_to_client += target.bytes_to_client;
        }
        service.waiting.lock().describe(&mut snapshot);
        snapshot
    }

    /// Counters of members that are no targets any more would pile up over the years.
    fn forget_unused(&self, gate: &mut Gate) {
        let Gate { routes, groups, .. } = gate;
        for (name, groups) in groups {
            let targets = routes.service(name).map_or(&[][..], |routes| &routes.targets);
            let forgotten = groups.forget(|member| targets.iter().any(|target| target.member == *member));
            if let Some(service) = self.services.load().get(name) {
                service.counters.bytes_to_server.fetch_add(forgotten.0, Ordering::Relaxed);
                service.counters.bytes_to_client.fetch_add(forgotten.1, Ordering::Relaxed);
            }
        }
    }
}

impl Gate {
    fn replace(&mut self, routes: Arc<Routes>) {
        self.routes = routes;
        self.edition += 1;
    }

    fn is_confirmed(&self, now: Instant) -> bool {
        now < self.confirmed_until
    }

    /// Targets that may not be used now, beside others that may: a primary among readers.
    fn unconfirmed(&self, routes: &ServiceRoutes, now: Instant) -> Vec<MemberName> {
        if self.is_confirmed(now) {
            return Vec::new();
        }
        let wanting = routes.targets.iter().filter(|target| target.needs_confirmation);
        wanting.map(|target| target.member.clone()).collect()
    }

    /// No target may be used now.
    fn must_wait_for_confirmation(&self, routes: &ServiceRoutes, now: Instant) -> bool {
        let needed = routes.targets.iter().all(|target| target.needs_confirmation);
        !routes.targets.is_empty() && needed && !self.is_confirmed(now)
    }

    fn opens(&self, service: &ServiceName, target: &Target, picked_generation: u64) -> bool {
        let is_listed = self.lists(service, target, picked_generation);
        is_listed && (!target.needs_confirmation || self.is_confirmed(clock::now()))
    }

    fn lists(&self, service: &ServiceName, target: &Target, picked_generation: u64) -> bool {
        self.routes.generation == picked_generation || self.routes.still_opens(service, target)
    }
}

/// What the first table replaces: everybody waits.
fn starting(spec: Arc<ServiceSpec>, now: Instant) -> ServiceRoutes {
    ServiceRoutes {
        targets: Vec::new(),
        wait: Some((Reason::Starting, now)),
        hold_limit: spec.hold.limit(ClusterSettings::default().ttl),
        cancel: Vec::new(),
        standings: Vec::new(),
        spec,
    }
}
