//! How far an answer is: its pieces as they are told, its words as they are remembered, its tokens as they are counted.

use std::{sync::Arc, time::Duration};

use fabstir_engine::{Embedding, Failure, FinishReason, ModelInfo, Output, Text};
use fabstir_protocol::{
    choice,
    request::{EmbeddingEncoding, PromptRequest},
    seal::Words,
    v1::Usage,
};
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::{
    ledger::Account,
    limits::{Meter, Party},
    metrics,
    node::Node,
    pieces,
    traces::{Ended, Trace},
};

/// How an answer ended whose client went away.
const DISCONNECTED: &str = "disconnected";

/// What the pieces of an answer may be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Style {
    /// Words: what led to them is left out.
    Words,
    /// Objects, every one of them.
    Objects,
    /// Words where words are all there is, objects for the rest.
    Either,
}

impl Style {
    /// What a client of version 1 understands of the answer to `request`.
    pub(crate) fn for_v1(request: &PromptRequest) -> Self {
        if request.asks_for_objects() { Self::Objects } else { Self::Words }
    }
}

/// What an output of the engine comes to.
pub(crate) enum Step {
    /// Words, and their tokens.
    Words(Text, u32),
    /// An object, and its tokens.
    Object(Zeroizing<String>, u32),
    /// Tokens that nobody is told of.
    Silent(u32),
    /// Nothing to tell.
    Nothing,
    Ended(FinishReason),
    Failed(Failure),
}

/// How far an answer is.
#[derive(Debug)]
pub(crate) struct Progress {
    pub(crate) usage: Usage,
    /// Messages of the conversation that the engine left out.
    pub(crate) dropped: usize,
    style: Style,
    asked_at: Instant,
    trace: Trace,
    /// When the last token came.
    last_token: Option<Instant>,
    /// Calls told so far.
    calls: usize,
    words: Vec<Words>,
    meter: Meter,
    model: String,
    /// Who pays, so to say.
    pub(crate) account: Arc<Account>,
    closed: bool,
}

impl Progress {
    pub(crate) fn new(
        node: &Node,
        request: &PromptRequest,
        style: Style,
        party: Party,
        account: &Arc<Account>,
    ) -> Self {
        let model = model_of(node, request.model.as_deref());
        let usage = Usage {
            context_window_size: model.map_or(0, |model| model.context_window),
            model_sha256: model.map(|model| model.digest.clone()).filter(|digest| !digest.is_empty()),
            ..Usage::default()
        };
        Self {
            usage,
            dropped: 0,
            style,
            asked_at: Instant::now(),
            trace: Trace::new(),
            model: model.map_or_else(String::new, |model| model.name.clone()),
            last_token: None,
            calls: 0,
            words: Vec::new(),
            meter: Meter::new(&node.limits, party),
            account: Arc::clone(account),
            closed: false,
        }
    }

    /// Takes note of what the engine said.
    pub(crate) fn take(&mut self, output: Output) -> Step {
        let step = self.step(output);
        if let Step::Words(_, tokens) | Step::Object(_, tokens) | Step::Silent(tokens) = &step {
            self.usage.completion_tokens = self.usage.completion_tokens.saturating_add(*tokens);
            let now = Instant::now();
            match self.last_token.replace(now) {
                None => {
                    metrics::first_token(now.saturating_duration_since(self.asked_at));
                    self.trace.first_token();
                }
                Some(before) => metrics::token_gap(now.saturating_duration_since(before)),
            }
        }
        self.charge();
        step
    }

    fn charge(&mut self) {
        self.meter.reads(self.usage.prompt_tokens.saturating_add(self.usage.completion_tokens));
    }

    fn step(&mut self, output: Output) -> Step {
        match output {
            Output::Started { prompt_tokens, cached_tokens, dropped_messages, estimated } => {
                metrics::queued(self.asked_at.elapsed());
                self.trace.started();
                self.usage.estimated = estimated;
                self.usage.prompt_tokens = prompt_tokens;
                self.usage.prompt_tokens_details.cached_tokens = cached_tokens;
                self.dropped = dropped_messages;
                Step::Nothing
            }
            Output::Finished { reason, usage } => {
                self.usage.prompt_tokens = usage.prompt_tokens;
                self.usage.prompt_tokens_details.cached_tokens = usage.cached_tokens;
                self.usage.completion_tokens = usage.completion_tokens;
                self.usage.estimated = usage.estimated;
                Step::Ended(reason)
            }
            Output::Failed(failure) => Step::Failed(failure),
            Output::Text { text, tokens, logprobs } => {
                self.words.push(Words::from(text.as_str()));
                let bare = match self.style {
                    Style::Words => true,
                    Style::Objects => false,
                    Style::Either => logprobs.is_empty(),
                };
                if bare {
                    return Step::Words(text, tokens);
                }
                self.object(&Output::Text { text, tokens, logprobs }, tokens)
            }
            Output::ToolCalls { calls, tokens } => {
                let count = calls.len();
                let step = self.object(&Output::ToolCalls { calls, tokens }, tokens);
                self.calls = self.calls.saturating_add(count);
                step
            }
            // Who asked for words gets the answer, and not what led to it.
            Output::Reasoning { tokens, .. } if self.style == Style::Words => Step::Silent(tokens),
            output @ Output::Reasoning { tokens, .. } => self.object(&output, tokens),
        }
    }

    fn object(&self, output: &Output, tokens: u32) -> Step {
        pieces::choice(output, self.calls).map_or(Step::Silent(tokens), |piece| Step::Object(piece, tokens))
    }

    /// An embedding as an object.
    pub(crate) fn embedding(
        &mut self,
        index: usize,
        one: &Embedding,
        encoding: EmbeddingEncoding,
    ) -> Zeroizing<String> {
        self.usage.prompt_tokens = self.usage.prompt_tokens.saturating_add(one.tokens);
        self.charge();
        choice::embedding(index, &one.values, encoding)
    }

    /// Everything that was said so far, once; `None` where nothing was.
    pub(crate) fn take_words(&mut self) -> Option<Words> {
        let pieces = std::mem::take(&mut self.words);
        let length = pieces.iter().map(|piece| piece.as_str().len()).sum();
        // Never grown, so that no copy of a part of it stays behind.
        let mut whole = String::with_capacity(length);
        for piece in &pieces {
            whole.push_str(piece.as_str());
        }
        (!whole.is_empty()).then(|| Words::from(whole))
    }

    /// Counts the answer, once, by how it ended.
    pub(crate) fn close(&mut self, finish_reason: &'static str) {
        let Usage { prompt_tokens, completion_tokens, .. } = self.usage;
        self.usage.total_tokens = prompt_tokens.saturating_add(completion_tokens);
        self.closed = true;
        metrics::answer(finish_reason, prompt_tokens, completion_tokens, self.took());
        let version = self.account.version();
        self.trace.end(&Ended { version, model: &self.model, reason: finish_reason, usage: &self.usage });
        self.account.answered(&self.usage, matches!(finish_reason, "cancelled" | DISCONNECTED));
    }

    fn took(&self) -> Duration {
        self.asked_at.elapsed()
    }
}

impl Drop for Progress {
    /// An answer that is dropped with its connection has cost what it has cost.
    fn drop(&mut self) {
        if !self.closed {
            self.close(DISCONNECTED);
        }
    }
}

/// The model that a request names, or the default one.
fn model_of<'a>(node: &'a Node, name: Option<&str>) -> Option<&'a ModelInfo> {
    let models = node.engine.models();
    let named = |name| models.iter().find(|model| model.name == name);
    name.and_then(named).or_else(|| models.first())
}
