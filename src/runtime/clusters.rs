//! The clusters at work: those that are configured, and those that were removed and still have sessions.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task;
use tokio::task::AbortHandle;

use crate::admin::{ClusterReport, Lifecycle, OrderError, Source};
use crate::config::{Cluster, Config};
use crate::dcs::etcd::{EtcdAccess, Handle};
use crate::decide::vip::VipSnapshot;
use crate::decide::{Event, Report, Router, Snapshot};
use crate::model::{MemberName, Order, SpliceSnapshot, VipSpec};
use crate::proxy::{Plane, Prepared, pipes};

use super::clock;
use super::dcs_sessions::{Ear, Sessions, Wanted};
use super::diff::{Diff, Origin, memory_key};
use super::driver::{Change, Driver, MAILBOX_MAX};
use super::memories::{Follower, Keeper};
use super::vips::{Board, ClusterMarks, Here, Houses, Seat, Vips};

/// Reports that may wait for the driver; they are deduplicated, so this is members, not clients.
const REPORTS_MAX: usize = 1024;

/// One cluster of a configuration, with everything done that can fail and nothing begun.
pub struct Ready {
    pub cluster: Cluster,
    pub plane: Arc<Plane>,
    /// Of a plane that is new.
    pub reports: Option<mpsc::Receiver<Report>>,
    pub prepared: Prepared,
    pub access: Option<EtcdAccess>,
    pub api_tls: Option<Arc<rustls::ClientConfig>>,
}

/// Where a new plane's reports come out.
pub fn reports() -> (mpsc::Sender<Report>, mpsc::Receiver<Report>) {
    mpsc::channel(REPORTS_MAX)
}

/// One cluster at work.
#[derive(Clone)]
struct Running {
    /// Never used again in this process.
    id: u64,
    name: Arc<str>,
    namespace: String,
    plane: Arc<Plane>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    sender: mpsc::Sender<Event>,
    changes: mpsc::Sender<Change>,
    ear: Arc<Ear>,
    driver: Option<AbortHandle>,
}

impl Running {
    fn knows(&self, member: &MemberName) -> bool {
        self.snapshot.load().members.iter().any(|known| known.name == *member)
    }

    fn report(&self) -> ClusterReport {
        ClusterReport {
            name: self.name.clone(),
            namespace: self.namespace.clone(),
            snapshot: self.snapshot.load_full(),
            services: self.plane.snapshot(),
            trouble: self.ear.trouble(),
        }
    }
}

/// The configured clusters, as the admin endpoint sees them: always those of one configuration.
pub struct Roster {
    running: ArcSwap<Vec<Running>>,
    vips: Board,
}

impl Source for Roster {
    fn reports(&self) -> Vec<ClusterReport> {
        self.running.load().iter().map(Running::report).collect()
    }

    fn vips(&self) -> Vec<VipSnapshot> {
        self.vips.load().iter().map(|vip| VipSnapshot::clone(&vip.load())).collect()
    }

    fn splice(&self) -> Option<SpliceSnapshot> {
        Some(pipes::snapshot())
    }

    fn order(&self, cluster: &str, member: &MemberName, order: Order) -> Result<(), OrderError> {
        let all = self.running.load();
        let running = all.iter().find(|running| &*running.name == cluster).ok_or(OrderError::NoSuchCluster)?;
        if !running.knows(member) {
            return Err(OrderError::NoSuchMember);
        }
        let event = Event::Order { member: member.clone(), order };
        running.sender.try_send(event).map_err(|_| OrderError::Busy)
    }
}

/// A cluster that the configuration has no more.
struct Leaving {
    plane: Arc<Plane>,
    follower: Follower,
    task: AbortHandle,
}

/// All clusters of this process. Only the control thread changes it.
pub struct Clusters {
    /// In the order of the configuration.
    running: Vec<Running>,
    /// By the running cluster's number.
    followers: BTreeMap<u64, Follower>,
    leaving: Vec<Leaving>,
    roster: Arc<Roster>,
    sessions: Sessions,
    last_id: u64,
    lifecycle: Arc<Lifecycle>,
    vips: Vips,
    houses: Arc<Houses>,
    here: Arc<Here>,
    /// By cluster; where the holders of its virtual addresses say so.
    marks: BTreeMap<Arc<str>, Arc<ClusterMarks>>,
}

impl Clusters {
    pub fn new(lifecycle: Arc<Lifecycle>) -> Clusters {
        let (houses, here) = (Arc::<Houses>::default(), Here::new());
        let vips = Vips::new(houses.clone());
        Clusters {
            running: Vec::new(),
            followers: BTreeMap::new(),
            leaving: Vec::new(),
            roster: Arc::new(Roster { running: ArcSwap::default(), vips: vips.board() }),
            sessions: Sessions::default(),
            last_id: 0,
            lifecycle,
            vips,
            houses,
            here,
            marks: BTreeMap::new(),
        }
    }

    pub fn roster(&self) -> Arc<Roster> {
        self.roster.clone()
    }

