//! Pure machines. Time comes in as an argument, effects go out as values.

pub mod balance;
mod checking;
pub mod checks;
mod closing;
mod draining;
pub mod event;
pub mod health;
mod lag;
pub mod lead;
mod orders;
pub mod rest;
pub mod router;
pub mod routes;
mod select;
mod settle;
pub mod status;
pub mod table;
pub mod track;
pub mod view;
pub mod vip;
mod vips;
pub mod weight;

pub use event::{Effect, Event, Memory, Orders, RememberedMember, Report, Suspicion, Transition, ViewSource};
pub use router::Router;
pub use routes::{Caller, Pick, Routes, ServiceRoutes, Standing, Target, TargetState};
pub use status::{CheckSnapshot, DcsState, ServiceSnapshot, Snapshot, TargetSnapshot};
