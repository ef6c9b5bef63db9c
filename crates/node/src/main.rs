//! The node's binary: read the settings, load the model, bind, serve until told to stop.

use std::{
    ffi::OsString,
    io::{ErrorKind, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use fabstir_custody::{Hardening, Secret, harden, take_from_environment};
use fabstir_engine::Engine;
use fabstir_llm_node::{
    admin::{self, AdminSocket},
    aside,
    command::{Call, Command, describe},
    config::{
        Config, DEFAULT_FILE, EnvFile, HOST_PRIVATE_KEY, KeySources, Layers, Origin, Settings, SettingsError,
        Stray,
    },
    crypto, engine,
    ledger::Ledger,
    listener::Listener,
    logging, metrics, model,
    node::Node,
    reload::reload,
    server, systemd,
    tls::Tls,
    traces::{self, Traces},
};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{
    net::TcpListener,
    runtime::Runtime,
    signal::unix::{Signal, SignalKind, signal},
};

fn main() -> ExitCode {
    bound_spinning();
    // Before there is a second thread.
    let key = take_from_environment(HOST_PRIVATE_KEY);
    let done = runtime().and_then(|runtime| {
        let done = match Command::without_settings(std::env::args_os()) {
            Some(command) => describe(command),
            None => runtime.block_on(serve(key)),
        };
        // What blocks for ever, a file on a server that is gone, say, does not keep the process.
        runtime.shutdown_timeout(LAST_MOMENT);
        done
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // Who reads it has seen enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::FAILURE,
        Err(error) => {
            // One line for whoever has to act on it: where in the program it arose is of no use to them.
            let mark = logging::mark_of_a_fault(std::io::stderr());
            let _ = writeln!(std::io::stderr(), "{mark}Error: {}", sentence(&error));
            ExitCode::FAILURE
        }
    }
}

/// What went wrong, and why, once: some errors say their cause themselves.
fn sentence(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |said, cause| {
        let cause = cause.to_string();
        if said.is_empty() {
            cause
        } else if said.ends_with(&cause) {
            said
        } else {
            format!("{said}: {cause}")
        }
    })
}

/// Settings cannot be read: a node that runs can be asked all the same, and nothing else can be done.
async fn ask_anyway(error: SettingsError, set: &impl Fn(&str) -> Option<String>) -> anyhow::Result<()> {
    match (Command::whatever_is_set(std::env::args_os(), set), error) {
        (Some((command, socket)), error) => {
            writeln!(std::io::stderr(), "warning: {}", error.to_string().trim_end())?;
            command.run(socket.as_deref()).await
        }
        (None, SettingsError::Usage(error)) => error.exit(),
        (None, error) => Err(error.into()),
    }
}

/// How long work that blocks may take once everything else has ended.
const LAST_MOMENT: Duration = Duration::from_secs(2);

fn runtime() -> anyhow::Result<Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

async fn serve(key: Option<Secret>) -> anyhow::Result<()> {
    let mut env_file = EnvFile::read(Path::new(".env"))?;
    let key = key.map(|key| (key, Origin::Environment));
    let key = key.or_else(|| env_file.take_key().map(|key| (key, Origin::EnvFile)));
    // What is not UTF-8 is wrong, and not absent: a setting that is set wrongly must stop the start.
    let text =
        |value: OsString| value.into_string().unwrap_or_else(|value| value.to_string_lossy().into_owned());
    let set = |name: &str| std::env::var_os(name).map(text);
    let env = |name: &str| set(name).or_else(|| env_file.get(name));
    let layers =
        Layers::environment(&set).with_env_file(&env_file).with_default_file(Path::new(DEFAULT_FILE));
    let mut settings = match Settings::read(std::env::args_os(), &layers) {
        Ok(settings) => settings,
        Err(error) => return ask_anyway(error, &set).await,
    };
    let variables: Vec<String> = std::env::vars_os().map(|(name, _)| text(name)).collect();
    let strays = settings.strays(variables.iter().map(String::as_str).chain(env_file.names()));
    let command = settings.args.take_command();
    let credentials = env("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    let call = Call { settings, key, credentials, strays };
    match command {
        // What is asked of a node that runs needs none of the settings that it runs with.
        Some(Command::Admin(command)) => return command.run(call.settings.args.admin_socket()).await,
        Some(Command::Here(command)) => return command.run(call),
        Some(Command::Manual(command)) => return describe(command),
        None => {}
    }
    let (strays, file) = (call.strays.clone(), call.settings.file.clone());
    let (config, sources) = call.resolve()?;
    let hub = env(model::HF_ENDPOINT);
    drop(env_file);
    let traces = start_telling(&config, &strays, file.as_deref())?;
    // Whoever asks for a reload while the node starts gets one after that, and ends nothing.
    let hangup = signal(SignalKind::hangup())?;
    let metrics = metrics::start()?;
    harden_process(&config);
    // Before anything starts another process, which would get the socket too.
    let inherited = Listener::inherited(config.exposure)?;
    let keys = crypto::load_keys(&sources, &config)?;
    let sources = sources.without_text();
    crypto::announce(keys.as_ref().map(|keys| &keys.current));
    let tls = config.tls.as_ref().map(Tls::load).transpose()?;
    let ledger = ledger(&config)?;
    let mut ends = Ends::listen()?;
    let Some(engine) = engine(&config, hub.as_deref(), &mut ends).await? else { return Ok(()) };
    let listener = Listener::open(config.listen, inherited).await?.with_tls(tls);
    let node = Node::with_ledger(config, keys, engine, Arc::new(ledger))?;
    register_reloads(&node, sources);
    serve_aside(&node, &metrics).await?;
    listen_to_signals(&node, hangup, ends);
    tokio::spawn(systemd::watch(Arc::clone(&node)));
    announce(&node, &listener)?;
    systemd::ready("serving");
    server::run(listener, node, metrics).await;
    if let Some(traces) = traces {
        tokio::task::spawn_blocking(move || traces.end()).await?;
    }
    Ok(())
}

/// Starts the log, and traces where they are asked for; says which settings were found, and which may be misspelt.
fn start_telling(config: &Config, strays: &[Stray], file: Option<&Path>) -> anyhow::Result<Option<Traces>> {
    logging::start(config).context("RUST_LOG cannot be read")?;
    for stray in strays {
        tracing::warn!("{stray}");
    }
    if let Some(file) = file {
        tracing::info!(file = %file.display(), "configuration file read");
    }
    Ok(traces::start(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))?)
}

/// The engine, unless the node is told to end before it is there: a model may take minutes to come.
async fn engine(
    config: &Config,
    hub: Option<&str>,
    ends: &mut Ends,
) -> anyhow::Result<Option<Arc<dyn Engine>>> {
    tokio::select! {
        engine = systemd::at_work("loading the model", engine::load(&config.engine, hub)) => Ok(Some(engine?)),
        () = ends.asked() => {
            tracing::info!("told to end before the model was there");
            Ok(None)
        }
    }
}

fn ledger(config: &Config) -> anyhow::Result<Ledger> {
    let Some(dir) = &config.usage_dir else { return Ok(Ledger::default()) };
    Ledger::in_folder(dir).with_context(|| format!("USAGE_DIR: {}", dir.display()))
}

/// Before a key is where it stays.
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

/// Says that the node serves, and with what.
fn announce(node: &Node, listener: &Listener) -> anyhow::Result<()> {
    let config = &node.config;
    tracing::info!(
        event = "config",
        what = "start",
        min_protocol = config.min_protocol,
        encryption = node.identities.is_some(),
        plaintext = node.serves_plaintext(),
        max_sessions = config.store.sessions,
        drain_seconds = config.drain.as_secs(),
        admin_socket = config.admin_socket.is_some(),
        usage_dir = config.usage_dir.is_some(),
        "Settings"
    );
    let (address, inherited) = (listener.address()?, listener.is_inherited());
    // The address first: scripts read it there.
    tracing::info!(%address, event = "start", version = env!("CARGO_PKG_VERSION"), inherited, "listening");
    Ok(())
}

/// Opens the operator's ways in, those that are set.
async fn serve_aside(node: &Arc<Node>, metrics: &PrometheusHandle) -> anyhow::Result<()> {
    if let Some(address) = node.config.metrics_listen {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("cannot listen on {address}: set METRICS_LISTEN to another address"))?;
        if !address.ip().to_canonical().is_loopback() {
            tracing::warn!(%address, "METRICS_LISTEN is open to other machines: whoever reaches it reads the metrics");
        }
        tracing::info!(address = %listener.local_addr()?, "serving metrics");
        tokio::spawn(aside::serve_metrics(listener, Arc::clone(node), metrics.clone()));
    }
    if let Some(path) = &node.config.admin_socket {
        let socket = AdminSocket::bind(path).await?;
        tokio::spawn(admin::serve(socket, Arc::clone(node), metrics.clone()));
    }
    Ok(())
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
    // By its path, which gives the process its name; where another file has taken that, by what runs.
    let own = env::current_exe().ok().filter(|path| path.exists());
    let mut again = Command::new(own.unwrap_or_else(|| "/proc/self/exe".into()));
    if let Some(name) = arguments.next() {
        again.arg0(name);
    }
    // Returns only where that failed, and then the node runs as it is.
    let _ = again.args(arguments).env(SPINS.0, SPINS.1).exec();
}

#[cfg(not(target_os = "linux"))]
fn bound_spinning() {}

/// The first SIGINT or SIGTERM drains, the second stops at once; SIGHUP reads again what can be.
fn listen_to_signals(node: &Arc<Node>, mut hangup: Signal, mut ends: Ends) {
    let reloading = Arc::clone(node);
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            reload(&reloading).await;
        }
    });
    let node = Arc::clone(node);
    tokio::spawn(async move {
        loop {
            ends.asked().await;
            // A drain that somebody has asked for otherwise counts as the first.
            let stop = if node.draining.is_cancelled() { &node.stopping } else { &node.draining };
            stop.cancel();
        }
    });
}

/// The signals that end the node.
struct Ends {
    interrupt: Signal,
    terminate: Signal,
}

impl Ends {
    fn listen() -> anyhow::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Returns when one of them has come.
    async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// What SIGHUP and `reload` read again.
fn register_reloads(node: &Arc<Node>, sources: KeySources) {
    let can_be_read_again = sources.current.is_some();
    let keyed = Arc::downgrade(node);
    let read_key = move || {
        let node = keyed.upgrade().ok_or("the node is gone")?;
        crypto::reload_keys(&node, &sources)
            .map(|outcome| outcome.to_string())
            .map_err(|error| error.to_string())
    };
    if can_be_read_again {
        node.reloads.register("identity key", read_key);
    }
    if !node.access.has_files() {
        return;
    }
    let listed = Arc::downgrade(node);
    node.reloads.register("lists of clients", move || {
        let node = listed.upgrade().ok_or("the node is gone")?;
        let faults = tokio::runtime::Handle::current().block_on(node.reload_lists());
        if faults.is_empty() {
            return Ok("read".to_owned());
        }
        Err(faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
    });
}
