//! The REST API of each host's Patroni: what it answers is said by the situation.

use std::collections::BTreeMap;
use std::net::TcpListener as StdListener;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::namespaces::Network;

pub const SYSTEM_ID: &str = "7302185120354763219";
const PORT: u16 = 8008;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    Primary,
    Replica,
    Refused,
    /// Accepts, and never answers.
    Hung,
}

#[derive(Debug)]
pub struct Patronis {
    manners: BTreeMap<String, watch::Sender<Rest>>,
    /// Of PostgreSQL's history: each promotion begins a new one.
    timeline: watch::Sender<u32>,
    _servers: JoinSet<()>,
}

impl Patronis {
    pub fn start(network: &Arc<Network>, hosts: &[&str]) -> Patronis {
        let (timeline, _) = watch::channel(5);
        let mut servers = JoinSet::new();
        let mut manners = BTreeMap::new();
        for host in hosts {
            let (manner, seen) = watch::channel(Rest::Replica);
            servers.spawn(serve(network.clone(), (*host).to_owned(), seen, timeline.subscribe()));
            manners.insert((*host).to_owned(), manner);
        }
        Patronis { manners, timeline, _servers: servers }
    }

    pub fn set(&self, host: &str, manner: Rest) {
        self.manners[host].send_replace(manner);
    }

    /// It is promoted, and every other that answers is a replica.
    pub fn promote(&self, host: &str) {
        self.timeline.send_modify(|timeline| *timeline += 1);
        for (name, manner) in &self.manners {
            let now = *manner.borrow();
            if name == host {
                manner.send_replace(Rest::Primary);
            } else if now == Rest::Primary {
                manner.send_replace(Rest::Replica);
            }
        }
    }

    pub fn all_replicas(&self) {
        for manner in self.manners.values() {
            manner.send_replace(Rest::Replica);
        }
    }
}

/// Listens while it is not to refuse.
async fn serve(network: Arc<Network>, host: String, mut manner: watch::Receiver<Rest>, timeline: watch::Receiver<u32>) {
    while manner.wait_for(|manner| *manner != Rest::Refused).await.is_ok() {
        let listener = network.inside(&host, || StdListener::bind(("0.0.0.0", PORT))).expect("a port of our own host");
        listener.set_nonblocking(true).expect("a non-blocking socket");
        let listener = TcpListener::from_std(listener).expect("a listener");
        let mut closing = manner.clone();
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                    connections.spawn(answer(stream, host.clone(), manner.clone(), *timeline.borrow()));
                },
                _ = closing.wait_for(|manner| *manner == Rest::Refused) => break,
                Some(_ended) = connections.join_next() => {}
            }
        }
    }
}

async fn answer(mut stream: TcpStream, host: String, manner: watch::Receiver<Rest>, timeline: u32) {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read_buf(&mut request).await {
            Ok(1..) => {}
            _ => return,
        }
    }
    let manner = *manner.borrow();
    if manner == Rest::Hung {
        return std::future::pending().await;
    }
    let path = String::from_utf8_lossy(&request).split(' ').nth(1).unwrap_or_default().to_owned();
    let is_primary = manner == Rest::Primary;
    let is_right = match path.trim_matches('/') {
        "" | "primary" | "master" | "leader" | "read-write" => is_primary,
        "replica" => !is_primary,
        _ => true,
    };
    let status = if is_right { "200 OK" } else { "503 Service Unavailable" };
    let body = body(&host, is_primary, timeline);
    let text = format!("HTTP/1.0 {status}\r\nContent-Type: application/json\r\n\r\n{body}");
    // Whoever asked may have gone.
    let _ = stream.write_all(text.as_bytes()).await;
}

fn body(host: &str, is_primary: bool, timeline: u32) -> Value {
    let lsn = 83_886_176;
    let mut body = json!({
        "state": "running",
        "role": if is_primary { "primary" } else { "replica" },
        "server_version": 150_008,
        "xlog": { "location": lsn },
        "timeline": timeline,
        "database_system_identifier": SYSTEM_ID,
        "patroni": { "version": "4.1.5", "scope": super::dcs::SCOPE, "name": host },
    });
    if !is_primary {
        body["xlog"] = json!({ "received_location": lsn, "replayed_location": lsn, "paused": false });
        body["replication_state"] = json!("streaming");
    }
    body
}
