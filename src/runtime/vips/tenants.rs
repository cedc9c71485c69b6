//! The clients of every cluster, as those who come in by an address.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use futures_util::future::join_all;
use parking_lot::Mutex;

use crate::model::Reason;
use crate::proxy::Plane;
use crate::vip::{Answer, Tenants};

/// All planes of this process: a listener on every address takes clients of every virtual one.
#[derive(Default)]
pub struct Houses {
    planes: ArcSwap<Vec<Arc<Plane>>>,
    /// Addresses that nobody comes in by now. The lock orders calls against each other.
    away: Mutex<BTreeMap<IpAddr, Reason>>,
}

impl Houses {
    /// From now on these are all planes; those that are new learn which addresses are away.
    pub fn become_as(&self, planes: Vec<Arc<Plane>>) {
        let away = self.away.lock();
        let known = self.planes.load_full();
        let is_new = |plane: &&Arc<Plane>| !known.iter().any(|other| Arc::ptr_eq(other, plane));
        for plane in planes.iter().filter(is_new) {
            // It has no sessions yet that one would have to wait for.
            away.iter().for_each(|(ip, reason)| drop(plane.send_away(*ip, *reason)));
        }
        self.planes.store(Arc::new(planes));
    }
}

impl Tenants for Houses {
    fn welcome(&self, ip: IpAddr) {
        let mut away = self.away.lock();
        away.remove(&ip);
        self.planes.load().iter().for_each(|plane| plane.welcome(ip));
    }

    fn send_away(&self, ip: IpAddr, reason: Reason) -> Answer<usize> {
        let mut away = self.away.lock();
        away.insert(ip, reason);
        let leaving: Vec<_> = self.planes.load().iter().map(|plane| plane.send_away(ip, reason)).collect();
        Box::pin(async move { join_all(leaving).await.into_iter().sum() })
    }
}
