//! `/metrics`: every figure is made from the reports when it is asked for, so nothing on the data
//! path looks up a label.

use std::time::Instant;

use prometheus::core::Collector;
use prometheus::{CounterVec, GaugeVec, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder};

use crate::decide::status::MemberSnapshot;
use crate::decide::{CheckSnapshot, DcsState, ServiceSnapshot, TargetState};
use crate::model::{AdminState, Expect, SpliceSnapshot};

use super::{ClusterReport, Lifecycle};

/// The text exposition, or what the library did not like.
pub fn render(
    lifecycle: &Lifecycle,
    reports: &[ClusterReport],
    splice: Option<&SpliceSnapshot>,
    now: Instant,
) -> Result<String, prometheus::Error> {
    let page = Page::new(Registry::new())?;
    page.lifecycle(lifecycle);
    splice.into_iter().for_each(|splice| page.splice(splice));
    for report in reports {
        page.cluster(report, now);
        for counted in &report.services {
            page.service(&report.name, counted);
        }
    }
    TextEncoder::new().encode_to_string(&page.registry.gather())
}

struct Page {
    registry: Registry,
    stopping: IntGaugeVec,
    reloads: IntCounterVec,
    reload_success: IntGaugeVec,
    configured_at: GaugeVec,
    leaving: IntGaugeVec,
    splice: IntGaugeVec,
    spliced: IntCounterVec,
    dcs_state: IntGaugeVec,
    dcs_read_age: GaugeVec,
    dcs_lease_left: GaugeVec,
    dcs_problems: IntGaugeVec,
    generation: IntGaugeVec,
    leader_key: IntGaugeVec,
    leader_open: IntGaugeVec,
    timeline_mark: IntGaugeVec,
    member_up: IntGaugeVec,
    member_lag: IntGaugeVec,
    member_admin_state: IntGaugeVec,
    member_weight: IntGaugeVec,
    check_up: IntGaugeVec,
    check_seconds: GaugeVec,
    check_failures: IntCounterVec,
    check_downs: IntCounterVec,
    target_state: IntGaugeVec,
    target_sessions: IntGaugeVec,
    target_sessions_total: IntCounterVec,
    target_bytes: IntCounterVec,
    target_connects_failed: IntCounterVec,
    connected: IntGaugeVec,
    queue: IntGaugeVec,
    queue_total: IntCounterVec,
    held: IntGaugeVec,
    held_longest: GaugeVec,
    clients: IntCounterVec,
    sessions: IntCounterVec,
    closed: IntCounterVec,
    refused: IntCounterVec,
    client_errors: IntCounterVec,
    holds: IntCounterVec,
    hold_seconds: CounterVec,
    bytes: IntCounterVec,
    connects_failed: IntCounterVec,
    replays: IntCounterVec,
    cancels: IntCounterVec,
}

fn add<C: Collector + Clone + 'static>(registry: &Registry, made: prometheus::Result<C>) -> prometheus::Result<C> {
    let metric = made?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

