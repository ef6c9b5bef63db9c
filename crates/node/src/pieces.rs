//! Between the protocol's words and the engine's: neither knows the other.

use fabstir_engine::{
    Format, Message, Output, Role, Sampling, Text, TokenLogprobs, ToolCall, ToolChoice, ToolDefinition, Tools,
};
use fabstir_protocol::{
    choice::{Call, Choice, Delta, TokenProbability},
    request::{
        CallField, RequestMessage, ResponseFormat, Role as SpokenBy, SamplingFields, ToolChoiceField,
        ToolFields,
    },
    seal::Words,
};
use zeroize::Zeroizing;

/// A stateless conversation, after the operator's words where it brings none of its own.
pub(crate) fn messages(system: Option<&str>, messages: Vec<RequestMessage>) -> Vec<Message> {
    let own = messages.iter().any(|message| message.role == SpokenBy::System);
    let default = system.filter(|_| !own).map(|words| Message::new(Role::System, words));
    default.into_iter().chain(messages.into_iter().map(message)).collect()
}

fn message(message: RequestMessage) -> Message {
    let role = match message.role {
        SpokenBy::System => Role::System,
        SpokenBy::User => Role::User,
        SpokenBy::Assistant => Role::Assistant,
        SpokenBy::Tool => Role::Tool,
    };
    let call = |CallField { id, name, arguments }| ToolCall { id, name, arguments: text(&arguments) };
    Message {
        role,
        content: text(&message.content),
        tool_calls: message.tool_calls.into_iter().map(call).collect(),
        tool_call_id: message.tool_call_id,
    }
}

/// How tokens are chosen.
pub(crate) fn sampling(fields: SamplingFields) -> Sampling {
    let SamplingFields {
        temperature,
        top_p,
        top_k,
        min_p,
        repeat_penalty,
        frequency_penalty,
        presence_penalty,
        seed,
        logit_bias,
    } = fields;
    Sampling {
        temperature,
        top_p,
        top_k,
        min_p,
        repeat_penalty,
        frequency_penalty,
        presence_penalty,
        seed,
        logit_bias,
    }
}

/// What the answer has to look like.
pub(crate) fn format(format: ResponseFormat) -> Format {
    match format {
        ResponseFormat::Text => Format::Text,
        ResponseFormat::JsonObject => Format::JsonObject,
        ResponseFormat::JsonSchema(schema) => Format::JsonSchema(text(&schema)),
    }
}

/// The functions that the model hears of.
pub(crate) fn tools(fields: ToolFields) -> Tools {
    let definitions = fields.functions.into_iter().map(|function| ToolDefinition {
        name: function.name,
        json: text(&function.json),
        parameters: function.parameters.as_ref().map(text),
    });
    let choice = match fields.choice {
        ToolChoiceField::Auto => ToolChoice::Auto,
        ToolChoiceField::Required => ToolChoice::Required,
        ToolChoiceField::Named(name) => ToolChoice::Named(name),
    };
    Tools { definitions: definitions.collect(), choice, parallel: fields.parallel }
}

/// A piece of an answer as an object; `calls` went out before it. `None` for what is no piece.
pub(crate) fn choice(output: &Output, calls: usize) -> Option<Zeroizing<String>> {
    let delta = match output {
        Output::Text { text, logprobs, .. } => {
            let choice = Choice::new(Delta { content: Some(text.as_str()), ..Delta::default() });
            let asked = !logprobs.is_empty();
            let choice =
                if asked { choice.with_logprobs(logprobs.iter().map(probability).collect()) } else { choice };
            return Some(choice.encode());
        }
        Output::Reasoning { text, .. } => {
            Delta { reasoning_content: Some(text.as_str()), ..Delta::default() }
        }
        Output::ToolCalls { calls: more, .. } => {
            let tool_calls = (calls..)
                .zip(more)
                .map(|(index, call)| Call::new(index, &call.id, &call.name, call.arguments.as_str()));
            Delta { tool_calls: tool_calls.collect(), ..Delta::default() }
        }
        Output::Started { .. } | Output::Finished { .. } | Output::Failed(_) => return None,
    };
    Some(Choice::new(delta).encode())
}

fn probability(token: &TokenLogprobs) -> TokenProbability<'_> {
    let top = token.top.iter().map(|(bytes, logprob)| TokenProbability::new(bytes, *logprob));
    TokenProbability::new(&token.bytes, token.logprob).with_top(top.collect())
}

fn text(words: &Words) -> Text {
    Text::from(words.as_str())
}
