//! The keys of one Patroni cluster, with revisions and leases.

use std::collections::BTreeMap;
use std::sync::Arc;

use pgvane::model::{
    ClusterSettings, ClusterView, FailoverRequest, KeyProblem, LeaderKey, Lsn, MemberFacts, MemberName,
};

use super::{Micros, SEC};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EtcdState {
    Up,
    /// Connections are refused.
    Down,
    /// Connections are accepted, nothing is answered.
    Hung,
}

/// Everything that a copy of etcd's data would hold.
#[derive(Debug, Clone)]
pub struct Keys {
    pub cluster_id: u64,
    pub revision: i64,
    pub leader: Option<LeaderKey>,
    pub members: BTreeMap<MemberName, MemberFacts>,
    pub member_leases: BTreeMap<MemberName, i64>,
    pub optime: Option<Lsn>,
    pub failover: Option<FailoverRequest>,
    pub settings: ClusterSettings,
    pub system_id: Option<String>,
    pub problems: Vec<KeyProblem>,
    /// When each lease runs out.
    pub leases: BTreeMap<i64, Micros>,
}

#[derive(Debug, Clone)]
pub struct Etcd {
    pub state: EtcdState,
    pub keys: Keys,
    pub copy: Option<Keys>,
    /// Since when it has been answering, its data has been its own, and the leader key has been as it is.
    pub up_since: Micros,
    pub replaced_at: Option<Micros>,
    pub leader_since: Micros,
    /// Whom the leader key named last.
    pub last_leader: Option<MemberName>,
}

impl Etcd {
    pub fn new() -> Etcd {
        let keys = Keys {
            cluster_id: 7,
            revision: 100,
            leader: None,
            members: BTreeMap::new(),
            member_leases: BTreeMap::new(),
            optime: None,
            failover: None,
            settings: ClusterSettings::default(),
            system_id: Some("sys1".to_owned()),
            problems: Vec::new(),
            leases: BTreeMap::new(),
        };
        Etcd {
            state: EtcdState::Up,
            keys,
            copy: None,
            up_since: 0,
            replaced_at: None,
            leader_since: 0,
            last_leader: None,
        }
    }

    pub fn is_up(&self) -> bool {
        self.state == EtcdState::Up
    }

    pub fn view(&self) -> Arc<ClusterView> {
        let keys = &self.keys;
        Arc::new(ClusterView {
            cluster_id: keys.cluster_id,
            revision: keys.revision,
            leader: keys.leader.clone(),
            members: keys.members.clone(),
            optime: keys.optime,
            failover: keys.failover.clone(),
            settings: keys.settings.clone(),
            failsafe: BTreeMap::new(),
            sync_standbys: Vec::new(),
            system_id: keys.system_id.clone(),
            vips: BTreeMap::new(),
            problems: keys.problems.clone(),
        })
    }

    pub fn leader(&self) -> Option<&MemberName> {
        self.keys.leader.as_ref().map(|l| &l.name)
    }

    /// What etcd answers about the leader's lease: whole seconds, rounded down.
    pub fn lease_left(&self, now: Micros) -> Option<u64> {
        let lease = self.keys.leader.as_ref()?.lease;
        self.keys.leases.get(&lease).map(|end| end.saturating_sub(now) / SEC)
    }

    /// Changes keys in one revision.
    pub fn commit(&mut self, now: Micros, change: impl FnOnce(&mut Keys)) {
        let before = self.leader().cloned();
        self.keys.revision += 1;
        change(&mut self.keys);
        if self.leader() != before.as_ref() {
            self.leader_since = now;
        }
        self.last_leader = self.leader().cloned().or(self.last_leader.take());
    }

    /// Leases that have run out; the keys on them go in one revision each.
    pub fn expired(&self, now: Micros) -> Vec<i64> {
        self.keys.leases.iter().filter(|(_, end)| **end <= now).map(|(id, _)| *id).collect()
    }
}

impl Keys {
    pub fn put_leader(&mut self, name: &MemberName, lease: i64) {
        let same = self.leader.as_ref().is_some_and(|l| l.name == *name && l.lease == lease);
        if !same {
            self.leader = Some(LeaderKey { name: name.clone(), create_revision: self.revision, lease });
        }
    }

    pub fn drop_lease(&mut self, lease: i64) {
        self.leases.remove(&lease);
        if self.leader.as_ref().is_some_and(|l| l.lease == lease) {
            self.leader = None;
        }
        let gone: Vec<_> = self.member_leases.iter().filter(|(_, l)| **l == lease).map(|(n, _)| n.clone()).collect();
        for name in gone {
            self.members.remove(&name);
            self.member_leases.remove(&name);
        }
    }
}
