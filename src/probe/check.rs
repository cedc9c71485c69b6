//! One HTTP check as HAProxy does it (src/tcpcheck.c, `tcpcheck_eval_connect`): the connect has a limit of
//! its own, and what follows it another. Two differences: GET, so that the body tells more than the
//! status, and an orderly close instead of a reset.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::model::{CheckOutcome, CheckSpec, CheckStatus};
use crate::runtime::clock;

use super::http::{self, Answer, Failure, bounded};
use super::rest::{answer_of, is_whole};
use super::watchful::{Limited, describe, limited};

/// For the body and the close, once the head has decided: nobody waits longer for what only informs.
const AFTERWARDS_MAX: Duration = Duration::from_millis(250);

/// A verdict and the words for it.
type Fault = (CheckStatus, String);

/// Asks once. `host` is the name the member is known by: the Host header and the name in its certificate.
///
/// A body that is late, endless or broken does not change a verdict; there is no `answer` then.
pub async fn check(
    address: SocketAddr,
    host: &str,
    tls: Option<&Arc<rustls::ClientConfig>>,
    check: &CheckSpec,
    connect_limit: Duration,
) -> CheckOutcome {
    let started = clock::now();
    let talked = match connect(address, connect_limit).await {
        Ok(stream) => talk(stream, address, host, tls, check).await,
        Err(fault) => Err(fault),
    };
    let took = clock::now().saturating_duration_since(started);
    match talked {
        Ok(answer) => judge(answer, check, took).await,
        Err((status, problem)) => CheckOutcome { status, code: None, answer: None, took, problem },
    }
}

/// The outcome where the member's name did not lead to an address.
pub fn unresolved(host: &str, error: &io::Error, took: Duration) -> CheckOutcome {
    let (status, problem) = network(error, CheckStatus::L4Con);
    CheckOutcome { status, code: None, answer: None, took, problem: bounded(&format!("{host}: {problem}")) }
}

/// The outcome where an https address cannot be asked, because there is nobody to believe.
pub fn without_roots() -> CheckOutcome {
    let problem = "https, and this system has no root certificates; name a CA file in patroni.tls";
    CheckOutcome {
        status: CheckStatus::L6Rsp,
        code: None,
        answer: None,
        took: Duration::ZERO,
        problem: problem.to_owned(),
    }
}

async fn connect(address: SocketAddr, limit: Duration) -> Result<TcpStream, Fault> {
    match limited(limit, http::connect(address)).await {
        Limited::Done(Ok(stream)) => Ok(stream),
        // The kernel's own patience, where it is shorter than ours.
        Limited::Done(Err(error)) if error.kind() == ErrorKind::TimedOut => {
            Err((CheckStatus::L4Tout, describe(&error)))
        }
        Limited::Done(Err(error)) => Err(network(&error, CheckStatus::L4Con)),
        Limited::TimedOut => Err((CheckStatus::L4Tout, format!("no answer to the connect within {limit:?}"))),
        Limited::CheckerLate => Err(late()),
    }
}

/// TLS, the request, and the head of the answer, all within the check's time-out.
async fn talk(
    stream: TcpStream,
    address: SocketAddr,
    host: &str,
    tls: Option<&Arc<rustls::ClientConfig>>,
    check: &CheckSpec,
) -> Result<Answer, Fault> {
    let limit = check.timing.timeout;
    let mut is_secured = tls.is_none();
    let talk = async {
        let stream = http::secure(stream, host, tls).await.map_err(|error| network(&error, CheckStatus::L6Rsp))?;
        is_secured = true;
        http::get(stream, &check.path, &http::authority(host, address.port())).await.map_err(failed)
    };
    match limited(limit, talk).await {
        Limited::Done(talked) => talked,
        Limited::TimedOut if is_secured => Err((CheckStatus::L7Tout, format!("no answer within {limit:?}"))),
        Limited::TimedOut => Err((CheckStatus::L6Tout, format!("TLS was not done within {limit:?}"))),
        Limited::CheckerLate => Err(late()),
    }
}

async fn judge(mut answer: Answer, check: &CheckSpec, took: Duration) -> CheckOutcome {
    let code = answer.status;
    let (status, problem) = if check.expect.accepts(code) {
        (CheckStatus::L7Ok, String::new())
    } else {
        (CheckStatus::L7Sts, format!("HTTP status {code} instead of {}", check.expect))
    };
    let mut told = None;
    let afterwards = async {
        if let Ok(body) = answer.body(is_whole).await {
            told = answer_of(code, &body);
            answer.close().await;
        }
    };
    let _ = timeout(AFTERWARDS_MAX, afterwards).await;
    CheckOutcome { status, code: Some(code), answer: told, took, problem: bounded(&problem) }
}

fn failed(failure: Failure) -> Fault {
    match failure {
        Failure::NotHttp(problem) => (CheckStatus::L7Rsp, problem),
        Failure::BrokeOff => (CheckStatus::L7Rsp, "closed before the end of its answer".to_owned()),
        Failure::TooLong => (CheckStatus::L7Rsp, "the answer is too long".to_owned()),
        // HAProxy says SOCKERR here, too, and counts it; SockErr is kept for our own lacks.
        Failure::Io(error) => network(&error, CheckStatus::L4Con),
        Failure::Other(problem) => (CheckStatus::L7Rsp, problem),
    }
}

fn late() -> Fault {
    (CheckStatus::SockErr, "the checker itself was late".to_owned())
}

/// What this machine lacks is not the member's fault.
fn network(error: &io::Error, otherwise: CheckStatus) -> Fault {
    const OURS: [Errno; 5] = [Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM, Errno::ENOBUFS, Errno::EADDRNOTAVAIL];
    let is_ours = error.raw_os_error().is_some_and(|code| OURS.contains(&Errno::from_raw(code)));
    (if is_ours { CheckStatus::SockErr } else { otherwise }, describe(error))
}

#[cfg(test)]
mod tests;
