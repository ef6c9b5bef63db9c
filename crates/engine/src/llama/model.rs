//! The model's words, in this crate's terms.

use std::{cell::OnceCell, sync::OnceLock, thread};

use llama_cpp_2::{
    LogOptions,
    llama_backend::LlamaBackend,
    model::{LlamaModel, params::LlamaModelParams},
    token::LlamaToken,
};

use crate::{
    Failure, LlamaConfig, LoadError, Text,
    constraint::Grammars,
    sampler::Token,
    sequence::{Control, Vocabulary},
    template::Template,
};

/// llama.cpp itself, once a process.
pub(super) fn backend() -> Result<&'static LlamaBackend, LoadError> {
    static BACKEND: OnceLock<Option<LlamaBackend>> = OnceLock::new();
    let started = BACKEND.get_or_init(|| {
        llama_cpp_2::send_logs_to_tracing(LogOptions::default());
        LlamaBackend::init().ok()
    });
    started.as_ref().ok_or(LoadError::Thread)
}

/// A loaded model with its chat template.
pub(super) struct Model {
    pub(super) llama: LlamaModel,
    pub(super) template: Template,
    pub(super) context_window: u32,
    pub(super) threads: u32,
    /// Made when the first request asks for a form; `None` in it where the vocabulary cannot be used.
    pub(super) grammars: OnceCell<Option<Grammars>>,
}

impl Model {
    pub(super) fn load(
        config: &LlamaConfig,
        mut progress: impl FnMut(f32) + 'static,
    ) -> Result<Self, LoadError> {
        let mut params = LlamaModelParams::default().with_progress_callback(move |done| {
            progress(done);
            true
        });
        if let Some(layers) = config.gpu_layers {
            params = params.with_n_gpu_layers(layers);
        }
        Self::open(config, &params)
    }

    fn open(config: &LlamaConfig, params: &LlamaModelParams) -> Result<Self, LoadError> {
        let llama = LlamaModel::load_from_file(backend()?, &config.path, params)
            .map_err(|_| LoadError::Model(config.path.clone()))?;
        let vocab = llama.vocab();
        let text = |token: LlamaToken| {
            String::from_utf8_lossy(&vocab.token_to_piece(token, true, None)).into_owned()
        };
        let own = || llama.meta_val_str("tokenizer.chat_template").ok();
        let source = config.chat_template.clone().or_else(own);
        let template = Template::new(source, text(vocab.bos()), text(vocab.eos()))?;
        let context_window = config.context_tokens.min(trained_context(&llama)).max(1);
        let threads = config.threads.unwrap_or_else(default_threads);
        Ok(Self { template, context_window, threads, llama, grammars: OnceCell::new() })
    }

    pub(super) fn context_window(&self) -> u32 {
        self.context_window
    }

    /// What the file says of the model, without its weights: whether it can be served, and its context.
    pub(super) fn look(config: &LlamaConfig) -> Result<u32, LoadError> {
        let params = LlamaModelParams::default().with_vocab_only(true);
        Self::open(config, &params).map(|model| model.context_window)
    }

    /// How a text's place comes from its tokens'; `None` for models that see the whole text at once
    /// (encoders), which this engine does not run.
    pub(super) fn pooling(&self) -> Option<Pooling> {
        const LAST: &str = "3";
        let architecture = self.llama.meta_val_str("general.architecture").unwrap_or_default();
        let value = |name: &str| self.llama.meta_val_str(&format!("{architecture}.{name}")).ok();
        if value("attention.causal").is_some_and(|causal| causal == "false") {
            return None;
        }
        let last = value("pooling_type").is_some_and(|kind| kind == LAST);
        Some(if last { Pooling::Last } else { Pooling::Mean })
    }

    /// The tokens of a text to embed.
    pub(super) fn words(&self, text: &Text) -> Result<Vec<Token>, Failure> {
        let tokens = self.tokenize(text.as_str().as_bytes(), true, false);
        let prompt_tokens = u32::try_from(tokens.len()).unwrap_or(u32::MAX);
        if prompt_tokens > self.context_window {
            return Err(Failure::PromptTooLong { prompt_tokens, context_window: self.context_window });
        }
        if tokens.is_empty() { Err(Failure::Invalid("prompt")) } else { Ok(tokens) }
    }

    pub(super) fn tokenize(&self, text: &[u8], add_special: bool, parse_special: bool) -> Vec<Token> {
        self.llama
            .vocab()
            .tokenize(text, add_special, parse_special)
            .into_iter()
            .map(|token| token.0)
            .collect()
    }
}

/// Tokens that the model was trained to see together. From the file's own words, which are there before its
/// weights are.
fn trained_context(llama: &LlamaModel) -> u32 {
    let value = |name: &str| llama.meta_val_str(name).ok();
    let architecture = value("general.architecture").unwrap_or_default();
    let said = value(&format!("{architecture}.context_length")).and_then(|tokens| tokens.parse().ok());
    said.unwrap_or_else(|| llama.n_ctx_train())
}

/// How a text's place comes from its tokens'.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Pooling {
    /// Their mean.
    Mean,
    /// The last one's.
    Last,
}

impl Vocabulary for Model {
    fn piece(&self, token: Token, control: Control) -> Vec<u8> {
        self.llama.vocab().token_to_piece(LlamaToken(token), control == Control::Shown, None)
    }

    fn is_end(&self, token: Token) -> bool {
        self.llama.vocab().is_eog(LlamaToken(token))
    }
}

/// The cores that this process may use, by affinity and cgroup quota; one is left to the sockets where there
/// are enough.
fn default_threads() -> u32 {
    let cores = thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(1));
    if cores > 2 { cores.saturating_sub(1) } else { cores }
}
