//! What a configuration will do, in words, without its secrets.

use std::fmt::Write;
use std::time::Duration;

use super::quantity::{show_duration, show_size};
use super::{Admin, Cluster, Config, OrdersFrom, SyslogSpec, SyslogTarget, TlsFiles};
use crate::model::service::{ServiceCheck, SessionLog};
use crate::model::{
    CheckTiming, Cidr, CloseOnDown, ClusterSettings, ClusterSpec, Filter, HoldSpec, OnDcsLoss, RateSpec, Role,
    ServiceSpec, Splice, StaticMember, Trust, VipOnDcsLoss, VipOnExit, VipSpec,
};

impl Config {
    /// What would run, for people: `pgvane check` prints it.
    pub fn summary(&self) -> String {
        let services: usize = self.clusters.iter().map(|cluster| cluster.spec.services.len()).sum();
        let vips = if self.vips.is_empty() { String::new() } else { format!(", {}", count(self.vips.len(), "VIP")) };
        let mut text = format!("{}, {}{vips}\n", count(self.clusters.len(), "cluster"), count(services, "service"));
        line(
            &mut text,
            0,
            "state file",
            &self.state_file.as_ref().map_or("none".into(), |path| path.display().to_string()),
        );
        if let Some(syslog) = &self.log.syslog {
            line(&mut text, 0, "syslog", &show_syslog(syslog));
        }
        let (delay, drain) = (show_duration(self.shutdown.delay), show_duration(self.shutdown.drain));
        line(&mut text, 0, "shutdown", &format!("not ready for {delay}, then drain for up to {drain}"));
        line(&mut text, 0, "admin", &self.admin.as_ref().map_or("none".into(), show_admin));
        line(&mut text, 0, "splice", show_splice(self.splice));
        for vip in &self.vips {
            line(&mut text, 0, "vip", &show_vip(vip));
        }
        for cluster in &self.clusters {
            show_cluster(&mut text, cluster);
        }
        text
    }
}

fn show_syslog(syslog: &SyslogSpec) -> String {
    let target = match &syslog.target {
        SyslogTarget::Unix(path) => format!("unix:{}", path.display()),
        SyslogTarget::Udp(at) => format!("{at} over UDP"),
    };
    format!("{target}, facility {}", syslog.facility.as_str())
}

fn show_admin(admin: &Admin) -> String {
    let orders = match admin.orders {
        OrdersFrom::Nobody => "orders from nobody",
        OrdersFrom::Loopback => "orders from this host",
        OrdersFrom::Everybody => "orders from everybody",
    };
    format!("{}; {orders}", addresses(&admin.listen))
}

fn show_splice(splice: Splice) -> &'static str {
    match splice {
        Splice::Auto => "auto: bulk data goes to clients without being copied",
        Splice::Always => "always: whatever servers send goes to clients without being copied",
        Splice::Off => "off: all data is copied",
    }
}

fn show_vip(vip: &VipSpec) -> String {
    let role = match vip.role {
        Role::Primary => format!("the primary of {}", vip.cluster),
        Role::StandbyLeader => format!("the standby leader of {}", vip.cluster),
        Role::Sync => format!("the synchronous standby of {} that the DCS names", vip.cluster),
        role => format!("the {role} of {} that the DCS names", vip.cluster),
    };
    let member = vip.member.as_ref().map_or("the member on this host".to_string(), ToString::to_string);
    let loss = match vip.on_dcs_loss {
        VipOnDcsLoss::KeepWhilePatroniLeads => "kept while Patroni says that its member leads".to_string(),
        VipOnDcsLoss::Release if vip.grace.is_zero() => "released at once".to_string(),
        VipOnDcsLoss::Release => format!("released after {}", show_duration(vip.grace)),
        VipOnDcsLoss::Hold => "held whatever happens elsewhere".to_string(),
    };
    let exit = match vip.on_exit {
        VipOnExit::Release => "released".to_string(),
        VipOnExit::Keep(keep) => format!("kept for {}", show_duration(keep)),
    };
    let refresh = vip.refresh.map_or(String::new(), |pause| format!("; announced every {}", show_duration(pause)));
    let sockets = if vip.close_sockets { "; other programs' connections reset" } else { "" };
    let adopt = if vip.adopt { "; taken over from other programs" } else { "" };
    format!(
        "{} on {} while {member} is {role}; lease {}; without the DCS {loss}; {exit} at exit{refresh}{sockets}{adopt}",
        vip.address,
        vip.interface,
        show_duration(vip.lease)
    )
}

