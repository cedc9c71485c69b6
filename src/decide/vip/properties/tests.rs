//! Any sequence of events, against the rules written a second time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::model::{
    Role, VIP_LEASE_MARGIN, VipAddress, VipClaim, VipEntry, VipLink, VipMark, VipOnDcsLoss, VipOnExit, VipRight,
};
use crate::runtime::clock;

#[derive(Debug, Clone)]
enum Given {
    Right {
        claim: VipClaim,
        leader: Option<bool>,
        asked_ms_ago: u64,
        lease_left_ms: Option<u64>,
        vouched_ms_ago: Option<u64>,
        mark: Option<(bool, i64)>,
    },
    /// Of each entry: ours, seconds left, prefix, failed.
    Entries(Vec<(bool, Option<u64>, u8, bool)>),
    Link(Option<bool>, bool),
    Heard,
    /// The outcome of what was asked last, or before.
    Done(bool, bool),
    SessionsClosed,
    MarkWritten(bool),
    Slept(u64),
    Spec(u64, VipOnDcsLoss),
    Exit,
    Nothing,
}

fn given() -> impl Strategy<Value = Given> {
    let claim = prop_oneof![8 => Just(VipClaim::Ours), 2 => Just(VipClaim::NotOurs), 1 => Just(VipClaim::Unknown)];
    let age = || prop_oneof![4 => 0..50_u64, 1 => 0..3000_u64];
    let lease = prop::option::of(prop_oneof![3 => 10_000..30_000_u64, 1 => 0..9000_u64]);
    let leader = prop::option::of(any::<bool>());
    let mark = prop::option::of((any::<bool>(), 1..8_i64));
    let right = (claim, leader, age(), lease, prop::option::of(age()), mark).prop_map(
        |(claim, leader, asked_ms_ago, lease_left_ms, vouched_ms_ago, mark)| Given::Right {
            claim,
            leader,
            asked_ms_ago,
            lease_left_ms,
            vouched_ms_ago,
            mark,
        },
    );
    let left = prop_oneof![4 => (1..6_u64).prop_map(Some), 1 => Just(None)];
    let prefix = prop_oneof![5 => Just(32_u8), 1 => Just(24_u8)];
    let entry = (prop::bool::weighted(0.8), left, prefix, prop::bool::weighted(0.05));
    prop_oneof![
        8 => right,
        4 => prop::collection::vec(entry, 0..2).prop_map(Given::Entries),
        2 => (prop::option::weighted(0.9, prop::bool::weighted(0.8)), any::<bool>())
            .prop_map(|(link, notify)| Given::Link(link, notify)),
        1 => Just(Given::Heard),
        8 => (prop::bool::weighted(0.9), prop::bool::weighted(0.1)).prop_map(|(well, old)| Given::Done(well, old)),
        3 => Just(Given::SessionsClosed),
        3 => prop::bool::weighted(0.8).prop_map(Given::MarkWritten),
        1 => (1..100_u64).prop_map(Given::Slept),
        1 => (3..9_u64, policy()).prop_map(|(lease, policy)| Given::Spec(lease, policy)),
        1 => prop::bool::weighted(0.2).prop_map(|exit| if exit { Given::Exit } else { Given::Nothing }),
        4 => Just(Given::Nothing),
    ]
}

fn policy() -> impl Strategy<Value = VipOnDcsLoss> {
    prop_oneof![
        3 => Just(VipOnDcsLoss::KeepWhilePatroniLeads),
        1 => Just(VipOnDcsLoss::Release),
        1 => Just(VipOnDcsLoss::Hold)
    ]
}

fn spec() -> impl Strategy<Value = VipSpec> {
    let role = prop_oneof![3 => Just(Role::Primary), 1 => Just(Role::Replica)];
    let on_exit = prop_oneof![2 => Just(VipOnExit::Release), 1 => Just(VipOnExit::Keep(Duration::from_secs(20)))];
    (policy(), 3..9_u64, role, on_exit, any::<bool>(), any::<bool>()).prop_map(
        |(on_dcs_loss, lease, role, on_exit, adopt, close_sockets)| VipSpec {
            on_dcs_loss,
            lease: Duration::from_secs(lease),
            role,
            on_exit,
            adopt,
            close_sockets,
            ..VipSpec::new(VipAddress::single([10, 0, 0, 100].into()), "eth0", "c")
        },
    )
}

/// Plays events and holds every effect against the rules.
struct Judge {
    vip: Vip,
    now: Instant,
    right: Option<VipRight>,
    slept_at: Option<Instant>,
    exited: bool,
    leftover_is_endless: bool,
    sessions_closed: bool,
    numbers: Vec<u64>,
    closings: Vec<u64>,
    writings: Vec<u64>,
    revision: i64,
    held_until: Option<Instant>,
    effects: Vec<VipEffect>,
}

const MS: Duration = Duration::from_millis(1);

