//! One client from accept to close, top to bottom.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::decide::Suspicion;
use crate::model::Reason;

use super::client::{await_goodbye, close_politely, tell_at_once};
use super::connect::{Connector, reset_on_close};
use super::handshake::{Established, Handshake};
use super::parting::Parting;
use super::peer::Peer;
use super::premises::{Premises, Tenancy};
use super::relay::{End, Ended, relay};
use super::service::Slot;
use super::session_log::Record;
use super::sessions::{Registry, Service};
use super::suspects::Suspects;

/// What all connections of one cluster share.
#[derive(Debug)]
pub struct Plumbing {
    pub registry: Arc<Registry>,
    pub connector: Connector,
    pub suspects: Suspects,
    /// No more waiting for a target.
    pub stopping: CancellationToken,
    /// Whoever has no session yet ends now; sessions are ended by their fences.
    pub abort: CancellationToken,
}

/// Serves one client until it ends. Never fails: whatever happens has a reason and is counted.
pub(super) async fn serve(plumbing: Arc<Plumbing>, slot: Slot, client: TcpStream, peer: Peer, mut tenancy: Tenancy) {
    let service = slot.service().clone();
    // Its line, written at the end, counts this client: the slot goes last.
    let mut record = Box::new(Record::new(plumbing.registry.routes().cluster.clone(), service.clone(), peer));
    // Boxed, so that a session does not carry the room its handshake needed.
    let outcome = Box::pin(handshake(&plumbing, &service, client, &mut record, &mut tenancy)).await;
    match outcome {
        Ok(mut established) => {
            record.relays(established.guard.counters());
            let ended = relay(&mut established, &mut tenancy).await;
            let (client, parting) = close_server(&plumbing, &service, *established, ended, &mut record);
            // The goodbye may take a while; what it held is free from now on.
            drop((record, slot));
            // Of many that are cut at once, all servers are let go before the first goodbye.
            tokio::task::yield_now().await;
            let told = parting.filter(|parting| tell_at_once(&client, &parting.words(&service.name)));
            if let Some(parting) = &told {
                service.counters.told.add(parting.sqlstate());
            }
            // Boxed for the same reason as the handshake.
            Box::pin(part(client, told.is_some(), &mut tenancy, &plumbing.registry.premises)).await;
        }
        Err(reason) => {
            service.counters.refused.add(reason);
            record.end(reason, (0, 0));
        }
    }
}

async fn handshake(
    plumbing: &Plumbing,
    service: &Arc<Service>,
    client: TcpStream,
    record: &mut Record,
    tenancy: &mut Tenancy,
) -> Result<Box<Established>, Reason> {
    tokio::select! {
        biased;
        () = plumbing.abort.cancelled() => Err(Reason::Shutdown),
        outcome = Handshake::new(plumbing, service, client, record).run(tenancy) => outcome.map(Box::new),
    }
}

/// Closes the client's socket: on an address that leaves within the time there is, else when the client has had
/// time to read what it was told.
async fn part(client: TcpStream, was_told: bool, tenancy: &mut Tenancy, premises: &Premises) {
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

/// Ends the server's side and the session; the client is left to be told, if there is something to tell.
fn close_server(
    plumbing: &Plumbing,
    service: &Service,
    established: Established,
    ended: Ended,
    record: &mut Record,
) -> (TcpStream, Option<Parting>) {
    let Established { client, server, mut guard, conversation, .. } = established;
    let Ended { how, can_be_told } = ended;
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
    record.end(reason, guard.bytes());
    guard.finish(reason);
    drop(guard);
    (client, parting)
}
