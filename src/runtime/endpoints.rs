//! The admin endpoint's listeners.

use std::net::TcpListener as StdListener;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::task::AbortHandle;

use crate::admin::{self, Lifecycle};
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
    /// The same socket a second time: who answers may change without a moment in which nobody listens.
    listener: Option<StdListener>,
    answering: AbortHandle,
}

impl Endpoints {
    pub fn new(source: Arc<Roster>, lifecycle: Arc<Lifecycle>) -> Endpoints {
        Endpoints { open: Vec::new(), source, lifecycle }
    }

    /// Closes what is no longer configured and answers at what is.
    pub fn become_as(&mut self, diff: &Diff, bound: Bound) {
        self.open.retain(|endpoint| {
            let stays = !diff.admin_removed.contains(&endpoint.at);
            if !stays {
                endpoint.answering.abort();
                tracing::info!(target: "pgvane::run", at = %endpoint.at, "admin endpoint closed");
            }
            stays
        });
        if diff.orders {
            self.answer_anew();
        }
        for (at, listener) in bound {
            tracing::info!(target: "pgvane::run", %at, "admin endpoint");
            self.answer(at, listener);
        }
    }

    /// Whose orders are taken is told to those who answer when they begin.
    fn answer_anew(&mut self) {
        for endpoint in std::mem::take(&mut self.open) {
            let again = endpoint.listener.as_ref().map(|listener| listener.try_clone().and_then(TcpListener::from_std));
            match again {
                Some(Ok(listener)) => {
                    endpoint.answering.abort();
                    self.answer(endpoint.at, listener);
                }
                Some(Err(_)) | None => {
                    tracing::error!(
                        target: "pgvane::reload", at = %endpoint.at,
                        "out of descriptors: this admin endpoint still takes the orders that it took before"
                    );
                    self.open.push(endpoint);
                }
            }
        }
    }

    fn answer(&mut self, at: HostPort, listener: TcpListener) {
        let (listener, again) = twice(listener);
        let Some(listener) = listener else { return };
        let serve = admin::serve(listener, self.source.clone(), self.lifecycle.clone(), admin::OrdersFrom::default());
        self.open.push(Endpoint { at, listener: again, answering: tokio::spawn(serve).abort_handle() });
    }
}

fn twice(listener: TcpListener) -> (Option<TcpListener>, Option<StdListener>) {
    let Ok(first) = listener.into_std() else { return (None, None) };
    let second = first.try_clone().ok();
    (TcpListener::from_std(first).ok(), second)
}
