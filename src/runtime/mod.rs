//! What drives the pure half: the clock, the loop, signals, the state file.

pub mod clock;
