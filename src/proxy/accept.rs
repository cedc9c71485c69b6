//! Accepting, from one socket, as many clients as its service may have.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use socket2::{SockRef, Socket};
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::model::Reason;
use crate::runtime::clock;
use crate::sys::readiness;

use super::connect::is_exhaustion;
use super::connection::{Plumbing, Visit, serve};
use super::crew::Crew;
use super::listener::{Inlet, forget_sharing};
use super::peer::Peer;
use super::service::{Full, Service, Slot};
use super::session_log::Record;
use super::timers::sleep_until;

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
    pub crew: Crew,
    /// The thread that it runs on.
    pub thread: usize,
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
        let mut said = Said::default();
        loop {
            let Ok(mut ready) = socket.readable().await else { return };
            let slot = self.room(&mut said).await;
            match ready.try_io(|_| self.inlet.accept()) {
                // Whoever was there has gone, or another turn took it.
                Err(_would_block) => {}
                Ok(Ok(accepted)) => self.receive(slot, accepted, &mut said),
                Ok(Err(error)) => {
                    drop(slot);
                    self.cannot(&error, &mut said).await;
                }
            }
            tokio::task::consume_budget().await;
        }
    }

    /// Waits until the service may have one more client: meanwhile the kernel's backlog holds them.
    async fn room(&self, said: &mut Said) -> Slot {
        loop {
            // Nearly always; whoever has to wait asks again, once a change cannot be missed.
            if let Ok(slot) = self.service.load().enter() {
                return slot;
            }
            let service = self.service.load_full();
            let mut change = pin!(service.clients.room());
            change.as_mut().enable();
            match service.enter() {
                Ok(slot) => return slot,
                Err(Full::Clients) => change.await,
                Err(Full::Second { left }) => {
                    said.paced(&service);
                    tokio::select! {
                        () = change => {}
                        () = pause(left) => {}
                    }
                }
            }
        }
    }

    fn accept_rest(&self) {
        let mut said = Said::default();
        while let Ok(accepted) = self.inlet.accept() {
            // What the listening socket had, they have; see `Inlet::ignore_newcomers`.
            let _has_none = SockRef::from(&accepted.0).detach_filter();
            self.receive(self.service.load().squeeze_in(), accepted, &mut said);
        }
    }

    /// A client that is not allowed to be one never is: it gets no place, no task and no word.
    fn receive(&self, slot: Slot, (accepted, peer): (std::net::TcpStream, Peer), said: &mut Said) {
        if !slot.service().allows(&peer) {
            drop(accepted);
            return self.send_away(slot.service(), peer, said);
        }
        let seat = self.crew.seat(self.thread);
        let runtime = seat.runtime().clone();
        let visit = Visit::new(self.plumbing.clone(), slot.take(), seat, (accepted, peer));
        drop(self.connections.spawn_on(serve(visit), &runtime));
    }

    fn send_away(&self, service: &Arc<Service>, peer: Peer, said: &mut Said) {
        service.counters.refused.add(Reason::NotAllowed);
        Record::new(service.clone(), peer).end(Reason::NotAllowed, (0, 0));
        said.not_allowed(service, peer);
    }

    async fn cannot(&self, error: &io::Error, said: &mut Said) {
        said.cannot(&self.service.load(), error);
        // Other errors belong to the one connection that was to be accepted.
        if is_exhaustion(error) {
            pause(EXHAUSTED_PAUSE).await;
        }
    }
}

async fn pause(length: Duration) {
    sleep_until(Instant::from_std(clock::now() + length)).await;
}

/// What one socket complains about, each at its own pace.
#[derive(Default)]
struct Said {
    cannot: Complaints,
    paced: Complaints,
    not_allowed: Complaints,
}

impl Said {
    fn cannot(&mut self, service: &Service, error: &io::Error) {
        let Some(unsaid) = self.cannot.due() else { return };
        let service = &*service.name;
        if is_exhaustion(error) {
            tracing::warn!(
                target: "pgvane::listen", service, %error, unsaid,
                "accepting pauses: the router is out of file descriptors or memory; clients wait, sessions go on"
            );
        } else {
            tracing::warn!(target: "pgvane::listen", service, %error, unsaid, "cannot accept a connection");
        }
    }

    fn paced(&mut self, service: &Service) {
        let Some(unsaid) = self.paced.due() else { return };
        let (service, max) = (&*service.name, service.spec().rate.max);
        tracing::warn!(
            target: "pgvane::listen", service, max, unsaid,
            "accepting pauses: more clients connect than rate.max allows in a second; they wait"
        );
    }

    fn not_allowed(&mut self, service: &Service, client: Peer) {
        let Some(unsaid) = self.not_allowed.due() else { return };
        let service = &*service.name;
        tracing::warn!(
            target: "pgvane::listen", service, %client, unsaid,
            "closed the connection of a client that is not on the allow list"
        );
    }
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
    #[test]
    fn what_the_machine_lacks_pauses_a_listener_and_one_clients_trouble_does_not() {
        use nix::errno::Errno;
        let pauses = |errno: Errno| is_exhaustion(&io::Error::from_raw_os_error(errno as i32));
        assert!([Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM, Errno::ENOBUFS].into_iter().all(pauses));
        assert!(![Errno::ECONNABORTED, Errno::EPROTO, Errno::EPERM, Errno::ENETDOWN].into_iter().any(pauses));
    }
}
