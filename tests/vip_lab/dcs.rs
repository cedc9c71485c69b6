//! A real etcd on a host of its own, and the leader key in it, as Patroni keeps it.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use etcd_client::{Client, ConnectOptions, DeleteOptions, PutOptions};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use parking_lot::Mutex;
use pgvane::runtime::clock;
use serde_json::json;
use tempfile::TempDir;
use tokio::task::JoinHandle;

use crate::namespaces::Network;

pub const SCOPE: &str = "lab";
pub const PREFIX: &str = "/service/lab/";
pub const TRIGGER: &str = "/service/lab/leader";
/// Of leader and members; Patroni's own default.
pub const TTL: Duration = Duration::from_secs(30);
const RENEW_EVERY: Duration = Duration::from_millis(500);
const START_MAX: Duration = Duration::from_secs(30);
const CALL_MAX: Duration = Duration::from_secs(5);

/// vip-manager 1.x reads keys of etcd's second API, which are others than those of the third.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Api {
    V2,
    V3,
}

#[derive(Debug, Clone, Copy)]
enum Kept {
    Lease(i64),
    /// The second API has no leases: keys have a time to live.
    Key(Duration),
}

pub struct Dcs {
    pub api: Api,
    /// Of the leader's lease.
    pub ttl: Duration,
    folder: TempDir,
    wrap: Vec<String>,
    address: String,
    child: Option<Child>,
    client: Option<Client>,
    /// What the leader's Patroni keeps alive.
    kept: Arc<Mutex<Option<Kept>>>,
    renewing: Option<JoinHandle<()>>,
}

impl Drop for Dcs {
    fn drop(&mut self) {
        self.renewing.iter().for_each(JoinHandle::abort);
        self.kill();
    }
}

impl Dcs {
    pub async fn start(network: &Network, host: &str, api: Api) -> Dcs {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (wrap, address) = (network.wrap(host), network.address(host));
        let kept = Arc::default();
        let mut dcs = Dcs { api, ttl: TTL, folder, wrap, address, child: None, client: None, kept, renewing: None };
        dcs.restart().await;
        dcs
    }

    /// As holders reach it.
    pub fn endpoint(&self) -> String {
        format!("http://{}:2379", self.address)
    }

    /// On what its data folder holds.
    pub async fn restart(&mut self) {
        self.launch();
        let deadline = clock::now() + START_MAX;
        self.client = None;
        while self.client.is_none() {
            assert!(clock::now() < deadline, "etcd does not answer: see scripts/setup test");
            let options = ConnectOptions::new().with_connect_timeout(CALL_MAX).with_timeout(CALL_MAX);
            let Ok(mut client) = Client::connect([self.endpoint()], Some(options)).await else { continue };
            if client.get("health", None).await.is_ok() {
                self.client = Some(client);
            }
        }
        self.renewing.iter().for_each(JoinHandle::abort);
        let (address, kept) = (self.address.clone(), self.kept.clone());
        self.renewing = self.client.clone().map(|client| tokio::spawn(renew(client, address, kept)));
    }

