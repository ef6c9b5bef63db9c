//! What a server is asked: a request of this crate as OpenAI's API has it.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value, value::RawValue};
use zeroize::Zeroizing;

use crate::{
    EmbeddingRequest, Format, Message, Prompt, Request, Role, Text, ToolCall, ToolChoice, fields::PLACEMENT,
};

/// Where a request goes, and what goes there.
#[derive(Debug)]
pub(super) struct Body {
    pub(super) path: &'static str,
    pub(super) json: Zeroizing<Vec<u8>>,
}

#[derive(Serialize)]
struct Chat<'a> {
    model: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    messages: Option<Vec<Turn<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt: Option<&'a str>,
    stream: bool,
    stream_options: StreamOptions,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<u32>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    stop: &'a [String],
    #[serde(flatten)]
    sampling: Sampling,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_logprobs: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_format: Option<ResponseFormat<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tools: Option<Vec<&'a RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_choice: Option<Choice<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parallel_tool_calls: Option<bool>,
    /// What only the server may know: the protocol's reader has taken out all that stands above.
    #[serde(flatten)]
    extra: Map<String, Value>,
}

#[derive(Serialize)]
struct StreamOptions {
    include_usage: bool,
}

#[derive(Serialize)]
struct Turn<'a> {
    role: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<Call<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_call_id: Option<&'a str>,
}

#[derive(Serialize)]
struct Call<'a> {
    id: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    function: Function<'a>,
}

#[derive(Serialize)]
struct Function<'a> {
    name: &'a str,
    arguments: &'a str,
}

#[derive(Serialize)]
struct Sampling {
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_k: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    min_p: Option<f32>,
    /// llama-server's word, and vLLM's.
    #[serde(skip_serializing_if = "Option::is_none")]
    repeat_penalty: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    repetition_penalty: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    frequency_penalty: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    presence_penalty: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u32>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    logit_bias: BTreeMap<String, f32>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum ResponseFormat<'a> {
    JsonObject,
    JsonSchema { json_schema: NamedSchema<'a> },
}

#[derive(Serialize)]
struct NamedSchema<'a> {
    name: &'static str,
    strict: bool,
    schema: &'a RawValue,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Choice<'a> {
    Word(&'static str),
    Named {
        #[serde(rename = "type")]
        kind: &'static str,
        function: Name<'a>,
    },
}

#[derive(Serialize)]
struct Name<'a> {
    name: &'a str,
}

#[derive(Serialize)]
struct Input<'a> {
    model: Option<&'a str>,
    input: Vec<&'a str>,
    encoding_format: &'static str,
}

impl<'a> Call<'a> {
    fn of(call: &'a ToolCall) -> Self {
        let function = Function { name: &call.name, arguments: call.arguments.as_str() };
        Self { id: &call.id, kind: "function", function }
    }
}

impl Body {
    /// A request for `max_tokens` at most, without the first `dropped` messages after a leading system message.
    /// `None` where a schema or a definition is not JSON.
    pub(super) fn of(request: &Request, dropped: usize, max_tokens: Option<u32>) -> Option<Self> {
        let (path, messages, prompt) = match &request.prompt {
            Prompt::Chat(messages) => ("chat/completions", Some(turns(messages, dropped)), None),
            Prompt::Raw(text) => ("completions", None, Some(text.as_str())),
        };
        let response_format = match &request.format {
            Format::Text => None,
            Format::JsonObject => Some(ResponseFormat::JsonObject),
            Format::JsonSchema(schema) => Some(ResponseFormat::JsonSchema {
                json_schema: NamedSchema { name: "answer", strict: true, schema: raw(schema)? },
            }),
        };
        let tools = match &request.tools {
            None => None,
            Some(tools) => {
                Some(tools.definitions.iter().map(|one| raw(&one.json)).collect::<Option<Vec<_>>>()?)
            }
        };
        let mut extra: Map<String, Value> = match &request.extra {
            None => Map::new(),
            Some(fields) => serde_json::from_str(fields.as_str()).ok()?,
        };
        extra.retain(|name, _| !PLACEMENT.contains(&name.as_str()));
        let chat = Chat {
            model: request.model.as_deref(),
            messages,
            prompt,
            stream: true,
            stream_options: StreamOptions { include_usage: true },
            max_tokens,
            stop: &request.stop,
            sampling: sampling(&request.sampling),
            logprobs: request.logprobs.map(|_| true),
            top_logprobs: request.logprobs.filter(|top| *top > 0),
            response_format,
            tools,
            tool_choice: request.tools.as_ref().map(|tools| choice(&tools.choice)),
            parallel_tool_calls: request.tools.as_ref().filter(|tools| !tools.parallel).map(|_| false),
            extra,
        };
        Some(Self { path, json: encode(&chat, length(request))? })
    }

