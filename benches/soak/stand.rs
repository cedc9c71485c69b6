//! The cluster and the router under soak.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use hyper::Method;
use pgvane::cli::demo::cluster::{CLIENT_USER, Cluster, ClusterOptions};
use pgvane::cli::demo::member::{SUPERUSER, client_settings};
use pgvane::cli::demo::rest;
use serde_json::json;
use tokio_postgres::NoTls;

use super::kit::keys::KeyWatch;
use super::kit::until;
use super::kit::wire::{self, Tls, Wire};
use super::{Router, RouterOptions};

pub const DESCRIPTION: &str = "Patroni with ttl 20, loop_wait 1, retry_timeout 9, synchronous_mode on, primary_start_timeout 0; PostgreSQL with TLS and wal_retrieve_retry_interval 200ms; all on loopback";

const TTL: Duration = Duration::from_secs(20);
/// As quick as Patroni allows, for a move every ten seconds.
const LOOP_WAIT: Duration = Duration::from_secs(1);
const RETRY_TIMEOUT: Duration = Duration::from_secs(9);
const ANSWER_MAX: Duration = Duration::from_secs(5);
const SETTINGS_MAX: Duration = Duration::from_secs(60);

/// No unique constraint on `id`: a row that is written twice shall be there twice.
const TABLES: &str = "
    CREATE TABLE soak (id bigint NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp());
    CREATE INDEX ON soak (id);
    CREATE TABLE soak_one AS SELECT 1 AS one;";

pub struct Stand {
    pub tls: Tls,
    pub keys: KeyWatch,
    pub router: Router,
    /// Dropped last: all programs end with it.
    pub cluster: Cluster,
}

impl Stand {
    pub async fn set(pgvane: PathBuf) -> Result<Stand> {
        let options = ClusterOptions {
            ttl: TTL,
            loop_wait: LOOP_WAIT,
            retry_timeout: RETRY_TIMEOUT,
            synchronous_mode: true,
            // Its 5 s are how long a replica may look away before it finds the new leader.
            parameters: [("wal_retrieve_retry_interval".to_owned(), "200ms".to_owned())].into(),
            ..ClusterOptions::new(&pgvane)
        };
        let cluster = Cluster::start(options).await?;
        let tls = configure(&cluster).await?;
        create_tables(&cluster).await?;
        let router = Router::start(&cluster, &RouterOptions::new(pgvane)).await?;
        let of = cluster.options();
        let keys = KeyWatch::start(&cluster.etcd_addresses()[0], &format!("/{}/{}/leader", of.namespace, of.name));
        Ok(Stand { tls, keys, router, cluster })
    }

    pub fn keep_log(&self, to: &Path) -> Result<()> {
        let log = self.cluster.ground().log(&self.router.name);
        std::fs::copy(log, to).with_context(|| format!("writing {}", to.display()))?;
        Ok(())
    }
}

/// A leader that crashed is not waited for, and every member speaks TLS.
async fn configure(cluster: &Cluster) -> Result<Tls> {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])?;
    let pem = made.cert.pem();
    let cert = cluster.ground().write("server.crt", &pem)?;
    let key = cluster.ground().write("server.key", &made.signing_key.serialize_pem())?;
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600))?;
    let parameters = json!({ "ssl": "on", "ssl_cert_file": cert, "ssl_key_file": key });
    let order = json!({ "primary_start_timeout": 0, "postgresql": { "parameters": parameters } });
    let leader = cluster.leader().await.context("there is no leader")?;
    let answer =
        rest::request(&cluster.member(&leader)?.api, Method::PATCH, "/config", Some(order), ANSWER_MAX).await?;
    if answer.status != 200 {
        bail!("Patroni refused the settings ({}): {}", answer.status, answer.body.trim());
    }
    let tls = wire::trusting(&pem, "localhost")?;
    for member in cluster.members() {
        let has_tls = until(SETTINGS_MAX, async || {
            let mut encrypted = false;
            Wire::connect(&member.pg, Some(&tls), &mut encrypted).await.is_ok() && encrypted
        });
        if !has_tls.await {
            bail!("{} has no TLS within {SETTINGS_MAX:?}{}", member.name, cluster.tails());
        }
    }
    Ok(tls)
}

async fn create_tables(cluster: &Cluster) -> Result<()> {
    let leader = cluster.leader().await.context("there is no leader")?;
    let (client, connection) = client_settings(&cluster.member(&leader)?.pg, SUPERUSER).connect(NoTls).await?;
    let driver = tokio::spawn(connection);
    let grant = format!("GRANT SELECT, INSERT ON soak, soak_one TO {CLIENT_USER}");
    client.batch_execute(&format!("{TABLES} {grant}")).await.context("creating the tables")?;
    driver.abort();
    for member in cluster.members() {
        let arrived = until(SETTINGS_MAX, async || {
            let Ok(mut wire) = Wire::connect(&member.pg, None, &mut false).await else { return false };
            wire.query("SELECT one FROM soak_one").await.is_ok_and(|reply| reply.error.is_none())
        });
        if !arrived.await {
            bail!("the tables did not reach {} within {SETTINGS_MAX:?}{}", member.name, cluster.tails());
        }
    }
    Ok(())
}
