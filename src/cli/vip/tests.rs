//! Settings in every spelling and from every place.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use super::*;
use crate::config::Secret;
use crate::model::{VipOnDcsLoss, VipOnExit};
use crate::runtime::vip_alone::{Plan, Source};

const HOST: &str = "this-host";

struct Said {
    notices: Vec<String>,
    outcome: Outcome,
}

impl Said {
    fn plan(&self) -> &Plan {
        match &self.outcome {
            Outcome::Good(effective) => &effective.plan,
            Outcome::Bad(sentences) => panic!("{}\n{}", self.notices.join("\n"), sentences.join("\n")),
        }
    }

    fn shown(&self) -> BTreeMap<&str, &str> {
        let Outcome::Good(effective) = &self.outcome else { panic!("it is not good") };
        effective.shown.iter().map(|(name, value)| (*name, value.as_str())).collect()
    }

    fn bad(&self) -> String {
        match &self.outcome {
            Outcome::Good(_) => panic!("it is good"),
            Outcome::Bad(sentences) => sentences.join("\n"),
        }
    }

    fn noticed(&self, part: &str) -> bool {
        self.notices.iter().any(|notice| notice.contains(part))
    }
}

/// A file's text, the environment, and the words of the command line.
fn said(file: &str, env: &[(&str, &str)], words: &[&str]) -> Said {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vip-manager.yml");
    fs::write(&path, file).unwrap();
    let mut words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    if !file.is_empty() {
        words.push(format!("--config={}", path.display()));
    }
    let Ok(Asked::Run(flags)) = arguments::read(&words) else { panic!("{words:?}") };
    let env: BTreeMap<&str, &str> = env.iter().copied().collect();
    let (notices, outcome) = settle(&flags, &|name| env.get(name).map(|value| (*value).to_owned()), HOST);
    Said { notices, outcome }
}

/// What no holder can do without, in the environment, where it gives way to flags alone.
const BASE: [(&str, &str); 3] =
    [("VIP_IP", "10.0.0.9"), ("VIP_INTERFACE", "eth0"), ("VIP_TRIGGER_KEY", "/service/pgcluster/leader")];

fn flagged(words: &[&str]) -> Said {
    said("", &BASE, words)
}

/// A setting, a value of it, and how the configuration shows that.
const SETTINGS: [(&str, &str, &str); 13] = [
    ("ip", "10.0.0.77", "10.0.0.77"),
    ("netmask", "24", "24"),
    ("interface", "bond0", "bond0"),
    ("trigger-key", "service/x/leader", "service/x/leader"),
    ("trigger-value", "pg-test-1", "pg-test-1"),
    ("dcs-type", "consul", "consul"),
    ("dcs-endpoints", "http://a:1,http://b:2", "http://a:1,http://b:2"),
    ("etcd-user", "vip", "vip"),
    ("etcd-password", "hunter2", "*****"),
    ("consul-token", "hunter2", "*****"),
    ("interval", "500", "500"),
    ("manager-type", "basic", "basic"),
    ("retry-num", "2", "2"),
];

#[test]
fn every_setting_in_every_spelling_from_every_place() {
    for (name, value, shown) in SETTINGS {
        let setting = settings::all().find(|setting| setting.name == name).unwrap();
        // Without its present name, which would conflict.
        let base: Vec<_> = BASE.into_iter().filter(|(known, _)| *known != settings::variable(name)).collect();
        for spelling in [name].iter().chain(setting.old) {
            let user = if name == "etcd-password" { "--etcd-user=vip" } else { "--verbose" };
            let variable = settings::variable(spelling);
            let with_variable: Vec<_> = base.iter().copied().chain([(variable.as_str(), value)]).collect();
            let cases = [
                said("", &base, &[user, &format!("--{spelling}={value}")]),
                said("", &base, &[user, &format!("-{spelling}"), value]),
                said("", &with_variable, &[user]),
                said(&format!("{spelling}: \"{value}\"\n"), &base, &[user]),
                said(&format!("{}: {value}\n", spelling.to_uppercase()), &base, &[user]),
            ];
            for (place, case) in cases.iter().enumerate() {
                case.plan();
                assert_eq!(case.shown().get(name), Some(&shown), "{spelling} in place {place}");
                let shared = variable == settings::variable(name) && place == 2;
                let deprecated = *spelling != name && !shared;
                assert_eq!(case.noticed("has been deprecated"), deprecated, "{spelling} in place {place}");
                assert!(!format!("{:?}{:?}", case.notices, case.plan()).contains("hunter2"));
            }
            if *spelling != name {
                let expected = format!("Parameter \"{spelling}\" has been deprecated, please use \"{name}\" instead");
                assert!(cases[0].notices.contains(&expected) && cases[3].notices.contains(&expected), "{expected}");
            }
        }
    }
}

