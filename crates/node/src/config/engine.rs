//! Who computes, and how.

use std::{
    num::{NonZeroU32, NonZeroU64, NonZeroUsize},
    path::PathBuf,
    time::Duration,
};

use clap::{Args, ValueEnum};
use fabstir_engine::{FlashAttention, KvType, LlamaConfig, Loading, UpstreamConfig};

use super::{ConfigError, contradictions::refuse_both};
use crate::model::ModelSource;

/// What was typed of the engine.
#[derive(Args, Clone, Debug)]
pub struct EngineArgs {
    /// GGUF file to serve
    #[arg(long)]
    model_path: Option<PathBuf>,
    /// Model to serve: `default` (fetched once), a path, or hf:owner/repo/file.gguf
    #[arg(long)]
    model: Option<String>,
    /// Several models instead of one, comma-separated, each as MODEL or as name=MODEL; the first is the default
    #[arg(long, value_delimiter = ',', value_name = "MODELS")]
    models: Vec<String>,
    /// Seconds after which a model that nobody asks for leaves memory until somebody does; 0 keeps it
    #[arg(long, value_name = "SECONDS", default_value = "0")]
    model_idle_seconds: u64,
    /// Servers that compute instead: base URLs of any OpenAI-compatible ones, like http://127.0.0.1:8000/v1; comma-separated
    #[arg(long, value_delimiter = ',', value_name = "URLS")]
    engine_url: Vec<String>,
    /// Models to serve from ENGINE_URL; comma-separated, by default all that the servers name
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    engine_models: Vec<String>,
    /// A file with the API key of the servers at ENGINE_URL, which others cannot read (0600, 0400, 0640)
    #[arg(long, value_name = "FILE")]
    engine_api_key_file: Option<PathBuf>,
    /// A file with the PEM certificates that the servers at ENGINE_URL are trusted by, instead of the public ones
    #[arg(long, value_name = "FILE")]
    engine_ca_file: Option<PathBuf>,
    /// A file with the PEM certificate and key that is shown to the servers at ENGINE_URL (mutual TLS), which others cannot read
    #[arg(long, value_name = "FILE")]
    engine_identity_file: Option<PathBuf>,
    /// Seconds that a server at ENGINE_URL may take to its first word, and between any two
    #[arg(long, value_name = "SECONDS", default_value = "120")]
    engine_silence_seconds: NonZeroU64,
    /// Who computes; echo repeats the prompt and is for testing clients only
    #[arg(long, value_enum, default_value = "llama")]
    engine: EngineKind,
    /// Answers computed side by side; by default as many as a quarter of the free memory holds, 16 at most
    #[arg(long)]
    max_sequences: Option<NonZeroU32>,
    /// Tokens of prompt and answer together that one sequence may hold
    #[arg(long, default_value = "2048")]
    context_tokens: NonZeroU32,
    /// Prompt tokens computed in one step at most, a quarter of them while answers run, and while every place is taken no more than a fifth of a second computes, 64 at least; less keeps answers smoother, more is quicker for long prompts and on a GPU
    #[arg(long, default_value = "256", value_parser = clap::value_parser!(u32).range(1..=8192))]
    prefill_chunk: u32,
    /// Main memory, in MiB, for what was computed of conversations that lost their place in the model, all models together; 0 keeps nothing
    #[arg(long, value_name = "MIB", default_value = "512")]
    prefix_cache_mib: u32,
    /// Layers to put on the GPU, in a build with cuda, vulkan or metal; by default all
    #[arg(long)]
    gpu_layers: Option<u32>,
    /// Attention in tiles: less memory, quicker on most GPUs
    #[arg(long, value_enum, default_value = "auto")]
    flash_attention: FlashAttentionMode,
    /// How keys and values are kept: fewer bits hold longer conversations, less exactly
    #[arg(long, value_enum, default_value = "f16")]
    kv_type: KvTypeName,
    /// A file with the Jinja chat template to use in the place of the model's own
    #[arg(long, value_name = "FILE")]
    chat_template: Option<PathBuf>,
    /// Seconds that one step, the choice of tokens after it, or the preparation of a request may take before the engine counts as hung and is started again
    #[arg(long, value_name = "SECONDS", default_value = "120")]
    step_timeout_seconds: NonZeroU64,
    /// Threads that compute, for each model; by default what this process may use
    #[arg(long)]
    threads: Option<NonZeroU32>,
    /// Most answer tokens of a request, whatever it asks for; by default what the context holds
    #[arg(long)]
    pub(super) max_tokens_per_request: Option<NonZeroU32>,
    /// Requests that may wait for the model
    #[arg(long, default_value = "256")]
    max_waiting: NonZeroUsize,
}

