//! What clients saw of members, on its way to the router.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::decide::{Report, Suspicion};
use crate::model::MemberName;
use crate::runtime::clock;

/// A hundred clients that see the same within this time and in the same table say one thing.
pub const REPEAT_PAUSE: Duration = Duration::from_millis(50);
/// Members and suspicions remembered; with more, all are forgotten and repeated.
const REPORTS_MAX: usize = 1000;

#[derive(Debug)]
pub struct Suspects {
    router: mpsc::Sender<Report>,
    last: Mutex<HashMap<(MemberName, u8), (u64, Instant)>>,
}

impl Suspects {
    pub fn new(router: mpsc::Sender<Report>) -> Suspects {
        Suspects { router, last: Mutex::default() }
    }

    /// Never waits: a router too busy to hear it will be told again by the next client.
    pub fn report(&self, member: &MemberName, suspicion: Suspicion, generation: u64) {
        let now = clock::now();
        let key = (member.clone(), suspicion as u8);
        let mut last = self.last.lock();
        let is_repeat = |(seen_in, at): &(u64, Instant)| {
            *seen_in == generation && now.saturating_duration_since(*at) < REPEAT_PAUSE
        };
        if last.get(&key).is_some_and(is_repeat) {
            return;
        }
        if self.router.try_send(Report::Suspected(member.clone(), suspicion)).is_ok() {
            if last.len() >= REPORTS_MAX {
                last.clear();
            }
            last.insert(key, (generation, now));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_many_see_is_said_once_per_table() {
        let (sender, mut router) = mpsc::channel(10);
        let (suspects, a, b) = (Suspects::new(sender), MemberName::from("a"), MemberName::from("b"));
        for _ in 0..100 {
            suspects.report(&a, Suspicion::ConnectRefused, 1);
        }
        suspects.report(&b, Suspicion::ConnectRefused, 1);
        suspects.report(&a, Suspicion::StartupEof, 1);
        suspects.report(&a, Suspicion::ConnectRefused, 2);
        let mut said = Vec::new();
        while let Ok(report) = router.try_recv() {
            said.push(report);
        }
        let suspected = |member: &MemberName, suspicion| Report::Suspected(member.clone(), suspicion);
        let refused = |member: &MemberName| suspected(member, Suspicion::ConnectRefused);
        assert_eq!(said, [refused(&a), refused(&b), suspected(&a, Suspicion::StartupEof), refused(&a)]);
    }

    #[test]
    fn a_busy_router_is_told_again() {
        let (sender, mut router) = mpsc::channel(1);
        let (suspects, a) = (Suspects::new(sender), MemberName::from("a"));
        suspects.report(&a, Suspicion::StartupEof, 1);
        suspects.report(&a, Suspicion::ConnectRefused, 1);
        assert_eq!(router.try_recv().unwrap(), Report::Suspected(a.clone(), Suspicion::StartupEof));
        suspects.report(&a, Suspicion::ConnectRefused, 1);
        assert_eq!(router.try_recv().unwrap(), Report::Suspected(a.clone(), Suspicion::ConnectRefused));
    }
}
