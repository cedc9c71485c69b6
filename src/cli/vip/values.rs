//! From texts to what they mean: one reader for each kind of value. Every problem says where the value came from.

use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use crate::config::Problem;
use crate::config::flat::{duration, show_duration};
use crate::model::ApiAddress;

use super::layers::{Found, Merged, Origin};

/// The merged settings while they are read, and everything that is wrong with them.
pub(super) struct Reader<'a> {
    merged: &'a Merged,
    pub problems: Vec<Problem>,
    /// Nothing that keeps it from running.
    pub warnings: Vec<String>,
}

/// A value and where it stands.
pub(super) struct Placed<T> {
    pub value: T,
    pub origin: Origin,
}

impl<'a> Reader<'a> {
    pub fn new(merged: &'a Merged) -> Reader<'a> {
        Reader { merged, problems: merged.wrong.clone(), warnings: Vec::new() }
    }

    pub fn found(&self, name: &str) -> Option<&'a Found> {
        self.merged.values.get(name)
    }

    pub fn text(&self, name: &str) -> Option<String> {
        self.found(name).map(Found::text)
    }

    /// A setting as `read` takes it. None: it is not given, or wrong, which is reported then.
    pub fn read<T>(&mut self, name: &str, read: impl FnOnce(&str) -> Result<T, String>) -> Option<Placed<T>> {
        let found = self.found(name)?;
        match read(found.text().trim()) {
            Ok(value) => Some(Placed { value, origin: found.origin.clone() }),
            Err(sentence) => {
                self.report(&found.origin, &format!("`{name}`: {sentence}"));
                None
            }
        }
    }

    pub fn value<T>(&mut self, name: &str, read: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        self.read(name, read).map(|placed| placed.value)
    }

    pub fn switch(&mut self, name: &str) -> bool {
        self.value(name, switch).unwrap_or(false)
    }

    /// Reports one that is not there.
    pub fn needs(&mut self, name: &str) {
        if self.found(name).is_none() {
            self.problems.push(Problem { at: None, sentence: format!("Setting {name} is mandatory") });
        }
    }

    /// Reports `implied` where it is missing beside `reason`.
    pub fn implies(&mut self, reason: &str, implied: &str) {
        if let (Some(found), None) = (self.found(reason), self.found(implied)) {
            let sentence = format!("Setting {implied} is mandatory when setting {reason} is specified.");
            self.report(&found.origin, &sentence);
        }
    }

    pub fn report(&mut self, origin: &Origin, sentence: &str) {
        let (at, sentence) = match origin {
            Origin::Flag(name) => (None, format!("--{name}: {sentence}")),
            Origin::Variable(name) => (None, format!("{name}: {sentence}")),
            Origin::File(_, at) => (Some(*at), sentence.to_owned()),
        };
        self.problems.push(Problem { at, sentence });
    }

    pub fn warn(&mut self, sentence: String) {
        self.warnings.push(sentence);
    }
}

/// What Go's `strconv.ParseBool` takes, and what YAML does.
pub(super) fn switch(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "t" | "1" | "yes" | "on" => Ok(true),
        "false" | "f" | "0" | "no" | "off" => Ok(false),
        _ => Err(format!("\"{text}\" is not true or false")),
    }
}

pub(super) fn whole<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("\"{text}\" is not a whole number"))
}

pub(super) fn time(min: Duration, max: Duration) -> impl Fn(&str) -> Result<Duration, String> {
    move |text| {
        let read = duration(text)?;
        if read < min || read > max {
            return Err(format!("it is from {} to {}, not {text}", show_duration(min), show_duration(max)));
        }
        Ok(read)
    }
}

pub(super) fn whole_seconds(min: u64, max: u64) -> impl Fn(&str) -> Result<Duration, String> {
    move |text| {
        let read = time(Duration::from_secs(min), Duration::from_secs(max))(text)?;
        if read.subsec_nanos() > 0 {
            return Err(format!("the kernel counts whole seconds: write {}s", read.as_secs()));
        }
        Ok(read)
    }
}

/// An address that one host of a network can have.
pub(super) fn address(text: &str) -> Result<IpAddr, String> {
    let ip = match text.parse::<IpAddr>() {
        Ok(ip) => ip,
        Err(_) => {
            let hint = match text.split_once('/') {
                Some((ip, bits)) if ip.parse::<IpAddr>().is_ok() => format!("; write {ip}, and {bits} as `netmask`"),
                _ => " such as 10.10.10.100; names are not looked up".to_owned(),
            };
            return Err(format!("\"{text}\" is not an address{hint}"));
        }
    };
    let kind = match ip {
        _ if ip.is_unspecified() => "every address of a host",
        _ if ip.is_loopback() => "a loopback address",
        _ if ip.is_multicast() => "a multicast address",
        IpAddr::V4(v4) if v4.is_broadcast() => "the broadcast address",
        IpAddr::V4(v4) if v4.octets()[0] == 0 => "an address of no network",
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => "an IPv4 address in the form of IPv6",
        _ => return Ok(ip),
    };
    Err(format!("{ip} is {kind}; write the one that clients connect to"))
}

/// IFNAMSIZ of linux/if.h is 16, and the last one is a NUL.
const INTERFACE_BYTES_MAX: usize = 15;

/// net/core/dev.c, `dev_valid_name`.
pub(super) fn interface(text: &str) -> Result<String, String> {
    let strange = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    if text == "." || text == ".." || text.contains(strange) {
        return Err(format!("\"{text}\" cannot name an interface: no slash, no colon, no blank"));
    }
    if text.len() > INTERFACE_BYTES_MAX {
        return Err(format!("\"{text}\" is longer than {INTERFACE_BYTES_MAX} bytes, which no interface's name is"));
    }
    Ok(text.to_owned())
}

/// An endpoint: with http where no scheme is given, and what follows host and port.
pub(super) fn endpoint(text: &str) -> Result<(ApiAddress, String), String> {
    let url = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let rest = url.split_once("://").map_or("", |(_, rest)| rest);
    if rest.split('/').next().is_some_and(|authority| authority.contains('@')) {
        return Err("an endpoint has no user and password in it: write `etcd-user` and `etcd-password`".to_owned());
    }
    let api = ApiAddress::parse(&url)
        .ok_or_else(|| format!("\"{text}\" is not an endpoint: write http://host:port or https://host:port"))?;
    let path = rest.find('/').map_or("", |at| &rest[at..]).trim_end_matches('/');
    Ok((api, path.to_owned()))
}
