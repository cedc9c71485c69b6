//! The command line as vip-manager reads it: long flags with one dash or two (Go's `flag` in 0.x, pflag since),
//! a value behind `=` or as the next word, whatever that word begins with.

use std::collections::BTreeMap;

use crate::config::flat::nearest;

use super::settings::{self, Kind};

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Help,
    Version,
    Run(Flags),
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Flags {
    /// By the name that was written, without its dashes. The last one of a name counts.
    pub values: BTreeMap<String, String>,
    /// Words that belong to no flag.
    pub strays: Vec<String>,
}

/// Names and kinds, old ones and those that are no settings included.
fn kind_of(name: &str) -> Option<Kind> {
    settings::all().find(|setting| setting.name == name || setting.old.contains(&name)).map(|setting| setting.kind)
}

/// Reads the words behind the program's name.
///
/// # Errors
/// What cannot be meant, as a sentence.
pub(super) fn read(words: &[String]) -> Result<Asked, String> {
    if words.first().is_some_and(|word| matches!(word.as_str(), "version" | "--version" | "-version" | "-V")) {
        return Ok(Asked::Version);
    }
    let mut flags = Flags::default();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let Some(rest) = word.strip_prefix("--").or(word.strip_prefix('-')).filter(|rest| !rest.is_empty()) else {
            flags.strays.push(word.clone());
            continue;
        };
        let (name, value) = rest.split_once('=').map_or((rest, None), |(name, value)| (name, Some(value.to_owned())));
        let name = if name == "c" { "config" } else { name };
        match (kind_of(name), value) {
            (None, _) if matches!(name, "help" | "h") => return Ok(Asked::Help),
            (None, _) => return Err(unknown(word, name)),
            (Some(Kind::Switch), value) => {
                flags.values.insert(name.to_owned(), value.unwrap_or_else(|| "true".to_owned()));
            }
            (Some(_), Some(value)) => {
                flags.values.insert(name.to_owned(), value);
            }
            (Some(_), None) => {
                let value = words.next().ok_or_else(|| format!("{word} needs a value: write {word}=VALUE"))?;
                flags.values.insert(name.to_owned(), value.clone());
            }
        }
    }
    Ok(Asked::Run(flags))
}

fn unknown(word: &str, name: &str) -> String {
    let written = word.split('=').next().unwrap_or(word);
    let names = settings::all().map(|setting| setting.name);
    match nearest(name, names) {
        Some(near) => format!("{written} is not a flag; did you mean --{near}?"),
        None => format!("{written} is not a flag; --help lists them"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(words: &[&str]) -> Result<Asked, String> {
        read(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    fn values(words: &[&str]) -> Vec<(String, String)> {
        match asked(words) {
            Ok(Asked::Run(flags)) => flags.values.into_iter().collect(),
            other => panic!("{other:?}"),
        }
    }

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn one_dash_is_as_good_as_two_and_a_value_may_follow() {
        let same = [
            &["--ip=10.0.0.9"][..],
            &["-ip=10.0.0.9"],
            &["--ip", "10.0.0.9"],
            &["-ip", "10.0.0.9"],
            &["-ip", "1", "--ip", "10.0.0.9"],
        ];
        for words in same {
            assert_eq!(values(words), [pair("ip", "10.0.0.9")], "{words:?}");
        }
        assert_eq!(values(&["-mask", "-1"]), [pair("mask", "-1")]);
        assert_eq!(values(&["-key", "--odd"]), [pair("key", "--odd")]);
        assert_eq!(values(&["--trigger-key=a=b"]), [pair("trigger-key", "a=b")]);
        assert_eq!(values(&["-c", "f.yml"]), [pair("config", "f.yml")]);
        assert_eq!(values(&["--verbose", "--adopt=false"]), [pair("adopt", "false"), pair("verbose", "true")]);
    }

    #[test]
    fn every_flag_of_the_first_versions_is_one() {
        for name in [
            "ip",
            "mask",
            "iface",
            "key",
            "host",
            "type",
            "endpoint",
            "interval",
            "hostingtype",
            "etcd_user",
            "etcd_password",
            "config",
        ] {
            assert_eq!(values(&[&format!("-{name}"), "x"]), [pair(name, "x")]);
        }
        for words in [["version"], ["-version"], ["--version"]] {
            assert_eq!(asked(&words), Ok(Asked::Version));
        }
        for words in [["--help"], ["-help"], ["-h"]] {
            assert_eq!(asked(&words), Ok(Asked::Help));
        }
    }

    #[test]
    fn what_cannot_be_meant_is_named() {
        assert_eq!(asked(&["--interfce=eth0"]), Err("--interfce is not a flag; did you mean --interface?".into()));
        assert_eq!(asked(&["--xyzzy"]), Err("--xyzzy is not a flag; --help lists them".into()));
        assert_eq!(asked(&["--ip"]), Err("--ip needs a value: write --ip=VALUE".into()));
        let Ok(Asked::Run(flags)) = asked(&["start", "--ip=1"]) else { panic!() };
        assert_eq!(flags.strays, ["start"]);
    }
}
