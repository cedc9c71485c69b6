//! Moves time and carries things between hosts, the segment and the DCS.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pgvane::decide::vip::VipEvent;
use pgvane::model::{Mac, Reason, VipClaim, VipRight, VipSpec};
use pgvane::runtime::clock;

use super::dcs::{Dcs, Mark, View};
use super::faults::Fault;
use super::host::{Host, Known, Word};
use super::prng::Prng;
use super::{MS, Micros, SEC};

/// What happens at an instant.
#[derive(Debug, Clone)]
pub enum Act {
    /// Something reaches the process of a host, in this life of it.
    Core {
        host: usize,
        life: u64,
        what: Core,
    },
    /// The instant at which the DCS takes a read's snapshot.
    ReadServed {
        host: usize,
        life: u64,
        sent: Micros,
    },
    WriteMark {
        host: usize,
        life: u64,
        number: u64,
        take: bool,
    },
    DeleteMark {
        host: usize,
        revision: i64,
    },
    /// The kernel's clock of lifetimes.
    Expires {
        host: usize,
        id: u64,
    },
    Leases,
    Cycle {
        host: usize,
    },
    Acquire {
        host: usize,
        revision: i64,
    },
    Resume {
        host: usize,
    },
    Fault(Fault),
}

#[derive(Debug, Clone)]
pub enum Core {
    Event(VipEvent),
    Timer(u64),
    /// The kernel's list and the link, as they are when the process asks.
    Look,
    /// Of each second: a read, and a question to the local Patroni.
    Tick,
    Answered {
        view: View,
        sent: Micros,
    },
    Watched(View),
}

pub struct World {
    base: Instant,
    pub now: Micros,
    order: u64,
    queue: BTreeMap<(Micros, u64), Act>,
    pub dcs: Dcs,
    pub hosts: Vec<Host>,
    /// What each host missed while it was stopped or suspended.
    pub backlog: Vec<Vec<Core>>,
    /// A machine that is none of ours and answers for the address.
    pub stranger: Option<Mac>,
    pub rng: Prng,
    /// Patroni moves the key by itself.
    pub alive: bool,
    /// Of a hundred frames so many are lost, never three probes or three announcements in a row between two hosts.
    pub loss: u64,
    pub lost: BTreeMap<(usize, usize, bool), u32>,
    /// When two hosts could not hear each other the last time.
    pub apart: BTreeMap<(usize, usize), Micros>,
    pub journal: Vec<String>,
    pub failures: Vec<String>,
    pub next_id: u64,
    /// A page tells of two holders that nobody can prevent.
    pub two_allowed: bool,
    /// What the process that is at work was given.
    pub trigger: &'static str,
}

impl World {
    pub fn new(seed: u64, names: &[&str], spec: &VipSpec, alive: bool) -> World {
        let hosts: Vec<Host> =
            names.iter().enumerate().map(|(i, name)| Host::new(i, name, Arc::new(spec.clone()))).collect();
        let mut world = World {
            base: clock::now(),
            now: 0,
            order: 0,
            queue: BTreeMap::new(),
            dcs: Dcs::new(hosts.len()),
            backlog: vec![Vec::new(); hosts.len()],
            hosts,
            stranger: None,
            rng: Prng::new(seed),
            alive,
            loss: 0,
            lost: BTreeMap::new(),
            apart: BTreeMap::new(),
            journal: Vec::new(),
            failures: Vec::new(),
            next_id: 0,
            two_allowed: false,
            trigger: "",
        };
        for host in 0..world.hosts.len() {
            world.start(host);
            let first = world.rng.between(MS, 3 * SEC);
            world.push(first, Act::Cycle { host });
        }
        world.push(SEC, Act::Leases);
        world
    }

    // -- time ---------------------------------------------------------------------------------------

    /// The clock of a host stands still while it is suspended.
    pub fn host_now(&self, host: usize) -> Micros {
        self.now - self.hosts[host].slept
    }

    pub fn instant(&self, host_time: Micros) -> Instant {
        self.base + SEC_BEFORE + Duration::from_micros(host_time)
    }

    pub fn micros(&self, at: Instant) -> Micros {
        at.saturating_duration_since(self.base + SEC_BEFORE).as_nanos().div_ceil(1000) as Micros
    }

    pub fn push(&mut self, at: Micros, act: Act) {
        self.order += 1;
        self.queue.insert((at.max(self.now), self.order), act);
    }

    pub fn push_core(&mut self, host: usize, after: Micros, what: Core) {
        let life = self.hosts[host].life;
        self.push(self.now + after, Act::Core { host, life, what });
    }

