//! `pgvane run`: from a checked configuration to a router that serves, and to its end.
//!
//! Decisions, DCS sessions and checks have a thread of their own, so that ten thousand busy sessions on the
//! data plane's threads cannot delay a leader change.

use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use tokio::runtime::{Builder, Runtime};

use crate::config::Config;
use crate::proxy::{Crew, Plane};

use super::data_threads::DataThreads;
use super::reload::Station;
use super::signals::{Signals, Wish};

/// The process before it has a configuration: from here on SIGHUP asks for a reload and ends nothing.
pub struct Process {
    control: Runtime,
    signals: Signals,
}

impl Process {
    pub fn new() -> Result<Process> {
        let control = Builder::new_current_thread().enable_all().build().context("cannot start the control thread")?;
        let signals = {
            let _entered = control.enter();
            Signals::new().context("cannot listen for signals")?
        };
        Ok(Process { control, signals })
    }

    /// Serves until SIGTERM or SIGINT; SIGHUP reads `path` again. Errors are what keeps it from starting.
    pub fn run(self, path: PathBuf, config: Config) -> Result<()> {
        let data = DataThreads::start().context("cannot start the data plane's threads")?;
        let outcome = self.control.block_on(serve(path, config, data.crew(), self.signals));
        data.stop();
        // A file on a disk that hangs must not keep the process.
        self.control.shutdown_background();
        outcome
    }
}

async fn serve(path: PathBuf, config: Config, crew: Crew, mut signals: Signals) -> Result<()> {
    let started = Station::start(path, config, crew).await;
    let mut station = started.map_err(|problems| anyhow!("{}", problems.join("\n")))?;
    let word = loop {
        match signals.next().await {
            Wish::End(word) => break word,
            Wish::Reload => tokio::select! {
                biased;
                () = station.reload() => {}
                word = signals.end() => break word,
            },
        }
    };
    end(&station, word, &mut signals).await;
    station.finish().await;
    Ok(())
}

async fn end(station: &Station, word: &str, signals: &mut Signals) {
    let shutdown = &station.config().shutdown;
    tracing::info!(target: "pgvane::run", signal = word, delay = ?shutdown.delay, "shutting down: /readyz says no from now on");
    station.lifecycle().stop();
    let mut stopping = pin!(stop(station.planes(), shutdown.delay, shutdown.drain));
    loop {
        tokio::select! {
            () = &mut stopping => return,
            wish = signals.next() => match wish {
                Wish::Reload => tracing::info!(target: "pgvane::reload", "SIGHUP is ignored: shutting down"),
                Wish::End(word) => {
                    tracing::warn!(target: "pgvane::run", signal = word, "told twice: not draining any further");
                    return;
                }
            },
        }
    }
}

/// First readiness, then the listeners, then the sessions.
async fn stop(planes: Vec<Arc<Plane>>, delay: Duration, drain: Duration) {
    tokio::time::sleep(delay).await;
    planes.iter().for_each(|plane| plane.stop_accepting());
    let draining: Vec<_> =
        planes.into_iter().map(|plane| tokio::spawn(async move { plane.drain(drain).await })).collect();
    let mut cut = 0;
    for task in draining {
        cut += task.await.unwrap_or(0);
    }
    tracing::info!(target: "pgvane::run", cut, "drained");
}
