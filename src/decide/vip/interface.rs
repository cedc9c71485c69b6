//! What the kernel has of the address: by what it shows, and by the outcome of what was asked of it.
//!
//! A Put that was sent proves nothing. Its outcome does, so that a claim need not wait for the kernel's
//! event; and the event does, because only it tells what others do.

use std::time::{Duration, Instant};

use crate::model::{VipEntry, VipSpec};

use super::right::Ground;

/// A Put without an outcome for so long has failed.
const PUT_ANSWER_MAX: Duration = Duration::from_secs(1);
/// After a Put failed, the next one waits so long.
pub(super) const PUT_AGAIN: Duration = Duration::from_secs(1);
/// How far the seconds that the kernel shows may be from what was put: it rounds up, and tells late.
const SHORTER: Duration = Duration::from_millis(1500);
const LONGER: Duration = Duration::from_millis(2500);

#[derive(Debug, Clone, Copy)]
struct Put {
    number: u64,
    sent_at: Instant,
    valid: Duration,
    ground: Ground,
    is_claim: bool,
    /// The address was there when it was sent, or was shown since.
    was_shown: bool,
    /// What the kernel showed since it was sent.
    shown: Option<Shown>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    Absent,
    AsPut,
    Altered,
}

#[derive(Debug, Clone, Default)]
pub(super) struct OnInterface {
    /// None: not told yet.
    entries: Option<Vec<VipEntry>>,
    put: Option<Put>,
    is_present: bool,
    /// Somebody made it permanent, gave it another lifetime or took our tag off it.
    is_altered: bool,
    is_failed: bool,
    /// A Put had no outcome: it may be there or not.
    is_doubtful: bool,
    /// When the kernel takes it away, by the last Put that was done: when that was sent, and on what ground.
    deadline: Option<Instant>,
    put_at: Option<Instant>,
    ground: Option<Ground>,
    again_at: Option<Instant>,
}

impl OnInterface {
    pub(super) fn is_told(&self) -> bool {
        self.entries.is_some()
    }

    pub(super) fn is_present(&self) -> bool {
        self.is_present
    }

    pub(super) fn is_altered(&self) -> bool {
        self.is_altered
    }

    /// Duplicate address detection failed on it.
    pub(super) fn is_failed(&self) -> bool {
        self.is_failed
    }

