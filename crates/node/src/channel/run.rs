//! One request, from its record to the end of its answer. Knows no connection: there may be none.

use std::sync::Arc;

use fabstir_engine::{Failure, FinishReason, Output, Refused};
use fabstir_protocol::{
    request::{Operation, PromptRequest},
    v2::{End, Fault as WireFault, encode},
};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::{answer::Piece, session::Session};
use crate::{
    answer::{BarePrompt, Fault, Progress, Step, Style, Work, prepare},
    metrics,
    node::Node,
};

/// Why an answer stopped before its end.
enum Stopped {
    Cancelled,
    Failed(Fault),
}

impl From<Refused> for Stopped {
    fn from(refused: Refused) -> Self {
        Self::Failed(refused.into())
    }
}

impl From<Failure> for Stopped {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure.into())
    }
}

/// Answers a request that is whole.
pub(super) async fn run(
    node: Arc<Node>,
    session: Arc<Session>,
    request: u32,
    body: Zeroizing<Vec<u8>>,
    cancel: CancellationToken,
) {
    let operation = Operation::read(&body);
    drop(body);
    let (bare, prompt) = match operation {
        Ok(Operation::Chat(prompt)) => (BarePrompt::Turn, prompt),
        Ok(Operation::Completions(prompt)) => (BarePrompt::Text, prompt),
        Ok(Operation::Embeddings(prompt)) => (BarePrompt::Turn, prompt),
        Ok(Operation::Models) => {
            let end = End { finish_reason: "stop".to_owned(), ..End::default() };
            let list = encode(&node.models());
            session.push(request, Piece::event(&list, false)).await;
            session.end_answer(request, Piece::event(&encode(&end), true));
            return;
        }
        Err(error) => {
            let fault = Fault::from(error);
            metrics::refused(fault.code);
            session.end_answer(request, vec![Piece::error(&encode(&wire(&fault)))]);
            return;
        }
    };
    let mut progress = Progress::new(&node, &prompt, Style::Either, session.party, &session.account);
    let ended = {
        let work = answer(&node, &session, request, &mut progress, bare, prompt, &cancel);
        let watch = async {
            node.stopping.cancelled().await;
            cancel.cancel();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            biased;
            ended = work => ended,
            () = watch => Err(Stopped::Cancelled),
        }
    };
    finish(&session, request, &mut progress, ended);
}

async fn answer(
    node: &Arc<Node>,
    session: &Session,
    request: u32,
    progress: &mut Progress,
    bare: BarePrompt,
    prompt: PromptRequest,
    cancel: &CancellationToken,
) -> Result<FinishReason, Stopped> {
    // Of a conversation that the node keeps, one turn after the other: what one says belongs to what the next asks.
    let keeps = bare == BarePrompt::Turn && prompt.is_turn();
    let turn = async { if keeps { Some(session.turns.lock().await) } else { None } };
    let _turn = cancel.run_until_cancelled(turn).await.ok_or(Stopped::Cancelled)?;
    let (work, asked) = prepare(node, &session.asker(), bare, prompt);
    let produced = produce(node, session, request, progress, work, cancel).await;
    if let Some(asked) = asked
        && let Some(answered) = progress.take_words()
    {
        session.conversation().add(asked, answered, progress.dropped);
    }
    produced
}

async fn produce(
    node: &Node,
    session: &Session,
    request: u32,
    progress: &mut Progress,
    work: Work,
    cancel: &CancellationToken,
) -> Result<FinishReason, Stopped> {
    let work = match work {
        Work::Answer(work) => work,
        Work::Embed(work, encoding) => {
            let embeddings = node.engine.embed(work)?;
            let done = cancel.run_until_cancelled(embeddings.result).await.ok_or(Stopped::Cancelled)?;
            let embeddings = done.unwrap_or(Err(Failure::Engine))?;
            for (index, one) in embeddings.iter().enumerate() {
                let piece = progress.embedding(index, one, encoding);
                session.push(request, Piece::event(piece.as_bytes(), false)).await;
            }
            return Ok(FinishReason::Stop);
        }
    };
    let mut generation = node.engine.submit(*work)?;
    loop {
        let output = tokio::select! {
            biased;
            // Here too, so that what was said before a cancel is remembered.
            () = cancel.cancelled() => return Err(Stopped::Cancelled),
            output = generation.outputs.recv() => output.unwrap_or(Output::Failed(Failure::Engine)),
        };
        let pieces = match progress.take(output) {
            Step::Words(words, _) => Piece::text(words.as_str()),
            Step::Object(object, _) => Piece::event(object.as_bytes(), false),
            Step::Silent(_) | Step::Nothing => continue,
            Step::Ended(reason) => return Ok(reason),
            Step::Failed(failure) => return Err(failure.into()),
        };
        tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(Stopped::Cancelled),
            () = session.push(request, pieces) => {}
        }
    }
}

fn finish(session: &Session, request: u32, progress: &mut Progress, ended: Result<FinishReason, Stopped>) {
    let (finish_reason, fault) = match ended {
        Ok(FinishReason::Stop) => ("stop", None),
        Ok(FinishReason::Length) => ("length", None),
        Ok(FinishReason::ToolCalls) => ("tool_calls", None),
        Err(Stopped::Cancelled) => ("cancelled", None),
        Err(Stopped::Failed(fault)) => ("error", Some(fault)),
    };
    progress.close(finish_reason);
    let pieces = match fault {
        Some(fault) => {
            metrics::refused(fault.code);
            tracing::debug!(code = fault.code.as_str(), "answer failed");
            let wire = WireFault { usage: Some(progress.usage.clone()), ..wire(&fault) };
            vec![Piece::error(&encode(&wire))]
        }
        None => {
            let end = End {
                finish_reason: finish_reason.to_owned(),
                usage: progress.usage.clone(),
                dropped_messages: progress.dropped,
            };
            Piece::event(&encode(&end), true)
        }
    };
    session.end_answer(request, pieces);
}

fn wire(fault: &Fault) -> WireFault {
    WireFault {
        code: fault.code.as_str().to_owned(),
        message: fault.message(),
        retry_after_ms: None,
        prompt_tokens: fault.too_long.map(|(tokens, _)| tokens),
        context_window_size: fault.too_long.map(|(_, window)| window),
        usage: None,
    }
}
