//! Where pgvane is different from HAProxy on purpose; every test shows both.

mod checks;
mod load;
mod roles;

use std::net::SocketAddr;

use crate::members::ports::Port;
use crate::stand::node::{Node, zero};

/// Quick checks, in HAProxy's words and in ours.
const FAST: &str = "inter 200ms fastinter 100ms downinter 200ms rise 2 fall 2 on-marked-down shutdown-sessions";
const FAST_YAML: &str = "inter: 200ms, fastinter: 100ms, downinter: 200ms, rise: 2, fall: 2, timeout: 1s";

/// Three members, and where their clients connect.
struct Place {
    nodes: Vec<Node>,
    port: Port,
}

impl Place {
    fn new() -> Place {
        Place { nodes: Node::three(&zero()), port: Port::reserve() }
    }

    fn at(&self) -> SocketAddr {
        self.port.address()
    }
}

/// One service that refuses at once whom nobody can serve, with these further keys.
fn service(name: &str, at: SocketAddr, keys: &str) -> String {
    format!("      {name}: {{ listen: \"{at}\", hold: off, balance: roundrobin, {keys} }}\n")
}
