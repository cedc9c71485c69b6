//! The architecture, as a test: what may know what, and what a file may look like.

use std::fs;
use std::path::{Path, PathBuf};

const FILE_LINES_MAX: usize = 600;
/// Rooms that do no IO, and what they may name from the crate.
const PURE: [(&str, &[&str]); 3] = [("model", &["model"]), ("decide", &["model", "decide"]), ("proxy/protocol", &[])];
/// Rooms of the shell and what they may name; the drivers and the commands know everything.
const SHELL: [(&str, &[&str]); 7] = [
    ("config", &["model", "config"]),
    ("dcs", &["model", "decide", "sys", "dcs", "runtime::clock"]),
    ("probe", &["model", "decide", "sys", "probe", "runtime::clock"]),
    ("proxy", &["model", "decide", "sys", "proxy", "runtime::clock"]),
    ("admin", &["model", "decide", "sys", "admin", "runtime::clock"]),
    ("vip", &["model", "decide", "sys", "vip", "runtime::clock"]),
    ("sys", &["sys"]),
];
/// Outside names that mean IO, threads, randomness or a clock of one's own.
const IMPURE: [&str; 12] = [
    "tokio",
    "std::fs",
    "std::io",
    "std::net",
    "std::process",
    "std::thread",
    "std::env",
    "Instant::now",
    "SystemTime",
    "rand",
    "hyper",
    "tracing",
];

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    if !folder.exists() {
        return found;
    }
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    for entry in entries {
        let path = entry.expect("a readable folder").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Code lines before the unit tests, without comments, with their numbers.
fn code(path: &Path) -> Vec<(usize, String)> {
    let text = fs::read_to_string(path).expect("UTF-8 source");
    let before_tests = text.lines().take_while(|line| line.trim() != "#[cfg(test)]");
    let stripped = before_tests.map(|line| line.split("//").next().unwrap_or("").to_owned());
    stripped.enumerate().map(|(index, line)| (index + 1, line)).collect()
}

fn each_line(folder: &str, mut complaint: impl FnMut(&str) -> Option<String>) -> Vec<String> {
    let mut complaints = Vec::new();
    for path in sources(&root().join("src").join(folder)) {
        // Unit tests that grew into a file of their own.
        if path.file_name().is_some_and(|name| name == "tests.rs") {
            continue;
        }
        for (number, line) in code(&path) {
            if let Some(what) = complaint(&line) {
                complaints.push(format!("{}:{number}: {what}: {}", path.display(), line.trim()));
            }
        }
    }
    complaints
}

fn assert_none(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

/// What a line names from this crate, such as `model` or `runtime::clock`.
fn named_rooms(line: &str) -> Vec<String> {
    line.match_indices("crate::")
        .map(|(at, found)| {
            let path = &line[at + found.len()..];
            path.chars().take_while(|c| c.is_alphanumeric() || "_:".contains(*c)).collect::<String>()
        })
        .filter(|name| !name.is_empty())
        .collect()
}

#[test]
fn rooms_know_only_what_they_may() {
    let mut complaints = Vec::new();
    for (room, allowed) in PURE.iter().chain(&SHELL) {
        complaints.extend(each_line(room, |line| {
            let strange = |name: &String| !allowed.iter().any(|a| name == a || name.starts_with(&format!("{a}::")));
            named_rooms(line).into_iter().find(strange).map(|name| format!("{room} must not know {name}"))
        }));
    }
    assert_none(&complaints);
}

#[test]
fn decisions_touch_nothing() {
    let mut complaints = Vec::new();
    for (room, _) in PURE {
        complaints.extend(each_line(room, |line| {
            let words = |word: &&&str| line.contains(&format!("{word}::")) || line.contains(&format!("{word}("));
            IMPURE.iter().find(words).map(|word| format!("{room} must not touch {word}"))
        }));
    }
    assert_none(&complaints);
}

/// They would panic on the data plane's threads, which have no timers of their own.
#[test]
fn the_data_plane_has_its_timers_from_one_place() {
    let complaints = each_line("proxy", |line| {
        let mut named = line.match_indices("tokio::time::").map(|(at, found)| &line[at + found.len()..]);
        named.any(|name| !name.starts_with("Instant")).then(|| "timers come from proxy/timers.rs".to_owned())
    });
    let elsewhere: Vec<String> = complaints.into_iter().filter(|c| !c.contains("/proxy/timers.rs:")).collect();
    assert_none(&elsewhere);
}

#[test]
fn unsafe_lives_in_sys() {
    let complaints = each_line("", |line| line.contains("unsafe ").then(|| "unsafe outside src/sys".to_owned()));
    let outside: Vec<String> = complaints.into_iter().filter(|c| !c.contains("/src/sys/")).collect();
    assert_none(&outside);
}

#[test]
fn nothing_from_outside_can_panic() {
    let words = [".unwrap()", ".expect(", "panic!(", "todo!(", "unimplemented!(", "unreachable!("];
    let complaints = each_line("", |line| {
        words.iter().find(|word| line.contains(**word)).map(|word| format!("{word} in the program"))
    });
    assert_none(&complaints);
}

#[test]
fn files_are_short_and_say_what_they_are() {
    let mut complaints = Vec::new();
    for path in ["src", "tests", "benches"].iter().flat_map(|folder| sources(&root().join(folder))) {
        let text = fs::read_to_string(&path).expect("UTF-8 source");
        if text.lines().count() > FILE_LINES_MAX {
            complaints.push(format!("{}: more than {FILE_LINES_MAX} lines", path.display()));
        }
        if !text.trim_start().starts_with("//!") {
            complaints.push(format!("{}: no line that says what it is for", path.display()));
        }
        let name = path.file_stem().and_then(|n| n.to_str()).unwrap_or("");
        if ["utils", "util", "helper", "helpers", "common", "core", "misc"].contains(&name) {
            complaints.push(format!("{}: a name without an owner", path.display()));
        }
    }
    assert_none(&complaints);
}

#[test]
fn getters_are_nouns() {
    assert_none(&each_line("", |line| line.contains("fn get_").then(|| "get_ says nothing".to_owned())));
}
