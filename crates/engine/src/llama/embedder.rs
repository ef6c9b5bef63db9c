//! Texts to places in a space where near means alike. A context of its own, and a chunk of text between any two
//! steps of the answers, so that neither holds the other up.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::oneshot;
use zeroize::Zeroizing;

use super::{
    context::{Context, StepFailed},
    model::{Model, Pooling},
};
use crate::{
    Embedding, EmbeddingRequest, Failure, LlamaConfig, Text,
    sampler::Token,
    scheduler::{Item, Waiting},
};

/// A place among the embeddings that wait, given up on drop.
#[derive(Debug)]
pub(super) struct Place(Arc<AtomicUsize>);

impl Place {
    /// Takes one of `limit` places.
    pub(super) fn take(taken: &Arc<AtomicUsize>, limit: usize) -> Option<Self> {
        let more = |taken: usize| (taken < limit).then(|| taken.saturating_add(1));
        taken.try_update(Ordering::AcqRel, Ordering::Acquire, more).ok().map(|_| Self(Arc::clone(taken)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// One request for embeddings.
#[derive(Debug)]
pub(super) struct Job {
    client: u64,
    /// The last comes first.
    left: Vec<Text>,
    done: Vec<Embedding>,
    reply: oneshot::Sender<Result<Vec<Embedding>, Failure>>,
    _place: Place,
}

impl Job {
    pub(super) fn new(
        request: EmbeddingRequest,
        reply: oneshot::Sender<Result<Vec<Embedding>, Failure>>,
        place: Place,
    ) -> Self {
        let mut left = request.inputs;
        left.reverse();
        Self { client: request.client, left, done: Vec::new(), reply, _place: place }
    }
}

/// A text on its way.
struct Running {
    job: Job,
    tokens: Zeroizing<Vec<Token>>,
    seen: usize,
    sum: Zeroizing<Vec<f32>>,
}

/// Works off what is to be embedded.
pub(super) struct Embedder<'a> {
    model: &'a Model,
    config: &'a LlamaConfig,
    /// Made when the first text comes.
    context: Option<Context<'a>>,
    waiting: Waiting<Job>,
    running: Option<Running>,
}

impl<'a> Embedder<'a> {
    pub(super) fn new(model: &'a Model, config: &'a LlamaConfig) -> Self {
        Self { model, config, context: None, waiting: Waiting::new(), running: None }
    }

    pub(super) fn push(&mut self, job: Job) {
        self.waiting.push(job.client, job);
    }

    pub(super) fn is_idle(&self) -> bool {
        self.running.is_none() && self.waiting.len() == 0
    }

    /// Computes up to `budget` tokens of the text whose turn it is.
    pub(super) fn step(&mut self, budget: usize) -> Result<(), StepFailed> {
        if self.is_idle() {
            return Ok(());
        }
        let Some(pooling) = self.model.pooling() else {
            while let Some(job) = self.waiting.pop() {
                let _ = job.reply.send(Err(Failure::Unsupported("embeddings")));
            }
            return Ok(());
        };
        if self.context.is_none() {
            match self.model.embedding_context(self.config) {
                Ok(made) => self.context = Some(made),
                Err(error) => {
                    // Answers go on: that there is no room for embeddings now is theirs alone.
                    tracing::warn!(%error, "there is no memory for embeddings");
                    while let Some(job) = self.waiting.pop() {
                        let _ = job.reply.send(Err(Failure::Busy));
                    }
                    return Ok(());
                }
            }
        }
        let Some(context) = &mut self.context else { return Ok(()) };
        let Some(mut running) = self.running.take().or_else(|| begin(self.model, &mut self.waiting)) else {
            return Ok(());
        };
        if running.job.reply.is_closed() {
            return context.clear(0);
        }
        if let Err(error) = running.advance(context, budget, pooling) {
            tracing::error!(%error, "embeddings failed and start anew");
            let _ = running.job.reply.send(Err(Failure::Engine));
            self.context = None;
            return Ok(());
        }
        if running.seen < running.tokens.len() {
            self.running = Some(running);
            return Ok(());
        }
        context.clear(0)?;
        if let Some(job) = running.finish() {
            self.waiting.push(job.client, job);
        }
        Ok(())
    }
}

/// The next text, of the client whose turn it is.
fn begin(model: &Model, waiting: &mut Waiting<Job>) -> Option<Running> {
    while let Some(mut job) = waiting.pop() {
        if job.reply.is_closed() {
            continue;
        }
        let Some(text) = job.left.pop() else { continue };
        match model.words(&text) {
            Ok(tokens) => {
                let tokens = Zeroizing::new(tokens);
                return Some(Running { job, tokens, seen: 0, sum: Zeroizing::default() });
            }
            Err(failure) => {
                let _ = job.reply.send(Err(failure));
            }
        }
    }
    None
}

impl Running {
    fn advance(
        &mut self,
        context: &mut Context<'_>,
        budget: usize,
        pooling: Pooling,
    ) -> Result<(), StepFailed> {
        let end = self.seen.saturating_add(budget.max(1)).min(self.tokens.len());
        let chunk = self.tokens.get(self.seen..end).unwrap_or_default();
        let item = |(position, token): (usize, &Token)| Item {
            slot: 0,
            token: *token,
            position,
            wants_logits: true,
        };
        let items: Vec<Item> = (self.seen..).zip(chunk).map(item).collect();
        context.step(&items)?;
        for place in 0..items.len() {
            let values = context.embedding(place)?;
            match pooling {
                Pooling::Mean if !self.sum.is_empty() => {
                    self.sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
                }
                Pooling::Mean | Pooling::Last => *self.sum = values.to_vec(),
            }
        }
        self.seen = end;
        Ok(())
    }

    /// Adds the text's place. The job, where there is more of it.
    fn finish(self) -> Option<Job> {
        let Self { mut job, tokens, sum, .. } = self;
        let length = sum.iter().map(|value| value * value).sum::<f32>().sqrt();
        let scale = if length > 0.0 { 1.0 / length } else { 0.0 };
        let values = sum.iter().map(|value| value * scale).collect();
        job.done.push(Embedding { values, tokens: u32::try_from(tokens.len()).unwrap_or(u32::MAX) });
        if !job.left.is_empty() {
            return Some(job);
        }
        let Job { reply, done, .. } = job;
        let _ = reply.send(Ok(done));
        None
    }
}
