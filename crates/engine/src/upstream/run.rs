//! One request, from a server's choice to the end of its answer.

mod ask;
mod embed;

use std::{collections::BTreeMap, sync::atomic::Ordering, time::Duration};

use tokio::{sync::mpsc, time::timeout};
use zeroize::Zeroizing;

use self::{ask::ask, embed::embed};
use super::{
    Job, Shared,
    body::{self, Body},
    events::{self, Event, Events, Piece, TooLong},
    pool::Lease,
};
use crate::{Failure, FinishReason, Output, Overflow, Request, Text, ToolCall, Usage};

/// Most bytes of the calls of an answer.
const MAX_CALLS: usize = 4 << 20;
/// How long the usage and the word that a stream is done are waited for.
const LAST_EVENTS: Duration = Duration::from_secs(2);
/// How often each server may be tried, and the pause in between.
const ROUNDS: u32 = 2;
const PAUSE: Duration = Duration::from_millis(250);
/// Bytes of text to a token, where the server does not count.
const BYTES_A_TOKEN: usize = 4;

/// Works on a job until it is done or nobody waits for it any more.
pub(super) async fn run(shared: &Shared, job: Job) {
    match job {
        Job::Answer(request, reader) => {
            tokio::select! {
                biased;
                () = reader.closed() => {}
                () = answer(shared, &request, &reader) => {}
            }
        }
        Job::Embed(request, mut reader) => {
            let done = tokio::select! {
                biased;
                () = reader.closed() => return,
                done = embed(shared, &request) => done,
            };
            let _ = reader.send(done);
        }
    }
}

/// Why an attempt at one server came to nothing.
enum Missed {
    /// Another server may do better.
    Elsewhere(Failure),
    /// The request does not fit.
    TooLong(TooLong),
    /// Every server would say the same, or the answer has begun.
    Final(Failure),
    /// The reader is gone, or does not read.
    Gone,
}

async fn answer(shared: &Shared, request: &Request, reader: &mpsc::Sender<Output>) {
    let mut tried = Vec::new();
    let mut last = Failure::Engine;
    let mut dropped = 0;
    let mut rounds: u32 = 0;
    let mut max_tokens = request.max_tokens;
    loop {
        let Some((number, server)) = shared.pool.choose(&tried) else {
            // One address may stand for many servers: what failed there once need not fail twice.
            rounds = rounds.saturating_add(1);
            if rounds == ROUNDS || last != Failure::Engine {
                break;
            }
            tokio::time::sleep(PAUSE).await;
            tried.clear();
            continue;
        };
        tried.push(number);
        let Some(body) = Body::of(request, dropped, max_tokens) else {
            last = Failure::Invalid("tools or response_format");
            break;
        };
        let mut answer = Answer::new(shared, request, dropped, reader);
        match answer.attempt(&server, body).await {
            Ok(()) | Err(Missed::Gone) => return,
            Err(Missed::Final(failure)) => {
                last = failure;
                break;
            }
            Err(Missed::Elsewhere(failure)) => last = failure,
            Err(Missed::TooLong(told)) => {
                let prompt_tokens = told.prompt.unwrap_or_else(|| estimate(request));
                let context_window = told.context.unwrap_or(shared.config.context_window);
                last = Failure::PromptTooLong { prompt_tokens, context_window };
                let room = context_window.saturating_sub(prompt_tokens);
                if told.answer_alone && room > 0 && max_tokens.is_none_or(|most| most > room) {
                    // The prompt fits: the answer is capped to what is left, as anywhere else.
                    max_tokens = Some(room);
                    tried.clear();
                    continue;
                }
                let left = body::droppable(request).saturating_sub(dropped);
                if request.overflow == Overflow::Refuse || left == 0 {
                    break;
                }
                dropped = dropped.saturating_add(share(left, prompt_tokens, context_window));
                tried.clear();
            }
        }
    }
    let _ = send(reader, Output::Failed(last), shared.config.stalled_reader).await;
}

