//! `pgvane vip`: one address that follows one key, until the process is told to end.

mod asked;
mod desk;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ClientConfig;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::admin::{self, ClusterReport, Lifecycle, OrderError};
use crate::config::{EtcdSpec, Secret, TlsFiles};
use crate::dcs::etcd::{self, EtcdAccess, Handle, MarkWriter, Subscription};
use crate::dcs::place::Place;
use crate::decide::vip::VipSnapshot;
use crate::model::{ApiAddress, HostPort, MemberName, Order, VipOnDcsLoss, VipRight, VipSpec};
use crate::vip::examine::examine;
use crate::vip::holder::{Holding, before_the_start, hold};
use crate::vip::{Marks, NoMarks, NoTenants};

use super::clock;
use super::material;
use super::signals::{Signals, Wish};
use super::vip_marks::{EtcdMarks, MarkKey};
use desk::{Desk, KEY, MARK};

/// For the release, with everything that it waits for. What has not gone by then goes with its lease.
const EXIT_MAX: Duration = Duration::from_secs(10);

/// Where HTTP is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub api: ApiAddress,
    /// In front of every path, without a slash at its end.
    pub path: String,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.api, self.path)
    }
}

/// Who tells whose the address is.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    Etcd {
        etcd: EtcdSpec,
        /// To the letter, and so is `value`.
        key: String,
        value: String,
        /// None: holders do not hand over by a key.
        mark_key: Option<String>,
    },
    Consul {
        endpoints: Vec<Endpoint>,
        key: String,
        value: String,
        token: Option<Secret>,
    },
    /// The status of one page of Patroni's REST API.
    Patroni {
        endpoint: Endpoint,
        /// With a slash at its beginning.
        path: String,
        /// The status as text.
        value: String,
        every: Duration,
    },
}

impl Source {
    pub fn endpoints(&self) -> Vec<String> {
        match self {
            Source::Etcd { etcd, .. } => etcd.endpoints.clone(),
            Source::Consul { endpoints, .. } => endpoints.iter().map(Endpoint::to_string).collect(),
            Source::Patroni { endpoint, .. } => vec![endpoint.to_string()],
        }
    }

    /// What must be found for the address to be ours.
    fn value(&self) -> &str {
        match self {
            Source::Etcd { value, .. } | Source::Consul { value, .. } | Source::Patroni { value, .. } => value,
        }
    }
}

/// The Patroni of this host, which is asked when the DCS cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Voucher {
    pub endpoint: Endpoint,
    /// What its member must be called.
    pub member: String,
    /// In which its scope must be found.
    pub key: String,
}

/// What `pgvane vip` is to do.
#[derive(Debug, Clone)]
pub struct Plan {
    pub spec: Arc<VipSpec>,
    /// What the hand-over key calls this holder.
    pub me: MemberName,
    pub source: Source,
    pub patroni: Option<Voucher>,
    /// For https of every kind.
    pub tls: Option<TlsFiles>,
    pub admin: Option<HostPort>,
}

/// Why the address is not held.
#[derive(Debug)]
pub enum Trouble {
    /// Something that an operator has to change.
    Refused(Vec<String>),
    /// What this machine, as it is, does not let be done.
    Unfit(Vec<String>),
    Failed(String),
}

/// Knowledge of the right to the address, as long as this lives.
pub struct Following {
    pub rights: watch::Receiver<VipRight>,
    pub marks: Arc<dyn Marks>,
    _asking: JoinSet<()>,
    _session: Option<Handle>,
}

/// The process before it has settings: from here on signals do what this says.
pub struct Process {
    runtime: Runtime,
    signals: Signals,
}

impl Process {
    /// # Errors
    /// When the operating system has no thread or signal for it.
    pub fn new() -> io::Result<Process> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let signals = {
            let _entered = runtime.enter();
            Signals::new()?
        };
        Ok(Process { runtime, signals })
    }

    /// Holds the address whenever it is to be held, until SIGTERM or SIGINT.
    ///
    /// # Errors
    /// What keeps it from starting, or what ended it.
    pub fn run(mut self, plan: &Plan) -> Result<(), Trouble> {
        let outcome = self.runtime.block_on(serve(plan, &mut self.signals));
        self.runtime.shutdown_background();
        outcome
    }
}

async fn serve(plan: &Plan, signals: &mut Signals) -> Result<(), Trouble> {
    let findings = examine(&plan.spec).await;
    if !findings.errors.is_empty() {
        return Err(Trouble::Unfit(findings.errors));
    }
    for warning in findings.warnings {
        tracing::warn!(target: "pgvane::vip", "{warning}");
    }
    let following = follow(plan).map_err(|problem| Trouble::Refused(vec![problem]))?;
    let snapshot = Arc::new(ArcSwap::from_pointee(before_the_start(&plan.spec, &plan.me, clock::now())));
    let lifecycle = Arc::new(Lifecycle::default());
    lifecycle.configured(clock::unix_seconds());
    let mut asked = JoinSet::new();
    if let Some(at) = &plan.admin {
        let bound = admin::bind(at).await;
        let listener =
            bound.map_err(|error| Trouble::Refused(vec![format!("admin-listen: cannot listen on {at}: {error}")]))?;
        asked.spawn(admin::serve(listener, Arc::new(Alone { snapshot: snapshot.clone() }), lifecycle.clone()));
    }
    let exit = CancellationToken::new();
    // Settings are read once.
    let (_settings, specs) = watch::channel(plan.spec.clone());
    let holding = Holding {
        specs,
        me: plan.me.clone(),
        rights: following.rights.clone(),
        tenants: Arc::new(NoTenants),
        marks: following.marks.clone(),
        snapshot,
    };
    // What is followed must be followed to the end: it carries the right, and the hand-over key's deletion.
    let outcome = until_told(hold(holding, exit.clone()), &exit, &lifecycle, signals).await;
    drop(following);
    outcome
}

