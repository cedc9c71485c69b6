//! Three hosts that may hold the address, etcd's, a client's and a stranger's, on one bridge.

use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pgvane::runtime::clock;
use tempfile::TempDir;

use super::addresses::AddressWatch;
use super::dcs::{Dcs, TTL};
use super::decode::Mac;
use super::frames::{Capture, mac_of, neighbour};
use super::holder::{Follows, Holder, Kind, Setup};
use super::patroni::Patronis;
use super::prober::{Prober, Responders};
use crate::namespaces::Network;

pub const HOLDERS: [&str; 3] = ["n1", "n2", "n3"];
pub const CLIENT: &str = "cl";
pub const STRANGER: &str = "st";
const ETCD: &str = "etcd";
/// The kernel's, of every holder here: the least that pgvane takes.
pub const LEASE: Duration = Duration::from_secs(3);
/// For what takes a second on a quiet machine.
pub const LIMIT: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(2);
const LOG_LINES_SHOWN: usize = 60;

pub struct Bed {
    pub kind: Kind,
    /// The address that follows the primary.
    pub vip: IpAddr,
    pub dcs: Dcs,
    pub patronis: Patronis,
    pub addresses: AddressWatch,
    pub frames: Capture,
    pub network: Arc<Network>,
    prober: Prober,
    _responders: Responders,
    macs: Vec<(String, Mac)>,
    program: PathBuf,
    folder: TempDir,
    /// Of this situation.
    began: Instant,
    steps: Vec<(Instant, String)>,
    logs: Vec<(String, PathBuf)>,
    holders_started: u32,
    /// Wherever a situation needed it.
    pub is_held_in_time: bool,
    /// All turns, and outages as long as they were promised.
    pub is_long: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Bed {
    pub async fn make(kind: Kind, program: impl Into<PathBuf>, is_long: bool) -> Bed {
        let mut hosts = vec![ETCD, CLIENT, STRANGER];
        hosts.extend(HOLDERS);
        let network = Arc::new(Network::new(&hosts));
        for (index, host) in hosts.iter().enumerate() {
            network.ip(host, &format!("addr add fd00:198:18::{:x}/64 dev eth0 nodad", 0x11 + index));
        }
        let vip: IpAddr = network.free_address(200).parse().expect("an address");
        let frames = Capture::start(&network, CLIENT);
        let dcs = Dcs::start(&network, ETCD, kind.api()).await;
        Bed {
            kind,
            vip,
            dcs,
            patronis: Patronis::start(&network, &HOLDERS),
            addresses: AddressWatch::start(&network),
            frames,
            prober: Prober::start(&network, CLIENT, vip),
            _responders: Responders::start(&network, &HOLDERS),
            macs: hosts.iter().map(|host| ((*host).to_owned(), mac_of(&network, host))).collect(),
            program: program.into(),
            folder: tempfile::tempdir().expect("a temporary folder"),
            began: clock::now(),
            steps: Vec::new(),
            logs: Vec::new(),
            holders_started: 0,
            is_held_in_time: true,
            is_long,
            network,
        }
    }

    /// As if nothing had happened here yet, with an address of this family.
    pub async fn begin(&mut self, family: Family) {
        let vip = match family {
            Family::V4 => self.network.free_address(200),
            Family::V6 => "fd00:198:18::200".to_owned(),
        };
        self.network.rejoin(&HOLDERS);
        let vip: IpAddr = vip.parse().expect("an address");
        for host in HOLDERS.iter().chain([&STRANGER]) {
            self.network.plug(host);
            self.network.heal_all(host);
            self.forget_address(host, self.vip);
            self.forget_address(host, vip);
            self.forget_address(host, self.second());
        }
        if vip != self.vip {
            (self.vip, self.prober) = (vip, Prober::start(&self.network, CLIENT, vip));
        }
        if self.dcs.is_running() {
            self.dcs.thaw();
        } else {
            self.dcs.restart().await;
        }
        self.dcs.ttl = TTL;
        let members = HOLDERS.map(|host| (host, self.network.address(host)));
        self.dcs.clear(&members).await;
        self.patronis.all_replicas();
        let deadline = clock::now() + LIMIT;
        while HOLDERS.iter().any(|host| self.addresses.has(host, self.vip)) {
            assert!(clock::now() < deadline, "the addresses of the situation before are still there");
            tokio::time::sleep(LOOK_EVERY).await;
        }
        (self.began, self.holders_started, self.is_held_in_time) = (clock::now(), 0, true);
        self.steps.clear();
        self.logs.clear();
    }

    /// Whether it is there or goes by itself in this moment.
    fn forget_address(&self, host: &str, ip: IpAddr) {
        let (family, bits) = if ip.is_ipv4() { ("-4", 32) } else { ("-6", 128) };
        self.network.ip(host, &format!("{family} addr flush dev eth0 to {ip}/{bits}"));
    }

    /// Another address of the same family.
    pub fn second(&self) -> IpAddr {
        let text = if self.vip.is_ipv4() { self.network.free_address(201) } else { "fd00:198:18::201".to_owned() };
        text.parse().expect("an address")
    }

    /// How the program is started on `host` unless a situation says otherwise.
    pub fn setup(&self, host: &str) -> Setup {
        Setup {
            kind: self.kind,
            program: self.program.clone(),
            host: host.to_owned(),
            address: self.network.address(host),
            member: host.to_owned(),
            interface: "eth0",
            dcs: self.dcs.endpoint(),
            lease: LEASE,
            vips: vec![Follows { ip: self.vip, role: "primary", on_dcs_loss: None, more: "" }],
            by_rest: false,
            is_unprivileged: false,
            flags: Vec::new(),
        }
    }

    pub fn start(&mut self, host: &str) -> Holder {
        let setup = self.setup(host);
        self.start_as(&setup)
    }

    pub fn start_as(&mut self, setup: &Setup) -> Holder {
        self.holders_started += 1;
        let name = format!("{}.{}", setup.host, self.holders_started);
        let log = self.folder.path().join(format!("{name}.log"));
        self.step(&format!("{} starts on {}", setup.kind.name(), setup.host));
        self.logs.push((name, log.clone()));
        Holder::start(setup, &self.network.wrap(&setup.host), self.folder.path(), log)
    }

    /// Programs on all three hosts, and the address where the key says: on n1.
    pub async fn start_led_by_n1(&mut self) -> Vec<Holder> {
        self.lead("n1").await;
        let holders: Vec<Holder> = HOLDERS.iter().map(|host| self.start(host)).collect();
        self.until_held("n1").await;
        holders
    }

    /// The key names `who`, and PostgreSQL is promoted there. Returns the moment before.
    pub async fn lead(&mut self, who: &str) -> Instant {
        self.patronis.promote(who);
        let at = self.dcs.lead(who).await;
        self.steps.push((at, format!("the key names {who}")));
        at
    }

    pub async fn delete_leader(&mut self) -> Instant {
        self.patronis.all_replicas();
        let at = self.dcs.delete_leader().await;
        self.steps.push((at, "the key is deleted".to_owned()));
        at
    }

    /// Notes what is done now.
    pub fn step(&mut self, what: &str) -> Instant {
        let at = clock::now();
        self.steps.push((at, what.to_owned()));
        at
    }

    /// A situation goes on without, and is then wrong.
    pub async fn until_held(&mut self, host: &str) {
        let began = self.began;
        self.is_held_in_time &= self.within(LIMIT, |bed| bed.has(host) && bed.reached(host, began).is_some()).await;
    }

    /// Whether `condition` came true within `limit`.
    pub async fn within(&self, limit: Duration, condition: impl Fn(&Bed) -> bool) -> bool {
        let deadline = clock::now() + limit;
        loop {
            if condition(self) {
                return true;
            }
            if clock::now() >= deadline {
                return false;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Lets time pass while the observers look on.
    pub async fn watch_for(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    pub fn has(&self, host: &str) -> bool {
        self.addresses.has(host, self.vip)
    }

    pub fn gained(&self, host: &str, since: Instant) -> Option<Instant> {
        self.addresses.gained(host, self.vip, since)
    }

    pub fn lost(&self, host: &str, since: Instant) -> Option<Instant> {
        self.addresses.lost(host, self.vip, since)
    }

    /// When the client was answered by `host` to what it asked after `since`.
    pub fn reached(&self, host: &str, since: Instant) -> Option<Instant> {
        self.prober.first(host, since)
    }

    pub fn longest_gap(&self, since: Instant) -> Duration {
        self.prober.longest_gap(since)
    }

    /// When `host` announced the address first after `since`, in a way that neighbours believe.
    pub fn announced(&self, host: &str, since: Instant) -> Option<Instant> {
        self.frames.first(since, |frame| frame.from == self.mac(host) && frame.convinces(self.vip))
    }

    /// Milliseconds of two holders at once since the situation began.
    pub fn two_holders_ms(&self) -> f64 {
        self.addresses.two_holders(&HOLDERS, self.vip, self.began).as_secs_f64() * 1000.0
    }

    /// How often something is done that is not done once.
    pub fn turns(&self, usual: usize, long: usize) -> usize {
        if self.is_long { long } else { usual }
    }

    /// The leader key has run out; returns when that was seen.
    pub async fn until_no_leader(&mut self) -> Instant {
        let deadline = clock::now() + self.dcs.ttl + LIMIT;
        while self.dcs.has_leader().await {
            assert!(clock::now() < deadline, "the leader key does not run out");
            tokio::time::sleep(LOOK_EVERY).await;
        }
        self.step("the key has run out")
    }

    /// As when another card takes over for a bond.
    pub fn change_mac(&mut self, host: &str) {
        let Mac(mut bytes) = self.mac(host);
        bytes[0] = (bytes[0] | 0b10) & !1;
        bytes[5] ^= 0x55;
        self.network.ip(host, &format!("link set eth0 address {}", Mac(bytes)));
        let known = self.macs.iter_mut().find(|(name, _)| name == host);
        known.expect("a host of this bed").1 = Mac(bytes);
    }

    pub fn mac(&self, host: &str) -> Mac {
        self.macs.iter().find(|(name, _)| name == host).expect("a host of this bed").1
    }

    /// Where `host` believes the address to be.
    pub fn neighbour(&self, host: &str) -> Option<Mac> {
        neighbour(&self.network, host, self.vip)
    }

    fn host_of(&self, mac: Mac) -> &str {
        self.macs.iter().find(|(_, of)| *of == mac).map_or("?", |(host, _)| host)
    }

    pub fn began(&self) -> Instant {
        self.began
    }

    /// All that was seen, in order, and what the programs said.
    pub fn report(&self, since: Instant) -> String {
        let mut lines: Vec<(Instant, String)> = self.steps.clone();
        for it in self.addresses.changes(self.vip, since) {
            let life = it.valid_for.map_or_else(|| "for ever".to_owned(), |seconds| format!("for {seconds} s"));
            let what = if it.is_there { format!("has it, {life}") } else { "has it no more".to_owned() };
            lines.push((it.at, format!("    {} {what}", it.host)));
        }
        let mut who: Arc<str> = "".into();
        for answer in self.prober.answers(since) {
            if answer.who != who {
                lines.push((answer.at, format!("        the client is answered by {}", answer.who)));
                who = answer.who;
            }
        }
        for it in self.frames.since(since).iter().filter(|it| it.frame.announces(self.vip) || it.frame.probes(self.vip))
        {
            lines.push((it.at, format!("            {} says: {}", self.host_of(it.frame.from), it.frame)));
        }
        lines.sort_by_key(|(at, _)| *at);
        let mut text = String::new();
        for (at, line) in lines {
            let _ = writeln!(text, "{:9.1} ms {line}", at.saturating_duration_since(since).as_secs_f64() * 1000.0);
        }
        for (name, path) in &self.logs {
            let log = fs::read_to_string(path).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let shown = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
            let _ = writeln!(text, "-- {name} said --\n{}", shown.join("\n"));
        }
        text
    }
}
