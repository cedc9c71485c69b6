//! A virtual world around real address machines: hosts with a kernel each, one segment, one DCS, and time
//! that only moves when the world says so. One seed, one history.
//!
//! `world` moves time and carries things between the others · `host` is a process with its kernel · `dcs` is
//! where the leader key and the mark are · `shell` carries out what a machine decides · `patroni` moves the key by
//! itself · `checks` says what must never be seen · `faults` is what goes wrong · `script` reads scenarios.
#![allow(dead_code, reason = "scenarios and the random simulation each use a part of the world")]

pub mod checks;
pub mod dcs;
pub mod faults;
pub mod host;
pub mod patroni;
#[path = "../sim/prng.rs"]
pub mod prng;
pub mod script;
pub mod shell;
pub mod world;

/// Virtual time: microseconds since the world began.
pub type Micros = u64;
pub const MS: Micros = 1_000;
pub const SEC: Micros = 1_000_000;
