//! Clients that wait: for a target, or under `maxconn` for a slot at one. First come, first served, each
//! until its own deadline.
//!
//! A table never wakes everybody. [`Registry::release`] takes clients from the head of the line while there
//! is a target with a slot for them and fewer than [`CONNECTS_IN_FLIGHT_MAX`] connects under way to it; each
//! of those that finishes, and each session that ends, lets the next one go. Nor does a change of rules wake
//! anybody: whoever's time is up asks what its deadline is by then.

mod queue;
mod slots;
mod wait;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::decide::Target;
use crate::model::{MemberName, Reason};
use crate::runtime::clock;

use super::sessions::{Registry, Service};
use queue::{Asker, Line, Waiter, deliver};
use wait::Wait;

pub(super) use queue::{Chosen, Queue};
pub use slots::{Permit, TargetSlot};
pub(super) use {slots::Book, wait::Terms};

/// Held clients on their way to one target, from release to the server's first answer.
pub const CONNECTS_IN_FLIGHT_MAX: usize = 100;
/// A client whose target failed waits for a new table, and when none comes, this long.
pub const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// What one client brings along from one wait to the next: its place, its times, and what it has tried.
#[derive(Debug)]
pub struct Ticket {
    arrived: Instant,
    client: u64,
    number: Option<u64>,
    waits_since: Option<Instant>,
    was_held: bool,
    /// Members that this client could not reach just now.
    pub tried: Vec<MemberName>,
    pub failed_in: Option<u64>,
}

impl Ticket {
    /// `client` is [`crate::decide::balance::client_hash`] of its address.
    pub fn new(arrived: Instant, client: u64) -> Ticket {
        let (number, waits_since, failed_in) = (None, None, None);
        Ticket { arrived, client, number, waits_since, was_held: false, tried: Vec::new(), failed_in }
    }

    /// It was served for now. If it has to wait later, its time begins anew, unless it waited before.
    pub fn answered(&mut self) {
        if self.waits_since.is_none() {
            self.arrived = clock::now();
        }
    }

    pub fn arrived(&self) -> Instant {
        self.arrived
    }

    /// How long ago it began to wait, if it was for a target, and not only for a slot at one.
    pub fn held(&self, now: Instant) -> Option<Duration> {
        self.waits_since.filter(|_| self.was_held).map(|since| now.saturating_duration_since(since))
    }

    fn asker(&self) -> Asker {
        Asker { client: self.client, tried: self.tried.clone(), failed_in: self.failed_in }
    }
}

/// The answer to a client that asked, or waited.
#[derive(Debug)]
pub enum Verdict {
    Go(Grant),
    /// There are targets, and this client has tried them all.
    Exhausted,
}

/// A target, and the right to connect to it now.
#[derive(Debug)]
pub struct Grant {
    pub target: Arc<Target>,
    pub generation: u64,
    pub permit: Permit,
    pub slot: TargetSlot,
}

#[derive(Debug)]
pub enum Admission {
    Now(Verdict),
    Wait(Place),
    /// Why it may not wait; with a crowd, where it would have waited for a slot.
    Refused {
        why: Reason,
        crowd: Option<Crowd>,
    },
}

/// What a client finds that gets no slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crowd {
    pub maxconn: usize,
    /// Other clients that wait.
    pub waiting: usize,
    pub queue_max: usize,
}

/// What a client whose time may be up has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// Wait on, and ask again then.
    Until(Instant),
    /// Its verdict is on its way.
    Called,
    Over {
        why: Reason,
        crowd: Option<Crowd>,
    },
}

/// A place in the line. Its drop leaves the line.
#[derive(Debug)]
pub struct Place {
    registry: Arc<Registry>,
    service: Arc<Service>,
    number: u64,
    entered: Instant,
    was_held: bool,
    /// Other clients that waited when this one came.
    pub ahead: usize,
    pub verdict: oneshot::Receiver<Verdict>,
}

impl Place {
    /// The pause after a failure is over: the same table may be tried again.
    pub fn forgive(&self) {
        if let Some(waiter) = self.service.waiting.lock().clients.get_mut(&self.number) {
            waiter.asker.failed_in = None;
        }
        self.registry.release(&self.service);
    }

