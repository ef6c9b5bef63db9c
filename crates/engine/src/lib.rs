//! Tokens from text.
//!
//! An [`Engine`] takes a [`Request`] and answers with a [`Generation`], a bounded stream of
//! [`Output`]s that ends with exactly one [`Output::Finished`] or [`Output::Failed`]. It knows no
//! session, no key and no socket. Three facts hold for every engine:
//!
//! * [`Engine::submit`] never blocks: it queues the request or refuses it at once;
//! * dropping a [`Generation`] cancels its work at the next decode step;
//! * a reader that does not read holds up only its own generation.

mod echo;
mod llama;
mod prefix;
mod sampler;
mod scheduler;
mod sequence;
mod template;
mod text;

use std::{fmt, path::PathBuf, time::Duration};

use tokio::sync::mpsc;
use zeroize::Zeroize;

pub use echo::EchoEngine;
pub use llama::{InjectedFault, LlamaEngine, LoadError};
pub use template::InvalidTemplate;

/// Turns a prompt into tokens.
pub trait Engine: Send + Sync + fmt::Debug + 'static {
    /// Queues `request`, or refuses at once.
    ///
    /// # Errors
    /// [`Refused::Busy`] when the waiting queue is full, [`Refused::ModelNotFound`] when the request names
    /// a model that is not served, [`Refused::Stopping`] once the engine is being shut down.
    fn submit(&self, request: Request) -> Result<Generation, Refused>;

    /// The models that requests may name; the first is the default.
    fn models(&self) -> &[ModelInfo];

    /// What the engine is doing now.
    fn status(&self) -> Status;

    /// Lets go of everything that was computed for the requests of `session`.
    fn forget(&self, _session: u64) {}
}

/// What one served model is.
#[derive(Clone, Debug)]
pub struct ModelInfo {
    /// The name that requests and `/v1/models` use.
    pub name: String,
    /// SHA-256 of the weights file, lower-case hex; empty where there is no file (echo).
    pub digest: String,
    /// Tokens of prompt and answer together that one sequence may hold.
    pub context_window: u32,
    /// Who computes: `llama.cpp` or `echo`.
    pub engine: &'static str,
}

/// A snapshot for `/ready` and the metrics.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Status {
    /// Requests waiting for a slot.
    pub waiting: usize,
    /// Requests being answered.
    pub running: usize,
    /// Sequences that can run side by side.
    pub slots: usize,
    /// How often the engine had to be started again.
    pub restarts: u64,
    /// Whether requests can be served at this moment.
    pub healthy: bool,
    /// Prompt tokens computed since start.
    pub prefilled_tokens: u64,
    /// Prompt tokens that were not computed because an earlier request had them.
    pub reused_tokens: u64,
    /// Answer tokens computed since start.
    pub decoded_tokens: u64,
    /// Bytes of computed prefixes in main memory.
    pub prefix_cache_bytes: usize,
}

/// Everything that decides an answer.
#[derive(Debug)]
pub struct Request {
    /// The model asked for; `None` is the default one.
    pub model: Option<String>,
    /// What to answer.
    pub prompt: Prompt,
    /// What to do with a prompt that does not fit the context.
    pub overflow: Overflow,
    /// How the next token is chosen.
    pub sampling: Sampling,
    /// Most answer tokens; capped to what the context has left. `None` asks for all of it.
    pub max_tokens: Option<u32>,
    /// Texts that end the answer; they are not part of it.
    pub stop: Vec<String>,
    /// Opaque number of the asking client, for fair queueing.
    pub client: u64,
    /// Opaque number of those who may share what is computed: nothing of it serves another scope, except the
    /// operator's own words.
    pub scope: u64,
    /// Opaque number of the session with which everything computed for this request goes: [`Engine::forget`].
    pub session: u64,
    /// Who wrote the leading system message.
    pub system: Author,
}

/// Who wrote a system message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Author {
    /// The operator, for everybody: what was computed of it serves all.
    Operator,
    /// The client.
    Client,
}

/// The words to answer.
#[derive(Debug)]
pub enum Prompt {
    /// A conversation, put into the model's own chat template.
    Chat(Vec<Message>),
    /// Text to continue as it stands. No template, no control tokens.
    Raw(Text),
}

/// One turn of a conversation.
#[derive(Debug)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What was said.
    pub content: Text,
}

/// Who speaks in a conversation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    /// Instructions of the operator or application.
    System,
    /// The person who asks.
    User,
    /// The model.
    Assistant,
    /// The result of a tool.
    Tool,
}

impl Role {
    /// The word that chat templates use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }
}

/// What to do with a conversation longer than the context.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Overflow {
    /// Answer with [`Failure::PromptTooLong`].
    Refuse,
    /// Leave out the oldest turns after the leading system message, as few as serve, keeping a quarter of
    /// the context (or `max_tokens`, if that is less) for the answer. The system message and the last
    /// message stay; if those two alone do not fit, the prompt is too long.
    DropOldest,
}

