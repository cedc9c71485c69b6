//! When to read, whom to ask, and when to ask the next one too. Pure: time comes in.

use std::time::{Duration, Instant};

/// Freshness needs a read that was sent at most 2 s ago.
const READ_INTERVAL: Duration = Duration::from_secs(1);
/// After this long the same read is sent to the next endpoint too.
const HEDGE_AFTER: Duration = Duration::from_millis(500);
/// Extra reads (a new leader, a lost watch) keep this distance from the last one, and more of it when a
/// read is dear: a thousand clusters that fail over together must not read everything fifty times a second.
const EXTRA_READ_GAP_MIN: Duration = Duration::from_millis(20);
const EXTRA_READ_GAP_PER_PREFIX: Duration = Duration::from_micros(200);
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// A pause that doubles from `BACKOFF_MIN` to `BACKOFF_MAX`.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    pub fn next(&mut self) -> Duration {
        let wait = BACKOFF_MIN.saturating_mul(1 << self.failures.min(8)).min(BACKOFF_MAX);
        self.failures = self.failures.saturating_add(1);
        wait
    }

    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

/// One read, asked of one endpoint after the other until one answers. When the one in use is silent
/// and the others are no better, it is asked once more over a new connection: behind an address that
/// has moved, old connections are dead and new ones work.
#[derive(Debug)]
struct Round {
    hedge_at: Instant,
    asked: usize,
    outstanding: usize,
    current_failed: bool,
}

impl Round {
    fn asks_max(&self, endpoints: usize) -> usize {
        endpoints + usize::from(!self.current_failed)
    }
}

/// The rhythm of reads of one session.
#[derive(Debug)]
pub(super) struct Rounds {
    endpoints: usize,
    /// Index of the endpoint in use.
    current: usize,
    serial: u64,
    extra_read_gap: Duration,
    round: Option<Round>,
    started: Option<Instant>,
    due: Instant,
    again: bool,
    backoff: Backoff,
}

/// Whom to ask now, as part of round `serial`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ask {
    pub endpoint: usize,
    pub serial: u64,
}

impl Rounds {
    pub fn new(endpoints: usize, prefixes: usize, now: Instant) -> Rounds {
        let dear = EXTRA_READ_GAP_PER_PREFIX.saturating_mul(u32::try_from(prefixes).unwrap_or(u32::MAX));
        Rounds {
            endpoints,
            current: 0,
            serial: 0,
            extra_read_gap: dear.clamp(EXTRA_READ_GAP_MIN, READ_INTERVAL),
            round: None,
            started: None,
            due: now,
            again: false,
            backoff: Backoff::default(),
        }
    }

    pub fn is_open(&self, serial: u64) -> bool {
        self.round.is_some() && self.serial == serial
    }

    /// A read sent from now on is wanted: at once, or right after the one under way.
    pub fn hurry(&mut self, now: Instant) {
        if self.round.is_some() {
            self.again = true;
        } else {
            self.due = self.due.min(self.soon(now));
        }
    }

    fn soon(&self, now: Instant) -> Instant {
        self.started.map_or(now, |started| now.max(started + self.extra_read_gap))
    }

    /// The next question that is due, if any. Call until None.
    pub fn ask(&mut self, now: Instant) -> Option<Ask> {
        if self.endpoints == 0 {
            return None;
        }
        match &mut self.round {
            None if now >= self.due => {
                self.serial += 1;
                self.started = Some(now);
                self.round =
                    Some(Round { hedge_at: now + HEDGE_AFTER, asked: 1, outstanding: 1, current_failed: false });
                Some(Ask { endpoint: self.current, serial: self.serial })
            }
            Some(round) if round.asked < round.asks_max(self.endpoints) && now >= round.hedge_at => {
                let endpoint = (self.current + round.asked) % self.endpoints;
                round.hedge_at = now + HEDGE_AFTER;
                round.asked += 1;
                round.outstanding += 1;
                Some(Ask { endpoint, serial: self.serial })
            }
            _ => None,
        }
    }

