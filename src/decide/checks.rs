//! One HTTP check of one member: HAProxy's counter, and when it runs next.

use std::time::Instant;

use crate::model::{CheckOutcome, CheckSpec, CheckStatus, Reason};

use super::health::Health;

/// The history of one check.
#[derive(Debug, Clone)]
pub struct CheckTrack {
    pub health: Health,
    /// The last outcome; None: not checked yet.
    pub last: Option<CheckOutcome>,
    /// Why it is up or down.
    pub reason: Reason,
    /// Last change between up and down.
    pub since: Instant,
    /// When it came back from being down; None before it ever was.
    pub risen_at: Option<Instant>,
}

impl CheckTrack {
    pub fn new(spec: &CheckSpec, now: Instant) -> CheckTrack {
        let health = Health::new(&spec.timing);
        CheckTrack { health, last: None, reason: Reason::NotChecked, since: now, risen_at: None }
    }

    /// Up by the counter: its last few outcomes may have failed.
    pub fn is_up(&self) -> bool {
        self.health.is_up()
    }

    /// The last check passed, whatever the counter says.
    pub fn passes(&self) -> bool {
        self.last.as_ref().is_some_and(|last| last.status == CheckStatus::L7Ok)
    }
}
