//! The node's binary: read the settings, load the model, bind, serve until told to stop.

use std::{
    ffi::OsString,
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use anyhow::Context as _;
use fabstir_custody::{Hardening, Secret, harden, take_from_environment};
use fabstir_llm_node::{
    command::{Command, ConfigCommand},
    config::{Args, Config, EnvFile, HOST_PRIVATE_KEY, KeySources},
    crypto, engine, logging, metrics, model,
    node::Node,
    server,
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

fn main() -> ExitCode {
    bound_spinning();
    // Before there is a second thread.
    let key = take_from_environment(HOST_PRIVATE_KEY);
    match serve(key) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line for whoever has to act on it: where in the program it arose is of no use to them.
            let _ = writeln!(std::io::stderr(), "Error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn serve(key: Option<Secret>) -> anyhow::Result<()> {
    let mut env_file = EnvFile::read(Path::new(".env"))?;
    let key = key.or_else(|| env_file.take_key());
    // What is not UTF-8 is wrong, and not absent: a setting that is set wrongly must stop the start.
    let text =
        |value: OsString| value.into_string().unwrap_or_else(|value| value.to_string_lossy().into_owned());
    let set = |name: &str| std::env::var_os(name).map(text);
    let env = |name: &str| set(name).or_else(|| env_file.get(name));
    let mut args = Args::read(std::env::args_os(), &env).unwrap_or_else(|error| error.exit());
    let command = args.take_command();
    let credentials = env("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    let (config, sources) = args.resolve(key, credentials.as_deref())?;
    if let Some(command) = command {
        return perform(command, &config, &sources);
    }
    let hub = env(model::HF_ENDPOINT);
    drop(env_file);
    logging::start(&config).context("RUST_LOG cannot be read")?;
    let metrics = metrics::start()?;
    harden_process(&config);
    let keys = crypto::load_keys(&sources, &config)?;
    let sources = sources.without_text();
    crypto::announce(keys.as_ref().map(|keys| &keys.current));
    let engine = engine::load(&config.engine, hub.as_deref()).await?;
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("cannot listen on {}: set LISTEN_ADDR to another address", config.listen))?;
    let node = Node::new(config, keys, engine)?;
    stop_on_signals(&node)?;
    reload_on_signal(&node, sources)?;
    tracing::info!(address = %listener.local_addr()?, "listening");
    server::run(listener, node, metrics).await;
    Ok(())
}

/// Before a key is in memory.
fn harden_process(config: &Config) {
    if config.allow_debugging {
        tracing::warn!("ALLOW_DEBUGGING: other processes of this user can read every key in memory");
        return;
    }
    let Hardening { no_core_dumps, not_dumpable } = harden();
    if !(no_core_dumps && not_dumpable) {
        tracing::warn!(no_core_dumps, not_dumpable, "this process's memory could not be kept to itself");
    }
}

/// Does what is not serving.
fn perform(command: Command, config: &Config, sources: &KeySources) -> anyhow::Result<()> {
    match command {
        Command::Keys(command) => command.run(config, sources),
        Command::Config(ConfigCommand::Check) => {
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

/// SIGHUP follows the settings of the key once more.
fn reload_on_signal(node: &Arc<Node>, sources: KeySources) -> anyhow::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    let (node, sources) = (Arc::clone(node), Arc::new(sources));
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            let (node, sources) = (Arc::clone(&node), Arc::clone(&sources));
            // Files, commands and tokens take their time.
            let done = tokio::task::spawn_blocking(move || crypto::reload_keys(&node, &sources)).await;
            match done {
                Ok(Ok(outcome)) => {
                    tracing::info!(event = "reload", ?outcome, "the key's settings were followed once more")
                }
                Ok(Err(error)) => tracing::error!(event = "reload", %error, "the identity stays what it is"),
                Err(_) => tracing::error!(
                    event = "reload",
                    "the reload ended before its time: the identity stays what it is"
                ),
            }
        }
    });
    Ok(())
}
