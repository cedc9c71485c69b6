//! Patroni's REST API, as far as `GET /primary` goes: HTTP/1.0, one answer per connection.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::member::{Facts, Rest};

pub async fn answer(
    mut stream: TcpStream,
    facts: watch::Receiver<Facts>,
    blips: watch::Sender<Facts>,
    name: String,
    scope: String,
) {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read_buf(&mut request).await {
            Ok(1..) => {}
            _ => return,
        }
    }
    let manner = facts.borrow().rest;
    match manner {
        Rest::Hung => return std::future::pending().await,
        Rest::Slow(by) => tokio::time::sleep(by).await,
        Rest::Answers | Rest::Refused => {}
    }
    let blip = blips.send_if_modified(|facts| {
        let is_one = facts.blips > 0;
        facts.blips = facts.blips.saturating_sub(1);
        is_one
    });
    let now = facts.borrow().clone();
    let line = if now.claims_lead && !blip { "200 OK" } else { "503 Service Unavailable" };
    let body = body(&now, &name, &scope);
    let text = format!(
        "HTTP/1.0 {line}\r\nServer: BaseHTTP/0.6 Python/3.11.2\r\nContent-Type: application/json\r\n\r\n{body}"
    );
    // Whoever asked may have gone.
    let _ = stream.write_all(text.as_bytes()).await;
}

fn body(facts: &Facts, name: &str, scope: &str) -> Value {
    let mut body = json!({
        "state": "running",
        "postmaster_start_time": "2026-01-01 00:00:00.000000+00:00",
        "role": if facts.in_recovery { "replica" } else { "primary" },
        "server_version": 150_008,
        "xlog": { "location": facts.lsn },
        "timeline": facts.timeline,
        "dcs_last_seen": 1_767_225_600,
        "database_system_identifier": facts.system_id,
        "patroni": { "version": "4.1.5", "scope": scope, "name": name },
    });
    if facts.in_recovery {
        let lsn = facts.lsn;
        body["xlog"] =
            json!({ "received_location": lsn, "replayed_location": lsn, "replayed_timestamp": null, "paused": false });
        body["replication_state"] = json!("streaming");
    }
    if facts.failsafe_active {
        body["cluster_unlocked"] = json!(true);
        body["failsafe_mode_is_active"] = json!(true);
    }
    if facts.tags.as_object().is_some_and(|tags| !tags.is_empty()) {
        body["tags"] = facts.tags.clone();
    }
    body
}
