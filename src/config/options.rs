//! Every option as data: which keys exist where, their limits, defaults and documentation, and which
//! keys of other versions are known by name. Reading, diagnosing and `conf/full.yml` all go by this table.

mod cluster;
mod policy;
mod service;
mod vip;

use std::time::Duration;

/// The keys of one mapping.
#[derive(Debug)]
pub(super) struct Section {
    /// As problems call it.
    pub name: &'static str,
    pub own: &'static [Opt],
    /// Keys that this mapping has in common with others.
    pub shared: &'static [Opt],
    pub later: &'static [Later],
}

impl Section {
    pub fn options(&self) -> impl Iterator<Item = &'static Opt> + use<> {
        self.own.iter().chain(self.shared)
    }
}

#[derive(Debug)]
pub(super) struct Opt {
    pub key: &'static str,
    pub kind: Kind,
    pub shown: Shown,
    /// For people, in lines; limits are added from `kind`.
    pub doc: &'static str,
}

/// How `conf/full.yml` shows an option.
#[derive(Debug, Clone, Copy)]
pub(super) enum Shown {
    /// With its default, or a value that any file needs.
    Set(&'static str),
    /// As a comment, with an example.
    Example(&'static str),
}

#[derive(Debug)]
pub(super) enum Kind {
    Duration {
        min: Duration,
        max: Duration,
    },
    Count {
        min: u64,
        max: u64,
    },
    /// Bytes.
    Size,
    Switch,
    /// True, false, or a mapping that says how.
    SwitchOr(&'static Section),
    /// One of a few words.
    Word,
    /// One of a few words, or a mapping that says more.
    WordOr(&'static Section),
    Text,
    /// A list of texts, or one text where a single one is enough.
    Texts,
    /// Texts under names of the operator's choice.
    Pairs,
    Section(&'static Section),
    /// A list of mappings.
    List(&'static Section),
    /// Mappings under names of the operator's choice.
    Named(&'static Section),
}

/// A key that other versions have: refused by name, never ignored.
#[derive(Debug)]
pub(super) struct Later {
    pub key: &'static str,
    /// What to do today.
    pub instead: &'static str,
}

const fn opt(key: &'static str, kind: Kind, shown: Shown, doc: &'static str) -> Opt {
    Opt { key, kind, shown, doc }
}

const fn later(key: &'static str, instead: &'static str) -> Later {
    Later { key, instead }
}

const fn millis(min: u64, max: u64) -> Kind {
    Kind::Duration { min: Duration::from_millis(min), max: Duration::from_millis(max) }
}

const fn count(min: u64, max: u64) -> Kind {
    Kind::Count { min, max }
}

const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;
/// More clients or sessions than any host has ports and descriptors for.
const CLIENTS_MAX: u64 = 10_000_000;

use Shown::{Example, Set};

pub(super) static TOP: Section = Section {
    name: "the file",
    own: &[
        opt(
            "state_file",
            Kind::Text,
            Example("/var/lib/pgvane/state.json"),
            "Members and timeline marks are kept here, so that a start during a DCS outage can serve, and\n\
             a primary left behind on an old timeline is known as such. Default: nothing is kept.\n\
             This and every other path is relative to the directory of this file.",
        ),
        opt("log", Kind::Section(&LOG), Example(""), "Where lines go besides stderr. Default: nowhere."),
        opt("shutdown", Kind::Section(&SHUTDOWN), Set(""), "What SIGTERM does."),
        opt(
            "admin",
            Kind::Section(&ADMIN),
            Set(""),
            "Metrics, status, health and orders of the router itself. Default: none of it.",
        ),
        opt(
            "splice",
            Kind::Word,
            Set("auto"),
            "How bulk data goes from servers to clients: auto, from socket to socket without being copied to this\n\
             process (splice) as soon as a session streams; always, from its first bytes on, as with HAProxy's\n\
             option splice-response; off, copied, for machines whose kernel or eBPF agents break splice.",
        ),
        opt(
            "defaults",
            Kind::Section(&policy::DEFAULTS),
            Set(""),
            "For all services; each may override any of these, key by key.",
        ),
        opt("clusters", Kind::List(&cluster::CLUSTER), Set(""), "The Patroni clusters to route to; at least one."),
        opt(
            "vips",
            Kind::List(&vip::VIP),
            Example(""),
            "Addresses that this host has while its member has a role. Needs CAP_NET_ADMIN and CAP_NET_RAW.\n\
             Default: none.",
        ),
    ],
    shared: &[],
    later: &[later("agent", "leave it out, and let Patroni manage failover")],
};

static LOG: Section = Section {
    name: "log",
    own: &[opt("syslog", Kind::Section(&SYSLOG), Example(""), "The same lines to a syslog daemon.")],
    shared: &[],
    later: &[],
};

static SYSLOG: Section = Section {
    name: "syslog",
    own: &[
        opt(
            "target",
            Kind::Text,
            Example("unix:/dev/log"),
            "A Unix socket, or a host with or without a port for UDP, such as 10.0.0.5:514.",
        ),
        opt(
            "facility",
            Kind::Word,
            Example("daemon"),
            "kern, user, mail, daemon, auth, syslog, lpr, news, uucp, cron, authpriv, ftp, ntp, audit, alert,\n\
             clock, or local0 to local7. Default: daemon.",
        ),
    ],
    shared: &[],
    later: &[],
};

static SHUTDOWN: Section = Section {
    name: "shutdown",
    own: &[
        opt(
            "delay",
            millis(0, HOUR),
            Set("0s"),
            "How long /readyz says no before listeners close, so that a load balancer in front notices first.",
        ),
        opt("drain", millis(0, 24 * HOUR), Set("30s"), "How long sessions may go on after that."),
    ],
    shared: &[],
    later: &[],
};

static ADMIN: Section = Section {
    name: "admin",
    own: &[
        opt(
            "listen",
            Kind::Texts,
            Set("127.0.0.1:7000"),
            "An address and port, or a list of them, for /metrics, /api/v1/status, /livez, /readyz,\n\
             /readyz/primary and /readyz/replica. There is no password: keep it where only operators reach it.",
        ),
        opt(
            "orders",
            Kind::Word,
            Set("loopback"),
            "Whose orders (drain, maintenance, weight) are taken: loopback, connections from this host alone;\n\
             off, nobody's; all, everybody's who reaches it.",
        ),
    ],
    shared: &[],
    later: &[],
};

/// Where else `key` is known, to help someone who wrote it in the wrong place.
pub(super) fn home_of(key: &str) -> Option<&'static Section> {
    let all = [
        &TOP,
        &LOG,
        &SYSLOG,
        &SHUTDOWN,
        &ADMIN,
        &policy::DEFAULTS,
        &policy::CHECK,
        &policy::OBSERVE,
        &policy::HOLD,
        &policy::QUEUE,
        &policy::RATE,
        &policy::CLOSE,
        &policy::TCP,
        &policy::KEEPALIVE,
        &cluster::CLUSTER,
        &cluster::DCS,
        &cluster::ETCD,
        &cluster::PATRONI,
        &cluster::TLS,
        &cluster::MEMBER,
        &service::SERVICE,
        &service::CHECK,
        &service::WHERE,
        &vip::VIP,
        &vip::ON_EXIT,
    ];
    let mut homes = all.into_iter().filter(|section| section.own.iter().any(|option| option.key == key));
    homes.next().filter(|_| homes.next().is_none())
}

/// Whether `key` is one of `defaults` and of every service.
pub(super) fn is_policy(key: &str) -> bool {
    policy::POLICY.iter().any(|option| option.key == key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misplaced_key_has_one_home_or_none_is_named() {
        assert_eq!(home_of("fastinter").map(|section| section.name), Some("check"));
        assert_eq!(home_of("path").map(|section| section.name), Some("a service's `check`"));
        assert!(home_of("timeout").is_none());
        assert!(home_of("nonsense").is_none());
        assert!(is_policy("maxconn") && !is_policy("check"));
    }
}
