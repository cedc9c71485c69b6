//! The real HAProxy, configured as Patroni's own template does it.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use pgvane::cli::demo::cluster::{Cluster, Ports};
use pgvane::cli::demo::member::{CLIENT_USER, client_settings};
use pgvane::model::HostPort;
use tokio_postgres::NoTls;

use super::until;

const NAME: &str = "haproxy";
const READY_MAX: Duration = Duration::from_secs(30);

/// Starts it in the cluster's directory and returns its write port when a write connection opens.
pub async fn start(cluster: &Cluster) -> Result<HostPort> {
    let at = Ports::default().claim("127.0.0.1", None)?;
    let file = cluster.ground().write("haproxy.cfg", &config(cluster, &at))?;
    let mut command = Command::new("haproxy");
    command.args(["-db", "-f"]).arg(file);
    cluster.ground().start_own(NAME, command).context("HAProxy: install the package haproxy")?;
    let ready = until(READY_MAX, async || client_settings(&at, CLIENT_USER).connect(NoTls).await.is_ok());
    if !ready.await {
        bail!("HAProxy does not route writes within {READY_MAX:?}{}", cluster.ground().tail(NAME));
    }
    Ok(at)
}

fn config(cluster: &Cluster, at: &HostPort) -> String {
    let mut text = format!(
        "global\n    maxconn 1000\ndefaults\n    mode tcp\n    retries 2\n    timeout client 30m\n    timeout connect 4s\n    timeout server 30m\n    timeout check 5s\nlisten primary\n    bind {at}\n    option httpchk OPTIONS /primary\n    http-check expect status 200\n    default-server inter 3s fastinter 1s downinter 5s rise 3 fall 3 on-marked-down shutdown-sessions\n"
    );
    for member in cluster.members() {
        text += &format!(
            "    server {} {} maxconn 1000 check addr {} port {}\n",
            member.name, member.pg, member.api.host, member.api.port
        );
    }
    text
}

/// The first line of `haproxy -v`.
pub fn version() -> String {
    first_line("haproxy", "-v")
}

pub fn first_line(program: &str, flag: &str) -> String {
    let output = Command::new(program).arg(flag).output();
    let text = output.map(|it| String::from_utf8_lossy(&it.stdout).into_owned()).unwrap_or_default();
    text.lines().next().unwrap_or("not found").to_owned()
}