impl Page {
    fn new(registry: Registry) -> prometheus::Result<Page> {
        let r = &registry;
        let ints = |name: &str, help: &str, labels: &[&str]| add(r, IntGaugeVec::new(Opts::new(name, help), labels));
        let floats = |name: &str, help: &str, labels: &[&str]| add(r, GaugeVec::new(Opts::new(name, help), labels));
        let counts =
            |name: &str, help: &str, labels: &[&str]| add(r, IntCounterVec::new(Opts::new(name, help), labels));
        let seconds = |name: &str, help: &str, labels: &[&str]| add(r, CounterVec::new(Opts::new(name, help), labels));
        let service = ["cluster", "service"];
        let check = ["cluster", "member", "check"];
        let target = ["cluster", "service", "member"];
        Ok(Page {
            stopping: ints("pgvane_stopping", "1 while the router shuts down.", &[])?,
            reloads: counts("pgvane_config_reloads_total", "Reloads of the configuration, by result.", &["result"])?,
            reload_success: ints(
                "pgvane_config_reload_success",
                "0 when the configuration was refused the last time it was read.",
                &[],
            )?,
            configured_at: floats(
                "pgvane_config_reload_success_timestamp_seconds",
                "When the present configuration was read.",
                &[],
            )?,
            leaving: ints(
                "pgvane_clusters_leaving",
                "Clusters removed from the configuration that still have sessions.",
                &[],
            )?,
            splice: ints(
                "pgvane_splice",
                "1 for how bulk data goes to clients: as configured, or copied because splice is unusable here.",
                &["state"],
            )?,
            spliced: counts(
                "pgvane_spliced_bytes_total",
                "Bytes forwarded without being copied to this process.",
                &[],
            )?,
            dcs_state: ints(
                "pgvane_dcs_state",
                "1 for the state that the view of the DCS is in.",
                &["cluster", "state"],
            )?,
            dcs_read_age: floats(
                "pgvane_dcs_read_age_seconds",
                "Age of the last answered linearizable read.",
                &["cluster"],
            )?,
            dcs_lease_left: floats(
                "pgvane_dcs_lease_left_seconds",
                "What is left of the leader's lease as last read.",
                &["cluster"],
            )?,
            dcs_problems: ints(
                "pgvane_dcs_malformed_keys",
                "Keys of the cluster that could not be understood.",
                &["cluster"],
            )?,
            generation: ints("pgvane_routes_generation", "Number of the routing table.", &["cluster"])?,
            leader_key: ints(
                "pgvane_leader_key",
                "1 for the member that the leader key names.",
                &["cluster", "member"],
            )?,
            leader_open: ints(
                "pgvane_leader_open",
                "1 for the member that takes new write sessions.",
                &["cluster", "member"],
            )?,
            timeline_mark: ints(
                "pgvane_timeline_mark",
                "Highest timeline that a leader proved.",
                &["cluster", "system_id"],
            )?,
            member_up: ints("pgvane_member_up", "1 when the member's checks pass.", &["cluster", "member"])?,
            member_lag: ints(
                "pgvane_member_lag_bytes",
                "Replay lag by the positions in the DCS.",
                &["cluster", "member"],
            )?,
            member_admin_state: ints(
                "pgvane_member_admin_state",
                "1 for the state that an operator ordered.",
                &["cluster", "member", "state"],
            )?,
            member_weight: ints("pgvane_member_weight", "Weight, as configured or ordered.", &["cluster", "member"])?,
            check_up: ints("pgvane_check_up", "1 while the check passes by its counter.", &check)?,
            check_seconds: floats("pgvane_check_duration_seconds", "Duration of the last check.", &check)?,
            check_failures: counts("pgvane_check_failures_total", "Failed checks that counted.", &check)?,
            check_downs: counts("pgvane_check_downs_total", "Changes from up to down.", &check)?,
            target_state: ints(
                "pgvane_target_state",
                "1 for the state in which a member stands to a service.",
                &["cluster", "service", "member", "state"],
            )?,
            target_sessions: ints("pgvane_target_sessions", "Open sessions.", &target)?,
            target_sessions_total: counts("pgvane_target_sessions_total", "Opened sessions.", &target)?,
            target_bytes: counts(
                "pgvane_target_bytes_total",
                "Bytes forwarded.",
                &["cluster", "service", "member", "direction"],
            )?,
            target_connects_failed: counts(
                "pgvane_target_connects_failed_total",
                "Failed attempts to reach it.",
                &target,
            )?,
            connected: ints("pgvane_clients", "Connected clients, served or waiting.", &service)?,
            queue: ints("pgvane_queue", "Clients that wait for a free place under maxconn.", &service)?,
            queue_total: counts("pgvane_queue_total", "Clients that had to wait for a free place.", &service)?,
            held: ints("pgvane_held", "Clients that wait for a target.", &service)?,
            held_longest: floats(
                "pgvane_held_longest_seconds",
                "Wait of the client that has waited longest.",
                &service,
            )?,
            clients: counts("pgvane_clients_total", "Accepted connections.", &service)?,
            sessions: counts("pgvane_sessions_total", "Opened sessions.", &service)?,
            closed: counts(
                "pgvane_sessions_closed_total",
                "Ended sessions, by reason.",
                &["cluster", "service", "reason"],
            )?,
            refused: counts(
                "pgvane_clients_refused_total",
                "Clients that never reached a server, by reason.",
                &["cluster", "service", "reason"],
            )?,
            client_errors: counts(
                "pgvane_client_errors_total",
                "Errors that clients were told by the router itself, by SQLSTATE.",
                &["cluster", "service", "sqlstate"],
            )?,
            holds: counts("pgvane_holds_total", "Clients that had to wait.", &service)?,
            hold_seconds: seconds("pgvane_hold_seconds_total", "Time spent waiting.", &service)?,
            bytes: counts("pgvane_bytes_total", "Bytes forwarded.", &["cluster", "service", "direction"])?,
            connects_failed: counts(
                "pgvane_connects_failed_total",
                "Failed attempts to reach a target, by reason.",
                &["cluster", "service", "reason"],
            )?,
            replays: counts("pgvane_startup_replays_total", "Startup packets sent again.", &service)?,
            cancels: counts(
                "pgvane_cancels_total",
                "Cancel requests passed on: to the owner of their key, or to all that may be.",
                &["cluster", "service", "to"],
            )?,
            registry,
        })
    }

