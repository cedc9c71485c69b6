//! Addresses to listen on, and whether two of them get into each other's way.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::diagnose::{At, Sink};
use super::fields::Written;
use super::resolve::Around;
use crate::model::{HostPort, ListenAddress};

/// Reads `*:5433`, `10.0.0.1:5433`, `[::1]:5433`, `localhost:5433`, `unix:/run/x`. The error says what to
/// write. A path stays as written.
pub(super) fn parse(text: &str) -> Result<ListenAddress, String> {
    if text.starts_with('/') {
        return Err(format!("`{text}`: a Unix socket is written unix:{text}"));
    }
    let Some(path) = text.strip_prefix("unix:") else { return parse_tcp(text).map(ListenAddress::Tcp) };
    if path.is_empty() || path.ends_with('/') {
        return Err(format!("`{text}` names no socket: write its whole path, such as unix:/run/pgvane/.s.PGSQL.5433"));
    }
    if path.starts_with('@') {
        return Err(format!("`{text}`: a socket has a path here, such as unix:/run/pgvane/.s.PGSQL.5433"));
    }
    Ok(ListenAddress::Unix(path.into()))
}

/// The same without Unix sockets.
pub(super) fn parse_tcp(text: &str) -> Result<HostPort, String> {
    if text.starts_with("unix:") || text.starts_with('/') {
        return Err(format!("`{text}`: only services listen on Unix sockets; write an address and a port"));
    }
    if let Some(port) = text.strip_prefix(':').or(Some(text)).filter(|port| port.parse::<u16>().is_ok()) {
        return Err(format!("`{text}` has no address: write \"*:{port}\" for every address of this host"));
    }
    let read = HostPort::parse(text, None).filter(|at| at.host == "*" || is_host(&at.host));
    match read {
        Some(at) if at.port == 0 => Err(format!("`{text}`: port 0 is any free port, which no client could find")),
        Some(at) => Ok(at),
        None if HostPort::parse(text, Some(1)).is_some() && !text.ends_with(':') => {
            Err(format!("`{text}` has no port: write an address and a port, such as \"*:5433\""))
        }
        None => {
            Err(format!("`{text}` is not an address and a port from 1 to 65535, such as \"*:5433\" or 127.0.0.1:5433"))
        }
    }
}

/// `sun_path` of sockaddr_un holds 108 bytes, and the last one is a NUL (unix(7)).
const SOCKET_PATH_MAX: usize = 107;

/// The absolute path of a Unix socket; one too long for the kernel is reported.
pub(super) fn socket_path(written: &Path, at: At, around: &Around<'_>) -> PathBuf {
    let path = around.base.join(written);
    let path = std::path::absolute(&path).unwrap_or(path);
    let bytes = path.as_os_str().len();
    if bytes > SOCKET_PATH_MAX {
        let sentence = format!(
            "`{}` is {bytes} bytes long, and the path of a Unix socket has at most {SOCKET_PATH_MAX}",
            path.display()
        );
        around.sink.report(at, sentence);
    }
    path
}

/// Whether this can be a host name or an IP literal.
pub(super) fn is_host(host: &str) -> bool {
    let name = host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    // A link-local address names its interface: fe80::1%eth0.
    let literal = host.split('%').next().unwrap_or_default();
    !host.is_empty() && host.len() <= 253 && (name || literal.parse::<IpAddr>().is_ok())
}

/// The one IP address that clients come in by, if it is written as one.
pub(super) fn ip_of(address: &ListenAddress) -> Option<IpAddr> {
    match address {
        ListenAddress::Tcp(at) => at.host.parse::<IpAddr>().ok().map(|ip| ip.to_canonical()),
        ListenAddress::Unix(_) => None,
    }
}

/// Who listens where, in the order of the file.
#[derive(Default)]
pub(super) struct Listeners {
    taken: Vec<(ListenAddress, String, At)>,
}

impl Listeners {
    /// Adds `owner`'s address, or reports who has it already.
    pub fn add(&mut self, address: &Written<ListenAddress>, owner: &str, sink: &Sink) {
        if let Some((other, by, at)) = self.conflict(&address.value) {
            let place = format!("line {}, column {}", at.line, at.column);
            sink.report(address.at, format!("`{}` is taken: {by} listens on `{other}` ({place})", address.value));
            return;
        }
        self.taken.push((address.value.clone(), owner.to_string(), address.at));
    }

