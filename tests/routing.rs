//! Properties of routing: the table as a function of facts, and the choice for one client.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pgvane::decide::balance::Balancer;
use pgvane::decide::lead::{Facts, Lead};
use pgvane::decide::table::Ingredients;
use pgvane::decide::track::MemberTrack;
use pgvane::decide::view::ViewKeeper;
use pgvane::decide::{Caller, Pick, Routes, ViewSource};
use pgvane::model::{
    Balance, CheckTiming, ClusterSettings, ClusterView, HostPort, LeaderKey, Lsn, MemberFacts, MemberName, OnDcsLoss,
    ProbeOutcome, RestAnswer, RestRole, Role, ServiceSpec, Tags, Timeline,
};
use pgvane::runtime::clock;
use proptest::prelude::*;

#[path = "sim/mod.rs"]
mod sim;

/// What REST said last, and the tags of one member.
#[derive(Debug, Clone)]
struct Given {
    /// None: it was never asked.
    answer: Option<(u16, bool, bool)>,
    asked_ms_ago: u64,
    timeline: Option<u32>,
    system: Option<bool>,
    failsafe: bool,
    noloadbalance: bool,
    offline: bool,
    streaming: bool,
    has_address: bool,
}

#[derive(Debug, Clone)]
struct World {
    members: Vec<Given>,
    leader: Option<usize>,
    last_leader: Option<usize>,
    read_ms_ago: u64,
    lease_left: u64,
    mark: u32,
    pause: bool,
    replaced: bool,
    planned: bool,
    close: bool,
}

fn given() -> impl Strategy<Value = Given> {
    let answer = proptest::option::weighted(0.9, (prop_oneof![Just(200u16), Just(503)], any::<bool>(), any::<bool>()));
    let rest =
        (proptest::option::weighted(0.9, 4u32..7), proptest::option::weighted(0.9, proptest::bool::weighted(0.9)));
    let flags = (
        any::<bool>(),
        proptest::bool::weighted(0.3),
        proptest::bool::weighted(0.3),
        any::<bool>(),
        proptest::bool::weighted(0.9),
    );
    (answer, prop_oneof![0u64..1500, 0u64..5000], rest, flags).prop_map(|(answer, asked_ms_ago, rest, flags)| Given {
        answer,
        asked_ms_ago,
        timeline: rest.0,
        system: rest.1,
        failsafe: flags.0,
        noloadbalance: flags.1,
        offline: flags.2,
        streaming: flags.3,
        has_address: flags.4,
    })
}

fn world() -> impl Strategy<Value = World> {
    let members = proptest::collection::vec(given(), 1..5);
    let some = proptest::option::weighted(0.7, 0usize..5);
    let flags = (any::<bool>(), proptest::bool::weighted(0.2), proptest::bool::weighted(0.2), any::<bool>());
    (members, some.clone(), some, prop_oneof![0u64..1900, 0u64..40_000], 0u64..30_000, 4u32..7, flags).prop_map(
        |(members, leader, last_leader, read_ms_ago, lease_left, mark, flags)| {
            let within = |index: Option<usize>| index.filter(|i| *i < members.len());
            let leader = within(leader);
            let last_leader = leader.or(within(last_leader));
            let (pause, replaced, planned, close) = flags;
            World { members, leader, last_leader, read_ms_ago, lease_left, mark, pause, replaced, planned, close }
        },
    )
}

fn name(index: usize) -> MemberName {
    MemberName::from(format!("n{index}"))
}

fn facts(index: usize, given: &Given) -> MemberFacts {
    let tag = |key: &str, set: bool| (key.to_owned(), set.to_string());
    MemberFacts {
        conn: given.has_address.then(|| HostPort::new(format!("10.0.0.{index}"), 5432)),
        api: pgvane::model::ApiAddress::parse(&format!("http://10.0.0.{index}:8008/")),
        tags: Tags::from([tag("noloadbalance", given.noloadbalance), tag("offline", given.offline)]),
        ..MemberFacts::default()
    }
}