    /// Texts to embed.
    pub(super) fn of_texts(request: &EmbeddingRequest) -> Option<Self> {
        let input: Vec<&str> = request.inputs.iter().map(Text::as_str).collect();
        let length = input.iter().map(|text| text.len()).sum();
        let input = Input { model: request.model.as_deref(), input, encoding_format: "float" };
        Some(Self { path: "embeddings", json: encode(&input, length)? })
    }
}

/// Messages that may be left out of a request: all but a leading system message and the last.
pub(super) fn droppable(request: &Request) -> usize {
    match &request.prompt {
        Prompt::Chat(messages) => messages.len().saturating_sub(first(messages)).saturating_sub(1),
        Prompt::Raw(_) => 0,
    }
}

fn first(messages: &[Message]) -> usize {
    usize::from(messages.first().is_some_and(|message| message.role == Role::System))
}

fn turns(messages: &[Message], dropped: usize) -> Vec<Turn<'_>> {
    let first = first(messages);
    let kept = |(number, _): &(usize, &Message)| *number < first || *number >= first.saturating_add(dropped);
    messages.iter().enumerate().filter(kept).map(|(_, message)| turn(message)).collect()
}

fn turn(message: &Message) -> Turn<'_> {
    let silent = message.content.as_str().is_empty() && !message.tool_calls.is_empty();
    Turn {
        role: message.role.as_str(),
        content: (!silent).then(|| message.content.as_str()),
        tool_calls: message.tool_calls.iter().map(Call::of).collect(),
        tool_call_id: message.tool_call_id.as_deref(),
    }
}

fn sampling(asked: &crate::Sampling) -> Sampling {
    Sampling {
        temperature: asked.temperature,
        top_p: asked.top_p,
        top_k: asked.top_k,
        min_p: asked.min_p,
        repeat_penalty: asked.repeat_penalty,
        repetition_penalty: asked.repeat_penalty,
        frequency_penalty: asked.frequency_penalty,
        presence_penalty: asked.presence_penalty,
        seed: asked.seed,
        logit_bias: asked.logit_bias.iter().map(|(token, bias)| (token.to_string(), *bias)).collect(),
    }
}

fn choice(choice: &ToolChoice) -> Choice<'_> {
    match choice {
        ToolChoice::Auto => Choice::Word("auto"),
        ToolChoice::Required => Choice::Word("required"),
        ToolChoice::Named(name) => Choice::Named { kind: "function", function: Name { name } },
    }
}

fn raw(json: &Text) -> Option<&RawValue> {
    serde_json::from_str(json.as_str()).ok()
}

/// Bytes of what was said.
pub(super) fn length(request: &Request) -> usize {
    match &request.prompt {
        Prompt::Raw(text) => text.as_str().len(),
        Prompt::Chat(messages) => messages.iter().map(|message| message.content.as_str().len()).sum(),
    }
}

