//! Where a member can be reached, as names (resolving them is the shell's work).

use std::fmt;
use std::path::PathBuf;

/// A network of IP addresses; a single address is one with all bits in its prefix.
pub type Cidr = ipnet::IpNet;

/// A host name or IP literal (IPv6 without brackets) and a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    pub host: String,
    pub port: u16,
}

impl HostPort {
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        HostPort { host: host.into(), port }
    }

    /// Reads `host:port`, `[v6]:port`, or either without a port when `default_port` is given.
    pub fn parse(text: &str, default_port: Option<u16>) -> Option<HostPort> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, tail) = rest.split_once(']')?;
                (host, tail.strip_prefix(':'))
            }
            None => match text.rsplit_once(':') {
                Some((host, port)) if !host.contains(':') => (host, Some(port)),
                _ => (text, None),
            },
        };
        let port = match port {
            Some(text) => text.parse().ok()?,
            None => default_port?,
        };
        let plain = !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || "/@[]".contains(c));
        plain.then(|| HostPort::new(host, port))
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Where a service listens.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ListenAddress {
    /// Host `*` is every IPv4 and IPv6 address.
    Tcp(HostPort),
    /// The path of a Unix stream socket, absolute.
    Unix(PathBuf),
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenAddress::Tcp(at) => at.fmt(f),
            ListenAddress::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl From<HostPort> for ListenAddress {
    fn from(at: HostPort) -> Self {
        ListenAddress::Tcp(at)
    }
}

/// A member's Patroni REST API.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ApiAddress {
    pub tls: bool,
    pub at: HostPort,
}

impl ApiAddress {
    /// Reads `http://host:8008/patroni`; the path is Patroni's own business and is dropped.
    pub fn parse(url: &str) -> Option<ApiAddress> {
        let (tls, rest) = match url.split_once("://")? {
            ("http", rest) => (false, rest),
            ("https", rest) => (true, rest),
            _ => return None,
        };
        let authority = rest.split(['/', '?']).next()?;
        let at = HostPort::parse(authority, Some(if tls { 443 } else { 80 }))?;
        Some(ApiAddress { tls, at })
    }
}

impl fmt::Display for ApiAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.tls { "https" } else { "http" }, self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_keep_ipv6_and_default_ports() {
        assert_eq!(HostPort::parse("[::1]:5432", None), Some(HostPort::new("::1", 5432)));
        assert_eq!(HostPort::parse("db1", Some(5432)), Some(HostPort::new("db1", 5432)));
        assert_eq!(HostPort::parse("db1", None), None);
        assert_eq!(HostPort::parse("::1", Some(5432)), Some(HostPort::new("::1", 5432)));
        assert_eq!(HostPort::parse("a b:1", None), None);
        assert_eq!(HostPort::parse("db1:99999", None), None);
        let api = ApiAddress::parse("https://[fe80::1]:8008/patroni").unwrap();
        assert_eq!(api.to_string(), "https://[fe80::1]:8008");
        assert_eq!(ApiAddress::parse("ftp://x:1/"), None);
    }
}
