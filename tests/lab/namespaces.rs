//! Hosts of their own for servers and router: Linux network namespaces on one bridge, with links
//! that can be cut. All of it goes away with the test, however that ends, and so does what runs there.

#![allow(dead_code, reason = "each suite uses its part")]

use std::fs::File;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sched::{CloneFlags, setns};
use nix::unistd::geteuid;

/// Nobody has this hardware address: what is sent to it is lost without a word.
const NOBODY: &str = "02:00:00:00:00:01";
/// The bridge's own address; hosts have the next ones.
const FIRST_HOST: usize = 11;
/// Networks that this process has made so far: each has names and addresses of its own.
static MADE: AtomicU32 = AtomicU32::new(0);

#[derive(Debug)]
pub struct Network {
    /// Starts every name, with this process's id in it. Names of interfaces have 15 letters at most.
    prefix: String,
    /// Which part of the addresses for tests is its own.
    block: u32,
    subnet: String,
    hosts: Vec<String>,
    /// Clears everything away at the end of its standard input.
    guardian: Child,
}

impl Network {
    pub fn new(hosts: &[&str]) -> Network {
        assert!(
            geteuid().is_root(),
            "cutting networks takes Linux network namespaces, and those take root: run this suite as root"
        );
        let pid = std::process::id();
        let turn = MADE.fetch_add(1, Ordering::Relaxed);
        let letter = char::from(b'a' + u8::try_from(turn % 26).expect("a letter"));
        let block = claim_block(pid.wrapping_mul(8).wrapping_add(turn));
        let (prefix, subnet) = (format!("pv{pid}{letter}"), format!("198.{}.{}", 18 + block / 256, block % 256));
        let hosts: Vec<String> = hosts.iter().map(|&host| host.to_owned()).collect();
        let guardian = guardian(&prefix, &bridge_of(block), &hosts);
        let network = Network { prefix, block, subnet, hosts, guardian };
        let bridge = network.bridge();
        ip(&format!("addr add {}.1/24 dev {bridge}", network.subnet));
        ip(&format!("link set {bridge} up"));
        ip(&format!("link add {} type bridge stp_state 0 forward_delay 0 mcast_snooping 0", network.island()));
        ip(&format!("link set {} up", network.island()));
        for host in network.hosts.clone() {
            network.add(&host);
        }
        network
    }

    fn add(&self, host: &str) {
        let (space, cable, bridge) = (self.space(host), self.cable(host), self.bridge());
        ip(&format!("netns add {space}"));
        ip(&format!("link add {cable} type veth peer name eth0 netns {space}"));
        ip(&format!("link set {cable} master {bridge} up"));
        ip(&format!("-n {space} addr add {}/24 dev eth0", self.address(host)));
        ip(&format!("-n {space} link set eth0 up"));
        ip(&format!("-n {space} link set lo up"));
    }

    fn bridge(&self) -> String {
        bridge_of(self.block)
    }

    /// The bridge of those who are set aside.
    fn island(&self) -> String {
        format!("{}is", self.prefix)
    }

    pub fn space(&self, host: &str) -> String {
        format!("{}-{host}", self.prefix)
    }

    /// The bridge's end of a host's cable.
    fn cable(&self, host: &str) -> String {
        format!("{}{host}", self.prefix)
    }

    pub fn hosts(&self) -> &[String] {
        &self.hosts
    }

    pub fn address(&self, host: &str) -> String {
        let index = self.hosts.iter().position(|it| it == host).expect("a host of this network");
        format!("{}.{}", self.subnet, FIRST_HOST + index)
    }

    /// An address of this network that no host has.
    pub fn free_address(&self, last: u8) -> String {
        format!("{}.{last}", self.subnet)
    }

    /// `ip` inside a host.
    pub fn ip(&self, host: &str, arguments: &str) {
        ip(&format!("-n {} {arguments}", self.space(host)));
    }

    /// The command that runs a program on `host`.
    pub fn wrap(&self, host: &str) -> Vec<String> {
        ["ip", "netns", "exec", &self.space(host)].map(str::to_owned).to_vec()
    }

