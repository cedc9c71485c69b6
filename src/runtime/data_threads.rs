//! The data plane's threads: one per core, each with a runtime of its own.

use std::io;
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::proxy::{Crew, timers};

/// Beyond that a router is not short of threads.
const THREADS_MAX: usize = 64;

/// Running until told to stop. The last one is followed by the one that keeps their timers.
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
        let (timers, keeper) = keep_timers()?;
        for number in 0..count {
            let runtime = Builder::new_current_thread().enable_io().build()?;
            handles.push(runtime.handle().clone());
            let (until, timers, keeper) = (stop.clone(), timers.clone(), keeper.clone());
            let serve = move || {
                timers::are_kept_by(timers);
                runtime.block_on(until.cancelled());
                drop(runtime);
                drop(keeper);
            };
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

/// A thread that keeps timers for others, until the last of the second values is dropped.
fn keep_timers() -> io::Result<(Handle, mpsc::Sender<()>)> {
    let runtime = Builder::new_current_thread().enable_time().build()?;
    let (handle, (keeper, mut others)) = (runtime.handle().clone(), mpsc::channel::<()>(1));
    let keep = move || {
        let _all_have_gone = runtime.block_on(others.recv());
    };
    thread::Builder::new().name("pgvane-timers".to_owned()).spawn(keep)?;
    Ok((handle, keeper))
}
