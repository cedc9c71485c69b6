//! One HTTP request to a Patroni or an etcd, with a limit on the whole of it.

use std::time::Duration;

use anyhow::{Context, Result};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::model::HostPort;

const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;

#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

impl Answer {
    /// The body as JSON; null when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }
}

pub async fn ask(at: &HostPort, path: &str, limit: Duration) -> Result<Answer> {
    request(at, Method::GET, path, None, limit).await
}

pub async fn request(
    at: &HostPort,
    method: Method,
    path: &str,
    body: Option<Value>,
    limit: Duration,
) -> Result<Answer> {
    let what = format!("{method} http://{at}{path}");
    let exchange = exchange(at, method, path, body);
    let answer = tokio::time::timeout(limit, exchange).await;
    answer.with_context(|| format!("{what}: no answer within {limit:?}"))?.with_context(|| what)
}

async fn exchange(at: &HostPort, method: Method, path: &str, body: Option<Value>) -> Result<Answer> {
    let stream = TcpStream::connect((at.host.as_str(), at.port)).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let body = body.map(|body| body.to_string()).unwrap_or_default();
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", at.to_string())
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body)))?;
    let response = sender.send_request(request).await;
    let answer = match response {
        Ok(response) => {
            let status = response.status().as_u16();
            let collected = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
            let bytes = collected.map_err(|error| anyhow::anyhow!("reading the answer: {error}"))?.to_bytes();
            Ok(Answer { status, body: String::from_utf8_lossy(&bytes).into_owned() })
        }
        Err(error) => Err(error.into()),
    };
    connection.abort();
    answer
}