impl Judge {
    fn new(spec: VipSpec, base: Instant) -> Judge {
        let mut judge = Judge {
            vip: Vip::new(Arc::new(spec), "me".into(), base),
            now: base,
            right: None,
            slept_at: None,
            exited: false,
            leftover_is_endless: false,
            sessions_closed: false,
            numbers: Vec::new(),
            closings: Vec::new(),
            writings: Vec::new(),
            revision: 10,
            held_until: None,
            effects: Vec::new(),
        };
        judge.play(&Given::Link(Some(true), false));
        judge
    }

    fn event(&mut self, given: &Given) -> Option<VipEvent> {
        let ago = |ms: u64| self.now - MS * ms as u32;
        Some(match given {
            Given::Right { claim, leader, asked_ms_ago, lease_left_ms, vouched_ms_ago, mark } => {
                let name = |me: bool| if me { "me" } else { "other" };
                let mark = mark.map(|(mine, revision)| VipMark {
                    holder: name(mine).into(),
                    lease: Some(Duration::from_secs(5)),
                    mod_revision: if mine { self.revision } else { revision },
                });
                let right = VipRight {
                    claim: *claim,
                    reason: Reason::RoleHeld,
                    leader: leader.map(|me| name(me).into()),
                    confirmed_at: Some(ago(*asked_ms_ago)),
                    lease_end: lease_left_ms.map(|left| self.now + MS * left as u32),
                    is_lease_known: true,
                    vouched_at: vouched_ms_ago.map(ago),
                    mark,
                };
                self.right = Some(right.clone());
                VipEvent::Right(right)
            }
            Given::Entries(entries) => {
                let entry = |(is_ours, left, prefix, is_failed): &(bool, Option<u64>, u8, bool)| VipEntry {
                    interface: "eth0".into(),
                    index: 2,
                    prefix: *prefix,
                    is_ours: *is_ours,
                    valid_for: left.map(Duration::from_secs),
                    is_failed: *is_failed,
                };
                let entries: Vec<VipEntry> = entries.iter().map(entry).collect();
                self.leftover_is_endless = entries.iter().any(|e| e.is_ours && e.valid_for.is_none());
                VipEvent::Entries(entries)
            }
            Given::Link(link, notify) => {
                let link = link.map(|is_running| VipLink { index: 2, mac: Mac([2; 6]), is_running });
                VipEvent::Link { link, notify: *notify }
            }
            Given::Heard => VipEvent::Heard { mac: Mac([3; 6]) },
            Given::Done(well, old) => {
                let number = if *old { self.numbers.first() } else { self.numbers.last() };
                VipEvent::Done { number: *number?, problem: (!well).then(|| "no".to_owned()) }
            }
            Given::SessionsClosed => VipEvent::SessionsClosed { number: *self.closings.last()? },
            Given::MarkWritten(well) => {
                let number = self.writings.pop()?;
                self.revision += i64::from(*well);
                VipEvent::MarkWritten { number, outcome: well.then_some(self.revision).ok_or("no".to_owned()) }
            }
            Given::Slept(seconds) => {
                (self.right, self.slept_at) = (None, Some(self.now));
                VipEvent::Slept(Duration::from_secs(*seconds))
            }
            Given::Spec(lease, on_dcs_loss) => {
                let lease = Duration::from_secs(*lease);
                VipEvent::Spec(Arc::new(VipSpec { lease, on_dcs_loss: *on_dcs_loss, ..(**self.vip.spec()).clone() }))
            }
            Given::Exit => {
                self.exited = true;
                VipEvent::Exit
            }
            Given::Nothing => return None,
        })
    }

    fn play(&mut self, given: &Given) {
        let before = self.vip.snapshot().state;
        match self.event(given) {
            Some(event) => self.vip.handle(event, self.now),
            None => self.vip.handle_timeout(self.now),
        }
        let has_slept = matches!(given, Given::Slept(_));
        self.drain(before, has_slept);
    }

    /// Time passes, and what comes due in it is dealt with.
    fn wait(&mut self, span: Duration) {
        let end = self.now + span;
        let mut rounds = 0;
        while let Some((at, why)) = self.vip.poll_timeout().filter(|(at, _)| *at <= end) {
            assert!(at > self.now, "{why} lies in the past");
            self.now = at;
            let before = self.vip.snapshot().state;
            self.vip.handle_timeout(at);
            self.drain(before, false);
            rounds += 1;
            assert!(rounds < 20 + 50 * span.as_secs(), "{why} comes again and again");
        }
        self.now = end;
    }

    fn drain(&mut self, before: VipState, has_slept: bool) {
        while let Some(effect) = self.vip.poll_effect() {
            match &effect {
                VipEffect::Put { number, valid } => {
                    self.judge_put(valid.0, before);
                    self.numbers.push(*number);
                }
                VipEffect::Remove { number } => {
                    assert!(self.sessions_closed || has_slept, "the address goes before its sessions");
                    self.numbers.push(*number);
                }
                VipEffect::CloseSessions { number, .. } => {
                    self.sessions_closed = true;
                    self.closings.push(*number);
                }
                VipEffect::OpenListeners => self.sessions_closed = false,
                VipEffect::WriteMark { number, .. } => self.writings.push(*number),
                VipEffect::Probe => assert!(!self.exited, "probes after the exit"),
                _ => {}
            }
            self.effects.push(effect);
        }
        if has_slept {
            self.sessions_closed = true;
        }
        self.held_until = self.vip.snapshot().lease_end;
        let timer = self.vip.poll_timeout();
        assert!(timer.is_none_or(|(at, _)| at > self.now), "{timer:?} is due");
    }

