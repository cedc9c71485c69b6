//! The router binary, end to end, in front of simulated members behind a real etcd.

#[allow(dead_code, reason = "the benchmark of leader moves stands on the same stage")]
mod members;

#[path = "router/disk.rs"]
mod disk;
#[path = "router/outages.rs"]
mod outages;
#[path = "router/process.rs"]
mod process;
#[path = "router/readers.rs"]
mod readers;
#[path = "router/reload.rs"]
mod reload;
#[path = "router/reload_dcs.rs"]
mod reload_dcs;
#[path = "router/replaced.rs"]
mod replaced;
#[path = "router/said.rs"]
mod said;
#[path = "router/writes.rs"]
mod writes;
#[path = "router/zombies.rs"]
mod zombies;
