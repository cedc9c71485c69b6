//! Roles, filters and further checks with `trust: confirm`.

use std::sync::Arc;
use std::time::Duration;

use pgvane::decide::TargetState::{self, Down, Excluded, Open, Standby, Unknown, Waiting};
use pgvane::model::{CheckStatus, Lsn, MemberFacts, Reason, RestAnswer, RestRole, Role, ServiceSpec, Trust};

use super::bed::{Bed, END, member, outcome, replaying, service, stopped, tags, with_backup, writable};

/// n1 leads; n2 replays; n3 is its synchronous standby; n4 is tagged noloadbalance; n5 is offline.
fn cluster() -> Bed {
    let mut bed = Bed::of(Trust::Confirm, 5);
    bed.put(4, RestAnswer { tags: tags([("noloadbalance", "true")]), ..replaying() });
    bed.put(5, RestAnswer { tags: tags([("offline", "true")]), ..replaying() });
    bed.view.as_mut().unwrap().sync_standbys = vec![member(3)];
    bed
}

#[test]
fn every_role_has_its_members() {
    let bed = cluster();
    let expected: [(Role, &[usize]); 8] = [
        (Role::Primary, &[1]),
        (Role::Replica, &[2, 3]),
        (Role::Offline, &[5]),
        (Role::Sync, &[3]),
        (Role::Async, &[2, 5]),
        (Role::ReadOnly, &[1, 2, 3, 5]),
        (Role::Any, &[1, 2, 3, 4, 5]),
        (Role::StandbyLeader, &[]),
    ];
    for (role, members) in expected {
        assert_eq!(bed.targets(&service(role)), members, "{role}");
        let confirmed: &[usize] = if role.includes_primary() { &[1] } else { &[] };
        assert_eq!(bed.confirmed(&service(role)), confirmed, "{role}: only sessions that can write");
        assert!(bed.routes(&service(role)).targets.iter().all(|t| t.role == role));
    }
}

#[test]
fn who_is_not_of_the_role_is_told_why() {
    let bed = cluster();
    let expected: [(Role, usize, TargetState, Reason); 12] = [
        (Role::Primary, 1, Open, Reason::LeaderProven),
        (Role::Primary, 2, Standby, Reason::NotMyRole),
        (Role::Replica, 1, Standby, Reason::NotMyRole),
        (Role::Replica, 2, Open, Reason::InService),
        (Role::Replica, 4, Excluded, Reason::NoLoadBalance),
        (Role::Replica, 5, Standby, Reason::Offline),
        (Role::Offline, 2, Standby, Reason::NotMyRole),
        (Role::Sync, 2, Standby, Reason::NotMyRole),
        (Role::Sync, 4, Standby, Reason::NotMyRole),
        (Role::Async, 3, Standby, Reason::NotMyRole),
        (Role::Async, 4, Excluded, Reason::NoLoadBalance),
        (Role::ReadOnly, 4, Excluded, Reason::NoLoadBalance),
    ];
    for (role, number, state, reason) in expected {
        assert_eq!(bed.standing(&service(role), number), (state, reason), "{role} n{number}");
    }
}

#[test]
fn the_leader_of_a_standby_cluster_reads_and_is_no_replica() {
    let mut bed = Bed::of(Trust::Confirm, 3);
    let tagged = tags([("noloadbalance", "true")]);
    bed.put(1, RestAnswer { role: RestRole::StandbyLeader, tags: tagged, ..replaying() });
    bed.hold(Reason::LeaderUnproven);
    let expected: [(Role, &[usize]); 8] = [
        (Role::Primary, &[]),
        (Role::Replica, &[2, 3]),
        (Role::Offline, &[]),
        (Role::Sync, &[]),
        (Role::Async, &[2, 3]),
        // Patroni's `/read-only` does not look at the tags of a leader.
        (Role::ReadOnly, &[1, 2, 3]),
        (Role::Any, &[1, 2, 3]),
        (Role::StandbyLeader, &[1]),
    ];
    for (role, members) in expected {
        assert_eq!(bed.targets(&service(role)), members, "{role}");
        assert_eq!(bed.confirmed(&service(role)), [0; 0], "{role}: nobody can write");
    }
    // Its word alone, without the key, is not enough.
    bed.key_names(2);
    assert_eq!(bed.standing(&service(Role::StandbyLeader), 1), (Standby, Reason::NotMyRole));
    assert_eq!(bed.standing(&service(Role::ReadOnly), 1), (Excluded, Reason::NoLoadBalance));
    assert_eq!(bed.targets(&service(Role::Any)), [1, 2, 3]);
}

