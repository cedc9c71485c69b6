//! `pgvane run`: the router until it is told to end.

use std::path::Path;
use std::process::ExitCode;

use crate::config;
use crate::runtime::log::{self, LogFormat};
use crate::runtime::run::Process;

use super::check::BAD_CONFIGURATION;

/// Serves; gives 78 for a bad configuration, before anything has begun.
pub fn run(path: &Path, format: LogFormat) -> ExitCode {
    // Before anything that may take its time: an impatient `systemctl reload` must not be the end.
    let process = match Process::new() {
        Ok(process) => process,
        Err(error) => return super::finish(Err(error)),
    };
    let config = match config::load(path) {
        Ok(config) => config,
        Err(problems) => {
            eprintln!("{problems}");
            return ExitCode::from(BAD_CONFIGURATION);
        }
    };
    log::start(format);
    let outcome = process.run(path.to_owned(), config);
    log::finish();
    super::finish(outcome)
}