    /// Does not wait until it answers.
    pub fn launch(&mut self) {
        let log = File::create(self.folder.path().join("etcd.log")).expect("a log file");
        let (client, peer) = (self.endpoint(), format!("http://{}:2380", self.address));
        let mut command = Command::new(&self.wrap[0]);
        command
            .args(&self.wrap[1..])
            .args(["etcd", "--name=e1", "--enable-v2", "--logger=zap", "--log-outputs=stderr", "--log-level=warn"])
            // One node needs no patience before it elects itself, and no disk.
            .args(["--heartbeat-interval=10", "--election-timeout=100", "--unsafe-no-fsync"])
            .arg(format!("--data-dir={}", self.folder.path().join("data").display()))
            .arg(format!("--listen-client-urls={client}"))
            .arg(format!("--advertise-client-urls={client}"))
            .arg(format!("--listen-peer-urls={peer}"))
            .arg(format!("--initial-advertise-peer-urls={peer}"))
            .arg(format!("--initial-cluster=e1={peer}"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log file"))
            .stderr(log);
        self.child = Some(command.spawn().expect("etcd is installed"));
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// It accepts connections and answers nothing.
    pub fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
    }

    pub fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("a running etcd");
        kill(Pid::from_raw(i32::try_from(child.id()).expect("a pid")), signal).expect("a child takes signals");
    }

    fn client(&self) -> Client {
        self.client.clone().expect("an etcd that was reached")
    }

    /// The leader key names `who`, under a new lease that is kept alive. Returns the moment before it was sent.
    pub async fn lead(&self, who: &str) -> Instant {
        if self.api == Api::V2 {
            let sent = clock::now();
            http(&self.address, "PUT", &format!("value={who}&ttl={}", self.ttl.as_secs()));
            self.kept.lock().replace(Kept::Key(self.ttl));
            return sent;
        }
        let mut client = self.client();
        let ttl = i64::try_from(self.ttl.as_secs()).expect("a short lease");
        let lease = client.lease_grant(ttl, None).await.expect("a live etcd").id();
        let sent = clock::now();
        client.put(TRIGGER, who, Some(PutOptions::new().with_lease(lease))).await.expect("a live etcd");
        let before = self.kept.lock().replace(Kept::Lease(lease));
        if let Some(Kept::Lease(before)) = before {
            // It may have run out.
            let _ = client.lease_revoke(before).await;
        }
        sent
    }

    pub async fn delete_leader(&self) -> Instant {
        let sent = clock::now();
        match self.api {
            Api::V2 => drop(http(&self.address, "DELETE", "")),
            Api::V3 => drop(self.client().delete(TRIGGER, None).await.expect("a live etcd")),
        }
        sent
    }

    /// The leader's Patroni renews its lease no more.
    pub fn stop_renewing(&self) {
        self.kept.lock().take();
    }

    pub async fn put(&self, key: &str, value: &str) {
        self.client().put(format!("{PREFIX}{key}"), value, None).await.expect("a live etcd");
    }

    pub async fn read(&self, key: &str) -> Option<String> {
        let answer = self.client().get(format!("{PREFIX}{key}"), None).await.expect("a live etcd");
        answer.kvs().first().and_then(|kv| kv.value_str().ok()).map(str::to_owned)
    }

    /// Nothing is left of what a situation wrote, and the cluster's own keys are there.
    pub async fn clear(&self, members: &[(&str, String)]) {
        self.stop_renewing();
        if self.api == Api::V2 {
            http(&self.address, "DELETE", "");
            return;
        }
        let all = DeleteOptions::new().with_prefix();
        self.client().delete(PREFIX, Some(all)).await.expect("a live etcd");
        let config = json!({ "ttl": TTL.as_secs(), "loop_wait": 10, "retry_timeout": 10 });
        self.put("initialize", super::patroni::SYSTEM_ID).await;
        self.put("config", &config.to_string()).await;
        self.put("status", r#"{"optime":83886176}"#).await;
        for (name, address) in members {
            let member = json!({
                "conn_url": format!("postgres://{address}:5432/postgres"),
                "api_url": format!("http://{address}:8008/patroni"),
                "state": "running", "role": "replica", "version": "4.1.5", "xlog_location": 83_886_176, "timeline": 5,
            });
            self.put(&format!("members/{name}"), &member.to_string()).await;
        }
    }

    pub async fn has_leader(&self) -> bool {
        match self.api {
            Api::V2 => http(&self.address, "GET", "").contains(" 200 "),
            Api::V3 => self.read("leader").await.is_some(),
        }
    }
}

/// A call of the second API about the leader key.
fn http(address: &str, method: &str, form: &str) -> String {
    let told = call(address, method, form).expect("a live etcd");
    let is_done = ["200", "201", "404"].iter().any(|status| told.contains(&format!(" {status} ")));
    assert!(is_done, "{method}: {told}");
    told
}

fn call(address: &str, method: &str, form: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect((address, 2379))?;
    stream.set_read_timeout(Some(CALL_MAX))?;
    let head = format!("{method} /v2/keys{TRIGGER} HTTP/1.0\r\nContent-Length: {}\r\n", form.len());
    let kind = "Content-Type: application/x-www-form-urlencoded\r\n\r\n";
    stream.write_all(format!("{head}{kind}{form}").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

async fn renew(mut client: Client, address: String, kept: Arc<Mutex<Option<Kept>>>) {
    loop {
        tokio::time::sleep(RENEW_EVERY).await;
        let current = *kept.lock();
        // etcd may be down, which is what a situation is about.
        match current {
            Some(Kept::Lease(lease)) => drop(client.lease_keep_alive(lease).await),
            Some(Kept::Key(ttl)) => {
                let (at, form) = (address.clone(), format!("refresh=true&prevExist=true&ttl={}", ttl.as_secs()));
                drop(tokio::task::spawn_blocking(move || call(&at, "PUT", &form)).await);
            }
            None => {}
        }
    }
}
