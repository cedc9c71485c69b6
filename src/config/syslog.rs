//! `log: { syslog: ... }`: where lines go besides stderr.

use super::diagnose::nearest;
use super::fields::{Fields, Written};
use super::listen::{is_host, socket_path};
use super::resolve::Around;
use super::{Facility, SyslogSpec, SyslogTarget};
use crate::model::HostPort;

/// As written.
pub(super) struct Spec {
    target: Option<Written<SyslogTarget>>,
    facility: Option<Facility>,
}

impl Facility {
    /// The names of RFC 5424, table 1, in its order, as syslog daemons write them.
    pub const NAMES: [&'static str; 24] = [
        "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp", "ntp",
        "audit", "alert", "clock", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
    ];
    /// `daemon`.
    pub const DEFAULT: Facility = Facility(3);

    pub fn named(name: &str) -> Option<Facility> {
        // HAProxy's names for two of them.
        let name = match name {
            "auth2" => "authpriv",
            "cron2" => "clock",
            name => name,
        };
        let index = Facility::NAMES.iter().position(|known| *known == name)?;
        u8::try_from(index).ok().map(Facility)
    }

    pub fn as_str(self) -> &'static str {
        Facility::NAMES.get(usize::from(self.0)).copied().unwrap_or("unknown")
    }
}

/// Where syslog listens for UDP (RFC 5426, section 3.3).
const PORT: u16 = 514;
/// Where every Linux has one.
const TARGET: &str = "/dev/log";

pub(super) fn read(fields: &Fields<'_>) -> Spec {
    Spec { target: read_target(fields), facility: read_facility(fields) }
}

fn read_target(fields: &Fields<'_>) -> Option<Written<SyslogTarget>> {
    let written = fields.text("target")?;
    match parse_target(written.value) {
        Ok(value) => Some(Written { value, at: written.at }),
        Err(sentence) => {
            fields.sink().report(written.at, sentence);
            None
        }
    }
}

fn parse_target(text: &str) -> Result<SyslogTarget, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        return Ok(SyslogTarget::Unix(path.into()));
    }
    if text.starts_with('/') {
        return Err(format!("`target`: a path is written unix:{text}"));
    }
    let at = HostPort::parse(text, Some(PORT)).filter(|at| at.port != 0 && is_host(&at.host));
    at.map(SyslogTarget::Udp).ok_or_else(|| {
        format!("`target` is a Unix socket or a host and a port for UDP, such as unix:/dev/log or 10.0.0.5:514, not `{text}`")
    })
}

fn read_facility(fields: &Fields<'_>) -> Option<Facility> {
    let written = fields.text("facility")?;
    let facility = Facility::named(written.value);
    if facility.is_none() {
        let meant = nearest(written.value, Facility::NAMES).map(|word| format!("; did you mean `{word}`?"));
        let sentence = format!(
            "`facility` is one of syslog's, such as `daemon` or `local0`, not `{}`{}",
            written.value,
            meant.unwrap_or_default()
        );
        fields.sink().report(written.at, sentence);
    }
    facility
}

pub(super) fn resolve(written: &Spec, around: &Around<'_>) -> SyslogSpec {
    let target = match &written.target {
        Some(Written { value: SyslogTarget::Unix(path), at }) => SyslogTarget::Unix(socket_path(path, *at, around)),
        Some(Written { value, .. }) => value.clone(),
        None => SyslogTarget::Unix(TARGET.into()),
    };
    SyslogSpec { target, facility: written.facility.unwrap_or(Facility::DEFAULT) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_facility_has_its_number() {
        assert_eq!(Facility::named("kern"), Some(Facility(0)));
        assert_eq!(Facility::named("authpriv"), Some(Facility(10)));
        assert_eq!(Facility::named("auth2"), Some(Facility(10)));
        assert_eq!(Facility::named("cron2"), Some(Facility(15)));
        assert_eq!(Facility::named("local7"), Some(Facility(23)));
        assert_eq!(Facility::named("local8"), None);
        assert_eq!(Facility::DEFAULT.as_str(), "daemon");
    }

    #[test]
    fn targets_are_sockets_or_hosts() {
        assert_eq!(parse_target("unix:/dev/log"), Ok(SyslogTarget::Unix("/dev/log".into())));
        assert_eq!(parse_target("log.example"), Ok(SyslogTarget::Udp(HostPort::new("log.example", 514))));
        assert_eq!(parse_target("[::1]:1514"), Ok(SyslogTarget::Udp(HostPort::new("::1", 1514))));
        assert!(parse_target("/dev/log").unwrap_err().contains("unix:/dev/log"));
        for text in ["udp://h", "h:0", "h:", "a b", "h:x"] {
            assert!(parse_target(text).is_err(), "{text}");
        }
    }
}
