//! Accepting, from one socket, as many clients as its service may have.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use socket2::{SockRef, Socket};
use tokio::io::unix::AsyncFd;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::runtime::clock;
use crate::sys::readiness;

use super::connect::is_exhaustion;
use super::connection::{Plumbing, serve};
use super::listener::{self, Inlet, forget_sharing};
use super::peer::Peer;
use super::service::{Service, Slot};

/// A socket whose address another one of ours has taken over is kept so long for handshakes under way.
pub const HANDOVER_GRACE: Duration = Duration::from_millis(20);
/// Without a free descriptor the next accept would fail at once again.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

/// One listening socket at work.
pub(super) struct Acceptor {
    pub inlet: Arc<Inlet>,
    /// Whom its next client is for; a reload may change it.
    pub service: Arc<ArcSwap<Service>>,
    pub stop: CancellationToken,
    pub plumbing: Arc<Plumbing>,
    pub connections: TaskTracker,
}

impl Acceptor {
    /// Until told to stop; then whoever the kernel has accepted already is served, too.
    pub async fn run(self) {
        let socket = match readiness::watch(self.inlet.socket().clone()) {
            Ok(socket) => socket,
            Err(error) => {
                tracing::error!(target: "pgvane::listen", %error, "cannot wait for clients");
                return;
            }
        };
        tokio::select! {
            biased;
            () = self.stop.cancelled() => {}
            () = self.accept_all(&socket) => {}
        }
        self.inlet.remove_file();
        let has_heir = self.inlet.has_heir();
        if has_heir {
            self.inlet.ignore_newcomers();
            pause(HANDOVER_GRACE).await;
        }
        self.accept_rest();
        let port = self.inlet.address().map(|address| address.port());
        drop((socket, self));
        if let Some(port) = port.filter(|_| has_heir) {
            forget_sharing(port);
        }
    }

    /// A machine that is out of descriptors gets a pause, not an end.
    async fn accept_all(&self, socket: &AsyncFd<Arc<Socket>>) {
        let mut complaints = Complaints::default();
        loop {
            let Ok(mut ready) = socket.readable().await else { return };
            let slot = self.room().await;
            match ready.try_io(|_| self.inlet.accept()) {
                // Whoever was there has gone, or another turn took it.
                Err(_would_block) => {}
                Ok(Ok(accepted)) => self.serve(slot, accepted),
                Ok(Err(error)) => {
                    drop(slot);
                    self.cannot(&error, &mut complaints).await;
                }
            }
            tokio::task::consume_budget().await;
        }
    }

    /// Waits until the service may have one more client: meanwhile the kernel's backlog holds them.
    async fn room(&self) -> Slot {
        loop {
            let service = self.service.load_full();
            let mut room = pin!(service.clients.room());
            room.as_mut().enable();
            if let Some(slot) = service.enter() {
                return slot;
            }
            room.await;
        }
    }

    fn accept_rest(&self) {
        while let Ok(accepted) = self.inlet.accept() {
            // What the listening socket had, they have; see `Inlet::ignore_newcomers`.
            let _has_none = SockRef::from(&accepted.0).detach_filter();
            self.serve(self.service.load().squeeze_in(), accepted);
        }
    }

    fn serve(&self, slot: Slot, (accepted, peer): (std::net::TcpStream, Peer)) {
        match listener::stream(accepted) {
            Ok(client) => drop(self.connections.spawn(serve(self.plumbing.clone(), slot.take(), client, peer))),
            Err(error) => tracing::warn!(target: "pgvane::listen", %error, "cannot serve an accepted connection"),
        }
    }

    async fn cannot(&self, error: &io::Error, complaints: &mut Complaints) {
        if let Some(unsaid) = complaints.due() {
            let service = &*self.service.load().name;
            tracing::warn!(target: "pgvane::listen", service, %error, unsaid, "cannot accept a connection");
        }
        // Other errors belong to the one connection that was to be accepted.
        if is_exhaustion(error) {
            pause(EXHAUSTED_PAUSE).await;
        }
    }
}

async fn pause(length: Duration) {
    tokio::time::sleep_until(tokio::time::Instant::from_std(clock::now() + length)).await;
}

/// One line per [`COMPLAIN_EVERY`], with how many were left out.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    last: Option<std::time::Instant>,
    unsaid: u64,
}

impl Complaints {
    /// How many were left out since the last one, if it is time for another.
    pub fn due(&mut self) -> Option<u64> {
        let now = clock::now();
        if self.last.is_some_and(|last| now.saturating_duration_since(last) < COMPLAIN_EVERY) {
            self.unsaid += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_are_rare() {
        let mut complaints = Complaints::default();
        assert_eq!(complaints.due(), Some(0));
        assert_eq!((complaints.due(), complaints.unsaid), (None, 1));
        complaints.last = complaints.last.and_then(|last| last.checked_sub(COMPLAIN_EVERY));
        assert_eq!((complaints.due(), complaints.due()), (Some(1), None));
    }
}
