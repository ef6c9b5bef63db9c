//! `fabstir-reliability`: rows that are run against the node's binary, one after the other.

use std::process::ExitCode;

use clap::Parser as _;
use fabstir_reliability::Args;

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    fabstir_reliability::run(Args::parse()).await
}
