//! A cluster that stands still, and the endpoint in front of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use pgvane::admin::{self, ClusterReport, Lifecycle, OrderError, OrdersFrom, Source};
use pgvane::decide::status::MemberSnapshot;
use pgvane::decide::vip::VipSnapshot;
use pgvane::decide::{
    CheckSnapshot, Memory, Router, Routes, ServiceRoutes, ServiceSnapshot, Standing, Suspicion, Target, TargetSnapshot,
    TargetState,
};
use pgvane::model::service::OnDcsLoss;
use pgvane::model::{
    AdminState, CheckStatus, CheckTiming, ClusterSpec, HostPort, MemberName, Order, Reason, Role, ServiceSpec,
    SpliceSnapshot, Tags, Trust,
};
use pgvane::runtime::clock;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// One member and how it stands to the services.
pub const MEMBERS: [(&str, TargetState); 8] = [
    ("open", TargetState::Open),
    ("waiting", TargetState::Waiting),
    ("standby", TargetState::Standby),
    ("excluded", TargetState::Excluded),
    ("drained", TargetState::Drain),
    ("kept out", TargetState::Maint),
    ("do\"w\\n", TargetState::Down),
    ("unknown", TargetState::Unknown),
];

/// A source that answers as it was told, and notes what was ordered.
pub struct Fake {
    pub reports: Vec<ClusterReport>,
    pub vips: Vec<VipSnapshot>,
    pub splice: Option<SpliceSnapshot>,
    pub answer: Result<(), OrderError>,
    pub ordered: Mutex<Vec<(String, MemberName, Order)>>,
}

impl Source for Fake {
    fn reports(&self) -> Vec<ClusterReport> {
        self.reports.clone()
    }

    fn vips(&self) -> Vec<VipSnapshot> {
        self.vips.clone()
    }

    fn splice(&self) -> Option<SpliceSnapshot> {
        self.splice.clone()
    }

    fn order(&self, cluster: &str, member: &MemberName, order: Order) -> Result<(), OrderError> {
        self.answer?;
        self.ordered.lock().push((cluster.to_owned(), member.clone(), order));
        Ok(())
    }
}

pub struct Bed {
    pub at: SocketAddr,
    pub source: Arc<Fake>,
}

impl Bed {
    pub async fn new(reports: Vec<ClusterReport>, orders: OrdersFrom, answer: Result<(), OrderError>) -> Bed {
        Bed::of(Fake { reports, vips: Vec::new(), splice: None, answer, ordered: Mutex::default() }, orders).await
    }

    /// Reports and addresses, and no orders.
    pub async fn with_vips(reports: Vec<ClusterReport>, vips: Vec<VipSnapshot>) -> Bed {
        let (splice, answer, ordered) = (None, Ok(()), Mutex::default());
        Bed::of(Fake { reports, vips, splice, answer, ordered }, OrdersFrom::Nobody).await
    }

    /// No clusters, and bulk data that goes like this.
    pub async fn with_splice(splice: SpliceSnapshot) -> Bed {
        let (reports, vips, answer, ordered) = (Vec::new(), Vec::new(), Ok(()), Mutex::default());
        Bed::of(Fake { reports, vips, splice: Some(splice), answer, ordered }, OrdersFrom::Nobody).await
    }

    async fn of(source: Fake, orders: OrdersFrom) -> Bed {
        let source = Arc::new(source);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let lifecycle = Arc::new(Lifecycle::default());
        lifecycle.obey(orders);
        tokio::spawn(admin::serve(listener, source.clone(), lifecycle));
        Bed { at, source }
    }

