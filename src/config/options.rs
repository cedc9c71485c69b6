//! Every option as data: which keys exist where, their limits, defaults and documentation, and which
//! keys of other versions are known by name. Reading, diagnosing and `conf/full.yml` all go by this table.

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
    /// One of a few words; these belong to other versions.
    Word {
        later: &'static [&'static str],
    },
    Text,
    /// A list of texts, or one text where a single one is enough.
    Texts,
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
        opt("shutdown", Kind::Section(&SHUTDOWN), Set(""), "What SIGTERM does."),
        opt(
            "admin",
            Kind::Section(&ADMIN),
            Set(""),
            "Metrics, status and health of the router itself. Default: none of it.",
        ),
        opt(
            "defaults",
            Kind::Section(&DEFAULTS),
            Set(""),
            "For all services; each may override any of these but `check`.",
        ),
        opt("clusters", Kind::List(&CLUSTER), Set(""), "The Patroni clusters to route to; at least one."),
    ],
    shared: &[],
    later: &[
        later("vips", "leave it out, and let keepalived or vip-manager hold the address"),
        later("agent", "leave it out, and let Patroni manage failover"),
    ],
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
    own: &[opt(
        "listen",
        Kind::Texts,
        Set("127.0.0.1:7000"),
        "An address and port, or a list of them, for /metrics, /api/v1/status, /livez, /readyz,\n\
         /readyz/primary and /readyz/replica. There is no password: keep it where only operators reach it.",
    )],
    shared: &[],
    later: &[],
};

static DEFAULTS: Section = Section {
    name: "defaults",
    own: &[opt(
        "check",
        Kind::Section(&CHECK),
        Set(""),
        "How members are checked over Patroni's REST API; HAProxy's words.",
    )],
    shared: POLICY,
    later: POLICY_LATER,
};

static CHECK: Section = Section {
    name: "check",
    own: &[
        opt("inter", millis(10, HOUR), Set("3s"), "From one check of a settled member to the next."),
        opt(
            "fastinter",
            millis(10, HOUR),
            Set("1s"),
            "The same while a member changes between up and down. Default: 1s, or inter where that is shorter.",
        ),
        opt("downinter", millis(10, HOUR), Set("5s"), "The same for a member that is down."),
        opt("rise", count(1, 100), Set("3"), "Checks passed in a row that make a member up."),
        opt("fall", count(1, 100), Set("3"), "Checks failed in a row that make a member down."),
        opt("timeout", millis(10, HOUR), Set("3s"), "For one check, from connect to answer."),
    ],
    shared: &[],
    later: &[
        later("path", "leave it out: members are asked for their role at /primary"),
        later("port", "give the port in Patroni's restapi.connect_address, or in `members:` as `api`"),
    ],
};

/// Keys of `defaults` that every service may override.
static POLICY: &[Opt] = &[
    opt(
        "hold",
        Kind::Section(&HOLD),
        Set(""),
        "Clients that find no target wait for one. `hold: off` refuses them at once with FATAL 57P03.",
    ),
    opt(
        "balance",
        Kind::Word { later: &["random", "first", "source"] },
        Set("leastconn"),
        "leastconn (fewest sessions) or roundrobin, among several targets.",
    ),
    opt("connect_timeout", millis(10, 10 * MINUTE), Set("3s"), "For one connect to a target."),
    opt(
        "retries",
        count(0, 100),
        Set("3"),
        "Further attempts after a failed connect, on another target where there is one.",
    ),
    opt("close_on_down", Kind::Switch, Set("true"), "Cut the sessions of a target whose checks say down."),
    opt("startup_timeout", millis(100, HOUR), Set("60s"), "For a client to send its startup packet."),
    opt("tcp", Kind::Section(&TCP), Set(""), "For both sides of every session."),
];

static POLICY_LATER: &[Later] = &[
    later("maxconn", "leave it out: there is no limit per target yet; max_connections of PostgreSQL holds"),
    later("queue", "leave it out: it belongs to maxconn"),
    later("slowstart", "leave it out: a returning reader takes its full share at once"),
    later("idle_timeout", "leave it out, and use idle_session_timeout of PostgreSQL"),
];