    /// The planes of the configured clusters, in the order of the configuration.
    pub fn planes(&self) -> Vec<Arc<Plane>> {
        self.running.iter().map(|running| running.plane.clone()).collect()
    }

    /// Those of removed clusters, too.
    pub fn all_planes(&self) -> Vec<Arc<Plane>> {
        let leaving = self.leaving.iter().map(|leaving| leaving.plane.clone());
        self.running.iter().map(|running| running.plane.clone()).chain(leaving).collect()
    }

    /// Becomes what `config` says. `ready` are its clusters, in its order. Nothing here can fail or
    /// wait; each receiver tells that one cluster is what it should be.
    ///
    /// Memories get their names before anybody new recalls one, and new DCS sessions begin before any
    /// driver lets go of an old one.
    pub fn become_as(
        &mut self,
        config: &Config,
        diff: &Diff,
        ready: Vec<Ready>,
        hold_max: usize,
        keeper: &Keeper,
    ) -> Vec<oneshot::Receiver<()>> {
        let mut before: Vec<Option<Running>> = std::mem::take(&mut self.running).into_iter().map(Some).collect();
        let mut kept = |origin: &Origin| match origin {
            Origin::Kept { old, .. } => before.get_mut(*old).and_then(Option::take),
            Origin::Added => None,
        };
        let origins: Vec<Option<Running>> = diff.clusters.iter().map(&mut kept).collect();
        let removed: Vec<Running> = before.into_iter().flatten().collect();
        self.rename_memories(config, &origins, keeper);

        let mut begun = Vec::new();
        let mut wanted = Vec::new();
        for (ready, origin) in ready.into_iter().zip(origins) {
            let key = memory_key(&ready.cluster, &config.clusters);
            let (running, turn) = match origin {
                Some(running) => (running.renamed(&ready.cluster), Turn::Change(Box::new(ready))),
                None => self.begin(ready, key, keeper),
            };
            wanted.push(turn.wanted(&running));
            begun.push((running, turn));
        }
        let mut handles = self.sessions.arrange(wanted);
        self.arrange_marks(&begun);
        // Before anything is claimed, all who could come in by it are known.
        let houses = begun.iter().map(|(running, _)| running).chain(&removed).map(|running| running.plane.clone());
        self.houses.become_as(houses.chain(self.leaving.iter().map(|leaving| leaving.plane.clone())).collect());
        let mut seats = self.arrange_vips(config);
        let mut told = Vec::new();
        for (mut running, turn) in begun {
            let dcs = handles.remove(&running.id);
            let seats = seats.remove(&running.name).unwrap_or_default();
            match turn {
                Turn::Change(ready) => told.extend(running.change(*ready, dcs, seats, hold_max)),
                Turn::Begin(newcomer) => running.driver = Some(newcomer.begin(dcs, seats, hold_max)),
            }
            self.running.push(running);
        }
        self.roster.running.store(Arc::new(self.running.clone()));
        removed.into_iter().for_each(|running| self.leave(running));
        told
    }

    /// One writer of marks for each cluster; its access to the DCS may have changed.
    fn arrange_marks(&mut self, begun: &[(Running, Turn)]) {
        self.marks.retain(|name, _| begun.iter().any(|(running, _)| running.name == *name));
        for (running, turn) in begun {
            let (access, prefix) = turn.dcs();
            self.marks.entry(running.name.clone()).or_default().reach(access, prefix);
        }
    }

    fn arrange_vips(&mut self, config: &Config) -> BTreeMap<Arc<str>, Vec<Seat>> {
        if config.vips.iter().any(|vip| vip.member.is_none()) {
            self.here.watch();
        }
        let marks = &self.marks;
        self.vips.become_as(config, |cluster| marks.get(cluster).cloned().unwrap_or_default())
    }

    /// Virtual addresses that are at work.
    pub fn vips(&self) -> Vec<Arc<VipSpec>> {
        self.vips.known()
    }

    /// Lets the virtual addresses go.
    pub async fn finish(self) {
        self.vips.finish().await;
    }

    /// Another cluster of the same prefix came or went.
    fn rename_memories(&mut self, config: &Config, origins: &[Option<Running>], keeper: &Keeper) {
        let mut ids = Vec::new();
        let mut renamed = Vec::new();
        for (cluster, running) in config.clusters.iter().zip(origins) {
            let Some(running) = running else { continue };
            let key = memory_key(cluster, &config.clusters);
            if self.followers.get(&running.id).is_some_and(|follower| follower.key != key)
                && let Some(follower) = self.followers.remove(&running.id)
            {
                ids.push(running.id);
                renamed.push((follower, key));
            }
        }
        if !renamed.is_empty() {
            self.followers.extend(ids.into_iter().zip(keeper.rename(renamed)));
        }
    }

