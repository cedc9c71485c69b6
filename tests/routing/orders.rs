//! Operators' orders, weights, and what a service without targets says; by both trusts alike.

use std::time::Duration;

use pgvane::decide::TargetState::{Down, Drain, Excluded, Maint, Open, Standby};
use pgvane::decide::track::MemberTrack;
use pgvane::model::{
    AdminState, CheckStatus, CheckTiming, HostPort, PortOutcome, ProbeOutcome, Reason, Role, ServiceSpec, Trust,
};

use super::bed::{Bed, member, outcome, service, with_backup, writable};

const BOTH: [Trust; 2] = [Trust::Confirm, Trust::Rest];

/// Its checks fail, by whichever trust.
fn goes_down(bed: &mut Bed, number: usize) {
    let (timing, now) = (CheckTiming::default(), bed.now);
    let asked: Vec<_> = bed.track(number).checks.keys().cloned().collect();
    asked.iter().for_each(|spec| bed.check(number, spec, 3, outcome(CheckStatus::L4Con, None)));
    let track = bed.track(number);
    for round in 1..=u64::from(timing.fall) {
        let at = now + timing.timeout * round as u32;
        track.send(round, pgvane::decide::track::Urgency::Routine, &timing, at);
        track.probe_done(round, ProbeOutcome::Refused, &timing, at);
        track.send_port(round, &timing, at);
        track.port_done(round, PortOutcome::Refused, true, at);
    }
}

#[test]
fn maintenance_and_drain_hold_for_every_service() {
    for trust in BOTH {
        let mut bed = Bed::of(trust, 3);
        bed.track(1).orders.state = AdminState::Drain;
        bed.track(2).orders.state = AdminState::Maint;
        for role in Role::ALL {
            let spec = with_backup(role, &Role::ALL);
            assert_eq!(bed.standing(&spec, 1), (Drain, Reason::Drained), "{trust:?} {role}");
            assert_eq!(bed.standing(&spec, 2), (Maint, Reason::Maintenance), "{trust:?} {role}");
            assert_eq!(bed.targets(&spec), [3], "{trust:?} {role}");
        }
        goes_down(&mut bed, 2);
        assert_eq!(bed.standing(&service(Role::Replica), 2), (Maint, Reason::Maintenance));
        bed.track(2).orders.state = AdminState::Drain;
        assert_eq!(bed.standing(&service(Role::Replica), 2).0, Down, "drained or not");
        bed.track(2).conn = None;
        bed.track(2).orders.state = AdminState::Maint;
        assert_eq!(bed.standing(&service(Role::Replica), 2), (Excluded, Reason::NoAddress));
    }
}

#[test]
fn the_weight_is_the_operators_else_the_configurations_else_the_default() {
    for trust in BOTH {
        let mut bed = Bed::of(trust, 4);
        bed.track(2).weight = Some(50);
        bed.track(3).weight = Some(50);
        bed.track(3).orders.weight = Some(7);
        let weights = |bed: &Bed| -> Vec<u32> {
            bed.routes(&service(Role::ReadOnly)).targets.iter().map(|target| target.weight).collect()
        };
        assert_eq!(weights(&bed), [100, 50, 7, 100], "{trust:?}");
        bed.track(2).weight = Some(0);
        bed.track(3).orders.weight = Some(0);
        bed.track(4).weight = Some(0);
        bed.track(4).orders.weight = Some(1);
        assert_eq!(weights(&bed), [100, 1], "{trust:?}");
        assert_eq!(bed.standing(&service(Role::Replica), 2), (Drain, Reason::Drained), "{trust:?}");
        assert_eq!(bed.standing(&service(Role::Replica), 1), (Standby, Reason::NotMyRole), "{trust:?}");
    }
}

