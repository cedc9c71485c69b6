//! A web server that answers as it is told, hangs, or is gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use pgvane::model::{ApiAddress, HostPort};
use pgvane::runtime::vip_alone::Endpoint;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Conduct {
    /// Status, further header lines, body.
    Says(u16, String, String),
    /// Takes the question and never answers.
    Hangs,
    /// Takes the question and resets the connection.
    Resets,
}

pub fn says(status: u16, body: &str) -> Conduct {
    Conduct::Says(status, String::new(), body.to_owned())
}

#[derive(Clone)]
pub struct Shared {
    pub conduct: Arc<Mutex<Conduct>>,
    /// The last request's head.
    pub asked: Arc<Mutex<String>>,
    pub count: Arc<AtomicUsize>,
    /// The answer waits for so long if the conduct stays the same, as Consul's to a question with an index.
    pub wait: Arc<Mutex<Duration>>,
}

pub struct Web {
    pub port: u16,
    pub shared: Shared,
    task: JoinHandle<()>,
}

impl Web {
    pub async fn start(conduct: Conduct) -> Web {
        Web::start_at(0, conduct).await
    }

    pub async fn start_at(port: u16, conduct: Conduct) -> Web {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Shared {
            conduct: Arc::new(Mutex::new(conduct)),
            asked: Arc::default(),
            count: Arc::default(),
            wait: Arc::default(),
        };
        let task = tokio::spawn(serve(listener, shared.clone()));
        Web { port, shared, task }
    }

    pub fn becomes(&self, conduct: Conduct) {
        *self.shared.conduct.lock() = conduct;
    }

    pub fn asked(&self) -> String {
        self.shared.asked.lock().clone()
    }

    pub fn count(&self) -> usize {
        self.shared.count.load(Relaxed)
    }

    /// Nobody listens there any more.
    pub async fn stop(self) -> u16 {
        self.task.abort();
        let _ = self.task.await;
        self.port
    }

    pub fn endpoint(&self) -> Endpoint {
        endpoint(self.port)
    }
}

pub fn endpoint(port: u16) -> Endpoint {
    Endpoint { api: ApiAddress { tls: false, at: HostPort::new("127.0.0.1", port) }, path: String::new() }
}

async fn serve(listener: TcpListener, shared: Shared) {
    // Connections end with the server.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(answer(stream, shared.clone()));
    }
}

async fn answer(mut stream: TcpStream, shared: Shared) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    *shared.asked.lock() = String::from_utf8(head).unwrap();
    shared.count.fetch_add(1, Relaxed);
    let before = shared.conduct.lock().clone();
    let wait = *shared.wait.lock();
    let began = pgvane::runtime::clock::now();
    while *shared.conduct.lock() == before && began.elapsed() < wait {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let conduct = shared.conduct.lock().clone();
    match conduct {
        Conduct::Hangs => std::future::pending().await,
        Conduct::Resets => {
            let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        }
        Conduct::Says(status, headers, body) => {
            let length = body.len();
            let text = format!("HTTP/1.0 {status} X\r\n{headers}Content-Length: {length}\r\n\r\n{body}");
            let _ = stream.write_all(text.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    }
}
