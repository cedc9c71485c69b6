//! The router binary under test: its configuration, its life, and what it says about itself.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::PipeReader;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::etcd::Etcd;
use super::ports::Port;
use super::process::Process;
use super::{secs, until};

const READY_MAX: Duration = Duration::from_secs(30);
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// The line of a configuration for the way of bulk data that this run of the tests is about: `off` or `always` in
/// PGVANE_TEST_SPLICE, nothing without it.
pub fn splice_line() -> String {
    match std::env::var("PGVANE_TEST_SPLICE") {
        Ok(mode) => format!("splice: {mode}\n"),
        Err(_) => String::new(),
    }
}

/// A configuration, and the ports it names.
#[derive(Debug)]
pub struct Setup {
    endpoint: String,
    scopes: Vec<Scope>,
    admin: Port,
    pub folder: TempDir,
    pub hold: &'static str,
    pub shutdown: &'static str,
    /// As the replica service's `backup`.
    pub backup: &'static str,
    pub state_file: bool,
}

#[derive(Debug)]
struct Scope {
    name: String,
    write: Port,
    read: Port,
}

impl Setup {
    pub fn new(etcd: &Etcd, scopes: &[&str]) -> Setup {
        let scope = |name: &&str| Scope { name: (*name).to_owned(), write: Port::reserve(), read: Port::reserve() };
        Setup {
            endpoint: etcd.endpoint(),
            scopes: scopes.iter().map(scope).collect(),
            admin: Port::reserve(),
            folder: tempfile::tempdir().expect("a temporary folder"),
            hold: "{ timeout: auto }",
            shutdown: "{ delay: 0s, drain: 1s }",
            backup: "[primary]",
            state_file: false,
        }
    }

    pub fn state_path(&self) -> PathBuf {
        self.folder.path().join("state.json")
    }

    pub fn config_path(&self) -> PathBuf {
        self.folder.path().join("pgvane.yml")
    }

    /// Where clients of the first cluster write.
    pub fn write_at(&self) -> SocketAddr {
        self.scopes[0].write.address()
    }

    pub fn admin_at(&self) -> SocketAddr {
        self.admin.address()
    }

    /// The admin endpoint is there from now on.
    pub fn move_admin(&mut self, to: Port) {
        self.admin = to;
    }

    pub fn text(&self) -> String {
        let mut text = format!("shutdown: {}\nadmin: {{ listen: 127.0.0.1:{} }}\n", self.shutdown, self.admin.number);
        text += &splice_line();
        if self.state_file {
            let _ = writeln!(text, "state_file: {}", self.state_path().display());
        }
        let check = "{ inter: 500ms, fastinter: 200ms, downinter: 500ms, rise: 2, fall: 2, timeout: 1s }";
        let _ = write!(text, "defaults:\n  check: {check}\n  hold: {}\nclusters:\n", self.hold);
        for Scope { name, write, read } in &self.scopes {
            let (etcd, write, read, backup) = (&self.endpoint, write.number, read.number, self.backup);
            let _ = write!(
                text,
                "  - name: {name}\n    dcs: {{ etcd: {{ endpoints: [{etcd}] }} }}\n    services:\n      \
                 primary: {{ listen: 127.0.0.1:{write}, role: primary }}\n      \
                 replica: {{ listen: 127.0.0.1:{read}, role: replica, backup: {backup} }}\n"
            );
        }
        text
    }

    pub fn write_config(&self) {
        fs::write(self.config_path(), self.text()).expect("the configuration can be written");
    }
}

#[derive(Debug)]
pub struct Router {
    pub setup: Setup,
    process: Process,
}

impl Router {
    /// Starts and waits until it says that it is ready.
    pub async fn start(setup: Setup) -> Router {
        let router = Router::start_unready(setup);
        router.until_ready().await;
        router
    }

    /// Its log goes into a pipe that nobody reads until the second value is dropped.
    pub fn start_unheard(setup: Setup) -> (Router, PipeReader) {
        setup.write_config();
        let (unread, log) = std::io::pipe().expect("a pipe");
        let mut command = command(&setup.config_path(), &setup.folder.path().join("router.log"));
        let process = Process::start(command.stderr(log));
        (Router { setup, process }, unread)
    }

    pub fn start_unready(setup: Setup) -> Router {
        let text = setup.text();
        Router::start_with(setup, &text)
    }

    /// With another configuration than the setup's own.
    pub fn start_with(setup: Setup, text: &str) -> Router {
        fs::write(setup.config_path(), text).expect("the configuration can be written");
        let process = Process::start(&mut command(&setup.config_path(), &setup.folder.path().join("router.log")));
        Router { setup, process }
    }

