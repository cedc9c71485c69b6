//! What a client is told that cannot be served, or not at once.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::model::{Reason, Role, ServiceSpec};
use crate::proxy::hold::Crowd;
use crate::proxy::peer::Peer;
use crate::proxy::protocol::words;
use crate::runtime::clock;

/// Why a client has no server.
pub(super) enum Unserved {
    Gone(Reason),
    Refused(Refusal),
}

impl Unserved {
    pub fn local(since: Instant) -> Unserved {
        let (why, reason) = (Reason::NoDescriptors, Reason::NoDescriptors);
        Unserved::Refused(Refusal { why, crowd: None, reason, since, address: None })
    }
}

/// Why the client is sent away, and what it would have waited for.
pub(super) struct Refusal {
    pub why: Reason,
    /// Where it would have waited for a slot.
    pub crowd: Option<Crowd>,
    pub reason: Reason,
    pub since: Instant,
    /// Of a client that is sent away for it.
    pub address: Option<IpAddr>,
}

impl Refusal {
    /// It has had its share of the second.
    pub fn of_address(peer: Peer, since: Instant) -> Refusal {
        let (why, address) = (Reason::RateLimited, peer.ip());
        Refusal { why, crowd: None, reason: why, since, address }
    }

    pub fn sqlstate(&self) -> &'static str {
        match self.why {
            Reason::NoDescriptors | Reason::RateLimited => words::TOO_MANY_CONNECTIONS,
            _ if self.crowd.is_some() => words::TOO_MANY_CONNECTIONS,
            _ => words::CANNOT_CONNECT_NOW,
        }
    }

    pub fn words(&self, spec: &ServiceSpec, arrived: Instant) -> Vec<u8> {
        let now = clock::now();
        let seconds = |since: Instant| now.saturating_duration_since(since).as_secs_f64();
        if self.why == Reason::NoDescriptors {
            return words::fatal(self.sqlstate(), "too many connections", self.why.sentence(), "");
        }
        if let Some(address) = self.address {
            return too_often(spec, address);
        }
        if let Some(crowd) = self.crowd {
            return self.crowded(spec, crowd, seconds(arrived));
        }
        let message = match self.why {
            Reason::Shutdown => "the router is shutting down".to_owned(),
            Reason::ServiceRemoved => format!("the service {} was removed", spec.name),
            _ => format!("no {} is available", spec.role),
        };
        let mut detail = format!("Service {}: {}", spec.name, self.reason.sentence());
        detail += &format!(", for {:.1} s.", seconds(self.since));
        detail += &match self.why {
            Reason::HoldExpired => format!(" Waited {:.1} s.", seconds(arrived)),
            why => format!(" Not waited for: {}.", why.sentence()),
        };
        words::fatal(self.sqlstate(), &message, &detail, "")
    }

    /// The words of PostgreSQL's own limits (src/backend/utils/init/postinit.c).
    fn crowded(&self, spec: &ServiceSpec, crowd: Crowd, waited: f64) -> Vec<u8> {
        let Crowd { maxconn, waiting, queue_max } = crowd;
        let message = format!("too many connections for service \"{}\"", spec.name);
        let mut detail = format!("Service {}: {} (maxconn {maxconn})", spec.name, Reason::TargetsFull.sentence());
        detail += &match self.why {
            Reason::QueueExpired => format!(", and none ended in {waited:.1} s; {waiting} other clients wait."),
            _ => format!(", and {waiting} clients wait already (queue.max {queue_max})."),
        };
        let hint = "Use fewer connections, or raise maxconn or queue in the router's configuration.";
        words::fatal(self.sqlstate(), &message, &detail, hint)
    }
}

fn too_often(spec: &ServiceSpec, address: IpAddr) -> Vec<u8> {
    let (service, most) = (&spec.name, spec.rate.per_client_max);
    let message = format!("too many connections from {address}");
    let detail =
        format!("Service {service}: {} (rate.per_client_max {most} a second).", Reason::RateLimited.sentence());
    let hint = "Keep connections open for longer, or raise rate.per_client_max in the router's configuration.";
    words::fatal(words::TOO_MANY_CONNECTIONS, &message, &detail, hint)
}

/// For a client that was held and is served now.
pub(super) fn waited(spec: &ServiceSpec, reason: Reason, waited: Duration) -> Box<[u8]> {
    let whom = match spec.role {
        Role::Primary => "the primary".to_owned(),
        role => format!("a server of role {role}"),
    };
    let message = format!("this connection waited {:.1} s for {whom}", waited.as_secs_f64());
    let detail = format!("Service {}: {}.", spec.name, reason.sentence());
    words::notice(&message, &detail).into_boxed_slice()
}
