//! Processes by pid *and* start time, so that a pid used again is never taken for the old one,
//! and the sweep that ends everything that lives in one directory.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::runtime::clock;

/// How long PostgreSQL gets to stop by itself (it then frees its shared memory) before SIGKILL.
const POSTGRES_STOP_MAX: Duration = Duration::from_secs(2);
/// How long killed processes may take to vanish.
const KILL_MAX: Duration = Duration::from_secs(10);
const SWEEP_PAUSE: Duration = Duration::from_millis(10);

/// Programs that are ours when their command line or working directory lies in the directory.
const SERVERS: &[&str] = &["etcd", "patroni", "postgres", "initdb", "pg_ctl", "pg_basebackup", "pg_rewind"];
/// The router: ours by its working directory only, for the guardian's command line names the directory too.
const ROUTER: &str = "pgvane";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessId {
    pub pid: i32,
    /// Clock ticks since boot, from `/proc/PID/stat`.
    pub started: u64,
}

impl ProcessId {
    /// The process that has this pid now, unless it is gone or a zombie.
    pub fn of(pid: i32) -> Option<ProcessId> {
        Stat::read(pid).filter(Stat::is_alive).map(|stat| stat.id)
    }

    pub fn is_alive(self) -> bool {
        ProcessId::of(self.pid) == Some(self)
    }

    /// Sends `signal` if the process still lives; false when it is gone.
    pub fn signal(self, signal: Signal) -> bool {
        self.is_alive() && kill(Pid::from_raw(self.pid), signal).is_ok()
    }
}

struct Stat {
    id: ProcessId,
    parent: i32,
    name: String,
    state: char,
}

impl Stat {
    fn read(pid: i32) -> Option<Stat> {
        Stat::parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// `pid (name) state ppid ... starttime`; the name may hold spaces and parentheses.
    fn parse(text: &str) -> Option<Stat> {
        let (pid, rest) = text.split_once(" (")?;
        let (name, rest) = rest.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        Some(Stat {
            id: ProcessId { pid: pid.parse().ok()?, started: fields.get(19)?.parse().ok()? },
            parent: fields.get(1)?.parse().ok()?,
            name: name.to_owned(),
            state: fields.first()?.chars().next()?,
        })
    }

    fn is_alive(&self) -> bool {
        !matches!(self.state, 'Z' | 'X')
    }
}

fn all_processes() -> Vec<Stat> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(Stat::read)
        .filter(Stat::is_alive)
        .collect()
}

/// `roots` and everything below them.
pub fn with_descendants(roots: &[ProcessId]) -> Vec<ProcessId> {
    family(&all_processes(), roots.iter().copied().collect()).into_iter().collect()
}

fn family(all: &[Stat], mut found: BTreeSet<ProcessId>) -> BTreeSet<ProcessId> {
    let mut children: BTreeMap<i32, Vec<ProcessId>> = BTreeMap::new();
    for stat in all {
        children.entry(stat.parent).or_default().push(stat.id);
    }
    let mut open: Vec<ProcessId> = found.iter().copied().collect();
    while let Some(id) = open.pop() {
        for child in children.get(&id.pid).into_iter().flatten() {
            if found.insert(*child) {
                open.push(*child);
            }
        }
    }
    found
}

/// Sends `signal` to those that still live.
pub fn signal_all(processes: &[ProcessId], signal: Signal) {
    for id in processes {
        id.signal(signal);
    }
}

/// What was started, written down at once so that a guardian can end it after a crash.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
}

impl Ledger {
    pub fn file(dir: &Path) -> PathBuf {
        dir.join("pids")
    }

    pub fn create(dir: &Path) -> Result<Ledger> {
        let path = Ledger::file(dir);
        std::fs::write(&path, "").with_context(|| format!("creating {}", path.display()))?;
        Ok(Ledger { path })
    }

    pub fn record(&self, id: ProcessId) -> Result<()> {
        let file = OpenOptions::new().append(true).open(&self.path);
        file.and_then(|mut file| file.write_all(format!("{} {}\n", id.pid, id.started).as_bytes()))
            .with_context(|| format!("writing {}", self.path.display()))
    }

    fn read(dir: &Path) -> Vec<ProcessId> {
        let text = std::fs::read_to_string(Ledger::file(dir)).unwrap_or_default();
        text.lines().filter_map(parse_record).collect()
    }
}

fn parse_record(line: &str) -> Option<ProcessId> {
    let (pid, started) = line.split_once(' ')?;
    Some(ProcessId { pid: pid.parse().ok()?, started: started.parse().ok()? })
}

/// The postmaster that `postmaster.pid` in `data` names, if it runs and belongs there.
pub fn postmaster(data: &Path) -> Option<ProcessId> {
    let text = std::fs::read_to_string(data.join("postmaster.pid")).ok()?;
    let pid = text.lines().next()?.trim().parse().ok()?;
    let stat = Stat::read(pid).filter(Stat::is_alive)?;
    (stat.name == "postgres" && command_line_mentions(pid, data)).then_some(stat.id)
}

fn data_directories(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.join("PG_VERSION").exists()).collect()
}

