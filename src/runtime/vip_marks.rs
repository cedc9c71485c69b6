//! Hand-over keys in etcd, as those who hold addresses write them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::dcs::etcd::{MarkWriter, mark_value};
use crate::vip::{Answer, Marks};

/// The key of one address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MarkKey {
    pub key: String,
    value: String,
    /// Of the DCS's lease that a taken mark is bound to.
    ttl: Duration,
}

impl MarkKey {
    /// `lease` is how long the holder's kernel keeps the address without the holder. A taken mark outlives it,
    /// so that nobody takes the mark of an address that is still there.
    pub fn new(key: impl Into<String>, holder: &str, lease: Duration) -> MarkKey {
        MarkKey { key: key.into(), value: mark_value(holder, lease), ttl: 2 * lease + Duration::from_secs(2) }
    }
}

/// Marks of any number of addresses, in one etcd cluster.
pub struct EtcdMarks {
    writer: Arc<MarkWriter>,
    keys: BTreeMap<IpAddr, MarkKey>,
    trouble: Arc<Mutex<Option<String>>>,
}

impl EtcdMarks {
    pub fn new(writer: Arc<MarkWriter>, keys: BTreeMap<IpAddr, MarkKey>) -> EtcdMarks {
        EtcdMarks { writer, keys, trouble: Arc::default() }
    }
}

/// Tells what went wrong, once: a right that is missing is missing at each move.
fn tell<T>(outcome: &Result<T, String>, told: &Mutex<Option<String>>) {
    let mut told = told.lock();
    match outcome {
        Ok(_) => *told = None,
        Err(problem) if told.as_ref() == Some(problem) => {}
        Err(problem) => {
            tracing::warn!(target: "pgvane::dcs", "{problem}");
            *told = Some(problem.clone());
        }
    }
}

impl Marks for EtcdMarks {
    fn write(&self, ip: IpAddr, take: bool) -> Answer<Result<i64, String>> {
        let Some(mark) = self.keys.get(&ip).cloned() else {
            return Box::pin(std::future::ready(Err(format!("{ip} has no hand-over key"))));
        };
        let (writer, trouble) = (Arc::clone(&self.writer), Arc::clone(&self.trouble));
        Box::pin(async move {
            let outcome = writer.write(&mark.key, &mark.value, take.then_some(mark.ttl)).await;
            // Whoever takes it tries again and again while another one has it.
            if !take || outcome.is_ok() {
                tell(&outcome, &trouble);
            }
            outcome
        })
    }

    fn delete(&self, ip: IpAddr, mod_revision: i64) -> Answer<Result<(), String>> {
        let Some(mark) = self.keys.get(&ip).cloned() else { return Box::pin(std::future::ready(Ok(()))) };
        let (writer, trouble) = (Arc::clone(&self.writer), Arc::clone(&self.trouble));
        Box::pin(async move {
            let outcome = writer.delete(&mark.key, mod_revision).await;
            tell(&outcome, &trouble);
            outcome
        })
    }
}
