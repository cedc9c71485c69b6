//! A few members with everything known of them written out, and the table that follows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pgvane::decide::checks::CheckTrack;
use pgvane::decide::lead::{Keep, Lead};
use pgvane::decide::table::Ingredients;
use pgvane::decide::track::{MemberTrack, Urgency};
use pgvane::decide::{Routes, ServiceRoutes, TargetState};
use pgvane::model::{
    ApiAddress, CheckOutcome, CheckSpec, CheckStatus, CheckTiming, ClusterView, HostPort, LeaderKey, Lsn, MemberFacts,
    MemberName, ProbeOutcome, Reason, RestAnswer, RestRole, Role, ServiceName, ServiceSpec, Tags, Timeline, Trust,
};
use pgvane::runtime::clock;

/// Where the leader's log ends.
pub const END: u64 = 1 << 40;

pub struct Bed {
    pub trust: Trust,
    pub now: Instant,
    pub tracks: BTreeMap<MemberName, MemberTrack>,
    pub lead: Lead,
    pub view: Option<ClusterView>,
    pub cutting: Vec<MemberName>,
    /// Where sessions of ours may be.
    pub opened: BTreeSet<(ServiceName, MemberName)>,
    pub previous: Routes,
}

pub fn member(number: usize) -> MemberName {
    MemberName::from(format!("n{number}"))
}

fn answer(role: RestRole, status: u16) -> RestAnswer {
    RestAnswer {
        status,
        role,
        state: "running".to_owned(),
        location: None,
        replayed: None,
        received: None,
        timeline: Some(Timeline(5)),
        replication_state: None,
        system_id: Some("sys1".to_owned()),
        failsafe_active: false,
        cluster_unlocked: false,
        pause: false,
        tags: Tags::new(),
    }
}

/// Out of recovery.
pub fn writable() -> RestAnswer {
    RestAnswer { location: Some(Lsn(END)), ..answer(RestRole::Primary, 200) }
}

/// In recovery and streaming.
pub fn replaying() -> RestAnswer {
    let streaming = Some("streaming".to_owned());
    RestAnswer { replayed: Some(Lsn(END)), replication_state: streaming, ..answer(RestRole::Replica, 503) }
}

/// Patroni answers and PostgreSQL does not.
pub fn stopped() -> RestAnswer {
    RestAnswer { state: "stopped".to_owned(), ..answer(RestRole::Replica, 503) }
}

pub fn tags<const N: usize>(tags: [(&str, &str); N]) -> Tags {
    tags.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}

pub fn service(role: Role) -> ServiceSpec {
    ServiceSpec::new(role.as_str(), role)
}

pub fn with_backup(role: Role, backup: &[Role]) -> ServiceSpec {
    ServiceSpec { backup: backup.to_vec(), ..service(role) }
}

pub fn outcome(status: CheckStatus, body: Option<&RestAnswer>) -> CheckOutcome {
    let code = body.map(|_| if status == CheckStatus::L7Ok { 200 } else { 503 });
    CheckOutcome { status, code, answer: body.cloned().map(Box::new), took: Duration::ZERO, problem: String::new() }
}

impl Bed {
    /// Nobody is known.
    pub fn new(trust: Trust) -> Bed {
        let now = clock::now() + Duration::from_secs(1000);
        let cluster: Arc<str> = "pg-test".into();
        let view = ClusterView { cluster_id: 1, revision: 5, optime: Some(Lsn(END)), ..ClusterView::default() };
        let reason = Reason::NoLeaderKey;
        Bed {
            trust,
            now,
            tracks: BTreeMap::new(),
            lead: Lead { open: None, until: now, reason, keep: Keep::All, cut: reason },
            view: (trust == Trust::Confirm).then_some(view),
            cutting: Vec::new(),
            opened: BTreeSet::new(),
            previous: Routes { cluster, generation: 0, services: Vec::new() },
        }
    }

    /// n1 leads, the others replay; with `trust: rest` every check of Patroni's own paths has run.
    pub fn of(trust: Trust, members: usize) -> Bed {
        let mut bed = Bed::new(trust);
        (1..=members).for_each(|n| bed.put(n, if n == 1 { writable() } else { replaying() }));
        bed.leads(1);
        bed
    }

    pub fn track(&mut self, number: usize) -> &mut MemberTrack {
        self.tracks.get_mut(&member(number)).expect("a member")
    }

