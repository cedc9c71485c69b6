//! How long one client waits: by the rules of hold, or by those of the queue under `maxconn`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::model::{Reason, ServiceSpec};

/// The rules of a service as its table says them now.
#[derive(Debug, Clone)]
pub(in crate::proxy) struct Terms {
    /// Counted from a client's arrival; None: hold is off.
    pub hold_limit: Option<Duration>,
    /// There are targets, and they may be used now.
    pub available: bool,
    pub spec: Arc<ServiceSpec>,
}

/// One client's times.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wait {
    pub arrived: Instant,
    /// When it began to wait for the first time.
    pub since: Instant,
    /// It has waited, if only for a while, because there was no target.
    pub held: bool,
}

impl Wait {
    /// When this wait is over by what is known now, and why.
    ///
    /// * No target: `hold` after the arrival, also for one that came for a slot and then lost the target.
    /// * Targets that are full: `queue.timeout` after it began to wait.
    /// * Both, one after the other: the later of `hold` after the arrival and `queue.timeout` after the
    ///   targets were there and full. Targets that come and go do not prolong that again and again: nobody
    ///   waits for a slot longer than `queue.timeout` after its hold would have ended.
    pub fn end(&self, terms: &Terms, full_since: Option<Instant>) -> (Instant, Reason) {
        let held_until = terms.hold_limit.map(|limit| self.arrived + limit);
        if !terms.available {
            return held_until.map_or((self.since, Reason::HoldOff), |end| (end, Reason::HoldExpired));
        }
        let latest_start = held_until.map_or(self.since, |end| end.max(self.since));
        let queued_since = full_since.map_or(self.since, |full| full.clamp(self.since, latest_start));
        let queued_until = queued_since + terms.spec.queue.timeout;
        let outlived_an_outage = self.held || full_since.is_some_and(|full| full > self.since);
        match held_until {
            Some(end) if self.held && full_since.is_none() => (end, Reason::HoldExpired),
            Some(end) if outlived_an_outage => (end.max(queued_until), Reason::QueueExpired),
            None if self.held && full_since.is_none() => (self.since, Reason::HoldOff),
            _ => (queued_until, Reason::QueueExpired),
        }
    }

    /// When to ask again: at the end, or earlier, when it would be over if the target was lost meanwhile.
    pub fn ask_again(&self, end: Instant, terms: &Terms, now: Instant) -> Instant {
        let held_until = terms.hold_limit.map(|limit| self.arrived + limit);
        held_until.filter(|held| now < *held).map_or(end, |held| held.min(end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{QueueSpec, Role};
    use crate::runtime::clock;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn terms(hold: Option<u32>, queue: u32, available: bool) -> Terms {
        let mut spec = ServiceSpec::new("replica", Role::Replica);
        spec.queue = QueueSpec { timeout: SECOND * queue, max: 9 };
        Terms { hold_limit: hold.map(|limit| SECOND * limit), available, spec: Arc::new(spec) }
    }

    /// Seconds after its arrival at which a wait that began after `since` ends.
    fn end(since: u32, held: bool, terms: &Terms, full: Option<u32>) -> (u32, Reason) {
        let arrived = clock::now();
        let wait = Wait { arrived, since: arrived + SECOND * since, held };
        let (end, why) = wait.end(terms, full.map(|full| arrived + SECOND * full));
        (end.duration_since(arrived).as_secs() as u32, why)
    }

    #[test]
    fn who_waits_for_a_slot_has_the_queues_time() {
        assert_eq!(end(1, false, &terms(Some(45), 3, true), Some(0)), (4, Reason::QueueExpired));
        assert_eq!(end(1, false, &terms(None, 3, true), Some(0)), (4, Reason::QueueExpired));
        assert_eq!(end(1, false, &terms(Some(45), 3, true), None), (4, Reason::QueueExpired));
    }

    #[test]
    fn who_loses_the_target_has_the_hold_time_from_its_arrival() {
        assert_eq!(end(1, false, &terms(Some(45), 3, false), None), (45, Reason::HoldExpired));
        assert_eq!(end(1, false, &terms(None, 3, false), None), (1, Reason::HoldOff));
        // And when it comes back full, the later of both.
        assert_eq!(end(1, false, &terms(Some(45), 3, true), Some(2)), (45, Reason::QueueExpired));
        assert_eq!(end(1, false, &terms(Some(10), 30, true), Some(2)), (32, Reason::QueueExpired));
    }

    #[test]
    fn who_was_held_gets_the_later_of_both() {
        assert_eq!(end(0, true, &terms(Some(45), 3, true), Some(44)), (47, Reason::QueueExpired));
        assert_eq!(end(0, true, &terms(Some(45), 3, true), Some(5)), (45, Reason::QueueExpired));
        assert_eq!(end(0, true, &terms(Some(45), 3, true), None), (45, Reason::HoldExpired));
        assert_eq!(end(0, true, &terms(Some(45), 3, false), None), (45, Reason::HoldExpired));
    }

    proptest! {
        #[test]
        fn nobody_waits_without_an_end(
            since in 0..100u32, held: bool, hold in prop::option::of(0..100u32), queue in 0..100u32,
            available: bool, full in prop::option::of(0..1000u32),
        ) {
            let terms = terms(hold, queue, available);
            let (end, _) = end(since, held, &terms, full);
            prop_assert!(end <= hold.unwrap_or(0).max(since) + queue);
        }

        #[test]
        fn a_lost_target_is_noticed_when_the_hold_is_over(
            now in 0..100u32, since in 0..100u32, hold in 0..100u32, queue in 0..100u32,
        ) {
            let arrived = clock::now();
            let wait = Wait { arrived, since: arrived + SECOND * since, held: false };
            let terms = terms(Some(hold), queue, true);
            let (end, _) = wait.end(&terms, None);
            let next = wait.ask_again(end, &terms, arrived + SECOND * now);
            prop_assert!(next <= end);
            prop_assert!(now >= hold || next <= arrived + SECOND * hold);
        }
    }
}