fn track(index: usize, given: &Given, now: Instant) -> MemberTrack {
    let timing = CheckTiming::default();
    let mut track = MemberTrack::new(&timing, now - Duration::from_secs(100));
    let written = facts(index, given);
    (track.conn, track.api) = (written.conn.clone(), written.api.clone());
    track.facts = Some(written);
    let sent = now - Duration::from_millis(given.asked_ms_ago);
    if let Some((status, primary, sql)) = given.answer {
        let answer = RestAnswer {
            status,
            role: if primary { RestRole::Primary } else { RestRole::Replica },
            state: "running".to_owned(),
            location: (sql && primary).then_some(Lsn(9)),
            replayed: (sql && !primary).then_some(Lsn(9)),
            received: None,
            timeline: given.timeline.map(Timeline),
            replication_state: given.streaming.then(|| "streaming".to_owned()),
            system_id: given.system.map(|own| if own { "sys1" } else { "sys9" }.to_owned()),
            failsafe_active: given.failsafe,
            cluster_unlocked: false,
            pause: false,
            tags: Tags::new(),
        };
        track.send(1, pgvane::decide::track::Urgency::Routine, &timing, sent);
        track.probe_done(1, ProbeOutcome::Answer(Box::new(answer)), &timing, sent);
    }
    track
}

/// The decision and the table that follow from a world.
fn derive(world: &World, now: Instant, services: &[Arc<ServiceSpec>]) -> (Lead, Routes) {
    let tracks: BTreeMap<_, _> =
        world.members.iter().enumerate().map(|(i, given)| (name(i), track(i, given, now))).collect();
    let leader = world.leader.map(|i| LeaderKey { name: name(i), create_revision: 3, lease: 7 });
    let settings = ClusterSettings { pause: world.pause, ..ClusterSettings::default() };
    let members = world.members.iter().enumerate().map(|(i, g)| (name(i), facts(i, g))).collect();
    let system_id = Some("sys1".to_owned());
    let view = Arc::new(ClusterView {
        cluster_id: 1,
        revision: 5,
        leader,
        members,
        settings,
        system_id,
        ..ClusterView::default()
    });
    let mut keeper = ViewKeeper::default();
    let sent_at = now - Duration::from_millis(world.read_ms_ago);
    let source = ViewSource::Read { sent_at, lease_left: Some(Duration::from_millis(world.lease_left)) };
    keeper.offer(view.clone(), &source, sent_at);
    let (writers, marks) = (BTreeSet::new(), BTreeMap::from([("sys1".to_owned(), Timeline(world.mark))]));
    let last_leader = world.last_leader.map(name);
    let lead = Facts {
        now,
        started_at: now - Duration::from_secs(100),
        policy: if world.close { OnDcsLoss::Close } else { OnDcsLoss::Keep },
        keeper: &keeper,
        tracks: &tracks,
        marks: &marks,
        writers: &writers,
        last_leader: last_leader.as_ref(),
        replaced: world.replaced,
        planned_until: world.planned.then(|| now + Duration::from_secs(1)),
        remembered: true,
    }
    .decide();
    let cluster: Arc<str> = "pg-test".into();
    let previous = Routes { cluster: cluster.clone(), generation: 0, services: Vec::new() };
    let table = Ingredients {
        trust: pgvane::model::Trust::Confirm,
        now,
        cluster: &cluster,
        services,
        view: Some(&view),
        tracks: &tracks,
        lead: &lead,
        cutting: &[],
        writers: &writers,
        ttl: Duration::from_secs(30),
        previous: &previous,
    }
    .table();
    (lead, table)
}

fn services() -> Vec<Arc<ServiceSpec>> {
    sim::cluster(OnDcsLoss::Keep, None).services.clone()
}

