//! PostgreSQL's own client programs, run against a port.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use pgvane::cli::demo::cluster::DATABASE;
use pgvane::cli::demo::member::SUPERUSER;
use pgvane::model::HostPort;
use tokio::process::{Child, Command};

const PROGRAM_MAX: Duration = Duration::from_secs(60);

/// What a program said.
#[derive(Debug)]
pub struct Said {
    pub well: bool,
    pub out: Vec<u8>,
    pub err: String,
}

impl Said {
    fn of(output: Output) -> Said {
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        Said { well: output.status.success(), out: output.stdout, err }
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.out).trim().to_owned()
    }
}

fn address(at: &HostPort, sslmode: &str) -> String {
    format!("host={} port={} user={SUPERUSER} dbname={DATABASE} sslmode={sslmode}", at.host, at.port)
}

/// psql without anybody's psqlrc, unaligned, stopping at the first error.
fn psql_command(at: &HostPort, sslmode: &str, sql: &str) -> Command {
    let mut command = Command::new("psql");
    command.args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", &address(at, sslmode), "-c", sql]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

pub async fn psql(at: &HostPort, sslmode: &str, sql: &str) -> Said {
    run(psql_command(at, sslmode, sql)).await
}

/// With a file as standard input, as for COPY FROM STDIN.
pub async fn psql_reading(at: &HostPort, sql: &str, input: &Path) -> Said {
    let mut command = psql_command(at, "prefer", sql);
    command.stdin(std::fs::File::open(input).unwrap());
    run(command).await
}

/// In the background, to be interrupted.
pub fn psql_started(at: &HostPort, sslmode: &str, sql: &str) -> Child {
    psql_command(at, sslmode, sql).spawn().unwrap()
}

pub async fn finished(child: Child) -> Said {
    let output = tokio::time::timeout(PROGRAM_MAX, child.wait_with_output()).await;
    Said::of(output.expect("psql did not end").unwrap())
}

pub async fn pgbench(at: &HostPort, arguments: &[&str]) -> Said {
    let mut command = Command::new("pgbench");
    command.args(arguments).args(["-h", &at.host, "-p", &at.port.to_string(), "-U", SUPERUSER, DATABASE]);
    command.stdin(Stdio::null()).kill_on_drop(true);
    run(command).await
}

async fn run(mut command: Command) -> Said {
    let program = command.as_std().get_program().to_owned();
    let output = tokio::time::timeout(PROGRAM_MAX, command.output()).await;
    Said::of(named(output, &program).unwrap_or_else(|error| panic!("{}: {error}", program.display())))
}

fn named<T>(output: Result<std::io::Result<T>, tokio::time::error::Elapsed>, program: &OsStr) -> std::io::Result<T> {
    output.unwrap_or_else(|_| panic!("{} did not end within {PROGRAM_MAX:?}", program.display()))
}
