//! Carries out what the machine of one host decides: kernel, segment, sessions, marks.

use std::time::Duration;

use pgvane::decide::vip::{Vip, VipEffect, VipEvent, VipState, VipTransition};

use super::host::Address;
use super::world::{Act, Core, World};
use super::{MS, Micros, SEC};

impl World {
    pub fn start(&mut self, host: usize) {
        let now = self.instant(self.host_now(host));
        let h = &mut self.hosts[host];
        h.life += 1;
        h.vip = Some(Vip::new(h.spec.clone(), h.name.clone(), now));
        (h.known, h.vouched_at, h.is_stopped, h.closed) = (None, None, false, false);
        self.backlog[host].clear();
        let first = self.rng.between(MS, 30 * MS);
        self.push_core(host, first, Core::Look);
        let tick = self.rng.between(MS, 900 * MS);
        self.push_core(host, tick, Core::Tick);
        let name = self.hosts[host].name.clone();
        self.note(format!("{name} starts"));
    }

    /// The process ends at once, whatever it holds.
    pub fn end(&mut self, host: usize) {
        let h = &mut self.hosts[host];
        h.life += 1;
        h.vip = None;
        h.is_stopped = false;
    }

    pub fn give(&mut self, host: usize, event: VipEvent) {
        let now = self.instant(self.host_now(host));
        let told = format!("{} < {event:?}", self.hosts[host].name);
        self.trigger = if matches!(event, VipEvent::Right(_)) { "right" } else { "event" };
        // Instants differ from run to run; the machine's answer does not.
        if !matches!(event, VipEvent::Right(_)) {
            self.note(told);
        }
        if let Some(vip) = &mut self.hosts[host].vip {
            vip.handle(event, now);
        }
        self.after(host);
    }

    pub fn time_out(&mut self, host: usize) {
        let now = self.instant(self.host_now(host));
        self.trigger = "timer";
        if let Some(vip) = &mut self.hosts[host].vip {
            vip.handle_timeout(now);
        }
        self.after(host);
    }

    fn after(&mut self, host: usize) {
        let mut put_failed = false;
        while let Some(effect) = self.hosts[host].vip.as_mut().and_then(Vip::poll_effect) {
            // The shell stops behind a Put that failed.
            if !(put_failed && matches!(effect, VipEffect::OpenListeners | VipEffect::Announce)) {
                put_failed |= self.carry_out(host, effect);
            }
        }
        if self.hosts[host].vip.as_ref().is_some_and(Vip::is_done) {
            let name = self.hosts[host].name.clone();
            self.note(format!("{name} has ended"));
            return self.end(host);
        }
        self.arm(host);
    }

    fn arm(&mut self, host: usize) {
        self.hosts[host].timer_epoch += 1;
        let epoch = self.hosts[host].timer_epoch;
        let Some((at, why)) = self.hosts[host].vip.as_ref().and_then(Vip::poll_timeout) else { return };
        let at = self.micros(at);
        let now = self.host_now(host);
        if at < now {
            self.failures.push(format!("{}: the timer {why} lies in the past", self.hosts[host].name));
        }
        // A host that is suspended meanwhile finds it due when it wakes up.
        self.push_core(host, at.saturating_sub(now), Core::Timer(epoch));
    }

    fn carry_out(&mut self, host: usize, effect: VipEffect) -> bool {
        let name = self.hosts[host].name.clone();
        self.note(format!("{name} > {effect:?}"));
        match effect {
            VipEffect::Put { number, valid } => return self.put(host, number, valid.0),
            VipEffect::Remove { number } => self.remove(host, number),
            VipEffect::CloseSessions { number, .. } => {
                self.hosts[host].closed = true;
                if let Some(span) = self.hosts[host].sessions_take {
                    self.push_core(host, span, Core::Event(VipEvent::SessionsClosed { number }));
                }
            }
            VipEffect::OpenListeners => self.hosts[host].closed = false,
            VipEffect::DestroySockets => {}
            VipEffect::Probe => self.probe(host),
            VipEffect::Announce => self.announce(host),
            VipEffect::WriteMark { number, take } => {
                let (life, at) = (self.hosts[host].life, self.mark_at(host));
                self.push(at, Act::WriteMark { host, life, number, take });
            }
            VipEffect::DeleteMark { mod_revision } => {
                // Whether or not the deletion arrives, nobody keeps it alive any more.
                let that = self.dcs.mark.as_mut().filter(|mark| mark.revision == mod_revision);
                that.into_iter().for_each(|mark| mark.bound = None);
                let at = self.mark_at(host);
                self.push(at, Act::DeleteMark { host, revision: mod_revision });
            }
            VipEffect::Log(transition) => self.hear_log(host, transition),
        }
        false
    }

    fn hear_log(&mut self, host: usize, transition: VipTransition) {
        if let VipTransition::Slept { .. } = transition {
            self.hosts[host].closed = true;
        }
        let now = self.now;
        self.hosts[host].told.push((now, format!("{transition:?}").to_lowercase()));
    }

