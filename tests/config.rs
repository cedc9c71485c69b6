//! Configuration files beside what is said about them. `UPDATE_EXPECTED=1` rewrites the expectations.

use std::path::{Path, PathBuf};
use std::{fs, io};

use pgvane::config::{self, Config, Problems};
use pgvane::model::{ListenAddress, Role, Trust};
use proptest::prelude::*;

#[test]
fn good_files_mean_what_is_expected() {
    for file in files("tests/config/ok") {
        let config = read(&file).unwrap_or_else(|problems| panic!("{problems}"));
        expect(&file, &config.summary());
        assert!(!format!("{config:?}").contains("hunter2"), "{}", file.display());
    }
}

#[test]
fn bad_files_are_told_everything_at_once() {
    for file in files("tests/config/bad") {
        let Err(problems) = read(&file) else { panic!("{} is taken as good", file.display()) };
        let said = format!("{problems}\n");
        assert!(!said.contains("hunter2"), "{said}");
        expect(&file, &said);
    }
}

#[test]
fn what_is_no_file_is_said_so() {
    let said = |path: &str| config::load(Path::new(path)).map(|_| ()).unwrap_err().to_string();
    assert_eq!(said("tests/config"), "tests/config: cannot read it: it is a directory; name the file in it\n1 problem");
    assert_eq!(said("tests/nowhere.yml"), "tests/nowhere.yml: cannot read it: there is no such file\n1 problem");
    assert_eq!(said("/dev/zero"), "/dev/zero: it is larger than 1 MB, which no configuration is\n1 problem");
}

#[test]
fn the_page_of_every_option_is_up_to_date_and_good() {
    let path = Path::new("conf/full.yml");
    if std::env::var_os("UPDATE_EXPECTED").is_some() {
        fs::write(path, config::full_yml()).unwrap();
    }
    assert_eq!(fs::read_to_string(path).unwrap(), config::full_yml(), "UPDATE_EXPECTED=1 rewrites it");
    let full = config::load(path).unwrap_or_else(|problems| panic!("{problems}"));
    let minimal = config::load(Path::new("conf/minimal.yml")).unwrap_or_else(|problems| panic!("{problems}"));
    // What full.yml shows as defaults are the defaults; it lists its services in another order.
    assert_eq!(full.shutdown, minimal.shutdown);
    assert_eq!(full.admin, minimal.admin);
    let (full, minimal) = (&full.clusters[0].spec, &minimal.clusters[0].spec);
    assert_eq!(
        (&full.check, &full.namespace, full.on_dcs_loss),
        (&minimal.check, &minimal.namespace, minimal.on_dcs_loss)
    );
    assert_eq!(full.services.len(), minimal.services.len());
    for service in &minimal.services {
        assert!(full.services.contains(service), "{} differs", service.name);
    }
}

#[test]
fn the_options_shown_as_examples_are_good_too() {
    let mut text = String::new();
    for line in config::full_yml().lines() {
        let one_source_is_enough = line.contains("#password_env:") || line.contains("#password:");
        let example =
            line.trim_start().strip_prefix('#').filter(|rest| !rest.starts_with(' ') && !one_source_is_enough);
        match example {
            Some(example) => text += &format!("{}{example}\n", &line[..line.find('#').unwrap()]),
            None => text += &format!("{}\n", line.replace("[\"http://", "[\"https://")),
        }
    }
    let pem = "-----BEGIN CERTIFICATE-----\n-----BEGIN PRIVATE KEY-----";
    let read_file = |path: &Path| Ok(if path.ends_with("etcd.password") { "hunter2\n" } else { pem }.to_string());
    if let Err(problems) = config::parse("full.yml", &text, &|_| None, &read_file) {
        panic!("{problems}");
    }
}

