//! PostgreSQL's protocol, as far as a relay has to know it: pure functions and small machines over
//! bytes, with no IO, no clock and nothing but the standard library, so that a fuzzer can build them
//! alone.

pub mod conversation;
pub mod framing;
mod notices;
mod owed;
pub mod sight;
mod spelling;
pub mod startup;
mod statements;
pub mod words;
