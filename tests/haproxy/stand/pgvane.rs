//! The router binary: its configuration, its log as it comes, and orders.

use std::fs;
use std::io::{BufRead, BufReader, PipeReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use nix::sys::signal::Signal;
use parking_lot::Mutex;
use pgvane::runtime::clock;
use serde_json::Value;
use tempfile::TempDir;

use super::node::Node;
use super::{PATIENCE, http};
use crate::members::ports::Port;
use crate::members::process::Process;
use crate::members::until;

type Said = Arc<Mutex<Vec<(Instant, String)>>>;

#[derive(Debug)]
pub struct Pgvane {
    folder: TempDir,
    admin: Port,
    process: Process,
    said: Said,
}

/// One cluster with `trust: rest`, as text below `clusters:`. `services` are lines indented by six.
pub fn cluster(name: &str, nodes: &[Node], services: &str) -> String {
    let mut text = format!("  - name: {name}\n    trust: rest\n    members:\n");
    for node in nodes {
        let (who, port, rest) = (&node.name, node.postgres_port(), node.rest.port);
        text += &format!("      {who}: {{ host: 127.0.0.1, port: {port}, api: \"http://127.0.0.1:{rest}\" }}\n");
    }
    text + "    services:\n" + services
}

impl Pgvane {
    /// Starts with these clusters and waits until its admin endpoint answers.
    pub async fn start(clusters: &str) -> Pgvane {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let admin = Port::reserve();
        fs::write(path(&folder), text(&admin, clusters)).expect("the configuration can be written");
        let (log, writer) = std::io::pipe().expect("a pipe");
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgvane"));
        command.args(["run", "--log-format", "json", "-c"]).arg(path(&folder)).stderr(writer);
        let process = Process::start(&mut command);
        // The last writer must be the child, or the log would never end.
        drop(command);
        let said = Said::default();
        hear(log, said.clone());
        let mut pgvane = Pgvane { folder, admin, process, said };
        let admin = pgvane.admin.address();
        let process = &mut pgvane.process;
        let answers = || {
            let ended = process.exited();
            async move { ended.is_some() || http(admin, "GET", "/livez").await.is_some() }
        };
        until("pgvane's admin endpoint answers", PATIENCE, answers).await;
        assert!(pgvane.process.exited().is_none(), "pgvane ended");
        pgvane
    }

    /// Writes these clusters and has them read.
    pub fn reload(&self, clusters: &str) {
        fs::write(path(&self.folder), text(&self.admin, clusters)).expect("the configuration can be written");
        self.process.signal(Signal::SIGHUP);
    }

    /// `ready`, `drain` or `maint`.
    pub async fn order(&self, cluster: &str, member: &str, state: &str) {
        let path = format!("/api/v1/clusters/{cluster}/members/{member}/{state}");
        let answer = http(self.admin_at(), "POST", &path).await;
        assert!(matches!(answer, Some((200..=299, _))), "POST {path}: {answer:?}");
    }

    /// `/api/v1/status` of one cluster.
    pub async fn status(&self, cluster: &str) -> Value {
        let (_, body) = http(self.admin_at(), "GET", "/api/v1/status").await.expect("pgvane answers");
        let mut status: Value = serde_json::from_str(&body).expect("the status is JSON");
        let clusters = status["clusters"].as_array_mut().expect("clusters");
        clusters.iter_mut().find(|it| it["name"] == cluster).expect("a cluster of that name").take()
    }

    /// When each member of a cluster went up or down by its checks for `path`.
    pub fn moves(&self, cluster: &str, path: &str) -> Vec<(Instant, String, bool)> {
        self.said
            .lock()
            .iter()
            .filter_map(|(at, line)| moved(line, cluster, path).map(|it| (*at, it.0, it.1)))
            .collect()
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    pub fn log(&self) -> String {
        self.said.lock().iter().fold(String::new(), |text, (_, line)| text + line + "\n")
    }

    fn admin_at(&self) -> SocketAddr {
        self.admin.address()
    }
}

impl Drop for Pgvane {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("-- pgvane said --\n{}", self.log());
        }
    }
}

/// A thread of its own, so that the moment of a line is when it was written.
fn hear(log: PipeReader, said: Said) {
    std::thread::spawn(move || {
        for line in BufReader::new(log).lines().map_while(Result::ok) {
            said.lock().push((clock::now(), line));
        }
    });
}

/// `m1 is up for /check` and `m1 is down for /check: ...`, by the fields of the line.
fn moved(line: &str, cluster: &str, path: &str) -> Option<(String, bool)> {
    let line: Value = serde_json::from_str(line).ok()?;
    let is_ours = line["target"] == "pgvane::member" && line["cluster"] == cluster && line["path"] == path;
    let member = line["member"].as_str().filter(|_| is_ours)?;
    let rest = line["message"].as_str()?.strip_prefix(member)?;
    let up = rest.starts_with(" is up for ");
    (up || rest.starts_with(" is down for ")).then(|| (member.to_owned(), up))
}

fn path(folder: &TempDir) -> PathBuf {
    folder.path().join("pgvane.yml")
}

fn text(admin: &Port, clusters: &str) -> String {
    format!("admin: {{ listen: 127.0.0.1:{} }}\nclusters:\n{clusters}", admin.number)
}
