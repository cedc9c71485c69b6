//! The machine with `trust: rest`, in virtual time, before scripted members.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;
use crate::decide::{Event, Memory, Routes, Suspicion};
use crate::model::service::ServiceCheck;
use crate::model::{
    Balance, CheckTiming, CloseOnDown, Lsn, OnDcsLoss, OnError, Order, RestAnswer, RestRole, ServiceSpec, StaticMember,
    Tags, Timeline,
};
use crate::runtime::clock;

const MS: Duration = Duration::from_millis(1);

pub fn ms(n: u32) -> Duration {
    MS * n
}

/// What a member answers to any check, after `takes`.
#[derive(Debug, Clone)]
pub struct Says {
    status: CheckStatus,
    code: Option<u16>,
    takes: Duration,
    body: Option<RestAnswer>,
}

impl Says {
    pub fn code(code: u16) -> Says {
        let status = if code == 200 { CheckStatus::L7Ok } else { CheckStatus::L7Sts };
        Says { status, code: Some(code), takes: ms(1), body: None }
    }

    fn refused() -> Says {
        Says { status: CheckStatus::L4Con, code: None, takes: ms(1), body: None }
    }

    pub fn body(mut self, role: RestRole, timeline: u32) -> Says {
        let primary = role == RestRole::Primary;
        self.body = Some(RestAnswer {
            status: self.code.unwrap_or_default(),
            role,
            state: "running".to_owned(),
            location: primary.then_some(Lsn(100)),
            replayed: (!primary).then_some(Lsn(100)),
            received: None,
            timeline: Some(Timeline(timeline)),
            replication_state: None,
            system_id: None,
            failsafe_active: false,
            cluster_unlocked: false,
            pause: false,
            tags: Tags::new(),
        });
        self
    }
}

/// When, whom, which services (None: all), and why.
pub type Closed = (u128, String, Option<Vec<String>>, Reason);

pub struct Bench {
    pub router: Router,
    zero: Instant,
    now: Instant,
    says: BTreeMap<(MemberName, String), Says>,
    pending: Vec<(Instant, Event)>,
    /// Check starts in ms since the beginning, by member and path.
    starts: Vec<(u128, String, String)>,
    turns: Vec<(u128, String, bool)>,
    pub closed: Vec<Closed>,
    /// Asked to end when idle.
    pub drained: Vec<Closed>,
    pub routes: Arc<Routes>,
    memory: Memory,
}

pub fn timing(inter: u32, fast: u32, down: u32, rise: u32, fall: u32) -> CheckTiming {
    CheckTiming { inter: ms(inter), fastinter: ms(fast), downinter: ms(down), rise, fall, timeout: ms(3000) }
}

pub fn service(name: &str, role: Role, path: Option<&str>, timing: &CheckTiming) -> ServiceSpec {
    ServiceSpec {
        check: ServiceCheck { path: path.map(Into::into), timing: timing.clone(), ..ServiceCheck::default() },
        balance: Balance::RoundRobin,
        ..ServiceSpec::new(name, role)
    }
}

pub fn cluster(services: Vec<ServiceSpec>, members: u32) -> ClusterSpec {
    let member = |index: u32| {
        let api = ApiAddress { tls: false, at: HostPort::new(format!("10.0.0.{index}"), 8008) };
        let given = StaticMember { host: Some(api.at.host.clone()), api: Some(api), ..StaticMember::default() };
        (MemberName::from(format!("m{index}")), given)
    };
    ClusterSpec {
        name: "c".into(),
        scope: "c".into(),
        namespace: "service".to_owned(),
        group: None,
        trust: Trust::Rest,
        on_dcs_loss: OnDcsLoss::Keep,
        check: CheckTiming::default(),
        members: (1..=members).map(member).collect(),
        services: services.into_iter().map(Arc::new).collect(),
    }
}

