//! Our page beside that of the real HAProxy: whoever has dashboards for one can read the other.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use pgvane::admin::OrdersFrom;
use pgvane::runtime::clock;
use tokio::net::UnixStream;

use super::bed::{Bed, MEMBERS, report};

const READY_MAX: Duration = Duration::from_secs(20);

/// A family as a page tells of it.
#[derive(Debug, Default)]
struct Family {
    kind: String,
    /// Label names of its samples, in order; more than one set would be a mistake.
    labels: BTreeSet<Vec<String>>,
    states: BTreeSet<String>,
}

/// Families by name, and samples by name with labels.
#[derive(Debug, Default)]
struct Parsed {
    families: BTreeMap<String, Family>,
    samples: BTreeMap<String, f64>,
}

fn parsed(page: &str) -> Parsed {
    let mut all = Parsed::default();
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            let family = Family { kind: kind.to_owned(), ..Family::default() };
            assert!(all.families.insert(name.to_owned(), family).is_none(), "{name} twice");
        } else if !line.starts_with('#') && !line.is_empty() {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let family = all.families.get_mut(name).unwrap_or_else(|| panic!("{name} without a type"));
            let labels = pairs(labels.trim_end_matches('}'));
            family.states.extend(labels.iter().filter(|(label, _)| label == "state").map(|(_, state)| state.clone()));
            family.labels.insert(labels.into_iter().map(|(label, _)| label).collect());
            let before = all.samples.insert(series.to_owned(), value.parse().unwrap());
            assert!(before.is_none(), "{series} twice");
        }
    }
    all
}

