//! One simulated member: its facts, its REST API and its PostgreSQL port.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::ports::Port;
use super::postgres::{self, Journal};
use super::{rest, secs, until};

/// How the REST API treats a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    Answers,
    Refused,
    /// Accepts and never answers, as Patroni does when its five workers are busy.
    Hung,
    Slow(Duration),
}

/// How the PostgreSQL port treats a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Postgres {
    Answers,
    Refused,
    Hung,
    /// `FATAL 57P03 the database system is starting up`.
    Starting,
    Resets,
}

/// What is true of a member. Its ports answer accordingly from one moment to the next.
#[derive(Debug, Clone)]
pub struct Facts {
    pub in_recovery: bool,
    /// This Patroni believes that it holds the leader key.
    pub claims_lead: bool,
    /// So many answers say 503 although it claims the lead.
    pub blips: u32,
    pub timeline: u32,
    pub system_id: String,
    pub lsn: u64,
    pub failsafe_active: bool,
    pub tags: Value,
    pub rest: Rest,
    pub postgres: Postgres,
    /// Sessions of an earlier life are gone.
    pub life: u64,
}

#[derive(Debug)]
pub struct Member {
    pub name: String,
    pub journal: Arc<Journal>,
    facts: watch::Sender<Facts>,
    rest_port: u16,
    postgres_port: u16,
    _servers: JoinSet<()>,
}

impl Member {
    /// A streaming replica on timeline 1 until told otherwise.
    pub fn start(name: &str, scope: &str, number: u32) -> Member {
        let postgres_port = Port::reserve();
        let mut member = Member::in_front_of(name, scope, number, postgres_port.number);
        let noted = member.journal.clone();
        let attend = move |stream, facts| postgres::attend(stream, facts, noted.clone());
        let refuses = |facts: &Facts| facts.postgres == Postgres::Refused;
        member._servers.spawn(serve(postgres_port, member.facts.subscribe(), refuses, attend));
        member
    }

    /// The same with a PostgreSQL that somebody else runs at this port of loopback: only the REST API is played.
    pub fn in_front_of(name: &str, scope: &str, number: u32, postgres_port: u16) -> Member {
        let reserved = Port::reserve();
        let (facts, seen) = watch::channel(Facts {
            in_recovery: true,
            claims_lead: false,
            blips: 0,
            timeline: 1,
            system_id: "7302185120354763219".to_owned(),
            lsn: 0x0500_0060,
            failsafe_active: false,
            tags: json!({}),
            rest: Rest::Answers,
            postgres: Postgres::Answers,
            life: 0,
        });
        let rest_port = reserved.number;
        let mut servers = JoinSet::new();
        let blips = facts.clone();
        let (who, of) = (name.to_owned(), scope.to_owned());
        let answer = move |stream, facts| rest::answer(stream, facts, blips.clone(), who.clone(), of.clone());
        servers.spawn(serve(reserved, seen, |facts| facts.rest == Rest::Refused, answer));
        let journal = Arc::new(Journal::new(name, number));
        Member { name: name.to_owned(), journal, facts, rest_port, postgres_port, _servers: servers }
    }

    pub fn set(&self, change: impl FnOnce(&mut Facts)) {
        self.facts.send_modify(change);
    }

    /// Its PostgreSQL's listener closes a moment after it was told to.
    pub async fn until_refused(&self) {
        let at = (Ipv4Addr::LOCALHOST, self.postgres_port);
        until("the port refuses", secs(10), || async move { TcpStream::connect(at).await.is_err() }).await;
    }

    pub fn timeline(&self) -> u32 {
        self.facts.borrow().timeline
    }

    pub fn blips_left(&self) -> u32 {
        self.facts.borrow().blips
    }

    /// Becomes writable as Patroni's promotion ends: out of recovery on the next timeline.
    pub fn promote(&self, timeline: u32) -> Instant {
        self.set(|facts| {
            facts.in_recovery = false;
            facts.claims_lead = true;
            facts.timeline = timeline;
        });
        pgvane::runtime::clock::now()
    }

    /// A fast stop and a start as a replica: clients are cut.
    pub fn demote(&self) {
        self.set(|facts| {
            facts.in_recovery = true;
            facts.claims_lead = false;
            facts.life += 1;
        });
    }

    /// The value of its key, as Patroni 4.1 writes it.
    pub fn key(&self) -> Value {
        let facts = self.facts.borrow();
        let mut key = json!({
            "conn_url": format!("postgres://127.0.0.1:{}/postgres", self.postgres_port),
            "api_url": format!("http://127.0.0.1:{}/patroni", self.rest_port),
            "state": "running",
            "role": if facts.in_recovery { "replica" } else { "primary" },
            "version": "4.1.5",
            "xlog_location": facts.lsn,
            "timeline": facts.timeline,
        });
        if facts.in_recovery {
            key["replication_state"] = json!("streaming");
            key["receive_lsn"] = json!(facts.lsn);
            key["replay_lsn"] = json!(facts.lsn);
        }
        if facts.tags.as_object().is_some_and(|tags| !tags.is_empty()) {
            key["tags"] = facts.tags.clone();
        }
        key
    }

    /// Where its PostgreSQL listens.
    pub fn postgres_at(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.postgres_port))
    }

    pub fn api(&self) -> String {
        format!("http://127.0.0.1:{}/patroni", self.rest_port)
    }
}

/// Listens while the facts do not say "refused", and hands each connection to `attend`.
async fn serve<F: Future<Output = ()> + Send + 'static>(
    port: Port,
    mut facts: watch::Receiver<Facts>,
    refuses: fn(&Facts) -> bool,
    attend: impl Fn(TcpStream, watch::Receiver<Facts>) -> F,
) {
    let mut connections = JoinSet::new();
    while facts.wait_for(|facts| !refuses(facts)).await.is_ok() {
        let listener = port.listen();
        let mut closing = facts.clone();
        loop {
            tokio::select! {
                accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                    connections.spawn(attend(stream, facts.clone()));
                },
                _ = closing.wait_for(refuses) => break,
                Some(_ended) = connections.join_next() => {}
            }
        }
    }
}
