//! The metrics of HAProxy's exporter (names, types, labels and words of 2.6), for dashboards and alerts
//! that know them: `proxy` is `<cluster>-<service>`, `server` is the member.
//!
//! Only what there is a true value for is written. `in` is from the client, `out` to it.

use std::collections::BTreeSet;
use std::time::Instant;

use crate::decide::status::MemberSnapshot;
use crate::decide::{CheckSnapshot, ServiceRoutes, ServiceSnapshot, Standing, TargetSnapshot, TargetState};
use crate::model::{CheckStatus, Reason};

use super::exposition::{Family, Labelled, Page, States, counter, gauge, number};
use super::{ClusterReport, Lifecycle, process};

const SERVER_STATES: &[&str] = &["DOWN", "UP", "MAINT", "DRAIN", "NOLB"];
const PROXY_STATES: &[&str] = &["DOWN", "UP"];
/// HAProxy's, of which `HANA`, `L4OK`, `L6OK`, `L7OKC` and `PROC*` never happen here.
const CHECK_STATES: &[&str] = &[
    "HANA", "SOCKERR", "L4OK", "L4TOUT", "L4CON", "L6OK", "L6TOUT", "L6RSP", "L7TOUT", "L7RSP", "L7OK", "L7OKC",
    "L7STS", "PROCERR", "PROCTOUT", "PROCOK",
];

pub fn render(lifecycle: &Lifecycle, reports: &[ClusterReport], now: Instant) -> String {
    let proxies = proxies(lifecycle, reports, now);
    let servers: Vec<Server<'_>> = proxies.iter().flat_map(|proxy| proxy.servers()).collect();
    let whole = [Whole { lifecycle, proxies: &proxies, now }];
    let mut page = Page::default();
    Whole::FAMILIES.iter().for_each(|family| page.family(family, &whole));
    Proxy::FRONTEND.iter().chain(Proxy::BACKEND).for_each(|family| page.family(family, &proxies));
    Proxy::STATES.iter().for_each(|family| page.states(family, &proxies));
    Server::FAMILIES.iter().for_each(|family| page.family(family, &servers));
    Server::STATES.iter().for_each(|family| page.states(family, &servers));
    page.into_text()
}

/// The process.
struct Whole<'a> {
    lifecycle: &'a Lifecycle,
    proxies: &'a [Proxy<'a>],
    now: Instant,
}

impl Labelled for Whole<'_> {
    fn labels(&self) -> Vec<(&'static str, &str)> {
        Vec::new()
    }
}

impl Whole<'_> {
    fn sum(&self, of: impl Fn(&ServiceSnapshot) -> u64) -> Option<f64> {
        Some(number(self.proxies.iter().filter_map(|proxy| proxy.counted.map(&of)).sum()))
    }
}

/// One service, which is a frontend and a backend to HAProxy (a `listen` section).
struct Proxy<'a> {
    name: String,
    routes: &'a ServiceRoutes,
    counted: Option<&'a ServiceSnapshot>,
    members: &'a [MemberSnapshot],
    is_stopping: bool,
    now: Instant,
}

impl Labelled for Proxy<'_> {
    fn labels(&self) -> Vec<(&'static str, &str)> {
        vec![("proxy", &self.name)]
    }
}

/// A name that two services would share goes to the first of them; a page with two samples of one
/// name is refused as a whole.
fn proxies<'a>(lifecycle: &Lifecycle, reports: &'a [ClusterReport], now: Instant) -> Vec<Proxy<'a>> {
    let mut taken = BTreeSet::new();
    let services = reports.iter().flat_map(|report| report.snapshot.routes.services.iter().map(move |s| (report, s)));
    let proxy = |(report, routes): (&'a ClusterReport, &'a ServiceRoutes)| {
        let service = &routes.spec.name;
        let names = [format!("{}-{service}", report.name), format!("{}/{service}", report.name)];
        let name = names.into_iter().find(|name| taken.insert(name.clone()))?;
        Some(Proxy {
            name,
            routes,
            counted: report.services.iter().find(|counted| counted.service == *service),
            members: &report.snapshot.members,
            is_stopping: lifecycle.is_stopping(),
            now,
        })
    };
    services.filter_map(proxy).collect()
}

impl<'a> Proxy<'a> {
    fn count(&self, of: impl Fn(&ServiceSnapshot) -> u64) -> Option<f64> {
        self.counted.map(|counted| number(of(counted)))
    }

