//! The process: how it starts, what it refuses, how it ends, and what the operating system can do to it.

use std::fs;
use std::process::Command;

use crate::members::client::{Client, Failure};
use crate::members::crowd::open_sessions;
use crate::members::router::Router;
use crate::members::stage::Stage;
use crate::members::{ms, secs, until};

/// Runs the binary to its end: exit code and everything it said.
fn run(arguments: &[&str]) -> (Option<i32>, String) {
    let ended = Command::new(env!("CARGO_BIN_EXE_pgvane")).args(arguments).output().expect("the binary runs");
    let said = [ended.stdout, ended.stderr].concat();
    (ended.status.code(), String::from_utf8_lossy(&said).into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_says_not_ready_then_stops_accepting_then_drains() {
    let stage = Stage::start().await;
    let mut router = stage.router(|setup| setup.shutdown = "{ delay: 2s, drain: 60s }").await;
    let port = router.write_port(0);
    let [mut session, mut idle] = <[Client; 2]>::try_from(open_sessions(port, 2).await).expect("two sessions");
    session.begin().await.unwrap_or_else(|failure| panic!("{failure}"));
    router.terminate();
    until("not ready", secs(10), || async { router.readyz().await == Some(503) }).await;
    let late = Client::connect(port, secs(10)).await;
    assert!(late.is_ok(), "still accepting while load balancers learn of it");
    drop(late);
    until("no new connections", secs(20), || async {
        matches!(Client::connect(port, secs(10)).await, Err(Failure::NoConnection(_)))
    })
    .await;
    assert_eq!(idle.closed().await.code(), Some("57P01"), "whoever is idle is told at once");
    session.write().await.unwrap_or_else(|failure| panic!("the transaction goes on: {failure}"));
    assert!(router.exit(ms(0)).await.is_none(), "it waits for the transaction");
    session.commit().await.unwrap_or_else(|failure| panic!("to its end: {failure}"));
    assert_eq!(session.closed().await.code(), Some("57P01"));
    drop((session, idle));
    let status = router.exit(secs(20)).await.expect("it ends with the last session, long before the limit");
    assert_eq!(status.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_ends_at_its_limit() {
    let stage = Stage::start().await;
    let mut router = stage.router(|setup| setup.shutdown = "{ delay: 0s, drain: 1s }").await;
    let mut session = open_sessions(router.write_port(0), 1).await.remove(0);
    session.begin().await.unwrap_or_else(|failure| panic!("{failure}"));
    router.terminate();
    let ended = tokio::time::timeout(secs(20), session.closed()).await.expect("the session is closed");
    assert_eq!(ended.code(), Some("08006"), "{ended}");
    assert_eq!(router.exit(secs(20)).await.and_then(|status| status.code()), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_the_drain() {
    let stage = Stage::start().await;
    let mut router = stage.router(|setup| setup.shutdown = "{ delay: 300s, drain: 300s }").await;
    let _session = open_sessions(router.write_port(0), 1).await.remove(0);
    router.terminate();
    until("not ready", secs(10), || async { router.readyz().await == Some(503) }).await;
    router.terminate();
    assert!(router.exit(secs(20)).await.is_some(), "told twice, it still drains");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_hold_is_told_in_the_protocol() {
    let stage = Stage::start().await;
    stage.n1().set(|facts| facts.in_recovery = true);
    let mut setup = stage.setup();
    setup.hold = "{ timeout: 1s }";
    let router = Router::start(setup).await;
    let failure = Client::connect(router.write_port(0), secs(30)).await.expect_err("nobody is writable");
    let Failure::Closed(Some(error)) = &failure else { panic!("{failure}") };
    assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "57P03"));
    assert!(error.detail.contains("has not shown yet that it accepts writes"), "{error:?}");

    let port = router.write_port(0).port();
    for mode in ["disable", "prefer"] {
        let to = format!("host=127.0.0.1 port={port} user=test dbname=postgres sslmode={mode} connect_timeout=30");
        let psql = tokio::process::Command::new("psql").args([&to, "-c", "SELECT 1"]).output().await.expect("psql");
        let said = String::from_utf8_lossy(&psql.stderr);
        assert!(!psql.status.success());
        assert!(said.contains("FATAL:  no primary is available") && said.contains("DETAIL:"), "{mode}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_client_library_is_served() {
    let stage = Stage::start().await;
    let router = stage.router(|_| {}).await;
    let port = router.write_port(0).port();
    let to = format!("host=127.0.0.1 port={port} user=test dbname=postgres connect_timeout=30");
    let psql = tokio::process::Command::new("psql").args([&to, "-Atc", "SELECT name"]).output().await.expect("psql");
    assert_eq!(String::from_utf8_lossy(&psql.stdout).trim(), "n1", "{}", String::from_utf8_lossy(&psql.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_under_way_at_sigterm_ends_and_then_its_client_is_told() {
    let stage = Stage::start().await;
    let mut router = stage.router(|setup| setup.shutdown = "{ delay: 0s, drain: 60s }").await;
    let port = router.write_port(0).port();
    let to = format!("host=127.0.0.1 port={port} user=test dbname=postgres connect_timeout=30");
    let arguments = [&to, "-Atc", "SELECT pg_sleep(1)", "-c", "SELECT name"];
    let psql = tokio::process::Command::new("psql").args(arguments).output();
    let (said, ()) = tokio::join!(psql, async {
        until("its session is open", secs(20), || async { stage.n1().journal.open() == 1 }).await;
        // Long enough for its query to come, short of the query's own time.
        tokio::time::sleep(ms(300)).await;
        router.terminate();
    });
    let said = said.expect("psql");
    assert_eq!(String::from_utf8_lossy(&said.stdout).trim(), "n1", "the first answer came, the second did not");
    let told = String::from_utf8_lossy(&said.stderr);
    assert!(told.contains("FATAL:  terminating connection to n1: the router is shutting down"), "{told}");
    assert_eq!(router.exit(secs(20)).await.and_then(|status| status.code()), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unwritable_state_file_is_said_and_stops_nobody() {
    let stage = Stage::start().await;
    let router = stage
        .router(|setup| {
            setup.state_file = true;
            fs::create_dir(setup.state_path()).expect("a folder in the file's place");
        })
        .await;
    let mut client = open_sessions(router.write_port(0), 1).await.remove(0);
    until("the log says so", secs(20), || async { router.log().contains("the state file cannot be written") }).await;
    client.write().await.unwrap_or_else(|failure| panic!("{failure}"));
}

/// More is said than a pipe holds, and whoever should read it hangs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_nobody_reads_stops_nobody() {
    let stage = Stage::start().await;
    let (mut router, _unread) = Router::start_unheard(stage.setup());
    router.until_ready().await;
    router.until_open("n1").await;
    let crowd = open_sessions(router.write_port(0), 500).await;
    stage.fail_over_to_n2().await;
    until("all of them are cut", secs(20), || async { stage.n1().journal.open() == 0 }).await;
    let mut client = open_sessions(router.write_port(0), 1).await.remove(0);
    client.write().await.unwrap_or_else(|failure| panic!("{failure}"));
    drop((crowd, client));
    router.terminate();
    assert_eq!(router.exit(secs(20)).await.and_then(|status| status.code()), Some(0));
}

#[test]
fn a_missing_file_is_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("nowhere.yml");
    let (code, said) = run(&["run", "-c", path.to_str().expect("UTF-8")]);
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains("nowhere.yml") && said.contains("there is no such file"), "{said}");
}

#[test]
fn a_wrong_file_is_refused_with_places_and_words() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("pgvane.yml");
    fs::write(&path, "clusters:\n  - name: a\n    dcs: { etcd: { endpoint: [http://127.0.0.1:1] } }\nagent: {}\n")
        .expect("a file");
    let (code, said) = run(&["run", "-c", path.to_str().expect("UTF-8")]);
    assert_eq!(code, Some(78), "{said}");
    for wanted in ["pgvane.yml:3:20", "endpoints", "pgvane.yml:4:1", "not in this version"] {
        assert!(said.contains(wanted), "no {wanted} in\n{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taken_port_is_a_sentence() {
    let stage = Stage::start().await;
    let setup = stage.setup();
    setup.write_config();
    let config = setup.config_path();
    let taken = tokio::net::TcpSocket::new_v4().expect("a socket");
    taken.set_reuseaddr(true).expect("SO_REUSEADDR");
    taken.bind(setup.write_at()).expect("the reserved port");
    let _taken = taken.listen(1).expect("a listener");
    let (code, said) = tokio::task::spawn_blocking(move || run(&["run", "-c", config.to_str().expect("UTF-8")]))
        .await
        .expect("it ran");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&setup.write_at().to_string()) && said.contains("another process listens there"), "{said}");
}
