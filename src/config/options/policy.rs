//! Options that are given for all services and may be given anew for each.

use super::{CLIENTS_MAX, HOUR, Kind, Later, MINUTE, Opt, Section, count, later, millis, opt};
use super::{Example, Set};

pub(super) static DEFAULTS: Section = Section {
    name: "defaults",
    own: &[opt(
        "check",
        Kind::Section(&CHECK),
        Set(""),
        "How members are checked over Patroni's REST API; HAProxy's words. One question to a member serves\n\
         all services of a cluster with trust: confirm; a service with a `path` of its own asks for itself,\n\
         and so do all services with trust: rest.",
    )],
    shared: POLICY,
    later: POLICY_LATER,
};

pub(super) static CHECK: Section = Section { name: "check", own: CHECK_KEYS, shared: &[], later: &[] };

pub(super) static CHECK_KEYS: &[Opt] = &[
    opt("inter", millis(10, HOUR), Set("3s"), "From the end of one check of a settled member to the next."),
    opt(
        "fastinter",
        millis(10, HOUR),
        Set("1s"),
        "The same while a member changes between up and down. Default: 1s, or inter where that is shorter.",
    ),
    opt(
        "downinter",
        millis(10, HOUR),
        Set("5s"),
        "The same for a member that is down. Default: 5s, or inter where that is written and shorter.",
    ),
    opt("rise", count(1, 100), Set("3"), "Checks passed in a row that make a member up."),
    opt("fall", count(1, 100), Set("3"), "Checks failed in a row that make a member down."),
    opt(
        "timeout",
        millis(10, HOUR),
        Set("3s"),
        "For one check, from connect to answer. For a service that asks for itself it begins after the connect,\n\
         which gets the smaller of inter and connect_timeout, as in HAProxy.",
    ),
    opt(
        "port",
        count(1, 65_535),
        Example("8009"),
        "Another port than that of the member's `api`. This key and the next two are for services that ask\n\
         for themselves.",
    ),
    opt(
        "expect",
        Kind::Texts,
        Example("200"),
        "The HTTP status that passes, a range, or a list of both: 200, 200-399, [200, 206]. From 100 to 599.",
    ),
    opt(
        "observe",
        Kind::Section(&OBSERVE),
        Example(""),
        "Clients whose connect fails tell of a member, too. `observe: off` leaves it to the checks.",
    ),
];

pub(super) static OBSERVE: Section = Section {
    name: "observe",
    own: &[
        opt(
            "error_limit",
            count(1, 1_000_000),
            Example("10"),
            "Failed connects in a row, with no good one between them, that count.",
        ),
        opt(
            "on_error",
            Kind::Word,
            Example("fail_check"),
            "What they do: fastinter (the next check comes early), fail_check (and one failed check is counted),\n\
             sudden_death (and the next failed check makes it down), mark_down (down at once).",
        ),
    ],
    shared: &[],
    later: &[],
};

/// Keys of `defaults` that every service may override.
pub(super) static POLICY: &[Opt] = &[
    opt(
        "hold",
        Kind::Section(&HOLD),
        Set(""),
        "Clients that find no target wait for one. `hold: off` refuses them at once with FATAL 57P03.",
    ),
    opt(
        "balance",
        Kind::Word,
        Set("leastconn"),
        "Among several targets: leastconn (fewest sessions for its weight), roundrobin (in turn, by weight),\n\
         random (the less loaded of two drawn by weight), first (the first with a free place, in order of\n\
         names), source (by the client's address, the same in every router).",
    ),
    opt("connect_timeout", millis(10, 10 * MINUTE), Set("3s"), "For one connect to a target."),
    opt(
        "retries",
        count(0, 100),
        Set("3"),
        "Further attempts after a failed connect, on another target where there is one.",
    ),
    opt(
        "maxconn",
        count(0, CLIENTS_MAX),
        Set("0"),
        "Sessions per target; 0 is no limit (HAProxy's maxconn of a server).",
    ),
    opt("queue", Kind::Section(&QUEUE), Set(""), "Clients wait here while every target has maxconn sessions."),
    opt(
        "slowstart",
        millis(0, HOUR),
        Set("0s"),
        "A reader that returns takes its full share of new sessions after so long. It is a matter of weight\n\
         only: it limits nobody, and it does nothing where there is one target, as on a write port.",
    ),
    opt(
        "clients_max",
        count(0, CLIENTS_MAX),
        Set("0"),
        "Clients of one service at a time, those that wait included; with more, it stops accepting and the\n\
         kernel keeps them (HAProxy's maxconn of a frontend). 0 is no limit.",
    ),
    opt(
        "close_on_down",
        Kind::SwitchOr(&CLOSE),
        Set("true"),
        "Cut the sessions of a target whose checks say down (HAProxy's on-marked-down shutdown-sessions).\n\
         { grace: 30s } cuts them when it has been down for so long, from 0s to 1d. Services that the primary\n\
         may serve by their role know no grace; one that is given in `defaults` is for the others.",
    ),
    opt(
        "drain",
        millis(0, HOUR),
        Set("3s"),
        "How long sessions that are in a transaction may go on when their member is taken out on purpose, as for\n\
         maintenance; idle ones are told 57P01 at once, and 0s cuts all of them. It is nothing for a primary that\n\
         was deposed: its sessions are cut at once.",
    ),
    opt(
        "allow",
        Kind::Texts,
        Example("[10.0.0.0/8, 192.168.1.7, \"fd00::/8\"]"),
        "Networks and addresses that clients come from; others are refused. Unix sockets are for everybody.\n\
         A service's list replaces that of `defaults`. Default: everybody.",
    ),
    opt(
        "rate",
        Kind::Section(&RATE),
        Set(""),
        "New connections per second; 0 is no limit, and `rate: off` is none at all.",
    ),
    opt("startup_timeout", millis(100, HOUR), Set("60s"), "For a client to send its startup packet."),
    opt(
        "freebind",
        Kind::Switch,
        Set("false"),
        "Listen on addresses that this host does not have yet, such as one that moves between hosts. Services\n\
         that listen on an address of `vips` do so without this.",
    ),
    opt(
        "session_log",
        Kind::Word,
        Set("errors"),
        "Which sessions get a line when they end: off, errors (those that neither side ended in order), all.",
    ),
    opt("tcp", Kind::Section(&TCP), Set(""), "For both sides of every session."),
];