#[test]
fn readers_start_slowly_and_leaders_do_not() {
    let mut bed = Bed::of(Trust::Confirm, 3);
    let risen = bed.now - Duration::from_secs(9);
    let rise = |track: &mut MemberTrack| track.risen_at = Some(risen);
    bed.tracks.values_mut().for_each(rise);
    let slowly = |role| ServiceSpec { slowstart: Duration::from_secs(30), ..service(role) };
    let risen_at = |spec: &ServiceSpec| -> Vec<_> { bed.routes(spec).targets.iter().map(|t| t.risen_at).collect() };
    assert_eq!(risen_at(&slowly(Role::Replica)), [Some(risen); 2]);
    assert_eq!(risen_at(&slowly(Role::ReadOnly)), [None, Some(risen), Some(risen)]);
    assert_eq!(risen_at(&slowly(Role::Primary)), [None]);
    assert_eq!(risen_at(&service(Role::Replica)), [None; 2]);
}

#[test]
fn a_write_service_without_target_tells_what_keeps_its_leader() {
    for trust in BOTH {
        let mut bed = Bed::of(trust, 2);
        let spec = service(Role::Primary);
        assert_eq!(bed.wait(&spec), None);
        bed.track(1).orders.state = AdminState::Maint;
        assert_eq!(bed.wait(&spec), Some(Reason::Maintenance), "{trust:?}");
        bed.track(1).orders.state = AdminState::Drain;
        assert_eq!(bed.wait(&spec), Some(Reason::Drained), "{trust:?}");
        bed.track(1).orders.state = AdminState::Ready;
        bed.track(1).orders.weight = Some(0);
        assert_eq!(bed.wait(&spec), Some(Reason::Drained), "{trust:?}");
        bed.hold(Reason::OtherClaims);
        bed.track(1).orders.weight = None;
        bed.track(2).orders.state = AdminState::Drain;
        assert_eq!(bed.wait(&spec), Some(Reason::OtherClaims), "{trust:?}: another's drain");
        for role in Role::ALL.into_iter().filter(|role| *role != Role::Primary) {
            let mut none = service(role);
            none.filter.members = vec![member(9)];
            assert_eq!(bed.wait(&none), Some(Reason::NoTarget), "{trust:?} {role}");
        }
    }
    // With a leader key, of whom it names.
    let mut bed = Bed::of(Trust::Confirm, 2);
    bed.hold(Reason::LeaderUnproven);
    assert_eq!(bed.wait(&service(Role::Primary)), Some(Reason::LeaderUnproven));
    bed.track(1).orders.state = AdminState::Drain;
    assert_eq!(bed.wait(&service(Role::Primary)), Some(Reason::Drained));
}

#[test]
fn waiting_for_one_reason_began_when_that_reason_did() {
    let mut bed = Bed::of(Trust::Confirm, 2);
    bed.hold(Reason::NoLeaderKey);
    let began = bed.now;
    bed.previous = bed.table(&[service(Role::Primary)]);
    bed.now += Duration::from_secs(5);
    assert_eq!(bed.routes(&service(Role::Primary)).wait, Some((Reason::NoLeaderKey, began)));
    bed.hold(Reason::LeaderUnproven);
    assert_eq!(bed.routes(&service(Role::Primary)).wait, Some((Reason::LeaderUnproven, bed.now)));
}

