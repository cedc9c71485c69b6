//! The state file: members, timeline marks and operators' orders that survive a restart.
//!
//! Written whole to a neighbour and renamed, so a crash leaves the old or the new one. A disk that
//! is full stops nobody: it is said once, and tried again with the next change.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::decide::{Memory, Orders, RememberedMember};
use crate::model::service::WEIGHT_MAX;
use crate::model::{AdminState, ApiAddress, HostPort, MemberName, Timeline};

const VERSION: u32 = 1;
/// A file larger than this is not ours.
const SIZE_MAX_BYTES: u64 = 64 * 1024 * 1024;

#[derive(Debug, Serialize, Deserialize)]
struct Written {
    version: u32,
    clusters: BTreeMap<String, WrittenCluster>,
}

#[derive(Debug, Serialize, Deserialize)]
struct WrittenCluster {
    members: BTreeMap<String, WrittenMember>,
    timeline_marks: BTreeMap<String, u32>,
    /// Read one by one: an order that cannot be understood costs no timeline mark.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    orders: BTreeMap<String, Value>,
}

#[derive(Debug, Serialize, Deserialize)]
struct WrittenMember {
    pg: Option<String>,
    api: Option<String>,
}

/// What the file held, by cluster (its prefix in the DCS).
pub type Memories = BTreeMap<String, Memory>;

/// Reads the file; one that is not there yet holds nothing. A file that cannot be understood is put
/// aside under a `.bad` name and its problem returned, because a lost timeline mark must be said; so
/// is every order that this release does not understand.
pub fn load(path: &Path) -> (Memories, Vec<String>) {
    match look(path) {
        Ok((memories, problems)) => (memories, problems),
        Err(Bad::Unreadable(problem)) => (Memories::new(), vec![format!("{}: {problem}", path.display())]),
        Err(Bad::NotOurs(problem)) => {
            let aside = with_suffix(path, ".bad");
            let kept = match fs::rename(path, &aside) {
                Ok(()) => format!("kept as {}", aside.display()),
                Err(error) => format!("and it cannot be put aside: {error}"),
            };
            let told = format!(
                "{}: {problem}; starting without remembered members and timeline marks; {kept}",
                path.display()
            );
            (Memories::new(), vec![told])
        }
    }
}

/// Why a file is no state file.
enum Bad {
    Unreadable(String),
    NotOurs(String),
}

/// What a file holds that is about to become the state file of a router at work, with what could not
/// be understood. Unlike [`load`] it leaves a strange file where it is: a path given by mistake may
/// name anything.
///
/// # Errors
/// Why it must not be overwritten.
pub fn peek(path: &Path) -> Result<(Memories, Vec<String>), String> {
    look(path).map_err(|bad| match bad {
        Bad::Unreadable(problem) | Bad::NotOurs(problem) => format!("{}: {problem}", path.display()),
    })
}

fn look(path: &Path) -> Result<(Memories, Vec<String>), Bad> {
    let text = match read_bounded(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Default::default()),
        Err(error) => return Err(Bad::Unreadable(format!("cannot be read: {error}"))),
    };
    let (memories, problems) = parse(&text).map_err(Bad::NotOurs)?;
    let place = |problem: String| format!("{}: {problem}", path.display());
    Ok((memories, problems.into_iter().map(place).collect()))
}

/// Whether the file can be written, found out beside it.
///
/// # Errors
/// A sentence that names what stands in the way.
pub fn try_folder(path: &Path) -> Result<(), String> {
    let beside = with_suffix(path, ".new");
    let tried = File::options().append(true).create(true).open(&beside).and_then(|_| fs::remove_file(&beside));
    tried.map_err(|error| {
        format!("{}: cannot be written: {error}; give a file in a folder that this user may write to", path.display())
    })
}

fn read_bounded(path: &Path) -> io::Result<String> {
    if fs::metadata(path)?.len() > SIZE_MAX_BYTES {
        return Err(io::Error::other("too large for a state file"));
    }
    fs::read_to_string(path)
}

fn parse(text: &str) -> Result<(Memories, Vec<String>), String> {
    let written: Written = serde_json::from_str(text).map_err(|e| format!("not a state file: {e}"))?;
    if written.version != VERSION {
        return Err(format!("version {} is not known to this release, which writes {VERSION}", written.version));
    }
    let mut problems = Vec::new();
    let recall = |(key, cluster): (String, WrittenCluster)| {
        let memory = recalled(&key, cluster, &mut problems);
        (key, memory)
    };
    let memories = written.clusters.into_iter().map(recall).collect();
    Ok((memories, problems))
}

fn recalled(key: &str, cluster: WrittenCluster, problems: &mut Vec<String>) -> Memory {
    let member = |written: WrittenMember| RememberedMember {
        conn: written.pg.as_deref().and_then(|text| HostPort::parse(text, None)),
        api: written.api.as_deref().and_then(ApiAddress::parse),
    };
    let mut orders = BTreeMap::new();
    for (name, written) in cluster.orders {
        match ordered(&written) {
            Ok(order) => {
                orders.insert(MemberName::from(name.as_str()), order);
            }
            Err(problem) => problems.push(format!("the order about {name} of {key} is forgotten: {problem}")),
        }
    }
    Memory {
        members: cluster.members.into_iter().map(|(name, m)| (name.into(), member(m))).collect(),
        marks: cluster.timeline_marks.into_iter().map(|(system, tl)| (system, Timeline(tl))).collect(),
        orders,
    }
}