    /// The address of this process, which stands outside all hosts.
    pub fn outside(&self) -> String {
        format!("{}.1", self.subnet)
    }

    /// Does something as if on `host`: sockets that are made there belong there, whoever uses them.
    pub fn inside<T: Send>(&self, host: &str, act: impl FnOnce() -> T + Send) -> T {
        let space = File::open(format!("/run/netns/{}", self.space(host))).expect("a namespace of this network");
        let there = move || {
            setns(space, CloneFlags::CLONE_NEWNET).expect("entering a network namespace takes root");
            act()
        };
        // A thread of its own, which is never anywhere else.
        std::thread::scope(|scope| scope.spawn(there).join().expect("what was done there went well"))
    }

    /// Like the death of its machine, seen from outside: nothing answers, nothing refuses.
    pub fn unplug(&self, host: &str) {
        ip(&format!("link set {} down", self.cable(host)));
    }

    pub fn plug(&self, host: &str) {
        ip(&format!("link set {} up", self.cable(host)));
    }

    /// The two no longer hear each other; both hear everybody else.
    pub fn cut(&self, one: &str, other: &str) {
        for (here, there) in [(one, other), (other, one)] {
            let (space, address) = (self.space(here), self.address(there));
            ip(&format!("-n {space} neigh replace {address} lladdr {NOBODY} dev eth0 nud permanent"));
        }
    }

    /// The end of every [`Network::cut`] of this host.
    pub fn heal_all(&self, host: &str) {
        ip(&format!("-n {} neigh flush nud permanent dev eth0", self.space(host)));
    }

    /// They hear each other, and nobody else hears them or is heard by them; no link goes down.
    pub fn set_aside(&self, hosts: &[&str]) {
        for host in hosts {
            ip(&format!("link set {} master {}", self.cable(host), self.island()));
        }
    }

    /// The end of [`Network::set_aside`].
    pub fn rejoin(&self, hosts: &[&str]) {
        for host in hosts {
            ip(&format!("link set {} master {}", self.cable(host), self.bridge()));
        }
    }

    pub fn heal(&self, one: &str, other: &str) {
        for (here, there) in [(one, other), (other, one)] {
            ip(&format!("-n {} neigh del {} dev eth0", self.space(here), self.address(there)));
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        drop(self.guardian.stdin.take());
        drop(self.guardian.wait());
    }
}

/// 198.18.0.0/15 is kept for tests of networks, so no real one is shadowed: 512 blocks of 256. The name of its
/// bridge says whose a block is, so that no two networks of this machine have the same one.
const BLOCKS: u32 = 512;

fn bridge_of(block: u32) -> String {
    format!("pvbridge{block}")
}

/// The first free one from `wish` on; its bridge is there then.
fn claim_block(wish: u32) -> u32 {
    let mut blocks = (0..BLOCKS).map(|step| wish.wrapping_add(step) % BLOCKS);
    let claimed = blocks.find(|block| {
        let words = format!("link add {} type bridge stp_state 0 forward_delay 0 mcast_snooping 0", bridge_of(*block));
        let done = Command::new("ip").args(words.split(' ')).output().expect("ip: install the package iproute2");
        let why = String::from_utf8_lossy(&done.stderr).trim().to_owned();
        assert!(done.status.success() || why.contains("exists"), "ip {words}: {why}");
        done.status.success()
    });
    claimed.expect("a block of addresses that no other test has")
}

/// A shell outside our process group that outlives us whatever kills us.
fn guardian(prefix: &str, bridge: &str, hosts: &[String]) -> Child {
    use std::os::unix::process::CommandExt;
    let script = format!(
        "cat >/dev/null; for host in {}; do ip netns pids {prefix}-$host | xargs -r kill -9; \
         ip link del {prefix}$host; ip netns del {prefix}-$host; done; ip link del {bridge}; ip link del {prefix}is",
        hosts.join(" ")
    );
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    shell.process_group(0).spawn().expect("starting a shell that removes the namespaces")
}

fn ip(arguments: &str) {
    let done = Command::new("ip").args(arguments.split(' ')).output().expect("ip: install the package iproute2");
    assert!(done.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&done.stderr).trim());
}
