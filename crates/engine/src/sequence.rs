//! One request from its prompt to the end of its answer.

use std::time::Duration;

use tokio::{sync::mpsc, time::Instant};
use zeroize::Zeroize as _;

use crate::{
    FinishReason, Generation, Output, Sampling, Text, Usage,
    sampler::{Sampler, Token},
    text::{Passed, StopFilter, Utf8Carry},
};

/// Outputs that may wait for their reader.
const OUTPUTS: usize = 32;
/// Places kept free for the end of an answer, so that it can always be told: the last text, and the reason.
const LAST_OUTPUTS: usize = 2;

/// The model's words, as far as a sequence needs them.
pub(crate) trait Vocabulary {
    /// The bytes that a token stands for.
    fn piece(&self, token: Token) -> Vec<u8>;
    /// Whether a token ends the answer.
    fn is_end(&self, token: Token) -> bool;
}

/// The writing end of a [`Generation`].
#[derive(Debug)]
pub(crate) struct Outputs(mpsc::Sender<Output>);

impl Outputs {
    pub(crate) fn channel() -> (Self, Generation) {
        let (sender, outputs) = mpsc::channel(OUTPUTS);
        (Self(sender), Generation { outputs })
    }

    /// Whether nobody reads any more.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.0.is_closed()
    }

    /// Whether another step's output can be taken.
    fn has_room(&self) -> bool {
        self.0.capacity() > LAST_OUTPUTS
    }

    /// Sends; a reader that is gone or has no room for even the last outputs hears nothing.
    pub(crate) fn send(&self, output: Output) {
        let _ = self.0.try_send(output);
    }
}

/// What a request has become once its prompt was put into tokens.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) prompt: Vec<Token>,
    pub(crate) dropped_messages: usize,
    pub(crate) sampling: Sampling,
    pub(crate) seed: u64,
    pub(crate) stop: Vec<String>,
    /// Most tokens of the answer, asked for.
    pub(crate) max_tokens: Option<u32>,
    /// Tokens that the sequence may hold.
    pub(crate) context_window: u32,
}

/// A running request.
#[derive(Debug)]
pub(crate) struct Sequence {
    outputs: Outputs,
    prompt: Vec<Token>,
    /// Tokens that the model has seen, of prompt and answer.
    seen: usize,
    /// Sampled, and not yet seen by the model.
    next: Option<Token>,
    sampler: Sampler,
    carry: Utf8Carry,
    stops: StopFilter,
    usage: Usage,
    max_tokens: u32,
    /// Tokens since the last text went out.
    unsent_tokens: u32,
    blocked_since: Option<Instant>,
}

/// Whether a sequence goes on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Next {
    Continue,
    Done,
}

impl Sequence {
    pub(crate) fn new(outputs: Outputs, prepared: Prepared) -> Self {
        let prompt_tokens = u32::try_from(prepared.prompt.len()).unwrap_or(u32::MAX);
        let room = prepared.context_window.saturating_sub(prompt_tokens);
        let mut sampler = Sampler::new(prepared.sampling, prepared.seed);
        prepared.prompt.iter().for_each(|token| sampler.accept(*token));
        outputs.send(Output::Started { prompt_tokens, dropped_messages: prepared.dropped_messages });
        Self {
            outputs,
            prompt: prepared.prompt,
            seen: 0,
            next: None,
            sampler,
            carry: Utf8Carry::default(),
            stops: StopFilter::new(prepared.stop),
            usage: Usage { prompt_tokens, completion_tokens: 0 },
            max_tokens: prepared.max_tokens.map_or(room, |asked| asked.min(room)),
            unsent_tokens: 0,
            blocked_since: None,
        }
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.outputs.is_cancelled()
    }

    /// Whether its reader has left it no room for longer than `limit`.
    pub(crate) fn is_stalled(&self, limit: Duration, now: Instant) -> bool {
        self.blocked_since.is_some_and(|since| now.saturating_duration_since(since) > limit)
    }

    /// Whether it can take a step now; takes note of when it could not.
    pub(crate) fn is_ready(&mut self, now: Instant) -> bool {
        if self.outputs.has_room() {
            self.blocked_since = None;
            return true;
        }
        self.blocked_since.get_or_insert(now);
        false
    }

    /// The token to decode, once the prompt is through.
    pub(crate) fn pending_token(&self) -> Option<Token> {
        self.next
    }

    /// What of the prompt the model has not seen.
    pub(crate) fn unseen_prompt(&self) -> &[Token] {
        self.prompt.get(self.seen..).unwrap_or_default()
    }

    /// Where the next token goes.
    pub(crate) fn position(&self) -> usize {
        self.seen
    }

    /// The model has seen `count` more tokens.
    pub(crate) fn advance(&mut self, count: usize) {
        self.seen = self.seen.saturating_add(count);
        self.next = None;
    }

    /// Chooses the next token from `logits` and passes on what it says.
    pub(crate) fn step(&mut self, logits: &[f32], vocabulary: &impl Vocabulary) -> Next {
        if self.max_tokens == 0 {
            return self.finish(FinishReason::Length);
        }
        let token = self.sampler.sample(logits);
        if vocabulary.is_end(token) {
            return self.finish(FinishReason::Stop);
        }
        self.sampler.accept(token);
        self.usage.completion_tokens = self.usage.completion_tokens.saturating_add(1);
        self.unsent_tokens = self.unsent_tokens.saturating_add(1);
        let text = self.carry.push(&vocabulary.piece(token));
        match self.stops.push(&text) {
            Passed::Stopped(text) => {
                self.say(text);
                self.end(FinishReason::Stop)
            }
            Passed::Text(text) => {
                self.say(text);
                if self.usage.completion_tokens >= self.max_tokens {
                    return self.finish(FinishReason::Length);
                }
                self.next = Some(token);
                Next::Continue
            }
        }
    }

    fn say(&mut self, text: String) {
        if !text.is_empty() {
            let tokens = std::mem::take(&mut self.unsent_tokens);
            self.outputs.send(Output::Text { text: Text::from(text), tokens });
        }
    }

    /// Ends with whatever was held back.
    fn finish(&mut self, reason: FinishReason) -> Next {
        let mut rest = match self.stops.push(self.carry.finish()) {
            Passed::Text(text) | Passed::Stopped(text) => text,
        };
        rest.push_str(&self.stops.finish());
        self.say(rest);
        self.end(reason)
    }

    fn end(&self, reason: FinishReason) -> Next {
        self.outputs.send(Output::Finished { reason, usage: self.usage });
        Next::Done
    }

    /// Ends without an answer.
    pub(crate) fn fail(&self, failure: crate::Failure) {
        self.outputs.send(Output::Failed(failure));
    }
}

impl Drop for Sequence {
    fn drop(&mut self) {
        self.prompt.zeroize();
    }
}