impl Bench {
    pub fn new(spec: ClusterSpec, says: &[(&str, Says)]) -> Bench {
        let zero = clock::now();
        let router = Router::new(Arc::new(spec), Memory::default(), zero);
        let routes = router.routes().clone();
        let mut bench = Bench {
            router,
            zero,
            now: zero,
            says: BTreeMap::new(),
            pending: Vec::new(),
            starts: Vec::new(),
            turns: Vec::new(),
            closed: Vec::new(),
            drained: Vec::new(),
            routes,
            memory: Memory::default(),
        };
        says.iter().for_each(|(member, what)| bench.say(member, "", what.clone()));
        bench.carry_out();
        bench
    }

    /// An empty path is every path.
    pub fn say(&mut self, member: &str, path: &str, what: Says) {
        self.says.insert((member.into(), path.to_owned()), what);
    }

    fn at(&self) -> u128 {
        (self.now - self.zero).as_millis()
    }

    pub fn handle(&mut self, event: Event) {
        self.router.handle(event, self.now);
        self.carry_out();
    }

    pub fn order(&mut self, member: &str, order: Order) {
        self.handle(Event::Order { member: member.into(), order });
    }

    fn carry_out(&mut self) {
        while let Some(effect) = self.router.poll_effect() {
            let at = self.at();
            match effect {
                Effect::Check { member, number, check, .. } => {
                    self.starts.push((at, member.to_string(), check.path.to_string()));
                    let exact = self.says.get(&(member.clone(), check.path.to_string()));
                    let said = exact.or_else(|| self.says.get(&(member.clone(), String::new()))).expect("a script");
                    let answer = said.body.clone().map(Box::new);
                    let problem = String::new();
                    let outcome =
                        CheckOutcome { status: said.status, code: said.code, answer, took: said.takes, problem };
                    self.pending.push((self.now + said.takes, Event::CheckDone { member, number, outcome }));
                }
                Effect::Log(Transition::Check { member, up, .. }) => self.turns.push((at, member.to_string(), up)),
                Effect::CloseSessions { member, services, reason } => {
                    self.closed.push((at, member.to_string(), words(services), reason));
                }
                Effect::DrainSessions { member, services, reason } => {
                    self.drained.push((at, member.to_string(), words(services), reason));
                }
                Effect::PublishRoutes(routes) => self.routes = routes,
                Effect::Remember(memory) => self.memory = memory,
                _ => {}
            }
        }
        assert_eq!(self.router.broken_invariant(), None);
    }

    pub fn run_until(&mut self, at: u32) {
        let end = self.zero + ms(at);
        loop {
            let timer = self.router.poll_timeout().map(|(at, _)| at);
            let answer = self.pending.iter().map(|(at, _)| *at).min();
            let Some(next) = timer.into_iter().chain(answer).min().filter(|next| *next <= end) else { break };
            self.now = next;
            if answer == Some(next) {
                let index = self.pending.iter().position(|(at, _)| *at == next).expect("it is there");
                let (_, event) = self.pending.remove(index);
                self.handle(event);
            } else {
                self.router.handle_timeout(next);
                self.carry_out();
            }
        }
        self.now = end;
    }

    fn starts_of(&self, member: &str) -> Vec<u128> {
        self.starts.iter().filter(|(_, name, _)| name == member).map(|(at, ..)| *at).collect()
    }

    pub fn lead(&self) -> (Option<String>, Reason) {
        let lead = self.router.snapshot().lead;
        (lead.open.map(|name| name.to_string()), lead.reason)
    }

    fn closed_of(&self, member: &str) -> Vec<u128> {
        self.closed.iter().filter(|(_, name, ..)| name == member).map(|(at, ..)| *at).collect()
    }
}

fn words(names: Option<Vec<ServiceName>>) -> Option<Vec<String>> {
    names.map(|names| names.iter().map(ToString::to_string).collect())
}

fn any(timing: &CheckTiming) -> ServiceSpec {
    service("any", Role::Any, Some("/check"), timing)
}

#[test]
fn first_checks_are_spread_over_one_interval() {
    let says: Vec<(&str, Says)> = ["m1", "m2", "m3"].map(|m| (m, Says::code(200))).to_vec();
    let mut bench = Bench::new(cluster(vec![any(&timing(2000, 1000, 2000, 3, 3))], 3), &says);
    bench.run_until(900);
    // reference: HAProxy 2.6 with fastinter 1s began at 0.00, 0.33, 0.66.
    assert_eq!(bench.starts.iter().map(|(at, ..)| *at).collect::<Vec<_>>(), [0, 333, 666]);
}