static HOLD: Section = Section {
    name: "hold",
    own: &[
        opt(
            "timeout",
            millis(1, 24 * HOUR),
            Set("auto"),
            "How long a client may wait; auto is the cluster's ttl + 15s (the death of a host alone costs ttl).",
        ),
        opt(
            "max",
            count(1, 10_000_000),
            Set("10000"),
            "How many clients may wait; never more than half of the descriptors that are left.",
        ),
    ],
    shared: &[],
    later: &[],
};

static TCP: Section = Section {
    name: "tcp",
    own: &[
        opt("keepalive", Kind::Section(&KEEPALIVE), Set(""), "Finds peers that vanished without a word."),
        opt("user_timeout", millis(1, 24 * HOUR), Set("30s"), "How long sent bytes may stay unacknowledged."),
    ],
    shared: &[],
    later: &[],
};

static KEEPALIVE: Section = Section {
    name: "keepalive",
    own: &[
        opt("idle", millis(1000, 32_767_000), Set("30s"), "Silence before the first probe, in whole seconds."),
        opt("interval", millis(1000, 32_767_000), Set("10s"), "From one probe to the next, in whole seconds."),
        opt("count", count(1, 127), Set("3"), "Probes without an answer that end the connection."),
    ],
    shared: &[],
    later: &[],
};

static CLUSTER: Section = Section {
    name: "a cluster",
    own: &[
        opt("name", Kind::Text, Set("pg-test"), "Patroni's scope."),
        opt("namespace", Kind::Text, Set("service"), "Patroni's namespace, with or without slashes around it."),
        opt("dcs", Kind::Section(&DCS), Set(""), "Where Patroni keeps its keys."),
        opt("patroni", Kind::Section(&PATRONI), Example(""), "How to reach the members' REST API."),
        opt(
            "trust",
            Kind::Word { later: &["rest"] },
            Set("confirm"),
            "confirm: a member gets writers only while the leader key names it and it proves to be out of recovery.",
        ),
        opt(
            "on_dcs_loss",
            Kind::Word { later: &[] },
            Set("keep"),
            "When the DCS cannot be read: keep serves on while the leader's REST API vouches for it,\n\
             close cuts at the end of the leader's lease in every case.",
        ),
        opt(
            "members",
            Kind::Named(&MEMBER),
            Example("pg-test-3"),
            "Facts about members that the DCS does not hold or gets wrong. Members are found in the DCS without this.",
        ),
        opt(
            "services",
            Kind::Named(&SERVICE),
            Set("replica"),
            "What clients connect to. Default: the four below, on these ports.",
        ),
    ],
    shared: &[],
    later: &[
        later("probe", "leave it out: members prove themselves over Patroni's REST API"),
        later("group", "leave it out: Citus groups are not routed yet"),
    ],
};

static DCS: Section = Section {
    name: "dcs",
    own: &[opt("etcd", Kind::Section(&ETCD), Set(""), "etcd with its v3 API (3.4 and newer).")],
    shared: &[],
    later: &[
        later("etcd3", "write `etcd`: it means the v3 API here"),
        later("consul", "only `etcd` is"),
        later("zookeeper", "only `etcd` is"),
        later("kubernetes", "only `etcd` is"),
        later("raft", "only `etcd` is"),
        later("exhibitor", "only `etcd` is"),
    ],
};

static ETCD: Section = Section {
    name: "etcd",
    own: &[
        opt(
            "endpoints",
            Kind::Texts,
            Set("[\"http://127.0.0.1:2379\"]"),
            "Every member of the etcd cluster, as http:// or https:// URLs; the port is 2379 where none is written.",
        ),
        opt(
            "username",
            Kind::Text,
            Example("pgvane"),
            "Where etcd asks for one. Reading below the namespace is enough.",
        ),
        opt("password_file", Kind::Text, Example("etcd.password"), "A file that holds the password and nothing else."),
        opt("password_env", Kind::Text, Example("ETCD_PASSWORD"), "Or the environment variable that holds it."),
        opt(
            "password",
            Kind::Text,
            Example("secret"),
            "Or the password itself; a file or the environment keeps it out of backups.",
        ),
        opt("tls", Kind::Section(&TLS), Example(""), "For https:// endpoints."),
    ],
    shared: &[],
    later: &[],
};

static PATRONI: Section = Section {
    name: "patroni",
    own: &[opt("tls", Kind::Section(&TLS), Example(""), "For members whose REST API is https://.")],
    shared: &[],
    later: &[],
};

