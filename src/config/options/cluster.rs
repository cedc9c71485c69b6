//! Options of one Patroni cluster: its keys, its members and how to reach them.

use super::service::SERVICE;
use super::{Example, Kind, Section, Set, count, later, opt};

pub(super) static CLUSTER: Section = Section {
    name: "a cluster",
    own: &[
        opt("name", Kind::Text, Set("pg-test"), "Patroni's scope."),
        opt(
            "alias",
            Kind::Text,
            Example("pg-test-east"),
            "What logs, metrics and the status call it, where two clusters have one scope. Default: the scope,\n\
             with -N in Citus group N.",
        ),
        opt("namespace", Kind::Text, Set("service"), "Patroni's namespace, with or without slashes around it."),
        opt("group", count(0, 2_147_483_647), Example("0"), "Citus only: the group, of which each is a cluster."),
        opt("dcs", Kind::Section(&DCS), Set(""), "Where Patroni keeps its keys. Not with trust: rest."),
        opt("patroni", Kind::Section(&PATRONI), Example(""), "How to reach the members' REST API."),
        opt(
            "trust",
            Kind::Word,
            Set("confirm"),
            "confirm: a member gets writers only while the leader key names it and it proves to be out of recovery.\n\
             rest: HTTP checks of `members` alone decide, as with HAProxy; nothing reads a DCS.",
        ),
        opt(
            "on_dcs_loss",
            Kind::Word,
            Set("keep"),
            "When the DCS cannot be read: keep serves on while the leader's REST API vouches for it,\n\
             close cuts at the end of the leader's lease in every case. Not with trust: rest.",
        ),
        opt(
            "members",
            Kind::Named(&MEMBER),
            Example("pg-test-3"),
            "Facts about members that the DCS does not hold or gets wrong. Members are found in the DCS without\n\
             this; with trust: rest these are the members, each with its `host`.",
        ),
        opt(
            "services",
            Kind::Named(&SERVICE),
            Set("replica"),
            "What clients connect to. Default: the four below, on these ports.",
        ),
    ],
    shared: &[],
    later: &[later("probe", "leave it out: members prove themselves over Patroni's REST API")],
};

pub(super) static DCS: Section = Section {
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

pub(super) static ETCD: Section = Section {
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

pub(super) static PATRONI: Section = Section {
    name: "patroni",
    own: &[opt("tls", Kind::Section(&TLS), Example(""), "For members whose REST API is https://.")],
    shared: &[],
    later: &[],
};

pub(super) static TLS: Section = Section {
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

pub(super) static MEMBER: Section = Section {
    name: "a member",
    own: &[
        opt("offline", Kind::Switch, Example("true"), "Serves the offline service; overrides its tags."),
        opt(
            "host",
            Kind::Text,
            Example("10.0.0.13"),
            "Where PostgreSQL is, instead of the host in Patroni's conn_url. Needed with trust: rest.",
        ),
        opt("port", count(1, 65_535), Example("5432"), "The same for its port. Default with trust: rest: 5432."),
        opt(
            "api",
            Kind::Text,
            Example("http://10.0.0.13:8008"),
            "Where its REST API is, instead of Patroni's api_url. Default with trust: rest: port 8008 of its host,\n\
             over https where `patroni.tls` is given.",
        ),
        opt(
            "weight",
            count(0, 256),
            Example("100"),
            "Its share of a service's sessions beside the others' weights. Default: 100. 0 drains it: no new\n\
             sessions, and those it has go on.",
        ),
    ],
    shared: &[],
    later: &[],
};
