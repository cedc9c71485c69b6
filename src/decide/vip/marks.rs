//! The hand-over key: what its coming and going says of others, and what we owe it.

use std::time::{Duration, Instant};

use crate::model::{MemberName, Reason, VipClaim, VipMark, VipRight};

use super::{Phase, Vip, VipEffect};

/// A key that we want for ourselves is asked for once in so long, and when it vanishes.
pub(super) const TAKE_PAUSE: Duration = Duration::from_secs(1);
/// A writing without an outcome for so long is not waited for.
const WRITE_ANSWER_MAX: Duration = Duration::from_secs(5);
/// Our own deletion of the mark is on its way for at most so long: until it is seen, nothing is put, or others
/// would take the vanishing mark of a holder for its release.
const DELETE_SEEN_MAX: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Default)]
pub(super) struct Marks {
    seen: Option<VipMark>,
    /// Whom the leader key named last, other than us.
    other_leader: Option<MemberName>,
    handed_over: bool,
    /// The last that we wrote, and have not deleted.
    written: Option<i64>,
    pending: Option<(u64, Instant)>,
    tried_at: Option<Instant>,
    deleted: Option<(i64, Instant)>,
    /// Another host of our name holds the address: it wrote over our mark, or answers beside it.
    has_namesake: bool,
}

impl Marks {
    pub(super) fn seen(&self) -> Option<&VipMark> {
        self.seen.as_ref()
    }

    pub(super) fn written(&self) -> Option<i64> {
        self.written
    }

    pub(super) fn has_namesake(&self) -> bool {
        self.has_namesake
    }

    /// The holder before us deleted its mark after the lead had left it, which it does when the address is
    /// gone, and nobody else has led since.
    pub(super) fn is_handed_over(&self) -> bool {
        self.handed_over
    }

    /// `without_gap`: what is known was fresh until this right came, so no other leader came and went unseen.
    pub(super) fn see(&mut self, right: &VipRight, me: &MemberName, without_gap: bool) {
        let before = std::mem::replace(&mut self.seen, right.mark.clone());
        let other = right.leader.as_ref().filter(|leader| *leader != me);
        let is_known = right.claim != VipClaim::Unknown && right.reason != Reason::DcsReplaced;
        if other.is_some() || right.mark.is_some() || !without_gap || !is_known {
            self.handed_over = false;
        }
        if let (Some(before), None) = (before, &right.mark) {
            self.tried_at = None;
            // A mark that vanishes while its holder leads says that its process ended; it may be back already.
            let was_leader = self.other_leader.as_ref().is_some_and(|leader| leader.as_str() == &*before.holder);
            self.handed_over |= was_leader && other.is_none() && without_gap && is_known;
        }
        if other.is_some() {
            self.other_leader = other.cloned();
        }
        if right.mark.as_ref().is_none_or(|mark| &*mark.holder != me.as_str()) {
            self.has_namesake = false;
        }
    }

    pub(super) fn forget(&mut self) {
        self.seen = None;
        self.handed_over = false;
    }

    /// The mark is what we wrote.
    pub(super) fn is_ours(&self) -> bool {
        self.written.is_some() && self.seen.as_ref().map(|mark| mark.mod_revision) == self.written
    }

    /// Another process of our name wrote over what we wrote.
    pub(super) fn is_overwritten_by_namesake(&self, me: &MemberName) -> bool {
        let (Some(seen), Some(written), None) = (&self.seen, self.written, self.pending) else { return false };
        &*seen.holder == me.as_str() && seen.mod_revision > written
    }

    pub(super) fn note_namesake(&mut self) {
        self.has_namesake = true;
    }

    /// The mark names us, is not of this process, and another host answers for the address: one of our name has it.
    pub(super) fn note_occupant(&mut self, me: &MemberName) {
        let names_us = self.seen.as_ref().is_some_and(|mark| &*mark.holder == me.as_str());
        self.has_namesake |= names_us && self.pending.is_none() && !self.is_ours();
    }

    pub(super) fn is_pending(&self, now: Instant) -> bool {
        self.pending.is_some_and(|(_, at)| now < at + WRITE_ANSWER_MAX)
    }

    pub(super) fn pending_until(&self) -> Option<Instant> {
        self.pending.map(|(_, at)| at + WRITE_ANSWER_MAX)
    }

    pub(super) fn take_again_at(&self) -> Option<Instant> {
        self.tried_at.map(|at| at + TAKE_PAUSE)
    }

    pub(super) fn write(&mut self, number: u64, now: Instant) {
        self.has_namesake = false;
        self.pending = Some((number, now));
        self.tried_at = Some(now);
    }

    /// Until when our own deletion is waited for, unless it is seen before.
    pub(super) fn deleting_until(&self) -> Option<Instant> {
        let (revision, at) = self.deleted?;
        let stands = self.seen.as_ref().is_some_and(|mark| mark.mod_revision == revision);
        stands.then_some(at + DELETE_SEEN_MAX)
    }
}

impl Vip {
    pub(super) fn write_mark(&mut self, take: bool, now: Instant) {
        let number = self.number();
        self.marks.write(number, now);
        self.effects.push_back(VipEffect::WriteMark { number, take });
    }

    /// Nothing is on the interface any more.
    pub(super) fn delete_mark(&mut self, now: Instant) {
        if let Some(mod_revision) = self.marks.written.take() {
            self.marks.deleted = Some((mod_revision, now));
            self.effects.push_back(VipEffect::DeleteMark { mod_revision });
        }
    }

    pub(super) fn on_mark_written(&mut self, number: u64, outcome: Result<i64, String>, now: Instant) {
        self.marks.pending.take_if(|(pending, _)| *pending == number);
        match outcome {
            Ok(revision) => {
                self.marks.written = self.marks.written.max(Some(revision));
                // Too late to be of use; what is on the interface still, goes before it.
                if matches!(self.phase, Phase::Starting | Phase::Released) {
                    self.delete_mark(now);
                }
            }
            // Somebody else's is no problem; whose it is will be seen.
            Err(_) if self.spec.is_exclusive_by_mark() && self.marks.seen.is_some() => {}
            Err(problem) => self.complain("write the hand-over key", problem, now),
        }
    }
}