    pub fn conflict(&self, address: &ListenAddress) -> Option<&(ListenAddress, String, At)> {
        self.taken.iter().find(|(other, ..)| overlap(other, address))
    }
}

/// Whether the kernel could give the same client connection to both.
fn overlap(a: &ListenAddress, b: &ListenAddress) -> bool {
    match (a, b) {
        (ListenAddress::Tcp(a), ListenAddress::Tcp(b)) => a.port == b.port && hosts_overlap(&a.host, &b.host),
        (ListenAddress::Unix(a), ListenAddress::Unix(b)) => a == b,
        _ => false,
    }
}

fn hosts_overlap(a: &str, b: &str) -> bool {
    match (reach(a), reach(b)) {
        (Reach::All, _) | (_, Reach::All) => true,
        // [::] is IPv6 alone: the listener sets IPV6_V6ONLY.
        (Reach::One(a), Reach::One(b)) if a.is_unspecified() || b.is_unspecified() => a.is_ipv4() == b.is_ipv4(),
        (Reach::One(a), Reach::One(b)) => a == b,
        (Reach::Named(a), Reach::Named(b)) => a == b,
        (Reach::Named(name), Reach::One(ip)) | (Reach::One(ip), Reach::Named(name)) => {
            ip.is_unspecified() || (name == "localhost" && ip.is_loopback())
        }
    }
}

enum Reach {
    All,
    One(IpAddr),
    Named(String),
}

fn reach(host: &str) -> Reach {
    match host.parse::<IpAddr>() {
        _ if host == "*" => Reach::All,
        Ok(ip) => Reach::One(ip.to_canonical()),
        Err(_) => Reach::Named(host.to_ascii_lowercase()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_overlap_as_the_kernel_sees_it() {
        let overlap = |a: &str, b: &str| overlap(&parse(a).unwrap(), &parse(b).unwrap());
        assert!(overlap("*:1", "10.0.0.1:1"));
        assert!(overlap("0.0.0.0:1", "10.0.0.1:1"));
        assert!(overlap("[::]:1", "[::1]:1"));
        assert!(overlap("localhost:1", "127.0.0.1:1"));
        assert!(overlap("db1:1", "0.0.0.0:1"));
        assert!(overlap("DB1:1", "db1:1"));
        assert!(overlap("[0:0::1]:1", "[::1]:1"));
        assert!(!overlap("*:1", "*:2"));
        assert!(!overlap("0.0.0.0:1", "[::1]:1"));
        assert!(!overlap("0.0.0.0:1", "[::]:1"));
        assert!(!overlap("[::]:1", "10.0.0.1:1"));
        assert!(overlap("[::]:1", "*:1"));
        assert!(overlap("unix:/run/a", "unix:/run/a"));
        assert!(overlap("unix:/run/./a", "unix:/run//a"));
        assert!(!overlap("unix:/run/a", "unix:/run/b"));
        assert!(!overlap("unix:/run/a", "*:1"));
        assert!(!overlap("10.0.0.1:1", "10.0.0.2:1"));
        assert!(!overlap("localhost:1", "10.0.0.2:1"));
    }

    #[test]
    fn what_is_no_address_is_told_what_one_looks_like() {
        for text in [
            "5433",
            ":5433",
            "*",
            "*:",
            "*:0",
            "*:65536",
            "*:x",
            "",
            "a b:1",
            "unix:",
            "unix:/tmp/",
            "unix:@a",
            "/tmp/a",
            "db1",
            "1.2.3.4",
            "[::1]",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(parse("5433").unwrap_err().contains("\"*:5433\""));
        assert!(parse(":5433").unwrap_err().contains("\"*:5433\""));
        assert!(parse("db1").unwrap_err().contains("no port"));
        assert!(parse("/run/a").unwrap_err().contains("unix:/run/a"));
        assert!(parse_tcp("unix:/run/a").is_err());
        assert_eq!(parse_tcp("[fe80::1%eth0]:1").unwrap().port, 1);
    }
}
