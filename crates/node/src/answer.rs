//! One message's way to its answer: wait for its turn, ask the engine, seal what comes, say how it ended.

use std::{sync::Arc, time::Duration};

use fabstir_engine::{Embeddings, Failure, FinishReason, Generation, Output, Refused};
use fabstir_protocol::{
    Code,
    id::SessionId,
    request::{EmbeddingEncoding, PromptRequest},
    seal::SealError,
    v1::{AnswerSealer, Echo, NodeFrame, Owner, StreamEndReason},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, Interval, MissedTickBehavior, interval_at},
};
use tokio_util::sync::CancellationToken;

use crate::{crypto::Running, limits::Party, metrics, node};

mod fault;
mod progress;
mod work;

pub(crate) use fault::{Fault, meaning};
pub(crate) use progress::{Progress, Step, Style};
pub(crate) use work::{Asker, BarePrompt, Work, prepare};

/// What goes out to the socket.
#[derive(Debug)]
pub enum Outgoing {
    /// A text frame.
    Frame(String),
    /// A binary frame of version 2.
    Record(Vec<u8>),
    /// The end of the connection, with its reason.
    Close(CloseReason),
}

/// Why the node ends a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CloseReason {
    /// Too many frames in a row did not open.
    TooManyFailures,
    /// No message came.
    NoMessage,
    /// There was no session for too long.
    NoSession,
    /// The client may no longer have sessions here.
    NotAllowed,
    /// The node goes away.
    GoingAway,
    /// Nothing was heard for too long.
    Silent,
    /// What was sent was not read in time.
    SlowConsumer,
    /// The handshake of version 2 did not complete.
    Handshake,
    /// A record did not open, or was out of place.
    Broken,
    /// The session of version 2 has ended.
    Goodbye,
}

/// How the pieces of an answer go out.
#[derive(Debug)]
pub enum Channel {
    /// Sealed, under the key that opened the message.
    Sealed(AnswerSealer),
    /// In the clear.
    Plain,
}

/// One message that was opened and waits for its answer.
#[derive(Debug)]
pub struct Job {
    /// What all connections share.
    pub node: Arc<node::Node>,
    /// The session at work; dropped last.
    pub running: Running,
    /// What replies repeat.
    pub echo: Echo,
    /// What was asked.
    pub request: PromptRequest,
    /// How the answer goes out.
    pub channel: Channel,
    /// Where it goes out.
    pub out: mpsc::Sender<Outgoing>,
    /// Ends it early.
    pub cancel: CancellationToken,
    /// Closed when the answer before this one has ended.
    pub before: Option<oneshot::Receiver<()>>,
    /// Who asks, as the engine tells clients apart.
    pub client: u64,
    /// On whose account the tokens are.
    pub party: Party,
}

/// Why an answer stopped before its end.
enum Stopped {
    Cancelled,
    Failed(Fault),
    /// The connection is gone: there is nobody to tell.
    Gone,
}

impl From<SealError> for Stopped {
    fn from(SealError: SealError) -> Self {
        Self::Failed(Code::EncryptionFailed.into())
    }
}

/// An answer on its way out.
struct Answer {
    id: SessionId,
    echo: Echo,
    channel: Channel,
    out: mpsc::Sender<Outgoing>,
    cancel: CancellationToken,
    ticks: Interval,
    /// Whether a first chunk went out: from then on, failure is told inside the stream.
    began: bool,
    progress: Progress,
}

impl Job {
    /// Runs until the answer has ended. Dropping the future ends it too, silently.
    pub async fn run(self) {
        let Self { node, running, echo, request, channel, out, cancel, before, client, party } = self;
        let mut answer = Answer {
            id: running.live().id().clone(),
            echo,
            channel,
            out,
            cancel,
            ticks: ticks(node.config.keep_alive),
            began: false,
            progress: Progress::new(
                &node,
                &request,
                Style::for_v1(&request),
                party,
                running.live().account(),
            ),
        };
        let turn = answer.wait_for_turn(before).await;
        let (ended, asked) = match turn {
            Err(stopped) => (Err(stopped), None),
            Ok(()) => {
                // Only now: what the answers before this one said belongs to what is asked.
                let vouched = matches!(running.live().owner(), Some(Owner::Verified(_)));
                let conversation = running.live().conversation();
                // Whoever merely names an address is a scope of its own: nobody vouches for it.
                let asker = Asker { conversation, client, scope: vouched.then_some(client) };
                let (work, asked) = prepare(&node, &asker, BarePrompt::Turn, request);
                (answer.produce(&node, work).await, asked)
            }
        };
        if let Some(asked) = asked
            && let Some(answered) = answer.progress.take_words()
        {
            running.live().conversation().add(asked, answered, answer.progress.dropped);
        }
        answer.finish(ended).await;
    }
}

