//! The virtual addresses of `pgvane run`: from a configuration to one task per address, and what those
//! tasks reach sessions and the DCS through.

mod here;
mod marks;
mod tenants;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio::task::{self, JoinHandle};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::decide::Router;
use crate::decide::vip::VipSnapshot;
use crate::model::{MemberName, Reason, Role, VipRight, VipSpec};
use crate::vip::Marks;
use crate::vip::examine;
use crate::vip::holder::{self, Holding};

use super::clock;

pub use here::Here;
pub use marks::ClusterMarks;
pub use tenants::Houses;

/// Longer than that nobody waits in silence for the members of a cluster to be known.
const NAME_EXPECTED: Duration = Duration::from_secs(10);
/// For an address to go when the process ends: its sessions, the kernel, and its mark in the DCS.
const FINISH_MAX: Duration = Duration::from_secs(5);

/// Whether the machine lets these addresses be held; what is only worth a look goes to the log.
///
/// # Errors
/// A sentence for each thing that stands in the way.
pub async fn examine(specs: &[Arc<VipSpec>]) -> Result<(), Vec<String>> {
    let mut errors = Vec::new();
    for spec in specs {
        let findings = examine::examine(spec).await;
        errors.extend(findings.errors.into_iter().map(|error| format!("vips: {error}")));
        findings.warnings.iter().for_each(|warning| tracing::warn!(target: "pgvane::vip", "{warning}"));
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

/// Where the driver of a cluster tells who is to have an address.
#[derive(Debug, Clone)]
pub struct Seat {
    ip: IpAddr,
    role: Role,
    member: Option<MemberName>,
    rights: watch::Sender<VipRight>,
    /// Whom the address follows, once that is known.
    me: watch::Sender<Option<MemberName>>,
}

impl Seat {
    /// Tells what the machine knows by now, when that is news.
    pub fn tell(&self, router: &Router, here: &Here, now: Instant) {
        let member = self.member.clone().or_else(|| here.member_of(router));
        self.me.send_if_modified(|known| {
            let is_news = known.is_none() && member.is_some();
            if is_news {
                known.clone_from(&member);
            }
            is_news
        });
        let right = router.vip_right(self.role, member.as_ref(), self.ip, now);
        self.rights.send_if_modified(|known| {
            let is_news = *known != right;
            if is_news {
                *known = right;
            }
            is_news
        });
    }
}

/// One address at work.
struct Running {
    spec: Arc<VipSpec>,
    /// The cluster's prefix in the DCS: what it is, whatever it is called.
    prefix: String,
    rights: watch::Sender<VipRight>,
    me: watch::Sender<Option<MemberName>>,
    specs: watch::Sender<Arc<VipSpec>>,
    snapshot: Arc<ArcSwap<VipSnapshot>>,
    exit: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    /// Whether `spec` is the same address in the same place, whatever else it says.
    fn is(&self, spec: &VipSpec, prefix: &str) -> bool {
        let same = |a: &VipSpec, b: &VipSpec| {
            a.address == b.address && a.interface == b.interface && a.role == b.role && a.member == b.member
        };
        same(&self.spec, spec) && self.prefix == prefix && !self.task.is_finished()
    }
}

/// Snapshots of all configured addresses, in the order of the configuration.
pub type Board = Arc<ArcSwap<Vec<Arc<ArcSwap<VipSnapshot>>>>>;

/// All addresses of this process. Only the control thread changes it.
pub struct Vips {
    running: Vec<Running>,
    leaving: BTreeMap<IpAddr, JoinHandle<()>>,
    houses: Arc<Houses>,
    board: Board,
}

impl Vips {
    pub fn new(houses: Arc<Houses>) -> Vips {
        Vips { running: Vec::new(), leaving: BTreeMap::new(), houses, board: Board::default() }
    }

    pub fn board(&self) -> Board {
        self.board.clone()
    }

    /// Addresses that are at work already, which need not be looked at again.
    pub fn known(&self) -> Vec<Arc<VipSpec>> {
        self.running.iter().map(|running| running.spec.clone()).collect()
    }

    /// From now on these are the addresses. One that stays keeps its task and is not bounced; one that goes
    /// is released. Gives each cluster's driver, by the cluster's name, whom to tell.
    pub fn become_as(
        &mut self,
        config: &Config,
        marks: impl Fn(&str) -> Arc<ClusterMarks>,
    ) -> BTreeMap<Arc<str>, Vec<Seat>> {
        let mut before = std::mem::take(&mut self.running);
        let mut seats: BTreeMap<Arc<str>, Vec<Seat>> = BTreeMap::new();
        let mut wanted = Vec::new();
        for spec in &config.vips {
            let Some(cluster) = config.clusters.iter().find(|cluster| cluster.spec.name == spec.cluster) else {
                continue;
            };
            let prefix = cluster.spec.prefix();
            let kept = before.iter().position(|running| running.is(spec, &prefix)).map(|at| before.remove(at));
            wanted.push((spec.clone(), prefix, kept));
        }
        before.into_iter().for_each(|running| self.leave(running));
        self.leaving.retain(|_, task| !task.is_finished());
        for (spec, prefix, kept) in wanted {
            let running = match kept {
                Some(running) => {
                    running.specs.send_replace(spec.clone());
                    Running { spec: spec.clone(), ..running }
                }
                None => self.begin(spec.clone(), prefix, marks(&spec.cluster)),
            };
            let (rights, me) = (running.rights.clone(), running.me.clone());
            let (ip, role, member) = (spec.address.ip, spec.role, spec.member.clone());
            seats.entry(spec.cluster.clone()).or_default().push(Seat { ip, role, member, rights, me });
            self.running.push(running);
        }
        self.board.store(Arc::new(self.running.iter().map(|running| running.snapshot.clone()).collect()));
        seats
    }

    fn leave(&mut self, running: Running) {
        running.exit.cancel();
        self.leaving.insert(running.spec.address.ip, running.task);
    }

    fn begin(&mut self, spec: Arc<VipSpec>, prefix: String, marks: Arc<ClusterMarks>) -> Running {
        let (rights, told) = watch::channel(VipRight::unknown(Reason::Starting));
        let (specs, policies) = watch::channel(spec.clone());
        let (me, named) = watch::channel(spec.member.clone());
        let nobody = MemberName::from("");
        let snapshot = Arc::new(ArcSwap::from_pointee(holder::before_the_start(&spec, &nobody, clock::now())));
        let newcomer = Newcomer {
            specs: policies,
            rights: told,
            named,
            marks,
            houses: self.houses.clone(),
            snapshot: snapshot.clone(),
            predecessor: self.leaving.remove(&spec.address.ip),
        };
        let exit = CancellationToken::new();
        let task = task::spawn(newcomer.run(exit.clone()));
        Running { spec, prefix, rights, me, specs, snapshot, exit, task }
    }

    /// Lets every address go, as its `on_exit` says.
    pub async fn finish(mut self) {
        std::mem::take(&mut self.running).into_iter().for_each(|running| self.leave(running));
        let all = async {
            for (_, task) in std::mem::take(&mut self.leaving) {
                let _ended = task.await;
            }
        };
        if timeout(FINISH_MAX, all).await.is_err() {
            tracing::error!(
                target: "pgvane::vip",
                "not every virtual address could be released in {} s; the kernel removes it at the end of its lease",
                FINISH_MAX.as_secs()
            );
        }
    }
}

/// An address whose task begins.
struct Newcomer {
    specs: watch::Receiver<Arc<VipSpec>>,
    rights: watch::Receiver<VipRight>,
    named: watch::Receiver<Option<MemberName>>,
    marks: Arc<ClusterMarks>,
    houses: Arc<Houses>,
    snapshot: Arc<ArcSwap<VipSnapshot>>,
    /// Whoever had the same address until now, and is letting it go.
    predecessor: Option<JoinHandle<()>>,
}

impl Newcomer {
    async fn run(mut self, exit: CancellationToken) {
        if let Some(predecessor) = self.predecessor.take() {
            let _ended = predecessor.await;
        }
        // What an earlier process left behind ends with its lifetime.
        let Some(me) = exit.run_until_cancelled(self.name()).await.flatten() else { return };
        let spec = self.specs.borrow().clone();
        let holding = Holding {
            specs: self.specs,
            marks: self.marks.of(me.clone(), spec.lease) as Arc<dyn Marks>,
            me,
            rights: self.rights,
            tenants: self.houses,
            snapshot: self.snapshot,
        };
        holder::hold(holding, exit).await;
    }

    /// Whom the address follows. Not known before the cluster's members are.
    async fn name(&mut self) -> Option<MemberName> {
        let known = async |named: &mut watch::Receiver<Option<MemberName>>| {
            named.wait_for(Option::is_some).await.ok().and_then(|name| name.clone())
        };
        if let Ok(name) = timeout(NAME_EXPECTED, known(&mut self.named)).await {
            return name;
        }
        let spec = self.specs.borrow().clone();
        let reason = Reason::MemberNotHere;
        self.snapshot.store(Arc::new(VipSnapshot { reason, ..VipSnapshot::clone(&self.snapshot.load()) }));
        tracing::warn!(
            target: "pgvane::vip", address = %spec.address, cluster = %spec.cluster, reason = reason.as_str(),
            "not held: {}. If one is here under another name, write `member: NAME` beside the address", reason.sentence()
        );
        known(&mut self.named).await
    }
}
