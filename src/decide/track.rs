//! What is known of one member from asking it: answers, proof, health, and when to ask again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::model::service::WEIGHT_DEFAULT;
use crate::model::{
    ApiAddress, CheckSpec, CheckStatus, CheckTiming, HostPort, MemberFacts, PortOutcome, ProbeOutcome, Reason,
    RestAnswer, Timeline,
};

use super::Orders;
use super::checks::{CheckTrack, Tally};
use super::health::Health;

/// Gap between the starts of probes of a member that has to prove itself.
pub const PROVING_EVERY: Duration = Duration::from_millis(20);
/// For so long; then `fastinter`.
pub const PROVING_FOR: Duration = Duration::from_secs(10);
/// Limit of one probe while somebody waits for its answer.
pub const PROVING_LIMIT: Duration = Duration::from_millis(250);
/// A leader without a key must have proved itself within the last second, so it is asked this often.
pub const KEYLESS_EVERY: Duration = Duration::from_millis(250);
/// While the DCS is silent the leader vouches for itself this often.
pub const VOUCHING_EVERY: Duration = Duration::from_millis(500);
pub const VOUCHING_LIMIT: Duration = Duration::from_secs(1);
/// REST counts as silent when its last 200 is this old.
pub const REST_SILENT_AFTER: Duration = Duration::from_secs(3);
/// A proof that was withdrawn sooner than this opens only a shorter window of fast probing.
const STEADY_PROOF: Duration = Duration::from_secs(1);
/// The shortest window is PROVING_FOR / 2^10, which is less than one probe.
const SHORT_PROOFS_MAX: u32 = 10;
/// A probe whose outcome was never told is given up this long after its deadline.
const PROBE_LOST_AFTER: Duration = Duration::from_secs(1);

/// How badly an answer is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// The interval of its health.
    Routine,
    /// Named by the leader key and not proven.
    Proving,
    /// Leader without a key.
    Keyless,
    /// Leader while the DCS is silent or late.
    Vouching,
    /// Any other member while the leader cannot be read from the DCS.
    Watching,
}

/// Out of recovery by live SQL.
#[derive(Debug, Clone, PartialEq)]
pub struct Proof {
    /// Send time of the latest probe that said so.
    pub at: Instant,
    /// When the unbroken series of such answers began.
    pub since: Instant,
    pub timeline: Option<Timeline>,
    pub system_id: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
struct InFlight {
    number: u64,
    sent_at: Instant,
    deadline: Instant,
}

/// One member, as asked.
#[derive(Debug, Clone)]
pub struct MemberTrack {
    /// The member key; None when it is gone.
    pub facts: Option<MemberFacts>,
    /// The last known addresses: they outlive the key.
    pub conn: Option<HostPort>,
    pub api: Option<ApiAddress>,
    pub offline: Option<bool>,
    /// The configuration alone is enough to know this member.
    pub is_static: bool,
    /// As ordered by an operator.
    pub orders: Orders,
    /// Weight of the configuration; None: the default.
    pub weight: Option<u32>,
    /// HTTP checks of its own: all there is with `trust: rest`, further conditions with `confirm`.
    pub checks: BTreeMap<Arc<CheckSpec>, CheckTrack>,
    /// When the common check came back from being down, or maintenance ended; None before.
    pub risen_at: Option<Instant>,
    /// It was up once, or was in maintenance: the next rise is a return.
    returns: bool,
    /// What HAProxy would count of the common check.
    pub tally: Tally,
    pub health: Health,
    pub health_reason: Reason,
    /// Why REST told nothing when it last did.
    rest_reason: Reason,
    pub health_since: Instant,
    /// The last real answer and the send time of its probe.
    pub answer: Option<(Instant, RestAnswer)>,
    /// Send time of the last probe answered 200.
    pub last_200: Option<Instant>,
    /// ... and with its failsafe mode active.
    pub last_failsafe: Option<Instant>,
    pub proof: Option<Proof>,
    /// Why it is not proven.
    pub doubt: Reason,
    pub asked: bool,
    in_flight: Option<InFlight>,
    port_in_flight: Option<InFlight>,
    last_sent: Option<Instant>,
    last_port_sent: Option<Instant>,
    last_counted: Option<Instant>,
    proving_until: Option<Instant>,
    /// Proofs in a row that did not last; each halves the next window of fast probing.
    short_proofs: u32,
    named_at: Option<Instant>,
    /// Asked to be probed out of turn.
    hurry: bool,
}

/// What an outcome changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Change {
    pub went_up: bool,
    pub went_down: bool,
    /// Ask the PostgreSQL port, because REST told nothing.
    pub ask_port: bool,
}

