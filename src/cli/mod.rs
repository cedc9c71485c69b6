//! The subcommands.

pub mod check;
pub mod demo;
pub mod run;
pub mod vip;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

use crate::runtime::log::LogFormat;

/// Exit codes of sysexits.h, as product-wide promises.
const BAD_USAGE: u8 = 64;

/// Client endpoint for highly available PostgreSQL: clients of the write port always reach the
/// writable leader of a Patroni cluster.
#[derive(Debug, Parser)]
#[command(name = "pgvane", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// How log lines are written to stderr: text unless said otherwise.
    #[arg(long, value_enum, global = true)]
    log_format: Option<LogFormat>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The router and its admin endpoint.
    Run(FileArgument),
    /// Validate a configuration: every problem at once, with file:line:column.
    Check(FileArgument),
    /// A real three-node cluster on this machine with the router in front.
    Demo(demo::DemoArgs),
    /// The holder of one virtual address alone, with vip-manager's settings.
    #[command(disable_help_flag = true)]
    Vip(vip::VipArguments),
}

#[derive(Debug, clap::Args)]
struct FileArgument {
    /// The configuration file.
    #[arg(short = 'c', long = "config", value_name = "FILE", default_value = "/etc/pgvane/pgvane.yml")]
    config: PathBuf,
}

/// Everything after the operating system's part.
pub fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    if let Some(called) = words.first().and_then(|program| vip::Called::by(program)) {
        return vip::main(called, &words[1..], None);
    }
    // Its flags are vip-manager's, some of which have one dash, and not for clap to understand.
    if words.get(1).is_some_and(|word| word == "vip") {
        return vip::main(vip::Called::Subcommand, &words[2..], None);
    }
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return usage(&error),
    };
    let format = arguments.log_format;
    match arguments.command {
        Command::Run(file) => run::run(&file.config, format.unwrap_or_default()),
        Command::Check(file) => check::check(&file.config),
        Command::Demo(demo) => finish(start_demo(demo)),
        Command::Vip(vip) => vip::main(vip::Called::Subcommand, &vip.words, format),
    }
}

fn usage(error: &clap::Error) -> ExitCode {
    // Help and version are answers, not mistakes. A closed stdout is nobody's loss.
    let _printed = error.print();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
        _ => ExitCode::from(BAD_USAGE),
    }
}

fn finish(outcome: anyhow::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pgvane: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start_demo(arguments: demo::DemoArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(demo::demo(arguments));
    runtime.shutdown_background();
    outcome
}
