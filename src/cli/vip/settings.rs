//! Every setting of `pgvane vip`: its name, its older names, and what `--help` says of it.
//!
//! Names, older names and defaults are vip-manager's (vipconfig/config.go, `defineFlags`, `mapDeprecated` and
//! `setDefaults` of 1.0 to 5.0; main.go of 0.6), and below them our own.

/// How a value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    /// Shown as `*****`.
    Secret,
    /// true or false; as a flag it needs no value.
    Switch,
    /// Several texts, with commas or as a list of the file.
    List,
}

#[derive(Debug)]
pub(super) struct Setting {
    /// As flag and as key of the file; with underscores and in capitals behind `VIP_` in the environment.
    pub name: &'static str,
    /// What earlier versions called it, in the order of vip-manager's table.
    pub old: &'static [&'static str],
    pub kind: Kind,
    /// What the help shows in the place of a value.
    pub shown: &'static str,
    pub help: &'static str,
}

const fn setting(name: &'static str, kind: Kind, shown: &'static str, help: &'static str) -> Setting {
    Setting { name, old: &[], kind, shown, help }
}

impl Setting {
    const fn once(self, old: &'static [&'static str]) -> Setting {
        Setting { old, ..self }
    }
}

/// vip-manager's, in the order of its help.
pub(super) static THEIRS: [Setting; 20] = [
    setting("config", Kind::Text, "FILE", "A YAML file with any of these settings."),
    setting("ip", Kind::Text, "ADDRESS", "The virtual address, IPv4 or IPv6. Mandatory."),
    setting(
        "netmask",
        Kind::Text,
        "BITS",
        "How many bits of the address are its network; -1 means what its class says. Default: 32, or 128.",
    )
    .once(&["mask"]),
    setting("interface", Kind::Text, "NAME", "The network interface that it is put on. Mandatory.").once(&["iface"]),
    setting(
        "trigger-key",
        Kind::Text,
        "KEY",
        "The key of the DCS to follow, to the letter, such as /service/pgcluster/leader. Mandatory, except with \
         dcs-type patroni, where it is a path of the REST API. Default there: /leader.",
    )
    .once(&["key"]),
    setting(
        "trigger-value",
        Kind::Text,
        "VALUE",
        "What the key holds when the address belongs here. Default: the host's name; with dcs-type patroni, 200.",
    )
    .once(&["nodename", "host"]),
    setting("dcs-type", Kind::Text, "TYPE", "etcd (or etcd3), consul, or patroni. Default: etcd.")
        .once(&["type", "endpoint_type"]),
    setting(
        "dcs-endpoints",
        Kind::List,
        "URLS",
        "Where to ask, with commas between them. Default: http://127.0.0.1:2379, with consul \
         http://127.0.0.1:8500, with patroni http://127.0.0.1:8008/.",
    )
    .once(&["endpoint", "endpoints"]),
    setting("etcd-user", Kind::Text, "NAME", "The user of etcd.").once(&["etcd_user"]),
    setting("etcd-password", Kind::Secret, "PASSWORD", "Its password.").once(&["etcd_password"]),
    setting(
        "etcd-ca-file",
        Kind::Text,
        "FILE",
        "Whom to believe: a CA in PEM, for https of every dcs-type. Default: whom this system believes.",
    ),
    setting("etcd-cert-file", Kind::Text, "FILE", "The client certificate in PEM. Needs etcd-key-file."),
    setting("etcd-key-file", Kind::Text, "FILE", "The private key of the client certificate."),
    setting("consul-token", Kind::Secret, "TOKEN", "The token for Consul.").once(&["consul_token"]),
    setting(
        "interval",
        Kind::Text,
        "MS",
        "How often Patroni's REST API is asked, in milliseconds, and at least once a second. etcd and Consul tell \
         of changes by themselves. Default: 1000.",
    ),
    setting("manager-type", Kind::Text, "TYPE", "basic. Default: basic.").once(&["hostingtype", "hosting_type"]),
    setting("retry-num", Kind::Text, "N", "Taken, and not used: announcements have a schedule of their own.")
        .once(&["retry_num"]),
    setting("retry-after", Kind::Text, "MS", "Taken, and not used.").once(&["retry_after"]),
    setting("verbose", Kind::Switch, "", "Log more."),
    setting("hosting-type", Kind::Text, "TYPE", "Taken, and not used, as by vip-manager, whose sample file has it."),
];

