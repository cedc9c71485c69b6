//! The program under test, on one host: Debian's vip-manager, `pgvane vip` or `pgvane run`.

use std::fmt::Write as _;
use std::fs::{self, File, Permissions};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgvane::runtime::clock;

use super::dcs::{Api, SCOPE, TRIGGER};

/// The user and group that own nothing.
const NOBODY: &str = "65534";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Debian's 1.0.2.
    VipManager,
    /// `pgvane vip` with vip-manager's flags.
    Alone,
    /// `pgvane run` with `vips:`.
    Router,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::VipManager => "vip-manager 1.0.2",
            Kind::Alone => "pgvane vip",
            Kind::Router => "pgvane run",
        }
    }

    pub fn api(self) -> Api {
        if self == Kind::VipManager { Api::V2 } else { Api::V3 }
    }

    pub fn is_ours(self) -> bool {
        self != Kind::VipManager
    }
}

/// One address and whom it follows.
#[derive(Debug, Clone)]
pub struct Follows {
    pub ip: IpAddr,
    pub role: &'static str,
    /// None: what the program does by itself.
    pub on_dcs_loss: Option<&'static str>,
    /// Further keys of an entry of `vips:`, such as `adopt: true`.
    pub more: &'static str,
}

/// How a holder is started.
#[derive(Debug, Clone)]
pub struct Setup {
    pub kind: Kind,
    pub program: PathBuf,
    pub host: String,
    /// Of the host.
    pub address: String,
    /// The member it is, which the leader key names.
    pub member: String,
    pub interface: &'static str,
    pub dcs: String,
    /// Of the kernel.
    pub lease: Duration,
    pub vips: Vec<Follows>,
    /// The local Patroni is the DCS: `--dcs-type patroni`.
    pub by_rest: bool,
    /// As nobody, with CAP_NET_ADMIN and CAP_NET_RAW.
    pub is_unprivileged: bool,
    /// Further flags of `pgvane vip`.
    pub flags: Vec<String>,
}

impl Setup {
    fn words(&self, folder: &Path) -> Vec<String> {
        let program = self.program.to_string_lossy().into_owned();
        match self.kind {
            Kind::VipManager => [vec!["vip-manager".to_owned()], self.contract()].concat(),
            Kind::Alone => [vec![program, "vip".to_owned()], self.contract(), self.own_flags()].concat(),
            Kind::Router => {
                let file = folder.join(format!("{}.yml", self.host));
                fs::write(&file, self.file()).expect("a configuration can be written");
                vec![program, "run".to_owned(), "-c".to_owned(), file.to_string_lossy().into_owned()]
            }
        }
    }

    /// The flags that every vip-manager since 1.0 has.
    fn contract(&self) -> Vec<String> {
        let ip = self.vips[0].ip;
        let netmask = if ip.is_ipv4() { "32" } else { "128" };
        let (kind, endpoint, key, value) = if self.by_rest {
            ("patroni", "http://127.0.0.1:8008/", "/leader", "200")
        } else {
            ("etcd", self.dcs.as_str(), TRIGGER, self.member.as_str())
        };
        let flags = [
            ("ip", ip.to_string()),
            ("netmask", netmask.to_owned()),
            ("interface", self.interface.to_owned()),
            ("trigger-key", key.to_owned()),
            ("trigger-value", value.to_owned()),
            ("dcs-type", kind.to_owned()),
            ("dcs-endpoints", endpoint.to_owned()),
            ("interval", "1000".to_owned()),
        ];
        flags.into_iter().flat_map(|(flag, value)| [format!("--{flag}"), value]).collect()
    }

    fn own_flags(&self) -> Vec<String> {
        let mut flags = vec!["--lease".to_owned(), format!("{}s", self.lease.as_secs())];
        if let Some(policy) = self.vips[0].on_dcs_loss {
            flags.extend(["--on-dcs-loss".to_owned(), policy.to_owned()]);
        }
        flags.extend(self.flags.iter().cloned());
        flags
    }

    fn file(&self) -> String {
        let mut text = format!(
            "admin: {{ listen: \"{}:7000\" }}\nshutdown: {{ delay: 0s, drain: 1s }}\n\
             defaults:\n  check: {{ inter: 500ms, fastinter: 200ms, downinter: 500ms, rise: 1, fall: 2 }}\n\
             clusters:\n  - name: {SCOPE}\n    namespace: /service\n    \
             dcs: {{ etcd: {{ endpoints: [\"{}\"] }} }}\n    services:\n      \
             primary: {{ listen: \"0.0.0.0:6432\", role: primary }}\nvips:\n",
            self.address, self.dcs
        );
        for vip in &self.vips {
            let policy = vip.on_dcs_loss.map_or_else(String::new, |policy| format!(", on_dcs_loss: {policy}"));
            let more = if vip.more.is_empty() { String::new() } else { format!(", {}", vip.more) };
            let _ = writeln!(
                text,
                "  - {{ address: \"{}\", interface: {}, member: {}, role: {}, lease: {}s{policy}{more} }}",
                vip.ip,
                self.interface,
                self.member,
                vip.role,
                self.lease.as_secs()
            );
        }
        text
    }
}

/// What runs a program as nobody with two capabilities, who then reads the files in `folder`.
fn unprivileged(folder: &Path) -> Vec<String> {
    fs::set_permissions(folder, Permissions::from_mode(0o755)).expect("a folder of our own");
    let two = "+net_admin,+net_raw";
    let words = ["setpriv", "--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "--no-new-privs"];
    let rights = ["--inh-caps", two, "--ambient-caps", two];
    [&words[..], &rights].concat().iter().map(|&word| word.to_owned()).collect()
}

/// A running program; it ends with this.
#[derive(Debug)]
pub struct Holder {
    pub host: String,
    child: Child,
    log: PathBuf,
    ended: Option<ExitStatus>,
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Holder {
    /// `wrap` brings it onto its host; all that it says goes into `log`.
    pub fn start(setup: &Setup, wrap: &[String], folder: &Path, log: PathBuf) -> Holder {
        let words = setup.words(folder);
        let file = File::create(&log).expect("a log file");
        let words = if setup.is_unprivileged { [unprivileged(folder), words].concat() } else { words };
        let mut command = Command::new(&wrap[0]);
        command.args(&wrap[1..]).args(&words).stdin(Stdio::null());
        // What people have set for themselves is not for the program under test.
        command.env_remove("RUST_LOG");
        let child = command.stdout(file.try_clone().expect("a log file")).stderr(file).spawn();
        let child = child.unwrap_or_else(|error| panic!("{words:?}: {error}"));
        Holder { host: setup.host.clone(), child, log, ended: None }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"));
        kill(pid, signal).expect("a child of ours takes signals");
    }

    pub fn kill(&mut self) {
        if self.exited().is_none() {
            // It may have ended in between.
            let _ = self.child.kill();
            self.ended = self.child.wait().ok();
        }
    }

    pub fn exited(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().expect("a child of ours can be waited for");
        }
        self.ended
    }

    /// How it ended, if it did within `limit`.
    pub async fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let deadline = clock::now() + limit;
        while self.exited().is_none() && clock::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.ended
    }
}
