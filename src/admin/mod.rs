//! What the router says about itself (`/api/v1/status`, `/metrics`, `/livez`, `/readyz`), and where
//! operators' orders come in.

mod exposition;
mod haproxy;
mod metrics;
mod orders;
mod process;
mod ready;
mod server;
mod status;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;

use crate::decide::{ServiceSnapshot, Snapshot};
use crate::model::{MemberName, Order};

pub use server::{bind, serve};

/// One Patroni cluster as it stands.
#[derive(Debug, Clone)]
pub struct ClusterReport {
    pub name: Arc<str>,
    pub namespace: String,
    pub snapshot: Arc<Snapshot>,
    pub services: Vec<ServiceSnapshot>,
    /// The last thing that went wrong with the DCS: when, which endpoint, what.
    pub trouble: Option<(Instant, String, String)>,
}

/// Why an order was not passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrderError {
    NoSuchCluster,
    NoSuchMember,
    /// Too much is waiting for the cluster's machine already.
    Busy,
}

/// Where reports come from.
pub trait Source: Send + Sync + 'static {
    fn reports(&self) -> Vec<ClusterReport>;

    /// Passes an operator's order on. It is carried out within milliseconds, and shows in the reports.
    fn order(&self, cluster: &str, member: &MemberName, order: Order) -> Result<(), OrderError>;
}

/// Whose orders are taken. There is no password, so this and the refusal of what a browser sends for
/// somebody else's page are all there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OrdersFrom {
    Nobody,
    /// Connections from this host.
    #[default]
    Loopback,
    Everybody,
}

/// Whether the router wants clients at all, and since when it runs.
#[derive(Debug)]
pub struct Lifecycle {
    stopping: AtomicBool,
    process: process::Process,
}

impl Default for Lifecycle {
    /// Of a process that starts now.
    fn default() -> Self {
        Lifecycle { stopping: AtomicBool::new(false), process: process::Process::started_now() }
    }
}

impl Lifecycle {
    pub fn stop(&self) {
        self.stopping.store(true, Relaxed);
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Relaxed)
    }
}
