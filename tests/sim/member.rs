//! One PostgreSQL with its Patroni, as seen from outside.

use std::time::Duration;

use pgvane::model::member::tag_is_true;
use pgvane::model::{
    ApiAddress, CheckOutcome, CheckSpec, CheckStatus, HostPort, Lsn, MemberFacts, MemberName, PortOutcome,
    ProbeOutcome, RestAnswer, RestRole, Tags, Timeline,
};

use super::{MS, Micros};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pg {
    /// Nothing listens.
    Stopped,
    /// Listens and says 57P03.
    Starting,
    Recovery,
    Primary,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    Answers,
    Refuses,
    Hangs,
    /// Answers after this long.
    Slow(Micros),
    Garbled,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Agent {
    Running,
    Frozen,
    Killed,
}

#[derive(Debug, Clone)]
pub struct Member {
    pub name: MemberName,
    pub index: usize,
    pub pg: Pg,
    /// Grows with every change of `pg`.
    pub epoch: u64,
    pub pg_since: Micros,
    /// When PostgreSQL last became unable to serve.
    pub pg_lost_at: Micros,
    /// ... while it was primary.
    pub primary_lost_at: Micros,
    pub agent: Agent,
    pub rest: Rest,
    /// Since when REST, agent and host are as they should be.
    pub rest_since: Micros,
    pub host_up: bool,
    /// Accepts connections and never says a word.
    pub pg_hung: bool,
    pub host_since: Micros,
    /// Its own belief that it holds the key: REST says 200.
    pub leads: bool,
    pub leads_until: Micros,
    pub blip_until: Micros,
    pub failsafe_active: bool,
    pub timeline: u32,
    pub system_id: String,
    pub lag: u64,
    pub streaming: bool,
    pub tags: Tags,
    // -- its Patroni --
    pub lease: i64,
    pub cut_from_etcd: bool,
    pub loop_epoch: u64,
    pub dcs_ok_at: Micros,
    pub switching: bool,
}

/// The leader's position; members replay `lag` bytes behind it.
pub const POSITION: u64 = 1 << 40;

impl Member {
    pub fn new(index: usize) -> Member {
        Member {
            name: MemberName::from(format!("n{}", index + 1)),
            index,
            pg: Pg::Recovery,
            epoch: 0,
            pg_since: 0,
            pg_lost_at: 0,
            primary_lost_at: 0,
            agent: Agent::Running,
            rest: Rest::Answers,
            rest_since: 0,
            host_up: true,
            pg_hung: false,
            host_since: 0,
            leads: false,
            leads_until: Micros::MAX,
            blip_until: 0,
            failsafe_active: false,
            timeline: 5,
            system_id: "sys1".to_owned(),
            lag: 0,
            streaming: true,
            tags: Tags::new(),
            lease: 1000 + index as i64,
            cut_from_etcd: false,
            loop_epoch: 0,
            dcs_ok_at: 0,
            switching: false,
        }
    }

    pub fn host(index: usize) -> String {
        format!("10.0.0.{}", index + 1)
    }

    pub fn serves(&self) -> bool {
        self.host_up && !self.pg_hung && matches!(self.pg, Pg::Recovery | Pg::Primary)
    }

    pub fn says_200(&self, now: Micros) -> bool {
        self.leads && now < self.leads_until && now >= self.blip_until
    }

    /// What the member key says.
    pub fn facts(&self) -> MemberFacts {
        let position = Lsn(POSITION - self.lag);
        MemberFacts {
            conn: Some(HostPort::new(Member::host(self.index), 5432)),
            api: ApiAddress::parse(&format!("http://{}:8008/patroni", Member::host(self.index))),
            state: Some("running".to_owned()),
            role: Some(if self.leads { "primary" } else { "replica" }.to_owned()),
            timeline: Some(Timeline(self.timeline)),
            xlog_location: Some(position),
            replay_lsn: (self.pg == Pg::Recovery).then_some(position),
            receive_lsn: None,
            replication_state: (self.pg == Pg::Recovery && self.streaming).then(|| "streaming".to_owned()),
            tags: self.tags.clone(),
        }
    }

    /// How a probe ends, and after how long.
    pub fn rest_outcome(&self, now: Micros, limit: Duration, latency: Micros) -> (Micros, ProbeOutcome) {
        let limit = limit.as_micros() as Micros;
        let silent = (limit, ProbeOutcome::TimedOut);
        match (self.host_up, self.agent, self.rest) {
            (false, _, _) | (_, Agent::Frozen, _) | (_, Agent::Running, Rest::Hangs) => silent,
            (_, Agent::Killed, _) | (_, _, Rest::Refuses) => (latency, ProbeOutcome::Refused),
            (_, _, Rest::Garbled) => (latency, ProbeOutcome::Garbled("not JSON".to_owned())),
            (_, _, Rest::Slow(delay)) if delay >= limit => silent,
            (_, _, Rest::Slow(delay)) => (delay, ProbeOutcome::Answer(Box::new(self.answer(now)))),
            (_, _, Rest::Answers) => (latency, ProbeOutcome::Answer(Box::new(self.answer(now)))),
        }
    }

    /// How an HTTP check ends, and after how long: Patroni's status for the path.
    pub fn check_outcome(&self, now: Micros, check: &CheckSpec, connect_limit: Duration) -> (Micros, CheckOutcome) {
        if !self.host_up {
            return black_hole(connect_limit);
        }
        let (took, outcome) = self.rest_outcome(now, check.timing.timeout, MS);
        let (status, code, answer) = match outcome {
            ProbeOutcome::Answer(answer) => {
                let replays = answer.is_in_recovery() && !tag_is_true(&self.tags, "noloadbalance");
                let yes = match &*check.path {
                    "/primary" => answer.status == 200,
                    "/read-only" => answer.status == 200 || replays,
                    "/health" => answer.is_writable() || answer.is_in_recovery(),
                    _ => replays,
                };
                let code = if yes { 200 } else { 503 };
                let status = if yes { CheckStatus::L7Ok } else { CheckStatus::L7Sts };
                (status, Some(code), Some(Box::new(RestAnswer { status: code, ..*answer })))
            }
            ProbeOutcome::TimedOut => (CheckStatus::L7Tout, None, None),
            ProbeOutcome::Refused => (CheckStatus::L4Con, None, None),
            _ => (CheckStatus::L7Rsp, None, None),
        };
        let took_for = Duration::from_micros(took);
        (took, CheckOutcome { status, code, answer, took: took_for, problem: String::new() })
    }

    /// Patroni's JSON: live SQL where PostgreSQL answers, the remembered role where it does not.
    fn answer(&self, now: Micros) -> RestAnswer {
        let lives = matches!(self.pg, Pg::Recovery | Pg::Primary) && !self.pg_hung;
        let primary = if lives { self.pg == Pg::Primary } else { self.leads };
        let replays = lives && self.pg == Pg::Recovery;
        RestAnswer {
            status: if self.says_200(now) { 200 } else { 503 },
            role: if primary { RestRole::Primary } else { RestRole::Replica },
            state: if lives { "running" } else { "unknown" }.to_owned(),
            location: (lives && self.pg == Pg::Primary).then_some(Lsn(POSITION)),
            replayed: replays.then_some(Lsn(POSITION - self.lag)),
            received: replays.then_some(Lsn(POSITION - self.lag)),
            timeline: lives.then_some(Timeline(self.timeline)),
            replication_state: (replays && self.streaming).then(|| "streaming".to_owned()),
            system_id: lives.then(|| self.system_id.clone()),
            failsafe_active: self.failsafe_active,
            cluster_unlocked: false,
            pause: false,
            tags: self.tags.clone(),
        }
    }

    pub fn port_outcome(&self, limit: Duration) -> (Micros, PortOutcome) {
        match self.pg {
            _ if !self.host_up || self.pg_hung => (limit.as_micros() as Micros, PortOutcome::TimedOut),
            Pg::Stopped => (MS / 2, PortOutcome::Refused),
            _ => (MS / 2, PortOutcome::Answered),
        }
    }
}

/// A connect that nobody answers.
pub fn black_hole(connect_limit: Duration) -> (Micros, CheckOutcome) {
    let (code, answer, problem) = (None, None, String::new());
    let outcome = CheckOutcome { status: CheckStatus::L4Tout, code, answer, took: connect_limit, problem };
    (connect_limit.as_micros() as Micros, outcome)
}
