//! Real PostgreSQL servers that need no cluster: started in a folder of their own, gone with the test.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::{User, geteuid};
use pgvane::runtime::clock;
use tempfile::TempDir;
use tokio_postgres::NoTls;

use crate::members::ports::Port;
use crate::members::process::Process;
use crate::members::secs;

/// For a start or a stop on a busy machine.
const START_MAX: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(20);
pub const SUPERUSER: &str = "postgres";
/// Small, quick to stop, and silent by itself: no background work changes what a client is told.
const SETTINGS: &str = "listen_addresses = '127.0.0.1'
unix_socket_directories = ''
fsync = off
shared_buffers = 16MB
autovacuum = off
checkpoint_timeout = 1h
wal_keep_size = 1GB
max_prepared_transactions = 10
timezone = 'UTC'
lc_messages = 'C'
";

#[derive(Debug)]
pub struct Postgres {
    folder: TempDir,
    port: Port,
    process: Option<Process>,
}

impl Postgres {
    /// A new cluster, with these lines at the end of its postgresql.conf and this pg_hba.conf.
    pub async fn start(settings: &str, hba: &str) -> Postgres {
        let folder = tempfile::tempdir().expect("a temporary folder");
        own(folder.path());
        let mut postgres = Postgres { folder, port: Port::reserve(), process: None };
        let mut initdb = postgres.program("initdb");
        initdb.args(["--no-sync", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "-U", SUPERUSER, "-D"]);
        let made = initdb.arg(postgres.data()).output().expect("initdb runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let port = postgres.port.number;
        postgres.write("data/postgresql.conf", &format!("{SETTINGS}port = {port}\n{settings}"));
        postgres.write("data/pg_hba.conf", hba);
        postgres.restart().await;
        postgres
    }

    /// Everybody on loopback is let in.
    pub async fn trusting(settings: &str) -> Postgres {
        Postgres::start(settings, "host all all 127.0.0.1/32 trust\nhost replication all 127.0.0.1/32 trust\n").await
    }

    /// Starts on what the data folder holds, when whoever stopped or was killed there is gone.
    pub async fn restart(&mut self) {
        if let Some(old) = &mut self.process {
            assert!(old.wait(START_MAX).await.is_some(), "PostgreSQL does not stop");
        }
        let deadline = clock::now() + START_MAX;
        while self.client(SUPERUSER).await.is_err() {
            assert!(clock::now() < deadline, "PostgreSQL does not start: {}", self.log());
            // It refuses to start beside the last backends of a killed one.
            if self.process.as_mut().is_none_or(|process| process.exited().is_some()) {
                self.process = Some(self.launch());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn launch(&self) -> Process {
        let log = File::options().create(true).append(true).open(self.log_path()).expect("a log file");
        let mut command = self.program("postgres");
        command.arg("-D").arg(self.data()).stdout(log.try_clone().expect("a log file")).stderr(log);
        Process::start(&mut command)
    }

    /// A file in its folder, readable by the server alone.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, text).expect("a file in the server's folder");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("permissions");
        own(&path);
        path
    }

    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    pub async fn client(&self, user: &str) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
        let mut to = tokio_postgres::Config::new();
        to.host("127.0.0.1").port(self.port.number).user(user).dbname("postgres").connect_timeout(secs(10));
        let (client, connection) = to.connect(NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// Statements without results, as the superuser.
    pub async fn run(&self, sql: &str) {
        let client = self.client(SUPERUSER).await.unwrap_or_else(|error| panic!("{error}"));
        client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    /// Whether this query has a row now.
    pub async fn has(&self, sql: &str) -> bool {
        let client = self.client(SUPERUSER).await.unwrap_or_else(|error| panic!("{error}"));
        !client.query(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}")).is_empty()
    }

    /// A fast shutdown: every backend tells its client 57P01, and has when this returns.
    pub async fn stop_fast(&mut self) {
        let process = self.process.as_mut().expect("it runs");
        process.signal(Signal::SIGINT);
        assert!(process.wait(START_MAX).await.is_some(), "PostgreSQL does not stop");
    }

    /// The postmaster is gone from one moment to the next; its backends notice that by themselves.
    pub fn kill_postmaster(&mut self) {
        self.process = None;
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(bin().join(name));
        command.current_dir(self.folder.path()).env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C.UTF-8");
        if let Some((uid, gid)) = account() {
            command.uid(uid).gid(gid);
        }
        command
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("log")
    }
}

impl Drop for Postgres {
    /// An immediate shutdown, so that the kernel gets the shared memory back.
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("-- PostgreSQL said --\n{}", self.log());
        }
        let Some(mut process) = self.process.take() else { return };
        if process.exited().is_none() {
            process.signal(Signal::SIGQUIT);
            process.end_within(secs(10));
        }
    }
}

/// PostgreSQL refuses to run as root.
fn account() -> Option<(u32, u32)> {
    if !geteuid().is_root() {
        return None;
    }
    let user = User::from_name("postgres").ok().flatten().expect("the user postgres, of Debian's package postgresql");
    Some((user.uid.as_raw(), user.gid.as_raw()))
}

fn own(path: &Path) {
    if let Some((uid, gid)) = account() {
        chown(path, Some(uid), Some(gid)).expect("root may give files away");
    }
}

/// Of the newest PostgreSQL that Debian's packages installed.
pub fn bin() -> PathBuf {
    if let Some(bin) = std::env::var_os("PGVANE_POSTGRES_BIN") {
        return bin.into();
    }
    let versions = fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL of Debian: scripts/setup test").flatten();
    let number = |name: &std::ffi::OsStr| name.to_str().and_then(|text| text.parse::<u32>().ok());
    let newest = versions.filter_map(|entry| Some((number(&entry.file_name())?, entry.path()))).max();
    newest.expect("a version of PostgreSQL").1.join("bin")
}