    pub fn run_until(&mut self, end: Micros) {
        while self.step(end) {}
        self.now = self.now.max(end);
    }

    /// One act; false when nothing more happens up to `end`, or something forbidden was seen.
    pub fn step(&mut self, end: Micros) -> bool {
        let Some((&(at, order), _)) = self.queue.first_key_value() else { return false };
        if at > end || !self.failures.is_empty() {
            return false;
        }
        self.now = at;
        if let Some(act) = self.queue.remove(&(at, order)) {
            self.act(act);
            self.check();
        }
        true
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Core { host, life, what } => {
                let h = &self.hosts[host];
                if life != h.life || !h.is_powered || h.vip.is_none() {
                } else if h.is_stopped || h.is_suspended {
                    self.backlog[host].push(what);
                } else {
                    self.core(host, what);
                }
            }
            Act::ReadServed { host, life, sent } => self.serve_read(host, life, sent),
            Act::WriteMark { host, life, number, take } => self.serve_write(host, life, number, take),
            Act::DeleteMark { host, revision } => self.serve_delete(host, revision),
            Act::Expires { host, id } => self.expire(host, id),
            Act::Leases => self.leases(),
            Act::Cycle { host } => self.cycle(host),
            Act::Acquire { host, revision } => self.acquire(host, revision),
            Act::Resume { host } => self.resume(host),
            Act::Fault(fault) => self.happen(fault),
        }
    }

    pub fn note(&mut self, text: String) {
        self.journal.push(format!("{:>12.4} {text}", self.now as f64 / SEC as f64));
    }

    // -- a process ----------------------------------------------------------------------------------

    pub fn core(&mut self, host: usize, what: Core) {
        match what {
            Core::Event(event) => self.give(host, event),
            Core::Timer(epoch) if epoch == self.hosts[host].timer_epoch => self.time_out(host),
            Core::Timer(_) => {}
            Core::Look => {
                let (entries, link) = (self.hosts[host].entries(self.now), self.hosts[host].link);
                self.give(host, entries);
                self.give(host, VipEvent::Link { link, notify: false });
            }
            Core::Tick => self.tick(host),
            Core::Answered { view, sent } => self.answered(host, view, sent),
            Core::Watched(view) => self.watched(host, view),
        }
    }

    fn tick(&mut self, host: usize) {
        let life = self.hosts[host].life;
        self.push_core(host, SEC, Core::Tick);
        let sent = self.host_now(host);
        let delay = self.rng.between(MS / 5, 4 * MS);
        self.push(self.now + delay, Act::ReadServed { host, life, sent });
        if self.patroni_vouches(host) {
            self.hosts[host].vouched_at = Some(sent);
            self.give_right(host);
        }
    }

    /// What the local Patroni says when it is asked now.
    pub fn patroni_vouches(&self, host: usize) -> bool {
        let h = &self.hosts[host];
        match h.word {
            Word::Leads => true,
            Word::Denies => false,
            Word::Own => self.alive && h.patroni_runs && self.now < h.believes_until,
        }
    }

    pub fn reaches_dcs(&self, host: usize) -> bool {
        let h = &self.hosts[host];
        self.dcs.answers && h.reaches_dcs && h.is_powered && !h.is_suspended
    }

    fn serve_read(&mut self, host: usize, life: u64, sent: Micros) {
        if !self.reaches_dcs(host) {
            return;
        }
        let view = self.dcs.view(self.now);
        let delay = self.rng.between(MS / 5, 4 * MS);
        self.push(self.now + delay, Act::Core { host, life, what: Core::Answered { view, sent } });
    }

    fn answered(&mut self, host: usize, view: View, sent: Micros) {
        if !self.reaches_dcs(host) {
            return;
        }
        let now = self.host_now(host);
        let lease_end = view.leader.and(view.lease_left).map(|left| sent + left);
        match &mut self.hosts[host].known {
            Some(known) if view.revision < known.view.revision => {
                if sent > known.known_at {
                    return;
                }
                known.confirmed_at = known.confirmed_at.max(sent);
            }
            known => {
                let newer = known.as_ref().is_none_or(|known| known.view.revision != view.revision);
                let known_at = known.as_ref().filter(|_| !newer).map_or(now, |known| known.known_at);
                let confirmed_at = known.as_ref().map_or(sent, |known| known.confirmed_at.max(sent));
                *known = Some(Known { view, known_at, confirmed_at, lease_end });
            }
        }
        self.give_right(host);
    }

    fn watched(&mut self, host: usize, view: View) {
        let now = self.host_now(host);
        let reaches = self.reaches_dcs(host);
        let Some(known) = &mut self.hosts[host].known else { return };
        if !reaches || view.revision <= known.view.revision {
            return;
        }
        if known.view.leader != view.leader {
            known.lease_end = None;
        }
        (known.view, known.known_at) = (view, now);
        let life = self.hosts[host].life;
        self.give_right(host);
        let delay = self.rng.between(MS / 5, 4 * MS);
        self.push(self.now + delay, Act::ReadServed { host, life, sent: now });
    }

    fn give_right(&mut self, host: usize) {
        let Some(right) = self.right_of(host) else { return };
        self.give(host, VipEvent::Right(right));
    }

    fn right_of(&mut self, host: usize) -> Option<VipRight> {
        let h = &self.hosts[host];
        let known = h.known.as_ref()?;
        let by_mark = h.spec.is_exclusive_by_mark();
        let is_ours = if by_mark { known.view.fit[host] } else { self.is_named(host, known.view.leader) };
        let (claim, reason) = match known.view.leader {
            _ if is_ours => (VipClaim::Ours, Reason::RoleHeld),
            None if !by_mark => (VipClaim::NotOurs, Reason::RoleVacant),
            _ => (VipClaim::NotOurs, Reason::RoleElsewhere),
        };
        let leader = known.view.leader.filter(|_| !by_mark).map(|leader| self.hosts[leader].name.clone());
        let right = VipRight {
            claim,
            reason,
            leader,
            confirmed_at: Some(self.instant(known.confirmed_at)),
            lease_end: known.lease_end.filter(|_| !by_mark).map(|end| self.instant(end)),
            is_lease_known: true,
            vouched_at: h.vouched_at.map(|at| self.instant(at)),
            mark: h.mark_of(&known.view),
        };
        let confirmed = known.confirmed_at.max(h.vouched_at.unwrap_or(0)) + h.slept;
        if is_ours {
            self.hosts[host].confirmed = self.hosts[host].confirmed.max(confirmed);
        }
        Some(right)
    }

    /// By name: two hosts may have the same one.
    pub fn is_named(&self, host: usize, leader: Option<usize>) -> bool {
        leader.is_some_and(|leader| self.hosts[leader].name == self.hosts[host].name)
    }

    // -- the DCS ------------------------------------------------------------------------------------

    pub fn commit(&mut self, change: impl FnOnce(&mut Dcs)) {
        self.dcs.revision += 1;
        change(&mut self.dcs);
        let leader = self.dcs.leader.map_or("-".to_owned(), |leader| self.hosts[leader].name.to_string());
        let mark = self.dcs.mark.as_ref().map_or("-".to_owned(), |mark| format!("{}@{}", mark.holder, mark.revision));
        self.note(format!("dcs {} leader {leader} mark {mark}", self.dcs.revision));
        for host in 0..self.hosts.len() {
            if self.reaches_dcs(host) {
                let view = View { lease_left: None, ..self.dcs.view(self.now) };
                let delay = self.rng.between(MS / 5, 4 * MS);
                self.push_core(host, delay, Core::Watched(view));
            }
        }
    }

    fn serve_write(&mut self, host: usize, life: u64, number: u64, take: bool) {
        let is_taken = take && self.dcs.mark.is_some();
        let fails = self.hosts[host].marks_fail || !self.reaches_dcs(host);
        let outcome = if fails || is_taken { Err("it cannot be written".to_owned()) } else { Ok(()) };
        if outcome.is_ok() {
            let (holder, now) = (self.hosts[host].name.to_string(), self.now);
            let ttl = 2 * self.hosts[host].spec.lease.as_micros() as u64 + 2 * SEC;
            self.commit(|dcs| {
                let bound = take.then_some((host, life));
                let ends = take.then_some(now + ttl);
                dcs.mark = Some(Mark { holder, revision: dcs.revision, bound, ends });
            });
        }
        let revision = self.dcs.revision;
        let delay = if fails { SEC } else { self.rng.between(MS / 5, 4 * MS) };
        let event = VipEvent::MarkWritten { number, outcome: outcome.map(|()| revision) };
        self.push(self.now + delay, Act::Core { host, life, what: Core::Event(event) });
    }

    fn serve_delete(&mut self, host: usize, revision: i64) {
        let is_that = self.dcs.mark.as_ref().is_some_and(|mark| mark.revision == revision);
        if is_that && self.reaches_dcs(host) && !self.hosts[host].marks_fail {
            self.commit(|dcs| dcs.mark = None);
        }
    }
}

/// So that instants before the beginning can be told.
const SEC_BEFORE: Duration = Duration::from_secs(1000);