    /// When [`Rounds::ask`] may have something to say without anything else happening.
    pub fn wake_at(&self) -> Option<Instant> {
        match &self.round {
            None => Some(self.due),
            Some(round) => (round.asked < round.asks_max(self.endpoints)).then_some(round.hedge_at),
        }
    }

    /// `endpoint` answered first: it is the one in use from now on.
    pub fn answered(&mut self, endpoint: usize, now: Instant) {
        self.current = endpoint;
        self.round = None;
        self.backoff.reset();
        let regular = self.started.map_or(now, |started| started + READ_INTERVAL);
        self.due = if std::mem::take(&mut self.again) { self.soon(now) } else { regular.max(now) };
    }

    /// One endpoint of the open round failed. When it was the last hope, the round ends and the next
    /// one waits a little.
    pub fn failed(&mut self, endpoint: usize, now: Instant) {
        let Some(round) = &mut self.round else { return };
        round.outstanding = round.outstanding.saturating_sub(1);
        round.current_failed |= endpoint == self.current;
        // A failure is an answer too: no need to wait for the hedge.
        round.hedge_at = now;
        if round.outstanding == 0 && round.asked >= round.asks_max(self.endpoints) {
            self.round = None;
            self.again = false;
            self.due = now + self.backoff.next();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::clock;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn a_silent_endpoint_is_hedged_in_turn_and_the_first_answer_wins() {
        let start = clock::now();
        let mut rounds = Rounds::new(3, 1, start);
        assert_eq!(rounds.ask(start), Some(Ask { endpoint: 0, serial: 1 }));
        assert_eq!(rounds.ask(start + ms(499)), None);
        assert_eq!(rounds.ask(start + ms(500)), Some(Ask { endpoint: 1, serial: 1 }));
        assert_eq!(rounds.ask(start + ms(999)), None);
        assert_eq!(rounds.ask(start + ms(1000)), Some(Ask { endpoint: 2, serial: 1 }));
        assert_eq!(rounds.ask(start + ms(1500)), Some(Ask { endpoint: 0, serial: 1 }), "over a new connection");
        assert_eq!(rounds.wake_at(), None);
        rounds.answered(1, start + ms(1600));
        assert_eq!(rounds.ask(start + ms(1600)), Some(Ask { endpoint: 1, serial: 2 }), "the second is over already");
    }

    #[test]
    fn a_failure_asks_the_next_at_once_and_all_failures_back_off() {
        let mut now = clock::now();
        let mut rounds = Rounds::new(2, 1, now);
        let mut waits = Vec::new();
        for serial in 1..=6 {
            assert_eq!(rounds.ask(now), Some(Ask { endpoint: 0, serial }));
            rounds.failed(0, now);
            assert_eq!(rounds.ask(now), Some(Ask { endpoint: 1, serial }));
            rounds.failed(1, now);
            assert_eq!(rounds.ask(now), None);
            waits.push(rounds.wake_at().unwrap() - now);
            now = rounds.wake_at().unwrap();
        }
        assert_eq!(waits, [100, 200, 400, 800, 1000, 1000].map(ms));
    }

    #[test]
    fn hurry_is_coalesced_and_keeps_its_distance() {
        let start = clock::now();
        let mut rounds = Rounds::new(1, 1, start);
        rounds.ask(start);
        rounds.hurry(start);
        rounds.hurry(start);
        rounds.answered(0, start + ms(1));
        assert_eq!(rounds.wake_at(), Some(start + ms(20)));
        rounds.ask(start + ms(20));
        rounds.answered(0, start + ms(21));
        assert_eq!(rounds.wake_at(), Some(start + ms(1020)));
        rounds.hurry(start + ms(300));
        assert_eq!(rounds.wake_at(), Some(start + ms(300)));
    }
}
