//! Single rules, by events and effects. Whole stories are pages in `tests/vip`.

use super::*;
use crate::model::{VipAddress, VipClaim, VipEntry, VipLink, VipMark, VipOnDcsLoss, VipOnExit};
use crate::runtime::clock;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

struct Bed {
    vip: Vip,
    now: Instant,
}

fn entry(valid: Option<u64>) -> VipEntry {
    VipEntry {
        interface: "eth0".into(),
        index: 2,
        prefix: 32,
        is_ours: true,
        valid_for: valid.map(Duration::from_secs),
        is_failed: false,
    }
}

fn mark(holder: &str, mod_revision: i64) -> Option<VipMark> {
    Some(VipMark { holder: holder.into(), lease: Some(5 * SECOND), mod_revision })
}

fn put(number: u64, seconds: u64) -> VipEffect {
    VipEffect::Put { number, valid: ValidFor(Duration::from_secs(seconds)) }
}

impl Bed {
    fn new(change: impl FnOnce(&mut VipSpec)) -> Bed {
        let mut spec = VipSpec::new(VipAddress::single([10, 0, 0, 100].into()), "eth0", "c");
        change(&mut spec);
        let now = clock::now() + 1000 * SECOND;
        let mut bed = Bed { vip: Vip::new(Arc::new(spec), "me".into(), now), now };
        bed.give(VipEvent::Entries(Vec::new()));
        let link = VipLink { index: 2, mac: Mac([2; 6]), is_running: true };
        bed.give(VipEvent::Link { link: Some(link), notify: false });
        bed
    }

    /// Effects without the lines of the log.
    fn give(&mut self, event: VipEvent) -> Vec<VipEffect> {
        self.vip.handle(event, self.now);
        self.drain()
    }

    fn drain(&mut self) -> Vec<VipEffect> {
        let effects = std::iter::from_fn(|| self.vip.poll_effect());
        effects.filter(|effect| !matches!(effect, VipEffect::Log(_))).collect()
    }

    /// Time passes, timer by timer.
    fn wait(&mut self, span: Duration) -> Vec<VipEffect> {
        let end = self.now + span;
        let mut effects = Vec::new();
        while let Some((at, _)) = self.vip.poll_timeout().filter(|(at, _)| *at <= end) {
            self.now = at;
            self.vip.handle_timeout(at);
            effects.extend(self.drain());
        }
        self.now = end;
        effects
    }

    fn right(&self, claim: VipClaim) -> VipRight {
        let leader = if claim == VipClaim::Ours { "me" } else { "other" };
        VipRight {
            claim,
            leader: Some(leader.into()),
            confirmed_at: Some(self.now),
            lease_end: Some(self.now + 25 * SECOND),
            ..VipRight::unknown(Reason::RoleHeld)
        }
    }

    fn ours(&mut self) -> Vec<VipEffect> {
        self.give(VipEvent::Right(self.right(VipClaim::Ours)))
    }

    fn not_ours(&mut self) -> Vec<VipEffect> {
        self.give(VipEvent::Right(self.right(VipClaim::NotOurs)))
    }

    fn done(&mut self, number: u64) -> Vec<VipEffect> {
        self.give(VipEvent::Done { number, problem: None })
    }

    /// Claimed: the mark is written at revision 7 under number 1, the address put under number 2.
    fn held(change: impl FnOnce(&mut VipSpec)) -> Bed {
        let mut bed = Bed::new(change);
        assert_eq!(bed.ours(), [VipEffect::Probe]);
        let effects = bed.wait(75 * MS);
        let claim =
            [VipEffect::WriteMark { number: 1, take: false }, put(2, 5), VipEffect::OpenListeners, VipEffect::Announce];
        assert_eq!(effects[2..], claim);
        assert_eq!(bed.done(2), []);
        bed.give(VipEvent::MarkWritten { number: 1, outcome: Ok(7) });
        bed.give(VipEvent::Entries(vec![entry(Some(5))]));
        assert_eq!(bed.state(), VipState::Held);
        bed
    }

