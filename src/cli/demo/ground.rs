//! The one directory that everything lives in, what was started there, and the guardian that
//! clears it all away should this process die without doing so.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use nix::unistd::setsid;
use parking_lot::Mutex;
use tempfile::TempDir;

use super::processes::{self, Ledger, ProcessId};
use super::programs::Account;

const DIRECTORY_PREFIX: &str = "pgvane-demo-";
const GUARDIAN_READY: &str = "guarding";
/// For the guardian to end after this process let go of it.
const GUARDIAN_END_MAX: Duration = Duration::from_secs(15);
/// For the directory to be removed while the last writers die.
const REMOVE_MAX: Duration = Duration::from_secs(5);
/// Log lines shown of each program when something fails.
const TAIL_LINES: usize = 12;
/// Bytes read from the end of a log for that.
const TAIL_BYTES: u64 = 16 * 1024;

/// What to start, before it is known as whom and where.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The key to reach it by afterwards, and the name of its log.
    pub name: String,
    /// A command that runs the rest elsewhere, such as `ip netns exec n1`; empty for here.
    pub wrap: Vec<String>,
    pub program: PathBuf,
    pub arguments: Vec<OsString>,
}

#[derive(Debug)]
pub struct Ground {
    dir: TempDir,
    account: Option<Account>,
    ledger: Ledger,
    children: Mutex<BTreeMap<String, (Child, ProcessId)>>,
    /// Its standard input is the pipe whose end of file sets it to work.
    guardian: Child,
}

impl Ground {
    /// `pgvane` is the program that becomes the guardian.
    pub fn prepare(account: Option<Account>, pgvane: &Path) -> Result<Ground> {
        let dir =
            tempfile::Builder::new().prefix(DIRECTORY_PREFIX).tempdir().context("making a temporary directory")?;
        std::fs::create_dir(dir.path().join("log")).context("making the log directory")?;
        let ledger = Ledger::create(dir.path())?;
        let guardian = start_guardian(pgvane, dir.path())?;
        let ground = Ground { dir, account, ledger, children: Mutex::default(), guardian };
        ground.own(ground.path())?;
        Ok(ground)
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Writes a file in the directory, readable by the servers.
    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.path().join(name);
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        self.own(&path)?;
        Ok(path)
    }

    fn own(&self, path: &Path) -> Result<()> {
        let Some(account) = self.account else { return Ok(()) };
        chown(path, Some(account.uid), Some(account.gid))
            .with_context(|| format!("giving {} to the user postgres", path.display()))
    }

    /// Starts a server under the account, out of reach of the terminal's Ctrl-C.
    pub fn start(&self, launch: &Launch) -> Result<ProcessId> {
        let mut command = self.command(launch);
        let path = std::env::var_os("PATH").unwrap_or_default();
        // Nothing of ours (PATRONI_*, PG*, ETCD_*) may change what the servers do.
        command.env_clear().env("PATH", path).env("HOME", self.path()).env("TMPDIR", self.path());
        command.env("LC_ALL", "C.UTF-8").env("PYTHONUNBUFFERED", "1");
        self.spawn(&launch.name, command)
    }

    /// Starts a program as ourselves, such as the router, which dies with everything else.
    pub fn start_own(&self, name: &str, command: Command) -> Result<ProcessId> {
        self.spawn(name, command)
    }

    fn command(&self, launch: &Launch) -> Command {
        let mut words: Vec<OsString> = launch.wrap.iter().map(OsString::from).collect();
        if let (Some(account), false) = (self.account, launch.wrap.is_empty()) {
            // Entering a namespace needs root, so the step down comes after it.
            let step_down = ["setpriv".into(), format!("--reuid={}", account.uid), format!("--regid={}", account.gid)];
            words.extend(step_down.map(OsString::from));
            words.extend(["--clear-groups", "--"].map(OsString::from));
        }
        words.push(launch.program.clone().into_os_string());
        words.extend(launch.arguments.iter().cloned());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        if let (Some(account), true) = (self.account, launch.wrap.is_empty()) {
            command.uid(account.uid).gid(account.gid);
        }
        command
    }

    fn spawn(&self, name: &str, mut command: Command) -> Result<ProcessId> {
        let log = self.open_log(name)?;
        let errors = log.try_clone().context("opening a log twice")?;
        command.current_dir(self.path()).process_group(0);
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        let program = command.get_program().to_string_lossy().into_owned();
        let mut child = command.spawn().with_context(|| format!("starting {program} for {name}"))?;
        let Some(id) = ProcessId::of(child.id() as i32) else {
            let status = child.wait().context("waiting for a program that ended at once")?;
            bail!("{program} for {name} ended at once ({status}){}", self.tail(name));
        };
        self.children.lock().insert(name.to_owned(), (child, id));
        self.ledger.record(id)?;
        Ok(id)
    }

