//! The process itself: its age, its limits, and how much of its time it idles.

use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};
use nix::sys::time::TimeVal;
use parking_lot::Mutex;

use crate::runtime::clock;

/// Two scrapers that come one after the other are told the same.
const SAMPLE_GAP_MIN: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct Process {
    pub started_at: Instant,
    /// Seconds since 1970.
    pub started_unix: f64,
    /// Threads that can run at a time.
    pub cores: usize,
    idle: Mutex<Idle>,
}

#[derive(Debug)]
struct Idle {
    at: Instant,
    /// Processor time used until then, of all threads.
    used: Duration,
    percent: f64,
}

impl Process {
    pub fn started_now() -> Process {
        let now = clock::now();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let idle = Mutex::new(Idle { at: now, used: processor_time(), percent: 100.0 });
        Process { started_at: now, started_unix: clock::unix_seconds(), cores, idle }
    }

    /// Share of the cores' time that was not used since the last call that was long enough ago, 0 to 100.
    pub fn idle_percent(&self, now: Instant) -> f64 {
        let mut idle = self.idle.lock();
        let passed = now.saturating_duration_since(idle.at);
        if passed >= SAMPLE_GAP_MIN {
            let used = processor_time();
            let busy = used.saturating_sub(idle.used).as_secs_f64() / (passed.as_secs_f64() * self.cores as f64);
            *idle = Idle { at: now, used, percent: (100.0 * (1.0 - busy)).clamp(0.0, 100.0) };
        }
        idle.percent
    }
}

fn processor_time() -> Duration {
    let seconds = |time: TimeVal| {
        let (whole, micros) = (u64::try_from(time.tv_sec()).ok()?, u64::try_from(time.tv_usec()).ok()?);
        Some(Duration::from_secs(whole) + Duration::from_micros(micros))
    };
    let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else { return Duration::ZERO };
    seconds(usage.user_time()).unwrap_or_default() + seconds(usage.system_time()).unwrap_or_default()
}

/// File descriptors that this process may have open.
pub fn descriptors_max() -> Option<u64> {
    getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(soft, _)| soft)
}