    fn lifecycle(&self, lifecycle: &Lifecycle) {
        const ALONE: &[&str] = &[];
        let reloads = lifecycle.reloads();
        self.stopping.with_label_values(ALONE).set(i64::from(lifecycle.is_stopping()));
        self.reloads.with_label_values(&["ok"]).inc_by(reloads.ok);
        self.reloads.with_label_values(&["refused"]).inc_by(reloads.refused);
        self.reload_success.with_label_values(ALONE).set(i64::from(!reloads.stale));
        self.configured_at.with_label_values(ALONE).set(reloads.configured_at);
        self.leaving.with_label_values(ALONE).set(integer(lifecycle.leaving() as u64));
    }

    fn splice(&self, splice: &SpliceSnapshot) {
        for state in SpliceSnapshot::STATES {
            self.splice.with_label_values(&[state]).set(i64::from(state == splice.state()));
        }
        self.spliced.with_label_values(&[] as &[&str]).inc_by(splice.bytes);
    }

    fn cluster(&self, report: &ClusterReport, now: Instant) {
        let cluster = &*report.name;
        let snapshot = &report.snapshot;
        for state in DcsState::ALL {
            let is = i64::from(state == snapshot.dcs.state);
            self.dcs_state.with_label_values(&[cluster, state.as_str()]).set(is);
        }
        if let Some(at) = snapshot.dcs.confirmed_at {
            self.dcs_read_age.with_label_values(&[cluster]).set(now.saturating_duration_since(at).as_secs_f64());
        }
        if let Some(at) = snapshot.dcs.lease_end {
            self.dcs_lease_left.with_label_values(&[cluster]).set(at.saturating_duration_since(now).as_secs_f64());
        }
        self.dcs_problems.with_label_values(&[cluster]).set(integer(snapshot.problems.len() as u64));
        self.generation.with_label_values(&[cluster]).set(integer(snapshot.routes.generation));
        for (system, timeline) in &snapshot.marks {
            self.timeline_mark.with_label_values(&[cluster, system]).set(i64::from(timeline.0));
        }
        self.members(report);
        self.targets(report);
    }

    fn members(&self, report: &ClusterReport) {
        let cluster = &*report.name;
        let lead = &report.snapshot.lead;
        for member in &report.snapshot.members {
            let labels = [cluster, member.name.as_str()];
            self.leader_key.with_label_values(&labels).set(i64::from(lead.key.as_ref() == Some(&member.name)));
            self.leader_open.with_label_values(&labels).set(i64::from(lead.open.as_ref() == Some(&member.name)));
            self.member_up.with_label_values(&labels).set(i64::from(member.up == Some(true)));
            if let Some(lag) = member.lag {
                self.member_lag.with_label_values(&labels).set(integer(lag));
            }
            self.member_weight.with_label_values(&labels).set(i64::from(member.weight));
            for state in AdminState::ALL {
                let labels = [cluster, member.name.as_str(), state.as_str()];
                self.member_admin_state.with_label_values(&labels).set(i64::from(state == member.admin));
            }
            member.check.iter().chain(&member.checks).for_each(|check| self.check(cluster, member, check));
        }
    }