/// product.md's sentences, said once more and without the machine.
fn may_write(world: &World, index: usize) -> bool {
    let given = &world.members[index];
    let Some((status, primary, sql)) = given.answer else { return false };
    let proven = primary && sql && given.has_address && given.timeline.is_some_and(|t| t >= world.mark);
    if !proven || given.system != Some(true) || world.last_leader != Some(index) {
        return false;
    }
    let says_200 = status == 200 && given.asked_ms_ago < 3000;
    let young = given.asked_ms_ago < 1000;
    let others = || world.members.iter().enumerate().filter(|(i, _)| *i != index).map(|(_, g)| g);
    let other_claims = others().any(|g| g.answer.is_some_and(|a| a.0 == 200) && g.asked_ms_ago < 3000);
    let other_writable = others().any(|g| g.answer.is_some_and(|(_, primary, sql)| primary && sql));
    let fresh = world.read_ms_ago < 2000;
    match (fresh, world.leader) {
        _ if world.replaced => false,
        (true, Some(_)) => !world.planned,
        (true, None) => young && (given.failsafe || world.pause && !other_writable),
        (false, Some(_)) => says_200 && !other_claims && (!world.close || world.lease_left > world.read_ms_ago),
        (false, None) => young && says_200 && given.failsafe && !other_claims,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 30_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Neither more nor less: a write target exactly where every condition of trust is true.
    #[test]
    fn writes_go_where_every_condition_of_trust_is_true(world in world()) {
        // A replaced DCS that is silent as well is decided by writers, of which there are none here.
        let (lead, table) = derive(&world, clock::now() + Duration::from_secs(1000), &services());
        let expected: Vec<MemberName> = (0..world.members.len()).filter(|i| may_write(&world, *i)).map(name).collect();
        let targets = &table.service("primary").unwrap().targets;
        let open: Vec<MemberName> = targets.iter().map(|t| t.member.clone()).collect();
        prop_assert_eq!(&open, &expected, "{:?}", lead);
        let confirmed = table.services.iter().flat_map(|s| &s.targets).all(|t| t.needs_confirmation == (t.role == Role::Primary));
        prop_assert!(confirmed);
    }

    #[test]
    fn readers_are_chosen_by_role_and_tag(world in world()) {
        let now = clock::now() + Duration::from_secs(1000);
        let (lead, table) = derive(&world, now, &services());
        let replays = |g: &Given| g.has_address && g.answer.is_some_and(|(_, primary, sql)| sql && !primary);
        let fit = |role: Role| -> Vec<MemberName> {
            let of_role = |g: &Given| match role {
                Role::Replica => replays(g) && !g.offline && !g.noloadbalance,
                Role::Offline => replays(g) && g.offline,
                _ => false,
            };
            (0..world.members.len())
                .filter(|i| if role == Role::Primary { lead.open == Some(name(*i)) && world.members[*i].has_address } else { of_role(&world.members[*i]) })
                .map(name)
                .collect()
        };
        for service in &table.services {
            let tiers = std::iter::once(service.spec.role).chain(service.spec.backup.iter().copied());
            let expected = tiers.map(fit).find(|members| !members.is_empty()).unwrap_or_default();
            let open: Vec<MemberName> = service.targets.iter().map(|t| t.member.clone()).collect();
            prop_assert_eq!(&open, &expected, "{}", &service.spec.name);
            prop_assert_eq!(service.wait.is_none(), !open.is_empty(), "a wait exactly when there is no target");
        }
    }

    #[test]
    fn the_same_facts_give_the_same_table(world in world()) {
        let now = clock::now() + Duration::from_secs(1000);
        let (first, again) = (derive(&world, now, &services()), derive(&world, now, &services()));
        prop_assert_eq!(first, again);
    }

    #[test]
    fn leastconn_picks_a_least_loaded_untried_target(
        world in world(), loads in proptest::collection::vec(0usize..4, 5), turn in 0u64..10, tried in 0usize..6,
    ) {
        let (_, table) = derive(&world, clock::now() + Duration::from_secs(1000), &services());
        let replica = table.service("replica").unwrap();
        prop_assert_eq!(replica.spec.balance, Balance::LeastConn);
        let load = |m: &MemberName| loads[m.as_str()[1..].parse::<usize>().unwrap()];
        let tried = [name(tried)];
        let candidates: Vec<_> = replica.targets.iter().filter(|t| !tried.contains(&t.member)).collect();
        let least = candidates.iter().map(|t| load(&t.member)).min();
        let mut balancer = Balancer::default();
        let caller = Caller { client: 0, draw: turn, tried: &tried, now: clock::now() };
        match replica.pick(&mut balancer, caller, load) {
            Pick::Target(target) => {
                prop_assert!(candidates.contains(&target));
                prop_assert_eq!(Some(load(&target.member)), least);
            }
            Pick::Hold { limit, .. } => {
                prop_assert!(replica.targets.is_empty());
                prop_assert_eq!(limit, Duration::from_secs(45));
            }
            Pick::Exhausted => prop_assert!(candidates.is_empty() && !replica.targets.is_empty()),
            Pick::Refuse { .. } => prop_assert!(false, "holding is on"),
            Pick::Full => prop_assert!(false, "there is no maxconn"),
        }
    }
}