#[test]
fn a_flag_goes_before_the_environment_and_that_before_the_file() {
    let file = "trigger-value: from-file\ninterval: 300\netcd-user: from-file\n";
    let env: Vec<_> = BASE
        .into_iter()
        .chain([("VIP_TRIGGER_VALUE", "from-env"), ("VIP_INTERVAL", "200"), ("VIP_VERBOSE", "")])
        .collect();
    let all = said(file, &env, &["--trigger-value=from-flag"]);
    let shown = all.shown();
    let expected = [("trigger-value", "from-flag"), ("interval", "200"), ("etcd-user", "from-file")];
    for (name, value) in expected {
        assert_eq!(shown[name], value);
    }
    // An empty flag is none: a unit fills it from a variable that is not set.
    assert_eq!(said(file, &env, &["--trigger-value="]).shown()["trigger-value"], "from-env");
    assert_eq!(said(file, &BASE, &["--trigger-value="]).shown()["trigger-value"], "from-file");
    let bare = said("trigger-value:\n", &BASE, &[]);
    assert_eq!(bare.plan().me.as_str(), HOST);
    assert!(bare.noticed(&format!("No trigger-value specified, instead using hostname: {HOST}")));
    let shown = bare.shown();
    let defaults = [
        ("dcs-type", "etcd"),
        ("dcs-endpoints", "http://127.0.0.1:2379"),
        ("netmask", "32"),
        ("lease", "5s"),
        ("on-dcs-loss", "keep_while_patroni_leads"),
        ("on-exit", "release"),
        ("mark-key", "/service/pgcluster/pgvane/vip/10.0.0.9"),
    ];
    for (name, value) in defaults {
        assert_eq!(shown[name], value, "{name}");
    }
}

#[test]
fn old_and_new_names_may_both_be_there_if_they_agree() {
    let same = said(
        "netmask: 24\nmask: 24\nendpoints: [http://a:1, http://b:1]\n",
        &BASE,
        &["--dcs-endpoints=http://a:1,http://b:1"],
    );
    assert_eq!(same.plan().spec.address.prefix, 24);
    assert!(same.noticed("no conflicting values: 24 and 24 are equal"));
    for (file, env, words) in [
        ("netmask: 24\nmask: 25\n", None, vec![]),
        ("", Some(("VIP_IFACE", "eth1")), vec!["--interface=eth0"]),
        ("nodename: a\n", Some(("VIP_HOST", "b")), vec![]),
        ("", None, vec!["-etcd_password=hunter2", "--etcd-password=hunter3", "--etcd-user=u"]),
    ] {
        let env: Vec<_> = BASE.into_iter().chain(env).collect();
        let conflict = said(file, &env, &words);
        assert_eq!(conflict.bad(), "Cannot continue due to conflicts.");
        assert!(conflict.noticed("conflicting values: "), "{:?}", conflict.notices);
        assert!(!conflict.noticed("hunter"), "{:?}", conflict.notices);
    }
}

