//! The right to one address by one value: what `pgvane vip` knows, as vip-manager knows it.
//!
//! Whoever finds its own trigger value under the trigger key is to have the address. Two kinds of sources
//! tell: one that is read and watched ([`Trigger::see_key`], etcd), and one that is asked again and again
//! ([`Trigger::see_answer`], Patroni's REST API and Consul). What they tell are facts with their times; lease,
//! grace and policy are [`super::vip::Vip`]'s.

use core::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::model::{ClusterView, MemberName, Reason, VipClaim, VipRight};

use super::ViewSource;
use super::view::{LATE_AFTER, Verdict, ViewKeeper};

/// One answer of a source that is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Whether it is the trigger value, and whom it names where it names somebody.
    Value { matches: bool, leader: Option<MemberName> },
    /// There is no such key, or nobody who would answer for it.
    Nothing,
}

/// What the local Patroni's REST API says of its member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// 200, for our member of our cluster.
    Leads,
    /// Another answer.
    DoesNotLead,
}

/// Decides whose the address is, from the value of one key.
#[derive(Debug, Clone)]
pub struct Trigger {
    /// What the key must hold, to the letter.
    value: Arc<str>,
    ip: IpAddr,
    key: ViewKeeper,
    mark: ViewKeeper,
    /// The DCS went back in time or is another one, as a read told that was sent then, and no later one has
    /// agreed with it yet.
    replaced: Option<Instant>,
    answer: Option<(Answer, Instant)>,
    vouched_at: Option<Instant>,
}

impl Trigger {
    pub fn new(value: &str, ip: IpAddr) -> Trigger {
        Trigger {
            value: value.into(),
            ip,
            key: ViewKeeper::default(),
            mark: ViewKeeper::default(),
            replaced: None,
            answer: None,
            vouched_at: None,
        }
    }

    /// A view of the trigger key: its value is the view's leader. Arrived at `now`.
    pub fn see_key(&mut self, view: Arc<ClusterView>, source: &ViewSource, now: Instant) {
        let verdict = self.key.offer(view, source, now);
        let ViewSource::Read { sent_at, .. } = *source else { return };
        match verdict {
            Verdict::Replaced => self.replaced = Some(sent_at),
            // The same read is told twice when the answer about the lease comes late.
            Verdict::Accepted | Verdict::Refreshed => self.replaced = self.replaced.filter(|first| sent_at <= *first),
            Verdict::Ignored => {}
        }
    }

    /// A view of the hand-over key.
    pub fn see_mark(&mut self, view: Arc<ClusterView>, source: &ViewSource, now: Instant) {
        self.mark.offer(view, source, now);
    }

    /// An answer to a question that was sent at `sent_at`. Silence is none.
    pub fn see_answer(&mut self, answer: Answer, sent_at: Instant) {
        if self.answer.as_ref().is_none_or(|(_, known)| *known <= sent_at) {
            self.answer = Some((answer, sent_at));
        }
    }

    /// The local Patroni answered a question that was sent at `sent_at`.
    pub fn hear(&mut self, word: Word, sent_at: Instant) {
        self.vouched_at = (word == Word::Leads).then_some(sent_at);
    }

    /// What the key holds. None: nothing, or nothing is known.
    pub fn leader(&self) -> Option<&MemberName> {
        self.key.current().and_then(|view| view.leader.as_ref()).map(|leader| &leader.name)
    }

    /// Whether the DCS was heard of at all.
    pub fn is_known(&self) -> bool {
        self.key.current().is_some() || self.answer.is_some()
    }

    /// From when on Patroni's word may be needed: the key names us, and the read that said so is late.
    /// None: not at all as things are.
    pub fn needs_word_from(&self) -> Option<Instant> {
        let right = self.right();
        right.confirmed_at.filter(|_| right.claim == VipClaim::Ours).map(|at| at + LATE_AFTER)
    }

    /// Everything that is known of the right to the address.
    pub fn right(&self) -> VipRight {
        match &self.answer {
            Some((answer, sent_at)) => VipRight { vouched_at: self.vouched_at, ..by_answer(answer, *sent_at) },
            None => self.by_key(),
        }
    }

