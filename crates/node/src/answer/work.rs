//! From a request to what the engine is asked.

use fabstir_engine::{Author, EmbeddingRequest, Overflow, Prompt, Request, Text};
use fabstir_protocol::{
    request::{EmbeddingEncoding, PromptRequest, RequestMessage, RequestPrompt, Role as SpokenBy},
    seal::Words,
};

use crate::{conversation::Conversation, node::Node, pieces};

/// Who asks, as the engine tells clients and conversations apart.
#[derive(Debug)]
pub(crate) struct Asker<'a> {
    /// What the node keeps of what was said.
    pub(crate) conversation: &'a Conversation,
    /// For fair queueing.
    pub(crate) client: u64,
    /// Who may share what is computed; `None` is this conversation alone, where nobody vouches for who asks.
    pub(crate) scope: Option<u64>,
}

/// How a bare prompt is taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum BarePrompt {
    /// As the next turn of the conversation that the node keeps.
    Turn,
    /// As a text that goes on.
    Text,
}

/// What the engine is asked.
pub(crate) enum Work {
    Answer(Box<Request>),
    Embed(EmbeddingRequest, EmbeddingEncoding),
}

/// The engine's work, and the words to remember where the node keeps the conversation.
pub(crate) fn prepare(
    node: &Node,
    asker: &Asker<'_>,
    bare: BarePrompt,
    request: PromptRequest,
) -> (Work, Option<Words>) {
    let system = node.config.default_system_prompt.as_deref();
    let PromptRequest { prompt, model, max_tokens, sampling, stop, logprobs, format, tools, extra } = request;
    let Asker { conversation, client, scope } = *asker;
    let (prompt, overflow, asked, author) = match (prompt, bare) {
        (RequestPrompt::Turn(words), BarePrompt::Turn) => {
            let messages = Prompt::Chat(conversation.with(system, &words));
            (messages, Overflow::DropOldest, Some(words), Author::Operator)
        }
        (RequestPrompt::Turn(words), BarePrompt::Text) => {
            (Prompt::Raw(Text::from(words.as_str())), Overflow::Refuse, None, Author::Client)
        }
        (RequestPrompt::Messages(messages), _) => {
            let author = if has_system(&messages) { Author::Client } else { Author::Operator };
            (Prompt::Chat(pieces::messages(system, messages)), Overflow::Refuse, None, author)
        }
        (RequestPrompt::Embeddings(texts, encoding), _) => {
            let inputs = texts.iter().map(|words| Text::from(words.as_str())).collect();
            return (Work::Embed(EmbeddingRequest { model, inputs, client }, encoding), None);
        }
    };
    let session = conversation.session(&node.engine, || node.next_session());
    let scope = scope.unwrap_or_else(|| node.client_number(("session", session)));
    let most = node.config.max_tokens_per_request;
    let max_tokens = match (max_tokens, most) {
        (Some(asked), Some(most)) => Some(asked.min(most)),
        (asked, most) => asked.or(most),
    };
    let request = Request {
        model,
        prompt,
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
