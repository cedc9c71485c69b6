//! Everything by checks: `trust: rest`, with Patroni's bodies and without.

use std::sync::Arc;
use std::time::Duration;

use pgvane::decide::TargetState::{self, Down, Excluded, Open, Standby, Unknown, Waiting};
use pgvane::decide::track::MemberTrack;
use pgvane::model::{CheckStatus, Lsn, MemberFacts, Reason, RestAnswer, RestRole, Role, ServiceSpec, Trust};

use super::bed::{Bed, END, member, outcome, replaying, service, stopped, tags, with_backup, writable};

/// n1 leads; n2 replays; n3 replays and is offline; n4 is tagged noloadbalance.
fn cluster() -> Bed {
    let mut bed = Bed::of(Trust::Rest, 4);
    bed.put(3, RestAnswer { tags: tags([("offline", "true")]), ..replaying() });
    bed.put(4, RestAnswer { tags: tags([("noloadbalance", "true")]), ..replaying() });
    bed
}

/// The check of this service's own role fails or passes from now on.
fn check(bed: &mut Bed, role: Role, number: usize, status: CheckStatus, body: Option<&RestAnswer>) {
    bed.check(number, &service(role).check_of(role), 3, outcome(status, body));
}

#[test]
fn every_role_has_the_members_whose_check_passes() {
    let bed = cluster();
    let expected: [(Role, &[usize]); 8] = [
        (Role::Primary, &[1]),
        (Role::Replica, &[2]),
        (Role::Offline, &[3]),
        (Role::Sync, &[]),
        (Role::Async, &[2, 3]),
        (Role::ReadOnly, &[1, 2, 3]),
        (Role::Any, &[1, 2, 3, 4]),
        (Role::StandbyLeader, &[]),
    ];
    for (role, members) in expected {
        assert_eq!(bed.targets(&service(role)), members, "{role}");
        let confirmed: &[usize] = if role.includes_primary() { &[1] } else { &[] };
        assert_eq!(bed.confirmed(&service(role)), confirmed, "{role}");
    }
}

#[test]
fn without_bodies_the_status_decides() {
    let bed = cluster().without_bodies();
    let mut configured = cluster().without_bodies();
    configured.track(3).offline = Some(true);
    let expected: [(Role, &[usize]); 6] = [
        (Role::Primary, &[1]),
        (Role::Replica, &[2, 3]),
        (Role::Offline, &[]),
        (Role::Async, &[2, 3]),
        (Role::ReadOnly, &[1, 2, 3]),
        (Role::Any, &[1, 2, 3, 4]),
    ];
    for (role, members) in expected {
        assert_eq!(bed.targets(&service(role)), members, "{role}");
        let confirmed: &[usize] = if role == Role::Primary { &[1] } else { &[] };
        assert_eq!(bed.confirmed(&service(role)), confirmed, "{role}");
    }
    assert_eq!(bed.standing(&service(Role::Replica), 1), (Down, Reason::CheckStatus));
    assert_eq!(configured.targets(&service(Role::Replica)), [2]);
    assert_eq!(configured.targets(&service(Role::Offline)), [3]);
    // A cluster of readers alone has no leader to wait for.
    let mut leaderless = cluster().without_bodies();
    leaderless.hold(Reason::OtherClaims);
    assert_eq!(leaderless.targets(&service(Role::ReadOnly)), [1, 2, 3]);
    assert_eq!(leaderless.targets(&service(Role::Any)), [1, 2, 3, 4]);
}

#[test]
fn a_check_that_fails_tells_the_dead_from_those_of_another_role() {
    let mut bed = cluster();
    let spec = service(Role::Replica);
    assert_eq!(bed.standing(&spec, 1), (Standby, Reason::NotMyRole));
    assert_eq!(bed.standing(&spec, 3), (Standby, Reason::Offline));
    assert_eq!(bed.standing(&service(Role::Offline), 2), (Standby, Reason::NotMyRole));
    assert_eq!(bed.standing(&service(Role::Primary), 2), (Standby, Reason::NotMyRole));
    check(&mut bed, Role::Replica, 2, CheckStatus::L7Sts, Some(&stopped()));
    assert_eq!(bed.standing(&spec, 2), (Down, Reason::CheckStatus), "PostgreSQL does not run");
    check(&mut bed, Role::Replica, 2, CheckStatus::L7Sts, Some(&replaying()));
    assert_eq!(bed.standing(&spec, 2), (Standby, Reason::NotMyRole));
    check(&mut bed, Role::Replica, 2, CheckStatus::L4Con, None);
    assert_eq!(bed.standing(&spec, 2), (Down, Reason::CheckStatus));
    bed.track(2).checks.clear();
    assert_eq!(bed.standing(&spec, 2), (Unknown, Reason::NotChecked));
}