    fn open_log(&self, name: &str) -> Result<File> {
        let path = self.log(name);
        OpenOptions::new().create(true).append(true).open(&path).with_context(|| format!("opening {}", path.display()))
    }

    pub fn log(&self, name: &str) -> PathBuf {
        self.path().join("log").join(format!("{name}.log"))
    }

    /// Whether it was started here and has not ended since.
    pub fn is_running(&self, name: &str) -> bool {
        self.children.lock().get(name).is_some_and(|(_, id)| id.is_alive())
    }

    pub fn process(&self, name: &str) -> Option<ProcessId> {
        self.children.lock().get(name).map(|(_, id)| *id).filter(|id| id.is_alive())
    }

    pub fn signal(&self, name: &str, signal: Signal) -> Result<()> {
        match self.process(name) {
            Some(id) if id.signal(signal) => Ok(()),
            _ => bail!("{name} is not running"),
        }
    }

    /// SIGKILL, and gone when this returns. Well when it was not running.
    pub fn kill(&self, name: &str) -> Result<()> {
        let Some((mut child, _)) = self.children.lock().remove(name) else { return Ok(()) };
        child.kill().with_context(|| format!("killing {name}"))?;
        child.wait().with_context(|| format!("waiting for the end of {name}"))?;
        Ok(())
    }

    /// The end of a program's log, for an error message.
    pub fn tail(&self, name: &str) -> String {
        match read_tail(&self.log(name)) {
            Some(tail) => format!("\n--- end of {name}'s log ---\n{tail}"),
            None => format!("\n--- {name} logged nothing ---"),
        }
    }
}

fn read_tail(path: &Path) -> Option<String> {
    use std::io::{Seek, SeekFrom};
    let mut file = File::open(path).ok()?;
    let from = file.metadata().ok()?.len().saturating_sub(TAIL_BYTES);
    file.seek(SeekFrom::Start(from)).ok()?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let tail = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n");
    (!tail.is_empty()).then_some(tail)
}

impl Drop for Ground {
    fn drop(&mut self) {
        if let Err(error) = processes::sweep(self.path()) {
            eprintln!("pgvane demo: {error:#}");
        }
        for (_, (mut child, _)) in std::mem::take(&mut *self.children.lock()) {
            drop(child.wait()); // dead by now; this frees its entry in the process table
        }
        drop(self.guardian.stdin.take()); // it removes the directory
        let guardian = &mut self.guardian;
        if !processes::wait_until(GUARDIAN_END_MAX, || !matches!(guardian.try_wait(), Ok(None))) {
            drop(guardian.kill());
            drop(guardian.wait());
        }
    }
}

fn start_guardian(pgvane: &Path, dir: &Path) -> Result<Child> {
    let mut command = Command::new(pgvane);
    command.args(["demo", "--guardian"]).arg(dir).current_dir("/");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut guardian = command.spawn().with_context(|| format!("starting {} as the guardian", pgvane.display()))?;
    let mut word = String::new();
    if let Some(stdout) = guardian.stdout.take() {
        BufReader::new(stdout).read_line(&mut word).context("listening to the guardian")?;
    }
    if word.trim() != GUARDIAN_READY {
        drop(guardian.kill());
        drop(guardian.wait());
        bail!("{} did not become the guardian of {}", pgvane.display(), dir.display());
    }
    Ok(guardian)
}

/// The guardian's whole life: waits, in a session of its own, for the end of its standard input,
/// which comes however the demo dies; then ends all that lives in `dir` and removes it.
pub fn guard(dir: &Path) -> Result<()> {
    let named = dir.file_name().is_some_and(|name| name.to_string_lossy().starts_with(DIRECTORY_PREFIX));
    if !named || !Ledger::file(dir).exists() {
        bail!("{} is not a demo's directory", dir.display());
    }
    setsid().context("leaving the terminal's session")?;
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{GUARDIAN_READY}").and_then(|()| stdout.flush()).context("reporting to the demo")?;
    let mut rest = Vec::new();
    drop(std::io::stdin().read_to_end(&mut rest)); // an error means the same as the end
    let swept = processes::sweep(dir);
    processes::wait_until(REMOVE_MAX, || std::fs::remove_dir_all(dir).is_ok() || !dir.exists());
    swept
}
