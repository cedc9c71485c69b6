//! The rules of `trust: rest`, one by one.
