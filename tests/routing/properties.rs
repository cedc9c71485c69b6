//! Properties of routing in random worlds, against product rules written a second time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pgvane::decide::balance::Balancer;
use pgvane::decide::lead::Lead;
use pgvane::decide::{Caller, Pick, Routes, TargetState};
use pgvane::model::{AdminState, Balance, MemberName, RestRole, Role, ServiceSpec, Trust};
use pgvane::runtime::clock;
use proptest::prelude::*;

use super::world::{Checked, Given, OWN_PATH, World, checked, confirmed, name, own_check, world};

fn later() -> Instant {
    clock::now() + Duration::from_secs(1000)
}

/// Every role alone, with every filter, and with everything behind it; and Pigsty's two with backups.
fn services() -> Vec<Arc<ServiceSpec>> {
    let with =
        |name: String, role, backup: &[Role]| ServiceSpec { backup: backup.to_vec(), ..ServiceSpec::new(&name, role) };
    let mut services = vec![
        with("readers".to_owned(), Role::Replica, &[Role::Primary, Role::Offline]),
        with("analysts".to_owned(), Role::Offline, &[Role::Replica]),
        own_check(Role::Replica),
    ];
    for role in Role::ALL {
        services.push(with(role.to_string(), role, &[]));
        services.push(with(format!("{role}_and_all"), role, &Role::ALL));
        let mut picky = with(format!("{role}_picky"), role, &[Role::Any]);
        picky.filter.tags = [("zone".to_owned(), "a".to_owned())].into();
        picky.filter.members = vec![name(0), name(1), name(2)];
        picky.filter.max_lag = Some(50);
        services.push(picky);
        let mut streaming = with(format!("{role}_streaming"), role, &[]);
        streaming.filter.streaming = true;
        services.push(streaming);
    }
    services.into_iter().map(Arc::new).collect()
}

/// product.md's sentences, said once more and without the machine.
fn may_write(world: &World, index: usize) -> bool {
    let given = &world.members[index];
    let Some(said) = given.said else { return false };
    let is_writable =
        |g: &Given| g.said.is_some_and(|s| s.role == RestRole::Primary && s.out_of_recovery == Some(true));
    let proven = is_writable(given) && given.has_address && given.timeline.is_some_and(|t| t >= world.mark);
    if !proven || given.system != Some(true) || world.last_leader != Some(index) {
        return false;
    }
    let says_200 = said.status == 200 && given.asked_ms_ago < 3000;
    let young = given.asked_ms_ago < 1000;
    let others = || world.members.iter().enumerate().filter(|(i, _)| *i != index).map(|(_, g)| g);
    let other_claims = others().any(|g| g.said.is_some_and(|s| s.status == 200) && g.asked_ms_ago < 3000);
    let other_writable = others().any(is_writable);
    let fresh = world.read_ms_ago < 2000;
    match (fresh, world.leader) {
        _ if world.replaced => false,
        (true, Some(_)) => !world.planned,
        (true, None) => young && (given.failsafe || world.pause && !other_writable),
        (false, Some(_)) => says_200 && !other_claims && (!world.close || world.lease_left > world.read_ms_ago),
        (false, None) => young && says_200 && given.failsafe && !other_claims,
    }
}

/// One member and one role of a service in a world.
struct Case<'a> {
    world: &'a World,
    trust: Trust,
    lead: &'a Lead,
    spec: &'a ServiceSpec,
    role: Role,
    index: usize,
}

