//! What was said already, so that the same thing again and again is said rarely.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::model::Mac;

/// The same problem is told again after so long.
const PROBLEM_AGAIN: Duration = Duration::from_secs(60);
/// A conflict that goes on is told again after so long (DEFEND_INTERVAL of RFC 5227).
const CONFLICT_AGAIN: Duration = Duration::from_secs(10);
/// Occupants that are told one by one in one claim; a segment with more of them has another problem.
const OCCUPANTS_MAX: usize = 8;

#[derive(Debug, Clone, Default)]
pub(super) struct Told {
    occupants: Vec<Mac>,
    conflict_at: Option<Instant>,
    problem: Option<(&'static str, String, Instant)>,
    is_problem_over: bool,
    foreign: Option<(Arc<str>, u8)>,
}

impl Told {
    /// Another claim begins.
    pub(super) fn forget_occupants(&mut self) {
        self.occupants.clear();
    }

    pub(super) fn is_new_occupant(&mut self, mac: Mac) -> bool {
        let is_new = !self.occupants.contains(&mac) && self.occupants.len() < OCCUPANTS_MAX;
        if is_new {
            self.occupants.push(mac);
        }
        is_new
    }

    pub(super) fn is_new_conflict(&mut self, now: Instant) -> bool {
        let is_new = self.conflict_at.is_none_or(|at| now >= at + CONFLICT_AGAIN);
        if is_new {
            self.conflict_at = Some(now);
        }
        is_new
    }

    pub(super) fn problem(&self) -> Option<&str> {
        self.problem.as_ref().filter(|_| !self.is_problem_over).map(|(_, problem, _)| problem.as_str())
    }

    pub(super) fn forget_problem(&mut self) {
        self.is_problem_over = true;
    }

    pub(super) fn is_new_problem(&mut self, what: &'static str, problem: &str, now: Instant) -> bool {
        self.is_problem_over = false;
        let same =
            |(w, p, at): &(&'static str, String, Instant)| *w == what && p == problem && now < *at + PROBLEM_AGAIN;
        let is_new = !self.problem.as_ref().is_some_and(same);
        if is_new {
            self.problem = Some((what, problem.to_owned(), now));
        }
        is_new
    }

    pub(super) fn is_new_foreign(&mut self, foreign: Option<(Arc<str>, u8)>) -> bool {
        let is_new = foreign.is_some() && foreign != self.foreign;
        self.foreign = foreign;
        is_new
    }
}
