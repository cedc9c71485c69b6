//! Which host had which address, from when to when. All hosts are heard through one netlink socket, so that
//! the order of an address that goes here and comes there is the kernel's, however busy the machine is.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use pgvane::runtime::clock;

use crate::namespaces::Network;

/// For the observer to hear something for the first time.
const LISTENS_MAX: Duration = Duration::from_secs(10);
/// Given to a host and taken away until the observer heard of it (RFC 5737: for examples).
const CANARY: &str = "192.0.2.1/32";

/// One message of the kernel.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    pub at: Instant,
    pub host: String,
    pub ip: IpAddr,
    pub prefix: u8,
    /// Seconds; None: for ever.
    pub valid_for: Option<u64>,
    /// Added or renewed, else deleted.
    pub is_there: bool,
}

/// From one moment to another; the end is None while it lasts.
#[derive(Debug, Clone, PartialEq)]
pub struct Stay {
    pub host: String,
    pub from: Instant,
    pub to: Option<Instant>,
}

#[derive(Debug)]
pub struct AddressWatch {
    changes: Arc<Mutex<Vec<Change>>>,
    monitor: Child,
}

impl Drop for AddressWatch {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.monitor.kill();
        let _ = self.monitor.wait();
    }
}

impl AddressWatch {
    pub fn start(network: &Network) -> AddressWatch {
        let hosts = numbers(network);
        let mut command = Command::new("ip");
        command.args(["-o", "monitor", "all-nsid", "address"]);
        let mut monitor = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("iproute2 is installed");
        let lines = BufReader::new(monitor.stdout.take().expect("a pipe")).lines();
        let changes = Arc::<Mutex<Vec<Change>>>::default();
        let notes = changes.clone();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                notes.lock().extend(parse(&line, &hosts));
            }
        });
        let watch = AddressWatch { changes, monitor };
        watch.wait_until_it_hears(network);
        watch
    }

    fn wait_until_it_hears(&self, network: &Network) {
        let (host, deadline) = (&network.hosts()[0], clock::now() + LISTENS_MAX);
        while self.changes.lock().is_empty() {
            assert!(clock::now() < deadline, "ip monitor all-nsid hears nothing");
            network.ip(host, &format!("addr add {CANARY} dev lo"));
            network.ip(host, &format!("addr del {CANARY} dev lo"));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn changes(&self, ip: IpAddr, since: Instant) -> Vec<Change> {
        let changes = self.changes.lock();
        changes.iter().filter(|it| it.ip == ip && it.at >= since).cloned().collect()
    }

    /// Whether `host` has `ip` now.
    pub fn has(&self, host: &str, ip: IpAddr) -> bool {
        self.stays(ip).iter().any(|stay| stay.host == host && stay.to.is_none())
    }

    /// Every time that any host had `ip`.
    pub fn stays(&self, ip: IpAddr) -> Vec<Stay> {
        let mut entries: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        let mut stays: Vec<Stay> = Vec::new();
        for change in self.changes.lock().iter().filter(|it| it.ip == ip) {
            let known = entries.entry(change.host.clone()).or_default();
            let was_there = !known.is_empty();
            known.retain(|prefix| *prefix != change.prefix);
            if change.is_there {
                known.push(change.prefix);
            }
            match (was_there, !known.is_empty()) {
                (false, true) => stays.push(Stay { host: change.host.clone(), from: change.at, to: None }),
                (true, false) => {
                    let open = stays.iter_mut().rfind(|it| it.host == change.host && it.to.is_none());
                    open.expect("it was there").to = Some(change.at);
                }
                _ => {}
            }
        }
        stays
    }

    /// When `host` got `ip` for the first time after `since`.
    pub fn gained(&self, host: &str, ip: IpAddr, since: Instant) -> Option<Instant> {
        self.stays(ip).iter().find(|it| it.host == host && it.from >= since).map(|it| it.from)
    }

    /// When `host` lost `ip` for the first time after `since`.
    pub fn lost(&self, host: &str, ip: IpAddr, since: Instant) -> Option<Instant> {
        self.stays(ip).iter().filter(|it| it.host == host).find_map(|it| it.to.filter(|to| *to >= since))
    }

    /// For how long since `since` two of `hosts` had `ip` at once.
    pub fn two_holders(&self, hosts: &[&str], ip: IpAddr, since: Instant) -> Duration {
        let (now, mut stays) = (clock::now(), self.stays(ip));
        stays.retain(|stay| hosts.contains(&stay.host.as_str()));
        let mut sum = Duration::ZERO;
        for (index, one) in stays.iter().enumerate() {
            for other in stays[index + 1..].iter().filter(|other| other.host != one.host) {
                let from = one.from.max(other.from).max(since);
                let to = one.to.unwrap_or(now).min(other.to.unwrap_or(now));
                sum += to.saturating_duration_since(from);
            }
        }
        sum
    }
}

/// Under which number this process's namespace hears of each host.
fn numbers(network: &Network) -> BTreeMap<String, String> {
    for host in network.hosts() {
        let _known_already = Command::new("ip").args(["netns", "set", &network.space(host), "auto"]).output();
    }
    let listed = Command::new("ip").args(["netns", "list"]).output().expect("iproute2 is installed");
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let number = |host: &String| {
        let start = format!("{} (id: ", network.space(host));
        let line = listed.lines().find_map(|line| line.strip_prefix(&start)).expect("a numbered namespace");
        (line.trim_end_matches(')').to_owned(), host.clone())
    };
    network.hosts().iter().map(number).collect()
}

/// `[nsid 3]Deleted 2: eth0    inet 198.18.0.5/32 scope global dynamic eth0\       valid_lft 5sec ...`
fn parse(line: &str, hosts: &BTreeMap<String, String>) -> Option<Change> {
    let (number, rest) = line.strip_prefix("[nsid ")?.split_once(']')?;
    let host = hosts.get(number)?.clone();
    let after = |word: &str| {
        let mut words = rest.split_whitespace();
        words.find(|it| *it == word)?;
        words.next()
    };
    let (ip, prefix) = after("inet").or_else(|| after("inet6"))?.split_once('/')?;
    Some(Change {
        at: clock::now(),
        host,
        ip: ip.parse().ok()?,
        prefix: prefix.parse().ok()?,
        valid_for: after("valid_lft").and_then(|it| it.strip_suffix("sec")?.parse().ok()),
        is_there: !rest.trim_start().starts_with("Deleted"),
    })
}
