//! Random worlds: anything may be known of anybody, however unlikely.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pgvane::decide::checks::CheckTrack;
use pgvane::decide::lead::{Facts, Keep, Lead};
use pgvane::decide::table::Ingredients;
use pgvane::decide::track::{MemberTrack, Urgency};
use pgvane::decide::view::ViewKeeper;
use pgvane::decide::{Orders, Routes, ViewSource};
use pgvane::model::{
    AdminState, ApiAddress, CheckOutcome, CheckStatus, CheckTiming, ClusterSettings, ClusterView, HostPort, LeaderKey,
    Lsn, MemberFacts, MemberName, OnDcsLoss, ProbeOutcome, Reason, RestAnswer, RestRole, Role, ServiceSpec, Tags,
    Timeline, Trust,
};
use proptest::prelude::*;

/// The leader's position.
pub const END: u64 = 1000;
/// The path of a service's own check.
pub const OWN_PATH: &str = "/own";

/// What REST said last.
#[derive(Debug, Clone, Copy)]
pub struct Said {
    pub status: u16,
    pub role: RestRole,
    /// By live SQL: out of recovery or in it. None: PostgreSQL does not answer.
    pub out_of_recovery: Option<bool>,
}

/// How an HTTP check stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Checked {
    Never,
    Up,
    /// 503, with a body where there are any.
    Refused,
    Dead,
}

#[derive(Debug, Clone)]
pub struct Given {
    /// None: it was never asked.
    pub said: Option<Said>,
    pub asked_ms_ago: u64,
    pub timeline: Option<u32>,
    pub system: Option<bool>,
    pub failsafe: bool,
    pub noloadbalance: bool,
    pub offline: bool,
    pub in_zone: bool,
    pub streaming: bool,
    pub lag: u64,
    pub has_address: bool,
    pub sync: bool,
    /// By the configuration.
    pub said_offline: Option<bool>,
    pub orders: Orders,
    pub weight: Option<u32>,
    /// One for each of `Role::ALL` (of two with one path, the first counts), and one of a service's own.
    pub checks: [Checked; 9],
}

#[derive(Debug, Clone)]
pub struct World {
    pub members: Vec<Given>,
    pub leader: Option<usize>,
    pub last_leader: Option<usize>,
    pub read_ms_ago: u64,
    pub lease_left: u64,
    pub mark: u32,
    pub pause: bool,
    pub replaced: bool,
    pub planned: bool,
    pub close: bool,
    /// Whose sessions are about to be closed; never the open leader's.
    pub cutting: Option<usize>,
}

fn said() -> impl Strategy<Value = Said> {
    const ROLES: [RestRole; 4] = [RestRole::Primary, RestRole::Replica, RestRole::StandbyLeader, RestRole::Other];
    let any = (proptest::sample::select(&ROLES[..]), proptest::option::of(any::<bool>()));
    let kind = prop_oneof![
        4 => Just((RestRole::Primary, Some(true))),
        4 => Just((RestRole::Replica, Some(false))),
        1 => Just((RestRole::StandbyLeader, Some(false))),
        3 => any,
    ];
    (prop_oneof![Just(200u16), Just(503)], kind).prop_map(|(status, (role, out_of_recovery))| Said {
        status,
        role,
        out_of_recovery,
    })
}

fn orders() -> impl Strategy<Value = (Orders, Option<u32>)> {
    let state = prop_oneof![8 => Just(AdminState::Ready), 1 => Just(AdminState::Drain), 1 => Just(AdminState::Maint)];
    let weight = || proptest::option::weighted(0.3, proptest::sample::select(&[0u32, 50, 256][..]));
    (state, weight(), weight()).prop_map(|(state, weight, configured)| (Orders { state, weight }, configured))
}

fn checks() -> impl Strategy<Value = [Checked; 9]> {
    proptest::array::uniform9(prop_oneof![
        1 => Just(Checked::Never), 4 => Just(Checked::Up), 2 => Just(Checked::Refused), 1 => Just(Checked::Dead)
    ])
}