/// Name, listening port, port on the member, role and backups.
type Port = (&'static str, &'static str, Option<u16>, Role, &'static [Role]);

#[test]
fn the_files_that_stand_in_for_haproxy_have_its_ports_and_roles() {
    let pigsty: &[Port] = &[
        ("primary", "*:5433", Some(6432), Role::Primary, &[]),
        ("replica", "*:5434", Some(6432), Role::Replica, &[Role::Primary, Role::Offline]),
        ("default", "*:5436", None, Role::Primary, &[]),
        ("offline", "*:5438", None, Role::Offline, &[Role::Replica]),
    ];
    let patroni: &[Port] =
        &[("primary", "*:5000", None, Role::Primary, &[]), ("replicas", "*:5001", None, Role::Replica, &[])];
    let files = [
        ("pigsty", Trust::Confirm, pigsty),
        ("pigsty-rest", Trust::Rest, pigsty),
        ("patroni", Trust::Confirm, patroni),
        ("patroni-rest", Trust::Rest, patroni),
    ];
    for (name, trust, ports) in files {
        let config =
            config::load(Path::new(&format!("conf/{name}.yml"))).unwrap_or_else(|problems| panic!("{problems}"));
        let cluster = &config.clusters[0];
        assert_eq!((cluster.spec.trust, cluster.etcd.is_none()), (trust, trust == Trust::Rest), "{name}");
        let services = cluster.spec.services.iter();
        let read: Vec<_> =
            services.map(|s| (&*s.name, s.listen[0].to_string(), s.port, s.role, s.backup.as_slice())).collect();
        let wanted: Vec<_> =
            ports.iter().map(|(s, at, port, role, b)| (*s, at.to_string(), *port, *role, *b)).collect();
        assert_eq!(read, wanted, "{name}");
    }
}

#[test]
fn a_socket_has_an_absolute_path_that_the_kernel_takes() {
    let parse = |path: &str| {
        let text = format!(
            "clusters: [{{ name: a, dcs: {{ etcd: {{ endpoints: [http://e:2379] }} }}, \
             services: {{ s: {{ listen: \"unix:{path}\", role: primary }} }} }}]"
        );
        let nothing = |_: &Path| Err(io::Error::from(io::ErrorKind::NotFound));
        config::parse("/etc/pgvane/pgvane.yml", &text, &|_| None, &nothing)
            .map(|config| config.clusters[0].spec.services[0].listen.clone())
    };
    assert_eq!(parse("run/s").unwrap(), [ListenAddress::Unix("/etc/pgvane/run/s".into())]);
    assert_eq!(parse("/run/s").unwrap(), [ListenAddress::Unix("/run/s".into())]);
    let longest = format!("/{}", "s".repeat(106));
    assert!(parse(&longest).is_ok());
    assert!(parse(&format!("{longest}s")).unwrap_err().to_string().contains("is 108 bytes long"));
}

#[test]
fn a_list_of_networks_has_an_end() {
    let list = |count: usize| {
        let networks: Vec<String> = (0..count).map(|n| format!("10.{}.{}.0/24", n / 256, n % 256)).collect();
        let text = format!(
            "defaults: {{ allow: [{}] }}\nclusters: [{{ name: a, dcs: {{ etcd: {{ endpoints: [http://e:2379] }} }} }}]",
            networks.join(", ")
        );
        let nothing = |_: &Path| Err(io::Error::from(io::ErrorKind::NotFound));
        config::parse("f.yml", &text, &|_| None, &nothing)
    };
    assert_eq!(list(1024).unwrap().clusters[0].spec.services[0].allow.len(), 1024);
    let said = list(1025).unwrap_err().to_string();
    assert!(said.contains("`allow` has more than 1024 entries") && said.ends_with("1 problem"), "{said}");
}

#[test]
fn a_list_of_vips_has_an_end() {
    let list = |count: usize| {
        let vips: Vec<String> =
            (1..=count).map(|n| format!("{{ address: 10.0.{}.{}, interface: eth0 }}", n / 256, n % 256)).collect();
        let text = format!(
            "clusters: [{{ name: a, dcs: {{ etcd: {{ endpoints: [http://e:2379] }} }} }}]\nvips: [{}]",
            vips.join(", ")
        );
        let nothing = |_: &Path| Err(io::Error::from(io::ErrorKind::NotFound));
        config::parse("f.yml", &text, &|_| None, &nothing)
    };
    let vips = list(256).unwrap().vips;
    assert_eq!((vips.len(), vips[255].address.to_string().as_str()), (256, "10.0.1.0/32"));
    let said = list(257).unwrap_err().to_string();
    assert!(said.contains("`vips` has more than 256 entries") && said.ends_with("1 problem"), "{said}");
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in any::<String>()) {
        parse_alone(&text);
    }

    #[test]
    fn no_heap_of_punctuation_makes_it_panic(text in "[-a:{}\\[\\]\"'&*!|>%@#?,\\.~<\\t\\n 0é]{0,60}") {
        parse_alone(&text);
    }

    #[test]
    fn no_damage_to_a_good_file_makes_it_panic(name in prop::sample::select(vec!["everything", "rest", "roles", "vips"]), cuts in prop::collection::vec((0usize..4000, 0usize..40, "[-a:{}\\[\\]\"'&*!|>#?,\\n 0~]{0,4}"), 1..6)) {
        let mut text: Vec<char> = fs::read_to_string(format!("tests/config/ok/{name}.yml")).unwrap().chars().collect();
        for (start, length, insert) in cuts {
            let start = start.min(text.len());
            let end = (start + length).min(text.len());
            text.splice(start..end, insert.chars());
        }
        let problems = parse_alone(&text.into_iter().collect::<String>());
        let said = problems.map(|problems| problems.to_string()).unwrap_or_default();
        prop_assert!(!said.contains("hunter2"));
    }
}

fn parse_alone(text: &str) -> Option<Problems> {
    let nothing = |_: &Path| Err(io::Error::from(io::ErrorKind::NotFound));
    config::parse("f.yml", text, &|_| None, &nothing).err()
}

fn read(file: &Path) -> Result<Config, Problems> {
    let Ok(text) = fs::read_to_string(file) else { return config::load(file) };
    let env = |name: &str| (name == "ETCD_PASSWORD").then(|| "hunter2".to_string());
    let read_file = |path: &Path| fs::read_to_string(path);
    config::parse(&file.display().to_string(), &text, &env, &read_file)
}

fn expect(file: &Path, said: &str) {
    let path = file.with_extension("expected");
    if std::env::var_os("UPDATE_EXPECTED").is_some() {
        fs::write(&path, said).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(said, expected, "{}", path.display());
}

fn files(directory: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "yml"));
    files.sort();
    assert!(!files.is_empty(), "{directory} holds no .yml files");
    files
}
