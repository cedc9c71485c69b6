//! The loop of one Patroni cluster: the only owner of its router machine.
//!
//! Each turn carries out the pending effects in order, publishes a snapshot, arms the timer, takes one
//! event from the timer or the mailboxes, and hands it to the machine.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;

use crate::decide::{Effect, Event, Memory, Report, Router, Snapshot};
use crate::model::{ApiAddress, CheckOutcome, CheckSpec, ClusterSpec, HostPort, MemberName, PortOutcome, ProbeOutcome};
use crate::proxy::{Plane, Prepared};
use crate::runtime::vips::{Here, Seat};
use crate::runtime::{clock, log};
use crate::{dcs, probe};

/// Events that may wait for the machine. Views supersede each other, probes are asked again, and
/// suspicions are deduplicated, so one that finds no place is not missed.
pub const MAILBOX_MAX: usize = 4096;
/// Finished probes and checks of members that are gone are forgotten beyond this.
const QUESTIONS_TRACKED_MAX: usize = 256;
/// Events handled between two looks at the timer, so that a flood cannot starve deadlines.
const EVENTS_PER_TURN_MAX: usize = 64;

/// Of each, one member has at most one under way.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Question {
    Probe(MemberName),
    Check(MemberName, Arc<CheckSpec>),
}

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
    /// None: this cluster has no DCS.
    pub dcs: Option<Arc<dcs::etcd::Handle>>,
    pub api_tls: Option<Arc<rustls::ClientConfig>>,
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    pub memory: watch::Sender<Memory>,
    pub probes: HashMap<Question, AbortHandle>,
    /// The virtual addresses that follow this cluster.
    pub seats: Vec<Seat>,
    pub here: Arc<Here>,
}

/// What one cluster is from now on. Everything in it that can fail has been done.
pub struct Change {
    pub spec: Arc<ClusterSpec>,
    pub prepared: Prepared,
    pub hold_max: usize,
    pub dcs: Option<Arc<dcs::etcd::Handle>>,
    pub api_tls: Option<Arc<rustls::ClientConfig>>,
    pub seats: Vec<Seat>,
    /// Told when it holds.
    pub done: oneshot::Sender<()>,
}

impl Driver {
    /// Runs until the task is dropped.
    pub async fn run(mut self) {
        loop {
            self.carry_out();
            // After what was published and closed: whoever comes back by an address meets the new table.
            self.seats.iter().for_each(|seat| seat.tell(&self.router, &self.here, clock::now()));
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
        let Change { spec, prepared, hold_max, dcs, api_tls, seats, done } = change;
        self.plane.apply(prepared, hold_max);
        (self.dcs, self.api_tls, self.seats) = (dcs, api_tls, seats);
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
            Effect::Check { member, number, check, address, connect_limit } => {
                self.check(member, number, check, address, connect_limit);
            }
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
            | Effect::DrainSessions { .. }
            | Effect::ForgetAddress { .. } => {}
        }
    }

    fn probe(&mut self, member: MemberName, number: u64, address: ApiAddress, limit: Duration) {
        let (plane, sender, tls) = (self.plane.clone(), self.sender.clone(), self.api_tls.clone());
        let asked = member.clone();
        let task = tokio::spawn(async move {
            let outcome = ask_rest(&plane, &address, tls.as_ref(), limit).await;
            // The mailbox is full or gone: the machine asks again.
            let _ = sender.try_send(Event::ProbeDone { member: asked, number, outcome });
        });
        track(&mut self.probes, Question::Probe(member), task.abort_handle());
    }

    fn check(
        &mut self,
        member: MemberName,
        number: u64,
        check: Arc<CheckSpec>,
        address: ApiAddress,
        connect_limit: Duration,
    ) {
        let (plane, sender, tls) = (self.plane.clone(), self.sender.clone(), self.api_tls.clone());
        let (asked, spec) = (member.clone(), check.clone());
        let task = tokio::spawn(async move {
            let outcome = ask_check(&plane, address, tls.as_ref(), &spec, connect_limit).await;
            // A mailbox that is full now has room when the verdict is still wanted.
            let _ = sender.send(Event::CheckDone { member: asked, number, outcome }).await;
        });
        track(&mut self.probes, Question::Check(member, check), task.abort_handle());
    }

    fn probe_port(&mut self, member: MemberName, number: u64, address: HostPort, limit: Duration) {
        let (plane, sender) = (self.plane.clone(), self.sender.clone());
        tokio::spawn(async move {
            let outcome = ask_port(&plane, &address, limit).await;
            let _ = sender.try_send(Event::PortProbeDone { member, number, outcome });
        });
    }
}

/// A newer question of the same kind to the same member replaces an older one.
fn track(questions: &mut HashMap<Question, AbortHandle>, question: Question, task: AbortHandle) {
    if let Some(older) = questions.insert(question, task) {
        older.abort();
    }
    if questions.len() > QUESTIONS_TRACKED_MAX {
        questions.retain(|_, task| !task.is_finished());
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
        Err(error) => return ProbeOutcome::Unreachable(format!("{}: {error}", address.at.host)),
    };
    let left = limit.saturating_sub(clock::now().saturating_duration_since(started));
    let tls = if address.tls { tls } else { None };
    let outcome = probe::rest::rest(socket, &address.at.host, tls, left).await;
    if matches!(outcome, ProbeOutcome::Refused | ProbeOutcome::TimedOut | ProbeOutcome::Unreachable(_)) {
        plane.connector().forget(&address.at.host);
    }
    outcome
}

