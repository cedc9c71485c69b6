//! One client from accept to close, top to bottom.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::decide::Suspicion;
use crate::model::Reason;

use super::client::{Client, await_goodbye, close_politely, tell_at_once};
use super::connect::{Connector, reset_on_close};
use super::crew::Seat;
use super::handshake::Handshake;
use super::parting::Parting;
use super::peer::Peer;
use super::premises::{Premises, Tenancy};
use super::relay::{End, Ended, Session};
use super::service::Slot;
use super::session_log::Record;
use super::sessions::Registry;
use super::suspects::Suspects;

/// What all connections of one cluster share.
#[derive(Debug)]
pub struct Plumbing {
    pub registry: Arc<Registry>,
    pub connector: Connector,
    pub suspects: Suspects,
    /// No more waiting for a target.
    pub stopping: CancellationToken,
}

/// One client, from its accept on. In one allocation, because it stays as long as the session does; each byte of it is
/// paid by every idle session.
pub(super) struct Visit {
    pub plumbing: Arc<Plumbing>,
    /// Its line counts this client: before the slot.
    record: Record,
    pub slot: Slot,
    /// The thread that it is served on.
    pub seat: Seat,
    /// To be dropped after the socket.
    tenancy: Tenancy,
    /// Until it is served.
    accepted: Option<std::net::TcpStream>,
}

impl Visit {
    /// `slot` is taken: there is a client for it.
    pub fn new(
        plumbing: Arc<Plumbing>,
        slot: Slot,
        seat: Seat,
        (accepted, peer): (std::net::TcpStream, Peer),
    ) -> Box<Visit> {
        let tenancy = plumbing.registry.enter(&accepted);
        let record = Record::new(slot.service().clone(), peer);
        Box::new(Visit { plumbing, record, slot, seat, tenancy, accepted: Some(accepted) })
    }

    /// The client's socket, as one of this thread's runtime.
    fn client(&mut self) -> Result<Client, Reason> {
        let accepted = self.accepted.take().ok_or(Reason::Shutdown)?;
        let early = Client::read_first(&accepted);
        TcpStream::from_std(accepted).map(|stream| Client::new(stream, early)).map_err(|error| {
            // As many lines as clients; they are counted, too.
            let service = &*self.slot.service().name;
            tracing::debug!(target: "pgvane::listen", service, %error, "cannot wait for what a client says; it is closed");
            Reason::NoDescriptors
        })
    }
}

/// Serves one client until it ends. Never fails: whatever happens has a reason and is counted.
pub(super) async fn serve(mut visit: Box<Visit>) {
    // Boxed, so that a session does not carry the room its handshake needed.
    let Some(mut session) = Box::pin(handshake(&mut visit)).await else { return };
    visit.record.relays(session.guard.counters());
    let ended = session.relay(&mut visit.tenancy, visit.seat.rounds()).await;
    let left = close_server(&mut visit, *session, ended);
    // Boxed for the same reason.
    Box::pin(part(visit, left)).await;
}

/// None: the client ended without a session.
async fn handshake(visit: &mut Visit) -> Option<Box<Session>> {
    let client = visit.client();
    let Visit { plumbing, record, slot, tenancy, .. } = visit;
    let service = slot.service();
    let outcome = match client {
        Ok(client) => Handshake::new(plumbing, service, client, record).run(tenancy).await,
        Err(reason) => Err(reason),
    };
    outcome
        .map_err(|reason| {
            service.counters.refused.add(reason);
            record.end(reason, (0, 0));
        })
        .ok()
}

/// The client hears why its session ended, if there is something to say, and is closed. That may take a while; what
/// it held is free before.
async fn part(visit: Box<Visit>, left: Left) {
    let Left { client, parting, is_done } = left;
    let Visit { plumbing, record, slot, seat: _seat, mut tenancy, .. } = *visit;
    let service = slot.service().clone();
    drop((record, slot));
    // Of many that are cut at once, all servers are let go before the first goodbye.
    if parting.is_some() {
        tokio::task::yield_now().await;
    }
    let told = parting.filter(|parting| tell_at_once(&client, &parting.words(&service.name)));
    if let Some(parting) = &told {
        service.counters.told.add(parting.sqlstate());
    }
    if is_done && told.is_none() && !tenancy.is_outdated() && tenancy.leaving().is_none() {
        // Its last byte was read, so that a close is as polite as can be.
        return drop(client);
    }
    close_client(client, told.is_some(), &mut tenancy, &plumbing.registry.premises).await;
}

/// Closes the client's socket: on an address that leaves within the time there is, else when the client has had
/// time to read what it was told.
async fn close_client(client: TcpStream, was_told: bool, tenancy: &mut Tenancy, premises: &Premises) {
    let socket = client.as_raw_fd();
    if was_told {
        tokio::select! {
            biased;
            () = tenancy.ends(premises, socket) => {}
            () = await_goodbye(&client) => return,
        }
    } else {
        tenancy.look(socket);
    }
    match tenancy.leaving() {
        Some(leaving) => leaving.see_off(&client).await,
        None => close_politely(client),
    }
}

/// What a session leaves behind: its client, to be told if there is something to tell.
struct Left {
    client: TcpStream,
    parting: Option<Parting>,
    /// The client has said all.
    is_done: bool,
}

/// Ends the server's side and the session.
fn close_server(visit: &mut Visit, session: Session, ended: Ended) -> Left {
    let Visit { plumbing, slot, record, .. } = visit;
    let service = slot.service();
    let Session { client, server, mut guard, conversation, .. } = session;
    let Ended { how, can_be_told, client_is_done } = ended;
    let reason = match &how {
        End::ClientClosed => Reason::ClientClosed,
        End::ServerClosed => Reason::ServerClosed,
        End::Cut(reason) | End::Drained(reason) => *reason,
        End::ClientError(_) => Reason::ClientError,
        End::ServerError(error) => {
            if error.kind() == io::ErrorKind::ConnectionReset {
                let (member, generation) = (&guard.target().member, guard.generation());
                service.counters.add_suspicion(Suspicion::ServerReset);
                plumbing.suspects.report(member, Suspicion::ServerReset, generation);
            }
            Reason::ServerError
        }
    };
    let is_over = matches!(how, End::ClientClosed | End::ClientError(_));
    let parting = (can_be_told && !is_over).then(|| {
        let (standing, member) = (conversation.standing(), guard.target().member.clone());
        Parting { reason, standing, member }
    });
    match how {
        // A COMMIT that waits in the socket must not reach a server that was taken away; a FIN would
        // still deliver it. A shutdown of the router takes no server away.
        End::Cut(reason) if reason != Reason::Shutdown => {
            reset_on_close(&server);
            drop(server);
        }
        End::Drained(_) => close_politely(server),
        _ => drop(server),
    }
    let bytes = guard.bytes();
    guard.finish(reason);
    drop(guard);
    record.end(reason, bytes);
    Left { client, parting, is_done: client_is_done }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The allocator's size classes make steps of it: 160 bytes, and 192.
    #[test]
    fn a_visit_is_as_small_as_said() {
        assert!(size_of::<Visit>() <= 160, "{}", size_of::<Visit>());
    }
}
