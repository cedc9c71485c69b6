//! From a client's first byte to a server's first answer.
//!
//! **Nothing reaches the client before its server has answered**, so a server that turns out to be
//! down, starting or closing costs the client time and not its connection: it goes back to its place
//! in the queue, and its packet is sent to the next target.

mod answer;
mod departure;
mod refusal;
mod stranger;

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::decide::balance::client_hash;
use crate::decide::{Suspicion, Target};
use crate::model::{Reason, Role, ServiceSpec};
use crate::runtime::clock;

use super::cancel;
use super::client::{Client, NO, NoRequest, Request};
use super::connect::{ConnectError, Connected};
use super::connection::Plumbing;
use super::hold::{Admission, Crowd, Grant, Patience, Permit, Place, RETRY_PAUSE, TargetSlot, Ticket, Verdict};
use super::premises::Tenancy;
use super::protocol::conversation::Conversation;
use super::protocol::startup::Kind;
use super::relay::{Early, Session};
use super::session_log::{Record, Stage};
use super::sessions::{Service, SessionGuard};
use super::timers::{sleep_until, timeout, timeout_at};

use answer::{Answer, exchange};
use refusal::{Refusal, Unserved};
use stranger::Unheard;

/// For the StartupMessage of a client that is to be told why it cannot be served.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two attempts at one target, or `connect_timeout` where that is shorter.
const RECONNECT_PAUSE_MAX: Duration = Duration::from_secs(1);
/// For the first packet of a client that had connected just before the router began to stop.
const STOPPING_TIMEOUT: Duration = Duration::from_secs(1);

/// A server that has not answered yet. The permit lets the next held client go once it has.
struct Server {
    connected: Connected,
    guard: SessionGuard,
    slot: TargetSlot,
    permit: Option<Permit>,
}

pub struct Handshake<'a> {
    plumbing: &'a Plumbing,
    service: &'a Arc<Service>,
    /// As it was when the client came.
    spec: Arc<ServiceSpec>,
    record: &'a mut Record,
    /// What `balance: source` knows the client by: its address, whatever its port.
    source: u64,
    client: Client,
    ticket: Ticket,
    /// What it was held for at first.
    held_for: Option<Reason>,
    /// The last thing that went wrong with a target.
    failure: Option<Suspicion>,
    connects_failed: u32,
    /// A packet of the client that has no answer yet.
    asked: Option<Kind>,
    /// Why it is not served.
    was_told: bool,
}

impl<'a> Handshake<'a> {
    pub fn new(plumbing: &'a Plumbing, service: &'a Arc<Service>, client: Client, record: &'a mut Record) -> Self {
        let source = client_hash(&record.peer().hash_bytes());
        let (ticket, spec) = (Ticket::new(clock::now(), source), service.spec());
        let (held_for, failure, connects_failed, asked, was_told) = (None, None, 0, None, false);
        Handshake {
            plumbing,
            service,
            spec,
            record,
            source,
            client,
            ticket,
            held_for,
            failure,
            connects_failed,
            asked,
            was_told,
        }
    }

    /// Err is why the client ended without a session; it has been told what could be told.
    pub(super) async fn run(mut self, tenancy: &mut Tenancy) -> Result<Box<Session>, Reason> {
        let (premises, socket) = (&self.plumbing.registry.premises, self.client.stream.as_raw_fd());
        // In this order: on an address that leaves no server is asked any more.
        let served = tokio::select! {
            biased;
            () = tenancy.ends_or_aborts(premises, socket) => None,
            served = self.converse() => Some(served?),
        };
        match (served, tenancy.leaving()) {
            (Some((server, asked, answer)), _) => Ok(self.established(server, asked, answer)),
            (None, Some(leaving)) => Err(self.leave(leaving).await),
            (None, None) => Err(Reason::Shutdown),
        }
    }

