//! Patroni's key dialect: raw keys below one prefix in, a [`ClusterView`] out. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::model::{
    ClusterSettings, ClusterView, FailoverRequest, KeyProblem, LeaderKey, Lsn, MemberFacts, MemberName, VipMark,
};

use super::bounded;
use super::place::Place;
use super::values::{self, Problems};

/// Complaints shown per cluster; a prefix full of rubbish must not fill the log.
const PROBLEMS_MAX: usize = 32;
const KEY_CHARS_MAX: usize = 100;
const VIP_FOLDER: &str = "pgvane/vip/";

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

/// Everything at one place at one revision. A value is parsed when it changes, and only then.
#[derive(Debug)]
pub struct KeySpace {
    place: Place,
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
    Vip(IpAddr, Option<VipMark>),
    Ignored,
}

impl KeySpace {
    pub fn new(place: Place) -> KeySpace {
        KeySpace { place, revision: 0, keys: BTreeMap::new() }
    }

    pub fn place(&self) -> &Place {
        &self.place
    }

    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// The leader key as it is, when it names someone: what tells one acquisition from another.
    pub fn leader(&self) -> Option<&RawKey> {
        let entry = self.keys.get(b"leader".as_slice())?;
        matches!(entry.fact, Fact::Leader(Some(_))).then_some(&entry.raw)
    }

