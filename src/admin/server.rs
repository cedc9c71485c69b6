//! The HTTP endpoint. It only reads, answers from snapshots, and never waits for the router.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::model::{HostPort, Role};
use crate::runtime::clock;

use super::{Lifecycle, Source, metrics, ready, status};

/// Open connections to the admin endpoint; the next one waits in the kernel's queue.
const CONNECTIONS_MAX: usize = 64;
/// For one request's headers, and for the whole connection.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(300);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Opens one listener; `*` is every IPv6 and IPv4 address, or IPv4 alone where there is no IPv6.
pub async fn bind(at: &HostPort) -> io::Result<TcpListener> {
    if at.host != "*" {
        return TcpListener::bind((at.host.as_str(), at.port)).await;
    }
    match TcpListener::bind(("::", at.port)).await {
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => TcpListener::bind(("0.0.0.0", at.port)).await,
        outcome => outcome,
    }
}

/// Answers until the task is dropped.
pub async fn serve(listener: TcpListener, source: Arc<dyn Source>, lifecycle: Arc<Lifecycle>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(target: "pgvane::admin", %error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (source, lifecycle) = (source.clone(), lifecycle.clone());
        tokio::spawn(async move {
            answer_connection(stream, peer, source, lifecycle).await;
            drop(place);
        });
    }
}

async fn answer_connection(stream: TcpStream, peer: SocketAddr, source: Arc<dyn Source>, lifecycle: Arc<Lifecycle>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = answer(&request, source.as_ref(), &lifecycle);
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(CONNECTION_TIMEOUT, connection).await {
        Ok(Ok(())) | Err(_) => {}
        Ok(Err(error)) => tracing::debug!(target: "pgvane::admin", %peer, %error, "connection ended"),
    }
}

fn answer(request: &Request<Incoming>, source: &dyn Source, lifecycle: &Lifecycle) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET, HEAD and OPTIONS are answered here\n".to_owned());
    }
    let readiness = |role| match ready::ready(lifecycle, &source.reports(), role) {
        Ok(()) => text(StatusCode::OK, "ready\n".to_owned()),
        Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")),
    };
    match request.uri().path() {
        "/livez" => text(StatusCode::OK, "alive\n".to_owned()),
        "/readyz" => readiness(None),
        "/readyz/primary" => readiness(Some(Role::Primary)),
        "/readyz/replica" => readiness(Some(Role::Replica)),
        "/api/v1/status" => {
            let body = status::status(lifecycle, &source.reports(), clock::now());
            typed(StatusCode::OK, "application/json", format!("{body}\n"))
        }
        "/metrics" => match metrics::render(lifecycle, &source.reports(), clock::now()) {
            Ok(page) => typed(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", page),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("metrics: {error}\n")),
        },
        other => text(StatusCode::NOT_FOUND, not_found(other)),
    }
}

fn not_found(path: &str) -> String {
    let known = "/api/v1/status, /metrics, /livez, /readyz, /readyz/primary, /readyz/replica";
    format!("{} is not here; known: {known}\n", path.chars().take(80).collect::<String>())
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    typed(status, "text/plain; charset=utf-8", body)
}

fn typed(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response
}
