//! The loop of one Patroni cluster: the only owner of its router machine.
//!
//! Each turn carries out the pending effects in order, publishes a snapshot, arms the timer, takes one
//! event from the timer or the mailboxes, and hands it to the machine.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::runtime;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;

use crate::decide::{Effect, Event, Memory, Report, Router, Snapshot};
use crate::model::{ApiAddress, ClusterSpec, HostPort, MemberName, PortOutcome, ProbeOutcome};
use crate::proxy::{Plane, Prepared};
use crate::runtime::{clock, log};
use crate::{dcs, probe};

/// Events that may wait for the machine. Views supersede each other, probes are asked again, and
/// suspicions are deduplicated, so one that finds no place is not missed.
pub const MAILBOX_MAX: usize = 4096;
/// Finished probes of members that are gone are forgotten beyond this.
const PROBES_TRACKED_MAX: usize = 256;
/// Events handled between two looks at the timer, so that a flood cannot starve deadlines.
const EVENTS_PER_TURN_MAX: usize = 64;

/// What the loop acts through.
pub struct Driver {
    pub router: Router,
    pub mailbox: mpsc::Receiver<Event>,
    /// For probes to answer into.
    pub sender: mpsc::Sender<Event>,
    /// What clients saw of members.
    pub reports: mpsc::Receiver<Report>,
    /// What a reload brings; answered one by one.
    pub changes: mpsc::Receiver<Change>,
    pub plane: Arc<Plane>,
    /// Where the plane's tasks run.
    pub data: runtime::Handle,
    /// None: this cluster has no DCS.
    pub dcs: Option<Arc<dcs::etcd::Handle>>,
    pub api_tls: Option<Arc<rustls::ClientConfig>>,
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    pub memory: watch::Sender<Memory>,
    pub probes: HashMap<MemberName, AbortHandle>,
}

/// What one cluster is from now on. Everything in it that can fail has been done.
pub struct Change {
    pub spec: Arc<ClusterSpec>,
    pub prepared: Prepared,
    pub hold_max: usize,
    pub dcs: Option<Arc<dcs::etcd::Handle>>,
    pub api_tls: Option<Arc<rustls::ClientConfig>>,
    /// Told when it holds.
    pub done: oneshot::Sender<()>,
}

impl Driver {
    /// Runs until the task is dropped.
    pub async fn run(mut self) {
        loop {
            self.carry_out();
            self.snapshot.store(Arc::new(self.router.snapshot()));
            let timer = self.router.poll_timeout().map(|(at, _)| at);
            tokio::select! {
                biased;
                Some(change) = self.changes.recv() => self.change(change),
                () = sleep_until(timer) => self.router.handle_timeout(clock::now()),
                Some(report) = self.reports.recv() => self.router.handle(report.into(), clock::now()),
                event = self.mailbox.recv() => match event {
                    Some(event) => self.take(event),
                    None => return,
                },
            }
        }
    }

    fn take(&mut self, first: Event) {
        self.router.handle(first, clock::now());
        for _ in 1..EVENTS_PER_TURN_MAX {
            self.carry_out();
            match self.mailbox.try_recv() {
                Ok(event) => self.router.handle(event, clock::now()),
                Err(_) => return,
            }
        }
    }

    /// The plane comes first, then the table, in one turn of this loop.
    ///
    /// The plane lets clients of a service wait whom its table does not know, so a new service's clients
    /// wait for the moment between the two as they do at the start. The other way round, the table would
    /// lose a removed service while its listener still accepts, and its clients would be told that holding
    /// is off instead of what happened. Sessions of a removed service stay in the registry's groups, which
    /// a table does not own: whatever the machine closes for their member closes them, too.
    fn change(&mut self, change: Change) {
        let Change { spec, prepared, hold_max, dcs, api_tls, done } = change;
        {
            let _on_data_plane = self.data.enter();
            self.plane.apply(prepared, hold_max);
        }
        (self.dcs, self.api_tls) = (dcs, api_tls);
        if spec != *self.router.spec() {
            self.router.handle(Event::Spec(spec), clock::now());
            self.carry_out();
        }
        // A reload that no longer waits was overtaken by the end of the process.
        let _ended = done.send(());
    }

