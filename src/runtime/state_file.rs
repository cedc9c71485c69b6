//! The state file: members and timeline marks that survive a restart.
//!
//! Written whole to a neighbour and renamed, so a crash leaves the old or the new one. A disk that
//! is full stops nobody: it is said once, and tried again with the next change.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::decide::{Memory, RememberedMember};
use crate::model::{ApiAddress, HostPort, Timeline};

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
}

#[derive(Debug, Serialize, Deserialize)]
struct WrittenMember {
    pg: Option<String>,
    api: Option<String>,
}

/// What the file held, by cluster (its prefix in the DCS).
pub type Memories = BTreeMap<String, Memory>;

/// Reads the file; one that is not there yet holds nothing. A file that cannot be understood is put
/// aside under a `.bad` name and its problem returned, because a lost timeline mark must be said.
pub fn load(path: &Path) -> (Memories, Option<String>) {
    let text = match read_bounded(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return (Memories::new(), None),
        Err(error) => return (Memories::new(), Some(format!("{}: cannot be read: {error}", path.display()))),
    };
    match parse(&text) {
        Ok(memories) => (memories, None),
        Err(problem) => {
            let aside = with_suffix(path, ".bad");
            let kept = match fs::rename(path, &aside) {
                Ok(()) => format!("kept as {}", aside.display()),
                Err(error) => format!("and it cannot be put aside: {error}"),
            };
            let told = format!(
                "{}: {problem}; starting without remembered members and timeline marks; {kept}",
                path.display()
            );
            (Memories::new(), Some(told))
        }
    }
}

fn read_bounded(path: &Path) -> io::Result<String> {
    if fs::metadata(path)?.len() > SIZE_MAX_BYTES {
        return Err(io::Error::other("too large for a state file"));
    }
    fs::read_to_string(path)
}

fn parse(text: &str) -> Result<Memories, String> {
    let written: Written = serde_json::from_str(text).map_err(|e| format!("not a state file: {e}"))?;
    if written.version != VERSION {
        return Err(format!("version {} is not known to this release, which writes {VERSION}", written.version));
    }
    Ok(written.clusters.into_iter().map(|(key, cluster)| (key, recalled(cluster))).collect())
}

fn recalled(cluster: WrittenCluster) -> Memory {
    let member = |written: WrittenMember| RememberedMember {
        conn: written.pg.as_deref().and_then(|text| HostPort::parse(text, None)),
        api: written.api.as_deref().and_then(ApiAddress::parse),
    };
    Memory {
        members: cluster.members.into_iter().map(|(name, m)| (name.into(), member(m))).collect(),
        marks: cluster.timeline_marks.into_iter().map(|(system, tl)| (system, Timeline(tl))).collect(),
        orders: BTreeMap::new(),
    }
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
            orders: BTreeMap::new(),
        };
        Memories::from([("/service/demo/".to_owned(), memory)])
    }

    #[test]
    fn what_was_saved_is_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        assert_eq!(load(&path), (Memories::new(), None));
        save(&path, &memories()).unwrap();
        assert_eq!(load(&path), (memories(), None));
    }

    #[test]
    fn a_file_that_makes_no_sense_is_kept_and_said() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        fs::write(&path, "{\"version\": 1, \"clus").unwrap();
        let (loaded, problem) = load(&path);
        assert!(loaded.is_empty());
        let problem = problem.unwrap();
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
        assert_eq!(load(&path), (memories(), None));
    }
}
