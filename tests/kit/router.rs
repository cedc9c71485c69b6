//! The router as its users run it: the program, a configuration file, its admin endpoint.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use pgvane::cli::demo::cluster::{Cluster, Ports};
use pgvane::cli::demo::rest;
use pgvane::model::HostPort;
use serde_json::Value;

use super::until;

const READY_MAX: Duration = Duration::from_secs(20);
const ANSWER_MAX: Duration = Duration::from_millis(1000);

#[derive(Debug, Clone)]
pub struct Router {
    pub write: HostPort,
    pub read: HostPort,
    pub admin: HostPort,
    /// The name of its log.
    pub name: String,
}

/// Where it listens and how it is started.
#[derive(Debug, Clone)]
pub struct RouterOptions {
    pub program: PathBuf,
    pub name: String,
    pub address: String,
    /// Further lines of the cluster's entry, indented by four.
    pub cluster_lines: String,
    /// A command that runs the router elsewhere, such as `ip netns exec n1`.
    pub wrap: Vec<String>,
}

impl RouterOptions {
    pub fn new(program: impl Into<PathBuf>) -> Self {
        RouterOptions {
            program: program.into(),
            name: "router".to_owned(),
            address: "127.0.0.1".to_owned(),
            cluster_lines: String::new(),
            wrap: Vec::new(),
        }
    }
}

impl Router {
    /// Returns when the router routes writes.
    pub async fn start(cluster: &Cluster, options: &RouterOptions) -> Result<Router> {
        let router = Router::launch(cluster, options)?;
        router.wait_ready(cluster).await?;
        Ok(router)
    }

    pub fn launch(cluster: &Cluster, options: &RouterOptions) -> Result<Router> {
        let mut ports = Ports::default();
        let mut claim = || ports.claim(&options.address, None);
        let router = Router { write: claim()?, read: claim()?, admin: claim()?, name: options.name.clone() };
        let file = cluster.ground().write(&format!("{}.yml", options.name), &router.config(cluster, options))?;
        let mut words = options.wrap.clone();
        words.push(options.program.to_string_lossy().into_owned());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).args([Path::new("run"), Path::new("-c"), &file]);
        cluster.ground().start_own(&options.name, command)?;
        Ok(router)
    }

    fn config(&self, cluster: &Cluster, options: &RouterOptions) -> String {
        let endpoints: Vec<String> = cluster.etcd_addresses().iter().map(|at| format!("\"http://{at}\"")).collect();
        let of = cluster.options();
        // How bulk data goes, if this run of the tests is about that.
        let splice =
            std::env::var("PGVANE_TEST_SPLICE").map_or_else(|_| String::new(), |mode| format!("splice: {mode}\n"));
        format!(
            "admin: {{ listen: \"{}\" }}\n{splice}clusters:\n  - name: {}\n    namespace: /{}\n    dcs: {{ etcd: {{ endpoints: [{}] }} }}\n{}    services:\n      primary: {{ listen: \"{}\", role: primary }}\n      replica: {{ listen: \"{}\", role: replica, backup: [primary] }}\n",
            self.admin,
            of.name,
            of.namespace,
            endpoints.join(", "),
            options.cluster_lines,
            self.write,
            self.read,
        )
    }

    pub async fn wait_ready(&self, cluster: &Cluster) -> Result<()> {
        let ready = until(READY_MAX, async || {
            !cluster.ground().is_running(&self.name)
                || self.ask("/readyz/primary").await.is_ok_and(|answer| answer.status == 200)
        });
        if !ready.await || !cluster.ground().is_running(&self.name) {
            bail!("the router does not route writes within {READY_MAX:?}{}", cluster.ground().tail(&self.name));
        }
        Ok(())
    }

    /// The admin endpoint's answer.
    pub async fn ask(&self, path: &str) -> Result<rest::Answer> {
        rest::ask(&self.admin, path, ANSWER_MAX).await
    }

    /// `/api/v1/status`.
    pub async fn status(&self) -> Result<Value> {
        Ok(self.ask("/api/v1/status").await?.json())
    }

    /// One service of the first cluster in its status.
    pub async fn service(&self, name: &str) -> Result<Value> {
        let status = self.status().await?;
        let services = status["clusters"][0]["services"].as_array().cloned().unwrap_or_default();
        services.into_iter().find(|it| it["name"] == name).with_context(|| format!("no service {name} in {status}"))
    }
}