static TLS: Section = Section {
    name: "tls",
    own: &[
        opt(
            "ca",
            Kind::Text,
            Example("ca.crt"),
            "Who signed the server's certificate. Default: whom this system trusts.",
        ),
        opt("cert", Kind::Text, Example("client.crt"), "Our certificate, where the server asks for one."),
        opt("key", Kind::Text, Example("client.key"), "Its private key, not encrypted."),
    ],
    shared: &[],
    later: &[later("insecure", "give `ca` instead: an unproven peer could name any member the leader")],
};

static MEMBER: Section = Section {
    name: "a member",
    own: &[
        opt("offline", Kind::Switch, Example("true"), "Serves the offline service; overrides its tags."),
        opt(
            "host",
            Kind::Text,
            Example("10.0.0.13"),
            "Where PostgreSQL is, instead of the host in Patroni's conn_url.",
        ),
        opt("port", count(1, 65_535), Example("5432"), "The same for its port."),
        opt(
            "api",
            Kind::Text,
            Example("http://10.0.0.13:8008"),
            "Where its REST API is, instead of Patroni's api_url.",
        ),
    ],
    shared: &[],
    later: &[later("weight", "leave it out: all members have the same weight")],
};

static SERVICE: Section = Section {
    name: "a service",
    own: &[
        opt(
            "listen",
            Kind::Texts,
            Set("\"*:5434\""),
            "An address and port, or a list of them; * is every IPv4 and IPv6 address. Needed.",
        ),
        opt("role", Kind::Word { later: ROLES_LATER }, Set("replica"), "primary, replica or offline. Needed."),
        opt(
            "backup",
            Kind::Texts,
            Set("[primary, offline]"),
            "Roles used in this order, each only while nothing before it is up. Not for a primary service.",
        ),
        opt(
            "port",
            count(1, 65_535),
            Example("6432"),
            "Another port on the member, such as PgBouncer's. Default: PostgreSQL's own.",
        ),
        opt("where", Kind::Section(&WHERE), Set(""), "Which replicas are good enough."),
    ],
    shared: POLICY,
    later: &[
        later("maxconn", "leave it out: there is no limit per target yet; max_connections of PostgreSQL holds"),
        later("queue", "leave it out: it belongs to maxconn"),
        later("slowstart", "leave it out: a returning reader takes its full share at once"),
        later("idle_timeout", "leave it out, and use idle_session_timeout of PostgreSQL"),
        later("check", "write it in `defaults`: a check of a member serves all services"),
    ],
};

/// Roles of other versions.
pub(super) static ROLES_LATER: &[&str] = &["sync", "async", "read_only", "any", "standby_leader"];

static WHERE: Section = Section {
    name: "where",
    own: &[
        opt(
            "max_lag",
            Kind::Size,
            Example("16MB"),
            "Replay lag above which a replica gets no new sessions. kB, MB, GB as in PostgreSQL: 1kB is 1024 bytes.",
        ),
        opt("streaming", Kind::Switch, Set("false"), "Only replicas that stream from their source."),
    ],
    shared: &[],
    later: &[
        later("tags", "leave it out, and tag members noloadbalance or offline in Patroni"),
        later("members", "leave it out: members are chosen by role"),
    ],
};

/// Where else `key` is known, to help someone who wrote it in the wrong place.
pub(super) fn home_of(key: &str) -> Option<&'static Section> {
    let all = [
        &TOP, &SHUTDOWN, &ADMIN, &DEFAULTS, &CHECK, &HOLD, &TCP, &KEEPALIVE, &CLUSTER, &DCS, &ETCD, &PATRONI, &TLS,
        &MEMBER, &SERVICE, &WHERE,
    ];
    let mut homes = all.into_iter().filter(|section| section.options().any(|option| option.key == key));
    homes.next().filter(|_| homes.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misplaced_key_has_one_home_or_none_is_named() {
        assert_eq!(home_of("fastinter").map(|section| section.name), Some("check"));
        assert!(home_of("timeout").is_none());
        assert!(home_of("nonsense").is_none());
    }

    #[test]
    fn services_and_defaults_leave_the_same_keys_for_later() {
        for key in POLICY_LATER.iter().map(|later| later.key) {
            assert!(SERVICE.later.iter().any(|later| later.key == key), "{key}");
        }
    }
}