    fn servers(&'a self) -> impl Iterator<Item = Server<'a>> {
        self.routes.standings.iter().map(move |standing| {
            let member = self.members.iter().find(|member| member.name == standing.member);
            let check = member.and_then(|member| member.check_of(&self.routes.spec));
            let counted = self.counted.and_then(|c| c.targets.iter().find(|t| t.member == standing.member));
            Server { proxy: self, standing, member, check, counted }
        })
    }

    /// Usable servers of the service's own role, and of its backups whether they are used or not.
    fn usable(&self) -> (usize, usize) {
        let own = self.routes.targets.iter().filter(|target| target.role == self.routes.spec.role).count();
        let unused = self.routes.standings.iter().filter(|standing| standing.reason == Reason::BackupUnused).count();
        (own, self.routes.targets.len() - own + unused)
    }

    fn weight(&self) -> f64 {
        self.routes.targets.iter().map(|target| f64::from(target.weight)).sum()
    }

    fn ended(&self, wanted: &[Reason]) -> Option<f64> {
        self.count(|c| c.closed.iter().filter(|(reason, _)| wanted.contains(reason)).map(|(_, count)| count).sum())
    }
}

/// One member as a server of one service.
struct Server<'a> {
    proxy: &'a Proxy<'a>,
    standing: &'a Standing,
    member: Option<&'a MemberSnapshot>,
    check: Option<&'a CheckSnapshot>,
    /// None: no session ever came to it.
    counted: Option<&'a TargetSnapshot>,
}

impl Labelled for Server<'_> {
    fn labels(&self) -> Vec<(&'static str, &str)> {
        vec![("proxy", &self.proxy.name), ("server", self.standing.member.as_str())]
    }
}

impl Server<'_> {
    fn count(&self, of: impl Fn(&TargetSnapshot) -> u64) -> Option<f64> {
        self.proxy.counted.map(|_| self.counted.map_or(0.0, |counted| number(of(counted))))
    }

    fn checked<T>(&self, of: impl Fn(&CheckSnapshot) -> T) -> Option<T> {
        self.check.map(of)
    }

    /// A percentage while `slowstart` lasts, NaN otherwise, as HAProxy has it.
    fn throttle(&self) -> f64 {
        let slowstart = self.proxy.routes.spec.slowstart;
        let target = self.proxy.routes.targets.iter().find(|target| target.member == self.standing.member);
        match target.and_then(|target| target.risen_at) {
            Some(risen) if !slowstart.is_zero() && self.proxy.now < risen + slowstart => {
                let passed = self.proxy.now.saturating_duration_since(risen);
                (100.0 * passed.as_secs_f64() / slowstart.as_secs_f64()).floor().clamp(1.0, 100.0)
            }
            _ => f64::NAN,
        }
    }
}

/// Healthy and without new sessions is NOLB, because "not my role" is not DOWN.
fn server_state(state: TargetState) -> &'static str {
    match state {
        TargetState::Open => "UP",
        TargetState::Waiting | TargetState::Standby | TargetState::Excluded => "NOLB",
        TargetState::Drain => "DRAIN",
        TargetState::Maint => "MAINT",
        TargetState::Down | TargetState::Unknown => "DOWN",
    }
}

/// A word of [`CHECK_STATES`]; none of them before the first check.
fn check_state(check: &CheckSnapshot) -> &'static str {
    if check.status == CheckStatus::Initializing { "" } else { check.status.as_str() }
}

impl<'a> Whole<'a> {
    const FAMILIES: &'a [Family<Self>] = &[
        gauge("haproxy_process_start_time_seconds", "Start of the process, in seconds since 1970.", |w| {
            Some(w.lifecycle.process.started_unix.floor())
        }),
        gauge("haproxy_process_uptime_seconds", "Age of the process.", |w| {
            Some(number(w.now.saturating_duration_since(w.lifecycle.process.started_at).as_secs()))
        }),
        gauge(
            "haproxy_process_idle_time_percent",
            "Share of the cores' time that was not used since the last look.",
            |w| Some(w.lifecycle.process.idle_percent(w.now).round()),
        ),
        gauge("haproxy_process_nbthread", "Cores that the process may use.", |w| {
            Some(number(w.lifecycle.process.cores as u64))
        }),
        gauge("haproxy_process_nbproc", "Processes.", |_| Some(1.0)),
        gauge("haproxy_process_max_fds", "Limit of open file descriptors.", |_| process::descriptors_max().map(number)),
        gauge("haproxy_process_max_connections", "Clients that descriptors suffice for, two each.", |_| {
            process::descriptors_max().map(|max| number(max / 2))
        }),
        gauge("haproxy_process_current_connections", "Connected clients.", |w| w.sum(|c| c.clients as u64)),
        counter("haproxy_process_connections_total", "Accepted connections.", |w| w.sum(|c| c.clients_total)),
        counter("haproxy_process_bytes_out_total", "Bytes sent to clients.", |w| w.sum(|c| c.bytes_to_client)),
        gauge("haproxy_process_listeners", "Listening sockets.", |w| {
            Some(number(w.proxies.iter().map(|proxy| proxy.routes.spec.listen.len() as u64).sum()))
        }),
        gauge("haproxy_process_stopping", "1 while the router shuts down.", |w| {
            Some(f64::from(u8::from(w.lifecycle.is_stopping())))
        }),
    ];
}

