//! What an engine answers.

use tokio::sync::{mpsc, oneshot};

use crate::{Text, ToolCall};

/// The answer to one request, as it is produced. Dropping it cancels the work.
#[derive(Debug)]
pub struct Generation {
    /// Bounded; ends after `Finished` or `Failed`. If it closes without either, the engine was torn down:
    /// read that as [`Failure::Engine`].
    pub outputs: mpsc::Receiver<Output>,
}

/// One step of an answer.
#[derive(Debug, PartialEq)]
pub enum Output {
    /// The request has a slot and its prompt is counted. Always first, unless the request failed before.
    Started {
        /// Tokens of the prompt as the model sees it.
        prompt_tokens: u32,
        /// How many of them an earlier request of the same scope had computed already.
        cached_tokens: u32,
        /// Messages left out by [`Overflow::DropOldest`](crate::Overflow::DropOldest), counted after the leading system message.
        dropped_messages: usize,
        /// Whether the counts of tokens are the engine's own guess, for want of better ones.
        estimated: bool,
    },
    /// The next text, whole characters only.
    Text {
        /// The words.
        text: Text,
        /// Model tokens that `text` stands for (some tokens wait for the rest of a character).
        tokens: u32,
        /// Those tokens' probabilities, where the request asks for them.
        logprobs: Vec<TokenLogprobs>,
    },
    /// What the model says to itself before it answers, where an engine tells that apart.
    Reasoning {
        /// The words.
        text: Text,
        /// Model tokens that `text` stands for.
        tokens: u32,
    },
    /// The model asks for functions to be called.
    ToolCalls {
        /// Which; those of later outputs come after them.
        calls: Vec<ToolCall>,
        /// Model tokens that they stand for.
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
    /// The model waits for the results of the functions that it asked to be called.
    ToolCalls,
}

/// How likely a token was, by the model's own logits before anything else was done to them.
#[derive(Debug, PartialEq)]
pub struct TokenLogprobs {
    /// The bytes that it stands for.
    pub bytes: Vec<u8>,
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// The likeliest tokens in its place, the best first, each with its bytes.
    pub top: Vec<(Vec<u8>, f32)>,
}

/// What became of an [`EmbeddingRequest`](crate::EmbeddingRequest), once it is done.
#[derive(Debug)]
pub struct Embeddings {
    /// Told once. Dropping it cancels the work.
    pub result: oneshot::Receiver<Result<Vec<Embedding>, Failure>>,
}

/// Where a text stands.
#[derive(Debug, PartialEq)]
pub struct Embedding {
    /// A vector of length 1.
    pub values: Vec<f32>,
    /// Tokens of the text.
    pub tokens: u32,
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
    /// Whether the counts are the engine's own guess, for want of better ones.
    pub estimated: bool,
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
    /// A field of the request has a value that this model cannot take.
    #[error("{0} is not valid for this model")]
    Invalid(&'static str),
    /// A field of the request asks for what this model cannot do.
    #[error("{0} is not supported by this model")]
    Unsupported(&'static str),
    /// Who computes has no room for it now.
    #[error("the engine is busy")]
    Busy,
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
    /// No embeddings here.
    #[error("this engine makes no embeddings")]
    NoEmbeddings,
    /// The engine is being shut down.
    #[error("the engine is stopping")]
    Stopping,
}
