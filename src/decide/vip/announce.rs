//! When neighbours are told where the address is.

use std::time::{Duration, Instant};

use crate::model::VipSpec;

const fn ms(span: u64) -> Duration {
    Duration::from_millis(span)
}

/// IPv4, since the occasion: at once, twice more in case a frame is lost, then for those whose port or cache
/// was not ready (keepalived repeats after 5 s for the same reason).
const AFTER_V4: [Duration; 8] = [ms(0), ms(50), ms(150), ms(1000), ms(2000), ms(3000), ms(4000), ms(5000)];
/// IPv6: one, and at most MAX_NEIGHBOR_ADVERTISEMENT = 3 more, RetransTimer = 1 s apart (RFC 4861 7.2.6).
const AFTER_V6: [Duration; 4] = [ms(0), ms(1000), ms(2000), ms(3000)];
/// Between two announcements that answer another host's claim.
pub(super) const DEFEND_PAUSE: Duration = ms(250);
/// RFC 4861: unsolicited advertisements are at least RetransTimer apart.
const PAUSE_V6: Duration = ms(1000);

#[derive(Debug, Clone)]
pub(super) struct Announcer {
    is_v4: bool,
    refresh: Option<Duration>,
    /// Since when the schedule runs, and how much of it was sent.
    run: Option<(Instant, usize)>,
    /// An answer to a conflict.
    defence: Option<Instant>,
    last: Option<Instant>,
    before: Option<Instant>,
    count: u64,
}

impl Announcer {
    pub(super) fn new(spec: &VipSpec) -> Announcer {
        let is_v4 = spec.address.ip.is_ipv4();
        let mut announcer =
            Announcer { is_v4, refresh: None, run: None, defence: None, last: None, before: None, count: 0 };
        announcer.adjust(spec);
        announcer
    }

    pub(super) fn adjust(&mut self, spec: &VipSpec) {
        let least = if self.is_v4 { Duration::ZERO } else { PAUSE_V6 };
        self.refresh = spec.refresh.map(|pause| pause.max(least));
    }

    pub(super) fn last(&self) -> Option<Instant> {
        self.last
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// A new occasion: the schedule begins anew, at once.
    pub(super) fn start(&mut self, now: Instant) {
        self.run = Some((now, 0));
    }

    pub(super) fn stop(&mut self) {
        self.run = None;
        self.defence = None;
    }

    /// One more, soon, against a host that claims the address too.
    pub(super) fn defend(&mut self, now: Instant) {
        let pause = if self.is_v4 { DEFEND_PAUSE } else { PAUSE_V6 };
        let at = self.last.map_or(now, |last| (last + pause).max(now));
        self.defence.get_or_insert(at);
    }

    pub(super) fn next(&self) -> Option<Instant> {
        let scheduled = self.run.and_then(|(start, sent)| {
            let after = self.after().get(sent).map(|after| start + *after);
            after.or_else(|| self.refresh.map(|pause| self.last.unwrap_or(start) + pause))
        });
        [scheduled, self.defence].into_iter().flatten().min()
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.next().is_some_and(|at| at <= now)
    }

    /// One was sent; those that are due as well are not made up for.
    pub(super) fn sent(&mut self, now: Instant) {
        let after = self.after();
        if let Some((start, sent)) = &mut self.run {
            *sent = after.iter().position(|after| *start + *after > now).unwrap_or(after.len());
        }
        self.defence = None;
        self.before = self.last;
        self.last = Some(now);
        self.count += 1;
    }

    /// The last one was not sent after all: the address was not put.
    pub(super) fn take_back(&mut self) {
        if self.run.take().is_some() {
            self.count = self.count.saturating_sub(1);
            self.last = self.before;
        }
    }

    fn after(&self) -> &'static [Duration] {
        if self.is_v4 { &AFTER_V4 } else { &AFTER_V6 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::VipAddress;
    use crate::runtime::clock;

    fn announcer(ip: &str, refresh: Option<u64>) -> Announcer {
        let spec = VipSpec::new(VipAddress::single(ip.parse().unwrap()), "eth0", "c");
        Announcer::new(&VipSpec { refresh: refresh.map(ms), ..spec })
    }

    /// Milliseconds of the announcements in a span, after an occasion at 0.
    fn moments(mut announcer: Announcer, until: u64) -> Vec<u128> {
        let start = clock::now();
        announcer.start(start);
        let mut moments = Vec::new();
        while let Some(at) = announcer.next().filter(|at| *at <= start + ms(until)) {
            moments.push((at - start).as_millis());
            announcer.sent(at);
        }
        moments
    }

    #[test]
    fn ipv4_is_told_three_times_at_once_and_for_five_seconds() {
        assert_eq!(moments(announcer("10.0.0.9", None), 60_000), [0, 50, 150, 1000, 2000, 3000, 4000, 5000]);
        let again = moments(announcer("10.0.0.9", Some(10_000)), 30_000);
        assert_eq!(again[7..], [5000, 15_000, 25_000]);
    }

    #[test]
    fn ipv6_is_told_four_times_a_second_apart() {
        assert_eq!(moments(announcer("fd00::9", None), 60_000), [0, 1000, 2000, 3000]);
        assert_eq!(moments(announcer("fd00::9", Some(10)), 5000), [0, 1000, 2000, 3000, 4000, 5000]);
    }

    #[test]
    fn who_was_late_announces_once() {
        let start = clock::now();
        let mut announcer = announcer("10.0.0.9", None);
        announcer.start(start);
        announcer.sent(start + ms(2500));
        assert_eq!(announcer.next(), Some(start + ms(3000)));
    }

    #[test]
    fn defence_has_a_pause() {
        let start = clock::now();
        let mut announcer = announcer("10.0.0.9", None);
        announcer.start(start);
        announcer.sent(start + ms(5000));
        announcer.defend(start + ms(5100));
        assert_eq!(announcer.next(), Some(start + ms(5250)));
        announcer.defend(start + ms(5200));
        announcer.sent(start + ms(5250));
        assert_eq!(announcer.next(), None);
    }
}
