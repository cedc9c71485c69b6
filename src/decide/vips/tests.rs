//! What the router says of an address, line by line.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::decide::{Effect, Event, Memory, ViewSource};
use crate::model::{
    AdminState, ApiAddress, CheckTiming, ClusterSpec, HostPort, Lsn, MemberFacts, OnDcsLoss, Order, ProbeOutcome,
    RestAnswer, Tags, Timeline, VipMark,
};
use crate::runtime::clock;

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);
const LEASE: Duration = Duration::from_secs(20);

fn ip() -> IpAddr {
    "10.0.0.100".parse().unwrap()
}

fn answer(role: RestRole, status: u16) -> RestAnswer {
    RestAnswer {
        status,
        role,
        state: "running".to_owned(),
        location: (role == RestRole::Primary).then_some(Lsn(100)),
        replayed: (role != RestRole::Primary).then_some(Lsn(100)),
        received: None,
        timeline: Some(Timeline(5)),
        replication_state: None,
        system_id: Some("sys1".to_owned()),
        failsafe_active: false,
        cluster_unlocked: false,
        pause: false,
        tags: Tags::new(),
    }
}

fn primary() -> RestAnswer {
    answer(RestRole::Primary, 200)
}

fn replica() -> RestAnswer {
    answer(RestRole::Replica, 503)
}

/// A router of n1 and n2, its view, and what their REST APIs say whenever they are asked.
struct Bed {
    router: Router,
    now: Instant,
    view: ClusterView,
    says: BTreeMap<MemberName, Option<RestAnswer>>,
}

impl Bed {
    fn with(trust: Trust, on_dcs_loss: OnDcsLoss) -> Bed {
        let now = clock::now();
        let spec = ClusterSpec {
            name: "pg-test".into(),
            scope: "pg-test".into(),
            namespace: "service".to_owned(),
            group: None,
            trust,
            on_dcs_loss,
            check: CheckTiming::default(),
            members: BTreeMap::new(),
            services: vec![Arc::new(ServiceSpec::new("primary", Role::Primary))],
        };
        let facts = |n: u8| MemberFacts {
            conn: Some(HostPort::new(format!("10.0.0.{n}"), 5432)),
            api: ApiAddress::parse(&format!("http://10.0.0.{n}:8008/patroni")),
            ..MemberFacts::default()
        };
        let members = [("n1".into(), facts(1)), ("n2".into(), facts(2))].into();
        let view = ClusterView { cluster_id: 1, revision: 10, members, ..ClusterView::default() };
        let says = [("n1".into(), Some(primary())), ("n2".into(), Some(replica()))].into();
        Bed { router: Router::new(Arc::new(spec), Memory::default(), now), now, view, says }
    }

    /// n1 leads, all is well.
    fn led() -> Bed {
        let mut bed = Bed::with(Trust::Confirm, OnDcsLoss::Keep);
        bed.key(Some("n1"));
        bed.read();
        // Each new answer makes health rise.
        (0..4).for_each(|_| bed.pass_with_reads(SECOND));
        bed
    }

    fn key(&mut self, name: Option<&str>) {
        self.view.revision += 1;
        let create_revision = self.view.revision;
        self.view.leader = name.map(|name| LeaderKey { name: name.into(), create_revision, lease: 7 });
    }

    fn say(&mut self, name: &str, answer: Option<RestAnswer>) {
        self.says.insert(name.into(), answer);
    }

    fn read(&mut self) {
        let source = ViewSource::Read { sent_at: self.now, lease_left: self.view.leader.as_ref().map(|_| LEASE) };
        self.offer(source);
    }

    fn offer(&mut self, source: ViewSource) {
        self.router.handle(Event::View { view: Arc::new(self.view.clone()), source }, self.now);
        self.answer();
    }

    /// Every question is answered at once, or in vain.
    fn answer(&mut self) {
        while let Some(effect) = self.router.poll_effect() {
            if let Effect::Probe { member, number, .. } = effect {
                let outcome = match self.says.get(&member).cloned().flatten() {
                    Some(answer) => ProbeOutcome::Answer(Box::new(answer)),
                    None => ProbeOutcome::TimedOut,
                };
                self.router.handle(Event::ProbeDone { member, number, outcome }, self.now);
            }
        }
    }