/// Ours.
pub(super) static OURS: [Setting; 12] = [
    setting(
        "lease",
        Kind::Text,
        "TIME",
        "How long the kernel keeps the address if this process hangs or dies, in whole seconds; never longer than \
         what remains of the leader's own lease. Default: 5s.",
    ),
    setting(
        "on-dcs-loss",
        Kind::Text,
        "POLICY",
        "When the DCS cannot be read: keep_while_patroni_leads (the local Patroni says so), release, or hold \
         (whatever happens elsewhere, so that a partition may give it two holders). \
         Default: keep_while_patroni_leads.",
    ),
    setting(
        "grace",
        Kind::Text,
        "TIME",
        "With on-dcs-loss release: how long a DCS that does not answer changes nothing, counted from 2s after its \
         last answer. Default: 1s, or less where the lease is short.",
    ),
    setting(
        "on-exit",
        Kind::Text,
        "WHAT",
        "What the end of this process does: release, or keep (for 30s, so that the next process takes it over as it \
         is; keep:10s for so long). Default: release.",
    ),
    setting(
        "close-sockets",
        Kind::Switch,
        "",
        "Reset connections on the address before it goes, which PostgreSQL's clients notice at once.",
    ),
    setting("refresh", Kind::Text, "TIME", "Announce the address again and again with this pause. Default: off."),
    setting("adopt", Kind::Switch, "", "Take the address over where another program has put it on the interface."),
    setting(
        "patroni-url",
        Kind::Text,
        "URL",
        "The local Patroni's REST API, which is asked when the DCS cannot be read. Default: http://127.0.0.1:8008.",
    ),
    setting(
        "mark-key",
        Kind::Text,
        "KEY",
        "The key of etcd by which one holder hands over to the next, or off. \
         Default: pgvane/vip/<ip> beside the trigger key.",
    ),
    setting("admin-listen", Kind::Text, "HOST:PORT", "Where status and metrics are served. Default: nowhere."),
    setting("log-format", Kind::Text, "FORMAT", "How log lines are written to stderr: text or json. Default: text."),
    setting("strict", Kind::Switch, "", "Refuse a file with keys that nobody knows, instead of a warning for each."),
];

pub(super) fn all() -> impl Iterator<Item = &'static Setting> {
    THEIRS.iter().chain(&OURS)
}

/// The variable of a name: `VIP_TRIGGER_KEY` of `trigger-key`.
pub(super) fn variable(name: &str) -> String {
    format!("VIP_{}", name.replace('-', "_").to_ascii_uppercase())
}

const HELP_WIDTH: usize = 100;
const HELP_INDENT: usize = 8;

/// What `--help` prints.
pub(super) fn help(called: &str) -> String {
    let mut text = format!(
        "Holds one virtual address where the leader of a Patroni cluster is: vip-manager's settings, and more.\n\n\
         Usage: {called} [SETTINGS]\n       {called} version\n\n\
         A flag goes before the environment, the environment before the file. Every setting is a flag\n\
         (--trigger-key=K), a variable (VIP_TRIGGER_KEY=K) and a key of the file (trigger-key: K), also under the\n\
         names of earlier vip-managers.\n"
    );
    for (title, settings) in [("vip-manager's settings", THEIRS.as_slice()), ("More", &OURS)] {
        text += &format!("\n{title}:\n");
        for setting in settings {
            let value = if setting.shown.is_empty() { String::new() } else { format!(" <{}>", setting.shown) };
            text += &format!("  --{}{value}{}\n", setting.name, earlier(setting));
            text += &wrapped(setting.help);
        }
    }
    text
}

fn earlier(setting: &Setting) -> String {
    if setting.old.is_empty() { String::new() } else { format!("   (once {})", setting.old.join(", ")) }
}

fn wrapped(words: &str) -> String {
    let mut lines = vec![String::new()];
    for word in words.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if HELP_INDENT + line.len() + 1 + word.len() <= HELP_WIDTH => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines.iter().map(|line| format!("{}{line}\n", " ".repeat(HELP_INDENT))).collect()
}
