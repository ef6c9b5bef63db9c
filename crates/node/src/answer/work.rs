//! From a request to what the engine is asked.

use fabstir_engine::{Author, EmbeddingRequest, Overflow, Prompt, Request, Text};
use fabstir_protocol::{
    request::{EmbeddingEncoding, PromptRequest, RequestMessage, RequestPrompt, Role as SpokenBy},
    seal::Words,
    v1::Owner,
};

use crate::{crypto::Running, node::Node, pieces};

/// What the engine is asked.
pub(super) enum Work {
    Answer(Box<Request>),
    Embed(EmbeddingRequest, EmbeddingEncoding),
}

/// The engine's work, and the words to remember where the node keeps the conversation.
pub(super) fn prepare(
    node: &Node,
    running: &Running,
    request: PromptRequest,
    client: u64,
) -> (Work, Option<Words>) {
    let system = node.config.default_system_prompt.as_deref();
    let PromptRequest { prompt, model, max_tokens, sampling, stop, logprobs, format, tools, extra } = request;
    let conversation = running.live().conversation();
    let (messages, overflow, asked, author) = match prompt {
        RequestPrompt::Turn(words) => {
            (conversation.with(system, &words), Overflow::DropOldest, Some(words), Author::Operator)
        }
        RequestPrompt::Messages(messages) => {
            let author = if has_system(&messages) { Author::Client } else { Author::Operator };
            (pieces::messages(system, messages), Overflow::Refuse, None, author)
        }
        RequestPrompt::Embeddings(texts, encoding) => {
            let inputs = texts.iter().map(|words| Text::from(words.as_str())).collect();
            return (Work::Embed(EmbeddingRequest { model, inputs, client }, encoding), None);
        }
    };
    let session = conversation.session(&node.engine, || node.next_session());
    // Whoever merely names an address is a scope of its own: nobody vouches for it.
    let scope = match running.live().owner() {
        Some(Owner::Verified(_)) => client,
        Some(Owner::Unclaimed(_)) | None => node.client_number(("session", session)),
    };
    let most = node.config.max_tokens_per_request;
    let max_tokens = match (max_tokens, most) {
        (Some(asked), Some(most)) => Some(asked.min(most)),
        (asked, most) => asked.or(most),
    };
    let request = Request {
        model,
        prompt: Prompt::Chat(messages),
        overflow,
        sampling: pieces::sampling(sampling),
        max_tokens,
        stop,
        client,
        scope,
        session,
        system: author,
        logprobs,
        format: pieces::format(format),
        tools: tools.map(pieces::tools),
        extra: extra.map(|fields| Text::from(fields.as_str())),
    };
    (Work::Answer(Box::new(request)), asked)
}

fn has_system(messages: &[RequestMessage]) -> bool {
    messages.iter().any(|message| message.role == SpokenBy::System)
}
