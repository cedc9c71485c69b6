//! One open session as the registry knows it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use crate::decide::Target;
use crate::model::Reason;

use super::cancel::keys::{Issuer, KeyGuard};
use super::fence::Fence;
use super::protocol::conversation::CancelKey;
use super::sessions::{Registry, Service};
use super::targets::TargetCounters;

/// What all sessions have in common that look at one fence and came by one target. A session holds one pointer
/// to it: ten thousand sessions to a member name it once.
#[derive(Debug)]
pub(super) struct Shared {
    /// Weak: the registry owns this.
    pub registry: Weak<Registry>,
    /// Who gives out their keys for cancels.
    pub issuer: Issuer,
    pub service: Arc<Service>,
    pub target: Arc<Target>,
    pub fence: Arc<Fence>,
    pub counters: Arc<TargetCounters>,
}

/// One open session. Its drop unregisters and counts it.
#[derive(Debug)]
pub struct SessionGuard {
    shared: Arc<Shared>,
    generation: u64,
    to_client: u64,
    to_server: u64,
    key: Option<KeyGuard>,
    /// The server's first answer is on its way to the client: from here on it is not replayed.
    answered: bool,
    reason: Option<Reason>,
}

impl SessionGuard {
    /// It is counted as open already.
    pub(super) fn new(shared: Arc<Shared>, generation: u64) -> SessionGuard {
        SessionGuard { shared, generation, to_client: 0, to_server: 0, key: None, answered: false, reason: None }
    }

    pub fn fence(&self) -> &Arc<Fence> {
        &self.shared.fence
    }

    pub fn target(&self) -> &Arc<Target> {
        &self.shared.target
    }

    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// What all sessions of this service to the same member count together.
    pub fn counters(&self) -> &Arc<TargetCounters> {
        &self.shared.counters
    }

    /// Bytes so far, to the server and to the client.
    pub fn bytes(&self) -> (u64, u64) {
        (self.to_server, self.to_client)
    }

    /// Whether a session to the same target could open now. A client may take its time between its
    /// SSLRequest and its StartupMessage.
    pub fn may_start(&self) -> bool {
        let Shared { registry, service, target, fence, .. } = &*self.shared;
        let opens = |registry: Arc<Registry>| registry.opens(&service.name, target, self.generation);
        registry.upgrade().is_some_and(opens) && fence.reason().is_none()
    }

    /// The client got an answer: now it is a session that counts.
    pub fn answered(&mut self) {
        self.answered = true;
        self.shared.service.counters.sessions_total.fetch_add(1, Ordering::Relaxed);
        self.shared.counters.sessions_total.fetch_add(1, Ordering::Relaxed);
    }

    /// The server gave out this key for cancels, as in BackendKeyData without its header; from here on
    /// cancels with it go there, for as long as the session lives.
    pub fn owns_key(&mut self, key: CancelKey) {
        self.key = Some(self.shared.issuer.register(&key));
    }

    /// Why it ends; the first reason stays.
    pub fn finish(&mut self, reason: Reason) {
        self.reason.get_or_insert(reason);
    }

    pub fn add_to_server(&mut self, bytes: usize) {
        self.to_server += bytes as u64;
        add(&self.shared.counters.bytes_to_server, bytes);
    }

    pub fn add_to_client(&mut self, bytes: usize) {
        self.to_client += bytes as u64;
        add(&self.shared.counters.bytes_to_client, bytes);
    }
}

/// Nothing is not added: all threads write to this counter.
fn add(counter: &AtomicU64, bytes: usize) {
    if bytes > 0 {
        counter.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

impl Drop for SessionGuard {
    fn drop(&mut self) {
        // A task that is dropped in the middle: the runtime goes away.
        let reason = self.reason.or(self.fence().reason()).unwrap_or(Reason::Shutdown);
        if self.answered {
            self.shared.service.counters.closed.add(reason);
        }
        self.shared.counters.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each byte here is paid by every idle session.
    #[test]
    fn a_session_is_as_small_as_said() {
        assert!(size_of::<SessionGuard>() <= 56, "{}", size_of::<SessionGuard>());
    }
}
