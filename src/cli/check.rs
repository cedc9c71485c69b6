//! `pgvane check`: every problem of a configuration file, or what it would run.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use crate::config;

/// The exit code for a bad configuration (EX_CONFIG of sysexits.h).
pub const BAD_CONFIGURATION: u8 = 78;

/// Prints what would run to stdout and gives 0, or every problem to stderr and gives 78.
pub fn check(path: &Path) -> ExitCode {
    // Nobody is left to tell when stdout or stderr is closed.
    match config::load(path) {
        Ok(config) => {
            let _ = write!(io::stdout(), "{}: good: {}", path.display(), config.summary());
            ExitCode::SUCCESS
        }
        Err(problems) => {
            let _ = writeln!(io::stderr(), "{problems}");
            ExitCode::from(BAD_CONFIGURATION)
        }
    }
}
