//! How members are checked: keys of a service over keys of `defaults` over the usual.

use super::diagnose::Sink;
use super::schema::{Check, Observing};
use crate::model::service::ServiceCheck;
use crate::model::{CheckTiming, Observe, Role, Trust};

impl Check {
    pub(super) fn timing(&self) -> CheckTiming {
        let usual = CheckTiming::default();
        let inter = self.inter.map(|written| written.value);
        // HAProxy's rule, that both are `inter` where they are not written, would make an `inter` of a
        // minute the time to notice a return; so it holds only where it makes checks more frequent.
        let downinter = inter.map_or(usual.downinter, |inter| inter.min(usual.downinter));
        let inter = inter.unwrap_or(usual.inter);
        CheckTiming {
            inter,
            fastinter: self.fastinter.map_or(usual.fastinter.min(inter), |fast| fast.value),
            downinter: self.downinter.unwrap_or(downinter),
            rise: self.rise.unwrap_or(usual.rise),
            fall: self.fall.unwrap_or(usual.fall),
            timeout: self.timeout.unwrap_or(usual.timeout),
        }
    }

    /// The whole check of a service that writes `self` beside `defaults`.
    pub(super) fn over(&self, defaults: &Check) -> ServiceCheck {
        let merged = Check {
            path: None,
            inter: self.inter.or(defaults.inter),
            fastinter: self.fastinter.or(defaults.fastinter),
            downinter: self.downinter.or(defaults.downinter),
            rise: self.rise.or(defaults.rise),
            fall: self.fall.or(defaults.fall),
            timeout: self.timeout.or(defaults.timeout),
            port: self.port.or(defaults.port),
            expect: self.expect.clone().or_else(|| defaults.expect.clone()),
            observe: None,
            keys: Vec::new(),
        };
        ServiceCheck {
            path: self.path.as_ref().map(|path| path.value.as_str().into()),
            port: merged.port,
            expect: merged.expect.clone().unwrap_or_default(),
            timing: merged.timing(),
            observe: observing(self.observe, observing(defaults.observe, Observe::default())),
        }
    }

    /// Reports timings that do not go together, where they are written; `defaults` have been looked at.
    pub(super) fn refuse_slow_fastinter(&self, defaults: Option<&Check>, sink: &Sink) {
        let usual = CheckTiming::default();
        let inter = self.inter.or(defaults.and_then(|defaults| defaults.inter));
        let fast = self.fastinter.or(defaults.and_then(|defaults| defaults.fastinter));
        let Some(fast) = fast.filter(|fast| fast.value > inter.map_or(usual.inter, |inter| inter.value)) else {
            return;
        };
        if let Some(own) = self.fastinter {
            let sentence =
                "`fastinter` is longer than `inter`: a member that changes would be checked less often, not more";
            sink.report(own.at, sentence);
        } else if let Some(own) = self.inter {
            let sentence = format!(
                "`inter` is shorter than `fastinter` of `defaults` (line {}): write a `fastinter` here, too",
                fast.at.line
            );
            sink.report(own.at, sentence);
        }
    }

    fn gives(&self, key: &str) -> bool {
        self.keys.iter().any(|(written, _)| *written == key)
    }

    /// Reports keys that nothing would go by in a service of this role.
    pub(super) fn refuse_unused(&self, role: Role, trust: Trust, sink: &Sink) {
        if trust == Trust::Rest || (self.gives("path") && role != Role::Primary) {
            return;
        }
        for (key, at) in &self.keys {
            let sentence = match *key {
                "path" => "the leader proves itself with `trust: confirm`: a `path` is for services with another role"
                    .to_string(),
                "port" | "expect" | "observe" if role != Role::Primary => {
                    format!("`{key}` is for a check of the service's own: with `trust: confirm` give it a `path`, too")
                }
                "port" | "expect" | "observe" => {
                    format!("`{key}` does not go with `trust: confirm` here: the leader proves itself at its `api`")
                }
                _ => "one question serves all services of a cluster with `trust: confirm`; write the timings in \
                      `defaults.check`"
                    .to_string(),
            };
            sink.report(*at, sentence);
        }
    }

    /// Reports keys of `defaults` that are for services which ask for themselves, when there is none.
    pub(super) fn refuse_unused_by_all(&self, sink: &Sink) {
        for (key, at) in self.keys.iter().filter(|(key, _)| matches!(*key, "port" | "expect" | "observe")) {
            let advice = if *key == "port" {
                "give the port in Patroni's restapi.connect_address, or in `members:` as `api`"
            } else {
                "leave it out"
            };
            let sentence = format!(
                "nothing would use `{key}`: it is for services with `check: {{ path: ... }}` or `trust: rest`; {advice}"
            );
            sink.report(*at, sentence);
        }
    }
}

fn observing(written: Option<Observing>, base: Observe) -> Observe {
    match written {
        None => base,
        Some(Observing::Off) => Observe { error_limit: 0, ..base },
        Some(Observing::On { error_limit, on_error }) => {
            let limit = if base.error_limit == 0 { Observe::default().error_limit } else { base.error_limit };
            Observe { error_limit: error_limit.unwrap_or(limit), on_error: on_error.unwrap_or(base.on_error) }
        }
    }
}