    /// How long this client waits on by the rules of now.
    pub fn patience(&mut self) -> Patience {
        let mut line = self.service.waiting.lock();
        let (full_since, waiting) = (line.full_since, line.clients.len().saturating_sub(1));
        let Some(waiter) = line.clients.get_mut(&self.number) else { return Patience::Called };
        let Some(terms) = self.registry.terms(&self.service.name) else {
            return Patience::Over { why: Reason::ServiceRemoved, crowd: None };
        };
        waiter.wait.held |= !terms.available;
        self.was_held = waiter.wait.held;
        let (end, why) = waiter.wait.end(&terms, full_since);
        let now = clock::now();
        if now < end {
            return Patience::Until(waiter.wait.ask_again(end, &terms, now));
        }
        Patience::Over { why, crowd: (why == Reason::QueueExpired).then(|| terms.crowd(waiting)) }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let (left, idle) = {
            let mut line = self.service.waiting.lock();
            let left = line.remove(self.number);
            self.service.waiting.count(&line);
            (left, line.clients.is_empty())
        };
        if self.was_held {
            self.service.counters.add_hold(clock::now().saturating_duration_since(self.entered));
        }
        // Whoever stood behind a client that had to pause need not wait for it any longer.
        if left.is_some_and(|waiter| waiter.asker.failed_in.is_some()) && !idle {
            self.registry.release(&self.service);
        }
    }
}

impl Terms {
    fn crowd(&self, waiting: usize) -> Crowd {
        Crowd { maxconn: self.spec.maxconn, waiting, queue_max: self.spec.queue.max }
    }

    /// Why one more client may not wait for a slot beside so many others.
    fn queue_refusal(&self, waiting: usize) -> Option<Reason> {
        match self.spec.queue.max {
            0 => Some(Reason::TargetsFull),
            max => (waiting >= max).then_some(Reason::QueueFull),
        }
    }
}

impl Registry {
    /// Where this client goes now: to a target, to its place in the line, or away.
    pub fn admit(self: &Arc<Self>, service: &Arc<Service>, ticket: &mut Ticket) -> Admission {
        let mut line = service.waiting.lock();
        let number = *ticket.number.get_or_insert_with(|| line.next_number());
        let asker = ticket.asker();
        if line.clients.is_empty()
            && let Some(verdict) = self.verdict_now(service, &mut line, &asker, ticket.waits_since.is_some())
        {
            return Admission::Now(verdict);
        }
        // First into the line and then a look for a slot: one that is given back in between is not missed.
        let (verdict, receiver) = oneshot::channel();
        let now = clock::now();
        let since = ticket.waits_since.unwrap_or(now);
        let wait = Wait { arrived: ticket.arrived, since, held: ticket.was_held };
        line.clients.insert(number, Waiter { entered: now, wait, asker, verdict });
        service.waiting.count(&line);
        let mut called = self.call(service, &mut line, now);
        let admission = match called.iter().position(|called| called.number == number) {
            Some(index) => Admission::Now(called.remove(index).verdict),
            None => match self.refusal(service, &line, ticket) {
                Some((why, crowd)) => {
                    line.remove(number);
                    Admission::Refused { why, crowd }
                }
                None => {
                    self.settle(&mut line, number, ticket, now);
                    let (registry, service, was_held) = (self.clone(), service.clone(), ticket.was_held);
                    let ahead = line.clients.len() - 1;
                    Admission::Wait(Place {
                        registry,
                        service,
                        number,
                        entered: now,
                        was_held,
                        ahead,
                        verdict: receiver,
                    })
                }
            },
        };
        service.waiting.count(&line);
        line.note_most();
        drop(line);
        if let Admission::Wait(place) = &admission
            && !place.was_held
        {
            service.counters.queued_total.fetch_add(1, Ordering::Relaxed);
        }
        deliver(called);
        admission
    }

    /// Why a client that is in the line already may not stay there.
    fn refusal(&self, service: &Service, line: &Line, ticket: &Ticket) -> Option<(Reason, Option<Crowd>)> {
        let others = line.clients.len() - 1;
        let Some(terms) = self.terms(&service.name) else { return Some((Reason::ServiceRemoved, None)) };
        // Whoever waited before counts as being inside already.
        let is_new = ticket.waits_since.is_none();
        if line.wants_slot {
            let why = terms.queue_refusal(others).filter(|_| is_new)?;
            return Some((why, Some(terms.crowd(others))));
        }
        match terms.hold_limit {
            None => Some((Reason::HoldOff, None)),
            Some(_) => (others >= service.hold_max() && is_new).then_some((Reason::HoldFull, None)),
        }
    }

    fn settle(&self, line: &mut Line, number: u64, ticket: &mut Ticket, now: Instant) {
        ticket.waits_since.get_or_insert(now);
        ticket.was_held |= !line.wants_slot;
        if let Some(waiter) = line.clients.get_mut(&number) {
            waiter.wait.held = ticket.was_held;
        }
    }
}

#[cfg(test)]
mod tests;
