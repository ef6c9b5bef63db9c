//! The command line of fabstir: ask a node over an end-to-end encrypted session, and see what an outsider
//! would see of it.

mod args;
mod ask;
mod attack;
mod capture;
mod chat;
mod connect;
mod delegate;
mod doctor;
mod failure;
mod identity;
mod inspect;
mod keys;
mod proxy;
mod tell;

use std::process::ExitCode;

use args::{Args, Command};
use clap::{CommandFactory as _, Parser as _};
use fabstir_manual::ManualCommand;
use failure::{Exit, Failure};

fn main() -> ExitCode {
    let args = Args::parse();
    let ended = match args.command {
        Command::Ask(ask) => block_on(ask::run(ask)),
        Command::Chat(chat) => block_on(chat::run(chat)),
        Command::Doctor(doctor) => block_on(doctor::run(doctor)),
        Command::Proxy(proxy) => block_on(proxy::run(proxy)),
        Command::Keys(keys) => keys::run(keys),
        Command::Attack(attack) => block_on(attack::run(attack)),
        Command::Inspect { file } => inspect::run(&file),
        Command::Manual(manual) => described(manual),
    };
    match ended {
        Ok(exit) => exit.into(),
        Err(failure) => failure.report(),
    }
}

/// Completions, or man pages.
fn described(manual: ManualCommand) -> Result<Exit, Failure> {
    let said = manual.run(Args::command(), &mut std::io::stdout().lock());
    said.map(|()| Exit::Ok).map_err(|error| Failure::new(Exit::Usage, error.to_string()))
}

fn block_on(work: impl Future<Output = Result<Exit, Failure>>) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Usage, format!("cannot start: {error}")))?;
    let ended = runtime.block_on(work);
    // A look-up that hangs in the resolver must not hold the exit up.
    runtime.shutdown_background();
    ended
}