/// `a="x",b="y"` with the escapes that the format has.
fn pairs(mut text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    while let Some((label, rest)) = text.split_once("=\"") {
        let mut value = String::new();
        let mut letters = rest.char_indices();
        let end = loop {
            match letters.next().expect("a closing quote") {
                (at, '"') => break at,
                (_, '\\') => value.push(letters.next().expect("an escaped letter").1),
                (_, letter) => value.push(letter),
            }
        };
        found.push((label.trim_start_matches(',').to_owned(), value));
        text = &rest[end + 1..];
    }
    found
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn haproxy_page() -> String {
    let folder = tempfile::tempdir().unwrap();
    let (socket, service) = (folder.path().join("metrics"), folder.path().join("pg"));
    let file = folder.path().join("haproxy.cfg");
    let config = format!(
        "global\n    maxconn 100\ndefaults\n    mode tcp\n    timeout connect 1s\n    timeout client 1s\n    timeout server 1s\nlisten pg-test-primary\n    bind unix@{}\n    maxconn 50\n    option httpchk\n    server n1 127.0.0.1:1 check maxconn 10 slowstart 10s weight 100\n    server n2 127.0.0.1:1 check backup\nfrontend stats\n    mode http\n    bind unix@{}\n    http-request use-service prometheus-exporter if {{ path /metrics }}\n",
        service.display(),
        socket.display()
    );
    std::fs::write(&file, config).unwrap();
    let child = Command::new("haproxy").arg("-db").arg("-f").arg(&file).stderr(Stdio::null()).spawn();
    let _running = Running(child.expect("HAProxy: install the package haproxy"));
    let deadline = clock::now() + READY_MAX;
    loop {
        match scrape(&socket).await {
            Ok(page) if page.contains("haproxy_server_status") => return page,
            other => assert!(clock::now() < deadline, "HAProxy shows no metrics: {other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn scrape(socket: &Path) -> anyhow::Result<String> {
    let stream = TokioIo::new(UnixStream::connect(socket).await?);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
    tokio::spawn(connection);
    let request = hyper::Request::get("/metrics").header("Host", "localhost").body(Empty::<Bytes>::new())?;
    let body = sender.send_request(request).await?.into_body().collect().await?;
    Ok(String::from_utf8(body.to_bytes().to_vec())?)
}

async fn our_page(bed: &Bed) -> Parsed {
    let (status, head, page) = bed.ask("GET", "/metrics", &["Host: localhost"]).await;
    assert!(status == 200 && head.contains("text/plain; version=0.0.4"), "{head}");
    parsed(&page)
}

#[tokio::test]
async fn every_family_of_haproxys_is_written_as_haproxy_writes_it() {
    let bed = Bed::new(vec![report("pg-test", &["primary"])], OrdersFrom::Nobody, Ok(())).await;
    let (ours, theirs) = (our_page(&bed).await, parsed(&haproxy_page().await));
    let names: Vec<&String> = ours.families.keys().filter(|name| name.starts_with("haproxy_")).collect();
    assert!(names.len() >= 60, "{}", names.len());
    for name in names {
        let Some(known) = theirs.families.get(name) else { panic!("HAProxy has no {name}") };
        let own = &ours.families[name];
        assert_eq!(own.kind, known.kind, "{name}");
        assert_eq!(own.labels, known.labels, "{name}");
        assert_eq!(own.states, known.states, "{name}");
    }
    let wanted = "haproxy_server_status haproxy_backend_current_sessions haproxy_server_current_sessions \
        haproxy_frontend_current_sessions haproxy_process_idle_time_percent haproxy_process_start_time_seconds \
        haproxy_backend_active_servers haproxy_frontend_bytes_in_total haproxy_backend_bytes_in_total \
        haproxy_server_bytes_in_total haproxy_frontend_bytes_out_total haproxy_backend_bytes_out_total \
        haproxy_server_bytes_out_total haproxy_backend_connection_errors_total haproxy_server_connection_errors_total \
        haproxy_server_check_status haproxy_server_check_up_down_total haproxy_server_check_failures_total \
        haproxy_server_downtime_seconds_total haproxy_server_current_throttle haproxy_backend_current_queue";
    for name in wanted.split_whitespace() {
        assert!(ours.families.contains_key(name), "{name}");
    }
}

#[tokio::test]
async fn the_figures_are_those_of_the_service() {
    let bed = Bed::new(vec![report("pg-test", &["primary"])], OrdersFrom::Nobody, Ok(())).await;
    let page = our_page(&bed).await;
    let of = |series: &str| *page.samples.get(series).unwrap_or_else(|| panic!("no {series}"));
    let proxy = "proxy=\"pg-test-primary\"";
    let words = ["UP", "NOLB", "NOLB", "NOLB", "DRAIN", "MAINT", "DOWN", "DOWN"];
    for ((member, _), word) in MEMBERS.iter().zip(words) {
        let server = member.replace('\\', "\\\\").replace('"', "\\\"");
        for state in ["UP", "DOWN", "MAINT", "DRAIN", "NOLB"] {
            let series = format!("haproxy_server_status{{{proxy},server=\"{server}\",state=\"{state}\"}}");
            assert_eq!(of(&series), f64::from(u8::from(state == word)), "{series}");
        }
    }
    let open = format!("{{{proxy},server=\"open\"}}");
    // From the client is in, to the client is out.
    assert_eq!(of(&format!("haproxy_server_bytes_in_total{open}")), 1000.0);
    assert_eq!(of(&format!("haproxy_server_bytes_out_total{open}")), 9e9);
    assert_eq!(of(&format!("haproxy_server_max_sessions{open}")), 9.0);
    assert_eq!(of(&format!("haproxy_server_limit_sessions{open}")), 300.0);
    assert_eq!(of(&format!("haproxy_server_current_throttle{open}")), 50.0);
    assert_eq!(of(&format!("haproxy_server_check_code{open}")), 503.0);
    assert_eq!(of(&format!("haproxy_server_downtime_seconds_total{open}")), 61.0);
    assert_eq!(of(&format!("haproxy_server_check_last_change_seconds{open}")), 90.0);
    assert!(of(&format!("haproxy_server_current_throttle{{{proxy},server=\"standby\"}}")).is_nan());
    assert_eq!(of(&format!("haproxy_frontend_current_sessions{{{proxy}}}")), 5.0);
    assert_eq!(of(&format!("haproxy_frontend_limit_sessions{{{proxy}}}")), 5000.0);
    assert_eq!(of(&format!("haproxy_backend_current_queue{{{proxy}}}")), 2.0);
    assert_eq!(of(&format!("haproxy_backend_max_queue{{{proxy}}}")), 7.0);
    assert_eq!(of(&format!("haproxy_backend_active_servers{{{proxy}}}")), 1.0);
    assert_eq!(of(&format!("haproxy_backend_backup_servers{{{proxy}}}")), 1.0);
    assert_eq!(of(&format!("haproxy_backend_status{{{proxy},state=\"UP\"}}")), 1.0);
    assert_eq!(of(&format!("haproxy_backend_agg_server_status{{{proxy},state=\"NOLB\"}}")), 3.0);
    let idle = of("haproxy_process_idle_time_percent");
    assert!((0.0..=100.0).contains(&idle), "{idle}");
    let ours = "cluster=\"pg-test\"";
    assert_eq!(of(&format!("pgvane_queue{{{ours},service=\"primary\"}}")), 2.0);
    assert_eq!(of(&format!("pgvane_member_admin_state{{{ours},member=\"drained\",state=\"drain\"}}")), 1.0);
    assert_eq!(of(&format!("pgvane_check_up{{check=\"/replica\",{ours},member=\"unknown\"}}")), 0.0);
    assert_eq!(
        of(&format!("pgvane_target_state{{{ours},member=\"kept out\",service=\"primary\",state=\"maint\"}}")),
        1.0
    );
}

/// Prometheus refuses a page with two samples of one name; `parsed` panics on those.
#[tokio::test]
async fn names_that_collide_do_not_spoil_the_page() {
    let reports = vec![report("pg", &["test-primary", "replica"]), report("pg-test", &["primary", "replica"])];
    let bed = Bed::new(reports, OrdersFrom::Nobody, Ok(())).await;
    let page = our_page(&bed).await;
    for proxy in ["pg-test-primary", "pg-test/primary", "pg-replica", "pg-test-replica"] {
        assert!(
            page.samples.contains_key(&format!("haproxy_frontend_current_sessions{{proxy=\"{proxy}\"}}")),
            "{proxy}"
        );
    }
}
