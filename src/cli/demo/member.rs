//! One PostgreSQL under one Patroni: its configuration, and what it says of itself.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use super::options::{ClusterOptions, Place};
use super::programs::Programs;
use super::rest;
use crate::model::HostPort;

/// One question to a member's REST API while waiting for something.
const ASK_MAX: Duration = Duration::from_millis(800);
/// PostgreSQL's and Patroni's own superuser; the demo's clients use [`CLIENT_USER`].
pub const SUPERUSER: &str = "postgres";
pub const CLIENT_USER: &str = "demo";
pub const DATABASE: &str = "postgres";

/// Keeps a member small and quick to start, and all its traces in its directory.
const PARAMETERS: &[(&str, &str)] = &[
    ("fsync", "off"),
    ("full_page_writes", "on"), // pg_rewind needs them
    ("shared_buffers", "16MB"),
    ("max_connections", "200"),
    ("max_wal_size", "256MB"),
    ("wal_keep_size", "128MB"),
    ("dynamic_shared_memory_type", "mmap"),
    ("unix_socket_directories", ""),
    ("log_checkpoints", "off"),
    ("hot_standby_feedback", "on"),
];

#[derive(Debug, Clone)]
pub struct Member {
    pub name: String,
    pub pg: HostPort,
    pub api: HostPort,
    pub(super) data: PathBuf,
    pub(super) place: Place,
}

/// A member's own words at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Condition {
    /// 200 to `GET /primary`: it holds the leader key, as far as it knows.
    pub claims_lead: bool,
    /// Out of recovery by live SQL.
    pub writable: bool,
    pub running: bool,
    pub streaming: bool,
    pub timeline: u64,
    pub pending_restart: bool,
}

impl Condition {
    fn of(answer: &rest::Answer) -> Condition {
        let body = answer.json();
        let is = |key: &str, word: &str| body[key] == *word;
        Condition {
            claims_lead: answer.status == 200,
            writable: is("role", "primary") && !body["xlog"]["location"].is_null(),
            running: is("state", "running"),
            streaming: is("replication_state", "streaming"),
            timeline: body["timeline"].as_u64().unwrap_or(0),
            pending_restart: body["pending_restart"].as_bool().unwrap_or(false),
        }
    }
}

impl Member {
    /// None when its REST API does not answer.
    pub async fn condition(&self) -> Option<Condition> {
        rest::ask(&self.api, "/primary", ASK_MAX).await.ok().map(|answer| Condition::of(&answer))
    }

    /// Settings for a connection as the demo's client.
    pub fn client_settings(&self) -> tokio_postgres::Config {
        client_settings(&self.pg, CLIENT_USER)
    }

    /// The name of its Patroni among the programs that were started.
    pub(super) fn patroni(&self) -> String {
        format!("patroni-{}", self.name)
    }
}

/// Settings for a connection without TLS or password.
pub fn client_settings(at: &HostPort, user: &str) -> tokio_postgres::Config {
    let mut config = tokio_postgres::Config::new();
    config.host(&at.host).port(at.port).user(user).dbname(DATABASE).application_name("pgvane-demo");
    config
}

/// patroni.yml; JSON is YAML too, and needs no care with quotes.
pub fn patroni_config(
    member: &Member,
    all: &[Member],
    etcds: &[HostPort],
    options: &ClusterOptions,
    programs: &Programs,
    dir: &Path,
) -> Value {
    let mut parameters: BTreeMap<&str, &str> = PARAMETERS.iter().copied().collect();
    parameters.extend(options.parameters.iter().map(|(key, value)| (key.as_str(), value.as_str())));
    let mut sources: Vec<&str> = all.iter().map(|member| member.pg.host.as_str()).collect();
    sources.extend(["127.0.0.1", "::1"]);
    sources.sort_unstable();
    sources.dedup();
    let mut rules = Vec::new();
    for source in sources {
        let mask = if source.contains(':') { 128 } else { 24 };
        rules.push(format!("host all all {source}/{mask} trust"));
        rules.push(format!("host replication all {source}/{mask} trust"));
    }
    let port = |at: &HostPort| at.to_string();
    json!({
        "scope": options.name,
        "namespace": options.namespace,
        "name": member.name,
        "restapi": { "listen": port(&member.api), "connect_address": port(&member.api) },
        "etcd3": { "hosts": etcds.iter().map(port).collect::<Vec<_>>() },
        "bootstrap": {
            "dcs": {
                "ttl": options.ttl.as_secs(),
                "loop_wait": options.loop_wait.as_secs(),
                "retry_timeout": options.retry_timeout.as_secs(),
                "failsafe_mode": options.failsafe_mode,
                "synchronous_mode": options.synchronous_mode,
                "postgresql": { "use_pg_rewind": true, "use_slots": true, "parameters": parameters },
            },
            "initdb": ["no-sync", { "encoding": "UTF8" }, { "locale": "C.UTF-8" }],
        },
        "postgresql": {
            "listen": port(&member.pg),
            "connect_address": port(&member.pg),
            "data_dir": member.data,
            "bin_dir": programs.postgres_bin,
            "pgpass": dir.join(format!("pgpass-{}", member.name)),
            "authentication": {
                "superuser": { "username": SUPERUSER },
                "replication": { "username": "replicator" },
            },
            "pg_hba": rules,
            "basebackup": ["no-sync", { "checkpoint": "fast" }],
        },
        "watchdog": { "mode": "off" },
        "tags": member.place.tags,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_code_is_not_yet_a_writable_member() {
        let answer = |body: &str| rest::Answer { status: 200, body: body.to_owned() };
        let cached = Condition::of(&answer(r#"{"state":"unknown","role":"primary"}"#));
        assert!(cached.claims_lead && !cached.writable && !cached.running);
        let live = Condition::of(&answer(r#"{"state":"running","role":"primary","xlog":{"location":7},"timeline":2}"#));
        assert!(live.claims_lead && live.writable && live.running);
        assert_eq!(live.timeline, 2);
        assert_eq!(Condition::of(&answer("not JSON")), Condition { claims_lead: true, ..Condition::default() });
    }
}
