//! Which member of a cluster is on this host, where the configuration does not say.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tokio::task;
use tokio::time::{sleep, timeout};

use crate::decide::Router;
use crate::model::MemberName;
use crate::vip::netlink::{Change, Netlink};

/// How often addresses and names are looked up anew.
const LOOK_EVERY: Duration = Duration::from_secs(5);
const LOOKUP_MAX: Duration = Duration::from_secs(2);
/// Host names of members that are kept; with more, the next round begins from nothing.
const NAMES_MAX: usize = 1000;

/// The addresses of this host, and whether members' names lead to one of them.
pub struct Here {
    hostname: String,
    addresses: ArcSwap<BTreeSet<IpAddr>>,
    /// None: not looked up yet.
    names: Mutex<BTreeMap<String, Option<bool>>>,
    wanted: Notify,
    is_watching: AtomicBool,
}

impl Here {
    /// Looks up nothing until [`Here::watch`].
    pub fn new() -> Arc<Here> {
        let hostname = nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned());
        Arc::new(Here {
            hostname: hostname.unwrap_or_else(|_| "localhost".into()),
            addresses: ArcSwap::default(),
            names: Mutex::default(),
            wanted: Notify::new(),
            is_watching: AtomicBool::new(false),
        })
    }

    /// Keeps the list of addresses as the kernel has it, from the first call on.
    pub fn watch(self: &Arc<Self>) {
        if !self.is_watching.swap(true, Ordering::Relaxed) {
            task::spawn(self.clone().look_on());
        }
    }

    async fn look_on(self: Arc<Self>) {
        loop {
            match Netlink::open().await {
                Ok((netlink, mut changes)) => self.look(&netlink, &mut changes).await,
                Err(error) => tracing::error!(target: "pgvane::vip", %error, "cannot list the addresses of this host"),
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Until the kernel no longer tells.
    async fn look(&self, netlink: &Netlink, changes: &mut mpsc::Receiver<Change>) {
        loop {
            match netlink.local_addresses().await {
                Ok(all) => self.addresses.store(Arc::new(all.into_iter().map(|(_, ip, _)| ip).collect())),
                Err(error) => {
                    tracing::error!(target: "pgvane::vip", %error, "cannot list the addresses of this host");
                    return;
                }
            }
            tokio::select! {
                change = changes.recv() => if change.is_none() { return },
                () = self.wanted.notified() => self.look_up().await,
                () = sleep(LOOK_EVERY) => self.look_up().await,
            }
        }
    }

    async fn look_up(&self) {
        let names: Vec<String> = self.names.lock().keys().cloned().collect();
        for name in names {
            let is_here = self.leads_here(&name).await;
            self.names.lock().insert(name, Some(is_here));
        }
    }

    async fn leads_here(&self, name: &str) -> bool {
        let Ok(Ok(mut found)) = timeout(LOOKUP_MAX, tokio::net::lookup_host((name, 0))).await else { return false };
        found.any(|at| self.addresses.load().contains(&at.ip()))
    }

    /// The one member whose PostgreSQL has an address of this host. None: none, or more than one.
    pub fn member_of(&self, router: &Router) -> Option<MemberName> {
        let mut found = router.hosts().filter(|(_, host)| self.has(host)).map(|(name, _)| name.clone());
        let first = found.next();
        first.filter(|_| found.next().is_none())
    }

    fn has(&self, host: &str) -> bool {
        if let Ok(ip) = host.parse::<IpAddr>() {
            return self.addresses.load().contains(&ip);
        }
        if host == self.hostname {
            return true;
        }
        let mut names = self.names.lock();
        if let Some(known) = names.get(host) {
            return *known == Some(true);
        }
        if names.len() >= NAMES_MAX {
            names.clear();
        }
        names.insert(host.to_owned(), None);
        self.wanted.notify_one();
        false
    }
}
