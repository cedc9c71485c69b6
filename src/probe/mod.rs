//! One question to one member: its REST API, or the port of its PostgreSQL.
//!
//! A probe never waits longer than its limit, and when this process itself was kept from running it
//! says so instead of blaming the member.

pub mod check;
mod http;
pub mod page;
pub mod pgsql;
pub mod rest;
pub mod tls;
mod watchful;

#[cfg(test)]
mod tests;
