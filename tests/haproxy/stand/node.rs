//! One member: a REST API that is told what to answer and notes who asked, and a PostgreSQL port.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use pgvane::runtime::clock;
use serde_json::{Value, json};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::members::member::Member;
use crate::members::ports::Port;
use crate::members::{ms, secs};

/// How long an answer to OPTIONS stays open.
const OPTIONS_PAUSE: Duration = Duration::from_millis(200);

/// How a REST API treats a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Status(u16),
    /// Nobody listens.
    Refused,
    /// Accepts and resets.
    Reset,
    /// Accepts and never answers.
    Hung,
    /// 200, after so many milliseconds.
    Slow(u64),
    /// Something that is not HTTP.
    Garbage,
}

/// What a REST API does from one moment to the next.
#[derive(Debug, Clone)]
pub struct Manner {
    pub state: State,
    /// Statuses of single paths, such as `/primary`, instead of the one in `state`.
    pub paths: BTreeMap<&'static str, u16>,
    /// Empty, or Patroni's JSON.
    pub body: String,
}

/// How the other side ended a connection that was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    Closed,
    Reset,
}

/// One connection to a REST API.
#[derive(Debug, Clone)]
pub struct Asked {
    pub at: Instant,
    pub state: State,
    /// Everything up to the empty line, where that was read.
    pub request: String,
    pub ending: Option<Ending>,
}

/// The moment of the first check of a whole stage; everything there is counted from it.
pub type Zero = Arc<watch::Sender<Option<Instant>>>;

pub fn zero() -> Zero {
    Arc::new(watch::Sender::new(None))
}

#[derive(Debug)]
pub struct Node {
    pub name: String,
    pub postgres: Member,
    pub rest: Rest,
}

#[derive(Debug)]
pub struct Rest {
    pub port: u16,
    manner: watch::Sender<Manner>,
    asked: Arc<Mutex<Vec<Asked>>>,
    came: Arc<watch::Sender<Vec<Instant>>>,
    _server: JoinSet<()>,
}

impl Node {
    pub fn start(name: &str, number: u32, zero: &Zero) -> Node {
        Node { name: name.to_owned(), postgres: Member::start(name, "diff", number), rest: Rest::start(zero) }
    }

    /// `m1`, `m2` and `m3`.
    pub fn three(zero: &Zero) -> Vec<Node> {
        (1..=3).map(|number| Node::start(&format!("m{number}"), number, zero)).collect()
    }

    pub fn postgres_port(&self) -> u16 {
        self.postgres.postgres_at().port()
    }