/// With room for what escapes add, so that it need not grow, which would leave a copy behind.
fn encode(value: &impl Serialize, length: usize) -> Option<Zeroizing<Vec<u8>>> {
    let mut json = Zeroizing::new(Vec::with_capacity(length.saturating_mul(2).saturating_add(8192)));
    serde_json::to_writer(&mut *json, value).ok()?;
    Some(json)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{ToolDefinition, Tools};

    fn sent(request: &Request, dropped: usize) -> Value {
        serde_json::from_slice(&Body::of(request, dropped, request.max_tokens).unwrap().json).unwrap()
    }

    #[test]
    fn a_plain_request_says_no_more_than_it_was_asked() {
        let mut request = Request::new(Prompt::Chat(vec![Message::new(Role::User, "hello")]));
        request.model = Some("m".into());
        let expected = json!({
            "model": "m", "messages": [{"role": "user", "content": "hello"}],
            "stream": true, "stream_options": {"include_usage": true},
        });
        assert_eq!(sent(&request, 0), expected);
    }

    #[test]
    fn every_field_is_passed_on() {
        let mut request = Request::new(Prompt::Chat(vec![Message::new(Role::User, "hello")]));
        request.sampling = crate::Sampling {
            temperature: Some(0.5),
            seed: Some(7),
            repeat_penalty: Some(1.5),
            logit_bias: vec![(9, -1.0)],
            ..crate::Sampling::default()
        };
        request.max_tokens = Some(3);
        request.stop = vec!["END".into()];
        request.logprobs = Some(2);
        request.format = Format::JsonSchema("{\"type\":\"object\"}".into());
        request.extra = Some("{\"chat_template_kwargs\":{\"thinking\":true}}".into());
        let json = "{\"type\":\"function\",\"function\":{\"name\":\"f\"}}";
        request.tools = Some(Tools {
            definitions: vec![ToolDefinition { name: "f".into(), json: json.into(), parameters: None }],
            choice: ToolChoice::Named("f".into()),
            parallel: false,
        });
        let sent = sent(&request, 0);
        for (field, expected) in [
            ("temperature", json!(0.5)),
            ("seed", json!(7)),
            ("repetition_penalty", json!(1.5)),
            ("logit_bias", json!({"9": -1.0})),
            ("max_tokens", json!(3)),
            ("stop", json!(["END"])),
            ("logprobs", json!(true)),
            ("top_logprobs", json!(2)),
            ("chat_template_kwargs", json!({"thinking": true})),
            ("tool_choice", json!({"type": "function", "function": {"name": "f"}})),
            ("parallel_tool_calls", json!(false)),
        ] {
            assert_eq!(sent[field], expected, "{field}");
        }
        assert_eq!(sent["response_format"]["json_schema"]["schema"]["type"], "object");
        assert_eq!(sent["tools"][0]["function"]["name"], "f");
    }

    #[test]
    fn where_it_is_computed_is_not_the_clients_to_say() {
        let mut request = Request::new(Prompt::Chat(vec![Message::new(Role::User, "hello")]));
        request.max_tokens = Some(1);
        request.extra = Some("{\"id_slot\":0,\"priority\":-1,\"thinking\":true}".into());
        let sent = sent(&request, 0);
        assert_eq!((&sent["max_tokens"], &sent["thinking"]), (&json!(1), &json!(true)));
        assert!(sent.get("id_slot").is_none() && sent.get("priority").is_none());
    }

    #[test]
    fn the_oldest_turns_are_left_out_and_the_system_message_stays() {
        let message = |role, words: &str| Message::new(role, words);
        let request = Request::new(Prompt::Chat(vec![
            message(Role::System, "s"),
            message(Role::User, "1"),
            message(Role::Assistant, "2"),
            message(Role::User, "3"),
        ]));
        assert_eq!(droppable(&request), 2);
        let left = sent(&request, 2);
        let words: Vec<&str> =
            left["messages"].as_array().unwrap().iter().filter_map(|m| m["content"].as_str()).collect();
        assert_eq!(words, ["s", "3"]);
    }
}