    /// One request with these header lines: the status, the head, the body.
    pub async fn ask(&self, method: &str, target: &str, headers: &[&str]) -> (u16, String, String) {
        let mut stream = TcpStream::connect(self.at).await.unwrap();
        let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
        let request = format!("{method} {target} HTTP/1.1\r\nConnection: close\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head.to_ascii_lowercase(), body.to_owned())
    }
}

pub fn report(cluster: &str, services: &[&str]) -> ClusterReport {
    let now = clock::now();
    let specs = services.iter().map(|name| Arc::new(service(name))).collect::<Vec<_>>();
    let spec = ClusterSpec {
        name: cluster.into(),
        scope: cluster.into(),
        namespace: "service".to_owned(),
        group: None,
        trust: Trust::Rest,
        on_dcs_loss: OnDcsLoss::Keep,
        check: CheckTiming::default(),
        members: Default::default(),
        services: specs.clone(),
    };
    let mut snapshot = Router::new(Arc::new(spec), Memory::default(), now).snapshot();
    let services = specs.iter().map(|spec| routes(spec, now)).collect();
    snapshot.routes = Arc::new(Routes { cluster: cluster.into(), generation: 7, services });
    snapshot.members = MEMBERS.map(|(name, _)| member(name, &specs, now)).into();
    ClusterReport {
        name: cluster.into(),
        namespace: "service".to_owned(),
        snapshot: Arc::new(snapshot),
        services: specs.iter().map(|spec| counted(spec)).collect(),
        trouble: None,
    }
}

fn service(name: &str) -> ServiceSpec {
    let listen = vec![HostPort::new("127.0.0.1", 5433).into()];
    ServiceSpec {
        listen,
        clients_max: 5000,
        maxconn: 300,
        slowstart: Duration::from_secs(3600),
        ..ServiceSpec::new(name, Role::Replica)
    }
}

fn routes(spec: &Arc<ServiceSpec>, now: Instant) -> ServiceRoutes {
    let standing = |(member, state): (&str, TargetState)| Standing {
        member: member.into(),
        state,
        reason: if state == TargetState::Standby { Reason::BackupUnused } else { Reason::InService },
        since: now - Duration::from_secs(90),
    };
    let target = Target {
        member: "open".into(),
        address: HostPort::new("10.0.0.1", 5432),
        role: Role::Replica,
        needs_confirmation: false,
        weight: 100,
        risen_at: Some(now - Duration::from_secs(1800)),
    };
    ServiceRoutes {
        spec: spec.clone(),
        targets: vec![target.into()],
        wait: None,
        hold_limit: None,
        cancel: Vec::new(),
        standings: MEMBERS.map(standing).into(),
    }
}

fn member(name: &str, services: &[Arc<ServiceSpec>], now: Instant) -> MemberSnapshot {
    let check = CheckSnapshot {
        spec: Some(Arc::new(services[0].check_of(Role::Replica))),
        up: Some(name != "unknown"),
        status: CheckStatus::L7Sts,
        code: Some(503),
        took: Duration::from_millis(12),
        points: 3,
        rise: 3,
        fall: 3,
        failures: 5,
        downs: 2,
        down_for: Duration::from_secs(61),
        since: now,
        reason: Reason::CheckStatus,
        problem: "HTTP status 503 instead of 200".to_owned(),
    };
    MemberSnapshot {
        name: name.into(),
        conn: None,
        api: None,
        has_key: false,
        up: Some(true),
        reason: Reason::CheckPassed,
        since: now,
        role: None,
        state: None,
        timeline: None,
        lag: None,
        proof: None,
        doubt: Reason::NotWritable,
        tags: Tags::new(),
        admin: if name == "drained" { AdminState::Drain } else { AdminState::Ready },
        weight: 100,
        check: None,
        checks: vec![check],
    }
}

fn counted(spec: &ServiceSpec) -> ServiceSnapshot {
    let target = TargetSnapshot {
        member: "open".into(),
        sessions: 3,
        sessions_most: 9,
        sessions_total: 40,
        bytes_to_server: 1000,
        bytes_to_client: 9_000_000_000,
        connects_failed: 2,
    };
    ServiceSnapshot {
        service: spec.name.clone(),
        clients: 5,
        clients_most: 12,
        clients_total: 50,
        sessions_total: 40,
        sessions: vec![("open".into(), 3)],
        closed: vec![(Reason::ClientError, 4), (Reason::ServerError, 1)],
        refused: vec![(Reason::StartupMalformed, 6)],
        told: vec![("57P03", 6)],
        replays_total: 8,
        cancels_total: 1,
        cancels_by_key_total: 0,
        bytes_to_server: 1000,
        bytes_to_client: 9_000_000_000,
        connects_failed: vec![(Suspicion::ConnectRefused, 2)],
        targets: vec![target],
        queued: 2,
        queued_most: 7,
        queued_total: 30,
        held: 0,
        held_longest: Duration::ZERO,
        held_total: 0,
        hold_sum: Duration::ZERO,
        hold_max: Duration::ZERO,
        connecting: Vec::new(),
    }
}
