//! How services treat their clients: keys of a service over keys of `defaults` over the usual.

use std::time::Duration;

use super::diagnose::Sink;
use super::schema::{Close, Hold, HoldNotice, HoldTimeout, Policy};
use crate::model::{CloseOnDown, HoldSpec, Role, ServiceSpec};

/// `hold: {}` in a service where the defaults say `hold: off`.
const HOLD_MAX: usize = 10_000;

impl Policy {
    /// Puts what is written into `spec` and leaves the rest of it.
    pub(super) fn apply(&self, spec: &mut ServiceSpec) {
        put(&mut spec.balance, self.balance);
        put(&mut spec.connect_timeout, self.connect_timeout);
        put(&mut spec.retries, self.retries);
        put(&mut spec.maxconn, self.maxconn.map(|limit| limit as usize));
        put(&mut spec.queue.timeout, self.queue_timeout);
        put(&mut spec.queue.max, self.queue_max.map(|limit| limit as usize));
        put(&mut spec.slowstart, self.slowstart.map(|written| written.value));
        put(&mut spec.clients_max, self.clients_max.map(|limit| limit as usize));
        put(&mut spec.close_on_down, self.close_on_down.map(Close::meant));
        put(&mut spec.drain, self.drain);
        put(&mut spec.allow, self.allow.as_ref().map(|allow| allow.networks.clone()));
        if let Some(rate) = &self.rate {
            put(&mut spec.rate.max, rate.max);
            put(&mut spec.rate.per_client_max, rate.per_client_max);
            put(&mut spec.rate.cancels_max, rate.cancels_max);
        }
        put(&mut spec.startup_timeout, self.startup_timeout);
        put(&mut spec.freebind, self.freebind);
        put(&mut spec.session_log, self.session_log);
        put(&mut spec.tcp.keepalive_idle, self.keepalive_idle);
        put(&mut spec.tcp.keepalive_interval, self.keepalive_interval);
        put(&mut spec.tcp.keepalive_count, self.keepalive_count);
        put(&mut spec.tcp.user_timeout, self.user_timeout);
        if let Some(hold) = &self.hold {
            spec.hold = hold.over(&spec.hold);
            spec.hold_notice = hold.notice_over(spec.hold_notice);
        }
    }

    /// What a service of this role may not have; `defaults` may have it for the others.
    pub(super) fn refuse_for(&self, role: Role, sink: &Sink) {
        if let Some(Close::After(grace)) = self.close_on_down
            && role.includes_primary()
            && !grace.value.is_zero()
        {
            let sentence = format!(
                "no `grace` for `role: {role}`: sessions of a primary that is down or deposed could still write \
                 meanwhile; write `close_on_down: true`"
            );
            sink.report(grace.at, sentence);
        }
        if let Some(slowstart) = self.slowstart.filter(|written| has_one_target(role) && !written.value.is_zero()) {
            let sentence = format!(
                "`slowstart` shares sessions out among readers, and a service with `role: {role}` has one target: \
                 leave it out"
            );
            sink.report(slowstart.at, sentence);
        }
    }
}

/// `base` for a service of this role, without what it may not have.
pub(super) fn for_role(base: &ServiceSpec, name: &str, role: Role) -> ServiceSpec {
    let mut spec = ServiceSpec { name: name.into(), role, ..base.clone() };
    if role.includes_primary() && matches!(spec.close_on_down, CloseOnDown::Cut { .. }) {
        spec.close_on_down = CloseOnDown::Cut { grace: Duration::ZERO };
    }
    if has_one_target(role) {
        spec.slowstart = Duration::ZERO;
    }
    spec
}

/// Whether whoever holds the leader key is the only member of this role.
pub(super) fn has_one_target(role: Role) -> bool {
    matches!(role, Role::Primary | Role::StandbyLeader)
}

fn put<T>(place: &mut T, written: Option<T>) {
    if let Some(value) = written {
        *place = value;
    }
}

impl Close {
    fn meant(self) -> CloseOnDown {
        match self {
            Close::Never => CloseOnDown::Stay,
            Close::AtOnce => CloseOnDown::Cut { grace: Duration::ZERO },
            Close::After(grace) => CloseOnDown::Cut { grace: grace.value },
        }
    }
}

impl Hold {
    fn over(&self, base: &HoldSpec) -> HoldSpec {
        let Hold::On { timeout, max, .. } = self else { return HoldSpec::Off };
        let (base_timeout, base_max) = match base {
            HoldSpec::On { timeout, max } => (*timeout, *max),
            HoldSpec::Off => (None, HOLD_MAX),
        };
        let timeout = match timeout {
            Some(HoldTimeout::Auto) => None,
            Some(HoldTimeout::After(limit)) => Some(*limit),
            None => base_timeout,
        };
        HoldSpec::On { timeout, max: max.map_or(base_max, |max| max as usize) }
    }

    fn notice_over(&self, base: Option<Duration>) -> Option<Duration> {
        match self {
            // Nobody is held.
            Hold::Off | Hold::On { notice: Some(HoldNotice::Never), .. } => None,
            Hold::On { notice: Some(HoldNotice::After(wait)), .. } => Some(*wait),
            Hold::On { notice: None, .. } => base,
        }
    }
}
