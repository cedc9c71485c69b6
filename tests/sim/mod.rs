//! A virtual world around real routers: an etcd, PostgreSQL members under Patroni, clients, and time
//! that only moves when the world says so. One seed, one history.
//!
//! `world` moves time and carries things between the others · `etcd` and `member` are what routers
//! look at · `patroni` makes members behave by themselves · `shell` is a router with its data plane ·
//! `checks` says what must never be seen · `faults` is what goes wrong · `script` reads scenarios.
#![allow(dead_code, reason = "scenarios and the random simulation each use a part of the world")]

use std::collections::BTreeMap;
use std::sync::Arc;

use std::time::Duration;

use pgvane::model::{
    ApiAddress, CheckTiming, ClusterSpec, HoldSpec, HostPort, MemberName, OnDcsLoss, Role, ServiceSpec, StaticMember,
    Trust,
};

pub mod checks;
pub mod etcd;
pub mod faults;
pub mod member;
pub mod patroni;
pub mod prng;
pub mod script;
pub mod shell;
pub mod world;

/// Virtual time: microseconds since the world began.
pub type Micros = u64;
pub const MS: Micros = 1_000;
pub const SEC: Micros = 1_000_000;

/// One cluster with the services that Pigsty's users know, and readers that care about lag.
pub fn cluster(policy: OnDcsLoss, max_lag: Option<u64>) -> Arc<ClusterSpec> {
    let service = |name: &str, port: u16, role: Role, backup: &[Role]| {
        let mut spec = ServiceSpec {
            listen: vec![HostPort::new("*", port).into()],
            backup: backup.to_vec(),
            hold: HoldSpec::On { timeout: None, max: 1000 },
            ..ServiceSpec::new(name, role)
        };
        spec.filter.max_lag = max_lag.filter(|_| role != Role::Primary);
        Arc::new(spec)
    };
    Arc::new(ClusterSpec {
        name: "pg-test".into(),
        scope: "pg-test".into(),
        group: None,
        trust: Trust::Confirm,
        namespace: "service".to_owned(),
        on_dcs_loss: policy,
        check: CheckTiming::default(),
        members: BTreeMap::new(),
        services: vec![
            service("primary", 5433, Role::Primary, &[]),
            service("replica", 5434, Role::Replica, &[Role::Primary, Role::Offline]),
            service("offline", 5438, Role::Offline, &[Role::Replica]),
        ],
    })
}

/// The same with another time for transactions in maintenance, in all services or in one.
pub fn with_drain(spec: &ClusterSpec, of: Option<&str>, drain: Duration) -> Arc<ClusterSpec> {
    let mut spec = spec.clone();
    for service in spec.services.iter_mut().filter(|service| of.is_none_or(|name| *service.name == *name)) {
        Arc::make_mut(service).drain = drain;
    }
    Arc::new(spec)
}

/// The same cluster without a DCS, checked as Pigsty's HAProxy does it.
pub fn by_rest(max_lag: Option<u64>) -> Arc<ClusterSpec> {
    let mut spec = (*cluster(OnDcsLoss::Keep, max_lag)).clone();
    let gap = Duration::from_secs(2);
    let timing = CheckTiming { inter: gap, downinter: gap, ..CheckTiming::default() };
    let paced = |service: &Arc<ServiceSpec>| {
        let mut service = (**service).clone();
        service.check.timing = timing.clone();
        Arc::new(service)
    };
    let member = |index: usize| {
        let host = member::Member::host(index);
        let api = ApiAddress { tls: false, at: HostPort::new(host.clone(), 8008) };
        let given = StaticMember { host: Some(host), api: Some(api), ..StaticMember::default() };
        (MemberName::from(format!("n{}", index + 1)), given)
    };
    spec.services = spec.services.iter().map(paced).collect();
    spec.members = (0..3).map(member).collect();
    spec.trust = Trust::Rest;
    Arc::new(spec)
}