impl MemberTrack {
    pub fn new(timing: &CheckTiming, now: Instant) -> MemberTrack {
        MemberTrack {
            facts: None,
            conn: None,
            api: None,
            offline: None,
            is_static: false,
            orders: Orders::default(),
            weight: None,
            checks: BTreeMap::new(),
            risen_at: None,
            returns: false,
            tally: Tally::new(now),
            health: Health::new(timing),
            health_reason: Reason::NotChecked,
            rest_reason: Reason::NotChecked,
            health_since: now,
            answer: None,
            last_200: None,
            last_failsafe: None,
            proof: None,
            doubt: Reason::NotChecked,
            asked: false,
            in_flight: None,
            port_in_flight: None,
            last_sent: None,
            last_port_sent: None,
            last_counted: None,
            proving_until: None,
            short_proofs: 0,
            named_at: None,
            hurry: false,
        }
    }

    /// The history of this check, or of one that asks the same at other times.
    pub fn check_like(&self, check: &CheckSpec) -> Option<&CheckTrack> {
        let like = || self.checks.iter().find(|(known, _)| known.asks_like(check)).map(|(_, history)| history);
        self.checks.get(check).or_else(like)
    }

    /// As ordered, as configured, or the default.
    pub fn weight_now(&self) -> u32 {
        self.orders.weight.or(self.weight).unwrap_or(WEIGHT_DEFAULT)
    }

    pub fn says_in_recovery(&self) -> bool {
        self.answer.as_ref().is_some_and(|(_, a)| a.is_in_recovery())
    }

    pub fn says_writable(&self) -> bool {
        self.answer.as_ref().is_some_and(|(_, a)| a.is_writable())
    }

    /// Its last answer said 200 and is not older than REST's silence.
    pub fn claims_lead(&self, now: Instant) -> bool {
        self.answer.as_ref().is_some_and(|(_, a)| a.claims_lead()) && self.vouches(now)
    }

    /// It said 200 recently, whatever it said since.
    pub fn vouches(&self, now: Instant) -> bool {
        self.last_200.is_some_and(|at| now < at + REST_SILENT_AFTER)
    }

    /// It said 200 recently with failsafe mode active, whatever it said since.
    pub fn vouches_by_failsafe(&self, now: Instant) -> bool {
        self.last_failsafe.is_some_and(|at| now < at + REST_SILENT_AFTER)
    }

    /// Withdraws the proof. An answer that is under way was asked before, so it is not waited for.
    pub fn doubt(&mut self, why: Reason, now: Instant) {
        let over = self.proving_until.is_none_or(|until| now >= until);
        match self.proof.take() {
            // A proof that does not last must not mean asking for ever at full speed.
            Some(proof) if now < proof.since + STEADY_PROOF => {
                self.short_proofs = (self.short_proofs + 1).min(SHORT_PROOFS_MAX);
                if over {
                    self.proving_until = Some(now + PROVING_FOR / (1 << self.short_proofs));
                }
            }
            Some(_) => self.open_window(now),
            None if over => self.open_window(now),
            None => {}
        }
        self.doubt = why;
        self.in_flight = None;
        self.hurry = true;
    }

    fn open_window(&mut self, now: Instant) {
        self.short_proofs = 0;
        self.proving_until = Some(now + PROVING_FOR);
    }

