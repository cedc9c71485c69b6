//! The data plane's threads: one per core, each with a runtime of its own.

use std::io;
use std::thread;

use tokio::runtime::Builder;
use tokio_util::sync::CancellationToken;

use crate::proxy::Crew;

/// Beyond that a router is not short of threads.
const THREADS_MAX: usize = 64;

/// Running until told to stop.
pub(super) struct DataThreads {
    crew: Crew,
    stop: CancellationToken,
}

impl DataThreads {
    /// Fails where the machine has no room for a thread or its descriptors.
    pub fn start() -> io::Result<DataThreads> {
        let count = thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
        let (mut handles, stop) = (Vec::new(), CancellationToken::new());
        let on_error = stop.clone().drop_guard();
        for number in 0..count {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            handles.push(runtime.handle().clone());
            let until = stop.clone();
            let serve = move || runtime.block_on(until.cancelled());
            thread::Builder::new().name(format!("pgvane-data-{number}")).spawn(serve)?;
        }
        on_error.disarm();
        let crew = Crew::new(handles).ok_or(io::ErrorKind::Unsupported)?;
        Ok(DataThreads { crew, stop })
    }

    pub fn crew(&self) -> Crew {
        self.crew.clone()
    }

    /// Ends what is still being served, and waits for nobody.
    pub fn stop(self) {
        self.stop.cancel();
    }
}
