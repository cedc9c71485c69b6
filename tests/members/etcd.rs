//! A real etcd of one node, in a folder of its own, that can be killed, frozen and replaced.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use etcd_client::{Client, ConnectOptions};
use nix::sys::signal::Signal;
use tempfile::TempDir;
use tokio::time::timeout;

use super::ports::Port;
use super::process::Process;
use super::{secs, until};

const START_MAX: Duration = Duration::from_secs(30);
/// For one call of a healthy etcd on a busy machine.
const CALL_MAX: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub struct Etcd {
    folder: TempDir,
    client_port: Port,
    peer_port: Port,
    process: Option<Process>,
    /// Clusters that began empty have different identities.
    token: u32,
}

impl Etcd {
    pub async fn start() -> Etcd {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut etcd =
            Etcd { folder, client_port: Port::reserve(), peer_port: Port::reserve(), process: None, token: 0 };
        etcd.restart().await;
        etcd
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.client_port.number)
    }

    pub async fn client(&self) -> Client {
        connect(&self.endpoint()).await.expect("a live etcd")
    }

    pub async fn client_as(&self, user: &str, password: &str) -> Client {
        let options = options().with_user(user, password);
        Client::connect([self.endpoint()], Some(options)).await.expect("a live etcd")
    }

    /// Starts on what the data folder holds.
    pub async fn restart(&mut self) {
        let (client, peer) = (self.endpoint(), format!("http://127.0.0.1:{}", self.peer_port.number));
        let log = File::create(self.folder.path().join("etcd.log")).expect("a log file");
        let mut command = Command::new("etcd");
        command
            .args(["--name=e1", "--logger=zap", "--log-outputs=stderr", "--log-level=warn"])
            // One node needs no patience before it elects itself.
            .args(["--heartbeat-interval=10", "--election-timeout=100"])
            .arg(format!("--data-dir={}", self.data().display()))
            .arg(format!("--listen-client-urls={client}"))
            .arg(format!("--advertise-client-urls={client}"))
            .arg(format!("--listen-peer-urls={peer}"))
            .arg(format!("--initial-advertise-peer-urls={peer}"))
            .arg(format!("--initial-cluster=e1={peer}"))
            .arg(format!("--initial-cluster-token={}-{}", self.folder.path().display(), self.token))
            .stdout(log.try_clone().expect("a log file"))
            .stderr(log);
        self.process = Some(Process::start(&mut command));
        let endpoint = self.endpoint();
        until("etcd answers", START_MAX, || async { is_healthy(&endpoint).await }).await;
    }

    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Accepts connections and answers nothing.
    pub fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
    }

    pub async fn thaw(&self) {
        self.signal(Signal::SIGCONT);
        let endpoint = self.endpoint();
        until("etcd answers again", START_MAX, || async { is_healthy(&endpoint).await }).await;
    }

    fn signal(&self, signal: Signal) {
        self.process.as_ref().expect("a running etcd").signal(signal);
    }

    /// Forgets everything: the next start is a new, empty cluster.
    pub fn wipe(&mut self) {
        self.kill();
        fs::remove_dir_all(self.data()).expect("the data folder can be removed");
        self.token += 1;
    }

    /// A copy of the data as it stands; etcd is stopped for it and started again.
    pub async fn copy(&mut self) -> TempDir {
        self.kill();
        let copy = tempfile::tempdir().expect("a temporary folder");
        copy_folder(&self.data(), copy.path());
        self.restart().await;
        copy
    }

    /// Goes back to a copy, stopped.
    pub fn go_back_to(&mut self, copy: &TempDir) {
        self.wipe();
        copy_folder(copy.path(), &self.data());
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }
}

fn copy_folder(from: &Path, to: &Path) {
    let done = Command::new("cp").arg("-rT").arg(from).arg(to).status().expect("cp");
    assert!(done.success(), "cp {} {}", from.display(), to.display());
}

pub async fn connect(endpoint: &str) -> Result<Client, etcd_client::Error> {
    Client::connect([endpoint], Some(options())).await
}

fn options() -> ConnectOptions {
    ConnectOptions::new().with_connect_timeout(secs(2)).with_timeout(CALL_MAX)
}

async fn is_healthy(endpoint: &str) -> bool {
    let asked = async { connect(endpoint).await?.get("health", None).await };
    matches!(timeout(secs(2), asked).await, Ok(Ok(_)))
}
