//! Cancels of real queries over three replicas and two routers: each ends its own query and nobody else's.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::time::{Duration, Instant};

use pgvane::cli::demo::cluster::Cluster;
use pgvane::cli::demo::member::{SUPERUSER, client_settings};
use pgvane::model::HostPort;
use pgvane::runtime::clock;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use tokio_postgres::{AsyncMessage, CancelToken, Connection, NoTls, Socket, tls::NoTlsStream};

use crate::kit::router::{Router, RouterOptions};
use crate::kit::tally::millis;

const CANCELS: usize = 100;
/// A notice reaches the client at once, so the query that it comes from is running.
const SLEEP: &str = "DO $$ BEGIN RAISE NOTICE '%', inet_server_port(); PERFORM pg_sleep(60); END $$";
/// Half of the sleep.
const CANCELLED_MAX: Duration = Duration::from_secs(30);

/// A session whose query sleeps.
struct Sleeper {
    token: CancelToken,
    /// The port of the PostgreSQL that it sleeps at.
    server: String,
    /// Its SQLSTATE, and when it came.
    end: JoinHandle<(Option<SqlState>, Instant)>,
}

impl Sleeper {
    async fn start(at: &HostPort) -> Sleeper {
        let (client, connection) = client_settings(at, SUPERUSER).connect(NoTls).await.unwrap();
        let (notices, mut heard) = mpsc::unbounded_channel();
        tokio::spawn(hear(connection, notices));
        let token = client.cancel_token();
        let end = tokio::spawn(async move {
            let error = client.batch_execute(SLEEP).await.expect_err("it slept to the end");
            (error.code().cloned(), clock::now())
        });
        let server = timeout(CANCELLED_MAX, heard.recv()).await.unwrap().expect("the query did not begin");
        Sleeper { token, server, end }
    }

    /// Sends a cancel request, waits until the other side closes, and returns how long the query took to end.
    async fn cancelled_through(self, at: &HostPort) -> Duration {
        let began = clock::now();
        let mut stream = TcpStream::connect((at.host.as_str(), at.port)).await.unwrap();
        self.token.cancel_query_raw(&mut stream, NoTls).await.unwrap();
        let mut said = Vec::new();
        timeout(CANCELLED_MAX, stream.read_to_end(&mut said))
            .await
            .expect("the cancel's connection stays open")
            .unwrap();
        assert_eq!(said, b"");
        let end = timeout(CANCELLED_MAX, self.end).await;
        let (code, at) = end.unwrap_or_else(|_| panic!("a query at {} sleeps on", self.server)).unwrap();
        assert_eq!(code, Some(SqlState::QUERY_CANCELED));
        at.saturating_duration_since(began)
    }
}

/// Drives a connection and passes its notices on.
async fn hear(mut connection: Connection<Socket, NoTlsStream>, notices: mpsc::UnboundedSender<String>) {
    while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
        if let AsyncMessage::Notice(notice) = message {
            let _ = notices.send(notice.message().to_owned());
        }
    }
}

/// The cluster has one primary and three replicas.
pub async fn reach_their_queries(cluster: &Cluster) {
    let program = env!("CARGO_BIN_EXE_pgvane");
    let options = |name: &str| RouterOptions { name: name.to_owned(), ..RouterOptions::new(program) };
    let home = Router::start(cluster, &options("home")).await.unwrap();
    let other = Router::start(cluster, &options("other")).await.unwrap();
    // Nobody cancels these, one at each member.
    let mut bystanders = vec![Sleeper::start(&home.write).await];
    for _ in 0..3 {
        bystanders.push(Sleeper::start(&home.read).await);
    }
    let mut servers: Vec<&str> = bystanders.iter().map(|it| it.server.as_str()).collect();
    servers.sort_unstable();
    servers.dedup();
    assert_eq!(servers.len(), 4, "{servers:?}{}", cluster.tails());

    let (mut took, mut at) = (Vec::new(), BTreeMap::<String, usize>::new());
    for number in 0..CANCELS {
        let sleeper = Sleeper::start(&home.read).await;
        *at.entry(sleeper.server.clone()).or_default() += 1;
        let through = [&home.read, &other.read][number % 2];
        took.push(sleeper.cancelled_through(through).await);
    }
    let disturbed = bystanders.iter().filter(|it| it.end.is_finished()).count();
    took.sort_unstable();
    let [p50, p95] = [CANCELS / 2, CANCELS * 95 / 100].map(|rank| millis(took[rank]));
    eprintln!("cancels: {} of {CANCELS}, from cancel to error p50 {p50:.1} ms, p95 {p95:.1} ms, at {at:?}", took.len());
    assert_eq!(disturbed, 0, "a query was cancelled that nobody cancelled");
    assert!(at.len() == 3 && at.values().all(|count| *count >= CANCELS / 5), "not over three replicas: {at:?}");

    // The router that saw the key knows the way; the other asks all.
    assert_eq!(counted(&home).await, (CANCELS as u64 / 2, CANCELS as u64 / 2));
    assert_eq!(counted(&other).await, (CANCELS as u64 / 2, 0));
    for bystander in bystanders.drain(1..) {
        bystander.cancelled_through(&other.read).await;
    }
    for bystander in bystanders {
        bystander.cancelled_through(&other.write).await;
    }
}

/// Cancels through the read port, and how many of them went to the owner of their key alone.
async fn counted(router: &Router) -> (u64, u64) {
    let totals = &router.service("replica").await.unwrap()["totals"];
    (totals["cancels"].as_u64().unwrap(), totals["cancels_by_key"].as_u64().unwrap())
}
