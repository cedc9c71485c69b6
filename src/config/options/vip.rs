//! Options of one virtual address.

use super::{Example, HOUR, Kind, Section, later, millis, opt};

pub(super) static VIP: Section = Section {
    name: "a VIP",
    own: &[
        opt(
            "address",
            Kind::Text,
            Example("10.10.10.100/32"),
            "An IPv4 or IPv6 address, alone or with its prefix. Default of the prefix: /32 and /128, so that nothing\n\
             but the address itself comes and goes. Services may listen on it. Needed.",
        ),
        opt("interface", Kind::Text, Example("eth0"), "The network interface that it is put on. Needed."),
        opt(
            "cluster",
            Kind::Text,
            Example("pg-test"),
            "Whose role it follows: the alias or the name of a cluster with a DCS. Default: the only cluster.",
        ),
        opt(
            "member",
            Kind::Text,
            Example("pg-test-1"),
            "Patroni's name of the member that has to have the role. Default: the one whose address is on this host.",
        ),
        opt(
            "role",
            Kind::Word,
            Example("primary"),
            "primary; standby_leader (the leader of a standby cluster); replica or sync: one of the members that\n\
             are, agreed on in the DCS. Default: primary.",
        ),
        opt(
            "on_dcs_loss",
            Kind::Word,
            Example("release"),
            "When the DCS cannot be read: keep_while_patroni_leads keeps it while the local Patroni's REST API says\n\
             that its member leads, release lets it go, hold keeps it whatever happens elsewhere, so that a\n\
             partition may give it two holders. Default: keep_while_patroni_leads, and release for replica and sync.",
        ),
        opt(
            "grace",
            millis(0, 30_000),
            Example("1s"),
            "With on_dcs_loss: release: how long a DCS that does not answer changes nothing, counted from 2s after\n\
             its last answer, and at most two thirds of the lease less 2s. Default: 1s, or less where the lease is\n\
             short.",
        ),
        opt(
            "lease",
            millis(3000, 60_000),
            Example("5s"),
            "How long the kernel keeps it if this process hangs or dies, in whole seconds. It is never longer than\n\
             what remains of the leader's own lease. Default: 5s.",
        ),
        opt(
            "on_exit",
            Kind::WordOr(&ON_EXIT),
            Example("release"),
            "What the end of this process does to it: release, or keep for 30s so that the next process takes it\n\
             over as it is. { keep: 10s } keeps it for so long, from 1s to 5m, and never beyond the leader's\n\
             lease. Default: release.",
        ),
        opt(
            "close_sockets",
            Kind::Switch,
            Example("true"),
            "Reset other programs' connections on it before it goes, as where PostgreSQL itself listens on it.\n\
             Default: false.",
        ),
        opt(
            "refresh",
            millis(1000, HOUR),
            Example("1m"),
            "Announce it to the neighbours again and again with this pause, or off. Default: off.",
        ),
        opt(
            "adopt",
            Kind::Switch,
            Example("true"),
            "Take it over where it is on the interface already and another program put it there. Default: false,\n\
             which leaves it alone and says so.",
        ),
    ],
    shared: &[],
    later: &[
        later("netmask", "write the prefix behind the address, such as 10.10.10.100/24"),
        later("mask", "write the prefix behind the address, such as 10.10.10.100/24"),
        later("trigger-key", "leave it out: `cluster` says whose leader key it follows"),
    ],
};

pub(super) static ON_EXIT: Section = Section {
    name: "on_exit",
    own: &[opt("keep", millis(1000, 300_000), Example("30s"), "How long it stays for the next process.")],
    shared: &[],
    later: &[],
};
