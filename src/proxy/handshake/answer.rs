//! What a server answers to one packet of the startup phase.

use std::io;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::decide::Suspicion;
use crate::model::Reason;
use crate::proxy::client::Request;
use crate::proxy::protocol::startup::{self, FirstAnswer, Kind};

const READ_BYTES: usize = 4096;

pub(super) enum Answer {
    /// To be passed on; the rest is between client and server.
    Relay(Vec<u8>),
    /// No encryption; the client's next packet follows.
    No,
    /// The target was taken away.
    Fenced(Reason),
    /// It cannot serve now.
    Suspect(Suspicion),
}

/// Err: the server closed or reset without an answer.
pub(super) async fn exchange(server: &mut TcpStream, request: &Request) -> io::Result<Answer> {
    // A connection that is there takes so few bytes at once, before the runtime has heard that it would.
    let sent = SockRef::from(&*server).send(&request.bytes).unwrap_or(0);
    server.write_all(&request.bytes[sent..]).await?;
    match request.kind {
        Kind::Ssl | Kind::GssEnc => match server.read_u8().await? {
            b'N' => Ok(Answer::No),
            other => Ok(Answer::Relay(vec![other])),
        },
        Kind::Startup => read_first_message(server).await,
        Kind::DirectTls | Kind::Cancel => {
            let mut bytes = vec![0; READ_BYTES];
            let n = server.read(&mut bytes).await?;
            bytes.truncate(n);
            Ok(Answer::Relay(bytes))
        }
    }
}

async fn read_first_message(server: &mut TcpStream) -> io::Result<Answer> {
    let mut bytes = Vec::with_capacity(READ_BYTES);
    loop {
        match startup::first_answer(&bytes) {
            FirstAnswer::Other => return Ok(Answer::Relay(bytes)),
            FirstAnswer::CannotConnectNow => return Ok(Answer::Suspect(Suspicion::StartupRejected)),
            FirstAnswer::Incomplete if bytes.len() > startup::FIRST_ANSWER_BYTES_MAX => {
                return Ok(Answer::Relay(bytes));
            }
            FirstAnswer::Incomplete => {}
        }
        match server.read_buf(&mut bytes).await {
            Ok(0) | Err(_) if !bytes.is_empty() => return Ok(Answer::Relay(bytes)),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            Err(error) => return Err(error),
        }
    }
}
