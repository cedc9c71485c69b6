//! What goes wrong, and what ends it.

use pgvane::decide::vip::VipEvent;
use pgvane::model::{Mac, VipLink};

use super::host::Address;
use super::world::{Act, Core, World};
use super::{MS, Micros, SEC};

#[derive(Debug, Clone)]
pub enum Fault {
    Dcs {
        answers: bool,
    },
    ReachDcs {
        host: usize,
        reached: bool,
    },
    /// Somebody's hand, or a switchover that writes over the key.
    KeyMoves {
        to: usize,
    },
    KeyDeleted,
    Fit {
        host: usize,
        fits: bool,
    },
    Patroni {
        host: usize,
        runs: bool,
    },
    Crash {
        host: usize,
    },
    Start {
        host: usize,
    },
    Stop {
        host: usize,
    },
    Continue {
        host: usize,
    },
    Exit {
        host: usize,
    },
    Suspend {
        host: usize,
        span: Micros,
    },
    WakeUp {
        host: usize,
        span: Micros,
    },
    Power {
        host: usize,
        on: bool,
    },
    Segment {
        host: usize,
        side: usize,
    },
    Link {
        host: usize,
        up: bool,
    },
    LinkGone {
        host: usize,
    },
    MacChanges {
        host: usize,
    },
    Deleted {
        host: usize,
    },
    Permanent {
        host: usize,
    },
    Puts {
        host: usize,
        fail: bool,
    },
    Marks {
        host: usize,
        fail: bool,
    },
    Sessions {
        host: usize,
        take: Option<Micros>,
    },
    Loss(u64),
}

impl World {
    pub fn happen(&mut self, fault: Fault) {
        self.note(format!("-- {fault:?}"));
        match fault {
            Fault::Dcs { answers } => self.dcs.answers = answers,
            Fault::ReachDcs { host, reached } => self.hosts[host].reaches_dcs = reached,
            Fault::KeyMoves { to } => self.lead(to),
            Fault::KeyDeleted => self.vacate(),
            Fault::Fit { host, fits } => self.commit(|dcs| dcs.fit[host] = fits),
            Fault::Patroni { host, runs } => self.hosts[host].patroni_runs = runs,
            Fault::Crash { host } if !self.hosts[host].is_suspended => self.end(host),
            Fault::Crash { .. } => {}
            Fault::Start { host } if self.hosts[host].vip.is_none() && self.hosts[host].is_powered => self.start(host),
            Fault::Start { .. } => {}
            Fault::Stop { host } => self.hosts[host].is_stopped |= self.hosts[host].is_running(),
            Fault::Continue { host } => {
                if std::mem::take(&mut self.hosts[host].is_stopped) {
                    self.push(self.now, Act::Resume { host });
                }
            }
            Fault::Exit { host } => self.push_core(host, 0, Core::Event(VipEvent::Exit)),
            Fault::Suspend { host, span } => {
                // Without a process nobody is there to notice afterwards.
                if self.hosts[host].is_running() {
                    self.hosts[host].is_suspended = true;
                    self.push(self.now + span, Act::Fault(Fault::WakeUp { host, span }));
                }
            }
            Fault::WakeUp { host, span } => self.wake_up(host, span),
            Fault::Power { host, on } => self.power(host, on),
            Fault::Segment { host, side } => self.hosts[host].side = side,
            Fault::Link { host, up } => {
                self.change_link(host, |link| link.map(|link| VipLink { is_running: up, ..link }));
            }
            Fault::LinkGone { host } => {
                self.hosts[host].address = None;
                self.show_entries(host);
                self.change_link(host, |_| None);
            }
            Fault::MacChanges { host } => {
                self.hosts[host].mac = Mac([6, 0, 0, 0, 0, host as u8 + 1]);
                let mac = self.hosts[host].mac;
                self.change_link(host, |link| link.map(|link| VipLink { mac, ..link }));
            }
            Fault::Deleted { host } => {
                self.hosts[host].address = None;
                self.show_entries(host);
            }
            Fault::Permanent { host } => {
                self.next_id += 1;
                let id = self.next_id;
                // `ip address change` takes the tag off, too.
                let change = |address: &mut Address| *address = Address { id, is_ours: false, ends: None };
                self.hosts[host].address.iter_mut().for_each(change);
                self.show_entries(host);
            }
            Fault::Puts { host, fail } => self.hosts[host].puts_fail = fail,
            Fault::Marks { host, fail } => self.hosts[host].marks_fail = fail,
            Fault::Sessions { host, take } => self.hosts[host].sessions_take = take,
            Fault::Loss(percent) => self.loss = percent,
        }
    }

    fn wake_up(&mut self, host: usize, span: Micros) {
        let h = &mut self.hosts[host];
        if !h.is_suspended {
            return;
        }
        h.is_suspended = false;
        h.slept += span;
        if let Some(address) = &mut h.address {
            address.ends = address.ends.map(|(end, noticed)| (end + span, noticed + span));
            if let Some((_, noticed)) = address.ends {
                let id = address.id;
                self.push(noticed, Act::Expires { host, id });
            }
        }
        self.give(host, VipEvent::Slept(std::time::Duration::from_micros(span)));
        self.push(self.now, Act::Resume { host });
    }

    fn power(&mut self, host: usize, on: bool) {
        if on == self.hosts[host].is_powered {
            return;
        }
        self.end(host);
        let h = &mut self.hosts[host];
        h.is_powered = on;
        h.is_suspended = false;
        h.address = None;
        h.patroni_runs = on;
        if on {
            self.start(host);
        }
    }

    pub fn change_link(&mut self, host: usize, change: impl FnOnce(Option<VipLink>) -> Option<VipLink>) {
        self.hosts[host].link = change(self.hosts[host].link);
        let link = self.hosts[host].link;
        self.push_core(host, MS / 10, Core::Event(VipEvent::Link { link, notify: false }));
    }

    /// Everything works again; what was ended starts.
    pub fn mend(&mut self) {
        self.happen(Fault::Dcs { answers: true });
        self.happen(Fault::Loss(0));
        for host in 0..self.hosts.len() {
            let index = self.hosts[host].index;
            for fault in [
                Fault::Power { host, on: true },
                Fault::ReachDcs { host, reached: true },
                Fault::Patroni { host, runs: true },
                Fault::Segment { host, side: 0 },
                Fault::Link { host, up: true },
                Fault::Continue { host },
                Fault::Start { host },
                Fault::Puts { host, fail: false },
                Fault::Marks { host, fail: false },
                Fault::Sessions { host, take: Some((1 + index as u64) * MS) },
            ] {
                self.happen(fault);
            }
            // One that was stopped or suspended in its end.
            for later in [SEC, 27 * SEC] {
                self.push(self.now + later, Act::Fault(Fault::Start { host }));
            }
        }
    }
}