    fn state(&self) -> VipState {
        self.vip.snapshot().state
    }
}

fn is_put(effect: &VipEffect) -> bool {
    matches!(effect, VipEffect::Put { .. })
}

#[test]
fn a_put_that_was_sent_is_not_believed() {
    let mut bed = Bed::new(|_| {});
    bed.ours();
    bed.wait(75 * MS);
    assert_eq!(bed.state(), VipState::Claiming);
    assert_eq!(bed.vip.snapshot().lease_end, None);
    // The list from before the Put, told late, is no deletion; nor is another number an outcome.
    assert_eq!(bed.give(VipEvent::Entries(Vec::new())), []);
    assert_eq!(bed.done(1), []);
    assert_eq!(bed.state(), VipState::Claiming);
    assert_eq!(bed.done(2), []);
    assert_eq!(bed.state(), VipState::Held);
    assert_eq!(bed.vip.snapshot().repairs, 0);
}

#[test]
fn a_put_that_fails_is_tried_again_after_a_second() {
    let mut bed = Bed::new(|_| {});
    bed.ours();
    bed.wait(75 * MS);
    bed.give(VipEvent::Done { number: 2, problem: Some("not permitted".into()) });
    let snapshot = bed.vip.snapshot();
    assert_eq!((snapshot.state, snapshot.announcements), (VipState::Claiming, 0));
    assert_eq!(snapshot.problem.as_deref(), Some("not permitted"));
    assert!(!bed.wait(900 * MS).iter().any(is_put));
    assert!(bed.wait(200 * MS).iter().any(is_put));
}

#[test]
fn a_put_without_an_outcome_may_have_been_carried_out() {
    let mut bed = Bed::new(|_| {});
    bed.ours();
    bed.wait(75 * MS);
    bed.wait(1100 * MS);
    let effects = bed.not_ours();
    assert!(matches!(effects[..], [VipEffect::CloseSessions { .. }]), "{effects:?}");
}

#[test]
fn own_renewals_are_not_answered() {
    let mut bed = Bed::held(|_| {});
    for number in 3..8 {
        bed.wait(SECOND);
        assert_eq!(bed.ours().iter().filter(|e| is_put(e)).count(), 1);
        assert_eq!(bed.give(VipEvent::Entries(vec![entry(Some(5))])), []);
        assert_eq!(bed.done(number), []);
        assert_eq!(bed.give(VipEvent::Entries(vec![entry(Some(5))])), []);
    }
    assert_eq!(bed.vip.snapshot().repairs, 0);
}

#[test]
fn the_same_confirmation_renews_once() {
    let mut bed = Bed::held(|_| {});
    let right = bed.right(VipClaim::Ours);
    bed.wait(700 * MS);
    assert_eq!(bed.give(VipEvent::Right(right.clone())), [put(3, 5)]);
    bed.done(3);
    bed.wait(700 * MS);
    assert!(!bed.give(VipEvent::Right(right)).iter().any(is_put));
}

#[test]
fn what_was_deleted_while_a_renewal_was_under_way_is_put_back() {
    let mut bed = Bed::held(|_| {});
    bed.wait(SECOND);
    assert_eq!(bed.ours(), [put(3, 5)]);
    bed.give(VipEvent::Entries(Vec::new()));
    assert!(bed.done(3).iter().any(is_put));
    assert_eq!(bed.vip.snapshot().repairs, 1);
}

#[test]
fn a_shorter_lease_of_the_leader_shortens_ours() {
    let mut bed = Bed::held(|_| {});
    bed.wait(100 * MS);
    let right = VipRight { lease_end: Some(bed.now + 4900 * MS), ..bed.right(VipClaim::Ours) };
    assert_eq!(bed.give(VipEvent::Right(right)), [put(3, 2)]);
    bed.done(3);
    // None that is worth it: let go at once.
    let right = VipRight { lease_end: Some(bed.now + 3 * SECOND), ..bed.right(VipClaim::Ours) };
    let effects = bed.give(VipEvent::Right(right));
    assert!(matches!(effects[..], [VipEffect::CloseSessions { reason: Reason::LeaseEnded, .. }]), "{effects:?}");
}