    /// Time passes without a word from the DCS.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += 50 * MS;
            self.router.handle_timeout(self.now);
            self.answer();
        }
    }

    fn pass_with_reads(&mut self, time: Duration) {
        self.pass(time);
        self.read();
    }

    fn right(&self, role: Role, member: &str) -> VipRight {
        self.router.vip_right(role, Some(&member.into()), ip(), self.now)
    }

    fn claim(&self, role: Role, member: &str) -> Claim {
        let right = self.right(role, member);
        (right.claim, right.reason)
    }
}

const OURS: VipClaim = VipClaim::Ours;
const NOT_OURS: VipClaim = VipClaim::NotOurs;
const UNKNOWN: VipClaim = VipClaim::Unknown;

#[test]
fn the_key_says_whose_it_is_and_what_is_known_comes_with_it() {
    let mut bed = Bed::led();
    let mark = VipMark { holder: "n1".into(), lease: Some(5 * SECOND), mod_revision: 9 };
    bed.view.vips.insert(ip(), mark.clone());
    bed.read();
    let right = bed.right(Role::Primary, "n1");
    let vouched_at = right.vouched_at.unwrap();
    assert!(vouched_at <= bed.now && vouched_at + 3 * SECOND > bed.now);
    let expected = VipRight {
        claim: OURS,
        reason: Reason::RoleHeld,
        leader: Some("n1".into()),
        confirmed_at: Some(bed.now),
        lease_end: Some(bed.now + LEASE),
        is_lease_known: true,
        vouched_at: Some(vouched_at),
        mark: Some(mark),
    };
    assert_eq!(right, expected);
    assert_eq!(bed.claim(Role::Primary, "n2"), (NOT_OURS, Reason::RoleElsewhere));
    assert_eq!(bed.right(Role::Primary, "n2").vouched_at, None);
    let nobody = bed.router.vip_right(Role::Primary, None, ip(), bed.now);
    assert_eq!((nobody.claim, nobody.reason), (NOT_OURS, Reason::MemberNotHere));
    assert_eq!(bed.router.vip_right(Role::Primary, None, "10.0.0.101".parse().unwrap(), bed.now).mark, None);
}

#[test]
fn nothing_is_known_before_the_first_view() {
    let bed = Bed::with(Trust::Confirm, OnDcsLoss::Keep);
    for role in [Role::Primary, Role::Replica, Role::StandbyLeader] {
        assert_eq!(bed.right(role, "n1"), VipRight::unknown(Reason::Starting));
    }
}

#[test]
fn a_new_leader_has_it_before_it_is_promoted_and_with_the_watch_already() {
    let mut bed = Bed::led();
    bed.say("n1", None);
    bed.key(Some("n2"));
    bed.offer(ViewSource::Watch);
    assert_eq!(bed.claim(Role::Primary, "n2"), (OURS, Reason::RoleHeld));
    assert_eq!(bed.claim(Role::Primary, "n1"), (NOT_OURS, Reason::RoleElsewhere));
    // The lease of the old key says nothing of the new one.
    let right = bed.right(Role::Primary, "n2");
    assert!(right.lease_end.unwrap() <= right.confirmed_at.unwrap() + 2 * SECOND, "{right:?}");
    bed.read();
    assert_eq!(bed.right(Role::Primary, "n2").lease_end, Some(bed.now + LEASE));
}

#[test]
fn a_key_without_a_lease_bounds_nothing() {
    let mut bed = Bed::led();
    bed.view.leader.as_mut().unwrap().lease = 0;
    bed.view.revision += 1;
    bed.read();
    assert_eq!(bed.right(Role::Primary, "n1").lease_end, None);
}

#[test]
fn a_leader_of_the_past_or_of_another_system_has_nothing() {
    let mut bed = Bed::led();
    bed.say("n2", Some(RestAnswer { timeline: Some(Timeline(4)), ..primary() }));
    bed.key(Some("n2"));
    bed.read();
    assert_eq!(bed.claim(Role::Primary, "n2"), (NOT_OURS, Reason::BelowTimelineMark));
    let mut bed = Bed::led();
    bed.view.system_id = Some("sys1".to_owned());
    bed.say("n2", Some(RestAnswer { system_id: Some("sys2".to_owned()), ..primary() }));
    bed.key(Some("n2"));
    bed.read();
    assert_eq!(bed.claim(Role::Primary, "n2"), (NOT_OURS, Reason::OtherSystem));
}