    /// The server that has answered, what it was asked, and its answer.
    async fn converse(&mut self) -> Result<(Server, Kind, Vec<u8>), Reason> {
        let mut server = None;
        let is_limited = self.comes_too_often();
        let mut request = match self.first_request(is_limited).await {
            Ok(request) => request,
            Err(unheard) => return Err(self.turn_away(unheard).await),
        };
        self.ticket = Ticket::new(clock::now(), self.source);
        if is_limited {
            let refusal = Refusal::of_address(self.record.peer(), self.ticket.arrived());
            return Err(self.refuse(request, refusal).await);
        }
        loop {
            if request.kind == Kind::Cancel {
                drop(server);
                return Err(self.cancel(&request).await);
            }
            let mut reached = match server.take() {
                Some(server) => server,
                None => match self.reach().await {
                    Ok(server) => server,
                    Err(Unserved::Gone(reason)) => return Err(reason),
                    Err(Unserved::Refused(refusal)) => return Err(self.refuse(request, refusal).await),
                },
            };
            let answer = self.ask(&mut reached, &request).await?;
            match reached.guard.fence().reason().map_or(answer, Answer::Fenced) {
                Answer::Relay(bytes) => return Ok((reached, request.kind, bytes)),
                Answer::No => {
                    reached.permit = None;
                    self.deny().await?;
                    self.ticket.answered();
                    self.record.enter(Stage::Request);
                    request = match self.next_request(&mut server, reached).await {
                        Ok(request) => request,
                        Err(unheard) => return Err(self.turn_away(unheard).await),
                    };
                }
                Answer::Fenced(reason) => self.abandon(reached, reason),
                Answer::Suspect(suspicion) => {
                    let (target, generation) = (reached.guard.target().clone(), reached.guard.generation());
                    self.abandon(reached, suspicion.reason());
                    self.failed(&target, generation, suspicion);
                }
            }
        }
    }

    fn spec(&self) -> &ServiceSpec {
        &self.spec
    }

    /// Every connection counts, those with cancel requests, too.
    fn comes_too_often(&self) -> bool {
        let max = self.spec().rate.per_client_max;
        max > 0 && !self.service.connects.admits(&self.record.peer(), max, clock::now())
    }

    /// A client that sends nothing holds nothing but its socket, and that not for long.
    async fn first_request(&mut self, is_limited: bool) -> Result<Request, Unheard> {
        let limit = self.spec().startup_timeout;
        let limit = if is_limited { limit.min(REFUSAL_TIMEOUT) } else { limit };
        let plumbing = self.plumbing;
        let stopping = async {
            plumbing.stopping.cancelled().await;
            let until = Instant::from_std(clock::now() + STOPPING_TIMEOUT);
            sleep_until(until).await;
        };
        let outcome = tokio::select! {
            biased;
            outcome = timeout(limit, self.hear()) => outcome,
            () = stopping => return Err(Unheard::Ended(Reason::Shutdown)),
        };
        Ok(outcome.map_err(|_| Reason::StartupTimedOut)??)
    }

    /// The packet after an 'N'. Meanwhile the server may go away, which costs nothing: the packet
    /// then goes to another.
    async fn next_request(&mut self, server: &mut Option<Server>, reached: Server) -> Result<Request, Unheard> {
        let until = Instant::from_std(clock::now() + self.spec().startup_timeout);
        *server = Some(reached);
        let outcome = loop {
            let Some(kept) = server.as_ref() else {
                break timeout_at(until, self.hear()).await;
            };
            let fence = kept.guard.fence().clone();
            let mut byte = [0];
            tokio::select! {
                biased;
                outcome = timeout_at(until, self.hear()) => break outcome,
                // It has nothing to say now but goodbye.
                _ = kept.connected.stream.peek(&mut byte) => {}
                _ = fence.closed() => {}
            }
            if let Some(mut lost) = server.take() {
                lost.guard.finish(Reason::ServerClosed);
            }
        };
        if let Some(kept) = server
            && !kept.guard.may_start()
        {
            kept.guard.finish(Reason::Unconfirmed);
            *server = None;
        }
        Ok(outcome.map_err(|_| Reason::StartupTimedOut)??)
    }

    /// A connected server with a session opened on it.
    async fn reach(&mut self) -> Result<Server, Unserved> {
        loop {
            let grant = self.grant().await?;
            let Grant { target, generation, permit, slot } = grant;
            let (spec, suspects) = (self.spec.clone(), &self.plumbing.suspects);
            self.record.connects_to(&target);
            let outcome = tokio::select! {
                biased;
                outcome = self.plumbing.connector.connect(&target.address, spec.connect_timeout, &spec.tcp) => outcome,
                // A host that died swallows connects; nobody waits for it once there is another.
                () = self.plumbing.registry.withdrawn(self.service, &target, generation) => continue,
                reason = self.client.gone() => return Err(Unserved::Gone(reason)),
            };
            let connected = match outcome {
                Ok(connected) => {
                    suspects.connected(&spec.name, &target.member);
                    connected
                }
                Err(ConnectError::Member(suspicion)) => {
                    suspects.connect_failed(&spec.name, &target.member, spec.check.observe.error_limit);
                    self.failed(&target, generation, suspicion);
                    continue;
                }
                Err(ConnectError::Local) => return Err(Unserved::local(clock::now())),
            };
            // Stale: the table has changed since, and the next grant comes from the new one.
            if let Ok(guard) = self.plumbing.registry.open(self.service, &target, generation) {
                self.record.enter(Stage::Answer);
                return Ok(Server { connected, guard, slot, permit: Some(permit) });
            }
        }
    }

