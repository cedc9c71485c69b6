//! `pgvane run`: from a checked configuration to a router that serves, and to its end.
//!
//! Two runtimes: decisions, DCS sessions and checks have a thread of their own, so that ten thousand
//! busy sessions on the data plane's threads cannot delay a leader change.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::admin::{self, ClusterReport, Lifecycle, OrderError};
use crate::config::{Cluster, Config, EtcdSpec, TlsFiles};
use crate::dcs::DcsEvent;
use crate::dcs::etcd::{self, EtcdAccess, EtcdTls, Subscription};
use crate::decide::{Event, Memory, Report, Router, Snapshot};
use crate::model::{MemberName, Order};
use crate::probe::tls::{TlsMaterial, client_config};
use crate::proxy::Plane;

use super::driver::{Driver, MAILBOX_MAX};
use super::{clock, memories, state_file};

/// Reports that may wait for the driver; they are deduplicated, so this is members, not clients.
const REPORTS_MAX: usize = 1024;
/// Descriptors kept for listeners, checks, the DCS and the admin endpoint.
const DESCRIPTORS_RESERVE: usize = 256;
/// Where the kernel does not tell.
const DESCRIPTORS_FALLBACK: usize = 1024;

/// One Patroni cluster at work.
struct Running {
    name: Arc<str>,
    namespace: String,
    plane: Arc<Plane>,
    sender: mpsc::Sender<Event>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    trouble: Arc<Mutex<Option<Trouble>>>,
}

type Trouble = (std::time::Instant, String, String);

struct Reports(Vec<Running>);

impl Running {
    fn knows(&self, member: &MemberName) -> bool {
        self.snapshot.load().members.iter().any(|known| known.name == *member)
    }
}

impl admin::Source for Reports {
    fn reports(&self) -> Vec<ClusterReport> {
        let report = |running: &Running| ClusterReport {
            name: running.name.clone(),
            namespace: running.namespace.clone(),
            snapshot: running.snapshot.load_full(),
            services: running.plane.snapshot(),
            trouble: running.trouble.lock().clone(),
        };
        self.0.iter().map(report).collect()
    }

    fn order(&self, cluster: &str, member: &MemberName, order: Order) -> Result<(), OrderError> {
        let running = self.0.iter().find(|running| &*running.name == cluster).ok_or(OrderError::NoSuchCluster)?;
        if !running.knows(member) {
            return Err(OrderError::NoSuchMember);
        }
        let event = Event::Order { member: member.clone(), order };
        running.sender.try_send(event).map_err(|_| OrderError::Busy)
    }
}

/// Serves until SIGTERM or SIGINT. Errors are what keeps it from starting.
pub fn run(config: Config) -> Result<()> {
    let data = Builder::new_multi_thread()
        .thread_name("pgvane-data")
        .enable_all()
        .build()
        .context("cannot start the data plane's threads")?;
    let control = Builder::new_current_thread().enable_all().build().context("cannot start the control thread")?;
    let outcome = control.block_on(serve(config, &data));
    data.shutdown_background();
    outcome
}

async fn serve(config: Config, data: &Runtime) -> Result<()> {
    let mut signals = Signals::new().context("cannot listen for signals")?;
    let lifecycle = Arc::new(Lifecycle::default());
    let remembered = recall(config.state_file.as_ref());
    let keeper = memories::Keeper::start(config.state_file.clone(), remembered.clone());
    let started = start_clusters(&config, data, &remembered, &keeper)?;
    let planes: Vec<Arc<Plane>> = started.iter().map(|running| running.plane.clone()).collect();
    let source = Arc::new(Reports(started));
    for at in config.admin.iter().flat_map(|admin| &admin.listen) {
        let listener = admin::bind(at).await.with_context(|| format!("admin: cannot listen on {at}"))?;
        tokio::spawn(admin::serve(listener, source.clone(), lifecycle.clone()));
        tracing::info!(target: "pgvane::run", %at, "admin endpoint");
    }
    let word = signals.next().await;
    tracing::info!(target: "pgvane::run", signal = word, delay = ?config.shutdown.delay, "shutting down: /readyz says no from now on");
    lifecycle.stop();
    tokio::select! {
        () = stop(&planes, config.shutdown.delay, config.shutdown.drain) => {}
        word = signals.next() => tracing::warn!(target: "pgvane::run", signal = word, "told twice: not draining any further"),
    }
    keeper.finish().await;
    Ok(())
}

/// First readiness, then the listeners, then the sessions.
async fn stop(planes: &[Arc<Plane>], delay: Duration, drain: Duration) {
    tokio::time::sleep(delay).await;
    planes.iter().for_each(|plane| plane.stop_accepting());
    let draining: Vec<_> =
        planes.iter().cloned().map(|plane| tokio::spawn(async move { plane.drain(drain).await })).collect();
    let mut cut = 0;
    for task in draining {
        cut += task.await.unwrap_or(0);
    }
    tracing::info!(target: "pgvane::run", cut, "drained");
}

