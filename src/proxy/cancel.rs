//! CancelRequest: copied to every server that may have given out the key; those that did not ignore it.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::model::HostPort;

use super::connection::Plumbing;
use super::sessions::Service;

/// For the whole of a cancel, from the first connect to the last server's close.
pub const CANCEL_TIMEOUT: Duration = Duration::from_secs(10);

/// Returns when every server has closed (libpq waits for that), or time is up. Never held.
pub async fn forward(plumbing: &Plumbing, service: &Arc<Service>, packet: &[u8]) {
    let routes = plumbing.registry.routes();
    let servers = routes.service(&service.name).map_or(&[][..], |routes| &routes.cancel);
    let copies = servers.iter().map(|server| deliver(plumbing, service, server, packet));
    if timeout(CANCEL_TIMEOUT, join_all(copies)).await.is_err() {
        tracing::debug!(target: "pgvane::session", service = %service.name, "a cancel request took too long");
    }
}

async fn deliver(plumbing: &Plumbing, service: &Arc<Service>, server: &HostPort, packet: &[u8]) {
    let spec = service.spec();
    let Ok(mut stream) = plumbing.connector.connect(server, spec.connect_timeout, &spec.tcp).await else { return };
    if stream.write_all(packet).await.is_ok() {
        // A server closes without a word; whatever it says is not for the client.
        let mut ignored = [0; 64];
        while matches!(stream.read(&mut ignored).await, Ok(1..)) {}
    }
}
