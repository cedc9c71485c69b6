//! Pure machines. Time comes in as an argument, effects go out as values.

pub mod balance;
pub mod event;
pub mod routes;

pub use event::{Effect, Event, Memory, RememberedMember, Suspicion, Transition, ViewSource};
pub use routes::{Pick, Routes, ServiceRoutes, Standing, Target, TargetState};
