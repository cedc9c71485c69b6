//! Patroni's key dialect: raw keys below one prefix in, a [`ClusterView`] out. Pure.

use std::collections::BTreeMap;

use crate::model::{
    ClusterSettings, ClusterView, FailoverRequest, KeyProblem, LeaderKey, Lsn, MemberFacts, MemberName,
};

use super::bounded;
use super::values::{self, Problems};

/// Complaints shown per cluster; a prefix full of rubbish must not fill the log.
const PROBLEMS_MAX: usize = 32;
const KEY_CHARS_MAX: usize = 100;

/// The prefix of one cluster, `/<namespace>/<scope>/`, built as Patroni builds it.
pub fn prefix(namespace: &str, scope: &str, citus_group: Option<u32>) -> String {
    let group = citus_group.map(|group| group.to_string()).unwrap_or_default();
    let parts = [namespace, scope, &group];
    let words = parts.iter().flat_map(|part| part.split('/')).filter(|word| !word.is_empty());
    words.fold(String::from("/"), |path, word| path + word + "/")
}

/// One key as the store has it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RawKey {
    pub key: Vec<u8>,
    pub value: Vec<u8>,
    pub create_revision: i64,
    pub mod_revision: i64,
    /// 0 when the key has none.
    pub lease: i64,
}

/// One change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Put(RawKey),
    Delete { key: Vec<u8> },
}

/// Everything below one prefix at one revision. A value is parsed when it changes, and only then.
#[derive(Debug)]
pub struct KeySpace {
    prefix: String,
    revision: i64,
    keys: BTreeMap<Vec<u8>, Entry>,
}

#[derive(Debug)]
struct Entry {
    raw: RawKey,
    fact: Fact,
    problem: Option<String>,
}

#[derive(Debug)]
enum Fact {
    Leader(Option<MemberName>),
    Member(MemberName, MemberFacts),
    Status(Option<Lsn>),
    OldOptime(Option<Lsn>),
    Sync(Vec<MemberName>),
    Config(ClusterSettings),
    Failover(Option<FailoverRequest>),
    Failsafe(BTreeMap<MemberName, String>),
    Initialize(Option<String>),
    Ignored,
}

impl KeySpace {
    pub fn new(prefix: impl Into<String>) -> KeySpace {
        KeySpace { prefix: prefix.into(), revision: 0, keys: BTreeMap::new() }
    }

    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// The leader key's value, lease and create_revision as they are: what tells one acquisition from another.
    pub fn leader(&self) -> Option<&RawKey> {
        self.keys.get(b"leader".as_slice()).map(|entry| &entry.raw)
    }

    /// All changes of one revision. One that is not newer than what is known changes nothing.
    pub fn apply(&mut self, revision: i64, changes: impl IntoIterator<Item = Change>) -> bool {
        if revision <= self.revision {
            return false;
        }
        for change in changes {
            match change {
                Change::Put(raw) => {
                    self.put(raw);
                }
                Change::Delete { key } => {
                    if let Some(name) = key.strip_prefix(self.prefix.as_bytes()) {
                        self.keys.remove(name);
                    }
                }
            }
        }
        self.revision = revision;
        true
    }

    /// The whole content at `revision`. Returns the revision that a complete watch has delivered by then
    /// and this key space had not seen, when the content is not what was known.
    pub fn replace(&mut self, revision: i64, all: impl IntoIterator<Item = RawKey>) -> Option<i64> {
        let before = self.revision;
        let mut gone = std::mem::take(&mut self.keys);
        let mut missed = None;
        for raw in all {
            let Some(name) = raw.key.strip_prefix(self.prefix.as_bytes()).map(<[u8]>::to_vec) else { continue };
            match gone.remove(&name) {
                Some(entry) if entry.raw == raw || (entry.ignores_value() && entry.same_version(&raw)) => {
                    self.keys.insert(name, entry);
                }
                _ => missed = missed.max(self.put(raw)),
            }
        }
        self.revision = revision;
        if gone.is_empty() { missed } else { missed.max(Some(before.saturating_add(1))) }
    }

    fn put(&mut self, mut raw: RawKey) -> Option<i64> {
        let name = raw.key.strip_prefix(self.prefix.as_bytes())?.to_vec();
        let mut problems = Problems::default();
        let fact = read(&name, &raw.value, &mut problems);
        if matches!(fact, Fact::Ignored) {
            raw.value = Vec::new();
        }
        let mod_revision = raw.mod_revision;
        self.keys.insert(name, Entry { raw, fact, problem: problems.into_line() });
        Some(mod_revision)
    }

    pub fn view(&self, cluster_id: u64) -> ClusterView {
        let mut view = ClusterView { cluster_id, revision: self.revision, ..ClusterView::default() };
        let mut old_optime = None;
        let mut has_status = false;
        for (key, entry) in &self.keys {
            match &entry.fact {
                Fact::Leader(name) => view.leader = name.clone().map(|name| entry.leader_key(name)),
                Fact::Member(name, facts) => {
                    view.members.insert(name.clone(), facts.clone());
                }
                Fact::Status(optime) => (view.optime, has_status) = (*optime, true),
                Fact::OldOptime(optime) => old_optime = *optime,
                Fact::Sync(standbys) => view.sync_standbys = standbys.clone(),
                Fact::Config(settings) => view.settings = settings.clone(),
                Fact::Failover(request) => view.failover = request.clone(),
                Fact::Failsafe(members) => view.failsafe = members.clone(),
                Fact::Initialize(id) => view.system_id = id.clone(),
                Fact::Ignored => {}
            }
            if let Some(problem) = entry.problem.clone().filter(|_| view.problems.len() < PROBLEMS_MAX) {
                view.problems.push(KeyProblem { key: bounded(&String::from_utf8_lossy(key), KEY_CHARS_MAX), problem });
            }
        }
        if !has_status {
            view.optime = old_optime;
        }
        view
    }
}

impl Entry {
    fn leader_key(&self, name: MemberName) -> LeaderKey {
        LeaderKey { name, create_revision: self.raw.create_revision, lease: self.raw.lease }
    }

    fn ignores_value(&self) -> bool {
        matches!(self.fact, Fact::Ignored)
    }

    fn same_version(&self, raw: &RawKey) -> bool {
        self.raw.mod_revision == raw.mod_revision && self.raw.create_revision == raw.create_revision
    }
}

fn read(name: &[u8], value: &[u8], problems: &mut Problems) -> Fact {
    match name {
        b"leader" => Fact::Leader(values::leader(value, problems)),
        b"status" => Fact::Status(values::status(value, problems)),
        b"optime/leader" => Fact::OldOptime(values::old_optime(value, problems)),
        b"sync" => Fact::Sync(values::sync(value, problems)),
        b"config" => Fact::Config(values::config(value, problems)),
        b"failover" => Fact::Failover(values::failover(value, problems)),
        b"failsafe" => Fact::Failsafe(values::failsafe(value, problems)),
        b"initialize" => Fact::Initialize(values::initialize(value, problems)),
        _ => match member_name(name) {
            Some(member) => Fact::Member(member, values::member(value, problems)),
            None => Fact::Ignored,
        },
    }
}

/// `members/<name>` and nothing deeper.
fn member_name(name: &[u8]) -> Option<MemberName> {
    let name = name.strip_prefix(b"members/")?;
    let plain = !name.is_empty() && !name.contains(&b'/');
    plain.then(|| MemberName::from(String::from_utf8_lossy(name).into_owned()))
}
