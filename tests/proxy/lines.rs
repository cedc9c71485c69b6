//! The line of each client in the log.

use std::sync::Arc;
use std::time::Duration;

use pgvane::model::{HoldSpec, HostPort, ListenAddress, Reason, Role, ServiceSpec, SessionLog};
use serde_json::Value;

use crate::bed::*;
use crate::captured::Lines;

fn logging(session_log: SessionLog, change: impl FnOnce(&mut ServiceSpec)) -> Bed {
    let mut spec = ServiceSpec { session_log, ..spec("primary", Role::Primary) };
    change(&mut spec);
    Bed::of("pg-test", vec![Arc::new(spec)])
}

/// The fields of HAProxy's line, with times and ports left out.
fn fields(line: &Value) -> (String, Vec<String>) {
    let text = line["message"].as_str().unwrap();
    (text.to_owned(), text.split(' ').map(str::to_owned).collect())
}

#[tokio::test]
async fn a_line_is_haproxys_tcplog() {
    let (lines, _guard) = Lines::capture();
    let bed = logging(SessionLog::All, |_| {});
    let server = Server::postgres("a").await;
    bed.publish(Some(&server), &[]);
    let (mut client, _) = bed.session("primary").await;
    let local = client.0.local_addr().unwrap();
    client.echo(b"hello").await;
    drop(client);
    let line = lines.next(1).await;
    let (text, parts) = fields(&line);
    let bytes = greeting("a").len() + "hello".len();
    let [client, date, frontend, backend, times, read, state, counts, queues] = &parts[..] else { panic!("{text}") };
    assert_eq!(*client, local.to_string());
    // [21/Nov/2026:11:22:33.123]
    assert_eq!((date.len(), &date[..1], date[1..].matches(['/', ':', '.']).count()), (26, "[", 6), "{date}");
    assert_eq!((&**frontend, &**backend), ("pg-test-primary", "pg-test-primary/a"));
    let times: Vec<i64> = times.split('/').map(|time| time.parse().unwrap()).collect();
    assert!(times.len() == 3 && times[0] >= 0 && times[1] >= 0 && times[2] >= times[0] + times[1], "{text}");
    // Its echo may be more, where the server says goodbye before it has gone.
    assert!(read.parse::<usize>().unwrap() >= bytes, "{text}");
    assert_eq!(state, "--");
    let counts: Vec<&str> = counts.split('/').collect();
    assert_eq!(counts[1..], ["1", "0", "0", "0"], "{text}");
    assert_eq!(queues, "0/0");
    assert_eq!(
        (&line["service"], &line["member"], &line["reason"]),
        (&"primary".into(), &"a".into(), &"client_closed".into())
    );
    assert_eq!((&line["frontend"], &line["server"]), (&"pg-test-primary".into(), &"a".into()));
    assert_eq!((&line["termination_state"], &line["bytes_uploaded"]), (&"--".into(), &5.into()));
    assert_eq!(line["client_port"], u32::from(local.port()));
}

#[tokio::test]
async fn whoever_gets_no_session_has_a_line_without_a_server() {
    let (lines, _guard) = Lines::capture();
    let wait = Duration::from_millis(20);
    let bed = logging(SessionLog::Errors, |spec| spec.hold = HoldSpec::On { timeout: Some(wait), max: 10 });
    bed.publish(None, &[]);
    bed.started("primary").await.fatal().await;
    let (text, parts) = fields(&lines.next(1).await);
    assert_eq!((&*parts[3], &*parts[6]), ("pg-test-primary/<NOSRV>", "sQ"), "{text}");
    let times: Vec<i64> = parts[4].split('/').map(|time| time.parse().unwrap()).collect();
    assert!(times[0] >= 20 && times[1] == -1 && times[2] >= times[0], "{text}");
    bed.client("primary").await.send(b"GET / HTTP/1.1\r\n\r\n").await;
    let (text, parts) = fields(&lines.next(2).await);
    assert_eq!((&*parts[3], &*parts[6]), ("pg-test-primary/<NOSRV>", "PR"), "{text}");
    assert!(parts[4].starts_with("-1/-1/"), "{text}");
    let mut gone = Server::postgres("b").await.target(Role::Primary);
    gone.needs_confirmation = false;
    gone.address = HostPort::new("127.0.0.1", free_port());
    bed.publish_targets(vec![gone], Vec::new());
    bed.started("primary").await.fatal().await;
    let (text, parts) = fields(&lines.next(3).await);
    assert_eq!((&*parts[3], &*parts[6]), ("pg-test-primary/b", "SC"), "{text}");
    assert!(parts[7].ends_with("/0/3"), "three retries after the first attempt: {text}");
}

#[tokio::test]
async fn errors_are_cut_sessions_and_not_ordinary_ends() {
    let (lines, _guard) = Lines::capture();
    let bed = logging(SessionLog::Errors, |_| {});
    let server = Server::postgres("a").await;
    bed.publish(Some(&server), &[]);
    bed.client("primary").await.send(&CANCEL_REQUEST).await;
    drop(bed.client("primary").await);
    drop(bed.session("primary").await);
    let (mut cut, _) = bed.session("primary").await;
    until("the others are gone", || bed.snapshot("primary").clients == 1).await;
    bed.publish(None, &[]);
    bed.close(&server, Reason::LeaderMoved);
    assert_eq!(cut.fatal().await.code, "57P01");
    let line = lines.next(1).await;
    assert_eq!((&line["termination_state"], &line["reason"]), (&"D-".into(), &"leader_moved".into()));
}

#[tokio::test]
async fn off_is_silent() {
    let (lines, _guard) = Lines::capture();
    let bed = logging(SessionLog::Off, |spec| spec.hold = HoldSpec::Off);
    bed.publish(None, &[]);
    bed.started("primary").await.fatal().await;
    until("gone", || bed.snapshot("primary").clients == 0).await;
    assert_eq!(lines.of("pgvane::session").len(), 0);
}

#[tokio::test]
async fn a_client_of_a_unix_socket_is_named_by_its_process() {
    let (lines, _guard) = Lines::capture();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let bed = logging(SessionLog::All, |spec| spec.listen = vec![ListenAddress::Unix(path.clone())]);
    let client = std::os::unix::net::UnixStream::connect(&path).unwrap();
    until("accepted", || bed.snapshot("primary").clients == 1).await;
    drop(client);
    let line = lines.next(1).await;
    let (text, _) = fields(&line);
    assert!(text.starts_with(&format!("unix:{} [", std::process::id())), "{text}");
    assert_eq!((&line["client_ip"], line["client_port"].as_u64()), (&"unix".into(), Some(std::process::id().into())));
}
