//! Embeddings, which come whole.

use serde::Deserialize;

use super::{
    Missed,
    ask::{ask, read},
    estimate_of,
};
use crate::{
    Embedding, EmbeddingRequest, Failure,
    upstream::{Shared, body::Body},
};

/// Most bytes of an answer.
const MAX_BODY: usize = 64 << 20;

pub(super) async fn embed(shared: &Shared, request: &EmbeddingRequest) -> Result<Vec<Embedding>, Failure> {
    let mut tried = Vec::new();
    let mut last = Failure::Engine;
    while let Some((number, server)) = shared.pool.choose(&tried) {
        tried.push(number);
        let body = Body::of_texts(request).ok_or(Failure::Invalid("prompt"))?;
        match ask(shared, &server, body).await {
            Ok(response) => {
                let body = read(response, MAX_BODY, shared.config.silence).await;
                match body.and_then(|body| embeddings(&body, request)) {
                    Some(embeddings) => return Ok(embeddings),
                    None => server.failed(),
                }
            }
            Err(Missed::Elsewhere(failure)) => last = failure,
            Err(Missed::Final(failure)) => return Err(failure),
            Err(Missed::TooLong(told)) => {
                return Err(Failure::PromptTooLong {
                    prompt_tokens: told.prompt.unwrap_or_else(|| estimate_of(&request.inputs)),
                    context_window: told.context.unwrap_or(shared.config.context_window),
                });
            }
            Err(Missed::Gone) => break,
        }
    }
    Err(last)
}

/// Reads a list of embeddings: one for each text, in the order of the texts.
fn embeddings(body: &[u8], request: &EmbeddingRequest) -> Option<Vec<Embedding>> {
    #[derive(Deserialize)]
    struct List {
        data: Vec<One>,
        usage: Option<Count>,
    }
    #[derive(Deserialize)]
    struct One {
        index: usize,
        embedding: Vec<f32>,
    }
    #[derive(Deserialize)]
    struct Count {
        prompt_tokens: Option<u32>,
    }
    let mut list: List = serde_json::from_slice(body).ok()?;
    list.data.sort_by_key(|one| one.index);
    let in_order =
        list.data.iter().enumerate().all(|(place, one)| one.index == place && !one.embedding.is_empty());
    if list.data.len() != request.inputs.len() || !in_order {
        return None;
    }
    // The server counts all texts together: the first carries the count.
    let counted = list.usage.and_then(|usage| usage.prompt_tokens);
    let mut tokens = counted.unwrap_or_else(|| estimate_of(&request.inputs));
    let read = |one: One| Embedding { values: one.embedding, tokens: std::mem::take(&mut tokens) };
    Some(list.data.into_iter().map(read).collect())
}
