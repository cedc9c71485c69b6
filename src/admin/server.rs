//! The HTTP endpoint. It answers from snapshots, passes orders on, and never waits for the router.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::model::{HostPort, Role};
use crate::runtime::clock;

use super::orders::{self, Refusal};
use super::{Lifecycle, Source, haproxy, metrics, ready, status, vips};

/// Open connections to the admin endpoint; the next one waits in the kernel's queue.
const CONNECTIONS_MAX: usize = 64;
/// For one request's headers, and for the whole connection.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(300);
/// Methods of everything that is only read.
const READERS: &str = "GET, HEAD, OPTIONS";
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

/// What every connection is answered from.
struct Site {
    source: Arc<dyn Source>,
    lifecycle: Arc<Lifecycle>,
    own_name: String,
}

/// Answers until the task is dropped.
pub async fn serve(listener: TcpListener, source: Arc<dyn Source>, lifecycle: Arc<Lifecycle>) {
    let site = Arc::new(Site { source, lifecycle, own_name: orders::own_name() });
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
        let site = site.clone();
        tokio::spawn(async move {
            answer_connection(stream, peer, site).await;
            drop(place);
        });
    }
}

async fn answer_connection(stream: TcpStream, peer: SocketAddr, site: Arc<Site>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = site.answer(&request, peer);
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

impl Site {
    fn answer(&self, request: &Request<Incoming>, peer: SocketAddr) -> Response<Full<Bytes>> {
        if request.uri().path().starts_with(orders::PREFIX) {
            return self.member(request, peer).unwrap_or_else(refused);
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS) {
            let response = text(StatusCode::METHOD_NOT_ALLOWED, format!("only {READERS} are answered here\n"));
            return with_allow(response, READERS);
        }
        match request.uri().path() {
            "/livez" => text(StatusCode::OK, "alive\n".to_owned()),
            "/readyz" => self.readiness(None),
            "/readyz/primary" => self.readiness(Some(Role::Primary)),
            "/readyz/replica" => self.readiness(Some(Role::Replica)),
            "/api/v1/status" => {
                let (reports, vips, splice) = (self.source.reports(), self.source.vips(), self.source.splice());
                json(StatusCode::OK, &status::status(&self.lifecycle, &reports, &vips, splice.as_ref(), clock::now()))
            }
            "/metrics" => self.metrics(),
            other => text(StatusCode::NOT_FOUND, not_found(other)),
        }
    }

    fn readiness(&self, role: Option<Role>) -> Response<Full<Bytes>> {
        match ready::ready(&self.lifecycle, &self.source.reports(), role) {
            Ok(()) => text(StatusCode::OK, "ready\n".to_owned()),
            Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")),
        }
    }

    /// Our own figures, then the same as HAProxy would name them.
    fn metrics(&self) -> Response<Full<Bytes>> {
        let (reports, splice, now) = (self.source.reports(), self.source.splice(), clock::now());
        match metrics::render(&self.lifecycle, &reports, splice.as_ref(), now) {
            Ok(page) => {
                let page =
                    page + &vips::render(&self.source.vips(), now) + &haproxy::render(&self.lifecycle, &reports, now);
                typed(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", page)
            }
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("metrics: {error}\n")),
        }
    }

    /// One member, or an order about it.
    fn member(&self, request: &Request<Incoming>, peer: SocketAddr) -> Result<Response<Full<Bytes>>, Refusal> {
        let address = orders::address(request.uri())?;
        orders::allowed(request.method(), address.verb.as_deref())?;
        let Some(verb) = &address.verb else {
            let reports = self.source.reports();
            let report = orders::find(&address, &reports)?;
            return Ok(json(StatusCode::OK, &status::of_member(report, &address.member, clock::now())));
        };
        let taken = orders::permitted(self.lifecycle.obeys(), peer, request.headers(), &self.own_name)
            .and_then(|()| orders::order(verb, request.uri().query()))
            .and_then(|order| Ok((order, orders::pass_on(&address, order, self.source.as_ref())?)));
        let (cluster, member) = (&address.cluster, &address.member);
        match taken {
            Ok((order, body)) => {
                let order = orders::words(order);
                tracing::warn!(target: "pgvane::admin", %peer, cluster, %member, order, "an operator's order");
                Ok(json(StatusCode::ACCEPTED, &body))
            }
            Err(refusal) => {
                let (path, status) = (request.uri().path(), refusal.status.as_u16());
                tracing::warn!(target: "pgvane::admin", %peer, path, status, "an order was refused");
                Err(refusal)
            }
        }
    }
}

fn refused(refusal: Refusal) -> Response<Full<Bytes>> {
    let response = json(refusal.status, &refusal.body);
    match refusal.allow {
        Some(methods) => with_allow(response, methods),
        None => response,
    }
}

fn with_allow(mut response: Response<Full<Bytes>>, methods: &'static str) -> Response<Full<Bytes>> {
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    response
}

fn not_found(path: &str) -> String {
    let known = "/api/v1/status, /api/v1/clusters/<cluster>/members/<member>, /metrics, /livez, /readyz, /readyz/primary, /readyz/replica";
    format!("{} is not here; known: {known}\n", path.chars().take(80).collect::<String>())
}

fn json(status: StatusCode, body: &serde_json::Value) -> Response<Full<Bytes>> {
    typed(status, "application/json", format!("{body}\n"))
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    typed(status, "text/plain; charset=utf-8", body)
}

fn typed(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
