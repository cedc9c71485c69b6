//! A PostgreSQL client that says exactly what it was told, and notes when.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// What came instead of an answer.
#[derive(Debug)]
pub enum Failure {
    /// No connection at all.
    NoConnection(io::Error),
    /// The connection ended, with the last error the server had to say.
    Closed(Option<ServerError>),
    /// The server said no and goes on.
    Refused(ServerError),
    Silence(Duration),
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerError {
    pub severity: String,
    pub code: String,
    pub message: String,
    pub detail: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::NoConnection(error) => write!(f, "no connection: {error}"),
            Failure::Closed(None) => f.write_str("closed without a word"),
            Failure::Closed(Some(error)) => write!(f, "closed with {error:?}"),
            Failure::Refused(error) => write!(f, "{error:?}"),
            Failure::Silence(limit) => write!(f, "no answer within {limit:?}"),
        }
    }
}

impl Failure {
    pub fn code(&self) -> Option<&str> {
        match self {
            Failure::Closed(Some(error)) | Failure::Refused(error) => Some(&error.code),
            _ => None,
        }
    }
}

#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    unread: Vec<u8>,
    last_error: Option<ServerError>,
    /// What a cancel request needs.
    pub key: (u32, u32),
}

impl Client {
    /// Connects and waits for ReadyForQuery, at most `limit`.
    pub async fn connect(to: SocketAddr, limit: Duration) -> Result<Client, Failure> {
        timeout(limit, Client::open(to)).await.unwrap_or(Err(Failure::Silence(limit)))
    }

    async fn open(to: SocketAddr) -> Result<Client, Failure> {
        let mut stream = TcpStream::connect(to).await.map_err(Failure::NoConnection)?;
        stream.set_nodelay(true).map_err(Failure::NoConnection)?;
        let words = b"\0\x03\0\0user\0test\0database\0postgres\0application_name\0test\0\0";
        let length = u32::try_from(words.len() + 4).expect("a short packet");
        let packet = [&length.to_be_bytes()[..], words].concat();
        stream.write_all(&packet).await.map_err(|_| Failure::Closed(None))?;
        let mut client = Client { stream, unread: Vec::new(), last_error: None, key: (0, 0) };
        client.answer().await?;
        Ok(client)
    }

    /// One write; it has happened when this says Ok, and may have when it does not.
    pub async fn write(&mut self) -> Result<(), Failure> {
        self.query("INSERT INTO t VALUES (1)").await.map(|_| ())
    }

    /// The name of the member at the other end.
    pub async fn who(&mut self) -> Result<String, Failure> {
        self.query("SELECT name").await.map(Option::unwrap_or_default)
    }

    pub async fn begin(&mut self) -> Result<(), Failure> {
        self.query("BEGIN").await.map(|_| ())
    }

    pub async fn commit(&mut self) -> Result<(), Failure> {
        self.query("COMMIT").await.map(|_| ())
    }

    async fn query(&mut self, sql: &str) -> Result<Option<String>, Failure> {
        let length = u32::try_from(sql.len() + 5).expect("a short query");
        let packet = [b"Q", &length.to_be_bytes()[..], sql.as_bytes(), b"\0"].concat();
        if self.stream.write_all(&packet).await.is_err() {
            return Err(self.rest().await);
        }
        self.answer().await
    }

    /// Everything up to ReadyForQuery: the last value of a row, if there was one.
    async fn answer(&mut self) -> Result<Option<String>, Failure> {
        let mut value = None;
        let mut refused = None;
        loop {
            let Some((kind, body)) = self.message().await else {
                return Err(Failure::Closed(self.last_error.take()));
            };
            match kind {
                b'K' => self.key = (number(&body[..4]), number(&body[4..8])),
                b'D' => value = Some(String::from_utf8_lossy(&body[6..]).into_owned()),
                b'E' => {
                    let error = server_error(&body);
                    self.last_error = Some(error.clone());
                    refused = Some(error);
                }
                b'Z' => return refused.map_or(Ok(value), |error| Err(Failure::Refused(error))),
                _ => {}
            }
        }
    }

    async fn rest(&mut self) -> Failure {
        while let Some((kind, body)) = self.message().await {
            if kind == b'E' {
                self.last_error = Some(server_error(&body));
            }
        }
        Failure::Closed(self.last_error.take())
    }

    /// Waits until the other side ends the session.
    pub async fn closed(&mut self) -> Failure {
        self.rest().await
    }

    /// Whether the session is still there, as far as an idle client can tell.
    pub fn is_open(&mut self) -> bool {
        let mut byte = [0];
        matches!(self.stream.try_read(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    async fn message(&mut self) -> Option<(u8, Vec<u8>)> {
        self.fill(5).await?;
        let length = number(&self.unread[1..5]) as usize;
        self.fill(length + 1).await?;
        let rest = self.unread.split_off(length + 1);
        let message = std::mem::replace(&mut self.unread, rest);
        Some((message[0], message[5..].to_vec()))
    }

    async fn fill(&mut self, wanted: usize) -> Option<()> {
        while self.unread.len() < wanted {
            if !matches!(self.stream.read_buf(&mut self.unread).await, Ok(1..)) {
                return None;
            }
        }
        Some(())
    }
}

/// Sends a CancelRequest and waits until the other side closes, as libpq does.
pub async fn cancel(to: SocketAddr, key: (u32, u32)) -> io::Result<()> {
    let mut stream = TcpStream::connect(to).await?;
    let words = [16, 80_877_102, key.0, key.1].map(u32::to_be_bytes).concat();
    stream.write_all(&words).await?;
    let mut ignored = Vec::new();
    stream.read_to_end(&mut ignored).await?;
    Ok(())
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes.try_into().expect("four bytes"))
}

fn server_error(body: &[u8]) -> ServerError {
    let mut error = ServerError::default();
    for field in body.split(|byte| *byte == 0).filter(|field| !field.is_empty()) {
        let text = String::from_utf8_lossy(&field[1..]).into_owned();
        match field[0] {
            b'S' => error.severity = text,
            b'C' => error.code = text,
            b'M' => error.message = text,
            b'D' => error.detail = text,
            _ => {}
        }
    }
    error
}
