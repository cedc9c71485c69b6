//! The hand-over keys of one cluster, wherever its DCS is by now.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::dcs::etcd::{EtcdAccess, MarkWriter};
use crate::dcs::patroni::vip_key;
use crate::model::MemberName;
use crate::runtime::vip_marks::{EtcdMarks, MarkKey};
use crate::vip::{Answer, Marks};

/// Who writes the marks of one cluster; where they go can change.
#[derive(Default)]
pub struct ClusterMarks(Mutex<Option<Place>>);

struct Place {
    access: EtcdAccess,
    prefix: String,
    writer: Arc<MarkWriter>,
}

impl ClusterMarks {
    /// From now on marks go there. None: nowhere.
    pub fn reach(&self, access: Option<EtcdAccess>, prefix: String) {
        let mut place = self.0.lock();
        let same = |known: &Place| Some(&known.access) == access.as_ref() && known.prefix == prefix;
        if !place.as_ref().is_some_and(same) {
            *place = access.map(|access| Place { writer: Arc::new(MarkWriter::new(access.clone())), access, prefix });
        }
    }

    /// Those of one holder.
    pub fn of(self: &Arc<Self>, me: MemberName, lease: Duration) -> Arc<HolderMarks> {
        Arc::new(HolderMarks { cluster: self.clone(), me, lease, known: Mutex::default() })
    }
}

/// The marks of one holder.
pub struct HolderMarks {
    cluster: Arc<ClusterMarks>,
    me: MemberName,
    lease: Duration,
    /// Written by this writer until the cluster has another one.
    known: Mutex<Option<(Arc<MarkWriter>, Arc<EtcdMarks>)>>,
}

impl HolderMarks {
    fn marks(&self, ip: IpAddr) -> Option<Arc<EtcdMarks>> {
        let place = self.cluster.0.lock();
        let place = place.as_ref()?;
        let mut known = self.known.lock();
        if let Some((writer, marks)) = known.as_ref()
            && Arc::ptr_eq(writer, &place.writer)
        {
            return Some(marks.clone());
        }
        let key = MarkKey::new(format!("{}{}", place.prefix, vip_key(ip)), self.me.as_str(), self.lease);
        let marks = Arc::new(EtcdMarks::new(place.writer.clone(), BTreeMap::from([(ip, key)])));
        *known = Some((place.writer.clone(), marks.clone()));
        Some(marks)
    }
}

impl Marks for HolderMarks {
    fn write(&self, ip: IpAddr, take: bool) -> Answer<Result<i64, String>> {
        match self.marks(ip) {
            Some(marks) => marks.write(ip, take),
            None => Box::pin(std::future::ready(Err("there is no DCS to write to".into()))),
        }
    }

    fn delete(&self, ip: IpAddr, mod_revision: i64) -> Answer<Result<(), String>> {
        match self.marks(ip) {
            Some(marks) => marks.delete(ip, mod_revision),
            None => Box::pin(std::future::ready(Ok(()))),
        }
    }
}
