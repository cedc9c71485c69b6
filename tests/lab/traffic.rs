//! Ordinary traffic through the router with PostgreSQL's own programs.

use std::fmt::Write as _;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgvane::model::HostPort;
use pgvane::runtime::clock;

use super::programs::{finished, pgbench, psql, psql_reading, psql_started};
use crate::kit::stage::Stage;
use crate::kit::until;

const WHERE: &str = "SELECT host(inet_server_addr()) || ':' || inet_server_port()";
const COPY_LINES: u32 = 120_000;
/// Of a query that sleeps for 45 s.
const CANCELLED_MAX: Duration = Duration::from_secs(30);
const SEEN_MAX: Duration = Duration::from_secs(20);

/// Address and port of the PostgreSQL that answers behind `at`.
pub async fn server_behind(at: &HostPort) -> String {
    let said = psql(at, "prefer", WHERE).await;
    assert!(said.well, "{said:?}");
    said.text()
}

/// The server has no TLS: what libpq makes of the refusal must come through unchanged.
pub async fn psql_without_tls(stage: &Stage) {
    let leader = stage.calm().await.unwrap();
    for sslmode in ["disable", "allow", "prefer"] {
        let said = psql(&stage.router.write, sslmode, WHERE).await;
        assert_eq!((said.well, said.text()), (true, leader.pg.to_string()), "{sslmode}: {said:?}");
        let said = psql(&stage.router.read, sslmode, WHERE).await;
        assert!(said.well && said.text() != leader.pg.to_string(), "{sslmode}: {said:?}");
    }
    let said = psql(&stage.router.write, "require", WHERE).await;
    assert!(!said.well && said.err.contains("does not support SSL"), "{said:?}");
    let said = psql(&stage.router.read, "prefer", "CREATE TABLE lab_never ()").await;
    assert!(!said.well && said.err.contains("read-only"), "a reader must not write: {said:?}");
}

pub async fn pgbench_through_both_ports(stage: &Stage) {
    let (write, read) = (&stage.router.write, &stage.router.read);
    let said = pgbench(write, &["-i", "-q", "-s", "1"]).await;
    assert!(said.well, "{said:?}");
    let arrived = until(SEEN_MAX, async || psql(read, "prefer", "SELECT 1 FROM pgbench_branches").await.well);
    assert!(arrived.await, "pgbench's tables did not reach the replicas");
    for (at, arguments) in [
        (write, &["-N", "-n", "-c", "4", "-j", "2", "-T", "3"][..]),
        (write, &["-S", "-n", "-c", "4", "-T", "2", "-M", "prepared"][..]),
        (read, &["-S", "-n", "-c", "4", "-j", "2", "-T", "3"][..]),
        (read, &["-S", "-n", "-C", "-c", "4", "-T", "2"][..]),
    ] {
        let said = pgbench(at, arguments).await;
        let text = said.text();
        assert!(said.well && text.contains("number of failed transactions: 0 "), "{arguments:?}: {said:?}");
        let tps = text.lines().find(|line| line.starts_with("tps")).unwrap_or("no tps");
        eprintln!("pgbench {}: {tps}", arguments.join(" "));
    }
}

/// Some megabytes in through the write port and out through both.
pub async fn copy_is_byte_identical(stage: &Stage) {
    let mut text = String::new();
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    for line in 0..COPY_LINES {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        writeln!(text, "{line}\t{state:016x}{:016x}{:016x}", state.rotate_left(17), !state).unwrap();
    }
    let file = stage.cluster.dir().join("lab-copy.txt");
    std::fs::write(&file, &text).unwrap();
    let (write, read) = (&stage.router.write, &stage.router.read);
    let said = psql(write, "prefer", "CREATE TABLE lab_copy (line int PRIMARY KEY, word text)").await;
    assert!(said.well, "{said:?}");
    let said = psql_reading(write, "COPY lab_copy FROM STDIN", &file).await;
    assert!(said.well, "{said:?}");
    let count = format!("SELECT 1 FROM lab_copy HAVING count(*) = {COPY_LINES}");
    let arrived = until(SEEN_MAX, async || psql(read, "prefer", &count).await.text() == "1");
    assert!(arrived.await, "the copy did not reach the replicas");
    for at in [write, read] {
        let said = psql(at, "prefer", "COPY (SELECT * FROM lab_copy ORDER BY line) TO STDOUT").await;
        assert!(said.well, "{}", said.err);
        assert!(said.out == text.as_bytes(), "{} bytes became {} through {at}", text.len(), said.out.len());
    }
}

/// libpq's own cancel, which comes on a connection of its own: to the primary through the write
/// port, to whichever replica runs the query through the read port.
pub async fn a_cancel_request_reaches_its_query(stage: &Stage) {
    cancels(stage, &stage.router.write, "disable").await;
    cancels(stage, &stage.router.read, "disable").await;
    assert!(psql(&stage.router.write, "prefer", "SELECT 1").await.well);
}

pub async fn cancels(stage: &Stage, at: &HostPort, sslmode: &str) {
    let child = psql_started(at, sslmode, "SET application_name = 'lab-cancel'; SELECT pg_sleep(45)");
    let sleeping = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND application_name = 'lab-cancel'";
    let sleeps = async || {
        for member in stage.cluster.members() {
            if psql(&member.pg, "prefer", sleeping).await.text() == "1" {
                return true;
            }
        }
        false
    };
    assert!(until(SEEN_MAX, sleeps).await, "the query to be cancelled does not run behind {at}");
    let began = clock::now();
    kill(Pid::from_raw(child.id().unwrap() as i32), Signal::SIGINT).unwrap();
    let said = finished(child).await; // psql says little about it, but it ends long before the sleep
    assert!(!said.well && said.err.contains("Cancel request sent"), "behind {at}: {said:?}");
    assert!(began.elapsed() < CANCELLED_MAX, "behind {at} the query ran on for {:?}", began.elapsed());
    assert!(until(SEEN_MAX, async || !sleeps().await).await, "the cancelled query still runs behind {at}");
}