/// How the next token is chosen. The defaults are llama.cpp's own where it has one.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// 0 is greedy.
    pub temperature: f32,
    /// Nucleus; 1 is off.
    pub top_p: f32,
    /// Most candidates; 0 is off.
    pub top_k: u32,
    /// Least probability relative to the best; 0 is off.
    pub min_p: f32,
    /// Divides the logits of tokens seen lately; 1 is off.
    pub repeat_penalty: f32,
    /// Added against each repetition; 0 is off.
    pub frequency_penalty: f32,
    /// Added once against a repeated token; 0 is off.
    pub presence_penalty: f32,
    /// Same seed, same answer (for the same batch arithmetic). `None` draws one at random.
    pub seed: Option<u32>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.8,
            top_p: 0.95,
            top_k: 40,
            min_p: 0.05,
            repeat_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            seed: None,
        }
    }
}

/// The answer to one request, as it is produced. Dropping it cancels the work.
#[derive(Debug)]
pub struct Generation {
    /// Bounded; ends after `Finished` or `Failed`. If it closes without either, the engine was torn down:
    /// read that as [`Failure::Engine`].
    pub outputs: mpsc::Receiver<Output>,
}

/// One step of an answer.
#[derive(Debug, Eq, PartialEq)]
pub enum Output {
    /// The request has a slot and its prompt is counted. Always first, unless the request failed before.
    Started {
        /// Tokens of the prompt as the model sees it.
        prompt_tokens: u32,
        /// How many of them an earlier request of the same scope had computed already.
        cached_tokens: u32,
        /// Messages left out by [`Overflow::DropOldest`], counted after the leading system message.
        dropped_messages: usize,
    },
    /// The next text, whole characters only.
    Text {
        /// The words.
        text: Text,
        /// Model tokens that `text` stands for (some tokens wait for the rest of a character).
        tokens: u32,
    },
    /// The answer is complete.
    Finished {
        /// Why it ended.
        reason: FinishReason,
        /// What it took.
        usage: Usage,
    },
    /// There is no (further) answer.
    Failed(Failure),
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FinishReason {
    /// The model said it was done, or a stop text came up.
    Stop,
    /// `max_tokens` or the context was used up.
    Length,
}

/// Tokens of a request.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Usage {
    /// Tokens of the prompt as the model saw it.
    pub prompt_tokens: u32,
    /// How many of them did not have to be computed.
    pub cached_tokens: u32,
    /// Tokens sampled for the answer, the end-of-generation token not counted.
    pub completion_tokens: u32,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Failure {
    /// The prompt leaves no room for an answer.
    #[error("the prompt has {prompt_tokens} tokens, the context holds {context_window}")]
    PromptTooLong {
        /// What was asked.
        prompt_tokens: u32,
        /// What there is.
        context_window: u32,
    },
    /// The model's chat template cannot express this conversation (say, two system messages).
    #[error("the model's chat template refuses this conversation")]
    Template,
    /// The engine failed; it is being started again.
    #[error("the engine failed")]
    Engine,
}

/// Why a request was not queued.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refused {
    /// The waiting queue is full.
    #[error("the waiting queue is full")]
    Busy,
    /// No such model here.
    #[error("no such model")]
    ModelNotFound,
    /// The engine is being shut down.
    #[error("the engine is stopping")]
    Stopping,
}

/// Words a user wrote or will read: wiped on drop, and `{:?}` shows only how many bytes.
#[derive(Eq, PartialEq)]
pub struct Text(String);

impl Text {
    /// The words themselves.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl Drop for Text {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Text({} bytes)", self.0.len())
    }
}

/// How to run a GGUF with llama.cpp.
#[derive(Clone, Debug)]
pub struct LlamaConfig {
    /// The weights.
    pub path: PathBuf,
    /// The name that requests use.
    pub name: String,
    /// Tokens each sequence may hold; capped to what the model was trained for.
    pub context_tokens: u32,
    /// Sequences stepped together.
    pub max_sequences: u32,
    /// Threads for decoding; `None` takes the cores that this process may use, less one where there are
    /// more than two.
    pub threads: Option<u32>,
    /// Requests that may wait for a slot.
    pub max_waiting: usize,
    /// Prompt tokens computed in one step at most; half of it while answers run, which wait for every step.
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
            max_sequences: 1,
            threads: None,
            max_waiting: 256,
            prefill_chunk: 256,
            stalled_reader: Duration::from_secs(30),
            step_timeout: Duration::from_secs(120),
            prefix_cache_bytes: 512 << 20,
            gpu_layers: None,
            flash_attention: FlashAttention::Auto,
            kv_type: KvType::F16,
        }
    }
}