fn ordered(written: &Value) -> Result<Orders, String> {
    let Value::Object(fields) = written else { return Err(format!("{written} is no order")) };
    let mut orders = Orders::default();
    for (field, value) in fields {
        match field.as_str() {
            "state" => {
                let known = AdminState::ALL.into_iter().find(|state| value.as_str() == Some(state.as_str()));
                orders.state = known.ok_or_else(|| format!("{value} is not ready, drain or maint"))?;
            }
            "weight" => {
                let weight = value.as_u64().and_then(|weight| u32::try_from(weight).ok());
                let weight = weight.filter(|weight| *weight <= WEIGHT_MAX);
                orders.weight = Some(weight.ok_or_else(|| format!("{value} is not a weight from 0 to {WEIGHT_MAX}"))?);
            }
            other => return Err(format!("`{other}` is not known to this release")),
        }
    }
    Ok(orders)
}

/// Writes the file so that it is there whole after a crash.
pub fn save(path: &Path, memories: &Memories) -> io::Result<()> {
    let clusters = memories.iter().map(|(key, memory)| (key.clone(), written(memory))).collect();
    let text = serde_json::to_string_pretty(&Written { version: VERSION, clusters }).map_err(io::Error::other)?;
    let beside = with_suffix(path, ".new");
    let mut file = File::create(&beside)?;
    file.write_all(text.as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
        _ => Ok(()),
    }
}

fn written(memory: &Memory) -> WrittenCluster {
    let member = |m: &RememberedMember| WrittenMember {
        pg: m.conn.as_ref().map(ToString::to_string),
        api: m.api.as_ref().map(ToString::to_string),
    };
    WrittenCluster {
        members: memory.members.iter().map(|(name, m)| (name.to_string(), member(m))).collect(),
        timeline_marks: memory.marks.iter().map(|(system, tl)| (system.clone(), tl.0)).collect(),
        orders: memory.orders.iter().map(|(name, orders)| (name.to_string(), written_order(*orders))).collect(),
    }
}

fn written_order(orders: Orders) -> Value {
    match orders.weight {
        Some(weight) => json!({ "state": orders.state.as_str(), "weight": weight }),
        None => json!({ "state": orders.state.as_str() }),
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memories() -> Memories {
        let member =
            RememberedMember { conn: Some(HostPort::new("::1", 5432)), api: ApiAddress::parse("https://db1:8008") };
        let memory = Memory {
            members: BTreeMap::from([("n1".into(), member)]),
            marks: BTreeMap::from([("7300".to_owned(), Timeline(9))]),
            orders: BTreeMap::from([
                ("n1".into(), Orders { state: AdminState::Drain, weight: None }),
                ("n2".into(), Orders { state: AdminState::Ready, weight: Some(0) }),
            ]),
        };
        Memories::from([("/service/demo/".to_owned(), memory)])
    }

    #[test]
    fn what_was_saved_is_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        assert_eq!(load(&path), (Memories::new(), Vec::new()));
        save(&path, &memories()).unwrap();
        assert_eq!(load(&path), (memories(), Vec::new()));
    }

    #[test]
    fn a_file_that_makes_no_sense_is_kept_and_said() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        fs::write(&path, "{\"version\": 1, \"clus").unwrap();
        let (loaded, problem) = load(&path);
        assert!(loaded.is_empty());
        let problem = problem.concat();
        assert!(problem.contains("state.json.bad") && problem.contains("timeline marks"), "{problem}");
        assert!(folder.path().join("state.json.bad").exists());
    }

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        save(&path, &memories()).unwrap();
        fs::create_dir(folder.path().join("state.json.new")).unwrap();
        assert!(save(&path, &Memories::new()).is_err());
        assert_eq!(load(&path), (memories(), Vec::new()));
    }

    #[test]
    fn an_order_that_nobody_understands_costs_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        let strange = r#"{"n1": {"state": "drain"}, "n2": {"state": "asleep"}, "n3": {"weight": 257}, "n4": 7}"#;
        let cluster = format!(r#"{{"members": {{}}, "timeline_marks": {{"7300": 9}}, "orders": {strange}}}"#);
        fs::write(&path, format!(r#"{{"version": 1, "clusters": {{"/service/demo/": {cluster}}}}}"#)).unwrap();
        let (loaded, problems) = load(&path);
        let memory = &loaded["/service/demo/"];
        assert_eq!(memory.marks["7300"], Timeline(9));
        assert_eq!(memory.orders.keys().map(ToString::to_string).collect::<Vec<_>>(), ["n1"]);
        assert_eq!(problems.len(), 3, "{problems:?}");
        assert!(problems[0].contains("n2") && problems[0].contains("asleep"), "{problems:?}");
        assert!(path.exists(), "it stays in place");
    }

    #[test]
    fn a_file_without_orders_is_one_of_an_earlier_release() {
        let text = r#"{"version": 1, "clusters": {"/a/": {"members": {}, "timeline_marks": {"1": 2}}}}"#;
        let (memories, problems) = parse(text).unwrap();
        assert_eq!((memories["/a/"].marks["1"], problems.len()), (Timeline(2), 0));
    }

    #[test]
    fn a_path_that_names_something_else_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("passwd");
        fs::write(&path, "root:x:0:0").unwrap();
        assert!(peek(&path).unwrap_err().contains("not a state file"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "root:x:0:0");
        assert!(try_folder(&folder.path().join("nowhere/state.json")).unwrap_err().contains("cannot be written"));
    }
}