impl Answer {
    /// Waits for the answer before this one, and lets the client know that it is not forgotten. That one ends
    /// first even where both are cancelled: what a client reads is one answer after the other.
    async fn wait_for_turn(&mut self, before: Option<oneshot::Receiver<()>>) -> Result<(), Stopped> {
        if let Some(mut before) = before {
            loop {
                tokio::select! {
                    biased;
                    () = self.out.closed() => return Err(Stopped::Gone),
                    _ = &mut before => break,
                    _ = self.ticks.tick(), if !self.cancel.is_cancelled() => match self.chunk("", 0).await {
                        Ok(()) | Err(Stopped::Cancelled) => {}
                        Err(stopped) => return Err(stopped),
                    },
                }
            }
        }
        if self.cancel.is_cancelled() { Err(Stopped::Cancelled) } else { Ok(()) }
    }

    async fn produce(&mut self, node: &node::Node, work: Work) -> Result<FinishReason, Stopped> {
        let refused = |refused: Refused| Stopped::Failed(refused.into());
        match work {
            Work::Answer(request) => {
                let generation = node.engine.submit(*request).map_err(refused)?;
                self.stream(generation).await
            }
            Work::Embed(request, encoding) => {
                let embeddings = node.engine.embed(request).map_err(refused)?;
                self.embed(embeddings, encoding).await
            }
        }
    }

