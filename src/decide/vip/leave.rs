//! Letting go in order: sessions, the address, the mark. And how the process ends.

use std::time::{Duration, Instant};

use crate::model::{Reason, VipClaim, VipOnExit};

use super::{Exiting, Phase, Vip, VipEffect, VipTransition};

/// How long sessions may take to end before the address goes without them.
const SESSIONS_MAX: Duration = Duration::from_millis(250);
/// A removal that failed, or is not answered, is tried again after so long.
const REMOVE_AGAIN: Duration = Duration::from_secs(1);
/// How long the end of the process waits for all of this. What is left then, the kernel's lease ends.
const EXIT_MAX: Duration = Duration::from_secs(3);
/// How long the end of the process waits for the kernel to take the last lifetime.
const KEEP_MAX: Duration = Duration::from_millis(250);

#[derive(Debug, Clone)]
pub(super) enum Leave {
    Closing { number: u64, until: Instant },
    Removing { number: u64, again_at: Instant },
}

impl Leave {
    pub(super) fn is_removing(&self, number: u64) -> bool {
        matches!(self, Leave::Removing { number: mine, .. } if *mine == number)
    }
}

impl Vip {
    /// Whatever the phase: nothing of ours stays. True: the phase is another one now.
    pub(super) fn release(&mut self, reason: Reason, now: Instant) -> bool {
        self.announcer.stop();
        let is_held = matches!(self.phase, Phase::Held(_));
        if is_held || self.interface.may_be_there() {
            self.log(VipTransition::Wanted { up: false, reason });
        }
        if !is_held && !self.interface.may_be_there() {
            return self.let_gone(reason, now);
        }
        let number = self.number();
        self.effects.push_back(VipEffect::CloseSessions { number, reason });
        if is_held && !self.interface.may_be_there() {
            // The kernel or somebody else took it: there is nothing that sessions could be closed before.
            self.counts.releases += 1;
            return self.let_gone(reason, now);
        }
        self.enter(Phase::Releasing(Leave::Closing { number, until: now + SESSIONS_MAX }), reason, now);
        true
    }

    fn let_gone(&mut self, reason: Reason, now: Instant) -> bool {
        self.interface.clear();
        self.delete_mark(now);
        self.enter(Phase::Released, reason, now);
        true
    }

    pub(super) fn on_sessions_closed(&mut self, number: u64, now: Instant) {
        if matches!(&self.phase, Phase::Releasing(Leave::Closing { number: mine, .. }) if *mine == number) {
            self.remove(now);
        }
    }

    fn remove(&mut self, now: Instant) {
        if self.spec.close_sockets && matches!(self.phase, Phase::Releasing(Leave::Closing { .. })) {
            self.effects.push_back(VipEffect::DestroySockets);
        }
        let number = self.number();
        self.effects.push_back(VipEffect::Remove { number });
        self.phase = Phase::Releasing(Leave::Removing { number, again_at: now + REMOVE_AGAIN });
    }

    pub(super) fn advance_releasing(&mut self, now: Instant) -> bool {
        // Gone by itself: its lease was over, or somebody was faster.
        if !self.interface.may_be_there() {
            self.counts.releases += 1;
            return self.let_gone(self.reason, now);
        }
        let due = match &self.phase {
            Phase::Releasing(Leave::Closing { until, .. }) => *until,
            Phase::Releasing(Leave::Removing { again_at, .. }) => *again_at,
            _ => return false,
        };
        if now >= due {
            self.remove(now);
        }
        false
    }

    pub(super) fn on_removed(&mut self, problem: Option<String>, now: Instant) {
        match problem {
            None => {
                self.told.forget_problem();
                self.counts.releases += 1;
                self.let_gone(self.reason, now);
            }
            Some(problem) => self.complain("remove the address", problem, now),
        }
    }