impl<'a> Proxy<'a> {
    const FRONTEND: &'a [Family<Self>] = &[
        gauge("haproxy_frontend_current_sessions", "Connected clients.", |p| p.count(|c| c.clients as u64)),
        gauge("haproxy_frontend_max_sessions", "Most clients at a time.", |p| p.count(|c| c.clients_most as u64)),
        gauge("haproxy_frontend_limit_sessions", "Clients that may be connected at a time.", |p| {
            match p.routes.spec.clients_max {
                0 => process::descriptors_max().map(|max| number(max / 2)),
                limit => Some(number(limit as u64)),
            }
        }),
        counter("haproxy_frontend_sessions_total", "Accepted clients.", |p| p.count(|c| c.clients_total)),
        counter("haproxy_frontend_connections_total", "Accepted connections.", |p| p.count(|c| c.clients_total)),
        counter("haproxy_frontend_bytes_in_total", "Bytes from clients.", |p| p.count(|c| c.bytes_to_server)),
        counter("haproxy_frontend_bytes_out_total", "Bytes to clients.", |p| p.count(|c| c.bytes_to_client)),
        counter("haproxy_frontend_request_errors_total", "Clients that did not begin as PostgreSQL clients do.", |p| {
            let wrong = [Reason::StartupMalformed, Reason::StartupTimedOut];
            p.count(|c| c.refused.iter().filter(|(reason, _)| wrong.contains(reason)).map(|(_, count)| count).sum())
        }),
    ];
}

// To HAProxy a client of a `listen` section is in its backend from the start, waiting or not.
impl<'a> Proxy<'a> {
    const BACKEND: &'a [Family<Self>] = &[
        gauge("haproxy_backend_current_sessions", "Connected clients, served or waiting.", |p| {
            p.count(|c| c.clients as u64)
        }),
        gauge("haproxy_backend_max_sessions", "Most clients at a time.", |p| p.count(|c| c.clients_most as u64)),
        counter("haproxy_backend_sessions_total", "Clients so far.", |p| p.count(|c| c.clients_total)),
        gauge("haproxy_backend_current_queue", "Clients that wait for a free place under maxconn.", |p| {
            p.count(|c| c.queued as u64)
        }),
        gauge("haproxy_backend_max_queue", "Most clients in the queue at a time.", |p| {
            p.count(|c| c.queued_most as u64)
        }),
        counter("haproxy_backend_bytes_in_total", "Bytes from clients.", |p| p.count(|c| c.bytes_to_server)),
        counter("haproxy_backend_bytes_out_total", "Bytes to clients.", |p| p.count(|c| c.bytes_to_client)),
        counter("haproxy_backend_connection_errors_total", "Failed attempts to reach a server.", |p| {
            p.count(|c| c.connects_failed.iter().map(|(_, count)| count).sum())
        }),
        counter("haproxy_backend_retry_warnings_total", "Startups that were sent again.", |p| {
            p.count(|c| c.replays_total)
        }),
        counter("haproxy_backend_loadbalanced_total", "Sessions that were given a server.", |p| {
            p.count(|c| c.sessions_total)
        }),
        counter("haproxy_backend_client_aborts_total", "Sessions that broke on the client's side.", |p| {
            p.ended(&[Reason::ClientError])
        }),
        counter("haproxy_backend_server_aborts_total", "Sessions that broke on the server's side.", |p| {
            p.ended(&[Reason::ServerError, Reason::ServerReset])
        }),
        gauge("haproxy_backend_active_servers", "Members of the service's own role that take sessions.", |p| {
            Some(number(p.usable().0 as u64))
        }),
        gauge("haproxy_backend_backup_servers", "Usable backups.", |p| Some(number(p.usable().1 as u64))),
        gauge("haproxy_backend_weight", "Sum of the weights of those that take sessions.", |p| Some(p.weight())),
        gauge("haproxy_backend_uweight", "Sum of the weights of those that take sessions.", |p| Some(p.weight())),
    ];
}

