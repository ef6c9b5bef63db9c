//! The reliability suite: each row does to a running node what networks, clients and machines do, and compares what
//! comes of it with a goal. A row counts only if its control is caught: the same check with a fault put in.
//!
//! The node is the real binary in a process of its own, on a free port of loopback, with settings that are flags;
//! nothing but loopback is loaded. docs/reliability.md is written from the results.

mod args;
mod behind;
mod bombs;
mod context;
mod garbage;
mod held;
mod hub;
mod node;
mod outcome;
mod page;
mod peer;
mod results;
mod rows;
mod socket;
mod statistics;
mod way;

pub use args::{Args, Command};

use std::process::ExitCode;

/// Does what was asked. Exit code 1: a goal was missed, a control was not caught, or a row broke off.
///
/// # Errors
/// Where results cannot be read or written.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::List => args::list(),
        Command::Run(run) => results::run(run).await,
        Command::Report(report) => results::report(&report),
    }
}

fn rng() -> impl rand_core::CryptoRng {
    rand_core::UnwrapErr(getrandom::SysRng)
}

fn unix_now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
