//! Routing: the table as a function of facts, for every role, filter and order, by both trusts; and the
//! choice for one client.

#[path = "routing/bed.rs"]
mod bed;
#[path = "routing/checked.rs"]
mod checked;
#[path = "routing/orders.rs"]
mod orders;
#[path = "routing/properties.rs"]
mod properties;
#[path = "routing/roles.rs"]
mod roles;
#[path = "routing/services.rs"]
mod services;
#[path = "routing/world.rs"]
mod world;
