//! HAProxy as Debian 12 ships it: its configuration, its log, its runtime socket.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use nix::sys::signal::Signal;
use parking_lot::Mutex;
use pgvane::runtime::clock;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixDatagram, UnixStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::PATIENCE;
use super::node::Node;
use crate::members::process::Process;
use crate::members::{secs, until};

/// One process, with or without a master above it.
#[derive(Debug)]
pub struct HaProxy {
    folder: TempDir,
    process: Process,
    said: Arc<Mutex<Vec<(Instant, String)>>>,
    _listening: JoinSet<()>,
}

/// One `listen` section over three members.
#[derive(Debug, Clone)]
pub struct Listen<'a> {
    pub name: &'a str,
    pub at: SocketAddr,
    pub path: &'a str,
    /// Lines of the section beside the usual ones.
    pub lines: &'a str,
    /// The words of `default-server`.
    pub server: String,
    pub nodes: &'a [Node],
    /// Further words on the line of a member.
    pub words: fn(&Node) -> &'static str,
}

impl<'a> Listen<'a> {
    pub fn new(name: &'a str, at: SocketAddr, nodes: &'a [Node], server: impl Into<String>) -> Listen<'a> {
        Listen { name, at, path: "/check", lines: "", server: server.into(), nodes, words: |_| "" }
    }

    pub fn text(&self) -> String {
        let Listen { name, at, path, lines, server, .. } = self;
        let mut text = format!(
            "listen {name}\n    bind {at}\n    option httpchk\n    http-check send meth OPTIONS uri {path}\n    \
             http-check expect status 200\n    {lines}\n    default-server {server}\n"
        );
        for node in self.nodes {
            let (name, port, rest, words) = (&node.name, node.postgres_port(), node.rest.port, (self.words)(node));
            let _ = writeln!(text, "    server {name} 127.0.0.1:{port} check port {rest} {words}");
        }
        text
    }
}

impl HaProxy {
    /// Starts one process and waits until its runtime socket answers. `timeout check` is the caller's.
    pub async fn start(check_timeout: &str, sections: &str) -> HaProxy {
        HaProxy::launch(&["-db"], check_timeout, sections).await
    }

    /// The same below a master, as the service of Debian and Pigsty runs it.
    pub async fn start_master(check_timeout: &str, sections: &str) -> HaProxy {
        HaProxy::launch(&["-Ws"], check_timeout, sections).await
    }

    async fn launch(flags: &[&str], check_timeout: &str, sections: &str) -> HaProxy {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let said = Arc::new(Mutex::new(Vec::new()));
        let log = UnixDatagram::bind(folder.path().join("log")).expect("a socket for the log");
        let mut listening = JoinSet::new();
        listening.spawn(hear(log, said.clone()));
        let config = folder.path().join("haproxy.cfg");
        fs::write(&config, text(&folder, check_timeout, sections)).expect("the configuration can be written");
        let errors = File::create(folder.path().join("stderr")).expect("a log file");
        let mut command = Command::new("haproxy");
        command.args(flags).arg("-f").arg(&config).stdout(errors.try_clone().expect("a log file")).stderr(errors);
        let process = Process::start(&mut command);
        let haproxy = HaProxy { folder, process, said, _listening: listening };
        let what = "HAProxy's runtime socket answers";
        until(what, PATIENCE, || async { haproxy.ask("show info").await.is_some() }).await;
        haproxy
    }

    /// Writes these sections and has the master start another worker; the old one drains.
    pub fn reload(&self, check_timeout: &str, sections: &str) {
        let text = text(&self.folder, check_timeout, sections);
        fs::write(self.folder.path().join("haproxy.cfg"), text).expect("the configuration can be written");
        self.process.signal(Signal::SIGUSR2);
    }

    /// What the runtime socket says.
    pub async fn ask(&self, words: &str) -> Option<String> {
        let ask = async {
            let mut stream = UnixStream::connect(self.socket()).await.ok()?;
            stream.write_all(format!("{words}\n").as_bytes()).await.ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.ok()?;
            Some(answer)
        };
        timeout(secs(10), ask).await.ok()?
    }

    /// `ready`, `drain` or `maint` for a server of a section.
    pub async fn order(&self, section: &str, member: &str, state: &str) {
        let answer = self.ask(&format!("set server {section}/{member} state {state}")).await;
        assert_eq!(answer.as_deref().map(str::trim), Some(""), "HAProxy takes the order");
    }

    /// `UP`, `DOWN`, `UP 1/3`, `MAINT`, and so on.
    pub async fn status(&self, section: &str, member: &str) -> String {
        let text = self.ask("show stat").await.expect("HAProxy answers");
        let line = text.lines().find(|line| line.starts_with(&format!("{section},{member},")));
        line.and_then(|line| line.split(',').nth(17)).expect("a server of that name").to_owned()
    }

    /// When each server went up or down by its checks, in the order of the log.
    pub fn moves(&self) -> Vec<(Instant, String, bool)> {
        self.said.lock().iter().filter_map(|(at, line)| moved(line).map(|(who, up)| (*at, who, up))).collect()
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// All of its log.
    pub fn log(&self) -> String {
        self.said.lock().iter().fold(String::new(), |text, (_, line)| text + line + "\n")
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("admin")
    }
}

impl Drop for HaProxy {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let errors = fs::read_to_string(self.folder.path().join("stderr")).unwrap_or_default();
            eprintln!("-- HAProxy said --\n{errors}{}", self.log());
        }
    }
}

/// `Server any/m1 is DOWN, reason: ...`; other lines tell what an operator did to a server.
fn moved(line: &str) -> Option<(String, bool)> {
    let (server, rest) = line.split_once("Server ")?.1.split_once(" is ")?;
    let up = rest.starts_with("UP, reason: ");
    (up || rest.starts_with("DOWN, reason: ")).then(|| Some((server.split_once('/')?.1.to_owned(), up)))?
}

async fn hear(log: UnixDatagram, said: Arc<Mutex<Vec<(Instant, String)>>>) {
    let mut line = [0; 4096];
    while let Ok(length) = log.recv(&mut line).await {
        said.lock().push((clock::now(), String::from_utf8_lossy(&line[..length]).trim().to_owned()));
    }
}

fn text(folder: &TempDir, check_timeout: &str, sections: &str) -> String {
    let path = folder.path().display();
    format!(
        "global\n    maxconn 5000\n    nbthread 1\n    log {path}/log local0\n    \
         stats socket {path}/admin mode 600 level admin expose-fd listeners\n\
         defaults\n    mode tcp\n    log global\n    option dontlog-normal\n    \
         retries 3\n    timeout client 24h\n    timeout server 24h\n    timeout connect 3s\n    timeout queue 3s\n    \
         timeout check {check_timeout}\n{sections}"
    )
}

/// The first line of `haproxy -v`.
pub fn version() -> String {
    let output = Command::new("haproxy").arg("-v").output().expect("HAProxy is installed: scripts/setup test");
    String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned()
}
