//! The hand-over keys of one cluster in its etcd.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::dcs::etcd::EtcdAccess;
use crate::dcs::etcd::{MarkWriter, mark_value};
use crate::dcs::patroni::vip_key;
use crate::model::MemberName;
use crate::vip::{Answer, Marks};

/// A mark that is also a lock goes with its holder: so long after the kernel must have taken the address
/// away, which it does a second late at most.
const LOCK_MARGIN: Duration = Duration::from_secs(2);

/// How long the DCS keeps a lock whose holder does not keep it alive.
pub fn lock_ttl(lease: Duration) -> Duration {
    2 * lease + LOCK_MARGIN
}

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
        Arc::new(HolderMarks { cluster: self.clone(), me, lease })
    }

    fn place(&self, ip: IpAddr) -> Option<(Arc<MarkWriter>, String)> {
        let place = self.0.lock();
        place.as_ref().map(|place| (place.writer.clone(), format!("{}{}", place.prefix, vip_key(ip))))
    }
}

/// The marks of one holder.
pub struct HolderMarks {
    cluster: Arc<ClusterMarks>,
    me: MemberName,
    lease: Duration,
}

impl Marks for HolderMarks {
    fn write(&self, ip: IpAddr, take: bool) -> Answer<Result<i64, String>> {
        let place = self.cluster.place(ip);
        let (value, ttl) = (mark_value(self.me.as_str(), self.lease), take.then(|| lock_ttl(self.lease)));
        Box::pin(async move {
            let Some((writer, key)) = place else { return Err("there is no DCS to write to".into()) };
            writer.write(&key, &value, ttl).await
        })
    }

    fn delete(&self, ip: IpAddr, mod_revision: i64) -> Answer<Result<(), String>> {
        let place = self.cluster.place(ip);
        Box::pin(async move {
            let Some((writer, key)) = place else { return Ok(()) };
            writer.delete(&key, mod_revision).await
        })
    }
}