async fn until_told(
    held: impl Future<Output = ()>,
    exit: &CancellationToken,
    lifecycle: &Lifecycle,
    signals: &mut Signals,
) -> Result<(), Trouble> {
    let mut held = std::pin::pin!(held);
    loop {
        tokio::select! {
            () = &mut held => return Err(Trouble::Failed("nobody holds the address any more".to_owned())),
            wish = signals.next() => match wish {
                Wish::Reload => tracing::info!(
                    target: "pgvane::vip", "SIGHUP is ignored: settings are read at the start; restart to change them"
                ),
                Wish::End(signal) => {
                    tracing::info!(target: "pgvane::vip", signal, "Received exit signal");
                    break;
                }
            },
        }
    }
    lifecycle.stop();
    exit.cancel();
    tokio::select! {
        outcome = timeout(EXIT_MAX, held) => match outcome {
            Ok(()) => Ok(()),
            Err(_elapsed) => Err(Trouble::Failed(format!(
                "the address is not released after {} s; it goes with its lease", EXIT_MAX.as_secs()
            ))),
        },
        signal = signals.end() => {
            tracing::warn!(target: "pgvane::vip", signal, "told twice: the address goes with its lease");
            Ok(())
        }
    }
}

/// Begins to ask, or to read and watch. Needs a tokio runtime.
///
/// # Errors
/// Which file is wrong, and why.
pub fn follow(plan: &Plan) -> Result<Following, String> {
    let tls = material::api_tls(plan.tls.as_ref())?;
    let (desk, rights) = Desk::open(plan.source.value(), plan.spec.address.ip);
    let mut asking = JoinSet::new();
    let mut marks: Arc<dyn Marks> = Arc::new(NoMarks);
    let mut session = None;
    match &plan.source {
        Source::Etcd { etcd, key, mark_key, .. } => {
            let access = material::etcd_access(etcd)?;
            if let Some(mark_key) = mark_key {
                marks = Arc::new(marks_of(plan, &access, mark_key));
            }
            session = Some(subscribe(access, key, mark_key.as_deref(), plan, &desk));
        }
        Source::Consul { endpoints, key, token, .. } => {
            let consul = asked::Consul::new(endpoints.clone(), key, token.clone(), tls.clone());
            asking.spawn(consul.follow(desk.clone()));
        }
        Source::Patroni { endpoint, path, every, .. } => {
            asking.spawn(asked::patroni(desk.clone(), endpoint.clone(), path.clone(), *every, tls.clone()));
        }
    }
    if let Some(voucher) = vouching(plan) {
        asking.spawn(asked::vouch(desk, voucher, tls));
    }
    Ok(Following { rights, marks, _asking: asking, _session: session })
}

/// Who vouches for the member, where the policy asks for that.
fn vouching(plan: &Plan) -> Option<Voucher> {
    plan.patroni.clone().filter(|_| plan.spec.on_dcs_loss == VipOnDcsLoss::KeepWhilePatroniLeads)
}

fn marks_of(plan: &Plan, access: &EtcdAccess, key: &str) -> EtcdMarks {
    let mark = MarkKey::new(key, plan.me.as_str(), plan.spec.lease);
    let keys = BTreeMap::from([(plan.spec.address.ip, mark)]);
    EtcdMarks::new(Arc::new(MarkWriter::new(access.clone())), keys)
}

fn subscribe(access: EtcdAccess, key: &str, mark_key: Option<&str>, plan: &Plan, desk: &Arc<Desk>) -> Handle {
    let mut subscriptions = vec![Subscription { place: Place::leader(key), id: KEY }];
    if let Some(mark_key) = mark_key {
        subscriptions.push(Subscription { place: Place::mark(mark_key, plan.spec.address.ip), id: MARK });
    }
    tracing::info!(target: "pgvane::dcs", "Setting WATCH on {key}");
    let desk = desk.clone();
    etcd::spawn(access, subscriptions, move |id, event| desk.hear(id, event))
}

/// What the admin endpoint tells of an address that is held alone.
struct Alone {
    snapshot: Arc<ArcSwap<VipSnapshot>>,
}

impl admin::Source for Alone {
    fn reports(&self) -> Vec<ClusterReport> {
        Vec::new()
    }

    fn vips(&self) -> Vec<VipSnapshot> {
        vec![VipSnapshot::clone(&self.snapshot.load())]
    }

    fn order(&self, _cluster: &str, _member: &MemberName, _order: Order) -> Result<(), OrderError> {
        Err(OrderError::NoSuchCluster)
    }
}

/// A client's TLS, if there is any.
type Tls = Option<Arc<ClientConfig>>;