#[test]
fn one_failure_is_not_yet_down() {
    let mut bed = cluster();
    let own = service(Role::Replica).check_of(Role::Replica);
    bed.check(2, &own, 2, outcome(CheckStatus::L4Con, None));
    assert_eq!(bed.targets(&service(Role::Replica)), [2]);
    bed.check(2, &own, 1, outcome(CheckStatus::L4Con, None));
    bed.check(2, &own, 2, outcome(CheckStatus::L7Ok, None));
    assert_eq!(bed.standing(&service(Role::Replica), 2).0, Down, "two of three on the way up");
}

#[test]
fn a_primary_that_is_up_and_not_the_open_one_waits() {
    let mut bed = cluster();
    bed.put(2, writable());
    let spec = service(Role::Primary);
    assert_eq!(bed.targets(&spec), [1]);
    assert_eq!(bed.standing(&spec, 2), (Waiting, Reason::LeaderProven));
    bed.hold(Reason::OtherClaims);
    for number in [1, 2] {
        assert_eq!(bed.standing(&spec, number), (Waiting, Reason::OtherClaims));
    }
    assert_eq!(bed.wait(&spec), Some(Reason::OtherClaims));
    // The open one, by another check than this one's.
    bed.leads(1);
    check(&mut bed, Role::Primary, 1, CheckStatus::L7Tout, None);
    assert_eq!(bed.wait(&spec), Some(Reason::CheckStatus));
}

#[test]
fn whoever_can_write_and_is_not_open_takes_nothing() {
    let mut bed = cluster();
    // Two lead: `/read-only` and `/health` pass for both.
    bed.put(2, writable());
    // Promoted since the last of its checks as a replica; that one still counts as up.
    bed.track(3).answer = Some((bed.now, RestAnswer { role: RestRole::Other, ..writable() }));
    for role in Role::ALL.into_iter().filter(|role| *role != Role::Primary) {
        let spec = with_backup(role, &Role::ALL[1..]);
        for number in [2, 3] {
            assert_eq!(bed.standing(&spec, number), (Standby, Reason::NotMyRole), "{role} n{number}");
        }
    }
    assert_eq!(bed.targets(&service(Role::ReadOnly)), [1]);
    // The open one does not read in a role that has no primary either.
    bed.track(1).checks.values_mut().for_each(|check| {
        check.health.pass();
        check.health.pass();
        check.health.pass();
    });
    assert_eq!(bed.standing(&service(Role::Replica), 1), (Standby, Reason::NotMyRole));
    bed.cutting = vec![member(4)];
    assert_eq!(bed.standing(&service(Role::Any), 4), (Standby, Reason::NotMyRole));
}

#[test]
fn a_check_of_its_own_takes_the_place_of_the_roles() {
    let mut bed = cluster();
    let mut spec = with_backup(Role::Replica, &[Role::Primary]);
    spec.check.path = Some("/replica?lag=1MB".into());
    assert_eq!(bed.standing(&spec, 2), (Unknown, Reason::NotChecked));
    bed.check(2, &spec.check_of(Role::Replica), 1, outcome(CheckStatus::L7Ok, None));
    assert_eq!(bed.targets(&spec), [2]);
    bed.check(2, &spec.check_of(Role::Replica), 3, outcome(CheckStatus::L7Sts, None));
    assert_eq!(bed.targets(&spec), [1], "the backup is asked what its role is asked");
}

/// What a filter says of n2, with its latest body and without.
fn filtered(bed: &Bed, filter: impl Fn(&mut ServiceSpec)) -> (TargetState, Reason) {
    let mut spec = service(Role::Replica);
    filter(&mut spec);
    bed.standing(&spec, 2)
}

