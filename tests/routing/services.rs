//! The services of Pigsty and of Patroni's own template, before, while and after a failover, by both
//! trusts. n3 is the offline member.

use pgvane::model::{AdminState, RestAnswer, Role, ServiceSpec, Trust};

use super::bed::{Bed, replaying, stopped, tags, writable};

/// Pigsty's four; roles are the members' of this moment, not those of an inventory.
fn pigsty() -> [ServiceSpec; 4] {
    let service = |name: &str, port, role, backup: &[Role]| ServiceSpec {
        port,
        backup: backup.to_vec(),
        ..ServiceSpec::new(name, role)
    };
    [
        service("primary", Some(6432), Role::Primary, &[]),
        service("replica", Some(6432), Role::Replica, &[Role::Primary, Role::Offline]),
        service("default", None, Role::Primary, &[]),
        service("offline", None, Role::Offline, &[Role::Replica]),
    ]
}

/// Patroni's haproxy.cfg: ports 5000 and 5001.
fn patroni() -> [ServiceSpec; 2] {
    [ServiceSpec::new("primary", Role::Primary), ServiceSpec::new("replica", Role::Replica)]
}

fn offline() -> RestAnswer {
    RestAnswer { tags: tags([("pg_offline_query", "true")]), ..replaying() }
}

fn cluster(trust: Trust, leader: usize, answers: [RestAnswer; 3]) -> Bed {
    let mut bed = Bed::new(trust);
    for (number, answer) in (1..).zip(answers) {
        bed.put(number, answer);
    }
    bed.leads(leader);
    bed
}

/// Names and targets, such as `replica 10.0.0.2:6432`.
fn derived(bed: &Bed, specs: &[ServiceSpec]) -> Vec<String> {
    let services = bed.table(specs).services;
    let line = |service: &pgvane::decide::ServiceRoutes| {
        let targets: Vec<String> = service.targets.iter().map(|target| target.address.to_string()).collect();
        format!("{} {}", service.spec.name, targets.join(" "))
    };
    services.iter().map(line).collect()
}

#[test]
fn before_a_failover() {
    for trust in [Trust::Confirm, Trust::Rest] {
        let bed = cluster(trust, 1, [writable(), replaying(), offline()]);
        let expected =
            ["primary 10.0.0.1:6432", "replica 10.0.0.2:6432", "default 10.0.0.1:5432", "offline 10.0.0.3:5432"];
        assert_eq!(derived(&bed, &pigsty()), expected, "{trust:?}");
        assert_eq!(derived(&bed, &patroni()), ["primary 10.0.0.1:5432", "replica 10.0.0.2:5432"], "{trust:?}");
    }
}

#[test]
fn while_the_old_primary_is_gone() {
    for trust in [Trust::Confirm, Trust::Rest] {
        let bed = cluster(trust, 2, [stopped(), writable(), offline()]);
        // The replica port falls back to the primary before it troubles the offline member.
        let expected =
            ["primary 10.0.0.2:6432", "replica 10.0.0.2:6432", "default 10.0.0.2:5432", "offline 10.0.0.3:5432"];
        assert_eq!(derived(&bed, &pigsty()), expected, "{trust:?}");
        assert_eq!(derived(&bed, &patroni()), ["primary 10.0.0.2:5432", "replica "], "{trust:?}");
    }
}

#[test]
fn after_a_failover_the_old_primary_reads() {
    for trust in [Trust::Confirm, Trust::Rest] {
        let mut bed = cluster(trust, 2, [replaying(), writable(), offline()]);
        let expected =
            ["primary 10.0.0.2:6432", "replica 10.0.0.1:6432", "default 10.0.0.2:5432", "offline 10.0.0.3:5432"];
        assert_eq!(derived(&bed, &pigsty()), expected, "{trust:?}");
        assert_eq!(derived(&bed, &patroni()), ["primary 10.0.0.2:5432", "replica 10.0.0.1:5432"], "{trust:?}");
        // The offline port has plain replicas behind it, and never the primary.
        bed.track(3).orders.state = AdminState::Maint;
        assert_eq!(derived(&bed, &pigsty())[3], "offline 10.0.0.1:5432", "{trust:?}");
        bed.track(1).orders.state = AdminState::Maint;
        assert_eq!(derived(&bed, &pigsty())[3], "offline ", "{trust:?}");
    }
}

#[test]
fn an_offline_member_that_was_promoted_writes_and_reads_for_nobody_else() {
    for trust in [Trust::Confirm, Trust::Rest] {
        let bed = cluster(trust, 3, [replaying(), replaying(), RestAnswer { tags: offline().tags, ..writable() }]);
        let expected = [
            "primary 10.0.0.3:6432",
            "replica 10.0.0.1:6432 10.0.0.2:6432",
            "default 10.0.0.3:5432",
            "offline 10.0.0.1:5432 10.0.0.2:5432",
        ];
        assert_eq!(derived(&bed, &pigsty()), expected, "{trust:?}");
    }
}