#[test]
fn intervals_are_gaps_after_completion() {
    let slow = Says { takes: ms(500), ..Says::code(200) };
    let mut bench = Bench::new(cluster(vec![any(&timing(2000, 1000, 4000, 3, 3))], 1), &[("m1", slow)]);
    bench.run_until(2600);
    bench.say("m1", "", Says::refused());
    bench.run_until(16_000);
    // Up at the first success; then inter, fastinter twice until down, then downinter.
    assert_eq!(bench.starts_of("m1"), [0, 2500, 5000, 6001, 7002, 11_003, 15_004]);
    assert_eq!(bench.turns, [(500, "m1".to_owned(), true), (7003, "m1".to_owned(), false)]);
    assert_eq!(bench.closed_of("m1"), [7003]);
    let check = &bench.router.snapshot().members[0].checks[0];
    // Checks that fail while it is down move nothing.
    assert_eq!((check.failures, check.downs, check.status), (3, 1, CheckStatus::L4Con));
}

#[test]
fn a_return_takes_rise_checks_and_is_known_as_one() {
    let mut bench = Bench::new(cluster(vec![any(&timing(1000, 500, 1000, 3, 1))], 1), &[("m1", Says::refused())]);
    bench.run_until(100);
    bench.say("m1", "", Says::code(200));
    bench.run_until(5000);
    assert_eq!(bench.turns, [(2004, "m1".to_owned(), true)], "{:?}", bench.starts_of("m1"));
    bench.say("m1", "", Says::code(503));
    bench.run_until(6500);
    bench.say("m1", "", Says::code(200));
    bench.run_until(12_000);
    let check = bench.router.tracks.values().next().unwrap().checks.values().next().unwrap();
    assert!(check.is_up() && check.risen_at.is_some());
}

#[test]
fn our_own_lateness_counts_for_nobody() {
    let late = Says { status: CheckStatus::SockErr, code: None, takes: ms(1), body: None };
    let mut bench = Bench::new(cluster(vec![any(&timing(1000, 500, 1000, 2, 2))], 1), &[("m1", Says::code(200))]);
    bench.run_until(100);
    bench.say("m1", "", late);
    bench.run_until(20_000);
    assert_eq!(bench.turns.len(), 1);
    assert!(bench.starts_of("m1").len() > 20, "asked again after fastinter");
}

#[test]
fn failed_connects_of_clients_count_as_observe_says() {
    let limit = |on_error: OnError| {
        let mut any = any(&timing(10_000, 1000, 10_000, 3, 3));
        any.check.observe.on_error = on_error;
        let mut bench = Bench::new(cluster(vec![any], 1), &[("m1", Says::code(200))]);
        bench.run_until(3000);
        bench.handle(Event::Suspected { member: "m1".into(), suspicion: Suspicion::ConnectRefused });
        let tell = Event::ErrorLimit { service: "any".into(), member: "m1".into() };
        bench.handle(tell.clone());
        let first = (bench.router.snapshot().members[0].checks[0].points, bench.turns.len());
        bench.run_until(3500);
        bench.say("m1", "", Says::refused());
        bench.run_until(4500);
        (first, bench.starts_of("m1"), bench.router.snapshot().members[0].checks[0].up)
    };
    // All of them bring the next check forward to fastinter.
    let starts = vec![0, 4000];
    assert_eq!(limit(OnError::FastInter), ((5, 1), starts.clone(), Some(true)));
    assert_eq!(limit(OnError::FailCheck), ((4, 1), starts.clone(), Some(true)));
    assert_eq!(limit(OnError::SuddenDeath), ((3, 1), starts.clone(), Some(false)));
    assert_eq!(limit(OnError::MarkDown), ((0, 2), starts, Some(false)));
}