/// Debian's /etc/default/vip-manager with the flags of its unit, and the file of its template unit.
#[test]
fn debians_units_go_on_working() {
    let known = [
        ("VIP_IP", "10.1.2.3"),
        ("VIP_MASK", "24"),
        ("VIP_IFACE", "eth0"),
        ("VIP_KEY", "/service/batman/leader"),
        ("VIP_HOST", "serverX"),
        ("VIP_TYPE", "etcd"),
        ("VIP_ENDPOINT", "http://10.1.2.3:2379"),
    ];
    let words = [
        "--ip=10.1.2.3",
        "--interface=eth0",
        "--trigger-key=/service/batman/leader",
        "--trigger-value=serverX",
        "--dcs-type=etcd",
        "--dcs-endpoints=http://10.1.2.3:2379",
        "--netmask=24",
    ];
    let of_template = ["VIP_NETMASK", "VIP_TRIGGER_KEY", "VIP_TRIGGER_VALUE", "VIP_DCS_ENDPOINTS"];
    let values = ["24", "/service/batman/leader", "serverX", "http://10.1.2.3:2379"];
    let template: Vec<_> = known.into_iter().chain(of_template.into_iter().zip(values)).collect();
    let empty = ["--dcs-type=", "--trigger-value="];
    for case in [said("", &known, &words), said("", &known, &[]), said("", &template, &[]), said("", &known, &empty)] {
        let plan = case.plan();
        assert_eq!((plan.spec.address.to_string().as_str(), &*plan.spec.interface), ("10.1.2.3/24", "eth0"));
        assert_eq!((plan.me.as_str(), &*plan.spec.cluster), ("serverX", "batman"));
        let Source::Etcd { key, value, etcd, .. } = &plan.source else { panic!("{:?}", plan.source) };
        assert_eq!((key.as_str(), value.as_str()), ("/service/batman/leader", "serverX"));
        assert_eq!(etcd.endpoints, ["http://10.1.2.3:2379"]);
        assert!(
            case.notices.contains(
                &"Parameter \"VIP_IFACE\" has been deprecated, please use \"VIP_INTERFACE\" instead".to_owned()
            )
        );
    }
}

/// As Pigsty writes /etc/default/vip-manager.yml: a client certificate, a CA and a password at once.
#[test]
fn pigstys_file_is_understood_whole() {
    let file = "# vip of pg-test\ninterval: 1000\n\ntrigger-key: \"/pg/pg-test/leader\"\ntrigger-value: \"pg-test-1\"\n\
                ip: 10.10.10.3 # the vip\nnetmask: 24\ninterface: eth1\nhosting-type: basic\ndcs-type: etcd\n\
                dcs-endpoints:\n  - https://10.10.10.10:2379\n  - https://10.10.10.11:2379\n\
                etcd-user: \"pg-test\"\netcd-password: \"hunter2\"\netcd-ca-file: /etc/pki/ca.crt\n\
                etcd-cert-file: /run/postgresql/server.crt\netcd-key-file: /run/postgresql/server.key\n\
                retry-num: 2\nretry-after: 250\nverbose: false\n";
    let case = said(file, &[], &[]);
    let plan = case.plan();
    assert_eq!(case.notices, Vec::<String>::new());
    let Source::Etcd { etcd, key, value, mark_key } = &plan.source else { panic!("{:?}", plan.source) };
    assert_eq!((key.as_str(), value.as_str()), ("/pg/pg-test/leader", "pg-test-1"));
    assert_eq!(mark_key.as_deref(), Some("/pg/pg-test/pgvane/vip/10.10.10.3"));
    assert_eq!(etcd.endpoints, ["https://10.10.10.10:2379", "https://10.10.10.11:2379"]);
    assert_eq!(etcd.username.as_deref(), Some("pg-test"));
    assert_eq!(etcd.password, Some(Secret::new("hunter2".into())));
    let tls = etcd.tls.as_ref().unwrap();
    assert!(tls.ca.is_some() && tls.cert.is_some() && tls.key.is_some());
    assert!(!format!("{:?}", case.shown()).contains("hunter2"));
}

