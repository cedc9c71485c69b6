//! What a service counted, for metrics and status. Plain atomics; nobody waits for them.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

pub use crate::decide::ServiceSnapshot;
use crate::decide::Suspicion;
use crate::model::{Reason, ServiceName};

use super::protocol::words::SQLSTATES;

/// Every suspicion, in the order of the counters.
pub const SUSPICIONS: [Suspicion; 6] = [
    Suspicion::ConnectRefused,
    Suspicion::ConnectTimedOut,
    Suspicion::ConnectFailed,
    Suspicion::StartupEof,
    Suspicion::StartupRejected,
    Suspicion::ServerReset,
];

/// One counter per [`Reason`].
#[derive(Debug)]
pub struct ByReason(Box<[AtomicU64]>);

impl Default for ByReason {
    fn default() -> Self {
        ByReason(Reason::ALL.iter().map(|_| AtomicU64::new(0)).collect())
    }
}

impl ByReason {
    pub fn add(&self, reason: Reason) {
        if let Some(counter) = self.0.get(reason as usize) {
            counter.fetch_add(1, Relaxed);
        }
    }

    /// The reasons that happened at all.
    pub fn read(&self) -> Vec<(Reason, u64)> {
        let counts = self.0.iter().map(|counter| counter.load(Relaxed));
        Reason::ALL.iter().copied().zip(counts).filter(|(_, count)| *count > 0).collect()
    }
}

/// One counter per SQLSTATE that the router tells clients.
#[derive(Debug, Default)]
pub struct BySqlstate([AtomicU64; SQLSTATES.len()]);

impl BySqlstate {
    pub fn add(&self, sqlstate: &str) {
        if let Some(place) = SQLSTATES.iter().position(|known| *known == sqlstate) {
            self.0[place].fetch_add(1, Relaxed);
        }
    }

    /// Those that were told at all.
    pub fn read(&self) -> Vec<(&'static str, u64)> {
        let counts = self.0.iter().map(|counter| counter.load(Relaxed));
        SQLSTATES.into_iter().zip(counts).filter(|(_, count)| *count > 0).collect()
    }
}

/// Counters of one service; they only grow.
#[derive(Debug, Default)]
pub struct Counters {
    pub clients_total: AtomicU64,
    pub sessions_total: AtomicU64,
    /// Sessions that ended, by why.
    pub closed: ByReason,
    /// Clients that ended without ever having had an answer from a server, by why.
    pub refused: ByReason,
    /// Errors that clients were told by the router itself.
    pub told: BySqlstate,
    /// Startups that were sent to another target, or to the same one again.
    pub replays_total: AtomicU64,
    pub cancels_total: AtomicU64,
    pub bytes_to_server: AtomicU64,
    pub bytes_to_client: AtomicU64,
    /// Clients that began to wait for a slot under `maxconn`.
    pub queued_total: AtomicU64,
    pub held_total: AtomicU64,
    pub hold_micros_sum: AtomicU64,
    pub hold_micros_max: AtomicU64,
    pub connects_failed: [AtomicU64; SUSPICIONS.len()],
}

impl Counters {
    pub fn add_hold(&self, lasted: Duration) {
        let micros = u64::try_from(lasted.as_micros()).unwrap_or(u64::MAX);
        self.held_total.fetch_add(1, Relaxed);
        self.hold_micros_sum.fetch_add(micros, Relaxed);
        self.hold_micros_max.fetch_max(micros, Relaxed);
    }

    pub fn add_suspicion(&self, suspicion: Suspicion) {
        if let Some(index) = SUSPICIONS.iter().position(|known| *known == suspicion) {
            self.connects_failed[index].fetch_add(1, Relaxed);
        }
    }
}

/// What the counters alone say; the rest is filled in by who knows it.
pub(super) fn of(service: ServiceName, counters: &Counters) -> ServiceSnapshot {
    let failed = counters.connects_failed.iter().map(|counter| counter.load(Relaxed));
    ServiceSnapshot {
        service,
        clients: 0,
        clients_most: 0,
        targets: Vec::new(),
        queued: 0,
        queued_most: 0,
        queued_total: counters.queued_total.load(Relaxed),
        clients_total: counters.clients_total.load(Relaxed),
        sessions_total: counters.sessions_total.load(Relaxed),
        sessions: Vec::new(),
        closed: counters.closed.read(),
        refused: counters.refused.read(),
        told: counters.told.read(),
        replays_total: counters.replays_total.load(Relaxed),
        cancels_total: counters.cancels_total.load(Relaxed),
        bytes_to_server: counters.bytes_to_server.load(Relaxed),
        bytes_to_client: counters.bytes_to_client.load(Relaxed),
        connects_failed: SUSPICIONS.into_iter().zip(failed).collect(),
        held: 0,
        held_longest: Duration::ZERO,
        held_total: counters.held_total.load(Relaxed),
        hold_sum: Duration::from_micros(counters.hold_micros_sum.load(Relaxed)),
        hold_max: Duration::from_micros(counters.hold_micros_max.load(Relaxed)),
        connecting: Vec::new(),
    }
}