fn primary_and_replica(timing: &CheckTiming) -> Vec<ServiceSpec> {
    vec![service("primary", Role::Primary, None, timing), service("replica", Role::Replica, None, timing)]
}

pub fn roles(bench: &mut Bench, member: &str, leads: bool, timeline: u32) {
    let role = if leads { RestRole::Primary } else { RestRole::Replica };
    let code = |yes: bool| Says::code(if yes { 200 } else { 503 }).body(role, timeline);
    bench.say(member, "/primary", code(leads));
    bench.say(member, "/replica", code(!leads));
}

fn pair(leader: &str) -> Bench {
    let spec = cluster(primary_and_replica(&timing(2000, 1000, 2000, 3, 3)), 2);
    let mut bench = Bench::new(spec, &[("m1", Says::refused()), ("m2", Says::refused())]);
    for member in ["m1", "m2"] {
        roles(&mut bench, member, member == leader, 5);
    }
    bench
}

#[test]
fn two_that_claim_on_one_timeline_open_nobody_and_cut_nobody() {
    let mut bench = pair("m1");
    bench.run_until(20_000);
    assert_eq!(bench.lead().0.as_deref(), Some("m1"));
    roles(&mut bench, "m2", true, 5);
    bench.run_until(30_000);
    assert_eq!(bench.lead(), (None, Reason::OtherClaims));
    assert_eq!(bench.closed_of("m1"), [] as [u128; 0]);
    // One of them turns out to be later: it is the one, and the other's sessions go first.
    roles(&mut bench, "m2", true, 6);
    bench.run_until(40_000);
    assert_eq!(bench.lead().0.as_deref(), Some("m2"));
    assert_eq!(bench.closed.iter().filter(|(_, m, s, _)| m == "m1" && s.is_none()).count(), 1);
}

#[test]
fn a_primary_that_replays_is_left_at_its_first_word() {
    let mut bench = pair("m1");
    bench.run_until(20_000);
    roles(&mut bench, "m1", false, 5);
    bench.run_until(22_100);
    assert_eq!(bench.lead(), (None, Reason::NoTarget));
    assert!(bench.closed.iter().any(|(_, m, s, why)| m == "m1" && s.is_none() && *why == Reason::InRecovery));
}

#[test]
fn without_a_body_the_counter_alone_decides() {
    let spec = cluster(vec![service("primary", Role::Primary, None, &timing(2000, 1000, 2000, 3, 3))], 1);
    let mut bench = Bench::new(spec, &[("m1", Says::code(200))]);
    bench.run_until(4100);
    bench.say("m1", "", Says::code(503));
    bench.run_until(7900);
    assert_eq!(bench.lead().0.as_deref(), Some("m1"), "two failures of three");
    bench.run_until(8100);
    assert_eq!(bench.lead().0, None);
    assert_eq!(bench.closed.len(), 1);
}

#[test]
fn readers_outlive_a_promotion_and_not_a_death() {
    let mut bench = pair("m1");
    bench.run_until(20_000);
    bench.closed.clear();
    roles(&mut bench, "m2", true, 6);
    roles(&mut bench, "m1", false, 5);
    bench.run_until(40_000);
    assert!(bench.turns.iter().any(|(at, m, up)| *at > 20_000 && m == "m2" && !up), "its /replica is down");
    assert_eq!(bench.closed_of("m2"), [] as [u128; 0]);
    ["/primary", "/replica"].into_iter().for_each(|path| bench.say("m2", path, Says::refused()));
    bench.run_until(50_000);
    assert!(!bench.closed_of("m2").is_empty());
}

#[test]
fn a_grace_is_waited_for_and_a_return_within_it_keeps_the_sessions() {
    let mut spec = any(&timing(1000, 500, 1000, 1, 1));
    spec.close_on_down = CloseOnDown::Cut { grace: ms(10_000) };
    let mut bench = Bench::new(cluster(vec![spec], 1), &[("m1", Says::code(200))]);
    bench.run_until(1500);
    bench.say("m1", "", Says::code(503));
    bench.run_until(6000);
    bench.say("m1", "", Says::code(200));
    bench.run_until(20_000);
    assert_eq!(bench.closed, []);
    bench.say("m1", "", Says::code(503));
    bench.run_until(40_000);
    let down_at = bench.turns.last().unwrap().0;
    assert_eq!(bench.closed_of("m1"), [down_at + 10_000]);
}

