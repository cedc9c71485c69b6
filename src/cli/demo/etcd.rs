//! One real etcd.

use std::path::Path;
use std::time::Duration;

use super::ground::Launch;
use super::programs::Programs;
use super::rest;
use crate::model::HostPort;

const HEALTH_MAX: Duration = Duration::from_millis(1000);

#[derive(Debug, Clone)]
pub struct Node {
    pub name: String,
    pub client: HostPort,
    pub peer: HostPort,
    pub(super) wrap: Vec<String>,
}

impl Node {
    pub async fn is_healthy(&self) -> bool {
        let answer = rest::ask(&self.client, "/health", HEALTH_MAX).await;
        answer.is_ok_and(|answer| answer.status == 200 && answer.json()["health"] == "true")
    }

    pub(super) fn launch(&self, all: &[Node], programs: &Programs, dir: &Path) -> Launch {
        let cluster: Vec<String> = all.iter().map(|node| format!("{}=http://{}", node.name, node.peer)).collect();
        let (client, peer) = (format!("http://{}", self.client), format!("http://{}", self.peer));
        let arguments = [
            format!("--name={}", self.name),
            format!("--data-dir={}", dir.join(&self.name).display()),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster={}", cluster.join(",")),
            format!("--initial-cluster-token={}", dir.display()),
            "--logger=zap".to_owned(),
            "--log-outputs=stderr".to_owned(),
            "--log-level=warn".to_owned(),
        ];
        Launch {
            name: self.name.clone(),
            wrap: self.wrap.clone(),
            program: programs.etcd.clone(),
            arguments: arguments.map(Into::into).to_vec(),
        }
    }
}
