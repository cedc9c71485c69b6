//! Services, targets and registries as large as wanted.

use std::sync::Arc;
use std::time::Duration;

use pgvane::decide::balance::client_hash;
use pgvane::decide::{Routes, ServiceRoutes, Target};
use pgvane::model::{Balance, HostPort, MemberName, Role, ServiceSpec};
use pgvane::proxy::hold::{Admission, Grant, TargetSlot, Ticket, Verdict};
use pgvane::proxy::sessions::{Registry, Service, SessionGuard};
use pgvane::runtime::clock;

/// As in most Patroni installations.
pub const FEW: usize = 3;
pub const MANY: usize = 30;
/// Open sessions.
pub const CROWDS: [usize; 4] = [0, 1_000, 10_000, 100_000];

pub fn member(number: usize) -> MemberName {
    MemberName::from(format!("pg-main-{number}"))
}

pub fn readers(balance: Balance) -> ServiceSpec {
    ServiceSpec { balance, ..ServiceSpec::new("replica", Role::Replica) }
}

/// The service that HAProxy's pages call primary, replica, and two more as Pigsty has them.
pub fn four_services() -> Vec<Arc<ServiceSpec>> {
    let service =
        |name, role, backup: &[Role]| Arc::new(ServiceSpec { backup: backup.to_vec(), ..ServiceSpec::new(name, role) });
    vec![
        service("primary", Role::Primary, &[]),
        service("replica", Role::Replica, &[Role::Primary]),
        service("default", Role::Primary, &[]),
        service("offline", Role::Offline, &[Role::Replica]),
    ]
}

pub fn routes_of(spec: &Arc<ServiceSpec>, members: usize) -> ServiceRoutes {
    let target = |number| {
        let address = HostPort::new(format!("10.10.{}.{}", number / 250, number % 250 + 1), 5432);
        let (role, needs_confirmation) = (Role::Replica, false);
        Target { member: member(number), address, role, needs_confirmation, weight: 100, risen_at: None }
    };
    ServiceRoutes {
        spec: spec.clone(),
        targets: (0..members).map(|number| target(number).into()).collect(),
        wait: None,
        hold_limit: Some(Duration::from_secs(45)),
        cancel: Vec::new(),
        standings: Vec::new(),
    }
}

/// A registry whose services all go to the same members.
pub struct Ground {
    pub registry: Arc<Registry>,
    pub service: Arc<Service>,
    specs: Vec<Arc<ServiceSpec>>,
    members: usize,
    generation: u64,
}

/// What the registry's side of one session is.
pub struct Session {
    pub guard: SessionGuard,
    _slot: TargetSlot,
}

impl Ground {
    pub fn new(specs: Vec<Arc<ServiceSpec>>, members: usize) -> Ground {
        let registry = Registry::new("pg-main".into(), &specs, 100_000);
        let service = registry.service(&specs[0].name).expect("the service it was made with");
        let mut ground = Ground { registry, service, specs, members, generation: 0 };
        ground.publish();
        ground
    }

    /// One service of readers.
    pub fn of_readers(members: usize) -> Ground {
        Ground::new(vec![Arc::new(readers(Balance::LeastConn))], members)
    }

    /// With so many sessions, each with a key for cancels.
    pub fn crowded(members: usize, sessions: usize) -> (Ground, Vec<Session>) {
        let ground = Ground::of_readers(members);
        let sessions = (0..sessions as u64).map(|number| ground.session(number)).collect();
        (ground, sessions)
    }

    /// The next table: the same targets.
    pub fn next_table(&mut self) -> Arc<Routes> {
        self.generation += 1;
        let services = self.specs.iter().map(|spec| routes_of(spec, self.members)).collect();
        Arc::new(Routes { cluster: "pg-main".into(), generation: self.generation, services })
    }

    pub fn publish(&mut self) {
        let table = self.next_table();
        self.registry.publish(table);
    }

    pub fn grant(&self, number: u64) -> Grant {
        grant(&self.registry, &self.service, number)
    }

    pub fn session(&self, number: u64) -> Session {
        session(&self.registry, &self.service, number)
    }
}

fn grant(registry: &Arc<Registry>, service: &Arc<Service>, number: u64) -> Grant {
    let mut ticket = Ticket::new(clock::now(), client_hash(&number.to_be_bytes()));
    match registry.admit(service, &mut ticket) {
        Admission::Now(Verdict::Go(grant)) => grant,
        other => panic!("there are targets for everybody: {other:?}"),
    }
}

/// All that a client asks of the registry until it is served.
pub fn session(registry: &Arc<Registry>, service: &Arc<Service>, number: u64) -> Session {
    let Grant { target, generation, permit, slot } = grant(registry, service, number);
    let mut guard = registry.open(service, &target, generation).expect("the table is still the same");
    drop(permit);
    guard.answered();
    guard.owns_key(key(number));
    Session { guard, _slot: slot }
}

/// Process id and secret of one session, as PostgreSQL 14 to 17 give them out.
pub fn key(number: u64) -> Box<[u8]> {
    Box::from(number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes())
}
