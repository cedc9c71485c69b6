//! HAProxy's health counter (`rise`, `fall`) and choice of interval.
//!
//! The counter runs from 0 to `rise + fall - 1`; at `rise` or more the member is up. One success
//! while up refills it, one failure on the way up empties it (HAProxy src/check.c,
//! `set_server_check_status`; intervals: src/server.c, `srv_getinter`).

use std::time::Duration;

use crate::model::CheckTiming;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    points: u32,
    rise: u32,
    fall: u32,
    /// Whether any check ever counted.
    seen: bool,
}

impl Health {
    /// Starts down, and up at the first success: a member is never used before it answered.
    pub fn new(timing: &CheckTiming) -> Health {
        let (rise, fall) = (timing.rise.max(1), timing.fall.max(1));
        Health { points: rise - 1, rise, fall, seen: false }
    }

    pub fn is_up(&self) -> bool {
        self.points >= self.rise
    }

    pub fn is_known(&self) -> bool {
        self.seen
    }

    /// Returns true when this made it go up.
    pub fn pass(&mut self) -> bool {
        self.seen = true;
        let was_up = self.is_up();
        self.points += 1;
        if self.is_up() {
            self.points = self.full();
        }
        !was_up && self.is_up()
    }

    /// Returns true when this made it go down.
    pub fn fail(&mut self) -> bool {
        self.seen = true;
        let was_up = self.is_up();
        self.points = self.points.saturating_sub(1);
        if !self.is_up() {
            self.points = 0;
        }
        was_up && !self.is_up()
    }

    /// The counter, from 0 to `rise + fall - 1`.
    pub fn points(&self) -> u32 {
        self.points
    }

    pub fn rise(&self) -> u32 {
        self.rise
    }

    pub fn fall(&self) -> u32 {
        self.fall
    }

    /// A failure now would move the counter; others are not counted (HAProxy's `chkfail`).
    pub fn can_fall(&self) -> bool {
        self.points > 0
    }

    /// A failure that leaves nothing to lose: the next one makes it go down (HAProxy's
    /// `on-error sudden-death`, src/check.c `__health_adjust`).
    pub fn sudden_death(&mut self) -> bool {
        if self.points > self.rise {
            self.points = self.rise + 1;
        }
        self.fail()
    }

    /// Down at once (`on-error mark-down`). Returns true when it was up.
    pub fn mark_down(&mut self) -> bool {
        self.points = self.points.min(self.rise);
        self.fail()
    }

    /// Takes over another `rise` and `fall`; up stays up and down stays down.
    pub fn retune(&mut self, timing: &CheckTiming) {
        let (rise, fall) = (timing.rise.max(1), timing.fall.max(1));
        if (rise, fall) == (self.rise, self.fall) {
            return;
        }
        let was_up = self.is_up();
        let may_rise_at_once = !self.seen;
        (self.rise, self.fall) = (rise, fall);
        self.points = match (was_up, may_rise_at_once) {
            (true, _) => self.full(),
            (false, true) => rise - 1,
            (false, false) => 0,
        };
    }

    /// Gap to the next check.
    pub fn interval(&self, timing: &CheckTiming) -> Duration {
        if self.points == self.full() {
            timing.inter
        } else if self.points == 0 {
            timing.downinter
        } else {
            timing.fastinter
        }
    }

    fn full(&self) -> u32 {
        self.rise + self.fall - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health(rise: u32, fall: u32) -> Health {
        Health::new(&CheckTiming { rise, fall, ..CheckTiming::default() })
    }

    #[test]
    fn up_at_the_first_success_down_at_the_third_failure_up_at_the_third_success() {
        let mut h = health(3, 3);
        assert!(!h.is_up() && !h.is_known());
        assert!(h.pass());
        assert_eq!([h.fail(), h.fail(), h.fail()], [false, false, true]);
        assert_eq!([h.pass(), h.pass(), h.pass()], [false, false, true]);
    }

    #[test]
    fn counts_only_consecutive_results() {
        let mut h = health(3, 3);
        h.pass();
        for _ in 0..10 {
            assert!(!h.fail() && !h.fail() && !h.pass());
        }
        for _ in 0..3 {
            h.fail();
        }
        for _ in 0..10 {
            assert!(!h.pass() && !h.pass() && !h.fail());
        }
    }

    #[test]
    fn interval_follows_the_counter() {
        let timing = CheckTiming::default();
        let mut h = health(3, 3);
        h.pass();
        assert_eq!(h.interval(&timing), timing.inter);
        h.fail();
        assert_eq!(h.interval(&timing), timing.fastinter);
        h.fail();
        h.fail();
        assert_eq!(h.interval(&timing), timing.downinter);
        h.pass();
        assert_eq!(h.interval(&timing), timing.fastinter);
    }
}
