//! Keeps the state file up to date with what every cluster's machine wants remembered.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use crate::decide::Memory;

use super::state_file::{self, Memories};

/// Changes within this time are one write.
const GATHER: Duration = Duration::from_millis(200);
/// After a failed write.
const RETRY_AFTER: Duration = Duration::from_secs(10);
/// For the last write at shutdown.
const FINISH_TIMEOUT: Duration = Duration::from_secs(2);

/// Collects and writes. Without a path it only listens.
pub struct Keeper {
    path: Option<PathBuf>,
    memories: Arc<Mutex<Memories>>,
    changed: Arc<Notify>,
    writer: Option<JoinHandle<()>>,
}

impl Keeper {
    pub fn start(path: Option<PathBuf>, remembered: Memories) -> Keeper {
        let memories = Arc::new(Mutex::new(remembered));
        let changed = Arc::new(Notify::new());
        let writer = path.clone().map(|path| tokio::spawn(write_changes(path, memories.clone(), changed.clone())));
        Keeper { path, memories, changed, writer }
    }

    /// Takes over what this cluster's machine wants remembered, until the machine is gone.
    pub fn follow(&self, key: String, mut wanted: watch::Receiver<Memory>) {
        let (memories, changed) = (self.memories.clone(), self.changed.clone());
        tokio::spawn(async move {
            while wanted.changed().await.is_ok() {
                let memory = wanted.borrow_and_update().clone();
                memories.lock().insert(key.clone(), memory);
                changed.notify_one();
            }
        });
    }

    /// Writes what is not written yet.
    pub async fn finish(self) {
        if let Some(writer) = self.writer {
            writer.abort();
            let _ended = tokio::time::timeout(FINISH_TIMEOUT, writer).await;
        }
        if let Some(path) = self.path {
            let memories = self.memories.lock().clone();
            if !memories.is_empty() {
                write(&path, memories).await;
            }
        }
    }
}

async fn write_changes(path: PathBuf, memories: Arc<Mutex<Memories>>, changed: Arc<Notify>) {
    loop {
        changed.notified().await;
        tokio::time::sleep(GATHER).await;
        let now = memories.lock().clone();
        if !write(&path, now).await {
            tokio::time::sleep(RETRY_AFTER).await;
            changed.notify_one();
        }
    }
}

async fn write(path: &Path, memories: Memories) -> bool {
    let target = path.to_owned();
    let outcome = tokio::task::spawn_blocking(move || state_file::save(&target, &memories)).await;
    let error = match outcome {
        Ok(Ok(())) => return true,
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    tracing::error!(
        target: "pgvane::run", path = %path.display(), error,
        "the state file cannot be written; serving goes on, and a restart would not know the timeline mark"
    );
    false
}
