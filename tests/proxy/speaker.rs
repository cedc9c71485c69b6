//! A server that follows a simple query's first word, and the words of its clients.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use pgvane::proxy::protocol::words;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::bed::*;

/// What BackendKeyData gives out.
pub const KEY: [u8; 8] = [0, 0, 0, 42, 1, 2, 3, 4];

pub fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind][..], &(body.len() as u32 + 4).to_be_bytes(), body].concat()
}

pub fn query(text: &str) -> Vec<u8> {
    message(b'Q', format!("{text}\0").as_bytes())
}

fn done(tag: &str, status: u8) -> Vec<u8> {
    [message(b'C', format!("{tag}\0").as_bytes()), message(b'Z', &[status])].concat()
}

/// The FATAL of a server that is shut down.
pub fn own_goodbye() -> Vec<u8> {
    words::fatal(words::ADMIN_SHUTDOWN, "terminating connection due to administrator command", "", "")
}

impl Server {
    /// Lets everybody in; its queries are
    ///
    /// * `BEGIN`, `END`, `SELECT`: answered with the status they leave;
    /// * `INSERT`, `COMMIT` and all else: never answered;
    /// * `COPY`: takes data for ever;
    /// * `HALF`: answered with a message that does not end;
    /// * `FLOOD`: answered without an end;
    /// * `QUIT`: closes; `DIE`: resets; `FATAL`: says why and closes.
    ///
    /// What it heard of its clients' messages is in `seen.first`, whole.
    pub async fn speaking(name: &'static str) -> Server {
        Server::start(name, move |stream, seen| Speaker { stream, seen, status: b'I' }.serve(name)).await
    }

    /// The same, with a password asked for first.
    pub async fn asking(name: &'static str) -> Server {
        Server::start(name, move |stream, seen| Speaker { stream, seen, status: b'I' }.ask(name)).await
    }

    /// Waits until it has heard this message.
    pub async fn heard(&self, message: &[u8]) {
        until("the server hears it", || self.seen.first.lock().iter().any(|heard| heard == message)).await;
    }

    pub fn resets(&self) -> usize {
        self.seen.resets.load(SeqCst)
    }
}

struct Speaker {
    stream: TcpStream,
    seen: Arc<Seen>,
    status: u8,
}

impl Speaker {
    async fn serve(mut self, name: &str) {
        if read_packet(&mut self.stream).await.is_none() {
            return;
        }
        self.welcome_and_talk(name).await;
    }

    async fn ask(mut self, name: &str) {
        if read_packet(&mut self.stream).await.is_none() {
            return;
        }
        let _ = self.stream.write_all(&message(b'R', &[0, 0, 0, 3])).await;
        if let Ok(password) = self.message().await {
            self.seen.first.lock().push(password);
            self.welcome_and_talk(name).await;
        }
    }

    async fn welcome_and_talk(mut self, name: &str) {
        let words =
            [message(b'R', &[0; 4]), message(b'S', name.as_bytes()), message(b'K', &KEY), message(b'Z', b"I")].concat();
        if self.stream.write_all(&words).await.is_ok()
            && let Err(error) = self.talk().await
            && matches!(error.kind(), std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe)
        {
            self.seen.resets.fetch_add(1, SeqCst);
        }
    }

    async fn talk(&mut self) -> std::io::Result<()> {
        loop {
            let heard = self.message().await?;
            self.seen.bytes.fetch_add(heard.len() as u64, SeqCst);
            // A COPY would fill the memory.
            if heard[0] != b'd' {
                self.seen.first.lock().push(heard.clone());
            }
            let said = match (heard[0], heard.get(5..).and_then(|body| body.split(|byte| *byte == 0).next())) {
                (b'X', _) | (b'Q', Some(b"QUIT")) => return Ok(()),
                (b'Q', Some(b"BEGIN")) => self.answer("BEGIN", b'T'),
                (b'Q', Some(b"END")) => self.answer("COMMIT", b'I'),
                (b'Q', Some(b"SELECT")) => self.answer("SELECT 0", self.status),
                (b'Q', Some(b"COPY")) => message(b'G', &[0, 0, 0]),
                (b'Q', Some(b"HALF")) => b"D\0\0\0\x20\0\x01".to_vec(),
                (b'Q', Some(b"FATAL")) => return self.stream.write_all(&own_goodbye()).await,
                (b'Q', Some(b"DIE")) => {
                    let _ = socket2::SockRef::from(&self.stream).set_linger(Some(std::time::Duration::ZERO));
                    return Ok(());
                }
                (b'Q', Some(b"FLOOD")) => loop {
                    let row = message(b'D', &[1; 60_000]);
                    self.stream.write_all(&row).await?;
                    self.seen.bytes.fetch_add(row.len() as u64, SeqCst);
                },
                _ => Vec::new(),
            };
            self.stream.write_all(&said).await?;
        }
    }

    fn answer(&mut self, tag: &str, status: u8) -> Vec<u8> {
        self.status = status;
        done(tag, status)
    }

    async fn message(&mut self) -> std::io::Result<Vec<u8>> {
        let mut message = vec![0; 5];
        self.stream.read_exact(&mut message).await?;
        let length = u32::from_be_bytes(message[1..].try_into().unwrap()) as usize;
        message.resize(length + 1, 0);
        self.stream.read_exact(&mut message[5..]).await?;
        Ok(message)
    }
}

impl Client {
    /// AuthenticationOk to ReadyForQuery, in this order and with nothing else; a notice in its place is
    /// the answer.
    pub async fn welcome(&mut self) -> Option<Vec<u8>> {
        assert_eq!(self.message().await, (b'R', vec![0; 4]));
        let (kind, body) = self.message().await;
        let notice = (kind == b'N').then_some(body);
        if notice.is_some() {
            assert_eq!(self.message().await.0, b'S');
        }
        assert_eq!(self.message().await, (b'K', KEY.to_vec()));
        assert_eq!(self.message().await, (b'Z', b"I".to_vec()));
        notice
    }

    /// Waits for the answer up to ReadyForQuery.
    pub async fn ask(&mut self, text: &str) -> u8 {
        self.send(&query(text)).await;
        assert_eq!(self.message().await.0, b'C');
        let (kind, status) = self.message().await;
        assert_eq!(kind, b'Z');
        status[0]
    }
}

/// A client that a speaking server has let in.
pub async fn welcomed(bed: &Bed, service: &str) -> Client {
    let mut client = bed.started(service).await;
    assert_eq!(client.welcome().await, None);
    client
}

/// The same in a transaction.
pub async fn in_transaction(bed: &Bed) -> Client {
    let mut client = welcomed(bed, "primary").await;
    assert_eq!(client.ask("BEGIN").await, b'T');
    client
}