fn recall(path: Option<&PathBuf>) -> state_file::Memories {
    let Some(path) = path else { return state_file::Memories::new() };
    let (memories, problems) = state_file::load(path);
    for problem in problems {
        tracing::error!(target: "pgvane::run", "{problem}");
    }
    memories
}

fn start_clusters(
    config: &Config,
    data: &Runtime,
    remembered: &state_file::Memories,
    keeper: &memories::Keeper,
) -> Result<Vec<Running>> {
    let listeners: usize = config.clusters.iter().flat_map(|c| &c.spec.services).map(|s| s.listen.len()).sum();
    let hold_max = hold_max(listeners);
    let mut prepared = Vec::new();
    let mut refused = Vec::new();
    for cluster in &config.clusters {
        let (reporter, reports) = mpsc::channel(REPORTS_MAX);
        let _on_data_plane = data.enter();
        match Plane::start(cluster.spec.name.clone(), &cluster.spec.services, reporter, hold_max) {
            Ok(plane) => prepared.push((cluster, Arc::new(plane), reports)),
            Err(errors) => refused.extend(errors.iter().map(ToString::to_string)),
        }
    }
    if !refused.is_empty() {
        return Err(anyhow!("{}", refused.join("\n")));
    }
    let mut lines = Vec::new();
    let mut running = Vec::new();
    for (cluster, plane, reports) in prepared {
        let key = memory_key(cluster, &config.clusters);
        let memory = remembered.get(&key).cloned().unwrap_or_default();
        let (line, one) = prepare(cluster, plane, reports, (key, memory), keeper)?;
        lines.push(line);
        running.push(one);
    }
    for session in sessions(lines)? {
        session.start();
    }
    Ok(running)
}

/// Under which name the state file knows a cluster: its prefix, and where two etcds hold the same
/// prefix the endpoints, too, because nobody may be served by what another cluster left behind.
fn memory_key(cluster: &Cluster, all: &[Cluster]) -> String {
    let prefix = cluster.spec.prefix();
    let shared = all.iter().filter(|other| other.spec.prefix() == prefix).count() > 1;
    if shared {
        format!(
            "{prefix} {}",
            cluster.etcd.iter().flat_map(|etcd| etcd.endpoints.clone()).collect::<Vec<_>>().join(",")
        )
    } else {
        prefix
    }
}

/// Held clients use a descriptor each, and one more for the server when they are let go.
fn hold_max(listeners: usize) -> usize {
    (descriptors().saturating_sub(DESCRIPTORS_RESERVE + listeners) / 2).max(1)
}

/// As many descriptors as this process may have: the soft limit is raised to the hard one.
fn descriptors() -> usize {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return DESCRIPTORS_FALLBACK };
    let raised = setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok();
    usize::try_from(if raised { hard } else { soft }).unwrap_or(usize::MAX)
}

/// A driver that waits for its DCS session.
struct Line {
    etcd: EtcdSpec,
    prefix: String,
    sender: mpsc::Sender<Event>,
    trouble: Arc<Mutex<Option<Trouble>>>,
    drive: Box<dyn FnOnce(Arc<etcd::Handle>)>,
}

fn prepare(
    cluster: &Cluster,
    plane: Arc<Plane>,
    reports: mpsc::Receiver<Report>,
    (key, memory): (String, Memory),
    keeper: &memories::Keeper,
) -> Result<(Line, Running)> {
    let spec = cluster.spec.clone();
    let router = Router::new(spec.clone(), memory.clone(), clock::now());
    let (sender, mailbox) = mpsc::channel(MAILBOX_MAX);
    let snapshot = Arc::new(ArcSwap::from_pointee(router.snapshot()));
    let trouble = Arc::new(Mutex::new(None));
    let api_tls =
        api_tls(cluster.patroni_tls.as_ref()).with_context(|| format!("clusters/{}: patroni.tls", spec.name))?;
    let (remember, memories) = watch::channel(memory);
    keeper.follow(key, memories);
    let (acting, telling, shown) = (plane.clone(), sender.clone(), snapshot.clone());
    let drive = Box::new(move |dcs| {
        let probes = std::collections::HashMap::new();
        let driver = Driver {
            router,
            mailbox,
            sender: telling,
            reports,
            plane: acting,
            dcs,
            api_tls,
            snapshot: shown,
            memory: remember,
            probes,
        };
        tokio::spawn(driver.run());
    });
    let line = Line {
        etcd: cluster.etcd.clone().unwrap_or_default(),
        prefix: spec.prefix(),
        sender: sender.clone(),
        trouble: trouble.clone(),
        drive,
    };
    let running =
        Running { name: spec.name.clone(), namespace: spec.namespace.clone(), plane, sender, snapshot, trouble };
    Ok((line, running))
}