    fn carry_out(&mut self) {
        while let Some(effect) = self.router.poll_effect() {
            self.execute(effect);
        }
    }

    fn execute(&mut self, effect: Effect) {
        if self.plane.execute(&effect) {
            return;
        }
        match effect {
            Effect::Probe { member, number, address, limit } => self.probe(member, number, address, limit),
            Effect::ProbePort { member, number, address, limit } => self.probe_port(member, number, address, limit),
            Effect::Check { .. } => {}
            Effect::ReadNow => {
                if let Some(dcs) = &self.dcs {
                    dcs.read_now();
                }
            }
            Effect::Remember(memory) => {
                self.memory.send_replace(memory);
            }
            Effect::Log(transition) => log::transition(&self.router.spec().name, &transition),
            // Carried out by the data plane above.
            Effect::PublishRoutes(_)
            | Effect::Confirm { .. }
            | Effect::CloseSessions { .. }
            | Effect::ForgetAddress { .. } => {}
        }
    }

    /// A newer probe of the same member replaces an older one.
    fn probe(&mut self, member: MemberName, number: u64, address: ApiAddress, limit: Duration) {
        let (plane, sender, tls) = (self.plane.clone(), self.sender.clone(), self.api_tls.clone());
        let asked = member.clone();
        let task = tokio::spawn(async move {
            let outcome = ask_rest(&plane, &address, tls.as_ref(), limit).await;
            // The mailbox is full or gone: the machine asks again.
            let _ = sender.try_send(Event::ProbeDone { member: asked, number, outcome });
        });
        if let Some(older) = self.probes.insert(member, task.abort_handle()) {
            older.abort();
        }
        if self.probes.len() > PROBES_TRACKED_MAX {
            self.probes.retain(|_, task| !task.is_finished());
        }
    }

    fn probe_port(&mut self, member: MemberName, number: u64, address: HostPort, limit: Duration) {
        let (plane, sender) = (self.plane.clone(), self.sender.clone());
        tokio::spawn(async move {
            let outcome = ask_port(&plane, &address, limit).await;
            let _ = sender.try_send(Event::PortProbeDone { member, number, outcome });
        });
    }
}

async fn sleep_until(at: Option<std::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(tokio::time::Instant::from_std(at)).await,
        None => std::future::pending().await,
    }
}

async fn ask_rest(
    plane: &Plane,
    address: &ApiAddress,
    tls: Option<&Arc<rustls::ClientConfig>>,
    limit: Duration,
) -> ProbeOutcome {
    let started = clock::now();
    let socket = match resolve(plane, &address.at, limit).await {
        Ok(socket) => socket,
        Err(problem) => return ProbeOutcome::Unreachable(problem),
    };
    let left = limit.saturating_sub(clock::now().saturating_duration_since(started));
    let tls = if address.tls { tls } else { None };
    let outcome = probe::rest::rest(socket, &address.at.host, tls, left).await;
    if matches!(outcome, ProbeOutcome::Refused | ProbeOutcome::TimedOut | ProbeOutcome::Unreachable(_)) {
        plane.connector().forget(&address.at.host);
    }
    outcome
}

async fn ask_port(plane: &Plane, address: &HostPort, limit: Duration) -> PortOutcome {
    match resolve(plane, address, limit).await {
        Ok(socket) => probe::pgsql::port(socket, limit).await,
        Err(problem) => PortOutcome::Unreachable(problem),
    }
}

async fn resolve(plane: &Plane, to: &HostPort, limit: Duration) -> Result<SocketAddr, String> {
    match tokio::time::timeout(limit, plane.connector().addresses(to)).await {
        Ok(Ok(addresses)) => {
            let first = addresses.first().ok_or_else(|| format!("{} has no address", to.host))?;
            Ok(SocketAddr::new(*first, to.port))
        }
        Ok(Err(error)) => Err(format!("{}: {error}", to.host)),
        Err(_) => Err(format!("{}: the name lookup took too long", to.host)),
    }
}
