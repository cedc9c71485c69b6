//! The configuration file: as written (`schema`), as meant (`resolve`), and what is wrong with it
//! (`diagnose`). Reading never stops at the first problem.

mod checks;
pub mod diagnose;
mod etcd;
mod fields;
pub mod flat;
mod full;
mod listen;
mod members;
mod options;
mod policy;
mod quantity;
mod resolve;
mod schema;
mod services;
mod summary;
mod syslog;
mod vips;
mod yaml;

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use diagnose::{At, Problem, Problems};
pub use full::full_yml;

pub use crate::model::OrdersFrom;
use crate::model::{ClusterSpec, HostPort, Splice, VipSpec};

/// Everything that `pgvane run` is asked to do, checked as a whole.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub state_file: Option<PathBuf>,
    pub log: LogSpec,
    pub shutdown: Shutdown,
    pub admin: Option<Admin>,
    /// How bulk data goes from servers to clients.
    pub splice: Splice,
    /// At least one; no two listeners of all of them overlap.
    pub clusters: Vec<Cluster>,
    /// No two of the same address.
    pub vips: Vec<Arc<VipSpec>>,
}

/// Where lines go besides stderr.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LogSpec {
    pub syslog: Option<SyslogSpec>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct SyslogSpec {
    pub target: SyslogTarget,
    pub facility: Facility,
}

#[derive(Debug, Clone, PartialEq)]
pub enum SyslogTarget {
    /// A Unix datagram socket such as /dev/log; lines in the form of RFC 3164, as local daemons expect.
    Unix(PathBuf),
    /// UDP; lines in the form of RFC 5424.
    Udp(HostPort),
}

/// RFC 5424, table 1: the number that a line's priority is made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facility(pub u8);

/// What SIGTERM does.
#[derive(Debug, Clone, PartialEq)]
pub struct Shutdown {
    /// Not ready, but still accepting.
    pub delay: Duration,
    /// The longest that sessions may go on after that.
    pub drain: Duration,
}

impl Default for Shutdown {
    fn default() -> Self {
        Shutdown { delay: Duration::ZERO, drain: Duration::from_secs(30) }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Admin {
    /// Host `*` is every IPv4 and IPv6 address.
    pub listen: Vec<HostPort>,
    pub orders: OrdersFrom,
}

/// One Patroni cluster and how to reach it.
#[derive(Debug, Clone, PartialEq)]
pub struct Cluster {
    pub spec: Arc<ClusterSpec>,
    /// None exactly with `trust: rest`.
    pub etcd: Option<EtcdSpec>,
    /// None: the members' REST API is reached over plain http.
    pub patroni_tls: Option<TlsFiles>,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct EtcdSpec {
    /// `scheme://host:port`, at least one, no two equal; with `tls` all are https.
    pub endpoints: Vec<String>,
    /// Given exactly when `password` is.
    pub username: Option<String>,
    pub password: Option<Secret>,
    pub tls: Option<TlsFiles>,
}

/// PEM files; each existed and held the right kind of block when the file was read.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TlsFiles {
    /// None: the authorities that this system trusts.
    pub ca: Option<PathBuf>,
    /// Given exactly when `key` is.
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

/// A text that no log, message or debug output shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: String) -> Secret {
        Secret(text)
    }

    /// The text itself, for the peer that asked for it and nobody else.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// What a configuration file may refer to.
struct Outside<'a> {
    env: &'a dyn Fn(&str) -> Option<String>,
    read_file: &'a dyn Fn(&Path) -> io::Result<String>,
}

/// No configuration is longer; a device or a database dump given by mistake is.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Reads and checks a configuration file, with the process's environment and the files it names.
///
/// # Errors
/// Every problem of the file at once.
pub fn load(path: &Path) -> Result<Config, Problems> {
    let (name, text) = text_of(path)?;
    parse(&name, &text, &|name| std::env::var(name).ok(), &read_text)
}

/// What problems call a file, and what is in it.
fn text_of(path: &Path) -> Result<(String, String), Problems> {
    let name = path.display().to_string();
    let bytes = read_bytes(path).map_err(|error| {
        let hint = if error.kind() == io::ErrorKind::IsADirectory { "; name the file in it" } else { "" };
        Problems::whole(&name, format!("cannot read it: {}{hint}", etcd::why(&error)))
    })?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(Problems::whole(&name, "it is larger than 1 MB, which no configuration is"));
    }
    let text = String::from_utf8(bytes)
        .map_err(|error| not_utf8(&name, error.as_bytes(), error.utf8_error().valid_up_to()))?;
    Ok((name, text))
}

/// Checks the text of a configuration file. `name` is the file's path: problems begin with it, and
/// relative paths in the file begin at its directory.
///
/// # Errors
/// Every problem of the file at once.
pub fn parse(
    name: &str,
    text: &str,
    env: &dyn Fn(&str) -> Option<String>,
    read_file: &dyn Fn(&Path) -> io::Result<String>,
) -> Result<Config, Problems> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let sink = diagnose::Sink::default();
    let base = Path::new(name).parent().unwrap_or(Path::new(""));
    let outside = Outside { env, read_file };
    let around = resolve::Around { base, outside: &outside, sink: &sink };
    let config = yaml::read(text, &sink)
        .and_then(|root| schema::read(&root, &sink))
        .map(|file| resolve::resolve(&file, &around));
    let problems = sink.into_list();
    match config {
        Some(config) if problems.is_empty() => Ok(config),
        _ => Err(Problems::new(name, text, problems)),
    }
}

fn read_bytes(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn read_text(path: &Path) -> io::Result<String> {
    String::from_utf8(read_bytes(path)?).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
}

fn not_utf8(name: &str, bytes: &[u8], valid: usize) -> Problems {
    let before = String::from_utf8_lossy(&bytes[..valid]);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().map_or(0, |last| last.chars().count()) + 1;
    let sentence = "this byte is not UTF-8; save the file as UTF-8".to_string();
    let problem = Problem { at: Some(At { line, column, width: 1 }), sentence };
    Problems::new(name, &String::from_utf8_lossy(bytes), vec![problem])
}
