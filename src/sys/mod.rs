//! Every unsafe line, each behind a function that is safe to call, with why it is sound.

pub mod accept;
pub mod boottime;
pub mod packet;
pub mod readiness;
pub mod splice;
pub mod tcp;
