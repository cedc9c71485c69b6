//! The program: names, exit codes, what it prints, and how it ends. Where it may touch the network it has
//! one of its own, which goes with its processes.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgvane::runtime::clock;
use tempfile::TempDir;

use crate::PATIENCE;

const PROGRAM: &str = env!("CARGO_BIN_EXE_pgvane");

/// Under its own name with the subcommand, and under vip-manager's.
fn both(folder: &TempDir) -> [(PathBuf, &'static [&'static str]); 2] {
    let link = folder.path().join("vip-manager");
    symlink(PROGRAM, &link).unwrap();
    [(PathBuf::from(PROGRAM), &["vip"]), (link, &[])]
}

fn output(program: &Path, first: &[&str], words: &[&str]) -> Output {
    let mut command = Command::new(program);
    // What the tests' own environment says is nothing to the program.
    command.env_clear().args(first).args(words).stdin(Stdio::null());
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn exit_codes_are_sysexits_for_us_and_1_for_vip_managers_name() {
    let folder = TempDir::new().unwrap();
    let cases: [(&[&str], i32, &str); 5] = [
        (&["--interfce=eth0"], 64, "--interfce is not a flag; did you mean --interface?"),
        (&["--ip"], 64, "--ip needs a value"),
        (&[], 78, "Setting ip is mandatory"),
        (
            &["-ip", "10.0.0.9", "-iface", "eth0", "-key", "k", "--interface=eth1"],
            78,
            "Cannot continue due to conflicts.",
        ),
        (&["--config=/nowhere"], 78, "/nowhere: cannot read it: there is no such file"),
    ];
    for (program, first) in both(&folder) {
        for (words, code, sentence) in cases {
            let said = output(&program, first, words);
            let expected = if first.is_empty() { 1 } else { code };
            assert_eq!(said.status.code(), Some(expected), "{words:?}");
            assert!(text(&said.stderr).contains(sentence), "{}", text(&said.stderr));
            assert_eq!(text(&said.stdout), "");
        }
        for words in [["--help"], ["-h"]] {
            let help = output(&program, first, &words);
            assert!(help.status.success() && text(&help.stdout).contains("--trigger-key <KEY>   (once key)"));
        }
        for words in [["version"], ["--version"]] {
            let version = output(&program, first, &words);
            assert!(version.status.success());
            assert_eq!(text(&version.stdout), format!("version: {}\n", env!("CARGO_PKG_VERSION")));
        }
    }
    // Behind pgvane's own flags, too.
    let behind = output(Path::new(PROGRAM), &["--log-format", "json", "vip"], &["-mask", "-1", "--nonsense"]);
    assert_eq!(behind.status.code(), Some(64));
    assert!(text(&behind.stderr).contains("--nonsense is not a flag"), "{}", text(&behind.stderr));
}

/// A network with an etcd and an interface in it. It goes with its etcd.
struct Network {
    etcd: Child,
    folder: TempDir,
}

const ENDPOINT: &str = "http://127.0.0.1:2379";

impl Network {
    fn start() -> Network {
        let folder = TempDir::new().unwrap();
        let log = File::create(folder.path().join("etcd.log")).unwrap();
        let script = "ip link set lo up && ip link add vc0 type veth peer name vc1 && ip link set vc0 up && \
                      ip link set vc1 up && ip address add 10.9.0.2/24 dev vc0 && exec etcd --data-dir \"$0\" --listen-peer-urls http://127.0.0.1:2380";
        let etcd = Command::new("unshare")
            .args(["--net", "sh", "-c", script])
            .arg(folder.path().join("data"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let network = Network { etcd, folder };
        network.until("etcd", || network.put("/ready", "yes"));
        network
    }

    fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        let limit = clock::now() + PATIENCE;
        while !is_so() {
            let said = || fs::read_to_string(self.folder.path().join("said")).unwrap_or_default();
            assert!(clock::now() < limit, "never came: {what}\n{}", said());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A command in this network.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.etcd.id().to_string(), "--net", program]);
        command
    }

    fn put(&self, key: &str, value: &str) -> bool {
        let put = self.command("etcdctl").args(["--endpoints", ENDPOINT, "put", key, value]).output().unwrap();
        put.status.success()
    }

    fn said(&self) -> String {
        fs::read_to_string(self.folder.path().join("said")).unwrap_or_default()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.etcd.kill().unwrap();
        self.etcd.wait().unwrap();
    }
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _gone_already = self.0.kill();
        self.0.wait().unwrap();
    }
}

#[test]
fn it_tells_what_it_follows_and_ends_when_it_is_told() {
    let network = Network::start();
    assert!(network.put("/service/pgcluster/leader", "n1"));
    let config = network.folder.path().join("vip-manager.yml");
    let settings = "trigger-key: /service/pgcluster/leader\ntrigger-value: n9\nip: 10.9.0.9\nnetmask: 24\n\
                    iface: vc0\nhosting-type: basic\netcd-user: nobody\netcd-password: hunter2\nodd: 1\n";
    fs::write(&config, settings).unwrap();
    let [(_, _), (program, _)] = both(&network.folder);
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let said = File::create(network.folder.path().join("said")).unwrap();
        let child = network
            .command(program.to_str().unwrap())
            .arg(format!("--config={}", config.display()))
            .stdin(Stdio::null())
            .stdout(said.try_clone().unwrap())
            .stderr(said)
            .spawn()
            .unwrap();
        let mut child = Killed(child);
        network.until("the leader", || network.said().contains("Current Leader from DCS: n1"));
        for line in [
            "This is the config that will be used:\n\tconfig : ",
            "\tdcs-endpoints : http://127.0.0.1:2379\n",
            "\tetcd-password : *****\n",
            "\tinterface : vc0\n",
            "Parameter \"iface\" has been deprecated, please use \"interface\" instead",
            "vip-manager.yml:9:1: `odd` is not a setting; it is ignored",
            "Setting WATCH on /service/pgcluster/leader",
        ] {
            assert!(network.said().contains(line), "{line}\n{}", network.said());
        }
        assert!(!network.said().contains("hunter2"));
        let pid = Pid::from_raw(i32::try_from(child.0.id()).unwrap());
        kill(pid, Signal::SIGHUP).unwrap();
        network.until("the answer to SIGHUP", || network.said().contains("SIGHUP is ignored"));
        kill(pid, signal).unwrap();
        assert_eq!(child.0.wait().unwrap().code(), Some(0));
        assert!(network.said().contains("Received exit signal"));
    }
}
