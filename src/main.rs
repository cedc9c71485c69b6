//! Parses arguments, picks a subcommand, turns its result into an exit code.

use std::process::ExitCode;

/// A session is a few allocations of some hundred bytes, half of them aligned to 128: glibc's allocator leaves holes
/// between those, a quarter of the router's memory.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    pgvane::cli::main()
}
