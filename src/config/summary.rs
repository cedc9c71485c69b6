//! What a configuration will do, in words, without its secrets.

use std::fmt::Write;
use std::time::Duration;

use super::quantity::{show_duration, show_size};
use super::{Cluster, Config, TlsFiles};
use crate::model::{CloseOnDown, HoldSpec, OnDcsLoss, ServiceSpec, StaticMember};

impl Config {
    /// What would run, for people: `pgvane check` prints it.
    pub fn summary(&self) -> String {
        let services: usize = self.clusters.iter().map(|cluster| cluster.spec.services.len()).sum();
        let mut text = format!("{}, {}\n", count(self.clusters.len(), "cluster"), count(services, "service"));
        line(
            &mut text,
            0,
            "state file",
            &self.state_file.as_ref().map_or("none".into(), |path| path.display().to_string()),
        );
        let (delay, drain) = (show_duration(self.shutdown.delay), show_duration(self.shutdown.drain));
        line(&mut text, 0, "shutdown", &format!("not ready for {delay}, then drain for up to {drain}"));
        line(&mut text, 0, "admin", &self.admin.as_ref().map_or("none".into(), |admin| addresses(&admin.listen)));
        for cluster in &self.clusters {
            show_cluster(&mut text, cluster);
        }
        text
    }
}

fn show_cluster(text: &mut String, cluster: &Cluster) {
    let spec = &cluster.spec;
    text.push_str(&format!("\ncluster {}, keys under {}\n", spec.name, spec.prefix()));
    let etcd = cluster.etcd.clone().unwrap_or_default();
    let user = match (&etcd.username, &etcd.password) {
        (Some(user), Some(_)) => format!(", as {user} with a password"),
        (Some(user), None) => format!(", as {user}"),
        (None, _) => String::new(),
    };
    line(text, 2, "etcd", &format!("{}{user}{}", etcd.endpoints.join(" "), tls(etcd.tls.as_ref())));
    if let Some(files) = &cluster.patroni_tls {
        line(text, 2, "patroni", &format!("REST API{}", tls(Some(files))));
    }
    let loss = match spec.on_dcs_loss {
        OnDcsLoss::Keep => "keep the leader while its REST API vouches for it",
        OnDcsLoss::Close => "cut at the end of the leader's lease",
    };
    line(text, 2, "DCS loss", loss);
    let check = &spec.check;
    let pace = format!(
        "every {}, {} while changing, {} while down; up after {}, down after {}; each within {}",
        show_duration(check.inter),
        show_duration(check.fastinter),
        show_duration(check.downinter),
        check.rise,
        check.fall,
        show_duration(check.timeout),
    );
    line(text, 2, "check", &pace);
    for (name, member) in &spec.members {
        line(text, 2, "member", &format!("{name}{}", show_member(member)));
    }
    for service in &spec.services {
        show_service(text, service);
    }
}

fn show_member(member: &StaticMember) -> String {
    let mut facts = String::new();
    match member.offline {
        Some(true) => facts.push_str(", offline"),
        Some(false) => facts.push_str(", not offline"),
        None => {}
    }
    // Writing to a String cannot fail.
    let _ = member.host.as_ref().map(|host| write!(facts, ", host {host}"));
    let _ = member.port.map(|port| write!(facts, ", port {port}"));
    let _ = member.api.as_ref().map(|api| write!(facts, ", api {api}"));
    facts
}

fn show_service(text: &mut String, service: &ServiceSpec) {
    let mut wants = service.role.to_string();
    for backup in &service.backup {
        wants.push_str(&format!(", else {backup}"));
    }
    if service.filter.streaming {
        wants.push_str("; replicas only while streaming");
    }
    if let Some(lag) = service.filter.max_lag {
        wants.push_str(&format!("; replicas only up to {} behind", show_size(lag)));
    }
    if let Some(port) = service.port {
        wants.push_str(&format!("; port {port} of the member"));
    }
    line(text, 2, "service", &format!("{} on {} to {wants}", service.name, addresses(&service.listen)));
    line(text, 4, "hold", &show_hold(&service.hold));
    let connect = format!(
        "within {}, {}; {}; startup packet within {}",
        show_duration(service.connect_timeout),
        match service.retries {
            0 => "no retry".to_string(),
            1 => "1 retry".to_string(),
            n => format!("{n} retries"),
        },
        service.balance.as_str(),
        show_duration(service.startup_timeout),
    );
    line(text, 4, "connect", &connect);
    let tcp = &service.tcp;
    let sessions = format!(
        "{} when their member is down; keepalive after {}, {} probes {} apart; unacknowledged for {} at most",
        if service.close_on_down != CloseOnDown::Stay { "cut" } else { "stay" },
        show_duration(tcp.keepalive_idle),
        tcp.keepalive_count,
        show_duration(tcp.keepalive_interval),
        show_duration(tcp.user_timeout),
    );
    line(text, 4, "sessions", &sessions);
}

fn show_hold(hold: &HoldSpec) -> String {
    match hold {
        HoldSpec::Off => "off: refuse at once".to_string(),
        HoldSpec::On { timeout, max } => {
            let limit = |timeout: &Duration| show_duration(*timeout);
            let limit = timeout.as_ref().map_or("the cluster's ttl + 15s".to_string(), limit);
            format!("up to {max} clients for {limit}")
        }
    }
}

fn tls(files: Option<&TlsFiles>) -> String {
    let Some(files) = files else { return String::new() };
    let ca = files.ca.as_ref().map_or("this system's authorities".to_string(), |ca| ca.display().to_string());
    let own = files.cert.as_ref().map_or(String::new(), |cert| format!(", own certificate {}", cert.display()));
    format!(", TLS with {ca}{own}")
}

fn addresses<T: ToString>(list: &[T]) -> String {
    list.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

fn line(text: &mut String, indent: usize, label: &str, value: &str) {
    text.push_str(&format!("{:indent$}{label:<11}{value}\n", ""));
}
