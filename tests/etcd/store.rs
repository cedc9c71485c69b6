//! Real etcd processes on loopback, in a directory that goes away with them.

use std::fs::File;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions, PutOptions};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgvane::dcs::DcsEvent;
use pgvane::dcs::etcd::{EtcdAccess, Handle, Subscription, spawn};
use pgvane::dcs::place::Place;
use pgvane::decide::ViewSource;
use pgvane::model::ClusterView;
use pgvane::runtime::clock;
use std::sync::Arc;
use std::time::Instant;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::time::timeout;

pub const PREFIX: &str = "/service/one/";
pub const PATIENCE: Duration = Duration::from_secs(15);

/// One address per test process, so that two of them never fight for a port.
pub fn loopback() -> String {
    let pid = std::process::id();
    format!("127.{}.{}.{}", 1 + pid / 65536 % 250, pid / 256 % 256, 1 + pid % 254)
}

pub fn free_port() -> u16 {
    TcpListener::bind((loopback(), 0)).unwrap().local_addr().unwrap().port()
}

pub struct Etcd {
    child: Option<Child>,
    name: String,
    client_port: u16,
    peer_port: u16,
    cluster: String,
    token: String,
    scheme: &'static str,
    extra: Vec<String>,
    pub dir: TempDir,
}

impl Etcd {
    pub async fn start() -> Etcd {
        let mut etcd = Etcd::plan("solo");
        etcd.cluster = etcd.peer();
        etcd.launch();
        etcd.client().await;
        etcd
    }

    pub async fn start_three() -> Vec<Etcd> {
        let mut members: Vec<Etcd> = ["a", "b", "c"].map(Etcd::plan).into();
        let cluster = members.iter().map(Etcd::peer).collect::<Vec<_>>().join(",");
        for member in &mut members {
            member.cluster.clone_from(&cluster);
            member.launch();
        }
        for member in &members {
            member.client().await;
        }
        members
    }

    pub fn start_tls(extra: Vec<String>, dir: TempDir) -> Etcd {
        let mut etcd = Etcd::plan("solo");
        (etcd.scheme, etcd.extra, etcd.dir) = ("https", extra, dir);
        etcd.cluster = etcd.peer();
        etcd.launch();
        etcd
    }

    fn plan(name: &str) -> Etcd {
        Etcd {
            child: None,
            name: name.into(),
            client_port: free_port(),
            peer_port: free_port(),
            cluster: String::new(),
            token: "first".into(),
            scheme: "http",
            extra: Vec::new(),
            dir: TempDir::new().unwrap(),
        }
    }

    fn peer(&self) -> String {
        format!("{}=http://{}:{}", self.name, loopback(), self.peer_port)
    }

    pub fn url(&self) -> String {
        format!("{}://{}:{}", self.scheme, loopback(), self.client_port)
    }

    pub fn address(&self) -> (String, u16) {
        (loopback(), self.client_port)
    }

    pub fn launch(&mut self) {
        let log = File::options().create(true).append(true).open(self.dir.path().join("log")).unwrap();
        let peer = format!("http://{}:{}", loopback(), self.peer_port);
        let child = Command::new("etcd")
            .args(["--name", &self.name, "--initial-cluster", &self.cluster])
            .args(["--initial-cluster-token", &self.token, "--initial-cluster-state", "new"])
            .arg("--data-dir")
            .arg(self.data())
            .args(["--listen-client-urls", &self.url(), "--advertise-client-urls", &self.url()])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(&self.extra)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("etcd is installed");
        self.child = Some(child);
    }

    pub fn data(&self) -> std::path::PathBuf {
        self.dir.path().join("data")
    }

    /// Starts on another port with the same data; returns the port to go back to.
    pub fn launch_elsewhere(&mut self) -> u16 {
        let known = std::mem::replace(&mut self.client_port, free_port());
        self.launch();
        known
    }

    pub fn move_back(&mut self, port: u16) {
        self.client_port = port;
    }

    pub fn another_cluster(&mut self) {
        std::fs::remove_dir_all(self.data()).unwrap();
        self.token = "second".into();
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.as_ref().unwrap().id()).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// A client of the test's own, once this member serves linearizable reads.
    pub async fn client(&self) -> Client {
        self.client_as(None).await
    }

