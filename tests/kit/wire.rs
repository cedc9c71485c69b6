//! A client that takes the protocol literally: whatever comes is read message by message, and how a
//! session ends is told apart to the byte: with words, between two messages without any, or within one.

use std::fmt;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use pgvane::cli::demo::cluster::{CLIENT_USER, DATABASE};
use pgvane::model::HostPort;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

const SSL_REQUEST: &[u8] = b"\0\0\0\x08\x04\xd2\x16\x2f";
const CANCEL_CODE: &[u8] = b"\x04\xd2\x16\x2e";
/// What a server may send after the startup (protocol 3, "Message Formats").
const KINDS: &[u8] = b"RSKZTDCEINAGHWcdv123nst";
/// Nothing here asks for longer messages.
const MESSAGE_BYTES_MAX: usize = 16 << 20;
const HEADER_BYTES: usize = 5;
/// For the connection to end after its last words.
const CLOSE_MAX: Duration = Duration::from_secs(10);
/// For the other side to close a cancel's connection.
const CANCEL_MAX: Duration = Duration::from_secs(20);

/// An ErrorResponse or a NoticeResponse.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Words {
    pub severity: String,
    pub code: String,
    pub message: String,
    pub detail: String,
}

impl Words {
    pub fn read(body: &[u8]) -> Words {
        let mut words = Words::default();
        for field in body.split(|byte| *byte == 0).filter(|field| !field.is_empty()) {
            let text = String::from_utf8_lossy(&field[1..]).into_owned();
            match field[0] {
                b'S' => words.severity = text,
                b'C' => words.code = text,
                b'M' => words.message = text,
                b'D' => words.detail = text,
                _ => {}
            }
        }
        words
    }
}

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.severity, self.code, self.message)?;
        if self.detail.is_empty() { Ok(()) } else { write!(f, " ({})", self.detail) }
    }
}

/// How a session ended, or did not come about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    NoConnection(ErrorKind),
    /// A whole ErrorResponse with severity FATAL or PANIC, and nothing after it.
    Told(Words),
    /// A WARNING of class 57P was the last message: a backend that may not say more, because its
    /// transaction is committed here and perhaps nowhere else, or because it has to die at once.
    Warned(Words),
    /// Between two messages, without a word; the error if it was none of the usual end.
    Silent(Option<ErrorKind>),
    /// Within a message, where no words fit.
    Within {
        have: usize,
        of: Option<usize>,
    },
    /// This is no server's protocol.
    Garbled(String),
    /// Nothing came for so long.
    Late(Duration),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::NoConnection(kind) => write!(f, "no connection: {kind}"),
            End::Told(words) => write!(f, "{words}"),
            End::Warned(words) => write!(f, "{words}, then the end"),
            End::Silent(None) => f.write_str("closed without a word"),
            End::Silent(Some(kind)) => write!(f, "{kind} without a word"),
            End::Within { have, of: Some(of) } => write!(f, "closed after {have} of the {of} bytes of a message"),
            End::Within { have, of: None } => write!(f, "closed after {have} bytes of a message's header"),
            End::Garbled(what) => f.write_str(what),
            End::Late(limit) => write!(f, "no answer within {limit:?}"),
        }
    }
}

#[derive(Debug, Clone)]
pub struct Message {
    pub kind: u8,
    pub body: Bytes,
}

/// An answer up to ReadyForQuery.
#[derive(Debug, Clone, Default)]
pub struct Reply {
    /// The first column of each row, as text; empty where it is null.
    pub values: Vec<String>,
    pub error: Option<Words>,
    /// `I`, `T` or `E`.
    pub status: u8,
}

/// Whom to trust, and under which name.
#[derive(Clone)]
pub struct Tls {
    pub connector: TlsConnector,
    pub name: ServerName<'static>,
}

trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Stream for T {}