async fn ask_check(
    plane: &Plane,
    mut address: ApiAddress,
    tls: Option<&Arc<rustls::ClientConfig>>,
    check: &CheckSpec,
    connect_limit: Duration,
) -> CheckOutcome {
    let started = clock::now();
    let tls = match (address.tls, tls) {
        (false, _) => None,
        (true, Some(config)) => Some(config),
        (true, None) => return probe::check::without_roots(),
    };
    address.at.port = check.port.unwrap_or(address.at.port);
    let host = &address.at.host;
    let socket = match resolve(plane, &address.at, connect_limit).await {
        Ok(socket) => socket,
        Err(error) => {
            let took = clock::now().saturating_duration_since(started);
            return probe::check::unresolved(host, &error, took);
        }
    };
    let outcome = probe::check::check(socket, host, tls, check, connect_limit).await;
    if outcome.code.is_none() {
        plane.connector().forget(host);
    }
    outcome
}

async fn ask_port(plane: &Plane, address: &HostPort, limit: Duration) -> PortOutcome {
    match resolve(plane, address, limit).await {
        Ok(socket) => probe::pgsql::port(socket, limit).await,
        Err(error) => PortOutcome::Unreachable(format!("{}: {error}", address.host)),
    }
}

async fn resolve(plane: &Plane, to: &HostPort, limit: Duration) -> io::Result<SocketAddr> {
    match tokio::time::timeout(limit, plane.connector().addresses(to)).await {
        Ok(addresses) => {
            let first = addresses?.first().copied();
            let ip = first.ok_or_else(|| io::Error::other("the name has no address"))?;
            Ok(SocketAddr::new(ip, to.port))
        }
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the name lookup took too long")),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::model::{CheckStatus, Role, ServiceSpec};
    use crate::proxy::Crew;

    const AMPLE: Duration = Duration::from_secs(10);

    fn spec(path: &str) -> CheckSpec {
        CheckSpec { path: path.into(), ..ServiceSpec::new("primary", Role::Primary).check_of(Role::Primary) }
    }

    fn plane() -> Plane {
        Plane::start(Crew::here(), "pg".into(), &[], mpsc::channel(1).0, 1).unwrap()
    }

    #[tokio::test]
    async fn a_check_goes_to_its_own_port_where_it_has_one() {
        let (listener, closed) =
            (TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap());
        let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
        let address = ApiAddress { tls: false, at: HostPort::new("127.0.0.1", port(&closed)) };
        let check = CheckSpec { port: Some(port(&listener)), ..spec("/primary") };
        drop(closed);
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            // Closed with the request unread would be a reset.
            assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
            stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n").await.unwrap();
        };
        let plane = plane();
        let (outcome, ()) = tokio::join!(ask_check(&plane, address, None, &check, AMPLE), server);
        assert_eq!(outcome.status, CheckStatus::L7Ok, "{outcome:?}");
    }

    #[tokio::test]
    async fn a_name_that_leads_nowhere_and_an_https_nobody_vouches_for_fail_in_words() {
        let plane = plane();
        let address = |tls| ApiAddress { tls, at: HostPort::new("nowhere.invalid", 8008) };
        let unknown = ask_check(&plane, address(false), None, &spec("/"), AMPLE).await;
        assert_eq!(unknown.status, CheckStatus::L4Con);
        assert!(unknown.problem.starts_with("nowhere.invalid: "), "{}", unknown.problem);
        let unvouched = ask_check(&plane, address(true), None, &spec("/"), AMPLE).await;
        assert_eq!(unvouched.status, CheckStatus::L6Rsp);
        assert!(unvouched.problem.contains("patroni.tls"), "{}", unvouched.problem);
    }

    #[tokio::test]
    async fn a_newer_check_replaces_its_older_self_and_no_other() {
        let mut questions = HashMap::new();
        let mut ask = |path: &str, member: &str| {
            let task = tokio::spawn(std::future::pending::<()>());
            track(&mut questions, Question::Check(member.into(), Arc::new(spec(path))), task.abort_handle());
            task
        };
        let [first, other_path, other_member] = [ask("/primary", "n1"), ask("/replica", "n1"), ask("/primary", "n2")];
        let _second = ask("/primary", "n1");
        assert!(first.await.unwrap_err().is_cancelled());
        assert!(!other_path.is_finished() && !other_member.is_finished());
        for member in 0..2 * QUESTIONS_TRACKED_MAX {
            let task = tokio::spawn(std::future::ready(()));
            let handle = task.abort_handle();
            task.await.unwrap();
            track(&mut questions, Question::Probe(format!("m{member}").into()), handle);
        }
        assert!(questions.len() <= QUESTIONS_TRACKED_MAX);
    }
}