#[test]
fn without_a_key_the_last_leader_has_it_while_it_says_so_itself() {
    let mut bed = Bed::led();
    bed.key(None);
    bed.read();
    let right = bed.right(Role::Primary, "n1");
    assert_eq!((right.claim, right.reason, right.lease_end), (OURS, Reason::NoLeaderKey, None));
    assert_eq!(bed.claim(Role::Primary, "n2"), (NOT_OURS, Reason::RoleVacant));
    bed.say("n1", None);
    bed.pass_with_reads(SECOND + 300 * MS);
    assert_eq!(bed.claim(Role::Primary, "n1"), (NOT_OURS, Reason::RoleVacant));
    // Back in recovery, its sessions are cut, and with them goes the address.
    let mut bed = Bed::led();
    bed.key(None);
    bed.read();
    bed.say("n1", Some(replica()));
    bed.pass_with_reads(300 * MS);
    assert_eq!(bed.claim(Role::Primary, "n1"), (NOT_OURS, Reason::InRecovery));
}

#[test]
fn a_replaced_dcs_is_not_believed_until_its_leader_is_proven() {
    let mut bed = Bed::led();
    bed.say("n1", None);
    bed.view.cluster_id = 2;
    bed.read();
    for role in [Role::Primary, Role::Replica] {
        assert_eq!(bed.claim(role, "n1"), (UNKNOWN, Reason::DcsReplaced));
    }
    // Nor when it falls silent.
    bed.pass(3 * SECOND);
    assert_eq!(bed.claim(Role::Primary, "n1"), (UNKNOWN, Reason::DcsReplaced));
    bed.say("n1", Some(primary()));
    bed.pass_with_reads(SECOND);
    bed.pass_with_reads(SECOND);
    assert_eq!(bed.claim(Role::Primary, "n1"), (OURS, Reason::RoleHeld));
}

#[test]
fn without_the_dcs_the_address_goes_with_the_sessions() {
    let mut bed = Bed::led();
    let confirmed_at = bed.now;
    bed.pass(4 * SECOND);
    let right = bed.right(Role::Primary, "n1");
    assert_eq!((right.claim, right.reason), (OURS, Reason::DcsStale));
    assert_eq!(right.confirmed_at, Some(confirmed_at));
    assert_eq!(right.lease_end, Some(confirmed_at + LEASE));
    assert!(right.vouched_at.unwrap() + SECOND > bed.now, "it is asked often");
    assert_eq!(bed.claim(Role::Primary, "n2"), (NOT_OURS, Reason::RoleElsewhere));
    // It vouches for itself beyond its lease.
    bed.pass(LEASE);
    assert_eq!(bed.claim(Role::Primary, "n1"), (OURS, Reason::DcsStale));
    bed.say("n1", None);
    bed.pass(4 * SECOND);
    assert_eq!(bed.claim(Role::Primary, "n1"), (NOT_OURS, Reason::LeaseEnded));
    assert_eq!(bed.router.lead.keep, Keep::Nobody);
}

#[test]
fn a_rival_and_a_strict_policy_end_it_like_the_sessions() {
    let mut bed = Bed::led();
    bed.pass(3 * SECOND);
    bed.say("n2", Some(RestAnswer { timeline: Some(Timeline(6)), ..primary() }));
    bed.pass(2 * SECOND);
    assert_eq!(bed.claim(Role::Primary, "n1"), (NOT_OURS, Reason::OtherClaims));
    let mut bed = Bed::led();
    bed.router.spec = Arc::new(ClusterSpec { on_dcs_loss: OnDcsLoss::Close, ..ClusterSpec::clone(&bed.router.spec) });
    bed.pass(LEASE + SECOND);
    assert_eq!(bed.claim(Role::Primary, "n1"), (NOT_OURS, Reason::LeaseEnded));
}

