//! One request from its prompt to the end of its answer.

use std::time::Duration;

use tokio::time::Instant;
use zeroize::Zeroize as _;

use crate::{
    Failure, FinishReason, Output, Sampling, Text, TokenLogprobs, Usage,
    constraint::Constraint,
    in_flight::Outputs,
    prefix::{Owner, Prefix, WORTH_KEEPING},
    sampler::{Sampler, Token, logprobs},
    text::{Passed, StopFilter, Utf8Carry},
    tools::{Said, ToolReader},
};

/// What ends an answer that cannot go on in its form. A grammar that was compiled gets there only where one of
/// its limits is reached.
const NO_TOKEN_FITS: Failure = Failure::Unsupported("response_format");

/// The model's words, as far as a sequence needs them.
pub(crate) trait Vocabulary {
    /// The bytes that a token stands for.
    fn piece(&self, token: Token, control: Control) -> Vec<u8>;
    /// Whether a token ends the answer.
    fn is_end(&self, token: Token) -> bool;
}

/// What becomes of control tokens in an answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Control {
    /// They stand for nothing.
    Hidden,
    /// They are spelled out: calls of functions are marked by them in some models.
    Shown,
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
    /// For whom all of this is.
    pub(crate) owner: Owner,
    /// How many of the leading tokens are the operator's.
    pub(crate) everyones: usize,
    /// How many leading tokens other requests are likely to begin with: those of the system prompt.
    pub(crate) shareable: usize,
    /// How many of the likeliest tokens to tell of in each place.
    pub(crate) logprobs: Option<u8>,
    /// The form that the answer has to keep.
    pub(crate) constraint: Option<Constraint>,
    /// Reads calls out of the answer, where functions were offered.
    pub(crate) tools: Option<ToolReader>,
}

