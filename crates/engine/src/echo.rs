//! An engine that says the prompt back, word by word. For other people's tests; it computes nothing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{sync::mpsc, time::sleep};

use crate::{
    Engine, Failure, FinishReason, Format, Generation, Message, ModelInfo, Output, Overflow, Prompt, Refused,
    Request, Role, Status, Text, Usage,
    fields::{Unknown, unserved},
    text::{Passed, StopFilter},
};

/// Says the last user message back; a word is a token. Works inside a tokio runtime.
#[derive(Debug)]
pub struct EchoEngine {
    models: [ModelInfo; 1],
    delay: Duration,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    running: AtomicUsize,
    prefilled: AtomicU64,
    decoded: AtomicU64,
}

impl EchoEngine {
    /// An engine whose context holds so many words.
    pub fn new(name: impl Into<String>, context_window: u32) -> Self {
        let model = ModelInfo { name: name.into(), digest: String::new(), context_window, engine: "echo" };
        Self { models: [model], delay: Duration::ZERO, counts: Arc::default() }
    }

    /// The same, taking its time over each word.
    #[must_use]
    pub fn with_delay(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }
}

impl Engine for EchoEngine {
    fn submit(&self, request: Request) -> Result<Generation, Refused> {
        let [model] = &self.models;
        if request.model.as_ref().is_some_and(|name| *name != model.name && name != "default") {
            return Err(Refused::ModelNotFound);
        }
        // What it cannot do is refused, not left out.
        let asked = [
            ("logprobs", request.logprobs.is_some()),
            ("response_format", request.format != Format::Text),
            ("tools", request.tools.is_some()),
        ];
        let (sender, outputs) = mpsc::channel(8);
        let extra = request.extra.as_ref().and_then(|extra| unserved(extra.as_str(), Unknown::Ignored));
        if let Some(name) = asked.into_iter().find_map(|(name, asked)| asked.then_some(name)).or(extra) {
            let _ = sender.try_send(Output::Failed(Failure::Unsupported(name)));
            return Ok(Generation { outputs });
        }
        let (window, delay, counts) = (model.context_window, self.delay, Arc::clone(&self.counts));
        counts.running.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(async move {
            // A reader that went away has cancelled: there is nobody to tell.
            let _ = tokio::select! {
                () = sender.closed() => None,
                said = say(request, window, delay, &sender, &counts) => said,
            };
            counts.running.fetch_sub(1, Ordering::Relaxed);
        });
        Ok(Generation { outputs })
    }

    fn models(&self) -> &[ModelInfo] {
        &self.models
    }

    fn status(&self) -> Status {
        let running = self.counts.running.load(Ordering::Relaxed);
        Status {
            running,
            slots: usize::MAX,
            healthy: true,
            prefilled_tokens: self.counts.prefilled.load(Ordering::Relaxed),
            decoded_tokens: self.counts.decoded.load(Ordering::Relaxed),
            ..Status::default()
        }
    }
}

