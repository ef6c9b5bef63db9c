//! The node's binary: read the settings, load the model, bind, serve until told to stop.

use std::{ffi::OsString, io::Write as _, path::Path, process::ExitCode, sync::Arc};

use anyhow::Context as _;
use fabstir_llm_node::{
    command::{Command, ConfigCommand},
    config::{Args, Config, EnvFile},
    engine, logging, metrics, model,
    node::Node,
    server::{self, Listener},
    tls::Tls,
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

fn main() -> ExitCode {
    bound_spinning();
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line for whoever has to act on it: where in the program it arose is of no use to them.
            let _ = writeln!(std::io::stderr(), "Error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn serve() -> anyhow::Result<()> {
    let env_file = EnvFile::read(Path::new(".env"))?;
    // What is not UTF-8 is wrong, and not absent: a key that is set wrongly must stop the start.
    let text =
        |value: OsString| value.into_string().unwrap_or_else(|value| value.to_string_lossy().into_owned());
    let set = |name: &str| std::env::var_os(name).map(text);
    let env = |name: &str| set(name).or_else(|| env_file.get(name));
    let mut args = Args::read(std::env::args_os(), &env).unwrap_or_else(|error| error.exit());
    let command = args.take_command();
    let (config, key) = args.resolve(env)?;
    if let Some(command) = command {
        return perform(command, &config);
    }
    let hub = env(model::HF_ENDPOINT);
    drop(env_file);
    logging::start(&config).context("RUST_LOG cannot be read")?;
    let metrics = metrics::start()?;
    fabstir_llm_node::crypto::announce(key.as_ref());
    let tls = config.tls.as_ref().map(Tls::load).transpose()?;
    let engine = engine::load(&config.engine, hub.as_deref()).await?;
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("cannot listen on {}: set LISTEN_ADDR to another address", config.listen))?;
    let node = Node::new(config, key, engine);
    stop_on_signals(&node)?;
    tracing::info!(address = %listener.local_addr()?, tls = tls.is_some(), "listening");
    server::run(Listener::new(listener, tls), node, metrics).await;
    Ok(())
}

/// Does what is not serving.
fn perform(command: Command, config: &Config) -> anyhow::Result<()> {
    match command {
        Command::Config(ConfigCommand::Check) => {
            config.tls.as_ref().map(Tls::load).transpose()?;
            writeln!(std::io::stdout(), "the settings are in order")?;
            Ok(())
        }
    }
}

/// The threads that compute wait for each other by spinning, for milliseconds by default: where others want the cores too,
/// one that waits keeps the one that it waits for from running. The runtime of OpenMP reads how long before `main`, so the
/// program starts itself anew with a bound (docs/decisions/0010).
#[cfg(target_os = "linux")]
fn bound_spinning() {
    use std::{env, os::unix::process::CommandExt as _, process::Command};
    const SPINS: (&str, &str) = ("GOMP_SPINCOUNT", "1000");
    if [SPINS.0, "OMP_WAIT_POLICY"].iter().any(|name| env::var_os(name).is_some()) {
        return;
    }
    let mut arguments = env::args_os();
    let mut again = Command::new("/proc/self/exe");
    if let Some(name) = arguments.next() {
        again.arg0(name);
    }
    // Returns only where that failed, and then the node runs as it is.
    let _ = again.args(arguments).env(SPINS.0, SPINS.1).exec();
}

#[cfg(not(target_os = "linux"))]
fn bound_spinning() {}

/// The first SIGINT or SIGTERM drains, the second stops at once.
fn stop_on_signals(node: &Arc<Node>) -> anyhow::Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let node = Arc::clone(node);
    tokio::spawn(async move {
        for stop in [&node.draining, &node.stopping] {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            stop.cancel();
        }
    });
    Ok(())
}
