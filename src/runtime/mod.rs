//! What drives the pure half: the clock, the loop, signals, reloads, the state file.

pub mod clock;
pub mod clusters;
mod data_threads;
pub mod dcs_sessions;
pub mod diff;
pub mod driver;
pub mod endpoints;
pub mod log;
pub mod material;
pub mod memories;
pub mod prepare;
pub mod reload;
pub mod run;
pub mod signals;
pub mod state_file;
pub mod vip_alone;
pub mod vip_marks;
pub mod vips;