pub(super) static POLICY_LATER: &[Later] =
    &[later("idle_timeout", "leave it out, and use idle_session_timeout of PostgreSQL")];

pub(super) static HOLD: Section = Section {
    name: "hold",
    own: &[
        opt(
            "timeout",
            millis(1, 24 * HOUR),
            Set("auto"),
            "How long a client may wait; auto is the cluster's ttl + 15s (the death of a host alone costs ttl),\n\
             and 45s with trust: rest, which knows no ttl.",
        ),
        opt(
            "max",
            count(1, CLIENTS_MAX),
            Set("10000"),
            "How many clients may wait; never more than half of the descriptors that are left.",
        ),
        opt(
            "notice",
            millis(1, 24 * HOUR),
            Set("off"),
            "A client that waited longer than this is told so by a NOTICE once it is served, such as 5s; off tells\n\
             nobody. Drivers take no notice before.",
        ),
    ],
    shared: &[],
    later: &[],
};

pub(super) static RATE: Section = Section {
    name: "rate",
    own: &[
        opt(
            "max",
            count(0, CLIENTS_MAX),
            Set("0"),
            "Of one listener; further clients wait in the kernel (HAProxy's rate-limit sessions).",
        ),
        opt("per_client_max", count(0, CLIENTS_MAX), Set("0"), "Of one address; further ones are told 53300."),
        opt(
            "cancels_max",
            count(0, CLIENTS_MAX),
            Set("100"),
            "Cancel requests of one address; further ones are dropped.",
        ),
    ],
    shared: &[],
    later: &[],
};

pub(super) static QUEUE: Section = Section {
    name: "queue",
    own: &[
        opt("timeout", millis(1, 24 * HOUR), Set("3s"), "How long a client may wait for a free place."),
        opt("max", count(0, CLIENTS_MAX), Set("128"), "How many may wait in one service; with 0 nobody does."),
    ],
    shared: &[],
    later: &[],
};

pub(super) static CLOSE: Section = Section {
    name: "close_on_down",
    own: &[opt("grace", millis(0, 24 * HOUR), Set("0s"), "How long a member may be down before they are cut.")],
    shared: &[],
    later: &[],
};

pub(super) static TCP: Section = Section {
    name: "tcp",
    own: &[
        opt("keepalive", Kind::Section(&KEEPALIVE), Set(""), "Finds peers that vanished without a word."),
        opt(
            "user_timeout",
            millis(1, 24 * HOUR),
            Set("30s"),
            "How long sent bytes may stay unacknowledged. A peer that answers and just does not read is spared.",
        ),
    ],
    shared: &[],
    later: &[],
};

pub(super) static KEEPALIVE: Section = Section {
    name: "keepalive",
    own: &[
        opt("idle", millis(1000, 32_767_000), Set("30s"), "Silence before the first probe, in whole seconds."),
        opt("interval", millis(1000, 32_767_000), Set("10s"), "From one probe to the next, in whole seconds."),
        opt("count", count(1, 127), Set("3"), "Probes without an answer that end the connection."),
    ],
    shared: &[],
    later: &[],
};
