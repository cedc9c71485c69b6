//! One GET over a connection of its own, which Patroni closes after its answer.

use std::error::Error as _;
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;

use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::body::{Body, Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, HeaderMap};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

pub(super) type Headers = HeaderMap;
pub(super) const BODY_BYTES_MAX: usize = 256 * 1024;
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// What a server may still say after the whole of its answer.
const FAREWELL_BYTES_MAX: usize = 64 * 1024;
const PROBLEM_CHARS_MAX: usize = 120;

/// A TCP connection, with TLS or without.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

pub(super) type BoxedStream = Box<dyn Stream>;

/// Why there was no answer, or not all of it.
pub(super) enum Failure {
    NotHttp(String),
    /// Closed before the end of the answer.
    BrokeOff,
    TooLong,
    Io(io::Error),
    Other(String),
}

/// Connects without TLS.
pub(super) async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    // A whole request fits one segment; failing to say so costs nothing.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

/// TLS over a connection, where there is to be any. `host` must be a name in the server's certificate.
pub(super) async fn secure(
    stream: TcpStream,
    host: &str,
    tls: Option<&Arc<rustls::ClientConfig>>,
) -> io::Result<BoxedStream> {
    let Some(config) = tls else { return Ok(Box::new(stream)) };
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| io::Error::other(format!("\"{host}\" cannot be a name in a certificate")))?;
    Ok(Box::new(TlsConnector::from(Arc::clone(config)).connect(name, stream).await?))
}

/// The Host header of a server.
pub(super) fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// An answer whose head has been read.
pub(super) struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    body: Incoming,
    line: Line,
}

/// The connection below an answer. It is driven by whoever reads: a spawn per probe would cost more
/// than the probe.
struct Line {
    connection: http1::Connection<TokioIo<BoxedStream>, Empty<Bytes>>,
    has_ended: bool,
}

impl Line {
    async fn drive<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        if !self.has_ended {
            tokio::select! {
                biased;
                done = &mut work => return done,
                // Its error reaches the reader, too; what was already read is still there.
                _ended = poll_fn(|cx| self.connection.poll_without_shutdown(cx)) => {}
            }
            self.has_ended = true;
        }
        work.await
    }
}

/// Asks for `path`, and reads the head of the answer. `host` is the value of the Host header.
pub(super) async fn get(stream: BoxedStream, path: &str, host: &str) -> Result<Answer, Failure> {
    ask_for(stream, path, host, &[]).await
}

/// The same with more headers.
pub(super) async fn ask_for(
    stream: BoxedStream,
    path: &str,
    host: &str,
    headers: &[(&str, &str)],
) -> Result<Answer, Failure> {
    let request = Request::get(path).header(HOST, host).header(CONNECTION, "close");
    let request = headers
        .iter()
        .fold(request, |request, (name, value)| request.header(*name, *value))
        .body(Empty::<Bytes>::new())
        .map_err(|error| Failure::Other(bounded(&format!("{path} cannot be asked for: {error}"))))?;
    let handshake = http1::Builder::new().max_buf_size(HEAD_BYTES_MAX).handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(failed)?;
    let mut line = Line { connection, has_ended: false };
    let response = line.drive(sender.send_request(request)).await.map_err(failed)?;
    let (head, body) = response.into_parts();
    Ok(Answer { status: head.status.as_u16(), headers: head.headers, body, line })
}

impl Answer {
    /// The whole body. `is_whole` tells whether a body that ended without a word about its end is complete.
    pub async fn body(&mut self, is_whole: impl Fn(&[u8]) -> bool) -> Result<Vec<u8>, Failure> {
        let body = &mut self.body;
        let read = async {
            let mut bytes = Vec::new();
            while let Some(frame) = body.frame().await {
                let data = match frame {
                    Ok(frame) => frame.into_data().unwrap_or_default(),
                    // An HTTP/1.0 body without a length ends at close, and Python closes TLS without saying so.
                    Err(error) if is_bare_eof(&error) && is_whole(&bytes) => break,
                    Err(error) => return Err(failed(error)),
                };
                if bytes.len() + data.len() > BODY_BYTES_MAX {
                    return Err(Failure::TooLong);
                }
                bytes.extend_from_slice(&data);
                if body.is_end_stream() {
                    break;
                }
            }
            Ok(bytes)
        };
        self.line.drive(read).await
    }

    /// Says goodbye (FIN, and before it TLS's own) and waits for the server's: a socket that closes
    /// with something unread resets the connection, and Patroni logs a traceback for each reset.
    pub async fn close(self) {
        let mut stream = self.line.connection.into_parts().io.into_inner();
        let _ = stream.shutdown().await;
        let mut scratch = [0; 1024];
        let mut seen = 0;
        while let Ok(got @ 1..) = stream.read(&mut scratch).await {
            seen += got;
            if seen > FAREWELL_BYTES_MAX {
                return;
            }
        }
    }
}

fn is_bare_eof(error: &hyper::Error) -> bool {
    let source = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    source.is_some_and(|io| io.kind() == ErrorKind::UnexpectedEof)
}

fn failed(error: hyper::Error) -> Failure {
    if error.is_parse() {
        return Failure::NotHttp(bounded(&format!("not HTTP: {error}")));
    }
    if error.is_incomplete_message() {
        return Failure::BrokeOff;
    }
    let io = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    match io {
        Some(io) => Failure::Io(copied(io)),
        None => Failure::Other(bounded(&error.source().map_or_else(|| error.to_string(), ToString::to_string))),
    }
}

/// `io::Error` cannot be cloned, and hyper keeps its own.
fn copied(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

/// A text from outside as part of a sentence: not long, and one line.
pub(super) fn bounded(text: &str) -> String {
    text.chars().take(PROBLEM_CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
}
