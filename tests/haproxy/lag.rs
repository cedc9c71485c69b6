//! How late this machine lets a thread run that asked for nothing but a short sleep.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use pgvane::runtime::clock;

const LOOK_EVERY: Duration = Duration::from_millis(2);
/// What a sleep takes longer than asked on a machine at leisure.
const USUAL: Duration = Duration::from_millis(2);

#[derive(Debug)]
pub struct Lag {
    /// When somebody ran late, and by how much.
    late: Arc<Mutex<Vec<(Instant, Duration)>>>,
    stop: Arc<AtomicBool>,
}

impl Lag {
    /// From now on.
    pub fn watch() -> Lag {
        let lag = Lag { late: Arc::default(), stop: Arc::default() };
        let (late, stop) = (lag.late.clone(), lag.stop.clone());
        std::thread::spawn(move || {
            while !stop.load(Relaxed) {
                let before = clock::now();
                std::thread::sleep(LOOK_EVERY);
                let now = clock::now();
                let by = (now - before).saturating_sub(LOOK_EVERY);
                if by > USUAL {
                    late.lock().push((now, by));
                }
            }
        });
        lag
    }

    /// The longest in this time, in milliseconds.
    pub fn worst(&self, from: Instant, to: Instant) -> f64 {
        let late = self.late.lock();
        let within = late.iter().filter(|(at, by)| *at >= from && *at - *by <= to);
        within.map(|(_, by)| by.as_secs_f64() * 1000.0).fold(0.0, f64::max)
    }
}

impl Drop for Lag {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
    }
}
