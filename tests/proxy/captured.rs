//! What this thread logs: a test that looks at it has a runtime of one thread.

use std::io::Write;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::Value;
use tracing::Level;
use tracing::subscriber::DefaultGuard;

use crate::bed::until;

#[derive(Clone, Default)]
pub struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    pub fn capture() -> (Lines, DefaultGuard) {
        Lines::capture_from(Level::INFO)
    }

    pub fn capture_from(level: Level) -> (Lines, DefaultGuard) {
        let lines = Lines::default();
        let writer = lines.clone();
        let format = tracing_subscriber::fmt().json().flatten_event(true).with_max_level(level);
        (lines, tracing::subscriber::set_default(format.with_writer(move || writer.clone()).finish()))
    }

    /// Those of one target, in order.
    pub fn of(&self, target: &str) -> Vec<Value> {
        let text = String::from_utf8(self.0.lock().clone()).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter(|line| line["target"] == target).collect()
    }

    /// The lines of clients' ends.
    pub async fn next(&self, count: usize) -> Value {
        self.next_of("pgvane::session", count).await
    }

    /// Waits for a target's line of this number, which must be the last.
    pub async fn next_of(&self, target: &str, count: usize) -> Value {
        until("a line", || self.of(target).len() >= count).await;
        let mut lines = self.of(target);
        assert_eq!(lines.len(), count, "{lines:#?}");
        lines.remove(count - 1)
    }
}