fn command_line_mentions(pid: i32, dir: &Path) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).contains(dir.to_string_lossy().as_ref())
}

fn works_in(pid: i32, dir: &Path) -> bool {
    std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(dir))
}

fn belongs_to(stat: &Stat, dir: &Path) -> bool {
    let pid = stat.id.pid;
    match stat.name.as_str() {
        ROUTER => works_in(pid, dir),
        name => SERVERS.contains(&name) && (works_in(pid, dir) || command_line_mentions(pid, dir)),
    }
}

/// Everything alive that was recorded, lives in `dir`, or descends from either.
pub fn living(dir: &Path) -> Vec<ProcessId> {
    let all = all_processes();
    let alive: BTreeSet<ProcessId> = all.iter().map(|stat| stat.id).collect();
    let recorded = Ledger::read(dir).into_iter().filter(|id| alive.contains(id));
    let found = all.iter().filter(|stat| belongs_to(stat, dir)).map(|stat| stat.id);
    let mut roots: BTreeSet<ProcessId> = recorded.chain(found).collect();
    roots.extend(data_directories(dir).iter().filter_map(|data| postmaster(data)));
    let own = std::process::id() as i32;
    roots.retain(|id| id.pid != own);
    family(&all, roots).into_iter().collect()
}

/// Ends everything that belongs to `dir`. PostgreSQL is asked first; whatever is left is killed.
pub fn sweep(dir: &Path) -> Result<()> {
    let postmasters: Vec<ProcessId> = data_directories(dir).iter().filter_map(|data| postmaster(data)).collect();
    for id in Ledger::read(dir) {
        id.signal(Signal::SIGKILL); // Patroni first, or it would start PostgreSQL again
    }
    for id in &postmasters {
        id.signal(Signal::SIGQUIT);
        id.signal(Signal::SIGCONT);
    }
    wait_until(POSTGRES_STOP_MAX, || !postmasters.iter().any(|id| id.is_alive()));
    let gone = wait_until(KILL_MAX, || {
        let left = living(dir);
        signal_all(&left, Signal::SIGKILL);
        left.is_empty()
    });
    data_directories(dir).iter().for_each(|data| free_shared_memory(data));
    if !gone {
        bail!("some processes in {} survived SIGKILL for {KILL_MAX:?}: {:?}", dir.display(), living(dir));
    }
    Ok(())
}

/// Waits, blocking, until `done` or `limit`; says whether it was done.
pub fn wait_until(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let deadline = clock::now() + limit;
    loop {
        if done() {
            return true;
        }
        if clock::now() >= deadline {
            return false;
        }
        std::thread::sleep(SWEEP_PAUSE);
    }
}

/// A killed postmaster leaves one System V segment, which no directory holds; its key and id stand
/// in line 7 of postmaster.pid.
fn free_shared_memory(data: &Path) {
    let text = std::fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
    let table = std::fs::read_to_string("/proc/sysvipc/shm").unwrap_or_default();
    let Some(named) = text.lines().nth(6).map(|line| line.split_whitespace().collect::<Vec<_>>()) else { return };
    let [key, id] = named[..] else { return };
    let unused = table.lines().any(|row| {
        let fields: Vec<&str> = row.split_whitespace().collect();
        fields.len() > 6 && same_key(fields[0], key) && fields[1] == id && fields[6] == "0"
    });
    if unused {
        let ipcrm = Command::new("ipcrm").args(["-m", id]).stdout(Stdio::null()).stderr(Stdio::null()).status();
        drop(ipcrm); // 56 bytes of shared memory are not worth failing for
    }
}

/// The kernel prints the key signed, PostgreSQL unsigned.
fn same_key(kernel: &str, postgres: &str) -> bool {
    match (kernel.parse::<i64>(), postgres.parse::<i64>()) {
        (Ok(kernel), Ok(postgres)) => kernel as u32 == postgres as u32,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let text = "42 (a) (b) S 7 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765 1000 10";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.id.pid, stat.id.started, stat.parent), (42, 98765, 7));
        assert_eq!(stat.name, "a) (b");
        assert!(stat.is_alive());
        assert!(Stat::parse("42 (short) Z 7").is_none());
    }

    #[test]
    fn a_reused_pid_is_another_process() {
        let own = ProcessId::of(std::process::id() as i32).unwrap();
        assert!(own.is_alive());
        let earlier = ProcessId { started: own.started.wrapping_add(1), ..own };
        assert!(!earlier.is_alive());
        assert!(!earlier.signal(Signal::SIGCONT));
    }

    #[test]
    fn a_broken_ledger_line_is_skipped() {
        assert_eq!(parse_record("12 34"), Some(ProcessId { pid: 12, started: 34 }));
        assert_eq!(parse_record("12"), None);
        assert_eq!(parse_record("12 3x"), None);
    }

    #[test]
    fn shared_memory_keys_compare_as_bits() {
        assert!(same_key("-1", "4294967295"));
        assert!(same_key("17", "17"));
        assert!(!same_key("17", "18"));
        assert!(!same_key("", "18"));
    }
}
