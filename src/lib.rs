//! pgvane: a client endpoint for highly available PostgreSQL.
//!
//! | room | what lives there |
//! |---|---|
//! | [`model`] | nouns: members, views, services, reasons. No IO, no clock |
//! | [`decide`] | pure machines: events and time in, effects out |
//! | [`config`] | the file as written, as meant, and what is wrong with it |
//! | [`dcs`] | etcd sessions and Patroni's key dialect |
//! | [`probe`] | one question to one member |
//! | [`proxy`] | the data plane: accept, hold, connect, relay, close |
//! | [`admin`] | status, metrics, health of the router itself |
//! | [`runtime`] | the clock, the driver loop, signals, the state file |
//! | [`cli`] | the subcommands |
//! | [`vip`] | virtual addresses: netlink, ARP, neighbour discovery |
//! | [`sys`] | every unsafe line |
//!
//! `ARCHITECTURE.md` beside this file tells why.

pub mod admin;
pub mod cli;
pub mod config;
pub mod dcs;
pub mod decide;
pub mod model;
pub mod probe;
pub mod proxy;
pub mod runtime;
pub mod sys;
pub mod vip;