#[test]
fn a_lease_that_nobody_knows_does_not_bound() {
    let mut bed = Bed::new(|_| {});
    bed.give(VipEvent::Right(VipRight { lease_end: None, ..bed.right(VipClaim::Ours) }));
    assert!(bed.wait(75 * MS).contains(&put(2, 5)));
}

#[test]
fn a_new_configuration_counts_at_once() {
    let mut bed = Bed::held(|_| {});
    bed.wait(100 * MS);
    let spec = VipSpec { lease: 3 * SECOND, ..(**bed.vip.spec()).clone() };
    assert_eq!(bed.give(VipEvent::Spec(Arc::new(spec.clone()))), [put(3, 3)]);
    bed.done(3);
    // Stale at 2 s, and no grace any more.
    let spec = VipSpec { on_dcs_loss: VipOnDcsLoss::Release, grace: Duration::ZERO, lease: 8 * SECOND, ..spec };
    bed.ours();
    bed.give(VipEvent::Spec(Arc::new(spec)));
    bed.wait(1900 * MS);
    bed.give(VipEvent::Entries(vec![entry(Some(2))]));
    assert!(bed.wait(200 * MS).iter().any(|e| matches!(e, VipEffect::CloseSessions { .. })));
}

#[test]
fn sockets_are_reset_between_the_sessions_and_the_address() {
    let mut bed = Bed::held(|spec| spec.close_sockets = true);
    let effects = bed.not_ours();
    assert_eq!(effects, [VipEffect::CloseSessions { number: 3, reason: Reason::RoleHeld }]);
    // An earlier number is another closing.
    assert_eq!(bed.give(VipEvent::SessionsClosed { number: 1 }), []);
    let effects = bed.give(VipEvent::SessionsClosed { number: 3 });
    assert_eq!(effects, [VipEffect::DestroySockets, VipEffect::Remove { number: 4 }]);
    assert_eq!(bed.done(4), [VipEffect::DeleteMark { mod_revision: 7 }]);
    assert_eq!(bed.state(), VipState::Released);
}

#[test]
fn ours_again_while_releasing_is_claimed_afterwards() {
    let mut bed = Bed::held(|_| {});
    bed.not_ours();
    assert_eq!(bed.ours(), []);
    assert_eq!(bed.give(VipEvent::SessionsClosed { number: 3 }), [VipEffect::Remove { number: 4 }]);
    assert_eq!(bed.done(4), [VipEffect::DeleteMark { mod_revision: 7 }, VipEffect::Probe]);
}

#[test]
fn a_mark_is_not_left_behind_when_it_was_written_late() {
    let mut bed = Bed::new(|_| {});
    bed.ours();
    bed.wait(75 * MS);
    bed.done(2);
    bed.not_ours();
    bed.give(VipEvent::SessionsClosed { number: 3 });
    assert_eq!(bed.done(4), []);
    let effects = bed.give(VipEvent::MarkWritten { number: 1, outcome: Ok(9) });
    assert_eq!(effects, [VipEffect::DeleteMark { mod_revision: 9 }]);
}

#[test]
fn what_is_held_again_keeps_the_mark_of_before() {
    let mut bed = Bed::held(|_| {});
    bed.not_ours();
    bed.give(VipEvent::SessionsClosed { number: 3 });
    bed.done(4);
    bed.ours();
    bed.wait(75 * MS);
    // Its deletion is on its way, and must not be taken for the release of what is held now.
    let seen = VipRight { mark: mark("me", 7), ..bed.right(VipClaim::Ours) };
    bed.vip = Bed::held(|_| {}).vip;
    bed.not_ours();
    bed.give(VipEvent::SessionsClosed { number: 3 });
    bed.done(4);
    assert_eq!(bed.give(VipEvent::Right(seen)), []);
    assert_eq!(bed.ours(), [VipEffect::Probe]);
}