    /// The leader key names it from now on: only what it says from here counts.
    pub fn named(&mut self, now: Instant) {
        self.proof = None;
        self.doubt = Reason::LeaderUnproven;
        self.in_flight = None;
        self.hurry = true;
        self.named_at = Some(now);
        self.open_window(now);
    }

    /// It said in recovery after the leader key had named it: not promoted, or not any more.
    pub fn is_harmless(&self) -> bool {
        let said = self.answer.as_ref().filter(|(_, a)| a.is_in_recovery()).map(|(sent_at, _)| *sent_at);
        said.is_some_and(|at| self.named_at.is_none_or(|named| at >= named))
    }

    /// Maintenance ends: whatever was known is too old, and it is asked at once.
    pub fn restart(&mut self, timing: &CheckTiming, now: Instant) {
        self.doubt(Reason::NotChecked, now);
        self.health = Health::new(timing);
        self.health_changed(Reason::NotChecked, now);
        self.returns = true;
        self.answer = None;
    }

    /// Ask out of turn.
    pub fn hurry(&mut self) {
        self.hurry = true;
    }

    /// When the next probe is due.
    pub fn due(&self, urgency: Urgency, timing: &CheckTiming, now: Instant) -> Option<Instant> {
        self.api.as_ref()?;
        if let Some(flight) = &self.in_flight {
            // A patient probe gives way when somebody waits for the answer now.
            let wanted_by = flight.sent_at + self.limit(urgency, timing, now);
            let lost_at = flight.deadline + PROBE_LOST_AFTER;
            return Some(if wanted_by < flight.deadline { wanted_by } else { lost_at });
        }
        if self.hurry {
            return Some(now);
        }
        let last = match self.last_sent {
            Some(at) => at,
            None => return Some(now),
        };
        Some(last + self.interval(urgency, timing, now))
    }

    fn interval(&self, urgency: Urgency, timing: &CheckTiming, now: Instant) -> Duration {
        match urgency {
            Urgency::Routine => self.health.interval(timing),
            Urgency::Proving if self.is_proving_fast(now) => PROVING_EVERY,
            Urgency::Proving => timing.fastinter,
            Urgency::Keyless => KEYLESS_EVERY,
            Urgency::Vouching => VOUCHING_EVERY,
            Urgency::Watching => timing.fastinter,
        }
    }

    fn is_proving_fast(&self, now: Instant) -> bool {
        self.proving_until.is_some_and(|until| now < until)
    }

    fn limit(&self, urgency: Urgency, timing: &CheckTiming, now: Instant) -> Duration {
        match urgency {
            Urgency::Proving if self.is_proving_fast(now) => PROVING_LIMIT,
            Urgency::Keyless | Urgency::Vouching | Urgency::Watching => VOUCHING_LIMIT.min(timing.timeout),
            Urgency::Routine | Urgency::Proving => timing.timeout,
        }
    }

    /// Notes that a probe goes out, and returns where to and its limit.
    pub fn send(
        &mut self,
        number: u64,
        urgency: Urgency,
        timing: &CheckTiming,
        now: Instant,
    ) -> Option<(ApiAddress, Duration)> {
        let address = self.api.clone()?;
        let limit = self.limit(urgency, timing, now);
        self.in_flight = Some(InFlight { number, sent_at: now, deadline: now + limit });
        self.last_sent = Some(now);
        self.hurry = false;
        Some((address, limit))
    }

    /// Notes that the port is asked; None when that happened too recently or there is no address.
    pub fn send_port(&mut self, number: u64, timing: &CheckTiming, now: Instant) -> Option<(HostPort, Duration)> {
        let address = self.conn.clone()?;
        let busy = self.port_in_flight.as_ref().is_some_and(|f| now < f.deadline + PROBE_LOST_AFTER);
        let recent = self.last_port_sent.is_some_and(|at| now < at + timing.fastinter);
        if busy || recent {
            return None;
        }
        let limit = timing.timeout;
        self.port_in_flight = Some(InFlight { number, sent_at: now, deadline: now + limit });
        self.last_port_sent = Some(now);
        Some((address, limit))
    }