    /// The fence, from the last right alone.
    fn judge_put(&self, valid: Duration, before: VipState) {
        let spec = self.vip.spec();
        assert!(valid >= Duration::from_secs(1) && valid.subsec_nanos() == 0, "{valid:?}");
        let keeps = matches!(spec.on_exit, VipOnExit::Keep(_)) && self.exited;
        let wished = if keeps { Duration::from_secs(20).max(spec.lease) } else { spec.lease };
        assert!(valid <= wished, "{valid:?} is more than a lease");
        if before == VipState::Starting && self.leftover_is_endless {
            return;
        }
        let right = self.right.as_ref().expect("a right");
        assert_eq!(right.claim, VipClaim::Ours);
        let counts = |at: Instant| self.slept_at.is_none_or(|slept| at >= slept);
        let confirmed = right.confirmed_at.filter(|at| counts(*at) && self.now < *at + MS * 2000);
        if confirmed.is_some() {
            let beyond = right.lease_end.is_some_and(|end| self.now + valid + VIP_LEASE_MARGIN > end);
            assert!(!beyond, "{valid:?} is beyond the leader's lease");
            if spec.is_exclusive_by_mark() {
                let mark = right.mark.as_ref().expect("a mark");
                assert_eq!(&*mark.holder, "me");
            }
            return;
        }
        assert!(!keeps || valid <= spec.lease);
        assert_eq!(before, VipState::Held, "claimed without a fresh view");
        assert!(!spec.is_exclusive_by_mark());
        match spec.on_dcs_loss {
            VipOnDcsLoss::Release => panic!("renewed without a view"),
            VipOnDcsLoss::Hold => {}
            VipOnDcsLoss::KeepWhilePatroniLeads => {
                let vouched = right.vouched_at.filter(|at| counts(*at) && self.now <= *at + MS * 1000);
                assert!(vouched.is_some(), "renewed without Patroni's word");
            }
        }
    }
}

fn play(spec: &VipSpec, steps: &[(u64, Given)], base: Instant) -> Judge {
    let mut judge = Judge::new(spec.clone(), base);
    for (pause, given) in steps {
        judge.wait(MS * *pause as u32);
        judge.play(given);
    }
    judge
}

fn steps() -> impl Strategy<Value = Vec<(u64, Given)>> {
    let pause = prop_oneof![4 => 0..5_u64, 3 => 0..120_u64, 2 => 0..2500_u64];
    prop::collection::vec((pause, given()), 0..120)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    /// Fences, order and timers hold in any history; and whatever it was, the exit ends.
    #[test]
    fn no_history_breaks_the_rules(spec in spec(), steps in steps()) {
        let base = clock::now() + Duration::from_secs(1000);
        let mut judge = play(&spec, &steps, base);
        judge.play(&Given::Exit);
        let end = judge.now + Duration::from_secs(5);
        while !judge.vip.is_done() && judge.now < end {
            judge.wait(MS * 10);
        }
        prop_assert!(judge.vip.is_done(), "{:?}", judge.vip);
        judge.play(&Given::Exit);
        prop_assert!(judge.vip.is_done());
    }

    #[test]
    fn equal_histories_have_equal_effects(spec in spec(), steps in steps()) {
        let base = clock::now() + Duration::from_secs(1000);
        let (first, again) = (play(&spec, &steps, base), play(&spec, &steps, base));
        prop_assert_eq!(first.effects, again.effects);
        prop_assert_eq!(first.vip.snapshot(), again.vip.snapshot());
    }

    /// A view that is lost, no word of Patroni's and no wish to hold: nothing more is put, and it is gone in time.
    #[test]
    fn silence_ends_it(spec in spec(), steps in steps()) {
        let base = clock::now() + Duration::from_secs(1000);
        let mut judge = play(&spec, &steps, base);
        // Left for the next process.
        prop_assume!(!judge.exited);
        if judge.vip.spec().on_dcs_loss != VipOnDcsLoss::Hold || judge.vip.spec().is_exclusive_by_mark() {
            let puts = |judge: &Judge| judge.effects.iter().filter(|e| matches!(e, VipEffect::Put { .. })).count();
            // Fresh for 2 s, vouched for 1 s; a leftover without a lifetime is given one whenever it is seen.
            judge.wait(Duration::from_secs(2));
            let before = puts(&judge);
            // A lease, and what it takes to let go.
            judge.wait(judge.vip.spec().lease + Duration::from_secs(2));
            prop_assert!(puts(&judge) == before || judge.leftover_is_endless);
            prop_assert!(!matches!(judge.vip.snapshot().state, VipState::Held | VipState::Claiming));
        }
    }
}
