//! The admin endpoint over a real listener: orders and their refusals, one member's status, and the
//! metrics beside those of the real HAProxy; bulk data; virtual addresses.

#[path = "admin/bed.rs"]
mod bed;
#[path = "admin/haproxy.rs"]
mod haproxy;
#[path = "admin/orders.rs"]
mod orders;
#[path = "admin/splice.rs"]
mod splice;
#[path = "admin/vips.rs"]
mod vips;
