use clap::{Parser, Subcommand};
use pgvane::cli::demo::{DemoArgs, demo};

#[derive(Parser)]
#[command(name = "pgvane", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// A real three-node cluster on this machine with the router in front.
    Demo(DemoArgs),
}

#[tokio::main]
async fn main() -> std::process::ExitCode {
    let Command::Demo(args) = Arguments::parse().command;
    match demo(args).await {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pgvane: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}
