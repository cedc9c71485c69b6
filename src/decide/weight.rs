//! The weight of a member that has just come back (`slowstart`).

use std::time::{Duration, Instant};

/// The ramp has so many steps (HAProxy's BE_WEIGHT_SCALE).
const STEPS: u64 = 16;

/// The weight (1 to 256) that counts now, at least 1. It grows once a second in sixteenths of `weight` until
/// `slowstart` after `risen_at`; None is a member that slow start does not apply to.
///
/// HAProxy src/server.c, `server_recalc_eweight`, as its statistics show it: after t whole seconds of S,
/// floor((16 t + S) / S) sixteenths, rounded up. HAProxy keeps whole seconds only and rounds `slowstart` up
/// to them (`srv_parse_slowstart`). Unlike HAProxy's, this ramp never limits connections.
pub fn effective(weight: u32, slowstart: Duration, risen_at: Option<Instant>, now: Instant) -> u32 {
    let whole = slowstart.as_secs() + u64::from(slowstart.subsec_nanos() > 0);
    let Some(risen_at) = risen_at else { return weight.max(1) };
    let elapsed = now.saturating_duration_since(risen_at).as_secs();
    if elapsed >= whole {
        return weight.max(1);
    }
    let steps = ((STEPS * elapsed + whole) / whole).min(STEPS);
    let ramped = (u64::from(weight) * steps).div_ceil(STEPS);
    u32::try_from(ramped).unwrap_or(weight).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::clock;

    fn weights(weight: u32, slowstart: Duration, seconds: std::ops::RangeInclusive<u64>) -> Vec<u32> {
        let risen = clock::now();
        let at = |second| effective(weight, slowstart, Some(risen), risen + Duration::from_secs(second));
        seconds.map(at).collect()
    }

    #[test]
    fn a_member_that_came_back_gets_its_weight_in_sixteenths() {
        // A second of sixteen each: HAProxy's 7, 13, 19, 25, 32 ... of 100.
        let sixteen = Duration::from_secs(16);
        let expected = [7, 13, 19, 25, 32, 38, 44, 50, 57, 63, 69, 75, 82, 88, 94, 100, 100, 100];
        assert_eq!(weights(100, sixteen, 0..=17), expected);
        assert_eq!(weights(100, Duration::from_secs(3), 0..=4), [7, 38, 69, 100, 100]);
        assert_eq!(weights(1, sixteen, 0..=2), [1, 1, 1]);
        assert_eq!(weights(256, Duration::from_secs(1), 0..=1), [16, 256]);
    }

    #[test]
    fn only_whole_seconds_count_and_slowstart_is_rounded_up_to_them() {
        let risen = clock::now();
        let at = |millis, slowstart| {
            effective(100, Duration::from_millis(slowstart), Some(risen), risen + Duration::from_millis(millis))
        };
        assert_eq!((at(999, 2000), at(1000, 2000)), (7, 57));
        assert_eq!((at(1999, 1001), at(2000, 1001)), (57, 100));
        assert_eq!((at(999, 1), at(1000, 1)), (7, 100));
        assert_eq!(at(0, 0), 100);
    }

    #[test]
    fn others_have_their_weight_at_once() {
        let now = clock::now();
        assert_eq!(effective(100, Duration::from_secs(30), None, now), 100);
        // A clock that is read a little before the member rose.
        assert_eq!(effective(100, Duration::from_secs(30), Some(now + Duration::from_secs(9)), now), 7);
    }
}
