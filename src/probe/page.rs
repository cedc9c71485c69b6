//! `GET` of one page of one HTTP server: Patroni's REST API where its status is all that matters, or Consul's.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use crate::model::ApiAddress;

use super::http::{self, Answer, BODY_BYTES_MAX, Failure};
use super::rest::is_whole;
use super::watchful::{Limited, describe, limited};

/// For the body and the goodbye, once there is a status: nobody waits longer for what only informs.
const AFTERWARDS_MAX: Duration = Duration::from_millis(250);

/// What came of one question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PageOutcome {
    Page(Page),
    /// Nobody listens there.
    Refused,
    TimedOut,
    /// There was no answer, or none in HTTP.
    Failed(String),
    /// This process itself was kept from running.
    CheckerLate,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    pub status: u16,
    headers: http::Headers,
    /// None: it did not come whole, or not in time.
    pub body: Option<Vec<u8>>,
}

impl Page {
    /// The value of a header, whose name is in lower case here.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// Asks once, with these headers besides the usual ones. The limit is for everything up to the status.
pub async fn page(
    api: &ApiAddress,
    path: &str,
    headers: &[(&str, &str)],
    tls: Option<&Arc<rustls::ClientConfig>>,
    limit: Duration,
) -> PageOutcome {
    let mut answer = match limited(limit, ask(api, path, headers, tls)).await {
        Limited::Done(Ok(answer)) => answer,
        Limited::Done(Err(outcome)) => return outcome,
        Limited::TimedOut => return PageOutcome::TimedOut,
        Limited::CheckerLate => return PageOutcome::CheckerLate,
    };
    let (status, headers) = (answer.status, answer.headers.clone());
    let mut body = None;
    let rest = async {
        body = answer.body(is_whole).await.ok();
        answer.close().await;
    };
    let _late = timeout(AFTERWARDS_MAX, rest).await;
    PageOutcome::Page(Page { status, headers, body })
}

async fn ask(
    api: &ApiAddress,
    path: &str,
    headers: &[(&str, &str)],
    tls: Option<&Arc<rustls::ClientConfig>>,
) -> Result<Answer, PageOutcome> {
    let (host, port) = (api.at.host.as_str(), api.at.port);
    let stream = connect(host, port).await.map_err(unreachable)?;
    let tls = if api.tls { Some(tls.ok_or_else(without_roots)?) } else { None };
    let stream = http::secure(stream, host, tls).await.map_err(unreachable)?;
    http::ask_for(stream, path, &http::authority(host, port), headers).await.map_err(failed)
}

/// To the first of a name's addresses that answers.
async fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut last = io::Error::new(ErrorKind::NotFound, "the name has no address");
    for address in lookup_host((host, port)).await? {
        match http::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn without_roots() -> PageOutcome {
    PageOutcome::Failed("https, and this system has no root certificates; name a CA file".into())
}

fn unreachable(error: io::Error) -> PageOutcome {
    match error.kind() {
        ErrorKind::ConnectionRefused => PageOutcome::Refused,
        _ => PageOutcome::Failed(describe(&error)),
    }
}

fn failed(failure: Failure) -> PageOutcome {
    PageOutcome::Failed(match failure {
        Failure::NotHttp(problem) | Failure::Other(problem) => problem,
        Failure::BrokeOff => "closed before the end of its answer".into(),
        Failure::TooLong => format!("the answer is longer than {BODY_BYTES_MAX} bytes"),
        Failure::Io(error) => describe(&error),
    })
}