    /// When each hand-over key was written: what tells one holder from the next.
    pub fn vip_revisions(&self) -> Vec<i64> {
        let vips = self.keys.values().filter(|entry| matches!(entry.fact, Fact::Vip(..)));
        vips.map(|entry| entry.raw.mod_revision).collect()
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
                    if let Some(name) = self.place.name_of(&key) {
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
            let Some(name) = self.place.name_of(&raw.key).map(<[u8]>::to_vec) else { continue };
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
        let name = self.place.name_of(&raw.key)?.to_vec();
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
                Fact::Vip(ip, mark) => {
                    let mark = mark.clone().map(|mark| (*ip, VipMark { mod_revision: entry.raw.mod_revision, ..mark }));
                    view.vips.extend(mark);
                }
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
        _ => match (member_name(name), vip(name)) {
            (Some(member), _) => Fact::Member(member, values::member(value, problems)),
            (_, Some(ip)) => Fact::Vip(ip, values::vip_mark(value, problems)),
            (None, None) => Fact::Ignored,
        },
    }
}

/// `members/<name>` and nothing deeper.
fn member_name(name: &[u8]) -> Option<MemberName> {
    let name = name.strip_prefix(b"members/")?;
    let plain = !name.is_empty() && !name.contains(&b'/');
    plain.then(|| MemberName::from(String::from_utf8_lossy(name).into_owned()))
}

/// Below a cluster's prefix: where the holder of a virtual address says so. Patroni leaves it alone.
pub fn vip_key(ip: IpAddr) -> String {
    format!("{VIP_FOLDER}{ip}")
}

fn vip(name: &[u8]) -> Option<IpAddr> {
    std::str::from_utf8(name).ok()?.strip_prefix(VIP_FOLDER)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::model::{ApiAddress, HostPort, Timeline};

    const PREFIX: &str = "/pg/test/";

    fn raw(key: &str, value: &str, revision: i64) -> RawKey {
        let value = value.as_bytes().to_vec();
        let key = format!("{PREFIX}{key}").into_bytes();
        RawKey { key, value, create_revision: revision, mod_revision: revision, lease: 0 }
    }

    fn view(keys: &[(&str, &str)]) -> ClusterView {
        let mut space = KeySpace::new(Place::below(PREFIX));
        space.replace(9, keys.iter().map(|(key, value)| raw(key, value, 5)));
        space.view(77)
    }

    fn conn(url: &str) -> (Option<HostPort>, Vec<KeyProblem>) {
        let view = view(&[("members/n1", &format!(r#"{{"conn_url":"{url}"}}"#))]);
        (view.members["n1"].conn.clone(), view.problems)
    }

    #[test]
    fn a_whole_cluster_is_read() {
        let view = view(&[
            ("leader", "n1"),
            (
                "members/n1",
                r#"{"conn_url":"postgres://10.0.0.1:5433/postgres","api_url":"http://10.0.0.1:8008/patroni","state":"running","role":"primary","version":"4.1.5","xlog_location":89421648,"timeline":9,"tags":{"offline":true,"weight":50,"zone":"A","none":null,"share":0.5}}"#,
            ),
            (
                "members/n2",
                r#"{"conn_url":"postgres://10.0.0.2/postgres","state":"running","role":"replica","receive_lsn":"7","replay_lsn":6.0,"replication_state":"streaming"}"#,
            ),
            ("status", r#"{"optime":89421648,"slots":{"n1":1}}"#),
            ("optime/leader", "5"),
            ("sync", r#"{"leader":"n1","quorum":0,"sync_standby":"n2, n3"}"#),
            (
                "config",
                r#"{"ttl":20,"loop_wait":"5","retry_timeout":3.5,"pause":"on","failsafe_mode":true,"postgresql":{}}"#,
            ),
            ("failover", r#"{"leader":"n1","member":"n2","scheduled_at":"2026-11-21T10:00:00+00:00"}"#),
            ("failsafe", r#"{"n1":"http://10.0.0.1:8008/patroni"}"#),
            ("initialize", "7123"),
            ("history", "not even JSON"),
            ("members/n1/deeper", "{"),
            ("pgvane/vip/10.0.0.100", r#"{"holder":"n1","lease":5}"#),
            ("pgvane/vip/fd00::1", r#"{"holder":"n2"}"#),
        ]);
        assert_eq!(view.problems, []);
        let mark = |ip: &str| view.vips[&ip.parse::<IpAddr>().unwrap()].clone();
        let (four, six) = (mark("10.0.0.100"), mark("fd00::1"));
        assert_eq!((&*four.holder, four.lease, four.mod_revision), ("n1", Some(Duration::from_secs(5)), 5));
        assert_eq!((&*six.holder, six.lease), ("n2", None));
        assert_eq!((view.cluster_id, view.revision), (77, 9));
        let leader = view.leader.unwrap();
        assert_eq!((leader.name.as_str(), leader.create_revision, leader.lease), ("n1", 5, 0));
        assert_eq!(view.members.len(), 2);
        let n1 = &view.members["n1"];
        assert_eq!(n1.conn, Some(HostPort::new("10.0.0.1", 5433)));
        assert_eq!(n1.api, ApiAddress::parse("http://10.0.0.1:8008"));
        assert_eq!((n1.timeline, n1.xlog_location), (Some(Timeline(9)), Some(Lsn(89421648))));
        let tags = [("offline", "true"), ("share", "0.5"), ("weight", "50"), ("zone", "A")];
        assert_eq!(n1.tags, tags.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
        let n2 = &view.members["n2"];
        assert_eq!((n2.receive_lsn, n2.replay_lsn), (Some(Lsn(7)), Some(Lsn(6))));
        assert_eq!(n2.conn, Some(HostPort::new("10.0.0.2", 5432)));
        assert_eq!(view.optime, Some(Lsn(89421648)));
        assert_eq!(view.sync_standbys, ["n2", "n3"].map(MemberName::from));
        assert_eq!(view.settings.ttl, Duration::from_secs(20));
        assert_eq!(view.settings.loop_wait, Duration::from_secs(5));
        assert_eq!(view.settings.retry_timeout, Duration::from_millis(3500));
        assert!(view.settings.pause && view.settings.failsafe_mode);
        let request = view.failover.unwrap();
        assert_eq!((request.leader, request.candidate), (Some("n1".into()), Some("n2".into())));
        assert!(request.scheduled_at.is_some());
        assert_eq!(view.failsafe["n1"], "http://10.0.0.1:8008/patroni");
        assert_eq!(view.system_id.as_deref(), Some("7123"));
    }

    #[test]
    fn nothing_written_is_no_problem() {
        let view =
            view(&[("failover", "{}"), ("sync", ""), ("initialize", ""), ("failsafe", "null"), ("config", "{}")]);
        assert_eq!(view, ClusterView { cluster_id: 77, revision: 9, ..ClusterView::default() });
    }

    #[test]
    fn old_forms_are_read() {
        let view = view(&[
            ("optime/leader", "42"),
            ("failover", "n1:n2"),
            ("members/n1", "postgres://u:p@10.0.0.1:5432/postgres?application_name=http://10.0.0.1:8008/patroni"),
        ]);
        assert_eq!(view.problems, []);
        assert_eq!(view.optime, Some(Lsn(42)));
        assert_eq!(view.failover.unwrap().candidate, Some("n2".into()));
        assert_eq!(view.members["n1"].conn, Some(HostPort::new("10.0.0.1", 5432)));
        assert_eq!(view.members["n1"].api, ApiAddress::parse("http://10.0.0.1:8008"));
        assert_eq!(super::tests::view(&[("status", "42")]).optime, Some(Lsn(42)));
    }

    #[test]
    fn connection_urls() {
        let good = [
            ("postgres://h:1/db", "h", 1),
            ("postgresql://h", "h", 5432),
            ("postgres://user:p%40ss@[fe80::1]:6000/db?sslmode=require", "fe80::1", 6000),
            ("postgres://[::1]/db", "::1", 5432),
            ("postgres://h:/db", "h", 5432),
            ("postgres://a@b@h:7/db", "h", 7),
        ];
        for (url, host, port) in good {
            assert_eq!(conn(url), (Some(HostPort::new(host, port)), vec![]), "{url}");
        }
        for url in [
            "postgres://",
            "postgres:///db",
            "mysql://h:1/",
            "h:1",
            "postgres://h:0/",
            "postgres://h:99999/",
            "postgres://%2Frun:1/",
        ] {
            let (address, problems) = conn(url);
            assert_eq!((address, problems.len()), (None, 1), "{url}");
            assert_eq!(problems[0].key, "members/n1");
        }
        let (first, problems) = conn("postgres://h1:1,h2:2/db");
        assert_eq!(first, Some(HostPort::new("h1", 1)));
        assert!(problems[0].problem.contains("several hosts"));
    }

    #[test]
    fn a_malformed_member_is_kept_by_name_and_the_rest_stands() {
        let view = view(&[
            ("leader", "n1"),
            ("members/n1", "{broken"),
            (
                "members/n2",
                r#"{"conn_url":5,"api_url":"nonsense","state":"running","timeline":"x","xlog_location":-1,"tags":[]}"#,
            ),
            ("config", r#"{"ttl":-5,"loop_wait":"soon","retry_timeout":1e300,"pause":"maybe"}"#),
            ("status", "[]"),
        ]);
        assert_eq!(view.leader.unwrap().name.as_str(), "n1");
        assert_eq!(view.members["n1"], MemberFacts::default());
        assert_eq!(view.members["n2"].state.as_deref(), Some("running"));
        assert_eq!(view.settings, ClusterSettings::default());
        let keys: Vec<_> = view.problems.iter().map(|p| p.key.as_str()).collect();
        assert_eq!(keys, ["config", "members/n1", "members/n2", "status"]);
        for field in ["conn_url", "api_url", "timeline", "xlog_location", "tags"] {
            assert!(view.problems[2].problem.contains(field), "{field}: {:?}", view.problems[2]);
        }
    }

    #[test]
    fn a_key_space_follows_changes_and_knows_what_it_missed() {
        let mut space = KeySpace::new(Place::below(PREFIX));
        assert_eq!(
            space.replace(10, [raw("leader", "n1", 8), raw("members/n1", "{}", 9), raw("history", "[]", 3)]),
            Some(9)
        );
        assert_eq!(
            space.replace(12, [raw("leader", "n1", 8), raw("members/n1", "{}", 9), raw("history", "[]", 3)]),
            None
        );
        assert!(!space.apply(12, [Change::Put(raw("leader", "old", 12))]), "not newer");
        assert!(space.apply(
            13,
            [
                Change::Delete { key: b"/pg/test/leader".to_vec() },
                Change::Delete { key: b"/pg/test/members/n1".to_vec() }
            ]
        ));
        assert_eq!(space.view(1), ClusterView { cluster_id: 1, revision: 13, ..ClusterView::default() });
        assert_eq!(space.replace(15, [raw("leader", "n2", 14), raw("history", "[]", 3)]), Some(14), "a put");
        assert_eq!(space.replace(17, [raw("history", "[]", 3)]), Some(16), "a deletion");
        assert!(space.apply(18, [Change::Put(RawKey { key: b"/other/leader".to_vec(), ..RawKey::default() })]));
        assert_eq!(space.leader(), None);
    }

    #[test]
    fn a_prefix_is_built_as_patroni_builds_it() {
        assert_eq!(prefix("service", "one", None), "/service/one/");
        assert_eq!(prefix("//a//b/", "one", Some(2)), "/a/b/one/2/");
        assert_eq!(prefix("", "one", None), "/one/");
    }

    fn key() -> impl Strategy<Value = Vec<u8>> {
        let known =
            ["leader", "status", "optime/leader", "sync", "config", "failover", "failsafe", "initialize", "members/n1"];
        prop_oneof![
            3 => prop::sample::select(known.to_vec()).prop_map(|key| key.as_bytes().to_vec()),
            1 => prop::collection::vec(any::<u8>(), 0..20).prop_map(|tail| [b"members/".as_slice(), &tail].concat()),
            1 => prop::collection::vec(any::<u8>(), 0..20),
        ]
    }

    /// Bytes, text, and JSON objects with the right names and the wrong values.
    fn value() -> impl Strategy<Value = Vec<u8>> {
        let fields = [
            "conn_url",
            "api_url",
            "timeline",
            "tags",
            "xlog_location",
            "ttl",
            "pause",
            "optime",
            "leader",
            "member",
            "sync_standby",
        ];
        let odd = [
            "null",
            "-1",
            "1e999",
            "1e308",
            "[]",
            "{\"a\":[]}",
            "\"\"",
            "\"postgres://[\"",
            "\"postgres://@,:/\"",
            "99999999999999999999",
            "true",
            "\"ttt\u{0}\u{7f}\"",
        ];
        let field = (prop::sample::select(fields.to_vec()), prop::sample::select(odd.to_vec()));
        let object = prop::collection::vec(field, 0..6).prop_map(|fields| {
            let body: Vec<_> = fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
            format!("{{{}}}", body.join(",")).into_bytes()
        });
        prop_oneof![prop::collection::vec(any::<u8>(), 0..200), ".{0,100}".prop_map(String::into_bytes), object]
    }

    proptest! {
        #[test]
        fn no_bytes_in_any_key_panic_and_every_problem_is_short(
            keys in prop::collection::vec((key(), value(), any::<i64>()), 0..40),
            revision in any::<i64>(),
        ) {
            let raw = |(key, value, n): &(Vec<u8>, Vec<u8>, i64)| RawKey {
                key: [PREFIX.as_bytes(), key].concat(), value: value.clone(), create_revision: *n, mod_revision: *n, lease: *n,
            };
            let mut space = KeySpace::new(Place::below(PREFIX));
            space.replace(revision, keys.iter().map(raw));
            let whole = space.view(1);
            prop_assert!(whole.problems.len() <= PROBLEMS_MAX);
            prop_assert!(whole.problems.iter().all(|p| p.problem.chars().count() <= 170 && p.key.chars().count() <= 110));
            // One by one, and with a second reading over it, it is the same.
            let mut stepwise = KeySpace::new(Place::below(PREFIX));
            for (step, key) in keys.iter().enumerate() {
                stepwise.apply(step as i64 + 1, [Change::Put(raw(key))]);
            }
            stepwise.replace(revision, keys.iter().rev().map(raw).collect::<Vec<_>>().into_iter().rev());
            prop_assert_eq!(stepwise.view(1), whole);
        }
    }
}
