//! The node's binary: read the settings, load the model, bind, serve until told to stop.

use std::{io::IsTerminal as _, path::Path, sync::Arc, time::Duration};

use anyhow::Context as _;
use fabstir_engine::{EchoEngine, Engine, LlamaConfig, LlamaEngine};
use fabstir_llm_node::{
    config::{Args, Config, EngineKind, EnvFile},
    logging, metrics,
    node::Node,
    server,
};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let env_file = EnvFile::read(Path::new(".env"))?;
    let env = |name: &str| std::env::var(name).ok().or_else(|| env_file.get(name));
    let args = Args::read(std::env::args_os(), &env).unwrap_or_else(|error| error.exit());
    let (config, key) = args.resolve(env)?;
    logging::start(&config).context("RUST_LOG cannot be read")?;
    let metrics = metrics::start()?;
    fabstir_llm_node::crypto::announce(key.as_ref());
    let engine = load_engine(&config, env).await?;
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("cannot listen on {}: set LISTEN_ADDR to another address", config.listen))?;
    let node = Node::new(config, key, engine);
    stop_on_signals(&node)?;
    tracing::info!(address = %listener.local_addr()?, "listening");
    server::run(listener, node, metrics).await;
    Ok(())
}

async fn load_engine(
    config: &Config,
    env: impl Fn(&str) -> Option<String>,
) -> anyhow::Result<Arc<dyn Engine>> {
    if config.engine == EngineKind::Echo {
        tracing::warn!("--engine echo: no model is loaded, prompts are said back word by word");
        return Ok(Arc::new(EchoEngine::new("echo", config.context_tokens)));
    }
    let path = config.model.locate(env).await?;
    let name = path.file_stem().map_or_else(|| "model".into(), |stem| stem.to_string_lossy().into_owned());
    let llama = LlamaConfig {
        path,
        name,
        context_tokens: config.context_tokens,
        max_sequences: config.max_sequences,
        threads: config.threads,
        max_waiting: config.max_waiting,
        prefill_chunk: config.prefill_chunk,
        stalled_reader: config.send_timeout,
        step_timeout: config.step_timeout,
        prefix_cache_bytes: config.prefix_cache_bytes,
        gpu_layers: config.gpu_layers,
        flash_attention: config.flash_attention,
        kv_type: config.kv_type,
    };
    let engine = tokio::task::spawn_blocking(move || {
        let bar = progress_bar();
        let shown = bar.clone();
        let engine = LlamaEngine::load(llama, move |done| shown.set_position(percent(done)));
        bar.finish_and_clear();
        engine
    });
    let engine = engine.await.context("loading the model was interrupted")??;
    if let Some(model) = engine.models().first() {
        tracing::info!(
            model = model.name,
            sha256 = model.digest,
            context_window = model.context_window,
            "model loaded"
        );
    }
    Ok(Arc::new(engine))
}

fn progress_bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(100);
    if let Ok(style) = ProgressStyle::with_template("loading the model {bar:40} {pos} %") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn percent(done: f32) -> u64 {
    // `done` goes from 0 to 1, and no float converts without `as`; count the hundredths instead.
    (0..100_u16).filter(|step| f32::from(*step) < done * 100.0).map(|_| 1).sum()
}

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
