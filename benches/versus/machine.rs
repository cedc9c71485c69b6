//! What the figures were measured on.

use std::fs;
use std::process::Command;

use super::arguments::Arguments;
use super::contestants::Kind;
use super::servers;

/// Machine, versions, command; a line each.
pub fn describe(arguments: &Arguments) -> String {
    let first = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = first("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map_or("", |it| it.1);
    let memory: u64 = first("/proc/meminfo").split_whitespace().nth(1).and_then(|it| it.parse().ok()).unwrap_or(0);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let mut lines = vec![
        format!("versus, {}", first_line("date", &["--utc", "+%Y-%m-%d %H:%M UTC"])),
        format!("command      cargo bench --bench versus -- {}", arguments.words.join(" ")),
        format!("machine      {cores} cores ({model}), {} GiB", memory >> 20),
        format!("kernel       {}", first_line("uname", &["-srvm"])),
        format!("load         {} before", first("/proc/loadavg").trim()),
        format!("haproxy      {}", first_line("haproxy", &["-v"])),
        format!("nginx        {}", first_line("nginx", &["-v"])),
        format!("postgresql   {}", first_line(&servers::bin().join("postgres").to_string_lossy(), &["--version"])),
    ];
    for entry in &arguments.entries {
        if let Kind::Pgvane(program) = &entry.kind {
            let path = program.to_string_lossy();
            let bytes = fs::metadata(program).map_or(0, |it| it.len());
            let (version, label) = (first_line(&path, &["--version"]), &entry.label);
            lines.push(format!("{label:<12} {version}, {}, {bytes} bytes", commit(&path)));
        }
    }
    lines
        .push("threads      ".to_owned() + &arguments.threads.map_or("as each has it".to_owned(), |it| it.to_string()));
    let (rounds, slices) = (arguments.rounds, arguments.size.slices);
    lines.push(format!(
        "rounds       {rounds}, each in {slices} slices of {:?} or {} MB",
        arguments.size.lasting,
        arguments.size.copy_bytes / 1_000_000
    ));
    if !arguments.is_bench {
        lines.push("ONLY TRIED, far too short to measure anything: cargo bench --bench versus".to_owned());
    }
    lines.iter().map(|line| line.trim_end().to_owned() + "\n").collect()
}

pub fn today() -> String {
    first_line("date", &["--utc", "+%Y-%m-%d"])
}

/// Of the tree that a build lies in, as far as that can be known.
fn commit(program: &str) -> String {
    let folder = std::path::Path::new(program).parent().unwrap_or(std::path::Path::new("."));
    let words = ["-C", &folder.to_string_lossy(), "describe", "--always", "--dirty", "--abbrev=12"];
    let said = first_line("git", &words);
    if said.contains(' ') { "no commit".to_owned() } else { format!("commit {said}") }
}

/// The first line that a program says, wherever it says it.
fn first_line(program: &str, words: &[&str]) -> String {
    let Ok(output) = Command::new(program).args(words).output() else { return format!("no {program}") };
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text).lines().next().unwrap_or_default().to_owned()
}