#[test]
fn filters_are_judged_from_the_latest_body() {
    let mut bed = cluster();
    let zone = |spec: &mut ServiceSpec| spec.filter.tags = tags([("zone", "a")]);
    let streaming = |spec: &mut ServiceSpec| spec.filter.streaming = true;
    let lag = |spec: &mut ServiceSpec| spec.filter.max_lag = Some(100);
    assert_eq!(filtered(&bed, zone), (Excluded, Reason::TagMismatch));
    assert_eq!(filtered(&bed, streaming), (Open, Reason::InService));
    assert_eq!(filtered(&bed, lag), (Open, Reason::InService));
    let body = RestAnswer { tags: tags([("zone", "a")]), replayed: Some(Lsn(END - 101)), ..replaying() };
    bed.put(2, RestAnswer { replication_state: None, ..body });
    assert_eq!(filtered(&bed, zone), (Open, Reason::InService));
    assert_eq!(filtered(&bed, streaming), (Excluded, Reason::NotStreaming));
    assert_eq!(filtered(&bed, lag), (Excluded, Reason::Lagging));
    assert_eq!(filtered(&bed, |spec| spec.filter.members = vec![member(1)]), (Excluded, Reason::NotSelected));
    let bare = bed.without_bodies();
    assert_eq!(filtered(&bare, zone), (Excluded, Reason::TagMismatch));
    assert_eq!(filtered(&bare, streaming), (Excluded, Reason::NotStreaming));
    assert_eq!(filtered(&bare, lag), (Open, Reason::InService));
    // A member key from a time when there was a DCS is no body.
    let mut old = cluster().without_bodies();
    old.track(2).facts = Some(MemberFacts { tags: tags([("zone", "a")]), ..MemberFacts::default() });
    assert_eq!(filtered(&old, zone), (Excluded, Reason::TagMismatch));
    // Not asked of the primary.
    let mut spec = service(Role::ReadOnly);
    zone(&mut spec);
    streaming(&mut spec);
    assert_eq!(bare.targets(&spec), [1]);
}

/// n2 was asked so long before (or after) n1, and had replayed so little then.
fn lagging(bed: &mut Bed, bytes: u64, asked_before: Duration, asked_after: Duration) -> (TargetState, Reason) {
    let body = RestAnswer { replayed: Some(Lsn(END - bytes)), ..replaying() };
    bed.track(2).answer = Some((bed.now + asked_after - asked_before, body));
    let mut spec = service(Role::Replica);
    spec.filter.max_lag = Some(100);
    let standing = bed.standing(&spec, 2);
    bed.previous = bed.table(&[spec]);
    standing
}

#[test]
fn a_leader_that_was_asked_later_shows_no_lag() {
    let mut bed = cluster();
    let (none, second) = (Duration::ZERO, Duration::from_secs(1));
    let (open, excluded) = ((Open, Reason::InService), (Excluded, Reason::Lagging));
    assert_eq!(lagging(&mut bed, 1000, second, none), open, "it may have written all that since");
    assert_eq!(lagging(&mut bed, 100, none, second), open);
    assert_eq!(lagging(&mut bed, 101, none, none), excluded);
    assert_eq!(lagging(&mut bed, 76, none, none), excluded, "until below three quarters");
    assert_eq!(lagging(&mut bed, 1000, second, none), excluded, "nothing says that it caught up");
    assert_eq!(lagging(&mut bed, 75, second, none), open, "it has so little or less");
    assert_eq!(lagging(&mut bed, 76, none, second), open);
    assert_eq!(lagging(&mut bed, 101, none, second), excluded);
    bed.hold(Reason::OtherClaims);
    assert_eq!(lagging(&mut bed, 101, none, second), open, "nobody knows the leader's position");
}

#[test]
fn a_reader_that_returns_starts_slowly_by_the_check_that_decides() {
    let mut bed = cluster();
    let risen = bed.now - Duration::from_secs(9);
    let rise = |track: &mut MemberTrack| track.checks.values_mut().for_each(|check| check.risen_at = Some(risen));
    bed.tracks.values_mut().for_each(rise);
    let slowly = |role| ServiceSpec { slowstart: Duration::from_secs(30), ..service(role) };
    let risen_at = |spec: &ServiceSpec| -> Vec<_> { bed.routes(spec).targets.iter().map(|t| t.risen_at).collect() };
    assert_eq!(risen_at(&slowly(Role::Replica)), [Some(risen)]);
    assert_eq!(risen_at(&slowly(Role::ReadOnly)), [None, Some(risen), Some(risen)], "the leader never");
    assert_eq!(risen_at(&slowly(Role::Primary)), [None]);
    assert_eq!(risen_at(&service(Role::Replica)), [None]);
    let own = Arc::new(service(Role::Replica).check_of(Role::Replica));
    let mut other = cluster();
    other.track(2).risen_at = Some(risen);
    assert!(other.track(2).checks.contains_key(&own));
    assert_eq!(other.routes(&slowly(Role::Replica)).targets[0].risen_at, None, "the common check has no say here");
}