fn show_cluster(text: &mut String, cluster: &Cluster) {
    let spec = &cluster.spec;
    let scope = if spec.name == spec.scope { String::new() } else { format!(" (scope {})", spec.scope) };
    match &cluster.etcd {
        Some(etcd) => {
            text.push_str(&format!("\ncluster {}{scope}, keys under {}\n", spec.name, spec.prefix()));
            let user = match (&etcd.username, &etcd.password) {
                (Some(user), Some(_)) => format!(", as {user} with a password"),
                (Some(user), None) => format!(", as {user}"),
                (None, _) => String::new(),
            };
            line(text, 2, "etcd", &format!("{}{user}{}", etcd.endpoints.join(" "), tls(etcd.tls.as_ref())));
        }
        None => text.push_str(&format!("\ncluster {}{scope}, without a DCS\n", spec.name)),
    }
    if let Some(files) = &cluster.patroni_tls {
        line(text, 2, "patroni", &format!("REST API{}", tls(Some(files))));
    }
    show_trust(text, spec);
    for (name, member) in &spec.members {
        line(text, 2, "member", &format!("{name}{}", show_member(member)));
    }
    for service in &spec.services {
        show_service(text, spec.trust, service);
    }
}

fn show_trust(text: &mut String, spec: &ClusterSpec) {
    if spec.trust == Trust::Rest {
        return line(text, 2, "trust", "rest: HTTP checks alone");
    }
    line(text, 2, "trust", "confirm: the leader key, and the leader's own proof");
    let loss = match spec.on_dcs_loss {
        OnDcsLoss::Keep => "keep the leader while its REST API vouches for it",
        OnDcsLoss::Close => "cut at the end of the leader's lease",
    };
    line(text, 2, "DCS loss", loss);
    line(text, 2, "check", &show_timing(&spec.check));
}

fn show_timing(check: &CheckTiming) -> String {
    format!(
        "every {}, {} while changing, {} while down; up after {}, down after {}; each within {}",
        show_duration(check.inter),
        show_duration(check.fastinter),
        show_duration(check.downinter),
        check.rise,
        check.fall,
        show_duration(check.timeout),
    )
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
    let _ = member.weight.map(|weight| match weight {
        0 => write!(facts, ", weight 0: drained"),
        weight => write!(facts, ", weight {weight}"),
    });
    facts
}

fn show_service(text: &mut String, trust: Trust, service: &ServiceSpec) {
    let mut wants = service.role.to_string();
    for backup in &service.backup {
        wants.push_str(&format!(", else {backup}"));
    }
    wants.push_str(&show_filter(&service.filter));
    if let Some(port) = service.port {
        wants.push_str(&format!("; port {port} of the member"));
    }
    let bind = if service.freebind { ", there or not," } else { "" };
    line(text, 2, "service", &format!("{} on {}{bind} to {wants}", service.name, addresses(&service.listen)));
    if trust == Trust::Rest || service.check.path.is_some() {
        line(text, 4, "check", &show_check(service, &service.check));
    }
    if !service.allow.is_empty() {
        line(text, 4, "allow", &addresses(&service.allow.iter().map(show_network).collect::<Vec<_>>()));
    }
    line(text, 4, "hold", &show_hold(service, trust));
    line(text, 4, "connect", &show_connect(service));
    line(text, 4, "limits", &show_limits(service));
    line(text, 4, "rate", &show_rate(&service.rate));
    line(text, 4, "sessions", &show_sessions(service));
}

fn show_filter(filter: &Filter) -> String {
    let mut text = String::new();
    if !filter.members.is_empty() {
        text.push_str(&format!("; only {}", addresses(&filter.members)));
    }
    for (key, value) in &filter.tags {
        text.push_str(&format!("; only with the tag {key}={value}"));
    }
    if filter.streaming {
        text.push_str("; replicas only while streaming");
    }
    if let Some(lag) = filter.max_lag {
        text.push_str(&format!("; replicas only up to {} behind", show_size(lag)));
    }
    text
}

