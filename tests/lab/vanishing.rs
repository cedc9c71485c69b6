//! A router on a host of its own, a server that speaks enough PostgreSQL on another, and clients on a
//! third. The member's REST API answers from outside, so only TCP can tell that the server's host has gone.

use std::fs;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, TcpStream as StdStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use pgvane::runtime::clock;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::kit::until;
use crate::lab::namespaces::Network;

/// For what the kernel's limits below end within three seconds, on a machine that does other things, too.
pub const LIMIT: Duration = Duration::from_secs(60);
/// One DataRow of a large result.
const ROW_BYTES: usize = 64 * 1024;
/// Of the service that is quick to notice; the other one has the default limits.
const TCP: &str = "{ keepalive: { idle: 1s, interval: 1s, count: 2 }, user_timeout: 2s }";

pub struct Stage {
    pub network: Network,
    pub server: Arc<Server>,
    router: Child,
    folder: TempDir,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

/// Sessions that a server has now, and that it ever had.
#[derive(Default)]
pub struct Server {
    pub open: AtomicUsize,
    pub total: AtomicUsize,
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.tasks.iter().for_each(|task| task.abort());
        // It may have ended already.
        let _ = self.router.kill();
        let _ = self.router.wait();
        if std::thread::panicking() {
            eprintln!("-- the router said --\n{}", self.log());
        }
    }
}