impl Case<'_> {
    fn given(&self) -> &Given {
        &self.world.members[self.index]
    }

    fn leads(&self) -> bool {
        self.lead.open == Some(name(self.index))
    }

    fn serves(&self) -> bool {
        let g = self.given();
        let weight = g.orders.weight.or(g.weight).unwrap_or(100);
        let selected = self.spec.filter.members.is_empty() || self.spec.filter.members.contains(&name(self.index));
        let allowed = g.has_address && g.orders.state == AdminState::Ready && weight > 0 && selected;
        let own = self.spec.check.path.is_some() && self.role == self.spec.role;
        let same_path = |r: &Role| r.path() == self.role.path();
        let asked = Role::ALL.iter().position(same_path).filter(|_| !own).unwrap_or(8);
        let passes = g.checks[asked] == Checked::Up;
        let fit = match self.trust {
            Trust::Confirm => self.is_fit_by_dcs() && (!own || self.is_primary() || passes),
            Trust::Rest => passes && self.is_fit_by_checks(),
        };
        allowed && fit
    }

    fn is_primary(&self) -> bool {
        self.leads() && matches!(self.role, Role::Primary | Role::ReadOnly | Role::Any)
    }

    fn is_fit_by_dcs(&self) -> bool {
        let g = self.given();
        let Some(said) = g.said else { return false };
        let named = self.world.leader == Some(self.index);
        let (replica, standby_leader) = (said.role == RestRole::Replica, said.role == RestRole::StandbyLeader && named);
        let balanced = !g.noloadbalance;
        let offline = g.said_offline.unwrap_or(g.offline);
        let of_role = match self.role {
            Role::Primary => false,
            Role::Replica => replica && balanced && !offline,
            Role::Offline => replica && offline,
            Role::Sync => replica && balanced && g.sync,
            Role::Async => replica && balanced && !g.sync,
            Role::ReadOnly => balanced || standby_leader,
            Role::Any => true,
            Role::StandbyLeader => standby_leader,
        };
        self.is_primary() || (of_role && self.is_harmless() && said.out_of_recovery.is_some() && self.passes_filter())
    }

    fn is_fit_by_checks(&self) -> bool {
        let g = self.given();
        let offline = g.said_offline.unwrap_or(g.offline && g.said.is_some());
        let of_role = match self.role {
            Role::Primary => false,
            Role::Replica => !offline,
            Role::Offline => offline,
            _ => true,
        };
        self.is_primary() || (of_role && self.is_harmless() && self.passes_filter())
    }

    /// Nothing says that it can write, and nobody is about to lose sessions there.
    fn is_harmless(&self) -> bool {
        let writable = self.given().said.is_some_and(|s| s.out_of_recovery == Some(true));
        !writable && (self.world.cutting != Some(self.index) || self.leads())
    }

    fn passes_filter(&self) -> bool {
        let (g, filter) = (self.given(), &self.spec.filter);
        let told = g.said.is_some();
        let in_zone = g.in_zone && (told || self.trust == Trust::Confirm);
        let replays = g.said.is_some_and(|s| s.out_of_recovery == Some(false));
        let measured = self.trust == Trust::Confirm || self.leader_was_asked_first();
        let lags = replays && measured && filter.max_lag.is_some_and(|max| g.lag > max);
        (filter.tags.is_empty() || in_zone) && (!filter.streaming || (g.streaming && told)) && !lags
    }

    fn leader_was_asked_first(&self) -> bool {
        let leader = self.world.members.iter().enumerate().find(|(i, _)| self.lead.open == Some(name(*i)));
        leader.is_some_and(|(_, leader)| {
            let told = leader.said.is_some_and(|s| s.out_of_recovery == Some(true));
            told && leader.asked_ms_ago >= self.given().asked_ms_ago
        })
    }
}