    pub(super) fn is_putting(&self) -> bool {
        self.put.is_some()
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    pub(super) fn put_at(&self) -> Option<Instant> {
        self.put_at
    }

    pub(super) fn ground(&self) -> Option<Ground> {
        self.ground
    }

    pub(super) fn again_at(&self) -> Option<Instant> {
        self.again_at
    }

    /// A Put may be sent: none is under way, and the last one did not just fail.
    pub(super) fn may_put(&self, now: Instant) -> bool {
        self.put.is_none() && self.again_at.is_none_or(|at| at <= now)
    }

    pub(super) fn allow_now(&mut self) {
        self.again_at = None;
    }

    fn listed(&self) -> impl Iterator<Item = &VipEntry> {
        self.entries.iter().flatten()
    }

    /// Something of ours is there, or may be by now.
    pub(super) fn may_be_there(&self) -> bool {
        self.is_present || self.is_doubtful || self.put.is_some() || self.listed().any(|entry| entry.is_ours)
    }

    /// An entry that is somebody else's and stands in the way.
    pub(super) fn foreign(&self, spec: &VipSpec) -> Option<&VipEntry> {
        let adopts = |entry: &VipEntry| spec.adopt && is_spec(entry, spec);
        let was_ours = |entry: &VipEntry| self.is_present && is_spec(entry, spec);
        self.listed().find(|entry| !entry.is_ours && !adopts(entry) && !was_ours(entry))
    }

    /// An entry that a claim takes over as it is: an earlier process left it, or `adopt` says so.
    pub(super) fn adoptable(&self, spec: &VipSpec) -> Option<&VipEntry> {
        self.listed().find(|entry| is_spec(entry, spec) && !entry.is_failed && (entry.is_ours || spec.adopt))
    }

    /// Entries of ours that can only be deleted: on another interface, with another prefix, or useless.
    pub(super) fn has_misplaced(&self, spec: &VipSpec) -> bool {
        self.listed().any(|entry| entry.is_ours && (!is_spec(entry, spec) || entry.is_failed))
    }

    /// What an earlier process left without any end: None there is none, Some(false) one that a Put can give an end.
    pub(super) fn endless(&self, spec: &VipSpec) -> Option<bool> {
        let entry = self.listed().find(|entry| entry.is_ours && entry.valid_for.is_none())?;
        Some(!is_spec(entry, spec))
    }

    pub(super) fn show(&mut self, entries: Vec<VipEntry>, spec: &VipSpec, now: Instant) {
        let was_ours = self.is_present || self.is_doubtful || self.put.is_some();
        let entry = entries.iter().find(|entry| is_spec(entry, spec) && (entry.is_ours || was_ours));
        let shown = match entry {
            None => Shown::Absent,
            Some(entry) if self.is_as_put(entry, now) => Shown::AsPut,
            Some(_) => Shown::Altered,
        };
        self.is_failed = entry.is_some_and(|entry| entry.is_failed);
        let is_ours = entry.is_some();
        self.entries = Some(entries);
        match &mut self.put {
            // Whether this is from before the Put or after it, its outcome decides.
            Some(put) => {
                put.shown = Some(shown);
                put.was_shown |= is_ours;
            }
            None => self.is_altered = shown == Shown::Altered && self.deadline.is_some(),
        }
        self.is_present = is_ours;
        self.is_doubtful = false;
    }

    fn is_as_put(&self, entry: &VipEntry, now: Instant) -> bool {
        let end = self.put.map(|put| put.sent_at + put.valid).or(self.deadline);
        let (Some(valid), Some(end)) = (entry.valid_for, end) else { return false };
        entry.is_ours && now + valid + SHORTER >= end && now + valid <= end + LONGER
    }

    pub(super) fn put(&mut self, number: u64, valid: Duration, ground: Ground, is_claim: bool, now: Instant) {
        let was_shown = self.is_present;
        self.put = Some(Put { number, sent_at: now, valid, ground, is_claim, was_shown, shown: None });
        self.is_altered = false;
        self.again_at = None;
    }

    /// The outcome of the Put that is under way: whether it was a claim's. None: of another one.
    pub(super) fn finish_put(&mut self, number: u64, is_well: bool, now: Instant) -> Option<bool> {
        let put = self.put.take_if(|put| put.number == number)?;
        if is_well {
            self.put_at = Some(put.sent_at);
            self.deadline = Some(put.sent_at + put.valid);
            self.ground = Some(put.ground);
            // It was there and is not: deleted again before the outcome reached us.
            self.is_present = !(put.was_shown && put.shown == Some(Shown::Absent));
            self.is_altered = put.shown == Some(Shown::Altered);
        } else {
            self.again_at = Some(now + PUT_AGAIN);
        }
        Some(put.is_claim)
    }

    /// True: a Put was given up.
    pub(super) fn give_up_put(&mut self, now: Instant) -> bool {
        let late = |put: &mut Put| now >= put.sent_at + PUT_ANSWER_MAX;
        let Some(put) = self.put.take_if(late) else { return false };
        self.is_doubtful = put.shown.is_none();
        self.again_at = Some(now + PUT_AGAIN);
        true
    }

    /// Nothing of ours is there any more.
    pub(super) fn clear(&mut self) {
        if let Some(entries) = &mut self.entries {
            entries.retain(|entry| !entry.is_ours);
        }
        *self = OnInterface { entries: self.entries.take(), again_at: self.again_at, ..OnInterface::default() };
    }

    pub(super) fn timers(&self) -> Option<(Instant, &'static str)> {
        self.put.map(|put| (put.sent_at + PUT_ANSWER_MAX, "put unanswered"))
    }
}

fn is_spec(entry: &VipEntry, spec: &VipSpec) -> bool {
    entry.interface == spec.interface && entry.prefix == spec.address.prefix
}
