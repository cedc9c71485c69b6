//! What the figures were measured on.

use std::path::Path;
use std::process::Command;

use super::kit::haproxy::first_line;

/// One line each: machine, and the version of every program.
pub fn describe(pgvane: &Path) -> Vec<String> {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("", |it| it.trim_start_matches([' ', '\t', ':']));
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kilobytes: u64 = memory.split_whitespace().nth(1).and_then(|it| it.parse().ok()).unwrap_or(0);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let patroni = std::env::var("PGVANE_PATRONI_VENV").unwrap_or_else(|_| "/opt/pgvane/patroni".to_owned());
    vec![
        format!(
            "{cores} cores ({model}), {} GiB, Linux {}, load before {}",
            kilobytes >> 20,
            kernel.trim(),
            load.trim()
        ),
        first_line(&pgvane.to_string_lossy(), "--version"),
        first_line(&format!("{patroni}/bin/patroni"), "--version"),
        postgres_version(),
        first_line("etcd", "--version"),
        first_line("haproxy", "-v"),
        "unmodified Patroni settings but for ports; all on loopback".to_owned(),
    ]
}

fn postgres_version() -> String {
    let found = Command::new("sh").args(["-c", "ls -d /usr/lib/postgresql/*/bin | sort -V | tail -n 1"]).output();
    let dir = found.map(|it| String::from_utf8_lossy(&it.stdout).trim().to_owned()).unwrap_or_default();
    first_line(&format!("{dir}/postgres"), "--version")
}