/// One etcd cluster and the Patroni clusters behind it.
struct Session {
    etcd: EtcdSpec,
    access: EtcdAccess,
    lines: Vec<Line>,
}

/// Clusters with the same endpoints and credentials share one session.
fn sessions(lines: Vec<Line>) -> Result<Vec<Session>> {
    let mut sessions: Vec<Session> = Vec::new();
    for line in lines {
        match sessions.iter_mut().find(|s| s.etcd == line.etcd) {
            Some(session) => session.lines.push(line),
            None => {
                let access = access(&line.etcd)?;
                sessions.push(Session { etcd: line.etcd.clone(), access, lines: vec![line] });
            }
        }
    }
    Ok(sessions)
}

impl Session {
    fn start(self) {
        let prefixes = self.lines.iter().enumerate();
        let subscriptions = prefixes.map(|(id, line)| Subscription { prefix: line.prefix.clone(), id }).collect();
        let ears: Vec<_> = self.lines.iter().map(|line| (line.sender.clone(), line.trouble.clone())).collect();
        let handle = etcd::spawn(self.access, subscriptions, move |id, event| {
            if let Some((sender, trouble)) = ears.get(id) {
                hear(sender, trouble, event);
            }
        });
        let handle = Arc::new(handle);
        for line in self.lines {
            (line.drive)(handle.clone());
        }
    }
}

fn hear(sender: &mpsc::Sender<Event>, trouble: &Mutex<Option<Trouble>>, event: DcsEvent) {
    match event {
        DcsEvent::View { view, source } => {
            if sender.try_send(Event::View { view, source }).is_err() {
                // The next read, within a second, tells all of it again.
                tracing::warn!(target: "pgvane::dcs", "the driver's mailbox is full; a view was dropped");
            }
        }
        DcsEvent::Trouble { endpoint, problem } => {
            tracing::warn!(target: "pgvane::dcs", endpoint, problem, "etcd");
            *trouble.lock() = Some((clock::now(), endpoint, problem));
        }
    }
}

fn access(spec: &EtcdSpec) -> Result<EtcdAccess> {
    let tls = spec.tls.as_ref().map(read_tls).transpose().context("dcs.etcd.tls")?;
    let tls = tls.map(|(ca, cert, key)| EtcdTls { ca, cert, key });
    let password = spec.password.as_ref().map(|secret| secret.reveal().to_owned());
    Ok(EtcdAccess { endpoints: spec.endpoints.clone(), username: spec.username.clone(), password, tls })
}

type Pem = Option<Vec<u8>>;

fn read_tls(files: &TlsFiles) -> Result<(Pem, Pem, Pem)> {
    let read = |path: &Option<PathBuf>| -> Result<Pem> {
        let Some(path) = path else { return Ok(None) };
        std::fs::read(path).map(Some).with_context(|| format!("{}: cannot be read", path.display()))
    };
    Ok((read(&files.ca)?, read(&files.cert)?, read(&files.key)?))
}

/// Members may have an https address without any `patroni.tls`: the system's roots are believed then.
fn api_tls(files: Option<&TlsFiles>) -> Result<Option<Arc<rustls::ClientConfig>>> {
    let (ca, cert, key) = files.map(read_tls).transpose()?.unwrap_or_default();
    let material = TlsMaterial { ca, cert, key };
    match client_config(&material) {
        Ok(config) => Ok(Some(config)),
        // Without roots on this machine only plain http can be asked, which is fine unless asked for.
        Err(_) if files.is_none() => Ok(None),
        Err(problem) => Err(anyhow!(problem)),
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        Ok(Signals { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(endpoints: [&str; 2]) -> Vec<String> {
        let cluster = |port: u16, etcd: &str| {
            format!(
                "  - {{ name: a, dcs: {{ etcd: {{ endpoints: [{etcd}] }} }}, services: {{ primary: {{ listen: \"127.0.0.1:{port}\", role: primary }} }} }}\n"
            )
        };
        let namespaced = |text: String| text.replace("name: a", "name: b");
        let second = cluster(5434, endpoints[1]);
        let second = if endpoints[0] == endpoints[1] { namespaced(second) } else { second };
        let text = format!("clusters:\n{}{second}", cluster(5433, endpoints[0]));
        let none = |_: &std::path::Path| Err(std::io::Error::other("no files here"));
        let config = crate::config::parse("test.yml", &text, &|_| None, &none).unwrap();
        config.clusters.iter().map(|cluster| memory_key(cluster, &config.clusters)).collect()
    }

    #[test]
    fn clusters_of_one_name_on_two_etcds_do_not_share_a_memory() {
        let keys = keys(["http://127.0.0.1:2379", "http://127.0.0.1:3379"]);
        assert_ne!(keys[0], keys[1]);
    }

    #[test]
    fn a_name_of_its_own_survives_a_change_of_endpoints() {
        assert_eq!(keys(["http://127.0.0.1:2379"; 2]), ["/service/a/", "/service/b/"]);
    }
}