fn given() -> impl Strategy<Value = Given> {
    let rare = || proptest::bool::weighted(0.3);
    let proof =
        (proptest::option::weighted(0.9, 4u32..7), proptest::option::weighted(0.9, proptest::bool::weighted(0.9)));
    let reader = (rare(), rare(), any::<bool>(), any::<bool>(), proptest::sample::select(&[0u64, 50, 51][..]));
    let flags = (any::<bool>(), proptest::bool::weighted(0.9), rare(), proptest::option::weighted(0.2, any::<bool>()));
    let asked = prop_oneof![0u64..1500, 0u64..5000];
    (proptest::option::weighted(0.9, said()), asked, proof, reader, flags, orders(), checks()).prop_map(
        |(said, asked_ms_ago, proof, reader, flags, (orders, weight), checks)| Given {
            said,
            asked_ms_ago,
            timeline: proof.0,
            system: proof.1,
            failsafe: flags.0,
            noloadbalance: reader.0,
            offline: reader.1,
            in_zone: reader.2,
            streaming: reader.3,
            lag: reader.4,
            has_address: flags.1,
            sync: flags.2,
            said_offline: flags.3,
            orders,
            weight,
            checks,
        },
    )
}

pub fn world() -> impl Strategy<Value = World> {
    let members = proptest::collection::vec(given(), 1..5);
    let some = || proptest::option::weighted(0.7, 0usize..5);
    let rare = || proptest::bool::weighted(0.2);
    let times = (prop_oneof![0u64..1900, 0u64..40_000], 0u64..30_000, 4u32..7);
    let cutting = proptest::option::weighted(0.2, 0usize..5);
    (members, some(), some(), times, (any::<bool>(), rare(), rare(), any::<bool>()), cutting).prop_map(
        |(members, leader, last_leader, (read_ms_ago, lease_left, mark), flags, cutting)| {
            let within = |index: Option<usize>| index.filter(|i| *i < members.len());
            let leader = within(leader);
            let last_leader = leader.or(within(last_leader));
            let cutting = within(cutting);
            let (pause, replaced, planned, close) = flags;
            World {
                leader,
                last_leader,
                read_ms_ago,
                lease_left,
                mark,
                pause,
                replaced,
                planned,
                close,
                cutting,
                members,
            }
        },
    )
}

pub fn name(index: usize) -> MemberName {
    MemberName::from(format!("n{index}"))
}

impl Given {
    fn tags(&self) -> Tags {
        let tag = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let mut tags = Tags::from([tag("noloadbalance", &self.noloadbalance.to_string())]);
        tags.extend(self.offline.then(|| tag("offline", "true")));
        tags.extend(self.in_zone.then(|| tag("zone", "a")));
        tags
    }

    fn facts(&self, index: usize) -> MemberFacts {
        MemberFacts {
            conn: self.has_address.then(|| HostPort::new(format!("10.0.0.{index}"), 5432)),
            api: ApiAddress::parse(&format!("http://10.0.0.{index}:8008/")),
            tags: self.tags(),
            ..MemberFacts::default()
        }
    }

    fn answer(&self, trust: Trust, said: Said) -> RestAnswer {
        RestAnswer {
            status: said.status,
            role: said.role,
            state: "running".to_owned(),
            location: (said.out_of_recovery == Some(true)).then_some(Lsn(END)),
            replayed: (said.out_of_recovery == Some(false)).then_some(Lsn(END - self.lag)),
            received: None,
            timeline: self.timeline.map(Timeline),
            replication_state: self.streaming.then(|| "streaming".to_owned()),
            system_id: self.system.map(|own| if own { "sys1" } else { "sys9" }.to_owned()),
            failsafe_active: self.failsafe,
            cluster_unlocked: false,
            pause: false,
            // With a DCS the member key tells them.
            tags: if trust == Trust::Rest { self.tags() } else { Tags::new() },
        }
    }

