//! What drives the pure half: the clock, the loop, signals, the state file.

pub mod clock;
pub mod driver;
pub mod log;
pub mod memories;
pub mod run;
pub mod state_file;