#[test]
fn a_netmask_means_what_it_means_to_vip_manager() {
    let cases = [
        ("10.0.0.9", "", "10.0.0.9/32", false),
        ("10.0.0.9", "24", "10.0.0.9/24", false),
        ("10.0.0.9", "-1", "10.0.0.9/8", true),
        ("172.16.0.9", "0", "172.16.0.9/16", true),
        ("192.168.0.9", "33", "192.168.0.9/24", true),
        ("fd00::9", "", "fd00::9/128", false),
        ("fd00::9", "64", "fd00::9/64", false),
    ];
    for (ip, netmask, expected, warned) in cases {
        let case = flagged(&[&format!("--ip={ip}"), &format!("--netmask={netmask}")]);
        assert_eq!(case.plan().spec.address.to_string(), expected);
        assert_eq!(case.noticed("which is the class of"), warned, "{ip} {netmask}");
    }
    assert!(flagged(&["--ip=fd00::9", "--netmask=-1"]).bad().contains("no prefix length from 1 to 128"));
    assert!(flagged(&["--netmask=255.255.255.0"]).bad().contains("is a mask; write its length, 24"));
    assert!(flagged(&["--netmask=many"]).bad().contains("\"many\" is not a whole number"));
}

#[test]
fn our_own_settings_are_read() {
    let case = flagged(&[
        "--lease=9s",
        "--on-dcs-loss=release",
        "--grace=500ms",
        "--on-exit=keep:20s",
        "--close-sockets",
        "--refresh=1m",
        "--adopt",
        "--mark-key=off",
        "--admin-listen=127.0.0.1:8481",
        "--patroni-url=https://n1:8008/",
        "--log-format=json",
    ]);
    let plan = case.plan();
    assert_eq!((plan.spec.lease, plan.spec.grace), (Duration::from_secs(9), Duration::from_millis(500)));
    assert_eq!(
        (plan.spec.on_dcs_loss, plan.spec.on_exit),
        (VipOnDcsLoss::Release, VipOnExit::Keep(Duration::from_secs(20)))
    );
    assert_eq!((plan.spec.close_sockets, plan.spec.adopt), (true, true));
    assert_eq!(plan.spec.refresh, Some(Duration::from_secs(60)));
    assert_eq!(plan.patroni.as_ref().unwrap().endpoint.to_string(), "https://n1:8008");
    assert!(plan.admin.is_some());
    assert!(matches!(&plan.source, Source::Etcd { mark_key: None, .. }));
    let Outcome::Good(effective) = &case.outcome else { panic!() };
    assert_eq!(effective.log_format, Some(LogFormat::Json));
}

#[test]
fn patroni_and_consul_have_defaults_of_their_own() {
    let base = [("VIP_IP", "10.0.0.9"), ("VIP_INTERFACE", "eth0"), ("VIP_DCS_TYPE", "patroni")];
    let case = said("", &base, &[]);
    let Source::Patroni { endpoint, path, value, every } = &case.plan().source else { panic!() };
    assert_eq!(
        (endpoint.to_string().as_str(), path.as_str(), value.as_str()),
        ("http://127.0.0.1:8008", "/leader", "200")
    );
    assert_eq!(*every, Duration::from_secs(1));
    assert_eq!((case.plan().me.as_str(), &case.plan().patroni), (HOST, &None));
    let slow = said("", &base, &["--interval=5000", "--dcs-endpoints=https://n1:8008/,http://n2:8008"]);
    let Source::Patroni { endpoint, every, .. } = &slow.plan().source else { panic!() };
    assert_eq!((endpoint.to_string().as_str(), *every), ("https://n1:8008", Duration::from_secs(1)));
    assert!(slow.noticed("asked every 1000 ms all the same") && slow.noticed("only the first is asked"));

    let consul = flagged(&["--dcs-type=consul", "--consul-token=hunter2"]);
    let Source::Consul { endpoints, key, token, .. } = &consul.plan().source else { panic!() };
    assert_eq!(
        (endpoints[0].to_string().as_str(), key.as_str()),
        ("http://127.0.0.1:8500", "/service/pgcluster/leader")
    );
    assert!(token.is_some());
    assert!(matches!(flagged(&["--dcs-type=etcd3"]).plan().source, Source::Etcd { .. }));
}

