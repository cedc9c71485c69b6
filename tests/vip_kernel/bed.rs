//! Hosts on one segment, each a network namespace. All of it goes away with the test, however that ends.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use nix::unistd::geteuid;
use pgvane::model::{Mac, VipAddress, VipLink};
use pgvane::runtime::clock;
use pgvane::vip::netlink::{Change, Netlink};
use pgvane::vip::packet::Segment;
use tokio::sync::mpsc;

/// The virtual addresses; no host of the bed has them.
pub const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 100));
pub const VIP6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x100));
pub const BOTH: [IpAddr; 2] = [VIP, VIP6];
/// For what takes milliseconds.
pub const LIMIT: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(2);

static BEDS: AtomicUsize = AtomicUsize::new(0);

pub fn single(ip: IpAddr) -> VipAddress {
    VipAddress::single(ip)
}

/// Waits until `look` has something to say; panics with `what` when it has not within [`LIMIT`].
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = clock::now() + LIMIT;
    loop {
        if let Some(seen) = look().await {
            return seen;
        }
        assert!(clock::now() < deadline, "not within {LIMIT:?}: {what}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

pub async fn within<T>(what: &str, act: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, act).await.unwrap_or_else(|_| panic!("not within {LIMIT:?}: {what}"))
}

#[derive(Debug)]
pub struct Bed {
    prefix: String,
    guardian: Child,
}

impl Bed {
    /// Host number n has 192.0.2.n and 2001:db8::n on its `eth0`, from 11 on.
    pub fn new(hosts: &[&str]) -> Bed {
        assert!(geteuid().is_root(), "network namespaces take root: run this suite as root");
        let prefix = format!("vip-kernel-{}-{}", std::process::id(), BEDS.fetch_add(1, Ordering::Relaxed));
        let guardian = guardian(&prefix, hosts);
        let bed = Bed { prefix, guardian };
        ip(&format!("netns add {}", bed.space("switch")));
        bed.ip("switch", "link add bridge type bridge stp_state 0 forward_delay 0 mcast_snooping 0");
        bed.ip("switch", "link set bridge up");
        for (index, host) in hosts.iter().enumerate() {
            let (space, switch) = (bed.space(host), bed.space("switch"));
            ip(&format!("netns add {space}"));
            bed.ip("switch", &format!("link add name {host} type veth peer name eth0 netns {space}"));
            ip(&format!("-n {switch} link set dev {host} master bridge up"));
            bed.ip(host, "link set lo up");
            bed.ip(host, "link set eth0 up");
            bed.ip(host, &format!("addr add 192.0.2.{}/24 dev eth0", 11 + index));
            bed.ip(host, &format!("addr add 2001:db8::{}/64 dev eth0 nodad", 11 + index));
        }
        bed
    }

    fn space(&self, host: &str) -> String {
        format!("{}-{host}", self.prefix)
    }

    /// Runs `ip` on `host`; its output.
    pub fn ip(&self, host: &str, arguments: &str) -> String {
        ip(&format!("-n {} {arguments}", self.space(host)))
    }

    /// A program on `host`; `arguments` come behind.
    pub fn command(&self, host: &str, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.space(host), program]);
        command
    }

    /// Does something as if on `host`: sockets that are made there belong there, whoever uses them.
    pub fn at<T>(&self, host: &str, act: impl FnOnce() -> T) -> T {
        let _inside = self.enter(host);
        act()
    }

    /// This thread is on `host` until the value is dropped.
    fn enter(&self, host: &str) -> Inside {
        let outside = File::open("/proc/thread-self/ns/net").expect("/proc");
        let space = File::open(format!("/run/netns/{}", self.space(host))).expect("a host of this bed");
        setns(space, CloneFlags::CLONE_NEWNET).expect("entering a network namespace takes root");
        Inside(outside)
    }

    pub async fn netlink(&self, host: &str) -> (Netlink, mpsc::Receiver<Change>) {
        let _inside = self.enter(host);
        Netlink::open().await.expect("netlink")
    }

    /// What holds an address on `host`'s `eth0`.
    pub async fn node(&self, host: &str) -> Node {
        let (netlink, changes) = self.netlink(host).await;
        let link = netlink.link("eth0").await.expect("netlink answers").expect("eth0");
        Node { netlink, changes, link }
    }

    pub fn segment(&self, host: &str, node: &Node, ip: IpAddr) -> Segment {
        self.at(host, || Segment::open(&node.link, ip).expect("a packet socket"))
    }

    /// What `host` believes of `ip`: MAC address and state.
    pub fn neighbour(&self, host: &str, ip: IpAddr) -> Option<(String, String)> {
        let shown = self.ip(host, &format!("neigh show {ip} dev eth0"));
        let words: Vec<&str> = shown.split_whitespace().collect();
        let mac = words.iter().position(|word| *word == "lladdr").and_then(|at| words.get(at + 1));
        Some(((*mac?).to_owned(), (*words.last()?).to_owned()))
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        drop(self.guardian.stdin.take());
        drop(self.guardian.wait());
    }
}

struct Inside(File);

impl Drop for Inside {
    fn drop(&mut self) {
        setns(&self.0, CloneFlags::CLONE_NEWNET).expect("going back");
    }
}

/// A host as its own agent sees it.
pub struct Node {
    pub netlink: Netlink,
    pub changes: mpsc::Receiver<Change>,
    pub link: VipLink,
}

impl Node {
    pub async fn put(&self, ip: IpAddr, valid: Option<u32>) {
        self.netlink.put(self.link.index, "eth0", single(ip), valid).await.unwrap();
    }

    pub async fn remove(&self, ip: IpAddr) {
        for entry in self.netlink.entries(ip).await.unwrap().iter().filter(|entry| entry.is_ours) {
            self.netlink.remove(entry, ip).await.unwrap();
        }
    }

    /// The next change that is one of these; others are skipped.
    pub async fn change(&mut self, wanted: impl Fn(&Change) -> bool) -> Change {
        within("a change", async {
            loop {
                let change = self.changes.recv().await.expect("netlink goes on");
                if wanted(&change) {
                    return change;
                }
            }
        })
        .await
    }

    pub fn mac(&self) -> Mac {
        self.link.mac
    }
}

/// A shell outside our process group that outlives us whatever kills us.
fn guardian(prefix: &str, hosts: &[&str]) -> Child {
    use std::os::unix::process::CommandExt;
    let script = format!(
        "cat >/dev/null; for host in {} switch; do ip netns pids {prefix}-$host | xargs -r kill -9; \
         ip netns del {prefix}-$host; done",
        hosts.join(" ")
    );
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    shell.process_group(0).spawn().expect("starting a shell that removes the namespaces")
}

fn ip(arguments: &str) -> String {
    let done = Command::new("ip").args(arguments.split(' ')).output().expect("ip: install the package iproute2");
    assert!(done.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&done.stderr).trim());
    String::from_utf8_lossy(&done.stdout).into_owned()
}