    fn check(&self, cluster: &str, member: &MemberSnapshot, check: &CheckSnapshot) {
        let label = check_label(check);
        let labels = [cluster, member.name.as_str(), &label];
        self.check_up.with_label_values(&labels).set(i64::from(check.up == Some(true)));
        self.check_seconds.with_label_values(&labels).set(check.took.as_secs_f64());
        self.check_failures.with_label_values(&labels).inc_by(check.failures);
        self.check_downs.with_label_values(&labels).inc_by(check.downs);
    }

    fn targets(&self, report: &ClusterReport) {
        for service in &report.snapshot.routes.services {
            for standing in &service.standings {
                for state in TargetState::ALL {
                    let labels = [&*report.name, &*service.spec.name, standing.member.as_str(), state.as_str()];
                    self.target_state.with_label_values(&labels).set(i64::from(state == standing.state));
                }
            }
        }
    }

    fn service(&self, cluster: &str, counted: &ServiceSnapshot) {
        let labels = [cluster, &*counted.service];
        for (member, open) in &counted.sessions {
            let labels = [cluster, &*counted.service, member.as_str()];
            self.target_sessions.with_label_values(&labels).set(integer(*open as u64));
        }
        for target in &counted.targets {
            let labels = [cluster, &*counted.service, target.member.as_str()];
            self.target_sessions_total.with_label_values(&labels).inc_by(target.sessions_total);
            self.target_connects_failed.with_label_values(&labels).inc_by(target.connects_failed);
            let with = |last: &'static str| [labels[0], labels[1], labels[2], last];
            self.target_bytes.with_label_values(&with("to_server")).inc_by(target.bytes_to_server);
            self.target_bytes.with_label_values(&with("to_client")).inc_by(target.bytes_to_client);
        }
        self.connected.with_label_values(&labels).set(integer(counted.clients as u64));
        self.queue.with_label_values(&labels).set(integer(counted.queued as u64));
        self.queue_total.with_label_values(&labels).inc_by(counted.queued_total);
        self.held.with_label_values(&labels).set(integer(counted.held as u64));
        self.held_longest.with_label_values(&labels).set(counted.held_longest.as_secs_f64());
        self.clients.with_label_values(&labels).inc_by(counted.clients_total);
        self.sessions.with_label_values(&labels).inc_by(counted.sessions_total);
        self.holds.with_label_values(&labels).inc_by(counted.held_total);
        self.hold_seconds.with_label_values(&labels).inc_by(counted.hold_sum.as_secs_f64());
        self.replays.with_label_values(&labels).inc_by(counted.replays_total);
        let with = |last: &'static str| [cluster, &*counted.service, last];
        let by_key = counted.cancels_by_key_total;
        self.cancels.with_label_values(&with("owner")).inc_by(by_key);
        self.cancels.with_label_values(&with("all")).inc_by(counted.cancels_total.saturating_sub(by_key));
        self.bytes.with_label_values(&with("to_server")).inc_by(counted.bytes_to_server);
        self.bytes.with_label_values(&with("to_client")).inc_by(counted.bytes_to_client);
        for (reason, count) in &counted.closed {
            self.closed.with_label_values(&with(reason.as_str())).inc_by(*count);
        }
        for (reason, count) in &counted.refused {
            self.refused.with_label_values(&with(reason.as_str())).inc_by(*count);
        }
        for (sqlstate, count) in &counted.told {
            self.client_errors.with_label_values(&with(sqlstate)).inc_by(*count);
        }
        for (suspicion, count) in &counted.connects_failed {
            self.connects_failed.with_label_values(&with(suspicion.reason().as_str())).inc_by(*count);
        }
    }
}

/// The check's path, and what else tells it from another one of the same path.
fn check_label(check: &CheckSnapshot) -> String {
    let Some(spec) = &check.spec else { return "/primary".to_owned() };
    let port = spec.port.map_or_else(String::new, |port| format!(":{port}"));
    let expect = if spec.expect == Expect::default() { String::new() } else { format!(" {}", spec.expect) };
    format!("{port}{}{expect}", spec.path)
}

fn integer(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
