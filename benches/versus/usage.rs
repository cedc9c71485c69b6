//! What processes and the whole machine use, as the kernel counts it.

use std::fs;

use anyhow::{Context, Result};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Pid, SysconfVar, sysconf};

use super::poll::{nanos, to_nanos};

/// What was used between two moments, in seconds.
#[derive(Debug, Clone, Copy)]
pub struct Used {
    pub seconds: f64,
    /// All threads of the processes that are measured, user and system.
    pub cpu: f64,
    /// All CPUs, whoever used them.
    pub busy: f64,
    /// The part of all CPUs that nobody of this bench used.
    pub strange: f64,
}

/// Whose use is told apart.
#[derive(Debug, Clone, Default)]
pub struct Watched {
    /// What is measured.
    pub proxy: Vec<Pid>,
    /// The others of this bench: load and backend.
    pub stand: Vec<Pid>,
}

#[derive(Debug)]
pub struct Meter<'a> {
    watched: &'a Watched,
    at: u64,
    proxy: u64,
    stand: u64,
    idle: f64,
}

impl Meter<'_> {
    pub fn start(watched: &Watched) -> Result<Meter<'_>> {
        let (proxy, stand) = (cpu_of(&watched.proxy)?, cpu_of(&watched.stand)?);
        Ok(Meter { watched, at: nanos(), proxy, stand, idle: idle()? })
    }

    pub fn stop(self) -> Result<Used> {
        let (at, proxy, stand) = (nanos(), cpu_of(&self.watched.proxy)?, cpu_of(&self.watched.stand)?);
        let seconds = (at - self.at) as f64 / 1e9;
        let all = seconds * std::thread::available_parallelism()?.get() as f64;
        let busy = (all - (idle()? - self.idle)).max(0.0);
        let cpu = (proxy - self.proxy) as f64 / 1e9;
        let ours = cpu + (stand - self.stand) as f64 / 1e9;
        Ok(Used { seconds, cpu, busy, strange: ((busy - ours) / all).max(0.0) })
    }
}

/// Nanoseconds that all threads of these processes ran, also those that have ended.
fn cpu_of(pids: &[Pid]) -> Result<u64> {
    let one = |pid: &Pid| Ok(to_nanos(clock_gettime(ClockId::pid_cpu_clock_id(*pid)?)?));
    pids.iter().map(one).sum::<nix::Result<u64>>().context("the CPU clock of a process that is measured")
}

/// Seconds that all CPUs together did nothing or were not there: idle, iowait and steal. Those are counted by
/// the clock (`get_cpu_idle_time_us` in the kernel's fs/proc/stat.c), the others by looking at each tick.
fn idle() -> Result<f64> {
    let text = fs::read_to_string("/proc/stat")?;
    let fields: Vec<f64> = text
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .map(|word| word.parse().unwrap_or(0.0))
        .collect();
    let ticks = sysconf(SysconfVar::CLK_TCK)?.unwrap_or(100) as f64;
    let steal = fields.get(7).copied().unwrap_or(0.0);
    Ok((fields.get(3).context("/proc/stat")? + fields.get(4).context("/proc/stat")? + steal) / ticks)
}

/// A process and all below it.
pub fn family(pid: u32) -> Result<Vec<Pid>> {
    let mut found = vec![i32::try_from(pid)?];
    let mut at = 0;
    while let Some(pid) = found.get(at) {
        for task in fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
            let children = fs::read_to_string(task.path().join("children")).context("/proc/PID/task/TID/children")?;
            found.extend(children.split_whitespace().filter_map(|word| word.parse::<i32>().ok()));
        }
        at += 1;
    }
    Ok(found.into_iter().map(Pid::from_raw).collect())
}

/// Bytes that belong to these processes alone, and their descriptors.
pub fn holdings(pids: &[Pid]) -> Result<(f64, f64)> {
    let (mut bytes, mut descriptors) = (0.0, 0.0);
    for pid in pids {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        for line in text.lines().filter(|line| line.starts_with("Private_Clean:") || line.starts_with("Private_Dirty:"))
        {
            let kilobytes: f64 = line.split_whitespace().nth(1).context("smaps_rollup")?.parse()?;
            bytes += kilobytes * 1024.0;
        }
        descriptors += fs::read_dir(format!("/proc/{pid}/fd"))?.count() as f64;
    }
    Ok((bytes, descriptors))
}