    /// Takes in how a probe ended; None for an outcome that nobody waits for any more.
    pub fn probe_done(
        &mut self,
        number: u64,
        outcome: ProbeOutcome,
        timing: &CheckTiming,
        now: Instant,
    ) -> Option<Change> {
        let flight = self.in_flight.take_if(|f| f.number == number)?;
        if outcome != ProbeOutcome::CheckerLate {
            self.asked = true;
            self.tell(&outcome, now.saturating_duration_since(flight.sent_at));
        }
        let reason = match outcome {
            ProbeOutcome::Answer(answer) => return Some(self.answered(*answer, flight.sent_at, timing, now)),
            ProbeOutcome::CheckerLate => return Some(Change::default()),
            ProbeOutcome::TimedOut => Reason::RestTimedOut,
            ProbeOutcome::Refused => Reason::RestRefused,
            ProbeOutcome::Unreachable(_) => Reason::RestUnreachable,
            ProbeOutcome::Garbled(_) => Reason::RestGarbled,
        };
        if self.proof.is_none() {
            self.doubt = reason;
        }
        Some(self.rest_told_nothing(reason, timing, now))
    }

    /// The outcome in HAProxy's words. Which layer a time-out met is not known here: the one limit of the
    /// common check covers all of them.
    fn tell(&mut self, outcome: &ProbeOutcome, took: Duration) {
        let (status, code, problem) = match outcome {
            ProbeOutcome::Answer(answer) if answer.is_writable() || answer.is_in_recovery() => {
                (CheckStatus::L7Ok, Some(answer.status), String::new())
            }
            ProbeOutcome::Answer(answer) => (CheckStatus::L7Sts, Some(answer.status), answer.state.clone()),
            ProbeOutcome::TimedOut => (CheckStatus::L7Tout, None, String::new()),
            ProbeOutcome::Refused => (CheckStatus::L4Con, None, String::new()),
            ProbeOutcome::Unreachable(problem) => (CheckStatus::L4Con, None, problem.clone()),
            ProbeOutcome::Garbled(problem) => (CheckStatus::L7Rsp, None, problem.clone()),
            ProbeOutcome::CheckerLate => return,
        };
        (self.tally.status, self.tally.code, self.tally.problem, self.tally.took) = (status, code, problem, took);
    }

    fn answered(&mut self, answer: RestAnswer, sent_at: Instant, timing: &CheckTiming, now: Instant) -> Change {
        if answer.claims_lead() {
            self.last_200 = Some(sent_at);
            // It ends when the leader takes its key again, which we may not have read yet.
            if answer.failsafe_active {
                self.last_failsafe = Some(sent_at);
            }
        }
        if answer.is_writable() {
            let since = self.proof.as_ref().map_or(now, |p| p.since);
            let (timeline, system_id) = (answer.timeline, answer.system_id.clone());
            self.proof = Some(Proof { at: sent_at, since, timeline, system_id });
        } else {
            let why = if answer.is_in_recovery() { Reason::InRecovery } else { Reason::NotWritable };
            if self.proof.is_some() {
                self.doubt(why, now);
            }
            self.doubt = why;
        }
        // A PostgreSQL that crashes and starts again takes longer than the window, and says so.
        let stirs = self.answer.as_ref().is_some_and(|(_, before)| before.state != answer.state);
        if self.proof.is_none() && stirs {
            self.proving_until = Some(now + PROVING_FOR);
        }
        let runs = answer.is_writable() || answer.is_in_recovery();
        self.answer = Some((sent_at, answer));
        if runs {
            let went_up = self.health.pass();
            if went_up {
                self.tally.went_up(self.tally.downs > 0, now);
                self.risen_at = self.returns.then_some(now).or(self.risen_at);
                self.returns = true;
                self.health_changed(Reason::CheckPassed, now);
            }
            self.health_reason = if self.health.is_up() { Reason::CheckPassed } else { Reason::Rising };
            return Change { went_up, ..Change::default() };
        }
        self.rest_told_nothing(Reason::NotRunning, timing, now)
    }

