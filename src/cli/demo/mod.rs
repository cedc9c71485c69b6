//! `pgvane demo`: a real cluster on this machine with the router in front, and what clients felt.

pub mod clients;
pub mod cluster;
pub mod etcd;
mod fault;
pub mod ground;
mod keys;
mod live;
pub mod member;
mod options;
pub mod poller;
pub mod processes;
mod programs;
pub mod report;
pub mod rest;
mod stage;

use std::io::{IsTerminal, Write, stdin, stdout};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};

use self::cluster::ClusterOptions;
pub use self::fault::Fault;
use self::keys::Keys;
use self::stage::{Stage, StageOptions};
use crate::runtime::clock;

const CLIENT_PAUSE: Duration = Duration::from_millis(20);

/// Start etcd and PostgreSQL under Patroni in a temporary directory, with the router in front and
/// clients before it; then do harm to it and see what the clients feel.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// What to do without being asked, in this order; each event is repaired before the next.
    #[arg(long = "do", value_name = "EVENT,...", value_delimiter = ',')]
    events: Vec<Fault>,
    /// End after this time (or after the events, whichever is later).
    #[arg(long = "for", value_name = "TIME", value_parser = parse_duration)]
    lasting: Option<Duration>,
    /// Where writers find the router.
    #[arg(long, value_name = "PORT", default_value_t = 5433)]
    port_write: u16,
    /// Where readers find the router.
    #[arg(long, value_name = "PORT", default_value_t = 5434)]
    port_read: u16,
    /// Patroni's ttl: what the death of a primary costs at most. Patroni allows 20s and more.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_duration)]
    ttl: Duration,
    /// Patroni's failsafe mode: the primary stays one while etcd is away.
    #[arg(long)]
    failsafe: bool,
    /// How long `--do cut-etcd` stops etcd.
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = parse_duration)]
    etcd_for: Duration,
    /// PostgreSQL members.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=9))]
    members: u8,
    /// Clients in each group: writers and readers that connect each time, writers and readers that stay connected.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=40))]
    clients: u32,
    /// Write the report there as JSON too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// The pgvane that routes, instead of this one.
    #[arg(long, hide = true, value_name = "PROGRAM")]
    router: Option<PathBuf>,
    /// Become the guardian of this demo directory.
    #[arg(long, hide = true, value_name = "DIR")]
    guardian: Option<PathBuf>,
}

/// `90`, `90s`, `1.5s`, `500ms`, `2m`.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let scale = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("`{unit}` is no unit of time: use ms, s, m or h")),
    };
    let number: f64 = number.parse().map_err(|_| format!("`{text}` is no time: write such as 30s"))?;
    Duration::try_from_secs_f64(number * scale).map_err(|error| error.to_string())
}

pub async fn demo(args: DemoArgs) -> Result<()> {
    if let Some(dir) = args.guardian {
        return ground::guard(&dir);
    }
    let options = stage_options(&args)?;
    let mut signals = Signals::listen()?;
    let stage = tokio::select! {
        stage = Stage::set(&options, &say) => stage?,
        name = signals.next() => {
            say(format!("{name}: clearing away"));
            return Ok(());
        }
    };
    say(format!("try it: psql -h {} -p {} -U demo postgres", stage.doors.write.host, stage.doors.write.port));
    say(format!("status: curl -s http://{}/api/v1/status", stage.doors.admin));
    let outcome = run(&stage, &args, &mut signals).await;
    let report = stage.report();
    say(format!("\n{report}"));
    let written = match &args.json {
        Some(file) => std::fs::write(file, format!("{:#}\n", report.json()))
            .with_context(|| format!("writing the report to {}", file.display())),
        None => Ok(()),
    };
    drop(stage);
    outcome.and(written)
}

fn stage_options(args: &DemoArgs) -> Result<StageOptions> {
    let own = std::env::current_exe().context("finding the running program")?;
    let mut cluster = ClusterOptions::new(&own).with_ttl(args.ttl);
    cluster.members = usize::from(args.members);
    cluster.failsafe_mode = args.failsafe;
    cluster.check()?;
    Ok(StageOptions {
        cluster,
        router: args.router.clone().unwrap_or(own),
        port_write: args.port_write,
        port_read: args.port_read,
        clients: args.clients,
        pause: CLIENT_PAUSE,
    })
}

/// Shows the stage until the script, the time, the user or a signal ends it.
async fn run(stage: &Stage, args: &DemoArgs, signals: &mut Signals) -> Result<()> {
    let keys = if stdin().is_terminal() && args.events.is_empty() { Some(Keys::listen()?) } else { None };
    tokio::select! {
        outcome = live::show(stage, keys.is_some()) => outcome,
        outcome = script(stage, args) => outcome,
        () = obey(stage, keys) => Ok(()),
        name = signals.next() => {
            say(format!("{name}: ending"));
            Ok(())
        }
    }
}

async fn script(stage: &Stage, args: &DemoArgs) -> Result<()> {
    for fault in &args.events {
        stage.play(*fault, args.etcd_for).await?;
    }
    if let Some(lasting) = args.lasting {
        let rest = lasting.saturating_sub(clock::now().saturating_duration_since(stage.began));
        tokio::time::sleep(rest).await;
    } else if args.events.is_empty() {
        std::future::pending::<()>().await;
    }
    Ok(())
}

/// Does what keys say until `q`. What cannot be done now is a line on the page.
async fn obey(stage: &Stage, keys: Option<Keys>) {
    let Some(mut keys) = keys else { return std::future::pending().await };
    loop {
        let key = keys.next().await;
        let outcome = match key {
            b's' => stage.cause(Fault::Switchover).await.map(drop),
            b'k' => stage.cause(Fault::KillPrimary).await.map(drop),
            b'p' => stage.cause(Fault::KillPatroni).await.map(drop),
            b'f' => stage.freeze_or_thaw().await,
            b'e' => stage.stop_or_start_etcd().await,
            b'r' => stage.repair().await.map(|found| {
                if !found {
                    stage.note("nothing to repair".to_owned(), false)
                }
            }),
            b'q' => return,
            _ => Ok(()),
        };
        if let Err(error) = outcome {
            stage.note(format!("not done: {error}"), false);
        }
    }
}

/// What asks the demo to end in good order.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen() -> Result<Signals> {
        let listen = |kind| signal(kind).context("listening to signals");
        Ok(Signals {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.hangup.recv() => "SIGHUP",
        }
    }
}

/// A closed pipe is no reason to stop.
fn say(text: String) {
    drop(writeln!(stdout().lock(), "{text}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units_and_decimals() {
        assert_eq!(parse_duration("30"), Ok(Duration::from_secs(30)));
        assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_duration("20ms"), Ok(Duration::from_millis(20)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        assert!(parse_duration("2 weeks").unwrap_err().contains("weeks"));
        assert!(parse_duration("s").unwrap_err().contains("30s"));
    }
}