#[test]
fn whoever_can_write_and_is_not_open_takes_nothing() {
    let mut bed = cluster();
    // Promoted by hand; its role as Patroni remembers it may be any.
    bed.put(2, writable());
    bed.track(3).answer = Some((bed.now, RestAnswer { role: RestRole::Replica, ..writable() }));
    for role in Role::ALL {
        let spec = with_backup(role, &Role::ALL);
        for number in [2, 3] {
            assert_eq!(bed.standing(&spec, number), (Standby, Reason::NotMyRole), "{role} n{number}");
        }
    }
    // The leader that has not proved itself waits, or is left out of what readers see.
    bed.hold(Reason::LeaderUnproven);
    assert_eq!(bed.standing(&service(Role::Primary), 1), (Waiting, Reason::LeaderUnproven));
    assert_eq!(bed.standing(&service(Role::ReadOnly), 1), (Standby, Reason::NotMyRole));
    assert_eq!(bed.targets(&service(Role::Any)), [4, 5]);
}

/// Who was picked as a reader does not get a session that can write without the leader's confirmation.
#[test]
fn a_reader_that_leads_by_now_is_another_target() {
    let (mut bed, spec) = (cluster(), service(Role::ReadOnly));
    let reader = bed.routes(&spec).targets[1].clone();
    assert!(bed.table(std::slice::from_ref(&spec)).still_opens(&spec.name, &reader));
    bed.put(1, replaying());
    bed.put(2, writable());
    bed.leads(2);
    assert_eq!(bed.targets(&spec), [1, 2, 3, 5]);
    assert!(!bed.table(std::slice::from_ref(&spec)).still_opens(&spec.name, &reader));
}

#[test]
fn a_target_that_is_as_it_was_is_the_value_that_its_sessions_share() {
    let (mut bed, spec) = (cluster(), service(Role::Replica));
    bed.previous = bed.table(std::slice::from_ref(&spec));
    bed.tracks.get_mut(&member(3)).unwrap().weight = Some(7);
    let (before, after) = (&bed.previous.services[0].targets, bed.routes(&spec).targets);
    assert!(before.len() > 1 && before.len() == after.len());
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(Arc::ptr_eq(before, after), after.member != member(3), "{}", after.member);
    }
}

#[test]
fn nobody_is_sent_where_sessions_are_about_to_be_closed() {
    let mut bed = cluster();
    bed.cutting = vec![member(2)];
    for role in [Role::Replica, Role::Async, Role::ReadOnly, Role::Any] {
        assert_eq!(bed.standing(&service(role), 2), (Standby, Reason::NotMyRole), "{role}");
    }
}

#[test]
fn without_a_view_nobody_is_known_to_be_synchronous_or_not() {
    let mut bed = cluster();
    bed.view = None;
    for role in [Role::Sync, Role::Async] {
        assert_eq!(bed.standing(&service(role), 3), (Unknown, Reason::Starting), "{role}");
        assert_eq!(bed.wait(&service(role)), Some(Reason::NoTarget));
    }
}

#[test]
fn postgres_that_does_not_run_or_was_not_asked_serves_no_role() {
    let mut bed = cluster();
    bed.put(2, stopped());
    bed.put(3, stopped());
    bed.track(3).answer = None;
    for role in [Role::Replica, Role::Sync, Role::ReadOnly, Role::Any] {
        assert_eq!(bed.standing(&service(role), 2).0, Unknown, "{role}: up was never seen");
        assert_eq!(bed.standing(&service(role), 3).0, Unknown, "{role}");
    }
    // It was up, and its checks have not failed often enough yet.
    bed.put(2, replaying());
    bed.track(2).answer = Some((bed.now, stopped()));
    assert_eq!(bed.standing(&service(Role::Any), 2), (Excluded, Reason::NotRunning));
    bed.track(2).conn = None;
    assert_eq!(bed.standing(&service(Role::Any), 2), (Excluded, Reason::NoAddress));
}

#[test]
fn only_selected_members_serve_in_any_tier() {
    let bed = cluster();
    for role in Role::ALL {
        let mut spec = with_backup(role, &Role::ALL);
        spec.filter.members = vec![member(3)];
        assert_eq!(bed.targets(&spec), [3], "{role}");
        assert_eq!(bed.standing(&spec, 1), (Excluded, Reason::NotSelected), "{role}");
        assert_eq!(bed.standing(&spec, 2), (Excluded, Reason::NotSelected), "{role}");
    }
    let mut spec = service(Role::Primary);
    spec.filter.members = vec![member(2)];
    assert_eq!(bed.wait(&spec), Some(Reason::NotSelected));
}