    async fn grant(&mut self) -> Result<Grant, Unserved> {
        self.record.enter(Stage::Queue);
        loop {
            if self.service.is_removed() {
                return Err(self.refusal(Reason::ServiceRemoved, None));
            }
            // `retries: 3` is four attempts, as in HAProxy. Those on the writer of a cluster wait for its
            // proof instead of being counted.
            if self.connects_failed > self.spec().retries {
                return Err(self.refusal(Reason::RetriesExhausted, None));
            }
            let verdict = match self.plumbing.registry.admit(self.service, &mut self.ticket) {
                Admission::Now(verdict) => verdict,
                Admission::Wait(place) => self.hold(place).await?,
                Admission::Refused { why, crowd } => return Err(self.refusal(why, crowd)),
            };
            match verdict {
                Verdict::Go(grant) => return Ok(grant),
                Verdict::Exhausted => self.exhausted().await?,
            }
        }
    }

    /// Every target failed this client. Servers that start or stop are worth a wait; of one that cannot be
    /// reached another attempt follows after HAProxy's pause (src/backend.c, `back_handle_st_cer`), or as
    /// soon as there is another target.
    async fn exhausted(&mut self) -> Result<(), Unserved> {
        if self.failure.is_some_and(is_startup) {
            self.ticket.tried.clear();
            self.ticket.failed_in = Some(self.plumbing.registry.generation());
            return Ok(());
        }
        let until = Instant::from_std(clock::now() + RECONNECT_PAUSE_MAX.min(self.spec().connect_timeout));
        tokio::select! {
            biased;
            reason = self.client.gone() => return Err(Unserved::Gone(reason)),
            () = self.plumbing.stopping.cancelled() => return Err(self.refusal(Reason::Shutdown, None)),
            untried = self.plumbing.registry.offers_other(self.service, &self.ticket.tried) => {
                if untried {
                    return Ok(());
                }
            }
            () = sleep_until(until) => {}
        }
        self.ticket.tried.clear();
        Ok(())
    }

    async fn hold(&mut self, mut place: Place) -> Result<Verdict, Unserved> {
        let removal = self.service.removal();
        self.record.waits_behind(place.ahead);
        self.held_for.get_or_insert(self.waits_for().0);
        let mut forgive_at = self.ticket.failed_in.take().map(|_| Instant::from_std(clock::now() + RETRY_PAUSE));
        loop {
            let until = match place.patience() {
                Patience::Until(until) => Some(Instant::from_std(until)),
                Patience::Called => None,
                Patience::Over { why, crowd } => return Err(self.refusal(why, crowd)),
            };
            let next = until.into_iter().chain(forgive_at).min();
            tokio::select! {
                biased;
                verdict = &mut place.verdict => return verdict.map_err(|_| self.refusal(Reason::Shutdown, None)),
                reason = self.client.gone() => return Err(Unserved::Gone(reason)),
                () = removal.cancelled() => return Err(self.refusal(Reason::ServiceRemoved, None)),
                () = self.plumbing.stopping.cancelled() => return Err(self.refusal(Reason::Shutdown, None)),
                () = sleep_until(next.unwrap_or_else(|| Instant::from_std(clock::now()))), if next.is_some() => {}
            }
            if forgive_at.is_some_and(|at| at <= Instant::from_std(clock::now())) {
                forgive_at = None;
                place.forgive();
            }
        }
    }

    /// What this client waited for in vain, as known now.
    fn refusal(&self, why: Reason, crowd: Option<Crowd>) -> Unserved {
        let (reason, since) = self.waits_for();
        Unserved::Refused(Refusal { why, crowd, reason, since, address: None })
    }

    /// Why there is no target for this client, and since when.
    fn waits_for(&self) -> (Reason, std::time::Instant) {
        let routes = self.plumbing.registry.routes();
        let wait = routes.service(&self.spec().name).and_then(|routes| routes.wait);
        let failure = self.failure.map(|suspicion| (suspicion.reason(), self.ticket.arrived()));
        wait.or(failure).unwrap_or((Reason::Unconfirmed, self.ticket.arrived()))
    }

