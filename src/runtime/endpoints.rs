//! The admin endpoint's listeners.

use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::task::AbortHandle;

use crate::admin::{self, Lifecycle};
use crate::config::Admin;
use crate::model::HostPort;

use super::clusters::Roster;
use super::diff::Diff;

/// Opened, and not answering yet.
pub type Bound = Vec<(HostPort, TcpListener)>;

/// Opens all of them.
///
/// # Errors
/// A sentence for each that cannot be opened; then none is.
pub async fn bind(added: &[HostPort]) -> Result<Bound, Vec<String>> {
    let (mut bound, mut problems) = (Vec::new(), Vec::new());
    for at in added {
        match admin::bind(at).await {
            Ok(listener) => bound.push((at.clone(), listener)),
            Err(error) => problems.push(format!("admin: cannot listen on {at}: {error}")),
        }
    }
    if problems.is_empty() { Ok(bound) } else { Err(problems) }
}

pub struct Endpoints {
    open: Vec<Endpoint>,
    source: Arc<Roster>,
    lifecycle: Arc<Lifecycle>,
}

struct Endpoint {
    at: HostPort,
    answering: AbortHandle,
}

impl Endpoints {
    pub fn new(source: Arc<Roster>, lifecycle: Arc<Lifecycle>) -> Endpoints {
        Endpoints { open: Vec::new(), source, lifecycle }
    }

    /// Closes what is no longer configured and answers at what is.
    pub fn become_as(&mut self, diff: &Diff, admin: Option<&Admin>, bound: Bound) {
        self.open.retain(|endpoint| {
            let stays = !diff.admin_removed.contains(&endpoint.at);
            if !stays {
                endpoint.answering.abort();
                tracing::info!(target: "pgvane::run", at = %endpoint.at, "admin endpoint closed");
            }
            stays
        });
        self.lifecycle.obey(admin.map(|admin| admin.orders).unwrap_or_default());
        for (at, listener) in bound {
            tracing::info!(target: "pgvane::run", %at, "admin endpoint");
            self.answer(at, listener);
        }
    }

    fn answer(&mut self, at: HostPort, listener: TcpListener) {
        let serve = admin::serve(listener, self.source.clone(), self.lifecycle.clone());
        self.open.push(Endpoint { at, answering: tokio::spawn(serve).abort_handle() });
    }
}
