//! Every unsafe line, each behind a function that is safe to call.

pub mod local_time;