#[test]
fn maintenance_of_the_leader_leaves_the_address_where_it_is() {
    let mut bed = Bed::led();
    let order = Order::State(AdminState::Maint);
    for member in ["n1", "n2"] {
        bed.router.handle(Event::Order { member: member.into(), order }, bed.now);
    }
    bed.answer();
    assert_eq!(bed.claim(Role::Primary, "n1"), (OURS, Reason::RoleHeld));
    // Another replica may take over from one in maintenance.
    assert_eq!(bed.claim(Role::Replica, "n2"), (NOT_OURS, Reason::Maintenance));
}

#[test]
fn a_replica_is_fit_when_a_service_would_use_it() {
    let mut bed = Bed::led();
    let right = bed.right(Role::Replica, "n2");
    assert_eq!((right.claim, right.reason), (OURS, Reason::RoleHeld));
    assert_eq!((right.leader, right.lease_end, right.confirmed_at), (None, None, Some(bed.now)));
    assert!(right.vouched_at.is_some());
    assert_eq!(bed.claim(Role::Replica, "n1"), (NOT_OURS, Reason::NotMyRole));
    assert_eq!(bed.claim(Role::Replica, "n9"), (NOT_OURS, Reason::MemberGone));
    assert_eq!(bed.claim(Role::Sync, "n2"), (NOT_OURS, Reason::NotMyRole));
    bed.view.sync_standbys = vec!["n2".into()];
    bed.view.revision += 1;
    bed.read();
    assert_eq!(bed.claim(Role::Sync, "n2"), (OURS, Reason::RoleHeld));
    for (tag, reason) in [("noloadbalance", Reason::NoLoadBalance), ("offline", Reason::Offline)] {
        bed.view.members.get_mut("n2").unwrap().tags = [(tag.to_owned(), "true".to_owned())].into();
        bed.view.revision += 1;
        bed.read();
        assert_eq!(bed.claim(Role::Replica, "n2"), (NOT_OURS, reason));
    }
    bed.view.members.get_mut("n2").unwrap().tags = Tags::new();
    bed.view.revision += 1;
    bed.read();
    let order = Order::Weight(Some(0));
    bed.router.handle(Event::Order { member: "n2".into(), order }, bed.now);
    assert_eq!(bed.claim(Role::Replica, "n2"), (NOT_OURS, Reason::Drained));
    bed.router.handle(Event::Order { member: "n2".into(), order: Order::Weight(None) }, bed.now);
    let stopped = RestAnswer { replayed: None, state: "stopped".to_owned(), ..replica() };
    bed.say("n2", Some(stopped));
    bed.pass_with_reads(10 * SECOND);
    assert_eq!(bed.claim(Role::Replica, "n2").0, NOT_OURS);
}

#[test]
fn a_replica_that_was_never_asked_is_not_known_to_be_fit() {
    let mut bed = Bed::with(Trust::Confirm, OnDcsLoss::Keep);
    bed.key(Some("n1"));
    let source = ViewSource::Read { sent_at: bed.now, lease_left: Some(LEASE) };
    bed.router.handle(Event::View { view: Arc::new(bed.view.clone()), source }, bed.now);
    assert_eq!(bed.claim(Role::Replica, "n2"), (UNKNOWN, Reason::NotChecked));
}

#[test]
fn a_standby_clusters_leader_has_its_address_until_it_is_promoted() {
    let mut bed = Bed::led();
    bed.say("n2", Some(answer(RestRole::StandbyLeader, 503)));
    bed.key(Some("n2"));
    bed.pass_with_reads(SECOND);
    let right = bed.right(Role::StandbyLeader, "n2");
    assert_eq!((right.claim, right.reason), (OURS, Reason::RoleHeld));
    assert!(right.vouched_at.is_some(), "Patroni's /standby-leader would say 200");
    assert_eq!(bed.claim(Role::StandbyLeader, "n1"), (NOT_OURS, Reason::RoleElsewhere));
    bed.say("n2", Some(primary()));
    bed.pass_with_reads(SECOND);
    assert_eq!(bed.claim(Role::StandbyLeader, "n2"), (NOT_OURS, Reason::NotMyRole));
    assert_eq!(bed.claim(Role::Primary, "n2"), (OURS, Reason::RoleHeld));
}

#[test]
fn without_a_dcs_nothing_is_confirmed() {
    let bed = Bed::with(Trust::Rest, OnDcsLoss::Keep);
    let right = bed.right(Role::Primary, "n1");
    assert_eq!((right.claim, right.confirmed_at), (NOT_OURS, None));
}