    fn mark_at(&mut self, host: usize) -> Micros {
        let at = (self.now + self.rng.between(MS / 5, 4 * MS)).max(self.hosts[host].marks_at + 1);
        self.hosts[host].marks_at = at;
        at
    }

    // -- the kernel ---------------------------------------------------------------------------------

    fn put(&mut self, host: usize, number: u64, valid: Duration) -> bool {
        let h = &self.hosts[host];
        let problem = (h.puts_fail || h.link.is_none()).then(|| "no".to_owned());
        let failed = problem.is_some();
        if !failed {
            self.next_id += 1;
            let (id, now) = (self.next_id, self.now);
            let end = now + valid.as_micros() as Micros;
            let noticed = end + self.rng.below(SEC);
            let h = &mut self.hosts[host];
            h.address = Some(Address { id, is_ours: true, ends: Some((end, noticed)) });
            h.puts.push((now, valid.as_secs()));
            self.push(noticed, Act::Expires { host, id });
            self.show_entries(host);
        }
        let delay = self.rng.between(MS / 20, 3 * MS);
        self.push_core(host, delay, Core::Event(VipEvent::Done { number, problem }));
        failed
    }

    fn remove(&mut self, host: usize, number: u64) {
        let h = &self.hosts[host];
        if !h.closed && h.address.is_some() {
            self.failures.push(format!("{}: removed while sessions are open", h.name));
        }
        let problem = self.hosts[host].removes_fail.then(|| "no".to_owned());
        if problem.is_none() {
            self.hosts[host].address = None;
            self.show_entries(host);
        }
        let delay = self.rng.between(MS / 20, 3 * MS);
        self.push_core(host, delay, Core::Event(VipEvent::Done { number, problem }));
    }

    pub fn expire(&mut self, host: usize, id: u64) {
        let h = &self.hosts[host];
        let Some(address) = h.address.as_ref().filter(|address| address.id == id) else { return };
        let noticed = address.ends.map_or(0, |(_, noticed)| noticed);
        if h.is_suspended || noticed > self.now {
            return;
        }
        let name = h.name.clone();
        self.note(format!("{name} kernel takes the address away"));
        self.hosts[host].address = None;
        self.show_entries(host);
    }

    /// As netlink tells: soon, and in order.
    pub fn show_entries(&mut self, host: usize) {
        let entries = self.hosts[host].entries(self.now);
        self.push_core(host, MS / 10, Core::Event(entries));
    }

    // -- the segment --------------------------------------------------------------------------------

    fn probe(&mut self, host: usize) {
        let now = self.now;
        self.hosts[host].probes.push(now);
        if !self.hosts[host].is_on_segment() {
            return;
        }
        for other in 0..self.hosts.len() {
            let answers = self.hosts[other].has_address() && self.connects(host, other);
            if answers && !self.loses(host, other, true) {
                let mac = self.hosts[other].mac;
                let delay = self.rng.between(MS / 20, 2 * MS);
                self.push_core(host, delay, Core::Event(VipEvent::Heard { mac }));
            }
        }
        if let Some(mac) = self.stranger {
            self.push_core(host, MS / 10, Core::Event(VipEvent::Heard { mac }));
        }
    }

    fn announce(&mut self, host: usize) {
        let (now, mac) = (self.now, self.hosts[host].mac);
        self.hosts[host].announcements.push(now);
        let snapshot = self.hosts[host].vip.as_ref().map(Vip::snapshot);
        let knows = snapshot.is_none_or(|s| s.lease_end.is_none() && s.state != VipState::Claiming);
        if self.hosts[host].address.is_none() && knows {
            self.failures.push(format!("{}: announces what it does not have", self.hosts[host].name));
        }
        for other in 0..self.hosts.len() {
            if self.connects(host, other) && !self.loses(host, other, false) {
                let delay = self.rng.between(MS / 20, 2 * MS);
                self.push_core(other, delay, Core::Event(VipEvent::Heard { mac }));
            }
        }
    }

    pub fn connects(&self, a: usize, b: usize) -> bool {
        let (left, right) = (&self.hosts[a], &self.hosts[b]);
        a != b && left.is_on_segment() && right.is_on_segment() && left.side == right.side
    }

    fn loses(&mut self, from: usize, to: usize, is_probe: bool) -> bool {
        let in_row = self.lost.get(&(from, to, is_probe)).copied().unwrap_or(0);
        let is_lost = in_row < 2 && self.rng.chance(self.loss);
        self.lost.insert((from, to, is_probe), if is_lost { in_row + 1 } else { 0 });
        is_lost
    }

    // -- what stops and comes back --------------------------------------------------------------------

    pub fn resume(&mut self, host: usize) {
        let waiting = std::mem::take(&mut self.backlog[host]);
        // Whichever of them the process looks at first.
        if self.rng.chance(50) {
            self.time_out(host);
        }
        for what in waiting {
            self.push_core(host, 0, what);
        }
        // The timer that was armed before is among them, or to come.
    }
}
