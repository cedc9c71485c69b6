//! Which programs the demo starts, as whom, and what to install when one is missing.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::unistd::{Uid, User, geteuid};

/// Overrides the directory of PostgreSQL's server programs.
pub const POSTGRES_BIN_VARIABLE: &str = "PGVANE_POSTGRES_BIN";
/// Overrides the virtual environment that holds Patroni.
pub const PATRONI_VENV_VARIABLE: &str = "PGVANE_PATRONI_VENV";

/// The account that servers run under; PostgreSQL refuses root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    pub uid: u32,
    pub gid: u32,
}

#[derive(Debug, Clone)]
pub struct Programs {
    pub postgres_bin: PathBuf,
    pub etcd: PathBuf,
    pub patroni: PathBuf,
    /// Some when we are root and must step down.
    pub account: Option<Account>,
}

impl Programs {
    /// Finds everything, or says in one error all that is missing and what to install.
    pub fn find() -> Result<Programs> {
        let (postgres_bin, etcd, patroni) = (find_postgres_bin(), find_in_path("etcd"), find_patroni());
        let mut missing = Vec::new();
        if postgres_bin.is_none() {
            missing.push(format!(
                "PostgreSQL's server programs were not found below /usr/lib/postgresql, in PATH or in {POSTGRES_BIN_VARIABLE}: install the package postgresql"
            ));
        }
        if etcd.is_none() {
            missing.push("etcd was not found in PATH: install the package etcd-server".to_owned());
        }
        if patroni.is_none() {
            missing.push(format!(
                "Patroni was not found in {} (or {PATRONI_VENV_VARIABLE}): it comes as patroni[etcd3] with psycopg2-binary from PyPI",
                default_venv().display()
            ));
        }
        match (postgres_bin, etcd, patroni) {
            (Some(postgres_bin), Some(etcd), Some(patroni)) => {
                Ok(Programs { postgres_bin, etcd, patroni, account: account_to_use()? })
            }
            _ => bail!("{}.\n`scripts/setup demo` installs all of it.", missing.join(".\n")),
        }
    }
}

fn account_to_use() -> Result<Option<Account>> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let user = User::from_name("postgres")
        .context("looking up the user postgres")?
        .context("there is no user postgres, and PostgreSQL refuses to run as root: install the package postgresql (`scripts/setup demo` does) or start the demo as another user")?;
    Ok(Some(Account { uid: user.uid.as_raw(), gid: user.gid.as_raw() }))
}

fn find_postgres_bin() -> Option<PathBuf> {
    if let Some(dir) = std::env::var_os(POSTGRES_BIN_VARIABLE) {
        return Some(PathBuf::from(dir)).filter(|dir| is_program(&dir.join("postgres")));
    }
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse::<u32>().ok()?, entry.path().join("bin"))))
        .filter(|(_, bin)| is_program(&bin.join("postgres")))
        .max();
    match newest {
        Some((_, bin)) => Some(bin),
        None => find_in_path("postgres").and_then(|program| program.parent().map(Path::to_owned)),
    }
}

fn find_patroni() -> Option<PathBuf> {
    let program = match std::env::var_os(PATRONI_VENV_VARIABLE) {
        Some(venv) => PathBuf::from(venv).join("bin/patroni"),
        None => default_venv().join("bin/patroni"),
    };
    is_program(&program).then_some(program)
}

/// Where `scripts/setup` puts Patroni.
fn default_venv() -> PathBuf {
    if Uid::effective().is_root() {
        return PathBuf::from("/opt/pgvane/patroni");
    }
    let cache = match std::env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty()) {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache"),
    };
    cache.join("pgvane/patroni")
}

fn find_in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|program| is_program(program))
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}
