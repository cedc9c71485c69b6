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
mod vips;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use parking_lot::Mutex;

use crate::decide::vip::VipSnapshot;
use crate::decide::{ServiceSnapshot, Snapshot};
pub use crate::model::OrdersFrom;
use crate::model::{MemberName, Order, SpliceSnapshot};

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

    /// The virtual addresses, in the order of the configuration.
    fn vips(&self) -> Vec<VipSnapshot> {
        Vec::new()
    }

    /// How bulk data goes to clients; None where there are no clients.
    fn splice(&self) -> Option<SpliceSnapshot> {
        None
    }

    /// Passes an operator's order on. It is carried out within milliseconds, and shows in the reports.
    fn order(&self, cluster: &str, member: &MemberName, order: Order) -> Result<(), OrderError>;
}

/// Whether the router wants clients at all, since when it runs, and which configuration it serves by.
#[derive(Debug)]
pub struct Lifecycle {
    stopping: AtomicBool,
    process: process::Process,
    orders: Mutex<OrdersFrom>,
    reloads: Mutex<Reloads>,
    /// Clusters that were removed from the configuration and still have sessions.
    leaving: AtomicUsize,
}

impl Default for Lifecycle {
    /// Of a process that starts now.
    fn default() -> Self {
        Lifecycle {
            stopping: AtomicBool::new(false),
            process: process::Process::started_now(),
            orders: Mutex::default(),
            reloads: Mutex::default(),
            leaving: AtomicUsize::default(),
        }
    }
}

/// What became of reloads.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Reloads {
    pub ok: u64,
    pub refused: u64,
    /// The file was refused when it was read last.
    pub stale: bool,
    /// When the present configuration was read, in seconds since 1970.
    pub configured_at: f64,
}

impl Lifecycle {
    pub fn stop(&self) {
        self.stopping.store(true, Relaxed);
    }

    /// From here on orders are taken from these.
    pub fn obey(&self, orders: OrdersFrom) {
        *self.orders.lock() = orders;
    }

    pub fn obeys(&self) -> OrdersFrom {
        *self.orders.lock()
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Relaxed)
    }

    /// The start. `at` is in seconds since 1970.
    pub fn configured(&self, at: f64) {
        self.reloads.lock().configured_at = at;
    }

    /// `at` is in seconds since 1970.
    pub fn reloaded(&self, ok: bool, at: f64) {
        let mut reloads = self.reloads.lock();
        reloads.stale = !ok;
        if ok {
            reloads.ok += 1;
            reloads.configured_at = at;
        } else {
            reloads.refused += 1;
        }
    }

    pub fn reloads(&self) -> Reloads {
        *self.reloads.lock()
    }

    pub fn cluster_leaves(&self) {
        self.leaving.fetch_add(1, Relaxed);
    }

    pub fn cluster_left(&self) {
        self.leaving.fetch_sub(1, Relaxed);
    }

    /// Clusters that were removed from the configuration and still have sessions.
    pub fn leaving(&self) -> usize {
        self.leaving.load(Relaxed)
    }
}