    /// This member says so now, and did not say anything before.
    pub fn put(&mut self, number: usize, answer: RestAnswer) {
        let timing = CheckTiming::default();
        let mut track = MemberTrack::new(&timing, self.now);
        track.conn = Some(HostPort::new(format!("10.0.0.{number}"), 5432));
        track.api = ApiAddress::parse(&format!("http://10.0.0.{number}:8008/"));
        track.send(1, Urgency::Routine, &timing, self.now);
        track.probe_done(1, ProbeOutcome::Answer(Box::new(answer.clone())), &timing, self.now);
        if self.trust == Trust::Confirm {
            track.facts = Some(MemberFacts { conn: track.conn.clone(), tags: answer.tags, ..MemberFacts::default() });
            self.tracks.insert(member(number), track);
            return;
        }
        self.tracks.insert(member(number), track);
        for role in Role::ALL {
            let passes = passes(role, &answer);
            let status = if passes { CheckStatus::L7Ok } else { CheckStatus::L7Sts };
            self.check(number, &service(role).check_of(role), 3, outcome(status, Some(&answer)));
        }
    }

    /// A check ended this way so many times in a row.
    pub fn check(&mut self, number: usize, spec: &CheckSpec, times: usize, outcome: CheckOutcome) {
        let now = self.now;
        let checks = &mut self.track(number).checks;
        let check = checks.entry(Arc::new(spec.clone())).or_insert_with(|| CheckTrack::new(spec, now, now));
        let passed = outcome.status == CheckStatus::L7Ok;
        for _ in 0..times {
            if passed {
                check.health.pass()
            } else {
                check.health.fail()
            };
        }
        check.reason = if passed { Reason::CheckPassed } else { Reason::CheckStatus };
        check.last = Some(outcome);
    }

    /// Nothing but a status is known of any member: its REST API is not Patroni's.
    pub fn without_bodies(mut self) -> Bed {
        for track in self.tracks.values_mut() {
            track.answer = None;
            track.checks.values_mut().filter_map(|check| check.last.as_mut()).for_each(|last| last.answer = None);
        }
        self
    }

    /// The leader key names it, and it may be written to.
    pub fn leads(&mut self, number: usize) {
        let name = member(number);
        self.lead.open = Some(name.clone());
        self.lead.keep = Keep::Only(name);
        self.lead.reason = Reason::LeaderProven;
        self.key_names(number);
    }

    pub fn key_names(&mut self, number: usize) {
        if let Some(view) = &mut self.view {
            view.leader = Some(LeaderKey { name: member(number), create_revision: 3, lease: 7 });
        }
    }

    /// Nobody may be written to.
    pub fn hold(&mut self, reason: Reason) {
        self.lead = Lead { open: None, until: self.now, reason, keep: Keep::All, cut: reason };
    }

    pub fn table(&self, specs: &[ServiceSpec]) -> Routes {
        let services: Vec<Arc<ServiceSpec>> = specs.iter().cloned().map(Arc::new).collect();
        Ingredients {
            trust: self.trust,
            now: self.now,
            cluster: &self.previous.cluster,
            services: &services,
            view: self.view.as_ref(),
            tracks: &self.tracks,
            lead: &self.lead,
            cutting: &self.cutting,
            opened: &self.opened,
            ttl: Duration::from_secs(30),
            previous: &self.previous,
        }
        .table()
    }

    pub fn routes(&self, spec: &ServiceSpec) -> ServiceRoutes {
        self.table(std::slice::from_ref(spec)).services.remove(0)
    }

    /// Numbers of the members that take new sessions.
    pub fn targets(&self, spec: &ServiceSpec) -> Vec<usize> {
        self.routes(spec).targets.iter().map(|t| number(&t.member)).collect()
    }

    /// ... and whose sessions need a leader that was confirmed just now.
    pub fn confirmed(&self, spec: &ServiceSpec) -> Vec<usize> {
        let routes = self.routes(spec);
        routes.targets.iter().filter(|t| t.needs_confirmation).map(|t| number(&t.member)).collect()
    }

    pub fn standing(&self, spec: &ServiceSpec, number: usize) -> (TargetState, Reason) {
        let routes = self.routes(spec);
        let standing = routes.standings.iter().find(|s| s.member == member(number)).expect("a standing");
        (standing.state, standing.reason)
    }

    pub fn wait(&self, spec: &ServiceSpec) -> Option<Reason> {
        self.routes(spec).wait.map(|(reason, _)| reason)
    }
}

fn number(member: &MemberName) -> usize {
    member.as_str()[1..].parse().expect("a number")
}

/// Patroni's answer to the path of this role, as far as one body tells (patroni/api.py, `do_GET`).
pub fn passes(role: Role, answer: &RestAnswer) -> bool {
    let leads = answer.role == RestRole::Primary;
    let replica = answer.role == RestRole::Replica
        && answer.state == "running"
        && answer.tags.get("noloadbalance").is_none_or(|v| v != "true");
    match role {
        Role::Primary => leads,
        Role::Replica | Role::Offline | Role::Async => replica,
        Role::Sync => false,
        Role::ReadOnly => leads || replica || answer.role == RestRole::StandbyLeader,
        Role::Any => answer.state == "running",
        Role::StandbyLeader => answer.role == RestRole::StandbyLeader,
    }
}