/// How many of `left` messages to leave out next: as the prompt's excess is to the prompt, and one at least.
fn share(left: usize, prompt_tokens: u32, context_window: u32) -> usize {
    let number = |tokens: u32| usize::try_from(tokens).unwrap_or(usize::MAX);
    let excess = number(prompt_tokens.saturating_sub(context_window));
    let part = left.saturating_mul(excess).checked_div(number(prompt_tokens)).unwrap_or(0);
    part.clamp(1, left)
}

fn estimate(request: &Request) -> u32 {
    let bytes = body::length(request).div_ceil(BYTES_A_TOKEN);
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

fn estimate_of(texts: &[Text]) -> u32 {
    let bytes: usize = texts.iter().map(|text| text.as_str().len()).sum();
    u32::try_from(bytes.div_ceil(BYTES_A_TOKEN)).unwrap_or(u32::MAX)
}

async fn send(reader: &mpsc::Sender<Output>, output: Output, patience: Duration) -> Result<(), Missed> {
    match timeout(patience, reader.send(output)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(Missed::Gone),
    }
}

/// An answer as it comes from a server.
struct Answer<'a> {
    shared: &'a Shared,
    request: &'a Request,
    reader: &'a mpsc::Sender<Output>,
    dropped: usize,
    began: bool,
    calls: BTreeMap<usize, PartialCall>,
    calls_len: usize,
    pieces: u32,
    usage: Option<Usage>,
    finish: Option<FinishReason>,
}

/// A call as far as it has come.
#[derive(Debug, Default)]
struct PartialCall {
    id: String,
    name: String,
    arguments: Vec<Zeroizing<String>>,
}

impl PartialCall {
    fn whole(self) -> ToolCall {
        let length = self.arguments.iter().map(|part| part.len()).sum();
        let mut arguments = String::with_capacity(length);
        self.arguments.iter().for_each(|part| arguments.push_str(part));
        ToolCall { id: self.id, name: self.name, arguments: Text::from(arguments) }
    }
}

impl<'a> Answer<'a> {
    fn new(
        shared: &'a Shared,
        request: &'a Request,
        dropped: usize,
        reader: &'a mpsc::Sender<Output>,
    ) -> Self {
        Self {
            shared,
            request,
            reader,
            dropped,
            began: false,
            calls: BTreeMap::new(),
            calls_len: 0,
            pieces: 0,
            usage: None,
            finish: None,
        }
    }

    async fn attempt(&mut self, server: &Lease<'_>, body: Body) -> Result<(), Missed> {
        let mut response = ask(self.shared, server, body).await?;
        let mut events = Events::default();
        loop {
            while let Some(event) = events.next().map_err(|_| self.broken(server))? {
                match event {
                    Event::Piece(piece) => self.hear(*piece).await?,
                    Event::Done => return self.end().await,
                }
            }
            // Once the end is known, what may still come is the usage; and then some servers close, or fall silent, where
            // others say that they are done.
            let is_over = self.finish.is_some();
            let patience = if is_over {
                LAST_EVENTS.min(self.shared.config.silence)
            } else {
                self.shared.config.silence
            };
            match timeout(patience, response.chunk()).await {
                Ok(Ok(Some(bytes))) => events.push(&bytes),
                _ if is_over => return self.end().await,
                Ok(Ok(None) | Err(_)) | Err(_) => return Err(self.broken(server)),
            }
        }
    }

    /// The stream ended before the answer did: another server may try, unless words went out.
    fn broken(&self, server: &Lease<'_>) -> Missed {
        server.failed();
        self.missed(Failure::Engine)
    }

    fn missed(&self, failure: Failure) -> Missed {
        if self.began { Missed::Final(failure) } else { Missed::Elsewhere(failure) }
    }

