//! Virtual addresses on this host: netlink puts and removes them, frames announce and probe them.
//!
//! [`holder`] carries out what [`crate::decide::vip`] decides. It reaches sessions and the DCS through the
//! two traits here, which the runtime gives it.

pub mod arp;
pub mod capabilities;
mod complaints;
pub mod examine;
pub mod holder;
pub mod ndp;
pub mod netlink;
pub mod packet;
pub mod said;
pub mod sockets;

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;

use crate::model::Reason;

pub type Answer<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Those who come in by an address.
pub trait Tenants: Send + Sync {
    /// Clients may come in by `ip`, which is the case of every address that was never closed.
    fn welcome(&self, ip: IpAddr);

    /// From this call on nobody new is served on `ip`; whoever waits there is told, sessions there are fenced.
    /// Completes when their sockets are closed, in bounded time; tells how many had to be reset.
    fn send_away(&self, ip: IpAddr, reason: Reason) -> Answer<usize>;
}

/// Nobody: an address that leads to another program.
pub struct NoTenants;

impl Tenants for NoTenants {
    fn welcome(&self, _ip: IpAddr) {}

    fn send_away(&self, _ip: IpAddr, _reason: Reason) -> Answer<usize> {
        Box::pin(std::future::ready(0))
    }
}

/// The hand-over keys of one cluster. Each call is bounded in time.
pub trait Marks: Send + Sync {
    /// Writes the key of `ip`: gives its revision. `take`: only where there is none, bound to a lease of
    /// `ttl` in the DCS, which is kept alive until [`Marks::delete`] or the end of this process.
    fn write(&self, ip: IpAddr, take: bool) -> Answer<Result<i64, String>>;

    /// Deletes it if it still is what was written at `mod_revision`.
    fn delete(&self, ip: IpAddr, mod_revision: i64) -> Answer<Result<(), String>>;
}

/// No right to write, or no DCS.
pub struct NoMarks;

impl Marks for NoMarks {
    fn write(&self, _ip: IpAddr, _take: bool) -> Answer<Result<i64, String>> {
        Box::pin(std::future::ready(Err("there is nowhere to write to".into())))
    }

    fn delete(&self, _ip: IpAddr, _mod_revision: i64) -> Answer<Result<(), String>> {
        Box::pin(std::future::ready(Ok(())))
    }
}