/// A running request.
#[derive(Debug)]
pub(crate) struct Sequence {
    outputs: Outputs,
    /// Of the prompt, and then of the answer as far as it goes.
    tokens: Vec<Token>,
    /// How many of `tokens` the model has seen.
    seen: usize,
    prompt_tokens: usize,
    owner: Owner,
    everyones: usize,
    /// Where the prefill makes a stop, so that the system prompt alone can be kept.
    stop_at: Option<usize>,
    /// Whether what was computed may be reused.
    reusable: bool,
    dropped_messages: usize,
    sampler: Sampler,
    carry: Utf8Carry,
    stops: StopFilter,
    usage: Usage,
    max_tokens: u32,
    /// Tokens since the last text went out.
    unsent_tokens: u32,
    logprobs: Option<u8>,
    /// The probabilities of those tokens, where they are asked for.
    unsent_logprobs: Vec<TokenLogprobs>,
    constraint: Option<Constraint>,
    tools: Option<ToolReader>,
    called: bool,
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
        Self {
            outputs,
            seen: 0,
            prompt_tokens: prepared.prompt.len(),
            tokens: prepared.prompt,
            owner: prepared.owner,
            everyones: prepared.everyones,
            stop_at: Some(prepared.shareable).filter(|stop| *stop >= WORTH_KEEPING),
            reusable: true,
            dropped_messages: prepared.dropped_messages,
            sampler,
            carry: Utf8Carry::default(),
            stops: StopFilter::new(prepared.stop),
            usage: Usage { prompt_tokens, ..Usage::default() },
            max_tokens: prepared.max_tokens.map_or(room, |asked| asked.min(room)),
            unsent_tokens: 0,
            logprobs: prepared.logprobs,
            unsent_logprobs: Vec::new(),
            constraint: prepared.constraint,
            tools: prepared.tools,
            called: false,
            blocked_since: None,
        }
    }

    /// Takes note that the model has seen the first `found` tokens already, and tells its reader that it runs.
    pub(crate) fn start(&mut self, found: usize) {
        self.outputs.leave_line();
        self.seen = found.min(self.prompt_tokens.saturating_sub(1));
        self.stop_at = self.stop_at.filter(|stop| *stop > self.seen && *stop < self.prompt_tokens);
        let cached_tokens = u32::try_from(self.seen).unwrap_or(u32::MAX);
        self.usage.cached_tokens = cached_tokens;
        self.outputs.send(Output::Started {
            prompt_tokens: self.usage.prompt_tokens,
            cached_tokens,
            dropped_messages: self.dropped_messages,
            estimated: false,
        });
    }

    pub(crate) fn owner(&self) -> Owner {
        self.owner
    }

    pub(crate) fn prompt(&self) -> &[Token] {
        self.tokens.get(..self.prompt_tokens).unwrap_or_default()
    }

    /// The tokens that others may begin with, where they are still to be computed.
    pub(crate) fn shareable(&self) -> Option<&[Token]> {
        self.tokens.get(..self.stop_at?)
    }

    /// Makes no stop at the end of the system prompt.
    pub(crate) fn share_nothing(&mut self) {
        self.stop_at = None;
    }

    /// The system prompt, at the moment when the model has seen that and nothing more. Once.
    pub(crate) fn reached_shareable(&mut self) -> Option<Prefix> {
        self.stop_at.take_if(|stop| *stop == self.seen)?;
        Some(self.prefix())
    }

    /// What the model has seen of it is not to be reused.
    pub(crate) fn forget(&mut self) {
        self.reusable = false;
    }

    /// What the model has seen, for the next to come; `None` where that is to be forgotten.
    pub(crate) fn into_prefix(self) -> Option<Prefix> {
        self.reusable.then(|| self.prefix())
    }

    fn prefix(&self) -> Prefix {
        let tokens = self.tokens.get(..self.seen).unwrap_or_default().to_vec();
        Prefix { tokens, owner: self.owner, everyones: self.everyones }
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
        if self.seen < self.prompt_tokens { None } else { self.tokens.get(self.seen).copied() }
    }

    /// What of the prompt the model is to see next, up to where a stop is to be made.
    pub(crate) fn unseen_prompt(&self) -> &[Token] {
        let end = self.stop_at.unwrap_or(self.prompt_tokens);
        self.tokens.get(self.seen..end).unwrap_or_default()
    }

    /// How many tokens of the prompt the model has not seen.
    pub(crate) fn left_to_prefill(&self) -> usize {
        self.prompt_tokens.saturating_sub(self.seen)
    }

    /// Whether the prompt is through once the model has seen `count` more tokens.
    pub(crate) fn is_prompt_through_after(&self, count: usize) -> bool {
        self.seen.saturating_add(count) >= self.prompt_tokens
    }

    /// Where the next token goes.
    pub(crate) fn position(&self) -> usize {
        self.seen
    }

    /// The model has seen `count` more tokens.
    pub(crate) fn advance(&mut self, count: usize) {
        self.seen = self.seen.saturating_add(count);
    }

    /// Chooses the next token from `logits` and passes on what it says.
    pub(crate) fn step(&mut self, logits: &[f32], vocabulary: &impl Vocabulary) -> Next {
        if self.max_tokens == 0 {
            return self.finish(FinishReason::Length);
        }
        let Some(token) = self.choose(logits, vocabulary) else { return self.fail(NO_TOKEN_FITS) };
        if vocabulary.is_end(token) {
            return self.finish(FinishReason::Stop);
        }
        if !self.constraint.as_mut().is_none_or(|constraint| constraint.accept(token)) {
            return self.fail(NO_TOKEN_FITS);
        }
        self.sampler.accept(token);
        self.usage.completion_tokens = self.usage.completion_tokens.saturating_add(1);
        self.unsent_tokens = self.unsent_tokens.saturating_add(1);
        self.note_logprobs(logits, token, vocabulary);
        let control = if self.tools.is_some() { Control::Shown } else { Control::Hidden };
        let text = self.carry.push(&vocabulary.piece(token, control));
        match self.stops.push(&text) {
            Passed::Stopped(text) => {
                self.hear(&text);
                self.end(FinishReason::Stop)
            }
            Passed::Text(text) => {
                self.hear(&text);
                if self.is_through() {
                    return self.finish(FinishReason::Stop);
                }
                if self.usage.completion_tokens >= self.max_tokens {
                    return self.finish(FinishReason::Length);
                }
                self.tokens.push(token);
                Next::Continue
            }
        }
    }

    /// Whether nothing that could come now would be of the answer.
    fn is_through(&self) -> bool {
        self.constraint.as_ref().is_some_and(Constraint::is_through)
            || self.tools.as_ref().is_some_and(ToolReader::is_through)
    }

    /// The next token; `None` where the form that the answer has to keep admits none.
    fn choose(&mut self, logits: &[f32], vocabulary: &impl Vocabulary) -> Option<Token> {
        let token = self.sampler.sample(logits, None);
        let Some(constraint) = &mut self.constraint else { return Some(token) };
        let allowed = if vocabulary.is_end(token) { constraint.may_end() } else { constraint.allows(token) };
        if allowed {
            return Some(token);
        }
        let mask = constraint.mask()?;
        Some(self.sampler.sample(logits, Some(&mask)))
    }

    fn note_logprobs(&mut self, logits: &[f32], token: Token, vocabulary: &impl Vocabulary) {
        if let Some(top) = self.logprobs {
            let told = logprobs(logits, token, usize::from(top));
            let bytes = |token| vocabulary.piece(token, Control::Shown);
            self.unsent_logprobs.push(TokenLogprobs {
                bytes: bytes(token),
                logprob: told.of_token,
                top: told.top.into_iter().map(|(token, logprob)| (bytes(token), logprob)).collect(),
            });
        }
    }

    /// Takes in text of the answer: words and, where functions were offered, calls.
    fn hear(&mut self, text: &str) {
        match &mut self.tools {
            None => self.say(text.to_owned()),
            Some(tools) => {
                let said = tools.push(text);
                self.tell(said);
            }
        }
    }

    /// Words and then calls, as the two outputs at most that there is room for.
    fn tell(&mut self, said: Vec<Said>) {
        let (mut words, mut calls) = (String::new(), Vec::new());
        for one in said {
            match one {
                Said::Words(more) => words.push_str(&more),
                Said::Call(call) => calls.push(call),
            }
        }
        self.say(words);
        if !calls.is_empty() {
            self.called = true;
            // The probabilities of a call's tokens belong to no words.
            self.unsent_logprobs.clear();
            let tokens = std::mem::take(&mut self.unsent_tokens);
            self.outputs.send(Output::ToolCalls { calls, tokens });
        }
    }

    fn say(&mut self, text: String) {
        if !text.is_empty() {
            let tokens = std::mem::take(&mut self.unsent_tokens);
            let logprobs = std::mem::take(&mut self.unsent_logprobs);
            self.outputs.send(Output::Text { text: Text::from(text), tokens, logprobs });
        }
    }

    /// Ends with whatever was held back.
    fn finish(&mut self, reason: FinishReason) -> Next {
        let mut rest = match self.stops.push(self.carry.finish()) {
            Passed::Text(text) | Passed::Stopped(text) => text,
        };
        rest.push_str(&self.stops.finish());
        self.hear(&rest);
        self.end(reason)
    }

    fn end(&mut self, reason: FinishReason) -> Next {
        let held = self.tools.as_mut().map(ToolReader::finish).unwrap_or_default();
        self.tell(held);
        let reason =
            if self.called && reason == FinishReason::Stop { FinishReason::ToolCalls } else { reason };
        self.outputs.send(Output::Finished { reason, usage: self.usage });
        Next::Done
    }

    fn fail(&mut self, failure: Failure) -> Next {
        self.outputs.send(Output::Failed(failure));
        Next::Done
    }
}

impl Drop for Sequence {
    fn drop(&mut self) {
        self.tokens.zeroize();
    }
}
