//! One Patroni cluster as its machine sees it: virtual time, members that answer every question.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pgvane::decide::{Effect, Event, Memory, Router, ViewSource};
use pgvane::model::{
    ApiAddress, CheckTiming, ClusterSpec, ClusterView, HostPort, LeaderKey, Lsn, MemberFacts, MemberName, OnDcsLoss,
    ProbeOutcome, RestAnswer, RestRole, Tags, Timeline, Trust,
};

use super::world::{four_services, member};

const SYSTEM: &str = "7400000000000000001";
const LEASE: Duration = Duration::from_secs(30);

/// The machine, and what the shell would know.
pub struct Cluster {
    pub router: Router,
    pub now: Instant,
    members: usize,
    leader: usize,
    /// Grows with every leader.
    term: u32,
    revision: i64,
    /// Asked, and not answered yet.
    pub asked: Vec<(MemberName, u64)>,
    /// Effects for the data plane.
    pub told: Vec<Effect>,
}

pub fn spec(name: &str) -> Arc<ClusterSpec> {
    Arc::new(ClusterSpec {
        name: name.into(),
        scope: name.into(),
        namespace: "service".to_owned(),
        group: None,
        trust: Trust::Confirm,
        on_dcs_loss: OnDcsLoss::Keep,
        check: CheckTiming::default(),
        members: [].into(),
        services: four_services(),
    })
}

impl Cluster {
    /// Everybody is known and up, and the first leads.
    pub fn new(name: &str, members: usize, now: Instant) -> Cluster {
        let router = Router::new(spec(name), Memory::default(), now);
        let (asked, told) = (Vec::new(), Vec::new());
        let mut cluster = Cluster { router, now, members, leader: 0, term: 1, revision: 1, asked, told };
        for _ in 0..12 {
            cluster.pass(Duration::from_millis(500));
            cluster.read();
            cluster.answer_all();
        }
        assert!(cluster.router.routes().services.iter().all(|routes| !routes.targets.is_empty()));
        cluster.told.clear();
        cluster
    }

    pub fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    pub fn handle(&mut self, event: Event) {
        self.router.handle(event, self.now);
        self.take_effects();
    }

    pub fn tick(&mut self) {
        self.router.handle_timeout(self.now);
        self.take_effects();
    }

    fn take_effects(&mut self) {
        while let Some(effect) = self.router.poll_effect() {
            match effect {
                Effect::Probe { member, number, .. } => self.asked.push((member, number)),
                effect @ (Effect::PublishRoutes(_) | Effect::Confirm { .. } | Effect::CloseSessions { .. }) => {
                    self.told.push(effect);
                }
                _ => {}
            }
        }
    }

    /// The read of the second: the same leader, at the next revision.
    pub fn read_event(&mut self) -> Event {
        self.revision += 1;
        let source = ViewSource::Read { sent_at: self.now, lease_left: Some(LEASE) };
        Event::View { view: Arc::new(self.view()), source }
    }

    pub fn read(&mut self) {
        let event = self.read_event();
        self.handle(event);
    }

    /// The next member takes the leader key, and is promoted at once.
    pub fn move_event(&mut self) -> Event {
        self.leader = (self.leader + 1) % self.members;
        (self.term, self.revision) = (self.term + 1, self.revision + 1);
        Event::View { view: Arc::new(self.view()), source: ViewSource::Watch }
    }

    /// What a member says when it is asked.
    pub fn answer_event(&self, (member, number): (MemberName, u64)) -> Event {
        let outcome = ProbeOutcome::Answer(Box::new(self.answer(&member)));
        Event::ProbeDone { member, number, outcome }
    }

    pub fn answer_all(&mut self) {
        while let Some(asked) = self.asked.pop() {
            let event = self.answer_event(asked);
            self.handle(event);
        }
    }

    pub fn leads(&self, name: &MemberName) -> bool {
        *name == member(self.leader)
    }

    fn view(&self) -> ClusterView {
        let name = member(self.leader);
        let leader = LeaderKey { name, create_revision: i64::from(self.term), lease: i64::from(self.term) };
        ClusterView {
            cluster_id: 1,
            revision: self.revision,
            leader: Some(leader),
            members: (0..self.members).map(|number| (member(number), self.facts(number))).collect(),
            optime: Some(Lsn(self.revision as u64)),
            system_id: Some(SYSTEM.to_owned()),
            ..ClusterView::default()
        }
    }

    fn facts(&self, number: usize) -> MemberFacts {
        let leads = number == self.leader;
        MemberFacts {
            conn: Some(HostPort::new(host(number), 5432)),
            api: Some(ApiAddress { tls: false, at: HostPort::new(host(number), 8008) }),
            state: Some("running".to_owned()),
            role: Some(if leads { "primary" } else { "replica" }.to_owned()),
            timeline: Some(Timeline(self.term)),
            xlog_location: Some(Lsn(1 << 40)),
            replication_state: (!leads).then(|| "streaming".to_owned()),
            ..MemberFacts::default()
        }
    }

    fn answer(&self, name: &MemberName) -> RestAnswer {
        let leads = self.leads(name);
        RestAnswer {
            status: if leads { 200 } else { 503 },
            role: if leads { RestRole::Primary } else { RestRole::Replica },
            state: "running".to_owned(),
            location: leads.then_some(Lsn(1 << 40)),
            replayed: (!leads).then_some(Lsn(1 << 40)),
            received: None,
            timeline: Some(Timeline(self.term)),
            replication_state: (!leads).then(|| "streaming".to_owned()),
            system_id: Some(SYSTEM.to_owned()),
            failsafe_active: false,
            cluster_unlocked: false,
            pause: false,
            tags: Tags::new(),
        }
    }
}

fn host(number: usize) -> String {
    format!("10.10.{}.{}", number / 250, number % 250 + 1)
}
