//! How much happened in the last second: of all clients of a service, and of each address.

use std::collections::VecDeque;
use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use pingora_limits::estimator::Estimator;

use super::peer::Peer;

/// What every limit here is per.
pub const PERIOD: Duration = Duration::from_secs(1);
/// A period is counted in so many parts, so that an address is forgiven at most one part late.
const PARTS: u64 = 8;
const PART_MICROS: u64 = 1_000_000 / PARTS;
/// The whole parts of a period, and the one that is not over.
const SLICES: usize = PARTS as usize + 1;
/// Counters of one slice: rows, each with another hash, and counters in each. With 10,000 events of
/// other addresses in the second, 4 % of an address's slices are counted too high by one or more.
const ROWS: usize = 4;
const COLUMNS: usize = 2048;

/// Lets at most so many events happen in any second, exactly, and knows when the next one may.
/// Memory: 16 bytes for each that happened in the last second.
#[derive(Debug, Default)]
pub struct Pace(Mutex<VecDeque<Instant>>);

impl Pace {
    /// Counts one event if there have been fewer than `max` in the second before `now`; else says how
    /// long to wait before asking again. 0: no limit, and nothing is remembered.
    pub fn take(&self, max: u32, now: Instant) -> Result<(), Duration> {
        let max = max as usize;
        if max == 0 {
            return Ok(());
        }
        let mut moments = self.0.lock();
        while moments.front().is_some_and(|first| now.saturating_duration_since(*first) >= PERIOD) {
            moments.pop_front();
        }
        // After a reload there may be more than `max`.
        let in_the_way = moments.len().checked_sub(max).and_then(|index| moments.get(index));
        if let Some(moment) = in_the_way {
            return Err((*moment + PERIOD).saturating_duration_since(now));
        }
        moments.push_back(now);
        Ok(())
    }

    /// What was taken last did not happen.
    pub fn give_back(&self) {
        self.0.lock().pop_back();
    }
}

/// Counts the events of each client address, and says no to those of an address that has had its
/// share of the last second. What was said no to does not count.
///
/// Addresses share the counters of a count-min sketch, so memory does not grow with them: none before
/// the first event, then [`BYTES`]. Its error has one direction: an address may be taken for busier
/// than it is, when every one of its counters is another busy address's too, and never for quieter.
/// An IPv6 address counts by itself, not its network. Clients by Unix sockets have no address and
/// are not limited.
#[derive(Default)]
pub struct Rates(Mutex<Option<Box<Slices>>>);

/// Of one [`Rates`] in use: 576 KiB.
pub const BYTES: usize = SLICES * ROWS * COLUMNS * size_of::<isize>();

impl Rates {
    /// Whether `peer` may do one more at `now`, with at most `max` in any second; counts it if so.
    /// 0: no limit.
    pub fn admits(&self, peer: &Peer, max: u32, now: Instant) -> bool {
        let Some(ip) = peer.ip().filter(|_| max > 0) else { return true };
        let mut slices = self.0.lock();
        slices.get_or_insert_with(|| Box::new(Slices::new(now))).admits(ip, max, now)
    }
}

impl fmt::Debug for Rates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rates").finish_non_exhaustive()
    }
}

/// A ring of sketches, one for each part of the period. All but the one under way are whole.
struct Slices {
    began: Instant,
    /// The number of the part under way, counted from `began`.
    part: u64,
    ring: [Estimator; SLICES],
}

impl Slices {
    fn new(now: Instant) -> Slices {
        Slices { began: now, part: 0, ring: std::array::from_fn(|_| Estimator::new(ROWS, COLUMNS)) }
    }

    fn admits(&mut self, ip: IpAddr, max: u32, now: Instant) -> bool {
        self.turn(now);
        let recent: isize = self.ring.iter().map(|slice| slice.get(ip)).sum();
        let admits = usize::try_from(recent).is_ok_and(|recent| recent < max as usize);
        if admits {
            self.ring[index(self.part)].incr(ip, 1);
        }
        admits
    }

    /// Forgets the parts that are over for a whole period.
    fn turn(&mut self, now: Instant) {
        let micros = now.saturating_duration_since(self.began).as_micros();
        let part = u64::try_from(micros).unwrap_or(u64::MAX) / PART_MICROS;
        // A caller that read the clock before another one did counts in the other's part.
        let over = part.saturating_sub(self.part).min(SLICES as u64);
        for part in part - over.min(part)..part {
            self.ring[index(part + 1)].reset();
        }
        self.part = self.part.max(part);
    }
}

