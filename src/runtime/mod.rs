//! What drives the pure half: the clock, the loop, signals, the state file.

pub mod clock;
pub mod log;
pub mod state_file;