    /// Answers as the Patroni of a primary on this timeline, or of a streaming replica of it.
    pub fn play(&self, role: PlayedRole, timeline: u32) {
        let (primary, replica) = match role {
            PlayedRole::Primary => (200, 503),
            PlayedRole::Replica => (503, 200),
        };
        let paths = [("/primary", primary), ("/replica", replica), ("/read-only", 200), ("/health", 200)];
        let body = patroni_body(&self.name, role, timeline).to_string();
        self.rest.set(|manner| *manner = Manner { state: State::Status(503), paths: paths.into(), body });
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlayedRole {
    Primary,
    Replica,
}

/// As Patroni 4.1 answers.
fn patroni_body(name: &str, role: PlayedRole, timeline: u32) -> Value {
    let mut body = json!({
        "state": "running",
        "postmaster_start_time": "2026-01-01 00:00:00.000000+00:00",
        "role": "primary",
        "server_version": 150_008,
        "xlog": { "location": 83_886_176 },
        "timeline": timeline,
        "dcs_last_seen": 1_767_225_600,
        "database_system_identifier": "7302185120354763219",
        "patroni": { "version": "4.1.5", "scope": "diff", "name": name },
    });
    if role == PlayedRole::Replica {
        body["role"] = json!("replica");
        body["xlog"] = json!({ "received_location": 83_886_176, "replayed_location": 83_886_176,
            "replayed_timestamp": null, "paused": false });
        body["replication_state"] = json!("streaming");
    }
    body
}

impl Rest {
    fn start(zero: &Zero) -> Rest {
        let first = Manner { state: State::Status(200), paths: BTreeMap::new(), body: String::new() };
        let (manner, seen) = watch::channel(first);
        let port = Port::reserve();
        let (number, asked, came) = (port.number, Arc::new(Mutex::default()), Arc::new(watch::Sender::default()));
        let mut server = JoinSet::new();
        // Here and not in its task: who checks may be quicker than that task's first turn.
        let opened = port.listen();
        server.spawn(serve(port, opened, seen, asked.clone(), came.clone(), zero.clone()));
        Rest { port: number, manner, asked, came, _server: server }
    }

    pub fn set(&self, change: impl FnOnce(&mut Manner)) {
        self.manner.send_modify(change);
    }

    pub fn set_state(&self, state: State) {
        self.set(|manner| manner.state = state);
    }

    pub fn manner(&self) -> watch::Sender<Manner> {
        self.manner.clone()
    }

    /// When connections came, as they come.
    pub fn came(&self) -> watch::Receiver<Vec<Instant>> {
        self.came.subscribe()
    }

    pub fn at(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Every connection so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().clone()
    }
}

async fn serve(
    port: Port,
    opened: TcpListener,
    mut manner: watch::Receiver<Manner>,
    asked: Arc<Mutex<Vec<Asked>>>,
    came: Arc<watch::Sender<Vec<Instant>>>,
    zero: Zero,
) {
    let mut connections = JoinSet::new();
    let mut opened = Some(opened);
    while manner.wait_for(|now| now.state != State::Refused).await.is_ok() {
        let listener = opened.take().unwrap_or_else(|| port.listen());
        let mut closing = manner.clone();
        loop {
            tokio::select! {
                accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                    let at = clock::now();
                    zero.send_if_modified(|zero| zero.is_none() && zero.replace(at).is_none());
                    let manner = manner.borrow().clone();
                    let number = {
                        let mut asked = asked.lock();
                        asked.push(Asked { at, state: manner.state, request: String::new(), ending: None });
                        asked.len() - 1
                    };
                    came.send_modify(|came| came.push(at));
                    connections.spawn(attend(stream, manner, asked.clone(), number));
                },
                _ = closing.wait_for(|now| now.state == State::Refused) => break,
                Some(_ended) = connections.join_next() => {}
            }
        }
    }
}

async fn attend(mut stream: TcpStream, manner: Manner, asked: Arc<Mutex<Vec<Asked>>>, number: usize) {
    let mut request = Vec::new();
    if manner.state != State::Reset {
        while !request.windows(4).any(|end| end == b"\r\n\r\n") {
            match stream.read_buf(&mut request).await {
                Ok(1..) => {}
                _ => return,
            }
        }
    }
    let request = String::from_utf8_lossy(&request).into_owned();
    let path = request.split(' ').nth(1).unwrap_or("").split('?').next().unwrap_or("").to_owned();
    asked.lock()[number].request = request;
    let status = match manner.state {
        State::Status(status) => status,
        State::Slow(by) => {
            tokio::time::sleep(ms(by)).await;
            200
        }
        State::Hung => {
            // Until the other side gives up.
            let _ = stream.read(&mut [0]).await;
            return;
        }
        State::Reset | State::Refused => {
            let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            return;
        }
        State::Garbage => {
            let _ = stream.write_all(b"what is this\r\n\r\n").await;
            return;
        }
    };
    let status = manner.paths.get(path.as_str()).copied().unwrap_or(status);
    let is_options = asked.lock()[number].request.starts_with("OPTIONS");
    let ending = finish(&mut stream, status, &manner.body, is_options).await;
    asked.lock()[number].ending = ending;
}

/// HTTP/1.0 as Patroni speaks it: the end of the connection is the end of the answer.
async fn finish(stream: &mut TcpStream, status: u16, body: &str, is_options: bool) -> Option<Ending> {
    let word = if status == 200 { "OK" } else { "Service Unavailable" };
    let server = "Server: BaseHTTP/0.6 Python/3.11.2";
    let text = format!("HTTP/1.0 {status} {word}\r\n{server}\r\nContent-Type: application/json\r\n\r\n{body}");
    stream.write_all(text.as_bytes()).await.ok()?;
    let ended = async {
        // Whoever wants no body may end the connection before a busy Patroni does.
        if is_options && let Ok(ended) = timeout(OPTIONS_PAUSE, stream.read(&mut [0])).await {
            ended?;
        }
        // A reset may be met by either call.
        stream.shutdown().await?;
        while stream.read(&mut [0; 256]).await? > 0 {}
        Ok::<_, io::Error>(())
    };
    match timeout(secs(10), ended).await.ok()? {
        Ok(()) => Some(Ending::Closed),
        Err(_reset) => Some(Ending::Reset),
    }
}
