//! Does a PostgreSQL answer on this port? The kernel accepts connections for a frozen postmaster too,
//! so the question is an SSLRequest and the answer one byte of any kind.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::model::PortOutcome;

use super::watchful::{Limited, describe, limited};

/// Length 8, code 80877103. PostgreSQL answers `S` or `N` (or `E`) and logs nothing when we then leave.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xD2, 0x16, 0x2F];

pub async fn port(address: SocketAddr, limit: Duration) -> PortOutcome {
    match limited(limit, ask(address)).await {
        Limited::Done(Ok(())) => PortOutcome::Answered,
        Limited::Done(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => PortOutcome::Refused,
        Limited::Done(Err(error)) => PortOutcome::Unreachable(describe(&error)),
        Limited::TimedOut => PortOutcome::TimedOut,
        Limited::CheckerLate => PortOutcome::CheckerLate,
    }
}

async fn ask(address: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(&SSL_REQUEST).await?;
    match stream.read_u8().await {
        Ok(_any) => Ok(()),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Err(io::Error::other("closed without an answer")),
        Err(error) => Err(error),
    }
}
