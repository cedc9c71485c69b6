//! pgvane with `trust: rest` beside the HAProxy that it replaces.
//!
//! | file | what |
//! |---|---|
//! | `differential.rs` | random timelines: the same checks, transitions, targets and cut sessions |
//! | `copied.rs` | HAProxy does what is copied, by numbers written by hand |
//! | `deviations/` | where the two are different on purpose |
//! | `reloads.rs` | reloads, a failover after one, and everybody coming back |
//! | `script.rs`, `arithmetic.rs` | the timelines, and where their checks fall |
//! | `record.rs`, `compare.rs`, `lag.rs` | what both did, side by side |

#[allow(dead_code, reason = "other suites use the other half")]
mod members;

#[path = "sim/prng.rs"]
mod prng;

#[allow(dead_code, reason = "the benchmark uses the other half")]
#[path = "haproxy/stand/mod.rs"]
mod stand;

#[path = "haproxy/arithmetic.rs"]
mod arithmetic;
#[path = "haproxy/compare.rs"]
mod compare;
#[path = "haproxy/copied.rs"]
mod copied;
#[path = "haproxy/deviations/mod.rs"]
mod deviations;
#[path = "haproxy/differential.rs"]
mod differential;
#[path = "haproxy/lag.rs"]
mod lag;
#[path = "haproxy/record.rs"]
mod record;
#[path = "haproxy/reloads.rs"]
mod reloads;
#[path = "haproxy/script.rs"]
mod script;