fn show_check(service: &ServiceSpec, check: &ServiceCheck) -> String {
    let mut paths: Vec<String> = Vec::new();
    for role in service.tiers() {
        let path = service.check_of(role).path.to_string();
        if !paths.contains(&path) {
            paths.push(path);
        }
    }
    let port = check.port.map_or(String::new(), |port| format!(" on port {port}"));
    let observed = match check.observe.error_limit {
        0 => "clients are not observed".to_string(),
        limit => format!("{limit} failed connects in a row: {}", check.observe.on_error.as_str()),
    };
    format!("GET {}{port} is {}; {}; {observed}", paths.join(" or "), check.expect, show_timing(&check.timing))
}

fn show_connect(service: &ServiceSpec) -> String {
    format!(
        "within {}, {}; {}; startup packet within {}",
        show_duration(service.connect_timeout),
        match service.retries {
            0 => "no retry".to_string(),
            1 => "1 retry".to_string(),
            n => format!("{n} retries"),
        },
        service.balance.as_str(),
        show_duration(service.startup_timeout),
    )
}

fn show_limits(service: &ServiceSpec) -> String {
    let clients = match service.clients_max {
        0 => "any number of clients".to_string(),
        limit => format!("up to {limit} clients"),
    };
    let sessions = match service.maxconn {
        0 => "any number of sessions per member".to_string(),
        limit => {
            let waiting = match service.queue.max {
                0 => "nobody waits for a place".to_string(),
                max => format!("{max} more wait up to {}", show_duration(service.queue.timeout)),
            };
            format!("up to {limit} sessions per member, {waiting}")
        }
    };
    let slow = match service.slowstart {
        Duration::ZERO => String::new(),
        slow => format!("; full share after {}", show_duration(slow)),
    };
    format!("{clients}; {sessions}{slow}")
}

/// One address as people write it.
fn show_network(network: &Cidr) -> String {
    let single = network.prefix_len() == network.max_prefix_len();
    if single { network.addr().to_string() } else { network.to_string() }
}

fn show_rate(rate: &RateSpec) -> String {
    let limits = [
        (rate.max, "clients"),
        (rate.per_client_max, "clients of one address"),
        (rate.cancels_max, "cancel requests of one address"),
    ];
    let shown: Vec<String> =
        limits.iter().filter(|(max, _)| *max > 0).map(|(max, what)| format!("{max} {what}")).collect();
    if shown.is_empty() { "no limits".to_string() } else { format!("each second up to {}", shown.join(", ")) }
}

fn show_sessions(service: &ServiceSpec) -> String {
    let tcp = &service.tcp;
    format!(
        "{}; {}; keepalive after {}, {} probes {} apart; unacknowledged for {} at most; {} logged",
        match service.close_on_down {
            CloseOnDown::Stay => "stay when their member is down".to_string(),
            CloseOnDown::Cut { grace: Duration::ZERO } => "cut when their member is down".to_string(),
            CloseOnDown::Cut { grace } => format!("cut when their member is down for {}", show_duration(grace)),
        },
        match service.drain {
            Duration::ZERO => "no time to end a transaction in maintenance".to_string(),
            drain => format!("{} to end a transaction in maintenance", show_duration(drain)),
        },
        show_duration(tcp.keepalive_idle),
        tcp.keepalive_count,
        show_duration(tcp.keepalive_interval),
        show_duration(tcp.user_timeout),
        match service.session_log {
            SessionLog::Off => "none",
            SessionLog::Errors => "errors",
            SessionLog::All => "all",
        },
    )
}

fn show_hold(service: &ServiceSpec, trust: Trust) -> String {
    let hold = &service.hold;
    match hold {
        HoldSpec::Off => "off: refuse at once".to_string(),
        HoldSpec::On { timeout, max } => {
            let limit = match (timeout, trust) {
                (Some(timeout), _) => show_duration(*timeout),
                (None, Trust::Confirm) => "the cluster's ttl + 15s".to_string(),
                (None, Trust::Rest) => show_duration(hold.limit(ClusterSettings::default().ttl).unwrap_or_default()),
            };
            let told =
                service.hold_notice.map_or(String::new(), |wait| format!("; told after {}", show_duration(wait)));
            format!("up to {max} clients for {limit}{told}")
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
