//! From the settings to the engine that they mean.

use std::{
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use fabstir_custody::{SecretFileError, read_credential};
use fabstir_engine::{
    ApiKey, EchoEngine, Engine, LlamaConfig, LlamaEngine, LoadError, SameName, Several, UpstreamConfig,
    UpstreamEngine, UpstreamError,
};
use indicatif::{ProgressBar, ProgressStyle};

use crate::{
    config::{EngineConfig, EngineKind, UpstreamSettings},
    model::ModelError,
    regular,
};

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the message of each says it")]
pub enum EngineError {
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error("MODELS: {0}")]
    Names(#[from] SameName),
    #[error("ENGINE_URL: {0}")]
    Upstream(#[from] UpstreamError),
    #[error("{setting}: {path}: {cause}")]
    File { setting: &'static str, path: String, cause: io::Error },
    #[error("{setting}: {cause}")]
    Secret { setting: &'static str, cause: SecretFileError },
    #[error("a secret of ENGINE_URL's servers is no text")]
    NoText,
    #[error("loading the model was interrupted")]
    Interrupted,
}

/// Loads what is to compute, and shows how far it is. `hub` is where `hf:` names are looked up, if not at the
/// usual place.
///
/// # Errors
/// [`EngineError`], which says what to do.
pub async fn load(config: &EngineConfig, hub: Option<&str>) -> Result<Arc<dyn Engine>, EngineError> {
    if let Some(settings) = &config.upstream {
        return upstream(settings).await;
    }
    match config.kind {
        EngineKind::Echo => {
            tracing::warn!("--engine echo: no model is loaded, prompts are said back word by word");
            Ok(Arc::new(EchoEngine::new("echo", config.context_tokens)))
        }
        EngineKind::Llama => llama(config, hub).await,
    }
}

async fn llama(config: &EngineConfig, hub: Option<&str>) -> Result<Arc<dyn Engine>, EngineError> {
    let template = template(config)?;
    let mut engines: Vec<Box<dyn Engine>> = Vec::new();
    for (at, model) in config.models.iter().enumerate() {
        let path = model.source.locate(hub).await?;
        let stem = || path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        let name = model.name.clone().or_else(stem).unwrap_or_else(|| "model".into());
        engines.push(Box::new(load_one(config.of_model(path, name, template.clone(), at)).await?));
    }
    Ok(Arc::new(Several::new(engines)?))
}

fn read(setting: &'static str, path: &Path) -> Result<String, EngineError> {
    let failed = |cause| EngineError::File { setting, path: path.display().to_string(), cause };
    regular::read_text(path).map_err(failed)
}

/// Whether everything that `config` names beside the models can be used.
///
/// # Errors
/// [`EngineError`], which says what to do.
pub fn check(config: &EngineConfig) -> Result<(), EngineError> {
    match (&config.upstream, config.kind) {
        (Some(settings), _) => Ok(UpstreamEngine::check(&with_files(settings)?)?),
        (None, EngineKind::Llama) => template(config).map(drop),
        (None, EngineKind::Echo) => Ok(()),
    }
}

fn template(config: &EngineConfig) -> Result<Option<String>, EngineError> {
    config.chat_template.as_deref().map(|path| read("CHAT_TEMPLATE", path)).transpose()
}

/// What the servers behind the node are asked with, with what stands in files.
fn with_files(settings: &UpstreamSettings) -> Result<UpstreamConfig, EngineError> {
    let secret = |setting, path: &Option<PathBuf>| -> Result<Option<ApiKey>, EngineError> {
        let Some(path) = path else { return Ok(None) };
        let secret = read_credential(path).map_err(|cause| EngineError::Secret { setting, cause })?;
        let text = std::str::from_utf8(secret.as_bytes()).map_err(|_| EngineError::NoText)?;
        Ok(Some(ApiKey::from(text)))
    };
    let mut upstream = settings.upstream.clone();
    upstream.api_key = secret("ENGINE_API_KEY_FILE", &settings.api_key_file)?;
    upstream.identity = secret("ENGINE_IDENTITY_FILE", &settings.identity_file)?;
    let trust = settings.ca_file.as_deref().map(|path| read("ENGINE_CA_FILE", path)).transpose()?;
    upstream.trust = trust.map(String::into_bytes);
    Ok(upstream)
}

async fn upstream(settings: &UpstreamSettings) -> Result<Arc<dyn Engine>, EngineError> {
    let upstream = with_files(settings)?;
    let servers = upstream.urls.len();
    let engine = UpstreamEngine::connect(upstream).await?;
    for model in engine.models() {
        tracing::info!(
            model = model.name,
            context_window = model.context_window,
            servers,
            "served from ENGINE_URL"
        );
    }
    Ok(Arc::new(engine))
}

async fn load_one(config: LlamaConfig) -> Result<LlamaEngine, EngineError> {
    let loading = tokio::task::spawn_blocking(move || {
        let bar = progress_bar();
        let shown = bar.clone();
        let engine = LlamaEngine::load(config, move |done| shown.set_position(percent(done)));
        bar.finish_and_clear();
        engine
    });
    let engine = loading.await.map_err(|_| EngineError::Interrupted)??;
    for model in engine.models() {
        let loaded = engine.is_loaded(&model.name);
        tracing::info!(
            model = model.name,
            sha256 = model.digest,
            context_window = model.context_window,
            slots = engine.status().slots,
            "{}",
            if loaded { "model loaded" } else { "model found: it is loaded when it is asked for" }
        );
    }
    Ok(engine)
}

fn progress_bar() -> ProgressBar {
    if !io::stderr().is_terminal() {
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
