//! Options of one service.

use super::policy::{CHECK_KEYS, POLICY, POLICY_LATER};
use super::{Example, Kind, Section, Set, count, opt};

pub(super) static SERVICE: Section = Section {
    name: "a service",
    own: &[
        opt(
            "listen",
            Kind::Texts,
            Set("\"*:5434\""),
            "An address and port, a Unix socket such as unix:/run/pgvane/.s.PGSQL.5434, or a list of them.\n\
             * is every IPv4 and IPv6 address, 0.0.0.0 every IPv4 and [::] every IPv6 address. Needed.",
        ),
        opt(
            "role",
            Kind::Word,
            Set("replica"),
            "primary; replica (a standby that is neither noloadbalance nor offline); offline (a standby flagged\n\
             so); sync, async (standbys that are not noloadbalance); read_only (the same and the primary);\n\
             any (whoever runs); standby_leader (the leader of a standby cluster). Needed.",
        ),
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
        opt("where", Kind::Section(&WHERE), Set(""), "Which members of the role are good enough."),
        opt(
            "check",
            Kind::Section(&CHECK),
            Example(""),
            "How this service's members are checked. With trust: confirm only for a service that is not for the\n\
             primary, and only with a `path`.",
        ),
    ],
    shared: POLICY,
    later: POLICY_LATER,
};

pub(super) static CHECK: Section = Section {
    name: "a service's `check`",
    own: &[opt(
        "path",
        Kind::Text,
        Example("/replica?lag=16MB"),
        "What is asked of members of its role, instead of /primary, /replica and so on; backups are asked for\n\
         their own role. With trust: confirm a member has to pass it besides having the role.",
    )],
    shared: CHECK_KEYS,
    later: &[],
};

pub(super) static WHERE: Section = Section {
    name: "where",
    own: &[
        opt(
            "tags",
            Kind::Pairs,
            Example("{ zone: east }"),
            "Patroni tags that a standby must have, with these values as text, true and false in lower case.\n\
             The primary is not asked for them, as in Patroni.",
        ),
        opt("members", Kind::Texts, Example("[pg-test-2, pg-test-3]"), "Only these members, as backups, too."),
        opt(
            "max_lag",
            Kind::Size,
            Example("16MB"),
            "Replay lag above which a replica gets no new sessions. kB, MB, GB as in PostgreSQL: 1kB is 1024 bytes.",
        ),
        opt("streaming", Kind::Switch, Set("false"), "Only replicas that stream from their source."),
    ],
    shared: &[],
    later: &[],
};