    fn track(&self, index: usize, trust: Trust, now: Instant) -> MemberTrack {
        let timing = CheckTiming::default();
        let mut track = MemberTrack::new(&timing, now - Duration::from_secs(100));
        let written = self.facts(index);
        (track.conn, track.api) = (written.conn.clone(), written.api.clone());
        track.facts = (trust == Trust::Confirm).then_some(written);
        (track.offline, track.orders, track.weight) = (self.said_offline, self.orders, self.weight);
        let sent = now - Duration::from_millis(self.asked_ms_ago);
        if let Some(said) = self.said {
            track.send(1, Urgency::Routine, &timing, sent);
            let answer = self.answer(trust, said);
            track.probe_done(1, ProbeOutcome::Answer(Box::new(answer)), &timing, sent);
        }
        let own = own_check(Role::Replica).check_of(Role::Replica);
        let specs = Role::ALL.map(|role| ServiceSpec::new("any", role).check_of(role)).into_iter().chain([own]);
        for (spec, checked) in specs.zip(self.checks) {
            // Two roles share a path, and so a check: the first one's.
            if track.checks.contains_key(&spec) {
                continue;
            }
            let mut check = CheckTrack::new(&spec, now, now);
            let status = match checked {
                Checked::Never => CheckStatus::Initializing,
                Checked::Up => CheckStatus::L7Ok,
                Checked::Refused => CheckStatus::L7Sts,
                Checked::Dead => CheckStatus::L4Con,
            };
            let passed = checked == Checked::Up;
            if passed {
                check.health.pass()
            } else {
                check.health.fail()
            };
            check.reason = if passed { Reason::CheckPassed } else { Reason::CheckStatus };
            let body = self.said.filter(|_| checked != Checked::Dead);
            let answer = body.map(|said| Box::new(self.answer(trust, said)));
            let (took, problem) = (Duration::ZERO, String::new());
            let last = CheckOutcome { status, code: None, answer, took, problem };
            check.last = Some(last).filter(|_| checked != Checked::Never);
            track.checks.insert(Arc::new(spec), check);
        }
        track
    }
}

/// A service with a check of its own.
pub fn own_check(role: Role) -> ServiceSpec {
    let mut spec = ServiceSpec::new("own_check", role);
    spec.check.path = Some(OWN_PATH.into());
    spec
}

/// The decision and the table that follow from a world with a DCS.
pub fn confirmed(world: &World, now: Instant, services: &[Arc<ServiceSpec>]) -> (Lead, Routes) {
    let tracks: BTreeMap<_, _> =
        world.members.iter().enumerate().map(|(i, given)| (name(i), given.track(i, Trust::Confirm, now))).collect();
    let view = Arc::new(view(world));
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
    let table = table(world, now, services, (Trust::Confirm, Some(&view)), &tracks, &lead);
    (lead, table)
}

/// ... and without one: whoever is open is given, as the checks are.
pub fn checked(world: &World, now: Instant, services: &[Arc<ServiceSpec>]) -> (Lead, Routes) {
    let tracks: BTreeMap<_, _> =
        world.members.iter().enumerate().map(|(i, given)| (name(i), given.track(i, Trust::Rest, now))).collect();
    let (reason, cut) = (Reason::ServedByRest, Reason::OtherClaims);
    let lead = Lead { open: world.leader.map(name), until: now, reason, keep: Keep::All, cut };
    let table = table(world, now, services, (Trust::Rest, None), &tracks, &lead);
    (lead, table)
}

fn view(world: &World) -> ClusterView {
    let named = world.members.iter().enumerate();
    ClusterView {
        cluster_id: 1,
        revision: 5,
        leader: world.leader.map(|i| LeaderKey { name: name(i), create_revision: 3, lease: 7 }),
        optime: Some(Lsn(END)),
        members: named.clone().map(|(i, given)| (name(i), given.facts(i))).collect(),
        sync_standbys: named.filter(|(_, given)| given.sync).map(|(i, _)| name(i)).collect(),
        settings: ClusterSettings { pause: world.pause, ..ClusterSettings::default() },
        system_id: Some("sys1".to_owned()),
        ..ClusterView::default()
    }
}

fn table(
    world: &World,
    now: Instant,
    services: &[Arc<ServiceSpec>],
    (trust, view): (Trust, Option<&ClusterView>),
    tracks: &BTreeMap<MemberName, MemberTrack>,
    lead: &Lead,
) -> Routes {
    let cluster: Arc<str> = "pg-test".into();
    let previous = Routes { cluster: cluster.clone(), generation: 0, services: Vec::new() };
    let cutting: Vec<MemberName> =
        world.cutting.map(name).into_iter().filter(|n| lead.open.as_ref() != Some(n)).collect();
    Ingredients {
        trust,
        now,
        cluster: &cluster,
        services,
        view,
        tracks,
        lead,
        cutting: &cutting,
        opened: &BTreeSet::new(),
        ttl: Duration::from_secs(30),
        previous: &previous,
    }
    .table()
}
