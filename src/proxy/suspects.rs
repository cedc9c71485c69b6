//! What clients saw of members, on its way to the router.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::decide::{Report, Suspicion};
use crate::model::{MemberName, ServiceName};
use crate::runtime::clock;

/// A hundred clients that see the same within this time and in the same table say one thing.
pub const REPEAT_PAUSE: Duration = Duration::from_millis(50);
/// Members and suspicions remembered; with more, all are forgotten and repeated.
const REPORTS_MAX: usize = 1000;
/// Services and members whose failed connects are counted; with more, all begin anew.
const OBSERVED_MAX: usize = 1000;

#[derive(Debug)]
pub struct Suspects {
    router: mpsc::Sender<Report>,
    last: Mutex<HashMap<(MemberName, u8), (u64, Instant)>>,
    failed: Mutex<HashMap<(ServiceName, MemberName), u32>>,
    /// The size of `failed`.
    failing: AtomicUsize,
}

impl Suspects {
    pub fn new(router: mpsc::Sender<Report>) -> Suspects {
        Suspects { router, last: Mutex::default(), failed: Mutex::default(), failing: AtomicUsize::new(0) }
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

    /// A client's connect was refused, timed out or found no way: HAProxy's `observe layer4`
    /// (src/check.c, `__health_adjust`). With `error_limit` of them in a row (0: never) the router is told,
    /// and the count begins anew; a router that is too busy to hear it is told by the next one.
    pub fn connect_failed(&self, service: &ServiceName, member: &MemberName, error_limit: u32) {
        if error_limit == 0 {
            return;
        }
        let mut failed = self.failed.lock();
        if failed.len() >= OBSERVED_MAX {
            failed.clear();
        }
        let key = (service.clone(), member.clone());
        let count = failed.entry(key.clone()).or_default();
        *count = count.saturating_add(1);
        let is_told =
            *count >= error_limit && self.router.try_send(Report::ErrorLimit(service.clone(), member.clone())).is_ok();
        if is_told {
            failed.remove(&key);
        }
        self.failing.store(failed.len(), Relaxed);
    }

    /// A connect that succeeded ends the row; while there is none anywhere, this costs one load.
    pub fn connected(&self, service: &ServiceName, member: &MemberName) {
        if self.failing.load(Relaxed) == 0 {
            return;
        }
        let mut failed = self.failed.lock();
        failed.remove(&(service.clone(), member.clone()));
        self.failing.store(failed.len(), Relaxed);
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

    #[test]
    fn failed_connects_in_a_row_are_told_once_and_begin_anew() {
        let (sender, mut router) = mpsc::channel(10);
        let (suspects, a, b) = (Suspects::new(sender), MemberName::from("a"), MemberName::from("b"));
        let (primary, replica): (ServiceName, ServiceName) = ("primary".into(), "replica".into());
        let mut fail = |service: &ServiceName, member: &MemberName, times: usize| {
            (0..times).for_each(|_| suspects.connect_failed(service, member, 3));
            router.try_recv().ok()
        };
        assert_eq!(fail(&replica, &a, 2), None);
        suspects.connected(&replica, &a);
        assert_eq!(fail(&replica, &a, 2), None, "a good one came between");
        suspects.connected(&replica, &b);
        suspects.connected(&primary, &a);
        assert_eq!(fail(&primary, &a, 2), None, "every service counts for itself");
        assert_eq!(fail(&replica, &a, 1), Some(Report::ErrorLimit(replica.clone(), a.clone())));
        assert_eq!(fail(&replica, &a, 2), None);
        assert_eq!(fail(&replica, &a, 1), Some(Report::ErrorLimit(replica.clone(), a.clone())));
        suspects.connected(&primary, &a);
        assert_eq!(suspects.failing.load(Relaxed), 0);
        (0..100).for_each(|_| suspects.connect_failed(&replica, &b, 0));
        assert!(router.try_recv().is_err());
    }

    #[test]
    fn a_busy_router_hears_of_the_limit_from_the_next_failure() {
        let (sender, mut router) = mpsc::channel(1);
        let (suspects, a, service) = (Suspects::new(sender), MemberName::from("a"), ServiceName::from("replica"));
        suspects.report(&a, Suspicion::ConnectRefused, 1);
        (0..3).for_each(|_| suspects.connect_failed(&service, &a, 3));
        assert!(matches!(router.try_recv(), Ok(Report::Suspected(..))));
        suspects.connect_failed(&service, &a, 3);
        assert_eq!(router.try_recv(), Ok(Report::ErrorLimit(service, a)));
    }
}
