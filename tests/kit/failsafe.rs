//! Patroni's failsafe mode, turned on in a running cluster.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use hyper::Method;
use pgvane::cli::demo::cluster::Cluster;
use pgvane::cli::demo::rest;
use serde_json::json;

use super::until;

const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Returns when the leader has told every member about every member.
pub async fn turn_on(cluster: &Cluster, limit: Duration) -> Result<()> {
    let leader = cluster.leader().await.context("there is no leader")?;
    let api = &cluster.member(&leader)?.api;
    let answer =
        rest::request(api, Method::PATCH, "/config", Some(json!({ "failsafe_mode": true })), ANSWER_MAX).await?;
    if answer.status != 200 {
        bail!("Patroni refused failsafe mode ({}): {}", answer.status, answer.body.trim());
    }
    let told = until(limit, async || {
        for member in cluster.members() {
            let answer = rest::ask(&member.api, "/failsafe", ANSWER_MAX).await;
            let known = answer.ok().and_then(|it| it.json().as_object().map(serde_json::Map::len));
            if known != Some(cluster.members().len()) {
                return false;
            }
        }
        true
    });
    if !told.await {
        bail!("failsafe mode is not active within {limit:?}{}", cluster.tails());
    }
    Ok(())
}