#[test]
fn tags_are_wanted_of_readers_with_equal_text() {
    let mut bed = cluster();
    bed.put(2, RestAnswer { tags: tags([("zone", "a"), ("fast", "true")]), ..replaying() });
    bed.put(3, RestAnswer { tags: tags([("zone", "A"), ("fast", "true")]), ..replaying() });
    let wanting = |role, wanted| {
        let mut spec = service(role);
        spec.filter.tags = wanted;
        spec
    };
    let spec = wanting(Role::Replica, tags([("zone", "a"), ("fast", "true")]));
    assert_eq!(bed.targets(&spec), [2]);
    assert_eq!(bed.standing(&spec, 3), (Excluded, Reason::TagMismatch));
    assert_eq!(bed.targets(&wanting(Role::Replica, tags([("zone", "a"), ("slow", "true")]))), [0; 0]);
    assert_eq!(bed.targets(&wanting(Role::ReadOnly, tags([("zone", "a")]))), [1, 2], "not asked of the primary");
    assert_eq!(bed.targets(&wanting(Role::Primary, tags([("zone", "a")]))), [1]);
    // The member key is newer than the answer, and one that nobody could read says nothing.
    bed.track(2).facts.as_mut().unwrap().tags = tags([("zone", "b")]);
    assert_eq!(bed.targets(&wanting(Role::Replica, tags([("zone", "b")]))), [2]);
    bed.track(2).facts = Some(MemberFacts::default());
    assert_eq!(bed.targets(&wanting(Role::Replica, tags([("zone", "a")]))), [2]);
}

#[test]
fn streaming_and_lag_are_wanted_of_readers() {
    let mut bed = cluster();
    bed.put(2, RestAnswer { replication_state: Some("in archive recovery".to_owned()), ..replaying() });
    bed.put(3, RestAnswer { replayed: Some(Lsn(END - 101)), ..replaying() });
    for role in [Role::Replica, Role::ReadOnly, Role::Any] {
        let mut spec = service(role);
        spec.filter.streaming = true;
        spec.filter.max_lag = Some(100);
        assert_eq!(bed.standing(&spec, 2), (Excluded, Reason::NotStreaming), "{role}");
        assert_eq!(bed.standing(&spec, 3), (Excluded, Reason::Lagging), "{role}");
        assert_eq!(bed.confirmed(&spec).is_empty(), role == Role::Replica, "{role}");
    }
}

/// A replica service with a check of its own.
fn checked() -> ServiceSpec {
    let mut spec = with_backup(Role::Replica, &[Role::Primary]);
    spec.check.path = Some("/replica?lag=1MB".into());
    spec
}

#[test]
fn a_check_of_its_own_has_to_pass_as_well() {
    let mut bed = Bed::of(Trust::Confirm, 3);
    let (spec, own) = (checked(), checked().check_of(Role::Replica));
    assert_eq!(bed.standing(&spec, 2), (Unknown, Reason::NotChecked));
    bed.check(2, &own, 1, outcome(CheckStatus::SockErr, None));
    bed.track(2).checks.get_mut(&own).unwrap().health = pgvane::decide::health::Health::new(&own.timing);
    assert_eq!(bed.standing(&spec, 2), (Unknown, Reason::NotChecked), "an outcome that did not count");
    assert_eq!(bed.targets(&spec), [1], "the backup is not asked for it");
    bed.check(2, &own, 1, outcome(CheckStatus::L7Ok, None));
    assert_eq!(bed.targets(&spec), [2]);
    bed.check(2, &own, 3, outcome(CheckStatus::L7Sts, None));
    assert_eq!(bed.standing(&spec, 2), (Down, Reason::CheckStatus));
    assert_eq!(bed.standing(&service(Role::Replica), 2), (Open, Reason::InService), "another service's check");
    // It says more of who is fit, and nothing of who leads.
    let mut any = service(Role::Any);
    any.check.path = Some("/health".into());
    assert_eq!(bed.targets(&any), [1]);
    // Who is not of the role is not down.
    bed.put(3, RestAnswer { tags: tags([("noloadbalance", "true")]), ..replaying() });
    bed.check(3, &own, 3, outcome(CheckStatus::L7Sts, None));
    assert_eq!(bed.standing(&spec, 3), (Excluded, Reason::NoLoadBalance));
}

#[test]
fn a_reader_that_returns_by_its_own_check_starts_slowly() {
    let mut bed = Bed::of(Trust::Confirm, 2);
    let spec = ServiceSpec { slowstart: Duration::from_secs(30), ..checked() };
    let own = spec.check_of(Role::Replica);
    bed.check(2, &own, 1, outcome(CheckStatus::L7Ok, None));
    let (risen, later) = (bed.now - Duration::from_secs(9), bed.now - Duration::from_secs(2));
    bed.track(2).risen_at = Some(risen);
    assert_eq!(bed.routes(&spec).targets[0].risen_at, Some(risen));
    bed.track(2).checks.get_mut(&own).unwrap().risen_at = Some(later);
    assert_eq!(bed.routes(&spec).targets[0].risen_at, Some(later));
}
