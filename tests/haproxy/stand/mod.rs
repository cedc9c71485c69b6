//! A real HAProxy and pgvane in front of members that do as they are told.
//!
//! | file | what it plays |
//! |---|---|
//! | `clients.rs` | who serves whom |
//! | `node.rs` | one member: a REST API that is told what to answer, and a PostgreSQL port |
//! | `haproxy.rs` | HAProxy 2.6 from Debian: its configuration, its log, its runtime socket |
//! | `pgvane.rs` | the binary: its configuration, its log, orders |
//! | `fronts.rs` | both as a write port whose configuration is read anew |
//! | `reloads.rs`, `deposed.rs`, `storm.rs` | what the tests assert and `cargo bench --bench haproxy` measures |

pub mod clients;
pub mod deposed;
pub mod fronts;
pub mod haproxy;
pub mod node;
pub mod pgvane;
pub mod reloads;
pub mod storm;

use std::net::SocketAddr;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::members::secs;

/// Longer than anything that is waited for may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Thousands of sessions have two sockets each in this process.
pub fn raise_descriptors() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("limits can be read");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("a soft limit may be raised");
}

/// Status and body of one request, or None when nobody answers.
pub async fn http(at: SocketAddr, method: &str, path: &str) -> Option<(u16, String)> {
    let ask = async {
        let mut stream = TcpStream::connect(at).await.ok()?;
        let request = format!("{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    };
    timeout(secs(10), ask).await.ok()?
}