    /// Without a word from REST the PostgreSQL port decides; without an address the silence does.
    fn rest_told_nothing(&mut self, reason: Reason, timing: &CheckTiming, now: Instant) -> Change {
        self.rest_reason = reason;
        let is_down = self.health.is_known() && !self.health.is_up();
        if self.conn.is_none() || !is_down {
            self.health_reason = reason;
        } // else the port is asked next and has the word, or each check would tell two reasons
        if self.conn.is_none() {
            // `fall` is a span of time, however fast the probing.
            let paced = self.last_counted.is_none_or(|at| now >= at + timing.fastinter);
            let went_down = paced && self.count_failure(reason, now);
            return Change { went_down, ..Change::default() };
        }
        Change { ask_port: true, ..Change::default() }
    }

    /// `vouched`: a key of this member is in the DCS, so a port that answers is enough to stay.
    pub fn port_done(&mut self, number: u64, outcome: PortOutcome, vouched: bool, now: Instant) -> Option<Change> {
        self.port_in_flight.take_if(|f| f.number == number)?;
        let reason = match outcome {
            PortOutcome::CheckerLate => return Some(Change::default()),
            PortOutcome::Answered if vouched => {
                self.health_reason = self.rest_reason;
                return Some(Change::default());
            }
            PortOutcome::Answered => Reason::MemberGone,
            PortOutcome::Refused => Reason::PortRefused,
            PortOutcome::TimedOut | PortOutcome::Unreachable(_) => Reason::PortSilent,
        };
        if reason != Reason::MemberGone && self.proof.is_some() {
            self.doubt(reason, now);
        }
        Some(Change { went_down: self.count_failure(reason, now), ..Change::default() })
    }

    fn count_failure(&mut self, reason: Reason, now: Instant) -> bool {
        self.last_counted = Some(now);
        if self.health.can_fall() {
            self.tally.failures += 1;
        }
        let went_down = self.health.fail();
        if went_down {
            self.tally.went_down(now);
            self.health_changed(reason, now);
        }
        self.health_reason = reason;
        went_down
    }

    fn health_changed(&mut self, reason: Reason, now: Instant) {
        self.health_reason = reason;
        self.health_since = now;
    }

    /// Instants at which something about this member changes by time alone.
    pub fn deadlines(&self) -> impl Iterator<Item = (Instant, &'static str)> {
        let silent = self.last_200.map(|at| (at + REST_SILENT_AFTER, "REST counts as silent"));
        let proving = self.proving_until.map(|at| (at, "fast probing ends"));
        silent.into_iter().chain(proving)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::clock;

    /// One check of a member whose REST API refuses, and then its port.
    fn refused(track: &mut MemberTrack, number: u64, timing: &CheckTiming, now: Instant) -> [Reason; 2] {
        track.send(number, Urgency::Routine, timing, now).unwrap();
        track.probe_done(number, ProbeOutcome::Refused, timing, now).unwrap();
        let told_first = track.health_reason;
        track.send_port(number, timing, now).unwrap();
        track.port_done(number, PortOutcome::Refused, true, now).unwrap();
        [told_first, track.health_reason]
    }

    #[test]
    fn a_dead_member_gives_one_reason_in_every_check() {
        let (timing, start) = (CheckTiming::default(), clock::now());
        let mut track = MemberTrack::new(&timing, start);
        track.api = ApiAddress::parse("http://127.0.0.1:8008/patroni");
        track.conn = Some(HostPort::new("127.0.0.1", 5432));
        let check = |number: u32| refused(&mut track, u64::from(number), &timing, start + timing.downinter * number);
        let told: Vec<[Reason; 2]> = (1..timing.fall + 4).map(check).collect();
        for reasons in &told[timing.fall as usize..] {
            assert_eq!(*reasons, [Reason::PortRefused; 2]);
        }
    }
}
