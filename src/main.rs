//! Parses arguments, picks a subcommand, turns its result into an exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    pgvane::cli::main()
}