    /// The kernel's clock of leases stood still, as ours: others may have taken the address long ago.
    pub(super) fn on_slept(&mut self, span: Duration, now: Instant) {
        self.facts.forget(now);
        self.marks.forget();
        self.log(VipTransition::Slept { for_: span });
        let is_claim = matches!(self.phase, Phase::Claiming(_) | Phase::Held(_));
        if !self.interface.may_be_there() && !is_claim {
            return;
        }
        self.announcer.stop();
        let is_there = self.interface.may_be_there();
        if is_there || matches!(self.phase, Phase::Held(_)) {
            self.log(VipTransition::Wanted { up: false, reason: Reason::MachineSlept });
        }
        if is_there {
            let number = self.number();
            self.effects.push_back(VipEffect::Remove { number });
            let leave = Leave::Removing { number, again_at: now + REMOVE_AGAIN };
            self.enter(Phase::Releasing(leave), Reason::MachineSlept, now);
        }
        let number = self.number();
        self.effects.push_back(VipEffect::CloseSessions { number, reason: Reason::MachineSlept });
        if !is_there {
            self.let_gone(Reason::MachineSlept, now);
        }
    }

    // -- the end of the process -------------------------------------------------------------------

    pub(super) fn on_exit(&mut self, now: Instant) {
        if self.exiting.is_some() {
            return;
        }
        self.exiting = Some(Exiting { until: now + EXIT_MAX, is_done: false });
        if self.keep(now) {
            return;
        }
        match self.phase {
            Phase::Starting if matches!(self.spec.on_exit, VipOnExit::Keep(_)) => {
                // Another process left it, and the next one finds it.
                self.phase = Phase::Kept { until: now };
            }
            Phase::Releasing(_) | Phase::Kept { .. } => {}
            _ => {
                self.release(Reason::Shutdown, now);
            }
        }
    }

    /// Leaves it for the next process. A lifetime beyond the lease takes a right that is fresh.
    fn keep(&mut self, now: Instant) -> bool {
        let (VipOnExit::Keep(span), Phase::Held(_)) = (self.spec.on_exit, &self.phase) else { return false };
        let wished = if self.facts.lease_end().is_some() { span } else { span.min(self.spec.lease) };
        let lifetime = self.facts.lifetime(wished, now).filter(|_| self.facts.is_fresh(now));
        let is_there = self.interface.is_present() && !self.interface.is_altered();
        let (Some((ground, _)), true) = (self.facts.renewal(&self.spec, now), is_there) else { return false };
        if let Some(lifetime) = lifetime {
            self.put(lifetime, ground, false, now);
        }
        self.announcer.stop();
        self.phase = Phase::Kept { until: now + KEEP_MAX };
        true
    }

    /// Until the process has ended it is ours to let go.
    pub(super) fn advance_kept(&mut self, now: Instant) -> bool {
        self.facts.claim() == VipClaim::NotOurs && !self.is_done() && self.release(self.facts.reason(), now)
    }

    pub(super) fn finish_exit(&mut self, now: Instant) {
        let is_left = match &self.phase {
            Phase::Kept { until } => now >= *until || !self.interface.is_putting(),
            // A mark that is still being written would stay for ever.
            Phase::Released => !self.marks.is_pending(now),
            _ => false,
        };
        if let Some(exiting) = &mut self.exiting {
            exiting.is_done |= is_left || now >= exiting.until;
        }
    }

    pub(super) fn leave_timers(&self, timers: &mut Vec<(Instant, &'static str)>) {
        match &self.phase {
            Phase::Releasing(Leave::Closing { until, .. }) => timers.push((*until, "sessions")),
            Phase::Releasing(Leave::Removing { again_at, .. }) => timers.push((*again_at, "remove again")),
            Phase::Kept { until } => timers.push((*until, "kept")),
            _ => {}
        }
        if let Some(exiting) = self.exiting.filter(|exiting| !exiting.is_done) {
            timers.push((exiting.until, "exit"));
        }
    }
}