    fn begin(&mut self, ready: Ready, key: String, keeper: &Keeper) -> (Running, Turn) {
        self.last_id += 1;
        // A removed cluster that still has sessions must not write over what this one learns.
        self.leaving.iter().filter(|leaving| leaving.follower.key == key).for_each(|leaving| leaving.follower.stop());
        let memory = keeper.recall(&key);
        let spec = ready.cluster.spec.clone();
        let router = Router::new(spec.clone(), memory.clone(), clock::now());
        let (sender, mailbox) = mpsc::channel(MAILBOX_MAX);
        let (change, changes) = mpsc::channel(1);
        let snapshot = Arc::new(ArcSwap::from_pointee(router.snapshot()));
        let (remember, memories) = watch::channel(memory);
        self.followers.insert(self.last_id, keeper.follow(key, memories));
        let driver = Driver {
            router,
            mailbox,
            sender: sender.clone(),
            reports: ready.reports.unwrap_or_else(|| reports().1),
            changes,
            plane: ready.plane.clone(),
            dcs: None,
            api_tls: ready.api_tls,
            snapshot: snapshot.clone(),
            memory: remember,
            probes: HashMap::new(),
            seats: Vec::new(),
            here: self.here.clone(),
        };
        let running = Running {
            id: self.last_id,
            name: spec.name.clone(),
            namespace: spec.namespace.clone(),
            plane: ready.plane,
            snapshot,
            ear: Arc::new(Ear::new(sender.clone())),
            sender,
            changes: change,
            driver: None,
        };
        (running, Turn::Begin(Box::new(Newcomer { driver, prepared: ready.prepared, access: ready.access })))
    }

    /// Its listeners close and its held clients are told. Its machine, its checks and its DCS session go
    /// on until its last session has ended: one to a deposed primary is still cut.
    fn leave(&mut self, running: Running) {
        self.leaving.retain(|leaving| !leaving.task.is_finished());
        let Some(follower) = self.followers.remove(&running.id) else { return };
        running.plane.stop_accepting();
        let (plane, lifecycle) = (running.plane.clone(), self.lifecycle.clone());
        let task = task::spawn(async move {
            lifecycle.cluster_leaves();
            see_off(&running).await;
            lifecycle.cluster_left();
        });
        self.leaving.push(Leaving { plane, follower, task: task.abort_handle() });
    }
}

/// What becomes of a cluster in one reload.
enum Turn {
    Change(Box<Ready>),
    Begin(Box<Newcomer>),
}

impl Turn {
    /// How to reach its DCS, and its prefix there.
    fn dcs(&self) -> (Option<EtcdAccess>, String) {
        match self {
            Turn::Change(ready) => (ready.access.clone(), ready.cluster.spec.prefix()),
            Turn::Begin(newcomer) => (newcomer.access.clone(), newcomer.driver.router.spec().prefix()),
        }
    }

    fn wanted(&self, running: &Running) -> Wanted {
        let (access, prefix) = self.dcs();
        Wanted { cluster: running.id, prefix, access, ear: running.ear.clone() }
    }
}

/// A cluster that is about to begin.
struct Newcomer {
    driver: Driver,
    prepared: Prepared,
    access: Option<EtcdAccess>,
}

impl Newcomer {
    fn begin(self, dcs: Option<Arc<Handle>>, seats: Vec<Seat>, hold_max: usize) -> AbortHandle {
        let mut driver = self.driver;
        driver.plane.apply(self.prepared, hold_max);
        (driver.dcs, driver.seats) = (dcs, seats);
        task::spawn(driver.run()).abort_handle()
    }
}

impl Running {
    fn renamed(self, cluster: &Cluster) -> Running {
        Running { name: cluster.spec.name.clone(), namespace: cluster.spec.namespace.clone(), ..self }
    }

    fn change(
        &self,
        ready: Ready,
        dcs: Option<Arc<Handle>>,
        seats: Vec<Seat>,
        hold_max: usize,
    ) -> Option<oneshot::Receiver<()>> {
        let (done, told) = oneshot::channel();
        let Ready { cluster, prepared, api_tls, .. } = ready;
        let change = Change { spec: cluster.spec, prepared, hold_max, dcs, api_tls, seats, done };
        // One reload waits for the answer before the next begins, so there is a place for it.
        if self.changes.try_send(change).is_err() {
            tracing::error!(target: "pgvane::reload", cluster = %self.name, "its driver does not answer; it stays as it was");
            return None;
        }
        Some(told)
    }
}

async fn see_off(running: &Running) {
    let (cluster, since) = (&*running.name, clock::now());
    let sessions = running.plane.registry().sessions_open();
    tracing::info!(
        target: "pgvane::reload", cluster, sessions,
        "removed from the configuration: its listeners are closed, its sessions may go on until they end"
    );
    // Its sessions have all the time they want.
    running.plane.outlast().await;
    if let Some(driver) = &running.driver {
        driver.abort();
    }
    let seconds = clock::now().saturating_duration_since(since).as_secs_f64();
    let by_now = running.plane.snapshot();
    let total: u64 = by_now.iter().map(|service| service.sessions_total).sum();
    tracing::info!(
        target: "pgvane::reload", cluster, seconds, sessions_total = total,
        "the removed cluster has no sessions any more: nothing of it goes on"
    );
}