    fn by_key(&self) -> VipRight {
        let Some(view) = self.key.current() else { return VipRight::unknown(Reason::Starting) };
        let leader = view.leader.as_ref();
        let (claim, reason) = match leader {
            _ if self.replaced.is_some() => (VipClaim::Unknown, Reason::DcsReplaced),
            None => (VipClaim::NotOurs, Reason::RoleVacant),
            Some(leader) if leader.name.as_str() == &*self.value => (VipClaim::Ours, Reason::RoleHeld),
            Some(_) => (VipClaim::NotOurs, Reason::RoleElsewhere),
        };
        // A lease whose end is not known yet bounds like a view: by its freshness.
        let lease_end = leader.filter(|leader| leader.lease != 0).and_then(|_| self.key.lease_end());
        VipRight {
            claim,
            reason,
            leader: leader.map(|leader| leader.name.clone()),
            confirmed_at: self.key.confirmed_at(),
            lease_end,
            is_lease_known: leader.is_none_or(|leader| leader.lease == 0 || self.key.is_lease_known()),
            vouched_at: self.vouched_at,
            mark: self.mark.current().and_then(|view| view.vips.get(&self.ip).cloned()),
        }
    }
}

fn by_answer(answer: &Answer, sent_at: Instant) -> VipRight {
    let (claim, reason, leader) = match answer {
        Answer::Value { matches: true, leader } => (VipClaim::Ours, Reason::RoleHeld, leader.clone()),
        Answer::Value { matches: false, leader } => (VipClaim::NotOurs, Reason::RoleElsewhere, leader.clone()),
        Answer::Nothing => (VipClaim::NotOurs, Reason::RoleVacant, None),
    };
    VipRight { claim, leader, confirmed_at: Some(sent_at), ..VipRight::unknown(reason) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;
    use crate::decide::view::FRESH_FOR;
    use crate::model::{LeaderKey, VipMark};
    use crate::runtime::clock;

    const SECOND: Duration = Duration::from_secs(1);
    const IP: &str = "10.0.0.9";

    fn trigger() -> Trigger {
        Trigger::new("pg-test-1", IP.parse().unwrap())
    }

    fn view(cluster_id: u64, revision: i64, leader: Option<(&str, i64)>) -> Arc<ClusterView> {
        let leader = leader.map(|(name, lease)| LeaderKey { name: name.into(), create_revision: 1, lease });
        Arc::new(ClusterView { cluster_id, revision, leader, ..ClusterView::default() })
    }

    fn read(sent_at: Instant, left: Option<u64>) -> ViewSource {
        ViewSource::Read { sent_at, lease_left: left.map(Duration::from_secs) }
    }

    #[test]
    fn nothing_is_claimed_before_anything_is_known() {
        let mut trigger = trigger();
        assert_eq!(trigger.right(), VipRight::unknown(Reason::Starting));
        let start = clock::now();
        trigger.see_key(view(1, 5, Some(("pg-test-1", 0))), &ViewSource::Watch, start);
        assert!(!trigger.is_known(), "a watch alone proves nothing");
        assert_eq!(trigger.needs_word_from(), None);
    }

    #[test]
    fn the_value_must_be_equal_to_the_letter() {
        let start = clock::now();
        let cases = [
            (Some(("pg-test-1", 0)), VipClaim::Ours, Reason::RoleHeld),
            (Some(("pg-test-1 ", 0)), VipClaim::NotOurs, Reason::RoleElsewhere),
            (Some(("PG-TEST-1", 0)), VipClaim::NotOurs, Reason::RoleElsewhere),
            (Some(("pg-test-10", 0)), VipClaim::NotOurs, Reason::RoleElsewhere),
            (None, VipClaim::NotOurs, Reason::RoleVacant),
        ];
        for (leader, claim, reason) in cases {
            let mut trigger = trigger();
            trigger.see_key(view(1, 5, leader), &read(start, None), start);
            let right = trigger.right();
            assert_eq!((right.claim, right.reason), (claim, reason), "{leader:?}");
            assert_eq!(right.leader.as_ref().map(MemberName::as_str), leader.map(|(name, _)| name));
            assert_eq!((right.confirmed_at, right.lease_end), (Some(start), None), "it has no lease");
        }
    }

    #[test]
    fn the_lease_bounds_as_far_as_it_is_known() {
        let start = clock::now();
        let mut trigger = trigger();
        trigger.see_key(view(1, 5, Some(("pg-test-1", 7))), &read(start, None), start);
        assert_eq!(trigger.right().lease_end, Some(start + FRESH_FOR), "not known yet");
        trigger.see_key(view(1, 5, Some(("pg-test-1", 7))), &read(start, Some(30)), start);
        assert_eq!(trigger.right().lease_end, Some(start + 30 * SECOND));
        // The same name under another lease inherits nothing.
        trigger.see_key(view(1, 6, Some(("pg-test-1", 8))), &ViewSource::Watch, start + SECOND);
        assert_eq!(trigger.right().lease_end, Some(start + FRESH_FOR));
        assert_eq!(trigger.right().confirmed_at, Some(start));
    }

    #[test]
    fn a_move_is_seen_by_the_watch_and_outlives_an_older_read() {
        let start = clock::now();
        let mut trigger = trigger();
        trigger.see_key(view(1, 5, Some(("pg-test-1", 0))), &read(start, None), start);
        trigger.see_key(view(1, 6, Some(("pg-test-2", 0))), &ViewSource::Watch, start + SECOND);
        assert_eq!(trigger.right().claim, VipClaim::NotOurs);
        trigger.see_key(view(1, 5, Some(("pg-test-1", 0))), &read(start + SECOND / 2, None), start + SECOND);
        assert_eq!(trigger.right().claim, VipClaim::NotOurs);
    }

    #[test]
    fn a_replaced_dcs_is_believed_from_its_second_read_on() {
        let start = clock::now();
        let mut trigger = trigger();
        trigger.see_key(view(1, 50, Some(("pg-test-1", 0))), &read(start, None), start);
        let other = || view(2, 3, Some(("pg-test-1", 9)));
        trigger.see_key(other(), &read(start + SECOND, None), start + SECOND);
        assert_eq!((trigger.right().claim, trigger.right().reason), (VipClaim::Unknown, Reason::DcsReplaced));
        // Its lease, which comes later, is the same read.
        trigger.see_key(other(), &read(start + SECOND, Some(20)), start + SECOND);
        assert_eq!(trigger.right().claim, VipClaim::Unknown);
        trigger.see_key(other(), &read(start + 2 * SECOND, Some(19)), start + 2 * SECOND);
        assert_eq!((trigger.right().claim, trigger.right().confirmed_at), (VipClaim::Ours, Some(start + 2 * SECOND)));
    }

    #[test]
    fn the_mark_comes_from_its_own_key() {
        let start = clock::now();
        let mut trigger = trigger();
        trigger.see_key(view(1, 5, Some(("pg-test-1", 0))), &read(start, None), start);
        assert_eq!(trigger.right().mark, None);
        let mark = VipMark { holder: "pg-test-2".into(), lease: Some(5 * SECOND), mod_revision: 4 };
        let vips = BTreeMap::from([(IP.parse().unwrap(), mark.clone())]);
        let seen = ClusterView { cluster_id: 1, revision: 5, vips, ..ClusterView::default() };
        trigger.see_mark(Arc::new(seen), &read(start, None), start);
        assert_eq!(trigger.right().mark, Some(mark));
        trigger.see_mark(view(1, 6, None), &ViewSource::Watch, start);
        assert_eq!(trigger.right().mark, None);
        assert_eq!(trigger.right().claim, VipClaim::Ours);
    }

    #[test]
    fn patroni_is_needed_when_reads_of_our_own_lead_are_late() {
        let start = clock::now();
        let mut trigger = trigger();
        trigger.see_key(view(1, 5, Some(("pg-test-1", 0))), &read(start, None), start);
        assert_eq!(trigger.needs_word_from(), Some(start + LATE_AFTER));
        trigger.hear(Word::Leads, start + 2 * SECOND);
        assert_eq!(trigger.right().vouched_at, Some(start + 2 * SECOND));
        trigger.hear(Word::DoesNotLead, start + 3 * SECOND);
        assert_eq!(trigger.right().vouched_at, None, "it takes its word back");
        trigger.see_key(view(1, 6, Some(("pg-test-2", 0))), &ViewSource::Watch, start);
        assert_eq!(trigger.needs_word_from(), None);
    }

    #[test]
    fn an_answer_counts_from_the_moment_of_its_question() {
        let start = clock::now();
        let mut trigger = trigger();
        let ours = Answer::Value { matches: true, leader: None };
        trigger.see_answer(ours.clone(), start);
        let right = trigger.right();
        assert_eq!((right.claim, right.confirmed_at, right.lease_end), (VipClaim::Ours, Some(start), None));
        trigger.see_answer(Answer::Value { matches: false, leader: Some("b".into()) }, start + SECOND);
        assert_eq!((trigger.right().claim, trigger.right().reason), (VipClaim::NotOurs, Reason::RoleElsewhere));
        trigger.see_answer(ours, start);
        assert_eq!(trigger.right().claim, VipClaim::NotOurs, "an older question");
        trigger.see_answer(Answer::Nothing, start + 2 * SECOND);
        assert_eq!((trigger.right().claim, trigger.right().reason), (VipClaim::NotOurs, Reason::RoleVacant));
    }
}