pub struct Wire {
    reader: ReadHalf<Box<dyn Stream>>,
    writer: WriteHalf<Box<dyn Stream>>,
    unread: BytesMut,
    /// The stream has ended: as streams do, or with an error.
    ended: Option<Option<ErrorKind>>,
    last_warning: Option<Words>,
    /// A FATAL was read, and its end was not awaited yet.
    told: Option<Words>,
    /// Process id and secret, as a cancel has to repeat them.
    pub key: Bytes,
    /// CommandComplete's tags since the last [`Wire::send`].
    pub tags: Vec<String>,
    /// Payloads that were notified and not taken yet.
    pub notified: Vec<String>,
    /// Messages of notices since the last [`Wire::send`].
    pub notices: Vec<String>,
}

impl Wire {
    /// Connects and waits for ReadyForQuery. `encrypted` tells, also after an error, that the server took
    /// the offer of TLS, so that nobody between can say anything from then on.
    pub async fn connect(at: &HostPort, tls: Option<&Tls>, encrypted: &mut bool) -> Result<Wire, End> {
        let stream = TcpStream::connect((at.host.as_str(), at.port)).await;
        let mut stream = stream.map_err(|error| End::NoConnection(error.kind()))?;
        stream.set_nodelay(true).map_err(|error| End::NoConnection(error.kind()))?;
        let mut wire = match tls {
            None => Wire::over(Box::new(stream), BytesMut::new()),
            Some(tls) => {
                let broken = |error: std::io::Error| End::Silent(Some(error.kind()));
                stream.write_all(SSL_REQUEST).await.map_err(broken)?;
                let mut answer = [0];
                stream.read_exact(&mut answer).await.map_err(broken)?;
                match answer {
                    [b'S'] => {
                        *encrypted = true;
                        let secret = tls.connector.connect(tls.name.clone(), stream).await.map_err(broken)?;
                        Wire::over(Box::new(secret), BytesMut::new())
                    }
                    [b'E'] => Wire::over(Box::new(stream), BytesMut::from(&answer[..])),
                    other => return Err(End::Garbled(format!("{other:?} in answer to an SSLRequest"))),
                }
            }
        };
        let words = format!("\0\x03\0\0user\0{CLIENT_USER}\0database\0{DATABASE}\0application_name\0wire\0\0");
        wire.send(&packet(None, words.as_bytes())).await;
        loop {
            let message = wire.message().await?;
            match message.kind {
                b'K' => wire.key = message.body,
                b'Z' => return Ok(wire),
                b'R' if message.body[..] == [0; 4] => {}
                b'R' => return Err(End::Garbled("authentication is asked for".to_owned())),
                b'S' | b'N' => {}
                other => return Err(End::Garbled(format!("{:?} while starting", char::from(other)))),
            }
        }
    }

    fn over(stream: Box<dyn Stream>, unread: BytesMut) -> Wire {
        let (reader, writer) = split(stream);
        let (key, ended, last_warning, told) = (Bytes::new(), None, None, None);
        let (tags, notified, notices) = (Vec::new(), Vec::new(), Vec::new());
        Wire { reader, writer, unread, ended, last_warning, told, key, tags, notified, notices }
    }

    /// Reads meanwhile, as whoever sends much has to. What goes wrong is told by the next read.
    pub async fn send(&mut self, bytes: &[u8]) {
        self.tags.clear();
        self.notices.clear();
        let mut written = 0;
        while written < bytes.len() && self.ended.is_none() {
            tokio::select! {
                wrote = self.writer.write(&bytes[written..]) => match wrote {
                    Ok(count) => written += count,
                    Err(_) => return,
                },
                read = self.reader.read_buf(&mut self.unread) => note_end(&mut self.ended, read),
            }
        }
        let _told_by_the_next_read = self.writer.flush().await;
    }

