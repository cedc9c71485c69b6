//! What goes wrong around an address, told once and then rarely.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::{Duration, Instant};

use crate::model::VipSpec;
use crate::runtime::clock;

/// The same trouble again and again is told at most this often.
const AGAIN_AFTER: Duration = Duration::from_secs(10);

/// When which kind of trouble was told the last time, and its words.
#[derive(Debug, Default)]
pub struct Complaints(BTreeMap<&'static str, (String, Instant)>);

impl Complaints {
    /// `what` could not be done.
    pub fn tell(&mut self, spec: &VipSpec, what: &'static str, problem: &dyn Display) {
        let (problem, now) = (problem.to_string(), clock::now());
        let is_old =
            |(known, at): &(String, Instant)| *known == problem && now.saturating_duration_since(*at) < AGAIN_AFTER;
        if self.0.get(what).is_some_and(is_old) {
            return;
        }
        let (address, interface) = (spec.address, &*spec.interface);
        tracing::warn!(
            target: "pgvane::vip", cluster = %spec.cluster, %address, interface, what, problem,
            "{address} on {interface}: {what}: {problem}"
        );
        self.0.insert(what, (problem, now));
    }
}