/// Who computes the answers.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum EngineKind {
    /// A GGUF model with llama.cpp.
    Llama,
    /// Nobody: the prompt comes back.
    Echo,
}

/// Whether attention is computed in tiles.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum FlashAttentionMode {
    /// Where llama.cpp expects it to help.
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// How keys and values are kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum KvTypeName {
    /// 16-bit floating point.
    F16,
    /// 8 bits; needs flash attention.
    #[value(name = "q8_0")]
    Q8,
    /// 4 bits; needs flash attention.
    #[value(name = "q4_0")]
    Q4,
}

/// The engine that the node runs with.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "each is explained at the flag of the same name")]
pub struct EngineConfig {
    pub kind: EngineKind,
    /// At least one; the first is the default.
    pub models: Vec<ModelSetting>,
    pub model_idle: Option<Duration>,
    pub chat_template: Option<PathBuf>,
    pub context_tokens: u32,
    /// Servers that compute instead.
    pub upstream: Option<UpstreamSettings>,
    /// Everything that is the same for every model. Its path and name are nobody's.
    pub llama: LlamaConfig,
}

/// Servers behind the node, and the files that are needed to talk to them.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "each is explained at the flag of the same name")]
pub struct UpstreamSettings {
    /// Everything that stands in no file.
    pub upstream: UpstreamConfig,
    pub api_key_file: Option<PathBuf>,
    pub ca_file: Option<PathBuf>,
    pub identity_file: Option<PathBuf>,
}

/// One model to serve.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ModelSetting {
    /// What requests call it; by default its file's name.
    pub name: Option<String>,
    /// Where it is.
    pub source: ModelSource,
}

impl EngineConfig {
    /// The settings of the model in `path`. Others than the default one are loaded when they are asked for.
    pub fn of_model(
        &self,
        path: PathBuf,
        name: String,
        chat_template: Option<String>,
        at: usize,
    ) -> LlamaConfig {
        let loading = if at == 0 { Loading::AtStart } else { Loading::OnDemand };
        LlamaConfig {
            path,
            name,
            chat_template,
            loading,
            unload_after: self.model_idle,
            ..self.llama.clone()
        }
    }
}

impl EngineArgs {
    pub(super) fn resolve(self, stalled_reader: Duration) -> Result<EngineConfig, ConfigError> {
        self.refuse_contradictions()?;
        let upstream = self.upstream(stalled_reader);
        let models = models(self.model_path, self.model.as_deref(), &self.models)?;
        let llama = LlamaConfig {
            context_tokens: self.context_tokens.get(),
            max_sequences: self.max_sequences.map(NonZeroU32::get),
            threads: self.threads.map(NonZeroU32::get),
            max_waiting: self.max_waiting.get(),
            prefill_chunk: self.prefill_chunk,
            stalled_reader,
            step_timeout: Duration::from_secs(self.step_timeout_seconds.get()),
            prefix_cache_bytes: share(self.prefix_cache_mib, models.len()),
            gpu_layers: self.gpu_layers,
            flash_attention: match self.flash_attention {
                FlashAttentionMode::Auto => FlashAttention::Auto,
                FlashAttentionMode::On => FlashAttention::On,
                FlashAttentionMode::Off => FlashAttention::Off,
            },
            kv_type: match self.kv_type {
                KvTypeName::F16 => KvType::F16,
                KvTypeName::Q8 => KvType::Q8_0,
                KvTypeName::Q4 => KvType::Q4_0,
            },
            ..LlamaConfig::new(PathBuf::new(), String::new())
        };
        let idle = Duration::from_secs(self.model_idle_seconds);
        Ok(EngineConfig {
            kind: self.engine,
            models,
            model_idle: (!idle.is_zero()).then_some(idle),
            chat_template: self.chat_template,
            context_tokens: self.context_tokens.get(),
            upstream,
            llama,
        })
    }

    fn upstream(&self, stalled_reader: Duration) -> Option<UpstreamSettings> {
        if self.engine_url.is_empty() {
            return None;
        }
        let mut upstream = UpstreamConfig {
            models: self.engine_models.clone(),
            context_window: self.context_tokens.get(),
            max_waiting: self.max_waiting.get(),
            silence: Duration::from_secs(self.engine_silence_seconds.get()),
            stalled_reader,
            ..UpstreamConfig::new(self.engine_url.iter().map(|url| url.trim().to_owned()).collect())
        };
        if let Some(most) = self.max_sequences {
            upstream.max_running = usize::try_from(most.get()).unwrap_or(usize::MAX);
        }
        Some(UpstreamSettings {
            upstream,
            api_key_file: self.engine_api_key_file.clone(),
            ca_file: self.engine_ca_file.clone(),
            identity_file: self.engine_identity_file.clone(),
        })
    }

