//! Keeps the state file up to date with what every cluster's machine wants remembered.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, JoinHandle};

use crate::decide::Memory;

use super::state_file::{self, Memories};

/// Changes within this time are one write.
const GATHER: Duration = Duration::from_millis(200);
/// After a failed write.
const RETRY_AFTER: Duration = Duration::from_secs(10);
/// For the last write at shutdown.
const FINISH_TIMEOUT: Duration = Duration::from_secs(2);

/// Collects and writes. Without a path it only collects.
pub struct Keeper {
    shared: Arc<Shared>,
    writer: JoinHandle<()>,
}

struct Shared {
    path: Mutex<Option<PathBuf>>,
    memories: Mutex<Memories>,
    changed: Notify,
}

/// Takes over what one machine wants remembered, until the machine or this is gone.
pub struct Follower {
    pub key: String,
    wanted: watch::Receiver<Memory>,
    task: AbortHandle,
}

impl Follower {
    pub fn stop(&self) {
        self.task.abort();
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Keeper {
    pub fn start(path: Option<PathBuf>, remembered: Memories) -> Keeper {
        let (path, memories) = (Mutex::new(path), Mutex::new(remembered));
        let shared = Arc::new(Shared { path, memories, changed: Notify::new() });
        let writer = tokio::spawn(write_changes(shared.clone()));
        Keeper { shared, writer }
    }

    /// What is remembered of a cluster now.
    pub fn recall(&self, key: &str) -> Memory {
        self.shared.memories.lock().get(key).cloned().unwrap_or_default()
    }

    pub fn follow(&self, key: String, wanted: watch::Receiver<Memory>) -> Follower {
        let (shared, name, mut news) = (self.shared.clone(), key.clone(), wanted.clone());
        let follow = async move {
            while news.changed().await.is_ok() {
                let memory = news.borrow_and_update().clone();
                shared.memories.lock().insert(name.clone(), memory);
                shared.changed.notify_one();
            }
        };
        Follower { key, wanted, task: tokio::spawn(follow).abort_handle() }
    }

    /// The cluster has another name in the state file from now on. Two clusters may change names with
    /// each other, so all of them are renamed at once.
    pub fn rename(&self, renamed: Vec<(Follower, String)>) -> Vec<Follower> {
        {
            let mut memories = self.shared.memories.lock();
            for (follower, _) in &renamed {
                follower.stop();
                memories.remove(&follower.key);
            }
            for (follower, key) in &renamed {
                memories.insert(key.clone(), follower.wanted.borrow().clone());
            }
        }
        self.shared.changed.notify_one();
        renamed.into_iter().map(|(follower, key)| self.follow(key, follower.wanted.clone())).collect()
    }

    /// Writes there from now on. `found` is what the file there knew; about clusters known here it is
    /// not asked.
    pub fn move_to(&self, path: Option<PathBuf>, found: Memories) {
        {
            let mut memories = self.shared.memories.lock();
            for (key, memory) in found {
                memories.entry(key).or_insert(memory);
            }
        }
        *self.shared.path.lock() = path;
        self.shared.changed.notify_one();
    }

    /// Writes what is not written yet.
    pub async fn finish(self) {
        self.writer.abort();
        let _ended = tokio::time::timeout(FINISH_TIMEOUT, self.writer).await;
        self.shared.write().await;
    }
}

async fn write_changes(shared: Arc<Shared>) {
    loop {
        shared.changed.notified().await;
        tokio::time::sleep(GATHER).await;
        if !shared.write().await {
            tokio::time::sleep(RETRY_AFTER).await;
            shared.changed.notify_one();
        }
    }
}

impl Shared {
    /// False when it could not be written.
    async fn write(&self) -> bool {
        let path = self.path.lock().clone();
        let memories = self.memories.lock().clone();
        match path {
            Some(path) if !memories.is_empty() => write(&path, memories).await,
            _ => true,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Timeline;

    fn memory(timeline: u32) -> Memory {
        Memory { marks: [("7300".to_owned(), Timeline(timeline))].into(), ..Memory::default() }
    }

    #[tokio::test]
    async fn a_cluster_keeps_its_memory_under_its_new_name() {
        let keeper = Keeper::start(None, Memories::from([("a".to_owned(), memory(1)), ("b".to_owned(), memory(2))]));
        let follow = |key: &str| {
            let (tell, wanted) = watch::channel(keeper.recall(key));
            (tell, keeper.follow(key.to_owned(), wanted))
        };
        let ((tell, a), (_tell, b)) = (follow("a"), follow("b"));
        let renamed = keeper.rename(vec![(a, "b".to_owned()), (b, "c".to_owned())]);
        assert_eq!(
            (keeper.recall("a"), keeper.recall("b"), keeper.recall("c")),
            (Memory::default(), memory(1), memory(2))
        );
        tell.send_replace(memory(3));
        while keeper.recall("b") != memory(3) {
            tokio::task::yield_now().await;
        }
        drop(renamed);
    }

    #[tokio::test]
    async fn a_file_at_another_path_is_written_with_all_that_is_known() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        let keeper = Keeper::start(None, Memories::from([("a".to_owned(), memory(5))]));
        keeper.move_to(Some(path.clone()), Memories::from([("a".to_owned(), memory(1)), ("b".to_owned(), memory(2))]));
        keeper.finish().await;
        let (known, _) = state_file::load(&path);
        assert_eq!((&known["a"], &known["b"]), (&memory(5), &memory(2)));
    }
}
