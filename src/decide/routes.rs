//! The table that clients are routed by: immutable, with a generation number.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::model::{Balance, HostPort, MemberName, Reason, Role, ServiceName, ServiceSpec};

use super::balance::{Balancer, Candidate};
use super::weight;

/// One member that takes new sessions of one service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub member: MemberName,
    pub address: HostPort,
    /// The role it was chosen for: the service's own or one of its backups.
    pub role: Role,
    /// A write target may be used only until the deadline of the last [`super::Effect::Confirm`].
    pub needs_confirmation: bool,
    /// 1 to 256, before `slowstart`.
    pub weight: u32,
    /// When it came back, where `slowstart` applies to it.
    pub risen_at: Option<Instant>,
}

impl Target {
    /// The same place in the same role, whatever its weight. A reader that leads by now is another target.
    pub fn is_same_as(&self, other: &Target) -> bool {
        let same_place = (&self.member, &self.address) == (&other.member, &other.address);
        same_place && (self.role, self.needs_confirmation) == (other.role, other.needs_confirmation)
    }
}

/// How a member stands to a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TargetState {
    /// Takes new sessions.
    Open,
    /// Would be the target, and new sessions wait for it.
    Waiting,
    /// Healthy, but in another role, or a backup that is not needed.
    Standby,
    /// Has the role, and a rule keeps new sessions away.
    Excluded,
    /// An operator drains it, or its weight is 0.
    Drain,
    /// An operator put it into maintenance.
    Maint,
    /// Its checks fail.
    Down,
    /// Nothing is known yet.
    Unknown,
}

impl TargetState {
    pub const ALL: [TargetState; 8] = [
        TargetState::Open,
        TargetState::Waiting,
        TargetState::Standby,
        TargetState::Excluded,
        TargetState::Drain,
        TargetState::Maint,
        TargetState::Down,
        TargetState::Unknown,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            TargetState::Open => "open",
            TargetState::Waiting => "waiting",
            TargetState::Standby => "standby",
            TargetState::Excluded => "excluded",
            TargetState::Drain => "drain",
            TargetState::Maint => "maint",
            TargetState::Down => "down",
            TargetState::Unknown => "unknown",
        }
    }
}

/// Why a member is or is not a target of a service, for people.
#[derive(Debug, Clone, PartialEq)]
pub struct Standing {
    pub member: MemberName,
    pub state: TargetState,
    pub reason: Reason,
    pub since: Instant,
}

/// One service's part of the table.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceRoutes {
    pub spec: Arc<ServiceSpec>,
    /// All of one role: the first of role and backups that has any. One that is as it was in the table before is
    /// the same value, which every session to it shares.
    pub targets: Vec<Arc<Target>>,
    /// Why there is no target, and since when; None exactly when `targets` is not empty.
    pub wait: Option<(Reason, Instant)>,
    /// The longest a client may be held; None: refuse at once.
    pub hold_limit: Option<Duration>,
    /// Where a CancelRequest goes.
    pub cancel: Vec<HostPort>,
    pub standings: Vec<Standing>,
}

/// Every service of one Patroni cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct Routes {
    pub cluster: Arc<str>,
    /// Grows by one with every table.
    pub generation: u64,
    pub services: Vec<ServiceRoutes>,
}

/// The choice for one client.
#[derive(Debug, Clone, PartialEq)]
pub enum Pick<'a> {
    Target(&'a Arc<Target>),
    /// Wait at most this long, counted from the client's arrival.
    Hold {
        limit: Duration,
        reason: Reason,
        since: Instant,
    },
    Refuse {
        reason: Reason,
        since: Instant,
    },
    /// There are targets, and this client has tried them all.
    Exhausted,
    /// Every target it could go to has as many sessions as `maxconn` allows.
    Full,
}

/// Who asks for a target.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    /// A number made from the client's address alone, see [`super::balance::client_hash`].
    pub client: u64,
    /// Drawn anew for every choice.
    pub draw: u64,
    /// Members that this client could not reach just now.
    pub tried: &'a [MemberName],
    pub now: Instant,
}

impl Routes {
    pub fn service(&self, name: &str) -> Option<&ServiceRoutes> {
        self.services.iter().find(|s| &*s.spec.name == name)
    }

    /// Whether a session that was picked from an older table may still open on this one.
    pub fn still_opens(&self, service: &ServiceName, target: &Target) -> bool {
        self.service(service).is_some_and(|s| s.targets.iter().any(|t| t.is_same_as(target)))
    }
}