    async fn hear(&mut self, piece: Piece) -> Result<(), Missed> {
        if let Some(fault) = piece.error {
            return Err(match fault.too_long().filter(|_| !self.began) {
                Some(told) => Missed::TooLong(told),
                None => self.missed(Failure::Engine),
            });
        }
        if let Some(usage) = piece.usage {
            self.usage = Some(usage.read());
        }
        let Some(mut choice) = piece.choices.into_iter().find(|choice| choice.index == 0) else {
            return Ok(());
        };
        let logprobs = choice.logprobs();
        if let Some(words) = choice.delta.reasoning() {
            let tokens = self.count();
            self.say(Output::Reasoning { text: Text::from(words), tokens }).await?;
        }
        let words = choice.delta.content.take().or(choice.text).filter(|words| !words.is_empty());
        if let Some(words) = words {
            let tokens = self.count();
            self.say(Output::Text { text: Text::from(words), tokens, logprobs }).await?;
        }
        for part in choice.delta.tool_calls.unwrap_or_default() {
            self.pieces = self.pieces.saturating_add(1);
            self.add_to_call(part)?;
        }
        if let Some(word) = choice.finish_reason {
            self.finish = Some(events::finish_reason(&word).ok_or_else(|| self.missed(Failure::Engine))?);
        }
        Ok(())
    }

    /// A piece stands for a token, until the server says better.
    fn count(&mut self) -> u32 {
        self.pieces = self.pieces.saturating_add(1);
        self.shared.decoded.fetch_add(1, Ordering::Relaxed);
        1
    }

    fn add_to_call(&mut self, part: events::CallPart) -> Result<(), Missed> {
        let next = self.calls.len();
        let index = part.index.unwrap_or(next);
        let function = part.function;
        let (name, arguments) = function.map(|it| (it.name, it.arguments)).unwrap_or_default();
        let arguments = Zeroizing::new(arguments.unwrap_or_default());
        self.calls_len = self.calls_len.saturating_add(arguments.len()).saturating_add(64);
        if self.calls_len > MAX_CALLS {
            return Err(self.missed(Failure::Engine));
        }
        let call = self.calls.entry(index).or_default();
        if let Some(id) = part.id.filter(|_| call.id.is_empty()) {
            call.id = id;
        }
        if let Some(name) = name.filter(|_| call.name.is_empty()) {
            call.name = name;
        }
        call.arguments.push(arguments);
        Ok(())
    }

    async fn say(&mut self, output: Output) -> Result<(), Missed> {
        if !std::mem::replace(&mut self.began, true) {
            let started = Output::Started {
                prompt_tokens: self.usage.map_or_else(|| estimate(self.request), |usage| usage.prompt_tokens),
                cached_tokens: self.usage.map_or(0, |usage| usage.cached_tokens),
                dropped_messages: self.dropped,
                estimated: self.usage.is_none(),
            };
            send(self.reader, started, self.shared.config.stalled_reader).await?;
        }
        send(self.reader, output, self.shared.config.stalled_reader).await
    }

    /// The answer is whole.
    async fn end(&mut self) -> Result<(), Missed> {
        // Calls are told when they are known to be whole.
        let Some(mut reason) = self.finish else { return Err(self.missed(Failure::Engine)) };
        let calls: Vec<ToolCall> =
            std::mem::take(&mut self.calls).into_values().map(PartialCall::whole).collect();
        let called = !calls.is_empty();
        if called {
            self.say(Output::ToolCalls { calls, tokens: 0 }).await?;
        }
        if called && reason == FinishReason::Stop {
            reason = FinishReason::ToolCalls;
        }
        let usage = self.usage.unwrap_or_else(|| Usage {
            prompt_tokens: estimate(self.request),
            cached_tokens: 0,
            completion_tokens: self.pieces,
            estimated: true,
        });
        let Shared { prefilled, reused, .. } = self.shared;
        prefilled
            .fetch_add(u64::from(usage.prompt_tokens.saturating_sub(usage.cached_tokens)), Ordering::Relaxed);
        reused.fetch_add(u64::from(usage.cached_tokens), Ordering::Relaxed);
        self.say(Output::Finished { reason, usage }).await
    }
}

#[cfg(test)]
mod tests;
