//! What clients saw of members, on its way to the router.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::decide::Suspicion;
use crate::model::MemberName;
use crate::runtime::clock;

/// A hundred clients that see the same within this time and in the same table say one thing.
pub const REPEAT_PAUSE: Duration = Duration::from_millis(50);
/// Members and suspicions remembered; with more, all are forgotten and repeated.
const REPORTS_MAX: usize = 1000;

#[derive(Debug)]
pub struct Suspects {
    router: mpsc::Sender<(MemberName, Suspicion)>,
    last: Mutex<HashMap<(MemberName, u8), (u64, Instant)>>,
}

impl Suspects {
    pub fn new(router: mpsc::Sender<(MemberName, Suspicion)>) -> Suspects {
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
        if self.router.try_send((member.clone(), suspicion)).is_ok() {
            if last.len() >= REPORTS_MAX {
                last.clear();
            }
            last.insert(key, (generation, now));
        }
    }
}
