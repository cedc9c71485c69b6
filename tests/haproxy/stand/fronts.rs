//! HAProxy below its master and pgvane, each with the same write port in front of three members of its
//! own, both read anew while clients come.

use std::net::SocketAddr;

use tokio::net::TcpStream;

use super::PATIENCE;
use super::haproxy::{HaProxy, Listen};
use super::node::{Node, PlayedRole, zero};
use super::pgvane::{Pgvane, cluster};
use crate::members::ports::Port;
use crate::members::until;

/// How members are checked and limited, in the words of both.
#[derive(Debug, Clone, Copy)]
pub struct Words {
    pub haproxy: &'static str,
    pub pgvane: &'static str,
}

/// What Pigsty 4 writes with `pg_rto: norm`.
pub const PIGSTY: Words = Words {
    haproxy: "inter 2s fastinter 1s downinter 2s rise 3 fall 3 on-marked-down shutdown-sessions slowstart 30s \
              maxconn 3000 maxqueue 128 weight 100",
    pgvane: "check: { inter: 2s, fastinter: 1s, downinter: 2s, rise: 3, fall: 3, timeout: 3s }, maxconn: 3000, \
             queue: { timeout: 3s, max: 128 }",
};

/// The same limits, asked ten times as often.
pub const QUICK: Words = Words {
    haproxy: "inter 200ms fastinter 100ms downinter 200ms rise 3 fall 3 on-marked-down shutdown-sessions slowstart 30s \
              maxconn 3000 maxqueue 128 weight 100",
    pgvane: "check: { inter: 200ms, fastinter: 100ms, downinter: 200ms, rise: 3, fall: 3, timeout: 3s }, maxconn: 3000, \
             queue: { timeout: 3s, max: 128 }",
};

#[derive(Debug)]
enum Program {
    HaProxy(HaProxy),
    Pgvane(Pgvane),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    HaProxy,
    Pgvane,
}

/// One of the two, its members and its ports.
#[derive(Debug)]
pub struct Front {
    pub nodes: Vec<Node>,
    port: Port,
    /// A port that only every second configuration has.
    extra: Port,
    words: Words,
    program: Program,
    has_extra: bool,
}

impl Front {
    /// `m1` leads on timeline 5, and clients reach it.
    pub async fn start(kind: Kind, words: Words) -> Front {
        let nodes = Node::three(&zero());
        nodes[0].play(PlayedRole::Primary, 5);
        nodes[1..].iter().for_each(|node| node.play(PlayedRole::Replica, 5));
        let (port, extra) = (Port::reserve(), Port::reserve());
        let program = match kind {
            Kind::HaProxy => {
                let text = sections(&nodes, &[("primary", port.address())], words);
                Program::HaProxy(HaProxy::start_master("3s", &text).await)
            }
            Kind::Pgvane => {
                Program::Pgvane(Pgvane::start(&services(&nodes, &[("primary", port.address())], words)).await)
            }
        };
        let front = Front { nodes, port, extra, words, program, has_extra: false };
        front.until_settled("m1").await;
        front
    }

    pub fn at(&self) -> SocketAddr {
        self.port.address()
    }

    /// Has another configuration read, and waits until that is the one that counts.
    pub async fn reload(&mut self) {
        self.has_extra = !self.has_extra;
        let mut ports = vec![("primary", self.port.address())];
        ports.extend(self.has_extra.then(|| ("extra", self.extra.address())));
        match &self.program {
            Program::HaProxy(haproxy) => haproxy.reload("3s", &sections(&self.nodes, &ports, self.words)),
            Program::Pgvane(pgvane) => pgvane.reload(&services(&self.nodes, &ports, self.words)),
        }
        let (at, wanted) = (self.extra.address(), self.has_extra);
        let is_read = || async move { TcpStream::connect(at).await.is_ok() == wanted };
        until("the new configuration counts", PATIENCE, is_read).await;
    }

    /// Every member was checked by whoever serves now: HAProxy counts none but `leader` as up.
    pub async fn until_settled(&self, leader: &str) {
        match &self.program {
            Program::HaProxy(haproxy) => {
                until("HAProxy has checked all members", PATIENCE, || async {
                    for node in &self.nodes {
                        let is_up = haproxy.status("primary", &node.name).await.starts_with("UP");
                        if is_up != (node.name == leader) {
                            return false;
                        }
                    }
                    true
                })
                .await;
            }
            Program::Pgvane(_) => {
                until("clients are served", PATIENCE, || async {
                    super::clients::visit(self.at(), PATIENCE).await.is_ok_and(|(who, _)| who == leader)
                })
                .await;
            }
        }
    }

    /// The lead goes from `m1` to `m2`.
    pub fn fail_over(&self) {
        self.nodes[0].play(PlayedRole::Replica, 6);
        self.nodes[2].play(PlayedRole::Replica, 6);
        self.nodes[1].play(PlayedRole::Primary, 6);
    }
}

fn sections(nodes: &[Node], ports: &[(&str, SocketAddr)], words: Words) -> String {
    let listen = |(name, at): &(&str, SocketAddr)| {
        Listen { path: "/primary", lines: "maxconn 5000", ..Listen::new(name, *at, nodes, words.haproxy) }.text()
    };
    ports.iter().map(listen).collect()
}

fn services(nodes: &[Node], ports: &[(&str, SocketAddr)], words: Words) -> String {
    let service = |(name, at): &(&str, SocketAddr)| {
        format!("      {name}: {{ listen: \"{at}\", role: primary, balance: roundrobin, {} }}\n", words.pgvane)
    };
    cluster("c", nodes, &ports.iter().map(service).collect::<String>())
}
