//! How to run a GGUF.

use std::{path::PathBuf, time::Duration};

/// How to run a GGUF with llama.cpp.
#[derive(Clone, Debug)]
pub struct LlamaConfig {
    /// The weights.
    pub path: PathBuf,
    /// The name that requests use.
    pub name: String,
    /// Tokens each sequence may hold; capped to what the model was trained for.
    pub context_tokens: u32,
    /// Sequences stepped together; `None` takes what memory holds, [`MOST_SEQUENCES`] at most.
    pub max_sequences: Option<u32>,
    /// Threads for decoding; `None` takes the cores that this process may use, less one where there are
    /// more than two.
    pub threads: Option<u32>,
    /// Requests that may wait for a slot.
    pub max_waiting: usize,
    /// Prompt tokens computed in one step at most; a quarter of it while answers run, which wait for every step.
    pub prefill_chunk: u32,
    /// How long a reader may leave its outputs unread before its slot is taken away.
    pub stalled_reader: Duration,
    /// How long one step may take before the engine counts as hung and is started again.
    pub step_timeout: Duration,
    /// Main memory for computed prefixes that lost their slot; 0 keeps none.
    pub prefix_cache_bytes: usize,
    /// Layers to put on the GPU, where the build has one; `None` puts all.
    pub gpu_layers: Option<u32>,
    /// Attention without its matrix in memory.
    pub flash_attention: FlashAttention,
    /// How keys and values are kept.
    pub kv_type: KvType,
    /// A Jinja chat template to use in the place of the file's own.
    pub chat_template: Option<String>,
    /// When the model is loaded.
    pub loading: Loading,
    /// How long it stays in memory with nothing to do; `None` keeps it.
    pub unload_after: Option<Duration>,
}

/// Sequences that are stepped together where nobody said how many: more of them gain little on processors, and
/// each is slower.
pub const MOST_SEQUENCES: u32 = 16;

/// When a model is loaded.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Loading {
    /// Before the engine is there.
    #[default]
    AtStart,
    /// When the first request comes.
    OnDemand,
}

/// Whether attention is computed in tiles (Dao et al. 2022).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum FlashAttention {
    /// Where llama.cpp expects it to help.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// How keys and values are kept: fewer bits take less memory and cost accuracy.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum KvType {
    /// 16-bit floating point.
    #[default]
    F16,
    /// 8 bits in blocks.
    Q8_0,
    /// 4 bits in blocks.
    Q4_0,
}

impl LlamaConfig {
    /// The settings for one reader after another on the weights at `path`.
    pub fn new(path: impl Into<PathBuf>, name: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            name: name.into(),
            context_tokens: 2048,
            max_sequences: Some(1),
            threads: None,
            max_waiting: 256,
            prefill_chunk: 256,
            stalled_reader: Duration::from_secs(30),
            step_timeout: Duration::from_secs(120),
            prefix_cache_bytes: 512 << 20,
            gpu_layers: None,
            flash_attention: FlashAttention::Auto,
            kv_type: KvType::F16,
            chat_template: None,
            loading: Loading::AtStart,
            unload_after: None,
        }
    }
}