#[test]
fn the_mark_of_a_former_life_spares_nothing_and_is_not_deleted() {
    let mut bed = Bed::new(|_| {});
    let right = VipRight { mark: mark("me", 3), ..bed.right(VipClaim::Ours) };
    assert_eq!(bed.give(VipEvent::Right(right)), [VipEffect::Probe]);
    let right = VipRight { mark: mark("me", 3), ..bed.right(VipClaim::NotOurs) };
    assert_eq!(bed.give(VipEvent::Right(right)), []);
    assert_eq!(bed.state(), VipState::Released);
}

#[test]
fn only_a_deletion_by_the_leader_before_us_spares_the_probes() {
    let vanishes = |leader: &str, between: Option<&str>| {
        let mut bed = Bed::new(|_| {});
        let with = |bed: &Bed, leader: Option<&str>, mark| {
            let right = bed.right(if leader == Some("me") { VipClaim::Ours } else { VipClaim::NotOurs });
            VipEvent::Right(VipRight { leader: leader.map(Into::into), mark, ..right })
        };
        bed.give(with(&bed, Some(leader), mark("other", 3)));
        bed.give(with(&bed, None, mark("other", 3)));
        bed.give(with(&bed, None, None));
        if let Some(between) = between {
            bed.give(with(&bed, Some(between), None));
        }
        bed.ours().iter().any(is_put)
    };
    let mut bed = Bed::new(|_| {});
    let other = bed.right(VipClaim::NotOurs);
    bed.give(VipEvent::Right(VipRight { mark: mark("other", 3), ..other }));
    // Told while we were stopped: what was read then may be overtaken.
    let old = bed.right(VipClaim::Ours);
    bed.now += 80 * MS;
    assert_eq!(bed.give(VipEvent::Right(old)), [VipEffect::Probe]);
    assert!(bed.ours().iter().any(is_put));
    assert!(vanishes("other", None));
    assert!(!vanishes("third", None));
    assert!(!vanishes("other", Some("third")));
    assert!(!vanishes("other", Some("other")));
}

#[test]
fn a_deletion_is_no_word_when_the_view_had_a_gap() {
    let mut bed = Bed::new(|_| {});
    bed.give(VipEvent::Right(VipRight { mark: mark("other", 3), ..bed.right(VipClaim::NotOurs) }));
    bed.wait(3 * SECOND);
    assert_eq!(bed.ours(), [VipEffect::Probe]);
}

#[test]
fn a_silence_that_is_looked_at_late_is_asked_for_again() {
    let mut bed = Bed::new(|_| {});
    bed.ours();
    bed.wait(60 * MS);
    bed.now += SECOND;
    bed.vip.handle_timeout(bed.now);
    assert_eq!(bed.drain(), [VipEffect::Probe]);
    assert!(!bed.wait(74 * MS).iter().any(is_put));
    assert!(bed.wait(MS).iter().any(is_put));
}

#[test]
fn two_entries_of_ours_are_removed_before_a_claim() {
    let mut bed = Bed::new(|_| {});
    bed.give(VipEvent::Entries(vec![entry(Some(4)), VipEntry { prefix: 24, ..entry(Some(4)) }]));
    let effects = bed.ours();
    assert!(matches!(effects[..], [VipEffect::CloseSessions { .. }]), "{effects:?}");
    bed.give(VipEvent::SessionsClosed { number: 1 });
    assert_eq!(bed.done(2), [VipEffect::Probe]);
}

#[test]
fn a_leftover_on_another_interface_is_removed_before_a_claim() {
    let mut bed = Bed::new(|_| {});
    bed.give(VipEvent::Entries(vec![VipEntry { interface: "eth1".into(), ..entry(Some(4)) }]));
    assert_eq!(bed.state(), VipState::Starting);
    assert!(matches!(bed.ours()[..], [VipEffect::CloseSessions { .. }]));
}