    /// The same, where `command` becomes the router by and by; it finds its configuration at the setup's path.
    pub fn start_as(setup: Setup, text: &str, command: &mut Command) -> Router {
        fs::write(setup.config_path(), text).expect("the configuration can be written");
        Router { setup, process: Process::start(command) }
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Ends this one at once and starts the next with the same configuration.
    pub fn replace(mut self) -> Router {
        self.process.kill();
        let process =
            Process::start(&mut command(&self.setup.config_path(), &self.setup.folder.path().join("router.log")));
        self.process = process;
        self
    }

    pub async fn until_ready(&self) {
        let ready = || async { self.readyz().await == Some(200) };
        until("the router is ready", READY_MAX, ready).await;
    }

    pub fn write_port(&self, scope: usize) -> SocketAddr {
        self.setup.scopes[scope].write.address()
    }

    pub fn read_port(&self, scope: usize) -> SocketAddr {
        self.setup.scopes[scope].read.address()
    }

    pub async fn readyz(&self) -> Option<u16> {
        self.ask("/readyz").await.map(|(status, _)| status)
    }

    /// Status and body, or None when nobody answers.
    pub async fn ask(&self, path: &str) -> Option<(u16, String)> {
        timeout(ANSWER_MAX, ask(self.setup.admin_at(), path)).await.ok()?
    }

    /// The first cluster's part of `/api/v1/status`.
    pub async fn status(&self) -> Value {
        let (_, body) = self.ask("/api/v1/status").await.expect("the router answers");
        let mut status: Value = serde_json::from_str(&body).expect("the status is JSON");
        status["clusters"][0].take()
    }

    /// Waits until the first cluster's status is as described.
    pub async fn until(&self, what: &str, is: impl Fn(&Value) -> bool) {
        until(what, READY_MAX, || async { is(&self.status().await) }).await;
    }

    pub async fn until_open(&self, member: &str) {
        self.until(&format!("writes go to {member}"), |status| status["leader"]["open"] == member).await;
    }

    pub async fn metrics(&self) -> String {
        self.ask("/metrics").await.expect("the router answers").1
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.setup.folder.path().join("router.log")).unwrap_or_default()
    }

    pub fn cpu(&self) -> Cpu {
        Cpu::of(self.process.id())
    }

    pub fn terminate(&self) {
        self.process.signal(Signal::SIGTERM);
    }

    /// The file is this from now on, and the router is told to read it.
    pub fn reread(&self, text: &str) {
        fs::write(self.setup.config_path(), text).expect("the configuration can be written");
        self.process.signal(Signal::SIGHUP);
    }

    /// Reloads that were carried out, and those that were refused.
    pub async fn reloads(&self) -> (u64, u64) {
        let (_, body) = self.ask("/api/v1/status").await.expect("the router answers");
        let status: Value = serde_json::from_str(&body).expect("the status is JSON");
        let count = |name: &str| status["configuration"][name].as_u64().expect("a count");
        (count("reloads"), count("reloads_refused"))
    }

    /// Reloads, and waits until that is done.
    pub async fn reload(&self, text: &str) {
        let (done, refused) = self.reloads().await;
        self.reread(text);
        until("the file was read again", READY_MAX, || async { self.reloads().await != (done, refused) }).await;
        assert_eq!(self.reloads().await, (done + 1, refused), "refused: {text}");
    }

    /// Reloads what must be refused, and returns what the log says of it.
    pub async fn refuse(&self, text: &str) -> String {
        let (done, refused) = self.reloads().await;
        let before = self.log().len();
        self.reread(text);
        until("the file was read again", READY_MAX, || async { self.reloads().await != (done, refused) }).await;
        assert_eq!(self.reloads().await, (done, refused + 1), "not refused: {text}");
        until("the log is written", READY_MAX, || async { self.log()[before..].contains("not reloaded") }).await;
        self.log().split_off(before)
    }

    pub async fn exit(&mut self, limit: Duration) -> Option<ExitStatus> {
        self.process.wait(limit).await
    }
}

/// Milliseconds that all threads of a process ran, and that they wanted to while others did.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cpu {
    pub running: f64,
    pub runnable: f64,
}

impl Cpu {
    fn of(pid: u32) -> Cpu {
        let mut sum = Cpu::default();
        for thread in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            // A thread may end meanwhile.
            let text = fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
            let mut nanos = text.split_whitespace().map(|word| word.parse().unwrap_or(0.0));
            sum.running += nanos.next().unwrap_or(0.0) / 1e6;
            sum.runnable += nanos.next().unwrap_or(0.0) / 1e6;
        }
        sum
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("-- the router said --\n{}", self.log());
        }
    }
}

fn command(config: &Path, log: &Path) -> Command {
    let log = File::options().create(true).append(true).open(log).expect("a log file");
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgvane"));
    command.arg("run").arg("-c").arg(config).stdout(log.try_clone().expect("a log file")).stderr(log);
    command
}

async fn ask(at: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(at).await.ok()?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: test\r\n\r\n").as_bytes()).await.ok()?;
    let mut answer = String::new();
    timeout(secs(10), stream.read_to_string(&mut answer)).await.ok()?.ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}