fn index(part: u64) -> usize {
    (part % SLICES as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::clock;
    use std::net::SocketAddr;

    fn peer(text: &str) -> Peer {
        Peer::from(text.parse::<SocketAddr>().unwrap())
    }

    fn at(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    #[test]
    fn a_pace_lets_a_burst_through_and_says_when_the_next_may_come() {
        let (pace, start) = (Pace::default(), clock::now());
        for millis in [0, 0, 400] {
            assert_eq!(pace.take(3, at(start, millis)), Ok(()));
        }
        assert_eq!(pace.take(3, at(start, 500)), Err(Duration::from_millis(500)));
        assert_eq!(pace.take(3, at(start, 999)), Err(Duration::from_millis(1)));
        for _ in 0..2 {
            assert_eq!(pace.take(3, at(start, 1000)), Ok(()));
        }
        assert_eq!(pace.take(3, at(start, 1000)), Err(Duration::from_millis(400)));
        assert_eq!(pace.take(0, at(start, 1000)), Ok(()), "no limit");
        // A reload to a lower limit: two of the three have to be forgotten first.
        assert_eq!(pace.take(2, at(start, 1000)), Err(Duration::from_millis(1000)));
        pace.give_back();
        assert_eq!(pace.take(3, at(start, 1000)), Ok(()));
        assert_eq!(pace.take(1, at(start, 5000)), Ok(()));
        assert_eq!(pace.0.lock().len(), 1);
    }

    #[test]
    fn no_second_has_more_of_an_address_than_allowed() {
        let (rates, start) = (Rates::default(), clock::now());
        let mut admitted: Vec<u64> = Vec::new();
        for millis in 0..5000 {
            if rates.admits(&peer("10.0.0.1:1"), 10, at(start, millis)) {
                admitted.push(millis);
            }
        }
        for window in admitted.windows(11) {
            assert!(window[10] - window[0] >= 1000, "{window:?}");
        }
        // It is forgiven at most an eighth of a second late, so 40 of the 50 in any case.
        assert!(admitted.len() >= 40, "{}", admitted.len());
    }

    #[test]
    fn an_address_is_an_address_by_whatever_port_and_socket_and_others_are_not_it() {
        let (rates, now) = (Rates::default(), clock::now());
        assert!(rates.admits(&peer("10.0.0.1:1"), 2, now));
        assert!(rates.admits(&peer("[::ffff:10.0.0.1]:2"), 2, now));
        assert!(!rates.admits(&peer("10.0.0.1:3"), 2, now));
        assert!(rates.admits(&peer("10.0.0.2:1"), 2, now));
        assert!(rates.admits(&peer("[2001:db8::1]:1"), 1, now));
        assert!(rates.admits(&peer("[2001:db8::2]:1"), 1, now), "a network is not an address");
        let local = Peer::Unix { pid: Some(1), uid: Some(0) };
        assert!((0..100).all(|_| rates.admits(&local, 1, now)));
        assert!(rates.admits(&peer("10.0.0.1:3"), 0, now), "no limit");
    }

    #[test]
    fn whoever_was_silent_for_a_while_has_nothing_against_it() {
        let (rates, start) = (Rates::default(), clock::now());
        for millis in [0, 1125, 60_000, 3_600_000] {
            assert!(rates.admits(&peer("10.0.0.1:1"), 1, at(start, millis)), "{millis}");
            assert!(!rates.admits(&peer("10.0.0.1:1"), 1, at(start, millis)), "{millis}");
        }
        // Of two threads the one that read the clock first may come second.
        assert!(!rates.admits(&peer("10.0.0.1:1"), 1, at(start, 3_599_000)));
    }

    #[test]
    fn a_crowd_of_addresses_costs_an_innocent_one_little() {
        let (rates, start) = (Rates::default(), clock::now());
        for number in 0..10_000u32 {
            let crowd = peer(&format!("10.1.{}.{}:1", number / 256, number % 256));
            rates.admits(&crowd, 1000, at(start, u64::from(number) / 10));
        }
        let mut admitted = 0;
        while rates.admits(&peer("192.0.2.1:1"), 10, at(start, 1000)) {
            admitted += 1;
        }
        assert!((6..=10).contains(&admitted), "{admitted}");
    }
}