    fn refuse_contradictions(&self) -> Result<(), ConfigError> {
        if self.kv_type != KvTypeName::F16 && self.flash_attention == FlashAttentionMode::Off {
            return Err(ConfigError::KvTypeNeedsFlashAttention);
        }
        let own_context = self.engine_url.is_empty();
        if own_context && self.max_tokens_per_request.is_some_and(|most| most > self.context_tokens) {
            return Err(ConfigError::MaxTokensAboveContext);
        }
        let echo = self.engine == EngineKind::Echo;
        let (path, name, several) =
            (self.model_path.is_some(), self.model.is_some(), !self.models.is_empty());
        let upstream = !self.engine_url.is_empty();
        let needs_upstream = [
            ("ENGINE_MODELS", !self.engine_models.is_empty()),
            ("ENGINE_API_KEY_FILE", self.engine_api_key_file.is_some()),
            ("ENGINE_CA_FILE", self.engine_ca_file.is_some()),
            ("ENGINE_IDENTITY_FILE", self.engine_identity_file.is_some()),
        ];
        if let Some((setting, _)) = needs_upstream.into_iter().find(|(_, set)| *set && !upstream) {
            return Err(ConfigError::NeedsEngineUrl { setting });
        }
        refuse_both(&[
            ("ENGINE_URL", upstream, "ENGINE=echo", echo),
            ("ENGINE_URL", upstream, "MODEL", name),
            ("ENGINE_URL", upstream, "MODEL_PATH", path),
            ("ENGINE_URL", upstream, "MODELS", several),
            ("ENGINE_URL", upstream, "CHAT_TEMPLATE", self.chat_template.is_some()),
            ("ENGINE_URL", upstream, "GPU_LAYERS", self.gpu_layers.is_some()),
            ("ENGINE_URL", upstream, "THREADS", self.threads.is_some()),
            ("MODEL_PATH", path, "MODEL", name),
            ("MODEL_PATH", path, "MODELS", several),
            ("MODEL", name, "MODELS", several),
            ("ENGINE=echo", echo, "MODEL", name),
            ("ENGINE=echo", echo, "MODEL_PATH", path),
            ("ENGINE=echo", echo, "MODELS", several),
            ("MODELS", self.models.len() > 1, "CHAT_TEMPLATE", self.chat_template.is_some()),
        ])
    }
}

/// Each model's part, in bytes.
fn share(mebibytes: u32, models: usize) -> usize {
    let all = usize::try_from(u64::from(mebibytes) << 20).unwrap_or(usize::MAX);
    all.checked_div(models).unwrap_or(all)
}

fn models(
    path: Option<PathBuf>,
    name: Option<&str>,
    several: &[String],
) -> Result<Vec<ModelSetting>, ConfigError> {
    let failed = |setting| move |text| ConfigError::Model { setting, text };
    if several.is_empty() {
        let source = ModelSource::read(path, name).map_err(failed("MODEL"))?;
        return Ok(vec![ModelSetting { name: None, source }]);
    }
    let read = |text: &String| {
        let text = text.trim();
        let (name, model) = match text.split_once('=') {
            Some((name, model)) => (Some(name.trim().to_owned()), model.trim()),
            None => (None, text),
        };
        if model.is_empty() || name.as_ref().is_some_and(String::is_empty) {
            return Err(ConfigError::Model { setting: "MODELS", text: text.to_owned() });
        }
        let source = ModelSource::read(None, Some(model)).map_err(failed("MODELS"))?;
        Ok(ModelSetting { name, source })
    };
    several.iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_models_have_names_of_their_own_or_their_files() {
        let listed = ["small=default".to_owned(), " big = /models/b.gguf ".to_owned(), "c.gguf".to_owned()];
        let setting = |name: Option<&str>, source| ModelSetting { name: name.map(str::to_owned), source };
        let expected = [
            setting(Some("small"), ModelSource::Default),
            setting(Some("big"), ModelSource::File("/models/b.gguf".into())),
            setting(None, ModelSource::File("c.gguf".into())),
        ];
        assert_eq!(models(None, None, &listed).unwrap(), expected);
        for wrong in ["=a.gguf", "a=", "", "hf:nothing"] {
            let error = models(None, None, &[wrong.to_owned()]).unwrap_err();
            assert!(error.to_string().starts_with("MODELS"), "{error}");
        }
    }
}