#[test]
fn a_cancel_request_goes_wherever_the_session_may_be() {
    for trust in BOTH {
        let mut bed = Bed::of(trust, 4);
        goes_down(&mut bed, 1);
        goes_down(&mut bed, 4);
        let hosts = |bed: &Bed, spec: &ServiceSpec| bed.routes(spec).cancel;
        let at = |numbers: &[usize]| -> Vec<HostPort> {
            numbers.iter().map(|n| HostPort::new(format!("10.0.0.{n}"), 5432)).collect()
        };
        let backed = with_backup(Role::Replica, &[Role::Primary]);
        // The leader's own word may have failed; the sessions are there.
        assert_eq!(hosts(&bed, &service(Role::Primary)), at(&[1]), "{trust:?}");
        assert_eq!(hosts(&bed, &service(Role::ReadOnly)), at(&[1, 2, 3]), "{trust:?}");
        assert_eq!(hosts(&bed, &backed), at(&[1, 2, 3]), "{trust:?}");
        assert_eq!(hosts(&bed, &service(Role::Replica)), at(&[2, 3]), "{trust:?}");
        // Sessions outlive the right to open new ones, a drain, and maintenance.
        bed.hold(Reason::LeaderUnproven);
        bed.opened = [("primary".into(), member(1)), ("any".into(), member(1)), ("replica".into(), member(4))].into();
        (bed.track(2).orders.state, bed.track(3).orders.state) = (AdminState::Drain, AdminState::Maint);
        assert_eq!(hosts(&bed, &service(Role::Primary)), at(&[1]), "{trust:?}");
        assert_eq!(hosts(&bed, &service(Role::Any)), at(&[1, 2, 3]), "{trust:?}");
        assert_eq!(hosts(&bed, &service(Role::Replica)), at(&[2, 3, 4]), "{trust:?}: down, and in its grace");
        let mut picky = service(Role::Replica);
        picky.filter.members = vec![member(3)];
        assert_eq!(hosts(&bed, &picky), at(&[2, 3, 4]), "{trust:?}: not selected any more");
        bed.opened.clear();
        assert_eq!(hosts(&bed, &service(Role::Replica)), at(&[2, 3]), "{trust:?}");
        let pooled = ServiceSpec { port: Some(6432), ..service(Role::Replica) };
        assert_eq!(hosts(&bed, &pooled), [2, 3].map(|n| HostPort::new(format!("10.0.0.{n}"), 6432)), "{trust:?}");
    }
}

#[test]
fn a_cancel_request_for_another_routers_writer_arrives() {
    let hosts = |bed: &Bed| -> Vec<String> {
        bed.routes(&service(Role::Primary)).cancel.into_iter().map(|at| at.host).collect()
    };
    // Nothing was opened here yet, and new sessions wait.
    let mut keyed = Bed::of(Trust::Confirm, 3);
    keyed.hold(Reason::PlannedSwitchover);
    assert_eq!(hosts(&keyed), ["10.0.0.1"]);
    keyed.put(2, writable());
    assert_eq!(hosts(&keyed), ["10.0.0.1"], "the key knows better");
    keyed.view.as_mut().expect("a view").leader = None;
    assert_eq!(hosts(&keyed), ["10.0.0.1", "10.0.0.2"], "either may have it");
    let mut tied = Bed::of(Trust::Rest, 3);
    tied.put(2, writable());
    tied.hold(Reason::OtherClaims);
    assert_eq!(hosts(&tied), ["10.0.0.1", "10.0.0.2"]);
}

#[test]
fn a_backup_serves_only_while_nothing_before_it_does() {
    for trust in BOTH {
        let mut bed = Bed::of(trust, 3);
        bed.track(3).offline = Some(true);
        let spec = with_backup(Role::Replica, &[Role::Primary, Role::Offline]);
        assert_eq!(bed.targets(&spec), [2], "{trust:?}");
        assert_eq!(bed.standing(&spec, 1), (Standby, Reason::BackupUnused), "{trust:?}");
        assert_eq!(bed.standing(&spec, 3), (Standby, Reason::BackupUnused), "{trust:?}");
        bed.track(2).orders.state = AdminState::Maint;
        assert_eq!((bed.targets(&spec), bed.confirmed(&spec)), (vec![1], vec![1]), "{trust:?}");
        assert_eq!(bed.standing(&spec, 1), (Open, Reason::LeaderProven), "{trust:?}");
        bed.hold(Reason::OtherClaims);
        assert_eq!((bed.targets(&spec), bed.confirmed(&spec)), (vec![3], vec![]), "{trust:?}");
    }
}