impl<'a> Proxy<'a> {
    const STATES: &'a [States<Self>] = &[
        States {
            name: "haproxy_frontend_status",
            help: "1 for the state of the service's listeners.",
            words: PROXY_STATES,
            value: |p, word| Some(is(word, if p.is_stopping { "DOWN" } else { "UP" })),
        },
        States {
            name: "haproxy_backend_status",
            help: "1 for UP while any member takes sessions.",
            words: PROXY_STATES,
            value: |p, word| Some(is(word, if p.routes.targets.is_empty() { "DOWN" } else { "UP" })),
        },
        States {
            name: "haproxy_backend_agg_server_status",
            help: "Members by state.",
            words: SERVER_STATES,
            value: |p, word| Some(p.routes.standings.iter().map(|s| is(word, server_state(s.state))).sum()),
        },
        States {
            name: "haproxy_backend_agg_server_check_status",
            help: "Members by state.",
            words: SERVER_STATES,
            value: |p, word| Some(p.routes.standings.iter().map(|s| is(word, server_state(s.state))).sum()),
        },
        States {
            name: "haproxy_backend_agg_check_status",
            help: "Members by how their last check ended.",
            words: CHECK_STATES,
            value: |p, word| Some(p.servers().filter_map(|s| s.check).map(|check| is(word, check_state(check))).sum()),
        },
    ];
}

impl<'a> Server<'a> {
    const FAMILIES: &'a [Family<Self>] = &[
        gauge("haproxy_server_current_sessions", "Open sessions.", |s| s.count(|t| t.sessions as u64)),
        gauge("haproxy_server_max_sessions", "Most sessions at a time.", |s| s.count(|t| t.sessions_most as u64)),
        gauge("haproxy_server_limit_sessions", "maxconn; NaN without.", |s| match s.proxy.routes.spec.maxconn {
            0 => Some(f64::NAN),
            limit => Some(number(limit as u64)),
        }),
        counter("haproxy_server_sessions_total", "Sessions so far.", |s| s.count(|t| t.sessions_total)),
        counter("haproxy_server_loadbalanced_total", "Sessions so far.", |s| s.count(|t| t.sessions_total)),
        counter("haproxy_server_bytes_in_total", "Bytes from clients.", |s| s.count(|t| t.bytes_to_server)),
        counter("haproxy_server_bytes_out_total", "Bytes to clients.", |s| s.count(|t| t.bytes_to_client)),
        counter("haproxy_server_connection_errors_total", "Failed attempts to reach it.", |s| {
            s.count(|t| t.connects_failed)
        }),
        gauge("haproxy_server_weight", "Its weight.", |s| s.member.map(|m| f64::from(m.weight))),
        gauge("haproxy_server_uweight", "Its weight.", |s| s.member.map(|m| f64::from(m.weight))),
        gauge("haproxy_server_current_throttle", "Percent of its weight during slowstart; NaN otherwise.", |s| {
            Some(s.throttle())
        }),
        counter("haproxy_server_check_failures_total", "Failed checks that counted.", |s| {
            s.checked(|c| number(c.failures))
        }),
        counter("haproxy_server_check_up_down_total", "Changes from up to down.", |s| s.checked(|c| number(c.downs))),
        counter("haproxy_server_downtime_seconds_total", "Time spent down.", |s| {
            s.checked(|c| number(c.down_for.as_secs()))
        }),
        gauge("haproxy_server_check_last_change_seconds", "Since its state changed.", |s| {
            Some(number(s.proxy.now.saturating_duration_since(s.standing.since).as_secs()))
        }),
        gauge("haproxy_server_check_code", "HTTP status of the last check; 0 without.", |s| {
            s.checked(|c| f64::from(c.code.unwrap_or(0)))
        }),
        gauge("haproxy_server_check_duration_seconds", "Duration of the last check.", |s| {
            s.checked(|c| c.took.as_secs_f64())
        }),
    ];
}

impl<'a> Server<'a> {
    const STATES: &'a [States<Self>] = &[
        States {
            name: "haproxy_server_status",
            help: "1 for the state of the member in this service; NOLB is healthy and without new sessions.",
            words: SERVER_STATES,
            value: |s, word| Some(is(word, server_state(s.standing.state))),
        },
        States {
            name: "haproxy_server_check_status",
            help: "1 for how the last check ended.",
            words: CHECK_STATES,
            value: |s, word| s.checked(|c| is(word, check_state(c))),
        },
    ];
}

fn is(word: &str, state: &str) -> f64 {
    f64::from(u8::from(word == state))
}