#[test]
fn everything_that_is_wrong_is_said_at_once_and_where() {
    let nothing = said("", &[], &[]).bad();
    assert_eq!(nothing, "Setting ip is mandatory\nSetting interface is mandatory\nSetting trigger-key is mandatory");
    let file = "ip: 10.0.0.9/24\ninterface: eth0/1\nlease: 2s\netcd-password: hunter2\ndcs-endpoints:\n  - ftp://a:1\n\
                on-dcs-loss: pray\ninterval: [1]\n";
    let bad = said(file, &BASE[2..], &["--grace=2m", "--on-exit=keep:1ms", "--dcs-type=zookeeper"]).bad();
    for sentence in [
        "--grace: `grace`: it is from 0s to 30s, not 2m",
        "--on-exit: `on-exit`: it is from 1s to 5m, not 1ms",
        "--dcs-type: `dcs-type`: given endpoint type not supported: \"zookeeper\"; write etcd, consul or patroni",
        "yml:1:5: `ip`: \"10.0.0.9/24\" is not an address; write 10.0.0.9, and 24 as `netmask`",
        "yml:2:12: `interface`: \"eth0/1\" cannot name an interface",
        "yml:3:8: `lease`: it is from 3s to 1m, not 2s",
        "yml:4:16: Setting etcd-user is mandatory when setting etcd-password is specified.",
        " 4 | etcd-password: ***",
        "`dcs-endpoints`: \"ftp://a:1\" is not an endpoint: write http://host:port or https://host:port",
        "yml:7:14: `on-dcs-loss`: \"pray\" is not keep_while_patroni_leads, release or hold",
        "yml:8:1: `interval` is one text, not a list",
    ] {
        assert!(bad.contains(sentence), "{sentence}\n\n{bad}");
    }
    assert!(!bad.contains("hunter2"), "{bad}");
}

#[test]
fn what_cannot_be_kept_as_a_promise_is_refused_by_name() {
    for spelling in ["manager-type", "hosting_type", "hostingtype"] {
        let bad = said(&format!("{spelling}: hetzner\n"), &BASE, &[]).bad();
        assert!(bad.contains(": `manager-type`: hetzner is not supported: it moves an address by a call"), "{bad}");
    }
    assert!(flagged(&["--manager-type=self"]).noticed("manager-type self is not known and taken as basic"));
    let tolerated = said("hosting-type: hetzner\n", &BASE, &[]);
    assert!(tolerated.noticed("hosting-type hetzner is not used") && tolerated.plan().me.as_str() == HOST);
}

#[test]
fn a_key_that_nobody_knows_is_told_with_its_line_and_refused_where_asked() {
    let file = "ip: 10.0.0.9\ntriger-value: a\nmy-own: x\n";
    let case = said(file, &BASE[1..], &["start"]);
    case.plan();
    assert!(case.noticed("yml:2:1: `triger-value` is not a setting; did you mean `trigger-value`?; it is ignored"));
    assert!(case.noticed("yml:3:1: `my-own` is not a setting; it is ignored"));
    assert!(case.noticed("\"start\" belongs to no flag; it is ignored"));
    let strict = [
        said(file, &BASE[1..], &["--strict"]),
        said(&format!("{file}strict: true\n"), &BASE[1..], &[]),
        said(file, &[&BASE[1..], &[("VIP_STRICT", "true")]].concat(), &[]),
    ];
    for case in strict {
        let bad = case.bad();
        assert!(bad.contains("yml:2:1: `triger-value` is not a setting; did you mean `trigger-value`?"), "{bad}");
        assert!(bad.contains("2 problems"), "{bad}");
    }
}

#[test]
fn a_file_that_is_none_is_said_so() {
    let missing = said("", &[("VIP_CONFIG", "/nowhere/vip.yml")], &[]).bad();
    assert!(missing.starts_with("/nowhere/vip.yml: cannot read it: there is no such file"), "{missing}");
    assert!(said("ip: [\n", &BASE, &[]).bad().contains("not valid YAML"));
}

#[test]
fn the_help_names_everything() {
    let help = settings::help("vip-manager");
    for setting in settings::all() {
        assert!(help.contains(&format!("  --{}", setting.name)), "{}", setting.name);
    }
    assert!(help.lines().all(|line| line.chars().count() <= 110), "{help}");
}