    pub async fn client_as(&self, user: Option<(&str, &str)>) -> Client {
        let until = clock::now() + PATIENCE;
        loop {
            let mut options = ConnectOptions::new().with_connect_timeout(Duration::from_secs(1));
            if let Some((name, password)) = user {
                options = options.with_user(name, password);
            }
            let ready = async {
                let mut client = Client::connect([self.url()], Some(options)).await?;
                client.get("/ready", None).await?;
                Ok::<_, etcd_client::Error>(client)
            };
            match timeout(Duration::from_secs(2), ready).await {
                Ok(Ok(client)) => return client,
                other => assert!(clock::now() < until, "etcd does not serve: {:?}", other.map(|r| r.err())),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

pub fn copy_dir(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(status.success());
}

pub async fn put(client: &mut Client, key: &str, value: &str, lease: i64) -> i64 {
    let options = (lease != 0).then(|| PutOptions::new().with_lease(lease));
    let key = if key.starts_with('/') { key.to_owned() } else { format!("{PREFIX}{key}") };
    client.put(key, value, options).await.unwrap().header().unwrap().revision()
}

pub async fn lease(client: &mut Client, ttl: i64) -> i64 {
    client.lease_grant(ttl, None).await.unwrap().id()
}

/// Leader and member on one lease, as Patroni writes them.
pub async fn seed(client: &mut Client, leader: &str) -> i64 {
    let lease = lease(client, 30).await;
    put(client, &format!("members/{leader}"), r#"{"conn_url":"postgres://10.0.0.1:5432/postgres"}"#, lease).await;
    put(client, "leader", leader, lease).await;
    lease
}

#[derive(Debug, Clone)]
pub struct Told {
    pub id: usize,
    pub event: DcsEvent,
    pub at: Instant,
}

impl Told {
    pub fn view(&self) -> Option<&Arc<ClusterView>> {
        match &self.event {
            DcsEvent::View { view, .. } => Some(view),
            DcsEvent::Trouble { .. } => None,
        }
    }

    pub fn leader(&self) -> Option<&str> {
        self.view()?.leader.as_ref().map(|leader| leader.name.as_str())
    }

    pub fn sent_at(&self) -> Option<Instant> {
        match &self.event {
            DcsEvent::View { source: ViewSource::Read { sent_at, .. }, .. } => Some(*sent_at),
            _ => None,
        }
    }

    pub fn lease_left(&self) -> Option<Duration> {
        match &self.event {
            DcsEvent::View { source: ViewSource::Read { lease_left, .. }, .. } => *lease_left,
            _ => None,
        }
    }

    pub fn is_watch(&self) -> bool {
        matches!(self.event, DcsEvent::View { source: ViewSource::Watch, .. })
    }
}

pub struct Listener {
    pub handle: Handle,
    told: mpsc::UnboundedReceiver<Told>,
    pub history: Vec<Told>,
}

impl Listener {
    pub fn to(endpoints: &[String]) -> Listener {
        Listener::with(EtcdAccess { endpoints: endpoints.to_vec(), ..EtcdAccess::default() }, &[PREFIX])
    }

    pub fn with(access: EtcdAccess, prefixes: &[&str]) -> Listener {
        Listener::at(access, prefixes.iter().map(|prefix| Place::below(*prefix)).collect())
    }

    pub fn at(access: EtcdAccess, places: Vec<Place>) -> Listener {
        let (tell, told) = mpsc::unbounded_channel();
        let subscription = |(id, place): (usize, Place)| Subscription { place, id };
        let subscriptions = places.into_iter().enumerate().map(subscription).collect();
        let handle = spawn(access, subscriptions, move |id, event| {
            let _ = tell.send(Told { id, event, at: clock::now() });
        });
        Listener { handle, told, history: Vec::new() }
    }

    pub async fn next(&mut self) -> Told {
        let told = timeout(PATIENCE, self.told.recv()).await;
        let told = told.unwrap_or_else(|_| panic!("silence; last: {:?}", self.history.last())).unwrap();
        self.history.push(told.clone());
        told
    }

    /// Until this long after the last view: the session is somewhere in its back-off.
    pub async fn until_quiet(&mut self, pause: Duration) {
        while let Ok(Some(told)) = timeout(pause, self.told.recv()).await {
            self.history.push(told);
        }
    }

    pub async fn until(&mut self, what: &str, wanted: impl Fn(&Told) -> bool) -> Told {
        let limit = clock::now() + PATIENCE;
        loop {
            let told = self.next().await;
            if wanted(&told) {
                return told;
            }
            assert!(clock::now() < limit, "never came: {what}; last: {told:?}");
        }
    }
}