    /// The next message that is not a ParameterStatus; notices and notifications are kept, too. Loses
    /// nothing when it is given up before it is done.
    pub async fn message(&mut self) -> Result<Message, End> {
        loop {
            if let Some(words) = self.told.clone() {
                return Err(self.last_words(words).await);
            }
            let Some(message) = self.take_message()? else {
                if let Some(ended) = self.ended {
                    return Err(self.without_words(ended));
                }
                let read = self.reader.read_buf(&mut self.unread).await;
                note_end(&mut self.ended, read);
                continue;
            };
            if !b"NS".contains(&message.kind) {
                self.last_warning = None;
            }
            match message.kind {
                b'S' => continue,
                b'N' => self.notice(&message.body),
                b'A' => {
                    let payload = message.body.split(|byte| *byte == 0).nth_back(1).unwrap_or_default();
                    self.notified.push(String::from_utf8_lossy(payload).into_owned());
                }
                b'C' => self.tags.push(text(&message.body)),
                b'E' => {
                    let words = Words::read(&message.body);
                    if ["FATAL", "PANIC"].contains(&words.severity.as_str()) {
                        self.told = Some(words);
                        continue;
                    }
                }
                _ => {}
            }
            return Ok(message);
        }
    }

    fn notice(&mut self, body: &[u8]) {
        let words = Words::read(body);
        self.notices.push(words.message.clone());
        self.last_warning = words.code.starts_with("57P").then_some(words);
    }

    /// Nothing may follow a FATAL but the end.
    async fn last_words(&mut self, words: Words) -> End {
        let closed = async {
            while self.unread.is_empty() && self.ended.is_none() {
                let read = self.reader.read_buf(&mut self.unread).await;
                note_end(&mut self.ended, read);
            }
        };
        let in_time = timeout(CLOSE_MAX, closed).await.is_ok();
        match self.unread.len() {
            0 if in_time => End::Told(words),
            0 => End::Garbled(format!("still open {CLOSE_MAX:?} after {words}")),
            more => End::Garbled(format!("{more} bytes after {words}")),
        }
    }

    fn without_words(&mut self, error: Option<ErrorKind>) -> End {
        match (self.unread.len(), self.last_warning.take()) {
            (0, Some(words)) => End::Warned(words),
            (0, None) => End::Silent(error),
            (have, _) => End::Within { have, of: length(&self.unread) },
        }
    }

    fn take_message(&mut self) -> Result<Option<Message>, End> {
        let Some(kind) = self.unread.first().copied() else { return Ok(None) };
        if !KINDS.contains(&kind) {
            let shown = self.unread[..self.unread.len().min(24)].escape_ascii().to_string();
            return Err(End::Garbled(format!("no message begins with \"{shown}\"")));
        }
        let Some(whole) = length(&self.unread) else { return Ok(None) };
        if !(HEADER_BYTES..=MESSAGE_BYTES_MAX).contains(&whole) {
            return Err(End::Garbled(format!("a message {:?} of {whole} bytes", char::from(kind))));
        }
        if self.unread.len() < whole {
            return Ok(None);
        }
        let body = self.unread.split_to(whole).freeze().slice(HEADER_BYTES..);
        Ok(Some(Message { kind, body }))
    }

    /// Everything up to ReadyForQuery.
    pub async fn reply(&mut self) -> Result<Reply, End> {
        let mut reply = Reply::default();
        loop {
            let message = self.message().await?;
            match message.kind {
                b'D' => reply.values.push(first_column(&message.body)),
                b'E' => reply.error = Some(Words::read(&message.body)),
                b'Z' => {
                    reply.status = message.body.first().copied().unwrap_or_default();
                    return Ok(reply);
                }
                _ => {}
            }
        }
    }

    pub async fn query(&mut self, sql: &str) -> Result<Reply, End> {
        self.send(&query(sql)).await;
        self.reply().await
    }

    pub async fn goodbye(mut self) {
        self.send(b"X\0\0\0\x04").await;
    }
}

