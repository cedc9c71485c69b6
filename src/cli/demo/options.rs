//! What kind of cluster to start, and where its parts go.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::io::ErrorKind;
use std::net::{TcpListener, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::model::HostPort;

/// Patroni refuses less than these (patroni/config.py).
pub const TTL_MIN: Duration = Duration::from_secs(20);
const RETRY_TIMEOUT_MIN: Duration = Duration::from_secs(3);
const LOOP_WAIT_MIN: Duration = Duration::from_secs(1);

/// Free ports come from below the kernel's range for outgoing connections, so that no client
/// takes the port of a member that is down for a while.
const PORT_FIRST: u16 = 18_000;
const PORT_COUNT: u16 = 14_000;

/// Where one etcd or one member runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// None: 127.0.0.1.
    pub address: Option<String>,
    /// PostgreSQL's, or etcd's client port; None: a free one.
    pub port: Option<u16>,
    /// Patroni's REST API, or etcd's peer port; None: a free one.
    pub second_port: Option<u16>,
    /// Runs the server elsewhere, such as `ip netns exec n1`.
    pub wrap: Vec<String>,
    /// Patroni tags of a member.
    pub tags: BTreeMap<String, serde_json::Value>,
}

#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// Patroni's scope.
    pub name: String,
    /// Patroni's namespace, with or without slashes.
    pub namespace: String,
    pub members: usize,
    /// For members `n1`, `n2`, ... in order; what is missing is the default.
    pub places: Vec<Place>,
    pub etcds: usize,
    pub etcd_places: Vec<Place>,
    pub ttl: Duration,
    pub loop_wait: Duration,
    pub retry_timeout: Duration,
    pub failsafe_mode: bool,
    pub synchronous_mode: bool,
    /// PostgreSQL parameters, over those that keep the demo small.
    pub parameters: BTreeMap<String, String>,
    /// The pgvane that becomes the guardian; a test gives the one that cargo built.
    pub pgvane: PathBuf,
    /// For all members to be up and streaming.
    pub start_max: Duration,
}

impl ClusterOptions {
    /// Patroni's default timings, three members, one etcd.
    pub fn new(pgvane: impl Into<PathBuf>) -> Self {
        ClusterOptions {
            name: "demo".to_owned(),
            namespace: "service".to_owned(),
            members: 3,
            places: Vec::new(),
            etcds: 1,
            etcd_places: Vec::new(),
            ttl: Duration::from_secs(30),
            loop_wait: Duration::from_secs(10),
            retry_timeout: Duration::from_secs(10),
            failsafe_mode: false,
            synchronous_mode: false,
            parameters: BTreeMap::new(),
            pgvane: pgvane.into(),
            start_max: Duration::from_secs(90),
        }
    }

    /// Sets ttl and the timings that fit it, Patroni's own at 30 s (`loop_wait + 2 * retry_timeout <= ttl`).
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        let whole = ttl.as_secs();
        self.ttl = Duration::from_secs(whole);
        self.loop_wait = Duration::from_secs((whole / 3).min(10));
        self.retry_timeout = Duration::from_secs(((whole - self.loop_wait.as_secs()) / 2).min(10));
        self
    }

    pub fn check(&self) -> Result<()> {
        if self.ttl < TTL_MIN {
            bail!("a ttl of {:?} is less than Patroni allows: use {TTL_MIN:?} or more", self.ttl);
        }
        if self.loop_wait < LOOP_WAIT_MIN || self.retry_timeout < RETRY_TIMEOUT_MIN {
            bail!(
                "Patroni wants loop_wait >= {LOOP_WAIT_MIN:?} and retry_timeout >= {RETRY_TIMEOUT_MIN:?}, not {:?} and {:?}",
                self.loop_wait,
                self.retry_timeout
            );
        }
        if self.loop_wait + 2 * self.retry_timeout > self.ttl {
            bail!("loop_wait + 2 * retry_timeout must not exceed ttl, or Patroni changes them");
        }
        if self.members == 0 || self.etcds == 0 {
            bail!("a cluster needs at least one member and one etcd");
        }
        Ok(())
    }
}

/// Addresses with ports decided; none is given twice.
#[derive(Debug, Default)]
pub struct Ports {
    taken: BTreeSet<u16>,
}

impl Ports {
    /// `wanted`, or a port nobody listens on now.
    pub fn claim(&mut self, address: &str, wanted: Option<u16>) -> Result<HostPort> {
        if let Some(port) = wanted {
            self.taken.insert(port);
            return Ok(HostPort::new(address, port));
        }
        let start = RandomState::new().hash_one(self.taken.len()) % u64::from(PORT_COUNT);
        for step in 0..PORT_COUNT {
            let port = PORT_FIRST + (start as u16 + step) % PORT_COUNT;
            if !self.taken.contains(&port) && is_free(address, port) {
                self.taken.insert(port);
                return Ok(HostPort::new(address, port));
            }
        }
        bail!("no free port on {address} from {PORT_FIRST} on")
    }

    /// `preferred` if nobody listens there, else a free one.
    pub fn claim_or_free(&mut self, address: &str, preferred: u16) -> Result<HostPort> {
        let wanted = is_free(address, preferred).then_some(preferred);
        self.claim(address, wanted).with_context(|| format!("port {preferred} is taken"))
    }
}

/// An address of another network namespace cannot be tried from here and counts as free.
fn is_free(address: &str, port: u16) -> bool {
    let Ok(addresses) = (address, port).to_socket_addrs() else { return true };
    addresses.into_iter().all(|at| match TcpListener::bind(at) {
        Ok(_) => true,
        Err(error) => error.kind() == ErrorKind::AddrNotAvailable,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timings_fit_the_ttl() {
        for ttl in 20..120 {
            let options = ClusterOptions::new("pgvane").with_ttl(Duration::from_secs(ttl));
            options.check().unwrap();
        }
        let usual = ClusterOptions::new("pgvane").with_ttl(Duration::from_secs(30));
        assert_eq!((usual.loop_wait.as_secs(), usual.retry_timeout.as_secs()), (10, 10));
        assert!(ClusterOptions::new("pgvane").with_ttl(Duration::from_secs(19)).check().is_err());
    }

    #[test]
    fn a_port_is_given_once_and_a_taken_one_not_at_all() {
        let mut ports = Ports::default();
        let first = ports.claim("127.0.0.1", None).unwrap();
        let second = ports.claim("127.0.0.1", None).unwrap();
        assert_ne!(first, second);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = listener.local_addr().unwrap().port();
        assert_ne!(ports.claim_or_free("127.0.0.1", taken).unwrap().port, taken);
    }
}
