//! Every unsafe line, each with why it is sound.

pub mod readiness;
