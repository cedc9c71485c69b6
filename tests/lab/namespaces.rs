//! Hosts of their own for servers and router: Linux network namespaces on one bridge, with links
//! that can be cut. All of it goes away with the test, however that ends, and so does what runs there.

use std::fs::File;
use std::process::{Child, Command, Stdio};

use nix::sched::{CloneFlags, setns};
use nix::unistd::geteuid;

/// Nobody has this hardware address: what is sent to it is lost without a word.
const NOBODY: &str = "02:00:00:00:00:01";
/// The bridge's own address; hosts have the next ones.
const FIRST_HOST: usize = 11;

#[derive(Debug)]
pub struct Network {
    /// Starts every name, with this process's id in it.
    prefix: String,
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
        // 198.18.0.0/15 is kept for tests of networks, so no real one is shadowed.
        let (prefix, subnet) = (format!("pv{pid}"), format!("198.18.{}", pid % 256));
        let hosts: Vec<String> = hosts.iter().map(|&host| host.to_owned()).collect();
        let guardian = guardian(&prefix, &hosts);
        let network = Network { prefix, subnet, hosts, guardian };
        let bridge = network.bridge();
        ip(&format!("link add {bridge} type bridge stp_state 0 forward_delay 0"));
        ip(&format!("addr add {}.1/24 dev {bridge}", network.subnet));
        ip(&format!("link set {bridge} up"));
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
        format!("{}br", self.prefix)
    }

    fn space(&self, host: &str) -> String {
        format!("{}-{host}", self.prefix)
    }

    /// The bridge's end of a host's cable.
    fn cable(&self, host: &str) -> String {
        format!("{}{host}", self.prefix)
    }

    pub fn address(&self, host: &str) -> String {
        let index = self.hosts.iter().position(|it| it == host).expect("a host of this network");
        format!("{}.{}", self.subnet, FIRST_HOST + index)
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

/// A shell outside our process group that outlives us whatever kills us.
fn guardian(prefix: &str, hosts: &[String]) -> Child {
    use std::os::unix::process::CommandExt;
    let script = format!(
        "cat >/dev/null; for host in {}; do ip netns pids {prefix}-$host | xargs -r kill -9; \
         ip link del {prefix}$host; ip netns del {prefix}-$host; done; ip link del {prefix}br",
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