    /// Sends one packet and waits for the first answer to it. Err: the client has gone.
    async fn ask(&mut self, server: &mut Server, request: &Request) -> Result<Answer, Reason> {
        let limit = self.spec().startup_timeout;
        let fence = server.guard.fence().clone();
        // An answer that comes when the fence is closed is looked at by the caller.
        tokio::select! {
            biased;
            answer = timeout(limit, exchange(&mut server.connected.stream, request)) => Ok(match answer {
                Ok(Ok(answer)) => answer,
                // A server without direct TLS hangs up on it; that is its answer.
                Ok(Err(_)) if request.kind == Kind::DirectTls => Answer::Relay(Vec::new()),
                Ok(Err(_)) => Answer::Suspect(Suspicion::StartupEof),
                Err(_) => Answer::Suspect(Suspicion::ConnectTimedOut),
            }),
            reason = fence.closed() => Ok(Answer::Fenced(reason)),
            reason = self.client.gone() => {
                server.guard.finish(reason);
                Err(reason)
            }
        }
    }

    fn established(self, server: Server, asked: Kind, to_client: Vec<u8>) -> Box<Session> {
        let is_readable = asked == Kind::Startup;
        let conversation = if is_readable { Conversation::plaintext() } else { Conversation::encrypted() };
        let notice = if is_readable { self.hold_notice() } else { None };
        let user_timeout = self.spec().tcp.user_timeout;
        let (client, to_server) = self.client.into_parts();
        let Server { connected, mut guard, slot, permit } = server;
        drop(permit);
        guard.answered();
        let early = Early { to_client, to_server, notice };
        Box::new(Session::new(client, connected, guard, conversation, slot, early, user_timeout))
    }

    /// A client that did not get its server at once may be told why.
    fn hold_notice(&self) -> Option<Box<[u8]>> {
        let waited = self.ticket.held(clock::now())?;
        let is_long = self.spec().hold_notice.is_some_and(|least| waited >= least);
        is_long.then(|| refusal::waited(self.spec(), self.held_for.unwrap_or(Reason::Unconfirmed), waited))
    }

    /// Nothing of this server has reached the client: it can be served by another.
    fn abandon(&self, server: Server, reason: Reason) {
        let Server { connected, mut guard, slot, permit } = server;
        super::connect::reset_on_close(&connected.stream);
        drop(connected);
        guard.finish(reason);
        drop((guard, slot, permit));
        self.service.counters.replays_total.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }

    fn failed(&mut self, target: &Target, generation: u64, suspicion: Suspicion) {
        self.service.counters.add_suspicion(suspicion);
        self.plumbing.registry.count_failed_connect(self.service, &target.member);
        self.record.failed(suspicion);
        self.plumbing.suspects.report(&target.member, suspicion, generation);
        self.failure = Some(suspicion);
        // Where readers serve as well as the primary, they are tried; a writer waits for its proof.
        if target.needs_confirmation && target.role == Role::Primary {
            self.ticket.failed_in = Some(generation);
        } else {
            self.connects_failed += u32::from(!is_startup(suspicion));
            self.ticket.tried.push(target.member.clone());
        }
    }

    /// Its socket is open until this returns.
    async fn cancel(&self, request: &Request) -> Reason {
        cancel::forward(self.plumbing, self.service, self.record.peer(), &request.bytes).await
    }

    /// Says no in the client's protocol. Before it has been told whether there is encryption it would
    /// not understand, so it is told that there is none first.
    async fn refuse(&mut self, mut request: Request, refusal: Refusal) -> Reason {
        let until = Instant::from_std(clock::now() + REFUSAL_TIMEOUT);
        loop {
            match request.kind {
                Kind::DirectTls => return refusal.why,
                Kind::Startup => break,
                Kind::Cancel => return self.cancel(&request).await,
                Kind::Ssl | Kind::GssEnc => {}
            }
            if self.deny().await.is_err() {
                return refusal.why;
            }
            request = match timeout_at(until, self.hear()).await {
                Ok(Ok(request)) => request,
                Ok(Err(_)) | Err(_) => return refusal.why,
            };
        }
        let words = refusal.words(self.spec(), self.ticket.arrived());
        self.service.counters.told.add(refusal.sqlstate());
        self.was_told = true;
        self.client.tell_and_wait(&words).await;
        refusal.why
    }

    /// The client's next packet. Cancelling it loses nothing.
    async fn hear(&mut self) -> Result<Request, NoRequest> {
        let request = self.client.next_request().await?;
        self.asked = Some(request.kind);
        Ok(request)
    }

    /// There is no encryption.
    async fn deny(&mut self) -> Result<(), Reason> {
        self.client.tell(NO).await?;
        self.asked = None;
        Ok(())
    }
}

/// It took the connect, and is starting or stopping.
fn is_startup(suspicion: Suspicion) -> bool {
    matches!(suspicion, Suspicion::StartupRejected | Suspicion::StartupEof)
}