    /// Each embedding is a piece of the answer.
    async fn embed(
        &mut self,
        mut embeddings: Embeddings,
        encoding: EmbeddingEncoding,
    ) -> Result<FinishReason, Stopped> {
        let done = loop {
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => return Err(Stopped::Cancelled),
                () = self.out.closed() => return Err(Stopped::Gone),
                done = &mut embeddings.result => break done.unwrap_or(Err(Failure::Engine)),
                _ = self.ticks.tick() => self.chunk("", 0).await?,
            }
        };
        let embeddings = done.map_err(|failure| Stopped::Failed(failure.into()))?;
        for (index, one) in embeddings.iter().enumerate() {
            let piece = self.progress.embedding(index, one, encoding);
            self.chunk(&piece, 0).await?;
        }
        Ok(FinishReason::Stop)
    }

    async fn stream(&mut self, mut generation: Generation) -> Result<FinishReason, Stopped> {
        loop {
            let output = tokio::select! {
                biased;
                () = self.cancel.cancelled() => return Err(Stopped::Cancelled),
                () = self.out.closed() => return Err(Stopped::Gone),
                output = generation.outputs.recv() => output.unwrap_or(Output::Failed(Failure::Engine)),
                _ = self.ticks.tick() => {
                    self.chunk("", 0).await?;
                    continue;
                }
            };
            match self.progress.take(output) {
                Step::Words(words, tokens) => self.chunk(words.as_str(), tokens).await?,
                Step::Object(piece, tokens) => self.chunk(&piece, tokens).await?,
                Step::Silent(tokens) => self.chunk("", tokens).await?,
                Step::Nothing => {}
                Step::Ended(reason) => return Ok(reason),
                Step::Failed(failure) => return Err(Stopped::Failed(failure.into())),
            }
        }
    }

    /// Seals and sends a piece. Waits for a slow reader, but not past a cancel: a piece is sealed once there is room for it,
    /// since what is sealed and not sent leaves a gap behind which nothing opens.
    async fn chunk(&mut self, text: &str, tokens: u32) -> Result<(), Stopped> {
        let out = self.out.clone();
        let room = tokio::select! {
            biased;
            () = self.cancel.cancelled() => return Err(Stopped::Cancelled),
            room = out.reserve() => room.map_err(|_| Stopped::Gone)?,
        };
        let frame = self.chunk_frame(text, tokens, false)?;
        self.progress.account.sent(frame.len());
        room.send(Outgoing::Frame(frame));
        self.began = true;
        self.ticks.reset();
        Ok(())
    }

    fn chunk_frame(&mut self, text: &str, tokens: u32, last: bool) -> Result<String, SealError> {
        let (session_id, id) = (self.id.as_str(), self.echo.id.as_deref());
        Ok(match &mut self.channel {
            Channel::Sealed(sealer) => {
                let (index, payload) = sealer.chunk(text, &mut node::nonces())?;
                NodeFrame::EncryptedChunk { session_id, tokens, payload, index, last, id }.encode()
            }
            Channel::Plain => NodeFrame::StreamChunk { session_id, content: text, tokens, id }.encode(),
        })
    }

    /// Tells the client how the answer ended.
    async fn finish(mut self, ended: Result<FinishReason, Stopped>) {
        let (reason, finish_reason, fault) = match ended {
            Ok(FinishReason::Stop) => (StreamEndReason::Complete, "stop", None),
            Ok(FinishReason::Length) => (StreamEndReason::Complete, "length", None),
            Ok(FinishReason::ToolCalls) => (StreamEndReason::Complete, "tool_calls", None),
            Err(Stopped::Cancelled) => (StreamEndReason::Cancelled, "cancelled", None),
            Err(Stopped::Failed(fault)) => (StreamEndReason::Error, "error", Some(fault)),
            Err(Stopped::Gone) => (StreamEndReason::Cancelled, "disconnected", None),
        };
        self.progress.close(finish_reason);
        if let Some(fault) = &fault {
            metrics::refused(fault.code);
            tracing::debug!(code = fault.code.as_str(), "answer failed");
        }
        if finish_reason == "disconnected" {
            return;
        }
        let frames = match fault {
            Some(fault) if !self.began => vec![self.error_frame(&fault)],
            fault => self.last_frames(reason, finish_reason, fault.map(|fault| fault.code)),
        };
        for frame in frames {
            self.progress.account.sent(frame.len());
            if self.out.send(Outgoing::Frame(frame)).await.is_err() {
                return;
            }
        }
    }

    fn error_frame(&self, fault: &Fault) -> String {
        let message = fault.message();
        NodeFrame::Error {
            code: fault.code,
            message: &message,
            retry_after_ms: None,
            prompt_tokens: fault.too_long.map(|(tokens, _)| tokens),
            context_window_size: fault.too_long.map(|(_, window)| window),
            session_id: Some(self.id.as_str()),
            id: self.echo.id.as_deref(),
        }
        .encode()
    }

    fn last_frames(
        &mut self,
        reason: StreamEndReason,
        finish_reason: &str,
        code: Option<Code>,
    ) -> Vec<String> {
        let mut frames = Vec::with_capacity(3);
        if matches!(self.channel, Channel::Sealed(_)) {
            if code.is_none() {
                frames.extend(self.chunk_frame("", 0, true).ok());
            }
            let channel = std::mem::replace(&mut self.channel, Channel::Plain);
            if let Channel::Sealed(sealer) = channel
                && let Ok(payload) = sealer.finish(finish_reason, &mut node::nonces())
            {
                let (session_id, id) = (self.id.as_str(), self.echo.id.as_deref());
                frames.push(NodeFrame::EncryptedResponse { session_id, payload, id }.encode());
            }
        }
        let end = NodeFrame::StreamEnd {
            session_id: self.id.as_str(),
            reason,
            finish_reason,
            tokens_used: self.progress.usage.completion_tokens,
            code,
            usage: self.progress.usage.clone(),
            dropped_messages: (self.progress.dropped > 0).then_some(self.progress.dropped),
            id: self.echo.id.as_deref(),
        };
        frames.push(end.encode());
        frames
    }
}

fn ticks(every: Duration) -> Interval {
    let start = Instant::now().checked_add(every).unwrap_or_else(Instant::now);
    let mut ticks = interval_at(start, every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