fn by_both(world: &World, now: Instant) -> [(Trust, Lead, Routes); 2] {
    let services = services();
    let (by_dcs, by_checks) = (confirmed(world, now, &services), checked(world, now, &services));
    [(Trust::Confirm, by_dcs.0, by_dcs.1), (Trust::Rest, by_checks.0, by_checks.1)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 30_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Neither more nor less: a leader exactly where every condition of trust is true.
    #[test]
    fn writes_go_where_every_condition_of_trust_is_true(mut world in world()) {
        world.members.iter_mut().for_each(|given| (given.orders, given.weight) = Default::default());
        // A replaced DCS that is silent as well is decided by writers, of which there are none here.
        let primary = [Arc::new(ServiceSpec::new("primary", Role::Primary))];
        let (lead, table) = confirmed(&world, later(), &primary);
        let expected: Vec<MemberName> = (0..world.members.len()).filter(|i| may_write(&world, *i)).map(name).collect();
        let targets = &table.services[0].targets;
        let open: Vec<MemberName> = targets.iter().map(|t| t.member.clone()).collect();
        prop_assert_eq!(&open, &expected, "{:?}", lead);
        prop_assert!(targets.iter().all(|t| t.needs_confirmation));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn targets_are_the_first_tier_that_has_any(world in world()) {
        for (trust, lead, table) in by_both(&world, later()) {
            for service in &table.services {
                let fit = |role: Role| -> Vec<MemberName> {
                    let serves = |index: &usize| {
                        Case { world: &world, trust, lead: &lead, spec: &service.spec, role, index: *index }.serves()
                    };
                    (0..world.members.len()).filter(serves).map(name).collect()
                };
                let expected = service.spec.tiers().map(fit).find(|members| !members.is_empty()).unwrap_or_default();
                let open: Vec<MemberName> = service.targets.iter().map(|t| t.member.clone()).collect();
                prop_assert_eq!(&open, &expected, "{:?} {} {:?}", trust, &service.spec.name, lead);
                prop_assert_eq!(service.wait.is_none(), !open.is_empty(), "a wait exactly when there is no target");
            }
        }
    }

    /// Whatever the role, the filter and the order: where a session could write is the open leader,
    /// and nobody is sent there without its confirmation.
    #[test]
    fn no_target_can_write_but_the_open_leader(world in world()) {
        for (trust, lead, table) in by_both(&world, later()) {
            for service in &table.services {
                for target in &service.targets {
                    let index = (0..world.members.len()).find(|i| name(*i) == target.member).unwrap();
                    let writable = world.members[index].said.is_some_and(|s| s.out_of_recovery == Some(true));
                    let leads = lead.open.as_ref() == Some(&target.member);
                    let what = format!("{trust:?} {} {target:?} {lead:?}", service.spec.name);
                    prop_assert!(!writable || (leads && target.needs_confirmation), "{}", what);
                    prop_assert!(!target.needs_confirmation || leads, "{}", what);
                    prop_assert!(!target.needs_confirmation || target.role.includes_primary(), "{}", what);
                    prop_assert!((1..=256).contains(&target.weight), "{}", what);
                }
            }
        }
    }

    /// Every member stands somewhere to every service, open exactly as a target.
    #[test]
    fn standings_agree_with_targets(world in world()) {
        for (_, _, table) in by_both(&world, later()) {
            for service in &table.services {
                prop_assert_eq!(service.standings.len(), world.members.len());
                for (index, standing) in service.standings.iter().enumerate() {
                    let target = service.targets.iter().any(|t| t.member == standing.member);
                    prop_assert_eq!(target, standing.state == TargetState::Open, "{:?}", standing);
                    let given = &world.members[index];
                    if given.has_address && given.orders.state != AdminState::Ready {
                        let ordered = [TargetState::Maint, TargetState::Drain, TargetState::Down];
                        prop_assert!(ordered.contains(&standing.state), "{:?}", standing);
                    }
                }
            }
        }
    }

    #[test]
    fn the_same_facts_give_the_same_table(world in world()) {
        let now = later();
        prop_assert_eq!(by_both(&world, now), by_both(&world, now));
    }

    #[test]
    fn leastconn_picks_a_least_loaded_untried_target(
        world in world(), loads in proptest::collection::vec(0usize..4, 5), turn in 0u64..10, tried in 0usize..6,
    ) {
        let (_, table) = confirmed(&world, later(), &services());
        let readers = table.service("readers").unwrap();
        prop_assert_eq!(readers.spec.balance, Balance::LeastConn);
        // Equal weights: the load alone decides.
        let mut readers = readers.clone();
        readers.targets.iter_mut().for_each(|target| Arc::make_mut(target).weight = 100);
        let load = |m: &MemberName| loads[m.as_str()[1..].parse::<usize>().unwrap()];
        let tried = [name(tried)];
        let candidates: Vec<_> = readers.targets.iter().filter(|t| !tried.contains(&t.member)).collect();
        let least = candidates.iter().map(|t| load(&t.member)).min();
        let mut balancer = Balancer::default();
        let caller = Caller { client: 0, draw: turn, tried: &tried, now: clock::now() };
        match readers.pick(&mut balancer, caller, |place| load(&readers.targets[place].member)) {
            Pick::Target(target) => {
                prop_assert!(candidates.contains(&target));
                prop_assert_eq!(Some(load(&target.member)), least);
            }
            Pick::Hold { limit, .. } => {
                prop_assert!(readers.targets.is_empty());
                prop_assert_eq!(limit, Duration::from_secs(45));
            }
            Pick::Exhausted => prop_assert!(candidates.is_empty() && !readers.targets.is_empty()),
            Pick::Refuse { .. } => prop_assert!(false, "holding is on"),
            Pick::Full => prop_assert!(false, "there is no maxconn"),
        }
    }
}

#[test]
fn a_check_of_ones_own_is_the_last_of_a_worlds_checks() {
    assert_eq!(&*own_check(Role::Replica).check_of(Role::Replica).path, OWN_PATH);
    assert!(Role::ALL.iter().all(|role| role.path() != OWN_PATH));
}