impl ServiceRoutes {
    /// Chooses for one client. `load` tells the sessions of this service to the target at a place in `targets`,
    /// those on their way included; `balancer` is this service's own.
    ///
    /// A target with `maxconn` of them is skipped. With `balance: source` it is not: a client whose own
    /// target is full waits for that one, as it does in HAProxy, or every full target would scatter its
    /// clients over the others. A target that this client could not reach counts as gone there, too.
    pub fn pick(&self, balancer: &mut Balancer, caller: Caller<'_>, load: impl Fn(usize) -> usize) -> Pick<'_> {
        let untried = || self.targets.iter().enumerate().filter(|(_, target)| !caller.tried.contains(&target.member));
        if untried().next().is_none() {
            return self.without_target();
        }
        // A newcomer that took somebody's place is one too many as soon as it has had its first chance.
        if balancer.remembers() > self.targets.len() {
            balancer.keep_only(|member| self.targets.iter().any(|target| target.member == *member));
        }
        let is_source = self.spec.balance == Balance::Source;
        let is_full = |load: usize| self.spec.maxconn > 0 && load >= self.spec.maxconn;
        let mut candidates = Vec::with_capacity(self.targets.len());
        let loaded = untried().map(|(place, target)| self.candidate(place, target, load(place), caller.now));
        candidates.extend(loaded.filter(|candidate| is_source || !is_full(candidate.load)));
        let chosen = balancer.choose(self.spec.balance, &candidates, caller.client, caller.draw);
        let chosen = chosen.and_then(|index| candidates.get(index)).filter(|chosen| !is_full(chosen.load));
        chosen.and_then(|chosen| self.targets.get(chosen.place)).map_or(Pick::Full, Pick::Target)
    }

    /// HAProxy ramps the weights of its dynamic algorithms only: with `source` a ramp would move clients
    /// away and back.
    fn candidate<'a>(&self, place: usize, target: &'a Target, load: usize, now: Instant) -> Candidate<'a> {
        let weight = match self.spec.balance {
            Balance::Source => target.weight,
            _ => weight::effective(target.weight, self.spec.slowstart, target.risen_at, now),
        };
        Candidate { place, member: &target.member, weight, load }
    }

    fn without_target(&self) -> Pick<'_> {
        match (self.wait, self.hold_limit) {
            (None, _) => Pick::Exhausted,
            (Some((reason, since)), Some(limit)) => Pick::Hold { limit, reason, since },
            (Some((reason, since)), None) => Pick::Refuse { reason, since },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::balance::client_hash;
    use super::*;
    use crate::model::ServiceSpec;
    use crate::runtime::clock;

    fn service(change: impl Fn(&mut ServiceSpec), targets: &[(&str, u32)]) -> ServiceRoutes {
        let mut spec = ServiceSpec::new("replica", Role::Replica);
        change(&mut spec);
        let target = |(name, weight): &(&str, u32)| {
            Arc::new(Target {
                member: (*name).into(),
                address: HostPort::new(*name, 5432),
                role: Role::Replica,
                needs_confirmation: false,
                weight: *weight,
                risen_at: None,
            })
        };
        ServiceRoutes {
            spec: Arc::new(spec),
            targets: targets.iter().map(target).collect(),
            wait: None,
            hold_limit: None,
            cancel: Vec::new(),
            standings: Vec::new(),
        }
    }

    /// Who is picked; None: full.
    fn picked(routes: &ServiceRoutes, client: u64, tried: &[MemberName], loads: &[usize]) -> Option<String> {
        let caller = Caller { client, draw: 0, tried, now: clock::now() };
        match routes.pick(&mut Balancer::default(), caller, |place| loads[place]) {
            Pick::Target(target) => Some(target.member.to_string()),
            Pick::Full => None,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn full_targets_are_skipped_by_every_algorithm_but_source() {
        for balance in Balance::ALL {
            let routes = service(|spec| (spec.balance, spec.maxconn) = (balance, 3), &[("a", 100), ("b", 100)]);
            for client in (0..20).map(|last| client_hash(&[10, 0, 0, last])) {
                let own = picked(&routes, client, &[], &[0, 0]).unwrap();
                let b = Some("b".to_owned());
                match picked(&routes, client, &[], &[3, 0]) {
                    None => assert!(balance == Balance::Source && own == "a", "its own target is full: it waits"),
                    other => assert_eq!(other, b),
                }
                assert_eq!(picked(&routes, client, &[], &[3, 3]), None);
                assert_eq!(picked(&routes, client, &["a".into()], &[3, 2]), b, "one that failed is gone for it");
                assert_eq!(picked(&routes, client, &["a".into()], &[0, 3]), None);
            }
        }
        let unlimited = service(|_| {}, &[("a", 100)]);
        assert!(picked(&unlimited, 0, &[], &[1_000_000]).is_some());
    }

    #[test]
    fn a_returned_member_gets_little_at_first_but_keeps_its_own_clients() {
        let share = |balance: Balance, second: u64| {
            let slow = |spec: &mut ServiceSpec| (spec.balance, spec.slowstart) = (balance, Duration::from_secs(10));
            let mut routes = service(slow, &[("a", 100), ("b", 100)]);
            let risen = clock::now();
            Arc::make_mut(&mut routes.targets[1]).risen_at = Some(risen);
            let (mut balancer, now) = (Balancer::default(), risen + Duration::from_secs(second));
            let to_b = |client: &u64| {
                let caller = Caller { client: client_hash(&client.to_be_bytes()), draw: 0, tried: &[], now };
                routes.pick(&mut balancer, caller, |_| 0) == Pick::Target(&routes.targets[1])
            };
            (0..1070).filter(to_b).count()
        };
        assert_eq!(share(Balance::RoundRobin, 0), 70, "7 of 107");
        assert_eq!(share(Balance::RoundRobin, 10), 535);
        assert_eq!(share(Balance::Source, 0), share(Balance::Source, 10));
    }

    #[test]
    fn a_choice_that_finds_nobody_takes_nobodys_turn() {
        let routes = service(|spec| (spec.balance, spec.maxconn) = (Balance::RoundRobin, 1), &[("a", 1), ("b", 1)]);
        let mut balancer = Balancer::default();
        let caller = Caller { client: 0, draw: 0, tried: &[], now: clock::now() };
        let mut order = Vec::new();
        for _ in 0..4 {
            assert_eq!(routes.pick(&mut balancer, caller, |_| 1), Pick::Full);
            if let Pick::Target(target) = routes.pick(&mut balancer, caller, |_| 0) {
                order.push(target.member.to_string());
            }
        }
        assert_eq!(order, ["a", "b", "a", "b"]);
    }
}
