//! The data plane over real sockets on loopback.

#[path = "proxy/bed.rs"]
mod bed;
#[path = "proxy/close.rs"]
mod close;
#[path = "proxy/hold.rs"]
mod hold;
#[path = "proxy/queue.rs"]
mod queue;
#[path = "proxy/startup.rs"]
mod startup;
