//! Hosts that hold a virtual address in turn, seen from outside by those who do not trust them.
//!
//! | file | what it is |
//! |---|---|
//! | `bed.rs` | all of it together: three holders' hosts, etcd's and a client's on one bridge |
//! | `holder.rs` | the program under test: Debian's vip-manager, `pgvane vip` or `pgvane run` |
//! | `dcs.rs` | a real etcd on a host of its own, and the leader key in it |
//! | `patroni.rs` | the REST API of each host's Patroni |
//! | `addresses.rs` | which host had which address, in the kernel's own order |
//! | `prober.rs` | which host answers a client, each millisecond |
//! | `frames.rs`, `decode.rs` | what was said on the wire |
//! | `sessions.rs` | clients that come in by the address, and servers behind it |
//! | `row.rs` | what was measured in one situation, and the table of it |
//! | `rows/` | the situations |

#![allow(dead_code, reason = "the suite and the bench each use their part")]

pub mod addresses;
pub mod bed;
pub mod dcs;
pub mod decode;
pub mod frames;
pub mod holder;
pub mod patroni;
pub mod prober;
pub mod row;
pub mod rows;
pub mod sessions;