impl Stage {
    pub async fn start() -> Stage {
        let network = Network::new(&["db", "rt", "cl"]);
        let api: SocketAddr = format!("{}:8008", network.outside()).parse().unwrap();
        let rest = tokio::net::TcpListener::bind(api).await.unwrap();
        let at = format!("{}:5432", network.address("db"));
        let listener = network.inside("db", || TcpListener::bind(at)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let server = Arc::new(Server::default());
        let tasks = vec![tokio::spawn(answer_checks(rest)), tokio::spawn(serve_all(listener, server.clone()))];
        let folder = tempfile::tempdir().unwrap();
        let router = start_router(&network, &folder);
        let stage = Stage { network, server, router, folder, tasks };
        assert!(until(LIMIT, async || stage.session(5433).await.is_ok()).await);
        stage
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// A client on its host, with an open session by one of the router's ports.
    pub async fn session(&self, port: u16) -> io::Result<Client> {
        let at = format!("{}:{port}", self.network.address("rt"));
        let stream = self.network.inside("cl", || StdStream::connect(at))?;
        stream.set_nonblocking(true)?;
        let mut client = Client(TcpStream::from_std(stream)?);
        client.0.write_all(b"\0\0\0\x12\0\x03\0\0user\0lab\0\0").await?;
        client.until_ready().await?;
        Ok(client)
    }

    /// Kilobytes of memory that are the router's own.
    pub fn memory(&self) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.router.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

fn start_router(network: &Network, folder: &TempDir) -> Child {
    let (rt, db, outside) = (network.address("rt"), network.address("db"), network.outside());
    let config = folder.path().join("pgvane.yml");
    let text = format!(
        "admin: {{ listen: {rt}:7000 }}\ndefaults:\n  check: {{ inter: 500ms, fastinter: 500ms, downinter: 500ms, rise: 1 }}\n  \
         session_log: all\nclusters:\n  - name: lab\n    trust: rest\n    members:\n      \
         n1: {{ host: {db}, port: 5432, api: 'http://{outside}:8008' }}\n    services:\n      \
         quick: {{ listen: '{rt}:5433', role: primary, tcp: {TCP} }}\n      \
         usual: {{ listen: '{rt}:5434', role: primary }}\n"
    );
    fs::write(&config, text).unwrap();
    let log = fs::File::create(folder.path().join("log")).unwrap();
    let wrap = network.wrap("rt");
    let mut command = Command::new(&wrap[0]);
    command.args(&wrap[1..]).arg(env!("CARGO_BIN_EXE_pgvane")).arg("run").arg("-c").arg(config);
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
}

/// Patroni's REST API of a member that leads, for ever.
async fn answer_checks(listener: tokio::net::TcpListener) {
    let body = r#"{"state":"running","role":"primary","server_version":150008,"xlog":{"location":83886176},"timeline":5,
        "database_system_identifier":"7302185120354763219","patroni":{"version":"4.1.5","scope":"lab","name":"n1"}}"#;
    let answer = format!("HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{body}");
    while let Ok((mut stream, _)) = listener.accept().await {
        let answer = answer.clone();
        tokio::spawn(async move {
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        });
    }
}

async fn serve_all(listener: tokio::net::TcpListener, server: Arc<Server>) {
    while let Ok((stream, _)) = listener.accept().await {
        let server = server.clone();
        tokio::spawn(async move {
            server.open.fetch_add(1, SeqCst);
            server.total.fetch_add(1, SeqCst);
            let _broken = serve(stream).await;
            server.open.fetch_sub(1, SeqCst);
        });
    }
}

/// Lets everybody in. `send N` answers with N megabytes of rows, `copy N` with a CopyInResponse, and then
/// it reads nothing for N seconds; all else is done at once.
async fn serve(mut stream: TcpStream) -> io::Result<()> {
    let length = stream.read_u32().await? as usize;
    stream.read_exact(&mut vec![0; length - 4]).await?;
    stream.write_all(b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I").await?;
    loop {
        let kind = stream.read_u8().await?;
        let length = stream.read_u32().await? as usize;
        let mut body = vec![0; length - 4];
        stream.read_exact(&mut body).await?;
        let text = String::from_utf8_lossy(&body);
        match text.trim_end_matches('\0').split_once(' ') {
            _ if kind == b'd' => {}
            Some(("send", megabytes)) => {
                let rows = megabytes.parse::<usize>().unwrap() * 1024 * 1024 / ROW_BYTES;
                for _ in 0..rows {
                    stream.write_all(&row()).await?;
                }
                stream.write_all(b"C\0\0\0\x0dSELECT 1\0Z\0\0\0\x05I").await?;
            }
            Some(("copy", seconds)) => {
                stream.write_all(b"G\0\0\0\x07\0\0\0").await?;
                tokio::time::sleep(Duration::from_secs(seconds.parse().unwrap())).await;
            }
            _ => stream.write_all(b"C\0\0\0\x0dSELECT 1\0Z\0\0\0\x05I").await?,
        }
    }
}

/// A CopyData of 16 KiB.
fn copy_data() -> Vec<u8> {
    [&b"d\0\0\x40\x04"[..], &[b'x'; 16 * 1024]].concat()
}

fn row() -> Vec<u8> {
    let value = ROW_BYTES - 11;
    let mut row = vec![b'D'];
    row.extend((ROW_BYTES as u32 - 1).to_be_bytes());
    row.extend(1u16.to_be_bytes());
    row.extend((value as u32).to_be_bytes());
    row.resize(ROW_BYTES, b'x');
    row
}

pub struct Client(pub TcpStream);

/// How a session ended for its client.
#[derive(Debug)]
pub struct Ended {
    pub after: Duration,
    /// Of the last error, if there was one.
    pub sqlstate: Option<String>,
    pub reset: bool,
}

impl Client {
    pub async fn query(&mut self, text: &str) -> io::Result<()> {
        let length = u32::try_from(text.len() + 5).unwrap();
        self.0.write_all(&[b"Q", &length.to_be_bytes()[..], text.as_bytes(), b"\0"].concat()).await
    }

    /// Bytes read up to and with ReadyForQuery.
    pub async fn until_ready(&mut self) -> io::Result<usize> {
        self.until_message(b'Z').await
    }

    pub async fn until_message(&mut self, wanted: u8) -> io::Result<usize> {
        let (mut read, mut body) = (0, Vec::new());
        loop {
            let kind = self.0.read_u8().await?;
            let length = self.0.read_u32().await? as usize;
            body.resize(length - 4, 0);
            self.0.read_exact(&mut body).await?;
            read += length + 1;
            if kind == wanted {
                return Ok(read);
            }
        }
    }

    /// Streams so many megabytes of COPY data, and waits until the server has them all.
    pub async fn copy(&mut self, megabytes: usize) -> io::Result<()> {
        for _ in 0..megabytes * 64 {
            self.0.write_all(&copy_data()).await?;
        }
        self.0.write_all(b"c\0\0\0\x04").await?;
        self.until_ready().await.map(drop)
    }

    /// Streams COPY data until that fails, or nobody takes it any more, and then as `end`.
    pub async fn copy_until_the_end(&mut self) -> Ended {
        let began = clock::now();
        let data = copy_data();
        let (mut reader, mut writer) = self.0.split();
        let mut said = Vec::new();
        let written = async {
            while writer.write_all(&data).await.is_ok() {}
            std::future::pending::<()>().await;
        };
        let reset = tokio::select! {
            () = written => false,
            read = reader.read_to_end(&mut said) => read.is_err(),
        };
        Ended { after: began.elapsed(), sqlstate: sqlstate(&said), reset }
    }

    /// Waits for the end of the session.
    pub async fn end(&mut self) -> Ended {
        let (began, mut said) = (clock::now(), Vec::new());
        let read = self.0.read_to_end(&mut said).await;
        Ended { after: began.elapsed(), sqlstate: sqlstate(&said), reset: read.is_err() }
    }
}

fn sqlstate(said: &[u8]) -> Option<String> {
    let fields = said.strip_prefix(b"E")?.get(4..)?;
    let code = fields.split(|byte| *byte == 0).find_map(|field| field.strip_prefix(b"C"))?;
    Some(String::from_utf8_lossy(code).into_owned())
}

pub async fn within<T>(what: &str, act: impl Future<Output = T>) -> T {
    timeout(LIMIT, act).await.unwrap_or_else(|_| panic!("{what}: not within {LIMIT:?}"))
}

/// A line of the report.
pub fn say(what: &str, ended: &Ended) {
    let words = ended.sqlstate.as_deref().unwrap_or("no words");
    let how = if ended.reset { "reset" } else { "closed" };
    let _ = writeln!(io::stderr(), "{what}: {how} after {:.1} s, {words}", ended.after.as_secs_f64());
}
