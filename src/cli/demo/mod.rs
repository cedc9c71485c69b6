//! `pgvane demo`: a real cluster on this machine with the router in front, and what clients felt.

pub mod clients;
pub mod cluster;
pub mod etcd;
pub mod ground;
pub mod member;
mod options;
pub mod poller;
pub mod processes;
mod programs;
pub mod report;
mod rest;

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Become the guardian of this demo directory.
    #[arg(long, hide = true, value_name = "DIR")]
    guardian: Option<PathBuf>,
}

pub async fn demo(args: DemoArgs) -> Result<()> {
    if let Some(dir) = args.guardian {
        return ground::guard(&dir);
    }
    Ok(())
}