#[test]
fn an_address_that_failed_detection_is_removed_and_claimed_anew() {
    let mut bed = Bed::held(|_| {});
    bed.wait(SECOND);
    let effects = bed.give(VipEvent::Entries(vec![VipEntry { is_failed: true, ..entry(Some(4)) }]));
    assert!(matches!(effects[..], [VipEffect::CloseSessions { .. }]), "{effects:?}");
    assert_eq!(bed.give(VipEvent::SessionsClosed { number: 3 }), [VipEffect::Remove { number: 4 }]);
    assert_eq!(bed.done(4).last(), Some(&VipEffect::Probe));
}

#[test]
fn whoever_slept_removes_first() {
    let mut bed = Bed::held(|_| {});
    let before = bed.right(VipClaim::Ours);
    bed.wait(10 * MS);
    let effects = bed.give(VipEvent::Slept(60 * SECOND));
    let reason = Reason::MachineSlept;
    assert_eq!(effects, [VipEffect::Remove { number: 3 }, VipEffect::CloseSessions { number: 4, reason }]);
    bed.done(3);
    // A read that was under way when the machine fell asleep proves nothing.
    assert_eq!(bed.give(VipEvent::Right(before)), []);
    assert_eq!(bed.ours(), [VipEffect::Probe]);
}

#[test]
fn whoever_was_stopped_beyond_its_lease_does_not_put_it_again() {
    for policy in [VipOnDcsLoss::Hold, VipOnDcsLoss::KeepWhilePatroniLeads] {
        let mut bed = Bed::held(|spec| spec.on_dcs_loss = policy);
        bed.now += 10 * SECOND;
        let right = VipRight { vouched_at: Some(bed.now), ..bed.right(VipClaim::Ours) };
        let effects = bed.give(VipEvent::Right(right));
        assert!(!effects.iter().any(is_put), "{effects:?}");
        assert_eq!(bed.state(), VipState::Releasing);
    }
}

#[test]
fn a_replaced_dcs_takes_the_right_away() {
    let mut bed = Bed::held(|_| {});
    bed.give(VipEvent::Right(VipRight::unknown(Reason::DcsReplaced)));
    assert_eq!(bed.vip.snapshot().reason, Reason::DcsReplaced);
    assert_eq!(bed.state(), VipState::Releasing);
}

#[test]
fn what_the_kernel_took_is_not_waited_for() {
    let mut bed = Bed::held(|_| {});
    bed.now += 6 * SECOND;
    let effects = bed.give(VipEvent::Entries(Vec::new()));
    assert!(
        matches!(effects[..], [VipEffect::CloseSessions { .. }, VipEffect::DeleteMark { mod_revision: 7 }]),
        "{effects:?}"
    );
    assert_eq!(bed.state(), VipState::Released);
}

#[test]
fn kept_on_exit_within_the_leaders_lease() {
    let mut bed = Bed::held(|spec| spec.on_exit = VipOnExit::Keep(60 * SECOND));
    assert_eq!(bed.give(VipEvent::Exit), [put(3, 22)]);
    assert!(!bed.vip.is_done());
    assert_eq!(bed.give(VipEvent::Exit), []);
    bed.done(3);
    assert!(bed.vip.is_done());
}

#[test]
fn an_exit_without_answers_ends() {
    let mut bed = Bed::held(|_| {});
    bed.give(VipEvent::Exit);
    assert!(!bed.vip.is_done());
    bed.wait(3 * SECOND);
    assert!(bed.vip.is_done());
}

#[test]
fn a_conflict_is_told_every_ten_seconds_and_counted_each_time() {
    let mut bed = Bed::held(|_| {});
    bed.wait(SECOND);
    bed.ours();
    bed.done(3);
    let told = |bed: &mut Bed| {
        bed.vip.handle(VipEvent::Heard { mac: Mac([3; 6]) }, bed.now);
        let effects = std::iter::from_fn(|| bed.vip.poll_effect());
        effects.filter(|e| matches!(e, VipEffect::Log(VipTransition::Conflict { released: false, .. }))).count()
    };
    assert_eq!((told(&mut bed), told(&mut bed)), (1, 0));
    assert_eq!(bed.vip.snapshot().conflicts, 2);
    assert_eq!(bed.state(), VipState::Held);
}
