//! How late this machine lets its programs run.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use pgvane::runtime::clock;
use tokio::task::JoinSet;

const LOOK_EVERY: Duration = Duration::from_millis(4);
/// What a sleep takes longer than asked on a machine at leisure.
const USUAL: Duration = Duration::from_millis(2);
/// Within one of these windows a program's waits for a processor are counted together.
const WINDOW: Duration = Duration::from_millis(200);

/// Milliseconds.
#[derive(Debug, Default, Clone, Copy)]
pub struct Late {
    /// At most in one step.
    pub most: f64,
    /// All of it together.
    pub total: f64,
}

impl Late {
    fn add(&mut self, by: f64) {
        self.most = self.most.max(by);
        self.total += by;
    }

    /// Two that are late independently.
    pub fn and(self, other: Late) -> Late {
        Late { most: self.most.max(other.most), total: self.total + other.total }
    }
}

/// Watches how late the tasks of this process are.
#[derive(Debug)]
pub struct Lag {
    late: Arc<Mutex<Vec<(Instant, Duration)>>>,
    _watching: JoinSet<()>,
}

impl Lag {
    /// From now on.
    pub fn watch() -> Lag {
        let late = Arc::new(Mutex::new(Vec::new()));
        let mut watching = JoinSet::new();
        let noted = late.clone();
        watching.spawn(async move {
            loop {
                let wanted = clock::now() + LOOK_EVERY;
                tokio::time::sleep_until(wanted.into()).await;
                let now = clock::now();
                let by = now.saturating_duration_since(wanted);
                if by > USUAL {
                    noted.lock().push((now, by));
                }
            }
        });
        Lag { late, _watching: watching }
    }

    pub fn within(&self, from: Instant, to: Instant) -> Late {
        let mut sum = Late::default();
        for (_, by) in self.late.lock().iter().filter(|(at, by)| *at >= from && *at - *by <= to) {
            sum.add(by.as_secs_f64() * 1000.0);
        }
        sum
    }
}

/// How long the threads of another process waited for a processor; never returns.
pub async fn watch_process(pid: u32, late: &Mutex<Late>) {
    let mut before = waits(pid);
    loop {
        tokio::time::sleep(WINDOW).await;
        let now = waits(pid);
        let waited = now.iter().map(|(thread, wait)| wait - before.get(thread).unwrap_or(&0.0));
        late.lock().add(waited.fold(0.0, f64::max));
        before = now;
    }
}

/// Milliseconds by thread, since it began: the second number of its `schedstat`.
fn waits(pid: u32) -> BTreeMap<String, f64> {
    let mut waits = BTreeMap::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        // A thread may end meanwhile.
        let text = fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
        let nanos = text.split_whitespace().nth(1).and_then(|word| word.parse::<f64>().ok());
        waits.insert(thread.file_name().to_string_lossy().into_owned(), nanos.unwrap_or(0.0) / 1e6);
    }
    waits
}
