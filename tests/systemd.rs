//! The units of `conf/systemd/`: what they say is what systemd knows, and what the program needs.

use std::path::Path;
use std::process::Command;
use std::time::Duration;
use std::{fs, io};

use pgvane::config;

const UNITS: [&str; 3] = ["pgvane.service", "pgvane-vip.service", "pgvane-vip@.service"];

/// Every option that the units use, by section, as systemd.unit(5), systemd.service(5), systemd.exec(5),
/// systemd.kill(5) and systemd.resource-control(5) name them.
const KNOWN: [(&str, &[&str]); 3] = [
    ("Unit", &["Description", "Wants", "After", "Before", "Conflicts", "StartLimitIntervalSec"]),
    (
        "Service",
        &[
            "Type",
            "ExecStart",
            "ExecReload",
            "EnvironmentFile",
            "Restart",
            "RestartSec",
            "TimeoutStopSec",
            "KillMode",
            "User",
            "AmbientCapabilities",
            "CapabilityBoundingSet",
            "NoNewPrivileges",
            "LimitNOFILE",
            "StateDirectory",
            "RuntimeDirectory",
            "ProtectSystem",
            "ProtectHome",
            "PrivateTmp",
            "PrivateDevices",
            "ProtectClock",
            "ProtectControlGroups",
            "ProtectKernelLogs",
            "ProtectKernelModules",
            "ProtectKernelTunables",
            "LockPersonality",
            "MemoryDenyWriteExecute",
            "RestrictNamespaces",
            "RestrictRealtime",
            "RestrictSUIDSGID",
            "RestrictAddressFamilies",
            "SystemCallArchitectures",
            "SystemCallFilter",
        ],
    ),
    ("Install", &["WantedBy"]),
];

/// Section, key, value, in the order of the file.
type Options = Vec<(String, String, String)>;

fn text(unit: &str) -> String {
    fs::read_to_string(Path::new("conf/systemd").join(unit)).unwrap_or_else(|error| panic!("{unit}: {error}"))
}

fn options(unit: &str) -> Options {
    let mut section = String::new();
    let mut options = Options::new();
    for line in text(unit).lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = name.to_owned();
            continue;
        }
        let (key, value) = line.split_once('=').unwrap_or_else(|| panic!("{unit}: {line}"));
        options.push((section.clone(), key.to_owned(), value.to_owned()));
    }
    options
}

/// All values of one key.
fn values<'a>(options: &'a Options, key: &str) -> Vec<&'a str> {
    options.iter().filter(|(_, other, _)| other == key).map(|(_, _, value)| value.as_str()).collect()
}

#[test]
fn every_option_is_one_of_systemd() {
    for unit in UNITS {
        for (section, key, value) in options(unit) {
            let known = KNOWN.iter().any(|(name, keys)| *name == section && keys.contains(&key.as_str()));
            assert!(known && !value.is_empty(), "{unit}: [{section}] {key}={value}");
        }
    }
}

#[test]
fn the_rights_are_the_two_that_addresses_need_and_no_others() {
    for unit in UNITS {
        let options = options(unit);
        for key in ["AmbientCapabilities", "CapabilityBoundingSet"] {
            assert_eq!(values(&options, key), ["CAP_NET_ADMIN CAP_NET_RAW"], "{unit}: {key}");
        }
        assert_eq!(values(&options, "User"), ["pgvane"], "{unit}");
        assert_eq!(values(&options, "NoNewPrivileges"), ["yes"], "{unit}");
        let families = values(&options, "RestrictAddressFamilies")[0];
        for family in ["AF_INET", "AF_INET6", "AF_UNIX", "AF_NETLINK", "AF_PACKET"] {
            assert!(families.split(' ').any(|other| other == family), "{unit}: {family}");
        }
        // A user namespace has no rights over the host's interfaces, a network of its own has none of them,
        // and a /proc of processes alone has no host name.
        for without in ["PrivateUsers", "PrivateNetwork", "ProcSubset", "DynamicUser"] {
            assert!(values(&options, without).is_empty(), "{unit}: {without}");
        }
        assert_eq!(values(&options, "Restart"), ["always"], "{unit}");
    }
    assert!(text("sysusers.conf").lines().any(|line| line.starts_with("u pgvane ")));
}

#[test]
fn sessions_have_the_time_to_end_that_the_configuration_gives_them() {
    let options = options("pgvane.service");
    let limit =
        values(&options, "TimeoutStopSec")[0].strip_suffix('s').unwrap().parse().map(Duration::from_secs).unwrap();
    let shutdown = config::Shutdown::default();
    assert!(limit >= shutdown.delay + shutdown.drain + Duration::from_secs(30), "{limit:?}");
}

#[test]
fn the_commands_are_ours() {
    let commands = |unit: &str, key: &str| -> Vec<String> {
        values(&options(unit), key).into_iter().map(ToOwned::to_owned).collect()
    };
    assert_eq!(commands("pgvane.service", "ExecStart"), ["/usr/bin/pgvane run -c /etc/pgvane/pgvane.yml"]);
    let reload = ["/usr/bin/pgvane check -c /etc/pgvane/pgvane.yml", "/bin/kill -HUP $MAINPID"];
    assert_eq!(commands("pgvane.service", "ExecReload"), reload);
    let alone = ["/usr/bin/pgvane vip --config /etc/default/vip-manager.yml"];
    assert_eq!(commands("pgvane-vip.service", "ExecStart"), alone);
    assert_eq!(commands("pgvane-vip@.service", "ExecStart"), ["/usr/bin/pgvane vip"]);
    // The dash: Debian's own unit starts without the file, too.
    assert_eq!(commands("pgvane-vip@.service", "EnvironmentFile"), ["-/etc/patroni/%i.vip"]);
}

/// Where systemd is not installed the other tests are all there is.
#[test]
fn systemd_has_nothing_to_say_against_them() {
    let folder = std::env::temp_dir().join(format!("pgvane-units-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    for unit in UNITS {
        // Whether the program is installed is another question.
        let path = folder.join(unit);
        fs::write(&path, text(unit).replace("/usr/bin/pgvane", "/bin/true")).unwrap();
        match Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&path).output() {
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                let about_it: Vec<&str> = said.lines().filter(|line| line.contains("pgvane")).collect();
                assert!(output.status.success() && about_it.is_empty(), "{said}");
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            Err(error) => panic!("systemd-analyze: {error}"),
        }
    }
    fs::remove_dir_all(&folder).unwrap();
}