/// Sends a CancelRequest and waits until the other side closes, as libpq does.
pub async fn cancel(at: &HostPort, key: &[u8]) -> Result<(), End> {
    let work = async {
        let mut stream = TcpStream::connect((at.host.as_str(), at.port)).await?;
        stream.write_all(&packet(None, &[CANCEL_CODE, key].concat())).await?;
        stream.read_to_end(&mut Vec::new()).await
    };
    match timeout(CANCEL_MAX, work).await {
        // A server that closes with a reset has done its work, too.
        Ok(Ok(0)) => Ok(()),
        Ok(Ok(answered)) => Err(End::Garbled(format!("{answered} bytes in answer to a CancelRequest"))),
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
        Ok(Err(error)) => Err(End::NoConnection(error.kind())),
        Err(_) => Err(End::Late(CANCEL_MAX)),
    }
}

pub fn query(sql: &str) -> Vec<u8> {
    packet(Some(b'Q'), &[sql.as_bytes(), b"\0"].concat())
}

/// Parse, Bind and Execute of a statement without parameters, all of them unnamed. A Sync has to follow.
pub fn unnamed(sql: &str) -> Vec<u8> {
    let parse = packet(Some(b'P'), &[b"\0", sql.as_bytes(), b"\0\0\0"].concat());
    [parse, bind("", &[]), EXECUTE.to_vec()].concat()
}

pub const EXECUTE: &[u8] = b"E\0\0\0\x09\0\0\0\0\0";
pub const SYNC: &[u8] = b"S\0\0\0\x04";

/// Of a statement whose parameters' types the server finds out.
pub fn parse(name: &str, sql: &str) -> Vec<u8> {
    packet(Some(b'P'), &[name.as_bytes(), b"\0", sql.as_bytes(), b"\0\0\0"].concat())
}

/// To the unnamed portal, all in text.
pub fn bind(statement: &str, values: &[String]) -> Vec<u8> {
    let mut body = [b"\0", statement.as_bytes(), b"\0\0\0"].concat();
    body.extend((values.len() as u16).to_be_bytes());
    for value in values {
        body.extend((value.len() as u32).to_be_bytes());
        body.extend(value.as_bytes());
    }
    body.extend([0, 0]);
    packet(Some(b'B'), &body)
}

pub fn packet(kind: Option<u8>, body: &[u8]) -> Vec<u8> {
    let length = (body.len() + 4) as u32;
    kind.into_iter().chain(length.to_be_bytes()).chain(body.iter().copied()).collect()
}

/// Trusts this certificate alone.
pub fn trusting(pem: &str, name: &str) -> anyhow::Result<Tls> {
    use tokio_rustls::rustls::pki_types::{CertificateDer, pem::PemObject};
    use tokio_rustls::rustls::{ClientConfig, RootCertStore};
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pem.as_bytes())?)?;
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    Ok(Tls { connector: TlsConnector::from(Arc::new(config)), name: ServerName::try_from(name.to_owned())? })
}

fn note_end(ended: &mut Option<Option<ErrorKind>>, read: std::io::Result<usize>) {
    match read {
        Ok(0) => *ended = Some(None),
        Ok(_) => {}
        Err(error) => *ended = Some(Some(error.kind())),
    }
}

/// Of the whole message that begins here, once its header is there.
fn length(bytes: &[u8]) -> Option<usize> {
    let word = bytes.get(1..)?.first_chunk()?;
    Some((u32::from_be_bytes(*word) as usize).saturating_add(1))
}

fn text(body: &[u8]) -> String {
    String::from_utf8_lossy(body.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

pub fn first_column(row: &[u8]) -> String {
    let Some(length) = row.get(2..).and_then(|rest| rest.first_chunk()) else { return String::new() };
    let length = usize::try_from(i32::from_be_bytes(*length)).unwrap_or(0);
    String::from_utf8_lossy(row.get(6..6 + length).unwrap_or_default()).into_owned()
}
