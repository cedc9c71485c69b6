//! Maintenance with `trust: rest`, in virtual time: what is asked to end, what is cut, and when.

use std::sync::Arc;

use crate::decide::Event;
use crate::decide::checking::tests::{Bench, Closed, Says, cluster, ms, roles, service, timing};
use crate::model::{AdminState, CheckTiming, ClusterSpec, Order, Reason, Role};

const MAINT: Order = Order::State(AdminState::Maint);
const READY: Order = Order::State(AdminState::Ready);

fn often() -> CheckTiming {
    timing(2000, 1000, 2000, 3, 3)
}

/// `primary` and `replica` with these times in ms.
fn spec(primary: u32, replica: u32) -> ClusterSpec {
    let mut services =
        vec![service("primary", Role::Primary, None, &often()), service("replica", Role::Replica, None, &often())];
    (services[0].drain, services[1].drain) = (ms(primary), ms(replica));
    cluster(services, 2)
}

/// m1 leads and m2 replays; it is 20,000 ms.
fn bench(primary: u32, replica: u32) -> Bench {
    let mut bench = Bench::new(spec(primary, replica), &[("m1", Says::code(503)), ("m2", Says::code(503))]);
    roles(&mut bench, "m1", true, 5);
    roles(&mut bench, "m2", false, 5);
    bench.run_until(20_000);
    assert_eq!(bench.lead().0.as_deref(), Some("m1"));
    bench.closed.clear();
    bench
}

fn of(at: u128, member: &str, services: &[&str], reason: Reason) -> Closed {
    let named = services.iter().map(ToString::to_string).collect();
    (at, member.to_owned(), (!services.is_empty()).then_some(named), reason)
}

fn maintained(at: u128, services: &[&str]) -> Closed {
    of(at, "m1", services, Reason::Maintenance)
}

fn cancels(bench: &Bench, service: &str) -> Vec<String> {
    bench.routes.service(service).unwrap().cancel.iter().map(|at| at.host.clone()).collect()
}

fn writers(bench: &Bench) -> Vec<&str> {
    bench.router.writers.iter().map(|name| name.as_str()).collect()
}

#[test]
fn each_service_gets_its_own_time() {
    let mut bench = bench(3000, 10_000);
    bench.order("m1", MAINT);
    assert_eq!(bench.drained, [maintained(20_000, &[])], "all of them are asked");
    assert_eq!((bench.lead(), writers(&bench)), ((None, Reason::Maintenance), vec!["m1"]));
    bench.run_until(22_999);
    assert_eq!(bench.closed, []);
    bench.run_until(60_000);
    // The last close is of everything there is.
    assert_eq!(bench.closed, [maintained(23_000, &["primary"]), maintained(30_000, &[])]);
    assert_eq!((bench.lead(), writers(&bench)), ((None, Reason::Maintenance), vec![]));
}

#[test]
fn without_a_drain_it_is_a_close() {
    let mut all = bench(0, 0);
    all.order("m1", MAINT);
    assert_eq!((all.drained, all.closed), (vec![], vec![maintained(20_000, &[])]));
    let mut one = bench(0, 3000);
    one.order("m1", MAINT);
    assert_eq!(one.drained, [maintained(20_000, &["replica"])]);
    assert_eq!(one.closed, [maintained(20_000, &["primary"])]);
    one.run_until(30_000);
    assert_eq!(one.closed[1..], [maintained(23_000, &[])]);
}

#[test]
fn ready_and_drain_drop_the_deadline_and_maintenance_anew_begins_anew() {
    for word in [AdminState::Ready, AdminState::Drain] {
        let mut bench = bench(3000, 3000);
        bench.order("m1", MAINT);
        bench.run_until(21_000);
        bench.order("m1", Order::State(word));
        bench.run_until(40_000);
        assert_eq!(bench.closed, [], "{word:?}");
        assert_eq!(writers(&bench), ["m1"], "{word:?}: a transaction may still be open");
        bench.order("m1", MAINT);
        bench.run_until(50_000);
        assert_eq!((bench.drained.len(), &bench.closed[..]), (2, &[maintained(43_000, &[])][..]), "{word:?}");
    }
}

#[test]
fn another_primary_opens_after_the_one_that_drains_was_cut() {
    let mut bench = bench(3_600_000, 3_600_000);
    bench.order("m1", MAINT);
    roles(&mut bench, "m2", true, 5);
    bench.run_until(40_000);
    assert_eq!(bench.lead().0.as_deref(), Some("m2"), "nobody asks m1, so it claims nothing");
    let [(_, who, services, reason)] = &bench.closed[..] else { panic!("{:?}", bench.closed) };
    assert_eq!((&**who, services, *reason), ("m1", &None, Reason::OtherClaims));
    assert_eq!(writers(&bench), ["m2"]);
    bench.run_until(4_000_000);
    assert_eq!(bench.closed.len(), 1, "its time is over already");
}

#[test]
fn a_reload_moves_the_deadline_and_a_removed_service_keeps_its_own() {
    let mut shorter = bench(60_000, 60_000);
    shorter.order("m1", MAINT);
    shorter.run_until(25_000);
    shorter.handle(Event::Spec(Arc::new(spec(60_000, 4000))));
    assert_eq!(shorter.closed, [maintained(25_000, &["replica"])], "over by the new word");
    let mut without = spec(30_000, 0);
    without.services.truncate(1);
    shorter.handle(Event::Spec(Arc::new(without)));
    shorter.run_until(60_000);
    assert_eq!(shorter.closed[1..], [maintained(50_000, &[])]);

    let mut removed = bench(3000, 10_000);
    removed.order("m1", MAINT);
    let mut without = spec(3000, 0);
    without.services.truncate(1);
    removed.handle(Event::Spec(Arc::new(without)));
    removed.run_until(40_000);
    assert_eq!(removed.closed, [maintained(23_000, &["primary"]), maintained(30_000, &[])]);
}

#[test]
fn a_member_that_the_configuration_drops_is_cut_at_once() {
    let mut bench = bench(60_000, 60_000);
    bench.order("m1", MAINT);
    let mut without = spec(60_000, 60_000);
    without.members.remove("m1");
    bench.handle(Event::Spec(Arc::new(without)));
    bench.run_until(100_000);
    assert_eq!(bench.closed, [of(20_000, "m1", &[], Reason::MemberGone)]);
}

#[test]
fn cancel_requests_reach_a_member_until_its_sessions_are_gone() {
    let mut bench = bench(3000, 10_000);
    assert_eq!(cancels(&bench, "primary"), ["10.0.0.1"]);
    assert_eq!(cancels(&bench, "replica"), ["10.0.0.1", "10.0.0.2"]);
    bench.order("m2", MAINT);
    bench.order("m2", READY);
    let health = bench.router.snapshot().members[1].checks.iter().any(|check| check.up == Some(true));
    assert!(!health, "not asked again yet");
    assert_eq!(cancels(&bench, "replica"), ["10.0.0.1", "10.0.0.2"], "its sessions are there all the same");
    bench.order("m1", MAINT);
    assert_eq!(cancels(&bench, "primary"), ["10.0.0.1"], "transactions go on there");
    bench.run_until(24_000);
    assert_eq!(bench.closed, [maintained(23_000, &["primary"])]);
    assert_eq!(cancels(&bench, "replica"), ["10.0.0.1", "10.0.0.2"]);
}
