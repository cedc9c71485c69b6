//! PostgreSQL's own client programs, which need only a server.

use std::path::Path;
use std::process::Output;
use std::time::Duration;

use tokio::process::Command;

use super::driver::{To, USER};

const PROGRAM_MAX: Duration = Duration::from_secs(120);

/// Connects where its environment says.
async fn run(to: &To, program: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(program);
    command.args(arguments).env("PGHOST", "127.0.0.1").env("PGPORT", to.ports[0].to_string());
    command.env("PGUSER", USER).env("PGDATABASE", "postgres").env("PGSSLMODE", "disable").kill_on_drop(true);
    let output = tokio::time::timeout(PROGRAM_MAX, command.output()).await;
    output.unwrap_or_else(|_| panic!("{program} does not end")).unwrap_or_else(|error| panic!("{program}: {error}"))
}

/// Every mode of the protocol, reading and writing, each for a number of transactions; prints the rates.
pub async fn pgbench(to: &To) {
    let said = run(to, "pgbench", &["-i", "-q", "-s", "1"]).await;
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    for mode in ["simple", "extended", "prepared"] {
        for (script, more) in [
            ("select-only", &["-b", "select-only"][..]),
            ("tpcb-like", &["-b", "tpcb-like"]),
            ("select-only", &["-b", "select-only", "-C"]),
        ] {
            let arguments = [&["-n", "-M", mode, "-c", "4", "-j", "2", "-t", "100"], more].concat();
            let said = run(to, "pgbench", &arguments).await;
            let text = String::from_utf8_lossy(&said.stdout);
            let well = text.contains("number of transactions actually processed: 400/400")
                && text.contains("number of failed transactions: 0 (");
            assert!(said.status.success() && well, "{arguments:?}: {text}{}", String::from_utf8_lossy(&said.stderr));
            let rate = text.lines().find(|line| line.starts_with("tps")).unwrap_or("no rate");
            eprintln!(
                "pgbench {script:<11} {mode:<8} {:<2} 400 of 400 transactions, {rate}",
                more.get(2).unwrap_or(&"")
            );
        }
    }
}

/// A script of psql says the same through the router as directly.
pub async fn psql(directly: &To, through: &To, script: &Path) {
    let path = script.to_str().expect("UTF-8");
    let arguments = ["-X", "-a", "-f", path];
    let wanted = run(directly, "psql", &arguments).await;
    let got = run(through, "psql", &arguments).await;
    for (name, wanted, got) in [("out", wanted.stdout, got.stdout), ("err", wanted.stderr, got.stderr)] {
        let (wanted, got) = (String::from_utf8_lossy(&wanted), String::from_utf8_lossy(&got));
        assert_eq!(wanted, got, "standard {name} of {path}");
        assert!(name == "err" || wanted.contains("the last line"), "the script does not come to its end: {wanted}");
    }
}