#[test]
fn maintenance_closes_stops_checks_and_ends_with_a_success() {
    let mut bench = Bench::new(cluster(vec![any(&timing(1000, 500, 1000, 3, 3))], 1), &[("m1", Says::code(200))]);
    bench.run_until(1500);
    bench.order("m1", Order::State(AdminState::Maint));
    assert_eq!(bench.drained, [(1500, "m1".to_owned(), None, Reason::Maintenance)]);
    assert_eq!(bench.memory.orders.len(), 1);
    let before = bench.starts.len();
    bench.run_until(10_000);
    assert_eq!(bench.starts.len(), before);
    bench.say("m1", "", Says { takes: ms(200), ..Says::code(200) });
    bench.order("m1", Order::State(AdminState::Ready));
    assert_eq!(bench.starts_of("m1").last(), Some(&10_000));
    assert_eq!(bench.router.snapshot().members[0].checks[0].up, None);
    bench.run_until(10_250);
    assert_eq!(bench.router.snapshot().members[0].checks[0].up, Some(true));
    assert!(bench.memory.orders.is_empty());
}

#[test]
fn an_order_outlives_the_process() {
    let spec = || Arc::new(cluster(vec![any(&timing(1000, 500, 1000, 3, 3))], 1));
    let mut bench = Bench::new((*spec()).clone(), &[("m1", Says::code(200))]);
    bench.order("m1", Order::State(AdminState::Maint));
    let mut again = Router::new(spec(), bench.memory.clone(), bench.now);
    while let Some(effect) = again.poll_effect() {
        assert!(!matches!(effect, Effect::Check { .. }), "a member in maintenance is left alone");
    }
    assert_eq!(again.snapshot().members[0].admin, AdminState::Maint);
    assert_eq!(again.routes().services[0].standings[0].reason, Reason::Maintenance);
}

#[test]
fn a_drained_primary_takes_no_new_writers_and_keeps_its_sessions() {
    let mut bench = pair("m1");
    bench.run_until(20_000);
    bench.closed.clear();
    bench.order("m1", Order::State(AdminState::Drain));
    assert_eq!(bench.lead(), (None, Reason::Drained));
    bench.run_until(30_000);
    assert_eq!(bench.closed, []);
    bench.order("m1", Order::State(AdminState::Ready));
    assert_eq!(bench.lead().0.as_deref(), Some("m1"));
}

#[test]
fn a_reload_keeps_history_and_forgets_who_was_removed() {
    let old = timing(2000, 1000, 2000, 3, 3);
    let mut bench = Bench::new(cluster(vec![any(&old)], 2), &[("m1", Says::code(200)), ("m2", Says::code(503))]);
    bench.run_until(20_000);
    bench.turns.clear();
    let mut new = cluster(vec![service("other", Role::Any, Some("/check"), &timing(500, 500, 500, 1, 1))], 2);
    bench.handle(Event::Spec(Arc::new(new.clone())));
    let up: Vec<Option<bool>> = bench.router.snapshot().members.iter().map(|m| m.checks[0].up).collect();
    assert_eq!((up, bench.turns.len()), (vec![Some(true), Some(false)], 0));
    bench.run_until(25_000);
    assert!(bench.starts.iter().filter(|(at, ..)| *at > 20_000).count() > 15, "by the new interval");
    // The removed service's sessions are cut when their member goes down.
    bench.say("m1", "", Says::code(503));
    bench.run_until(27_000);
    let (_, _, services, reason) = bench.closed.last().unwrap();
    assert_eq!(services.as_deref().unwrap(), ["other", "any"]);
    assert_eq!(*reason, Reason::MemberDown);
    new.members.remove("m2");
    bench.handle(Event::Spec(Arc::new(new)));
    assert_eq!(bench.closed.last().unwrap().1, "m2");
    assert_eq!(bench.router.snapshot().members.len(), 1);
}