async fn say(
    request: Request,
    window: u32,
    delay: Duration,
    out: &mpsc::Sender<Output>,
    counts: &Counts,
) -> Option<()> {
    let words = |text: &Text| text.as_str().split_whitespace().count();
    let (text, prompt_words, dropped) = match request.prompt {
        Prompt::Raw(text) => {
            let count = words(&text);
            (text, count, 0)
        }
        Prompt::Chat(messages) => chat(messages, request.overflow, window),
    };
    let prompt_tokens = u32::try_from(prompt_words).unwrap_or(u32::MAX);
    if prompt_tokens >= window {
        let failure = Failure::PromptTooLong { prompt_tokens, context_window: window };
        return out.send(Output::Failed(failure)).await.ok();
    }
    counts.prefilled.fetch_add(u64::from(prompt_tokens), Ordering::Relaxed);
    out.send(Output::Started {
        prompt_tokens,
        cached_tokens: 0,
        dropped_messages: dropped,
        estimated: false,
    })
    .await
    .ok()?;
    let most =
        request.max_tokens.map_or(window, |most| most.min(window)).min(window.saturating_sub(prompt_tokens));
    let mut stops = StopFilter::new(request.stop);
    let mut usage = Usage { prompt_tokens, ..Usage::default() };
    let mut reason = FinishReason::Stop;
    for word in text.as_str().split_inclusive(' ') {
        if usage.completion_tokens == most {
            reason = FinishReason::Length;
            break;
        }
        if !delay.is_zero() {
            sleep(delay).await;
        }
        usage.completion_tokens = usage.completion_tokens.saturating_add(1);
        counts.decoded.fetch_add(1, Ordering::Relaxed);
        let passed = stops.push(word);
        let stopped = matches!(passed, Passed::Stopped(_));
        let (Passed::Text(text) | Passed::Stopped(text)) = passed;
        if !text.is_empty() {
            out.send(Output::Text { text: Text::from(text), tokens: 1, logprobs: Vec::new() }).await.ok()?;
        }
        if stopped {
            return out.send(Output::Finished { reason, usage }).await.ok();
        }
    }
    let rest = stops.finish();
    if !rest.is_empty() {
        out.send(Output::Text { text: Text::from(rest), tokens: 0, logprobs: Vec::new() }).await.ok()?;
    }
    out.send(Output::Finished { reason, usage }).await.ok()
}

/// The last user message, the words of what fits, and how many messages were left out.
fn chat(mut messages: Vec<Message>, overflow: Overflow, window: u32) -> (Text, usize, usize) {
    let count = |messages: &[Message]| -> usize {
        messages.iter().map(|message| message.content.as_str().split_whitespace().count()).sum()
    };
    let window = usize::try_from(window).unwrap_or(usize::MAX);
    let first = usize::from(messages.first().is_some_and(|message| message.role == Role::System));
    let mut dropped: usize = 0;
    while overflow == Overflow::DropOldest
        && count(&messages) >= window
        && messages.len() > first.saturating_add(1)
    {
        messages.remove(first);
        dropped = dropped.saturating_add(1);
    }
    let words = count(&messages);
    let last = messages.into_iter().rev().find(|message| message.role == Role::User);
    (last.map_or_else(|| Text::from(""), |message| message.content), words, dropped)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn answer(prompt: &str, max_tokens: Option<u32>, stop: &[&str]) -> (String, Option<Output>) {
        let engine = EchoEngine::new("echo", 20);
        let request = Request {
            max_tokens,
            stop: stop.iter().map(|stop| (*stop).to_owned()).collect(),
            ..Request::new(Prompt::Chat(vec![Message::new(Role::User, prompt)]))
        };
        let mut generation = engine.submit(request).unwrap();
        let (mut text, mut last) = (String::new(), None);
        while let Some(output) = generation.outputs.recv().await {
            if let Output::Text { text: more, .. } = &output {
                text.push_str(more.as_str());
            }
            last = Some(output);
        }
        (text, last)
    }

    fn finished(reason: FinishReason, prompt_tokens: u32, completion_tokens: u32) -> Option<Output> {
        Some(Output::Finished {
            reason,
            usage: Usage { prompt_tokens, completion_tokens, ..Usage::default() },
        })
    }

    #[tokio::test]
    async fn the_prompt_comes_back() {
        assert_eq!(
            answer("one two  three", None, &[]).await,
            ("one two  three".into(), finished(FinishReason::Stop, 3, 4))
        );
        assert_eq!(
            answer("one two three", Some(2), &[]).await,
            ("one two ".into(), finished(FinishReason::Length, 3, 2))
        );
        assert_eq!(
            answer("one two three", None, &["two"]).await,
            ("one ".into(), finished(FinishReason::Stop, 3, 2))
        );
    }

    #[tokio::test]
    async fn a_prompt_longer_than_the_context_fails() {
        let long = "word ".repeat(30);
        let too_long = Failure::PromptTooLong { prompt_tokens: 30, context_window: 20 };
        assert_eq!(answer(&long, None, &[]).await, (String::new(), Some(Output::Failed(too_long))));
    }
}
