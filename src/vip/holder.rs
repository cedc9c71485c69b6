//! One task per address: the only owner of its machine, of its sockets and of what they tell.
//!
//! Each turn carries out the pending effects in order, publishes a snapshot, and takes one event from the
//! kernel, the segment, the rights, or the timer. Requests to the kernel are waited for, because what
//! follows rests on them; sessions and the DCS answer in tasks of their own.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};
use tokio::task;
use tokio::time::{sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::decide::vip::{ValidFor, Vip, VipEffect, VipEvent, VipSnapshot};
use crate::model::{Mac, MemberName, VipLink, VipRight, VipSpec};
use crate::runtime::clock;
use crate::sys::boottime;

use super::complaints::Complaints;
use super::netlink::{Change, KernelError, Netlink};
use super::packet::Segment;
use super::{Marks, Tenants, said, sockets};

/// Answers that may wait; each is the only one of its kind under way.
const ANSWERS_MAX: usize = 16;
/// Orders to write and delete the mark that may wait.
const MARK_ORDERS_MAX: usize = 16;
/// A Put that comes so long after it was decided rests on a right that may be over: we were stopped in between.
const PUT_LATE_MAX: Duration = Duration::from_millis(250);
/// Clocks that drift apart by more than that were stopped.
const SLEPT_MIN: Duration = Duration::from_millis(500);
/// Before a netlink connection or a socket that failed is opened anew.
const REOPEN_PAUSE: Duration = Duration::from_millis(200);
/// After the end: for the last mark to be deleted.
const MARKS_MAX: Duration = Duration::from_secs(3);
/// After it was told to end, for everything else.
const EXIT_MAX: Duration = Duration::from_secs(3);
/// For other programs' connections to be reset, while the address waits to be released.
const DESTROY_MAX: Duration = Duration::from_millis(500);
const DESTROY: &str = "cannot reset other programs' connections";

/// What a task is given.
pub struct Holding {
    pub specs: watch::Receiver<Arc<VipSpec>>,
    /// What marks call us.
    pub me: MemberName,
    pub rights: watch::Receiver<VipRight>,
    pub tenants: Arc<dyn Tenants>,
    pub marks: Arc<dyn Marks>,
    pub snapshot: Arc<ArcSwap<VipSnapshot>>,
}

/// What is known before the task has begun.
pub fn before_the_start(spec: &Arc<VipSpec>, me: &MemberName, now: Instant) -> VipSnapshot {
    Vip::new(spec.clone(), me.clone(), now).snapshot()
}

/// Holds the address while it is ours, until told to end; then lets it go as its `on_exit` says.
pub async fn hold(holding: Holding, exit: CancellationToken) {
    let Holding { specs, me, rights, tenants, marks, snapshot } = holding;
    let spec = specs.borrow().clone();
    let (answers, inbox) = mpsc::channel(ANSWERS_MAX);
    let (orders, worker) = mark_worker(spec.address.ip, marks, answers.clone());
    let mut holder = Holder {
        machine: Vip::new(spec.clone(), me, clock::now()),
        ip: spec.address.ip,
        spec,
        tenants,
        orders,
        answers,
        kernel: None,
        link: None,
        segment: None,
        slept: boottime::slept(),
        decided_at: clock::now(),
        snapshot,
        complaints: Complaints::default(),
    };
    holder.run(Ears { specs, rights, inbox }, exit).await;
    // Its orders end with it, and so does the worker once the last one is carried out.
    drop(holder);
    let _written = timeout(MARKS_MAX, worker).await;
}

/// What the holder listens to beside the kernel and the segment.
struct Ears {
    specs: watch::Receiver<Arc<VipSpec>>,
    rights: watch::Receiver<VipRight>,
    inbox: mpsc::Receiver<VipEvent>,
}

struct Kernel {
    netlink: Netlink,
    changes: mpsc::Receiver<Change>,
}

struct Holder {
    machine: Vip,
    ip: IpAddr,
    spec: Arc<VipSpec>,
    tenants: Arc<dyn Tenants>,
    orders: mpsc::Sender<MarkOrder>,
    answers: mpsc::Sender<VipEvent>,
    /// None: to be opened (again).
    kernel: Option<Kernel>,
    link: Option<VipLink>,
    segment: Option<(u32, Segment)>,
    slept: Duration,
    /// When the effects that are carried out were decided.
    decided_at: Instant,
    snapshot: Arc<ArcSwap<VipSnapshot>>,
    complaints: Complaints,
}

/// What a turn found.
enum Turn {
    Event(VipEvent),
    Kernel(Option<Change>),
    Segment(std::io::Result<Mac>),
    /// There was no way to listen on the interface; perhaps there is by now.
    Reopen,
    Timer,
    Exit,
}

impl Holder {
    async fn run(&mut self, mut ears: Ears, exit: CancellationToken) {
        self.open().await;
        let first = ears.rights.borrow_and_update().clone();
        self.handle(VipEvent::Right(first));
        let mut leaving = None;
        loop {
            self.carry_out().await;
            self.snapshot.store(Arc::new(self.machine.snapshot()));
            if leaving.is_some_and(|since: Instant| self.machine.is_done() || clock::now() >= since + EXIT_MAX) {
                return;
            }
            let turn = self.next(&mut ears, exit.clone(), leaving).await;
            self.notice_sleep();
            match turn {
                Turn::Event(event) => self.handle(event),
                Turn::Kernel(change) => self.on_change(change).await,
                Turn::Segment(Ok(mac)) => self.handle(VipEvent::Heard { mac }),
                Turn::Segment(Err(error)) => {
                    self.complaints.tell(&self.spec, "cannot listen for other holders", &error);
                    self.deafen();
                }
                Turn::Reopen => self.look_at_link(false).await,
                Turn::Timer => {
                    self.decided_at = clock::now();
                    self.machine.handle_timeout(self.decided_at);
                }
                Turn::Exit => {
                    leaving = Some(clock::now());
                    self.handle(VipEvent::Exit);
                }
            }
        }
    }

    async fn next(&mut self, ears: &mut Ears, exit: CancellationToken, leaving: Option<Instant>) -> Turn {
        let timer = self.machine.poll_timeout().map(|(at, _)| at);
        let give_up = leaving.map(|since| since + EXIT_MAX);
        let wake = [timer, give_up].into_iter().flatten().min();
        tokio::select! {
            biased;
            () = exit.cancelled(), if leaving.is_none() => Turn::Exit,
            Ok(()) = ears.rights.changed() => Turn::Event(VipEvent::Right(ears.rights.borrow_and_update().clone())),
            () = at(wake) => Turn::Timer,
            change = changed(&mut self.kernel) => Turn::Kernel(change),
            Some(event) = ears.inbox.recv() => Turn::Event(event),
            heard = hear(self.segment.as_ref()) => Turn::Segment(heard),
            () = sleep(REOPEN_PAUSE), if self.is_deaf() => Turn::Reopen,
            Ok(()) = ears.specs.changed() => {
                self.spec = ears.specs.borrow_and_update().clone();
                Turn::Event(VipEvent::Spec(self.spec.clone()))
            }
        }
    }

    fn handle(&mut self, event: VipEvent) {
        self.decided_at = clock::now();
        self.machine.handle(event, self.decided_at);
    }

    /// Before anything is decided by what was known before the machine slept.
    fn notice_sleep(&mut self) {
        let slept = boottime::slept();
        let more = slept.saturating_sub(self.slept);
        self.slept = slept;
        if more >= SLEPT_MIN {
            self.handle(VipEvent::Slept(more));
        }
    }

    // -- the kernel ---------------------------------------------------------------------------------

    async fn open(&mut self) {
        match Netlink::open().await {
            Ok((netlink, changes)) => self.kernel = Some(Kernel { netlink, changes }),
            Err(error) => self.complaints.tell(&self.spec, "cannot talk to the kernel", &error),
        }
        self.look_at_link(false).await;
        self.look_at_entries().await;
    }

    async fn on_change(&mut self, change: Option<Change>) {
        match change {
            Some(Change::Address { ip }) if ip == self.ip => self.look_at_entries().await,
            Some(Change::Address { .. }) => {}
            Some(Change::Link { name, notify, .. }) if *name == *self.spec.interface => {
                self.look_at_link(notify).await;
                self.look_at_entries().await;
            }
            Some(Change::Link { .. }) => {}
            Some(Change::Overrun) => {
                self.look_at_link(false).await;
                self.look_at_entries().await;
            }
            None => {
                self.kernel = None;
                sleep(REOPEN_PAUSE).await;
                self.open().await;
            }
        }
    }

    async fn look_at_link(&mut self, notify: bool) {
        let Some(kernel) = &self.kernel else { return };
        match kernel.netlink.link(&self.spec.interface).await {
            Ok(link) => {
                self.link = link;
                self.listen().await;
                self.tell_link(notify);
            }
            Err(error) => self.complaints.tell(&self.spec, "cannot look at the interface", &error),
        }
    }

    async fn look_at_entries(&mut self) {
        let Some(kernel) = &self.kernel else { return };
        match kernel.netlink.entries(self.ip).await {
            Ok(entries) => self.handle(VipEvent::Entries(entries)),
            Err(error) => self.complaints.tell(&self.spec, "cannot list addresses", &error),
        }
    }

    /// An interface that is there and cannot be listened on.
    fn is_deaf(&self) -> bool {
        self.link.is_some() && self.segment.is_none()
    }

    /// **Whoever cannot hear an answer may not take silence for one**: without a socket the interface does
    /// not run, as far as claims are concerned.
    fn tell_link(&mut self, notify: bool) {
        let is_deaf = self.is_deaf();
        let link = self.link.map(|link| VipLink { is_running: link.is_running && !is_deaf, ..link });
        self.handle(VipEvent::Link { link, notify });
    }

    fn deafen(&mut self) {
        self.segment = None;
        self.tell_link(false);
    }

    /// One socket for as long as the interface is the same; a new hardware address is told to it.
    async fn listen(&mut self) {
        let Some(link) = self.link else {
            self.segment = None;
            return;
        };
        if self.segment.as_ref().is_none_or(|(index, _)| *index != link.index) {
            self.segment = match Segment::open(&link, self.ip) {
                Ok(segment) => Some((link.index, segment)),
                Err(error) => {
                    self.complaints.tell(&self.spec, "cannot listen on the interface", &error);
                    None
                }
            };
        }
        let (Some((_, segment)), Some(kernel)) = (&self.segment, &self.kernel) else { return };
        match kernel.netlink.own_macs().await {
            Ok(own) => segment.know(&link, &own),
            Err(error) => self.complaints.tell(&self.spec, "cannot list interfaces", &error),
        }
    }

    // -- what the machine wants ---------------------------------------------------------------------

    /// In order. What follows a failed `Put` in the same breath rests on it, and is left out.
    async fn carry_out(&mut self) {
        let mut is_put = true;
        while let Some(effect) = self.machine.poll_effect() {
            match effect {
                VipEffect::Put { number, valid } => {
                    let outcome = self.put(valid).await;
                    is_put = outcome.is_ok();
                    self.done(number, outcome);
                }
                VipEffect::Remove { number } => {
                    let outcome = self.remove().await;
                    self.done(number, outcome);
                }
                VipEffect::DestroySockets => self.destroy_sockets().await,
                VipEffect::Announce if is_put => self.send("cannot announce it", Segment::announce),
                VipEffect::Announce => {}
                VipEffect::Probe => self.send("cannot ask who has it", Segment::probe),
                VipEffect::OpenListeners if !is_put => {}
                other => self.order(other),
            }
        }
    }

    fn done(&mut self, number: u64, outcome: Result<(), KernelError>) {
        let problem = outcome.err().map(|error| error.to_string());
        self.handle(VipEvent::Done { number, problem });
    }

    fn order(&mut self, effect: VipEffect) {
        match effect {
            VipEffect::OpenListeners => self.tenants.welcome(self.ip),
            VipEffect::CloseSessions { number, reason } => {
                // Who comes in is stopped by the call, not by the task that waits for those who leave.
                let leaving = self.tenants.send_away(self.ip, reason);
                let (answers, spec) = (self.answers.clone(), self.spec.clone());
                task::spawn(async move {
                    let reset = leaving.await;
                    if reset > 0 {
                        let (address, interface) = (spec.address, &*spec.interface);
                        tracing::info!(
                            target: "pgvane::vip", cluster = %spec.cluster, %address, interface, reset,
                            "sessions that had not ended when {address} had to go were reset"
                        );
                    }
                    let _ended = answers.send(VipEvent::SessionsClosed { number }).await;
                });
            }
            VipEffect::WriteMark { number, take } => self.order_mark(MarkOrder::Write { number, take }),
            VipEffect::DeleteMark { mod_revision } => self.order_mark(MarkOrder::Delete { mod_revision }),
            VipEffect::Log(transition) => said::vip(&self.spec.cluster, &self.spec, &transition),
            VipEffect::Put { .. }
            | VipEffect::Remove { .. }
            | VipEffect::DestroySockets
            | VipEffect::Announce
            | VipEffect::Probe => {}
        }
    }

    /// Before the address goes: from one that is gone nobody can be told.
    async fn destroy_sockets(&mut self) {
        let ip = self.ip;
        let done = timeout(DESTROY_MAX, task::spawn_blocking(move || sockets::destroy(ip))).await;
        let (address, interface) = (self.spec.address, &*self.spec.interface);
        match done {
            Ok(Ok(Ok(reset))) => tracing::info!(
                target: "pgvane::vip", cluster = %self.spec.cluster, %address, interface, reset,
                "other programs' connections on {address} were reset"
            ),
            Ok(Ok(Err(error))) => self.complaints.tell(&self.spec, DESTROY, &error),
            Ok(Err(error)) => self.complaints.tell(&self.spec, DESTROY, &error),
            Err(late) => self.complaints.tell(&self.spec, DESTROY, &late),
        }
    }

    fn order_mark(&mut self, order: MarkOrder) {
        if let Err(error) = self.orders.try_send(order) {
            let number = match error.into_inner() {
                MarkOrder::Write { number, .. } => number,
                MarkOrder::Delete { .. } => {
                    let problem = "the DCS has not answered earlier writes yet; the next holder probes first";
                    return self.complaints.tell(&self.spec, "cannot delete the mark", &problem);
                }
            };
            let outcome = Err("the DCS has not answered earlier writes yet".to_owned());
            self.handle(VipEvent::MarkWritten { number, outcome });
        }
    }

    async fn put(&mut self, valid: ValidFor) -> Result<(), KernelError> {
        let (kernel, link) = (self.kernel("putting")?, self.link()?);
        if clock::now() > self.decided_at + PUT_LATE_MAX {
            let what = format!("putting {} on {}", self.spec.address, self.spec.interface);
            return Err(KernelError::Other { what, problem: "this process was stopped since that was decided".into() });
        }
        let seconds = u32::try_from(valid.0.as_secs()).unwrap_or(u32::MAX - 1);
        kernel.netlink.put(link.index, &self.spec.interface, self.spec.address, Some(seconds)).await
    }

    fn kernel(&self, what: &str) -> Result<&Kernel, KernelError> {
        self.kernel.as_ref().ok_or_else(|| {
            let what = format!("{what} {} on {}", self.spec.address, self.spec.interface);
            KernelError::Other { what, problem: "netlink is not open; it is opened again".into() }
        })
    }

    fn link(&self) -> Result<VipLink, KernelError> {
        let what = format!("putting {} on it", self.spec.address);
        self.link.ok_or_else(|| KernelError::NoSuchLink { what, interface: self.spec.interface.to_string() })
    }

    /// The kernel's list of now: what was seen before may not be all.
    async fn remove(&mut self) -> Result<(), KernelError> {
        // Not done without it: the mark may only go after the address.
        let kernel = self.kernel("removing")?;
        for entry in kernel.netlink.entries(self.ip).await?.iter().filter(|entry| entry.is_ours) {
            kernel.netlink.remove(entry, self.ip).await?;
        }
        Ok(())
    }

    fn send(&mut self, what: &'static str, act: fn(&Segment) -> std::io::Result<()>) {
        let Some((_, segment)) = &self.segment else { return };
        if let Err(error) = act(segment) {
            self.complaints.tell(&self.spec, what, &error);
            self.deafen();
        }
    }
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

async fn changed(kernel: &mut Option<Kernel>) -> Option<Change> {
    match kernel {
        Some(kernel) => kernel.changes.recv().await,
        None => None,
    }
}

async fn hear(segment: Option<&(u32, Segment)>) -> std::io::Result<Mac> {
    match segment {
        Some((_, segment)) => segment.heard().await,
        None => std::future::pending().await,
    }
}

enum MarkOrder {
    Write { number: u64, take: bool },
    Delete { mod_revision: i64 },
}

/// Carries out orders about the mark one after the other, so that none overtakes another.
fn mark_worker(
    ip: IpAddr,
    marks: Arc<dyn Marks>,
    answers: mpsc::Sender<VipEvent>,
) -> (mpsc::Sender<MarkOrder>, task::JoinHandle<()>) {
    let (sender, mut orders) = mpsc::channel(MARK_ORDERS_MAX);
    // A task that never ends would keep the sender of answers; the machine's end is the orders' end.
    let worker = task::spawn(async move {
        while let Some(order) = orders.recv().await {
            match order {
                MarkOrder::Write { number, take } => {
                    let outcome = marks.write(ip, take).await;
                    let _ended = answers.send(VipEvent::MarkWritten { number, outcome }).await;
                }
                MarkOrder::Delete { mod_revision } => {
                    if let Err(problem) = marks.delete(ip, mod_revision).await {
                        tracing::warn!(target: "pgvane::vip", address = %ip, problem, "the mark in the DCS stays; the next holder probes first");
                    }
                }
            }
        }
    });
    (sender, worker)
}
