//! Tokens from text.
//!
//! An [`Engine`] takes a [`Request`] and answers with a [`Generation`], a bounded stream of
//! [`Output`]s that ends with exactly one [`Output::Finished`] or [`Output::Failed`]. It knows no
//! session, no key and no socket. Three facts hold for every engine:
//!
//! * [`Engine::submit`] never blocks: it queues the request or refuses it at once;
//! * dropping a [`Generation`] cancels its work at the next decode step;
//! * a reader that does not read holds up only its own generation.

mod constraint;
mod echo;
mod fields;
mod generation;
mod in_flight;
mod llama;
mod prefix;
mod request;
mod sampler;
mod scheduler;
mod sequence;
mod several;
mod template;
mod text;
mod tools;
mod upstream;

use std::fmt;

pub use echo::EchoEngine;
pub use generation::{
    Embedding, Embeddings, Failure, FinishReason, Generation, Output, Refused, TokenLogprobs, Usage,
};
pub use llama::{
    FlashAttention, InjectedFault, KvType, LlamaConfig, LlamaEngine, LoadError, Loading, MOST_SEQUENCES,
};
pub use request::{
    Author, EmbeddingRequest, Format, Message, Overflow, Prompt, Request, Role, Sampling, Text, ToolCall,
    ToolChoice, ToolDefinition, Tools,
};
pub use several::{SameName, Several};
pub use template::InvalidTemplate;
pub use upstream::{ApiKey, UpstreamConfig, UpstreamEngine, UpstreamError};

/// Turns a prompt into tokens.
pub trait Engine: Send + Sync + fmt::Debug + 'static {
    /// Queues `request`, or refuses at once.
    ///
    /// # Errors
    /// [`Refused::Busy`] when the waiting queue is full, [`Refused::ModelNotFound`] when the request names
    /// a model that is not served, [`Refused::Stopping`] once the engine is being shut down.
    fn submit(&self, request: Request) -> Result<Generation, Refused>;

    /// Queues texts to embed, or refuses at once.
    ///
    /// # Errors
    /// As [`Engine::submit`], and [`Refused::NoEmbeddings`].
    fn embed(&self, _request: EmbeddingRequest) -> Result<Embeddings, Refused> {
        Err(Refused::NoEmbeddings)
    }

    /// The models that requests may name; the first is the default.
    fn models(&self) -> &[ModelInfo];

    /// What the engine is doing now.
    fn status(&self) -> Status;

    /// Whether a model is in memory, ready to answer at once.
    fn is_loaded(&self, _model: &str) -> bool {
        true
    }

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
    /// Who computes: `llama.cpp`, `upstream` or `echo`.
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
    /// Tokens that the model's memory holds, those of idle slots included; 0 where the model is elsewhere.
    pub kv_tokens_used: usize,
    /// Tokens that it has room for; 0 where the model is elsewhere.
    pub kv_tokens: usize,
    /// Microseconds that the model's steps took since start.
    pub compute_micros: u64,
    /// Microseconds that choosing tokens from what they computed took since start.
    pub choose_micros: u64,
}
