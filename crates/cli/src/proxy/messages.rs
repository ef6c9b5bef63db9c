//! Anthropic's Messages API, of what the node answers: its requests become OpenAI's, and the pieces of an answer content
//! blocks.

use std::{collections::VecDeque, convert::Infallible, sync::Arc};

use axum::{
    Json,
    body::Bytes,
    extract::State,
    response::{
        IntoResponse, Response, Sse,
        sse::{Event as SseEvent, KeepAlive},
    },
};
use fabstir_client::{Answer, End, Error, Event, Op, Usage};
use futures_util::stream;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::time::timeout;

use super::{
    Node,
    chat::{QUIET, random_id},
    fault::Fault,
};

/// A fault in Anthropic's shape.
pub(super) struct Refused(pub(super) Fault);

impl<E: Into<Fault>> From<E> for Refused {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let json = self.0.to_anthropic_json();
        self.0.respond(json)
    }
}

/// The request. A field that is not here is refused by its name: it would change the answer.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    model: String,
    max_tokens: u32,
    messages: Vec<Message>,
    system: Option<Content>,
    #[serde(default)]
    stop_sequences: Vec<String>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    top_k: Option<u64>,
    #[serde(default)]
    stream: bool,
    #[serde(default)]
    tools: Vec<Tool>,
    tool_choice: Option<ToolChoice>,
    /// Who asks, for the servers of its inventor.
    #[serde(rename = "metadata")]
    _metadata: Option<serde::de::IgnoredAny>,
    #[serde(rename = "service_tier")]
    _service_tier: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct Message {
    role: Speaker,
    content: Content,
}

#[derive(Clone, Copy, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Speaker {
    User,
    Assistant,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Blocks(Vec<Block>),
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Block {
    Text {
        text: String,
    },
    ToolUse {
        id: String,
        name: String,
        input: Value,
    },
    ToolResult {
        tool_use_id: String,
        content: Option<Content>,
        #[serde(default)]
        is_error: bool,
    },
    /// What the model said to itself in an earlier turn: not said to it again.
    Thinking {},
}

#[derive(Deserialize)]
struct Tool {
    name: String,
    description: Option<String>,
    input_schema: Value,
}

#[derive(Deserialize)]
struct ToolChoice {
    #[serde(rename = "type")]
    kind: Choice,
    name: Option<String>,
    #[serde(default)]
    disable_parallel_tool_use: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Choice {
    Auto,
    Any,
    None,
    Tool,
}

impl Content {
    /// The words of blocks that may hold nothing else.
    fn into_words(self) -> Result<String, Fault> {
        let blocks = match self {
            Self::Text(text) => return Ok(text),
            Self::Blocks(blocks) => blocks,
        };
        let words = blocks.into_iter().map(|block| match block {
            Block::Text { text } => Ok(text),
            Block::ToolUse { .. } | Block::ToolResult { .. } | Block::Thinking {} => {
                Err(Fault::invalid("only text blocks may stand here"))
            }
        });
        words.collect()
    }
}

impl Message {
    /// One message of Anthropic's may be several of OpenAI's: results of tools stand alone there.
    fn into_openai(self, messages: &mut Vec<Value>) -> Result<(), Fault> {
        let role = match self.role {
            Speaker::User => "user",
            Speaker::Assistant => "assistant",
        };
        let blocks = match self.content {
            Content::Text(text) => {
                messages.push(json!({"role": role, "content": text}));
                return Ok(());
            }
            Content::Blocks(blocks) => blocks,
        };
        let (mut words, mut calls) = (String::new(), Vec::new());
        for block in blocks {
            match block {
                Block::Text { text } => words.push_str(&text),
                Block::ToolUse { id, name, input } if self.role == Speaker::Assistant => {
                    let function = json!({"name": name, "arguments": input.to_string()});
                    calls.push(json!({"id": id, "type": "function", "function": function}));
                }
                Block::ToolResult { tool_use_id, content, is_error } if self.role == Speaker::User => {
                    let result = content.map_or_else(|| Ok(String::new()), Content::into_words)?;
                    let result = if is_error { format!("error: {result}") } else { result };
                    messages.push(json!({"role": "tool", "tool_call_id": tool_use_id, "content": result}));
                }
                Block::ToolUse { .. } | Block::ToolResult { .. } => {
                    return Err(Fault::invalid("tool_use is the assistant's, tool_result the user's"));
                }
                Block::Thinking {} => {}
            }
        }
        if !words.is_empty() || !calls.is_empty() {
            let mut message = json!({"role": role, "content": words});
            if let Some(message) = message.as_object_mut().filter(|_| !calls.is_empty()) {
                message.insert("tool_calls".into(), calls.into());
            }
            messages.push(message);
        }
        Ok(())
    }
}

impl Asked {
    fn into_openai(self) -> Result<String, Fault> {
        let mut messages = Vec::new();
        if let Some(system) = self.system {
            messages.push(json!({"role": "system", "content": system.into_words()?}));
        }
        for message in self.messages {
            message.into_openai(&mut messages)?;
        }
        let mut body = Map::new();
        body.insert("model".into(), self.model.into());
        body.insert("messages".into(), messages.into());
        body.insert("max_tokens".into(), self.max_tokens.into());
        let numbers = [
            ("temperature", json!(self.temperature)),
            ("top_p", json!(self.top_p)),
            ("top_k", json!(self.top_k)),
        ];
        for (name, value) in numbers {
            if !value.is_null() {
                body.insert(name.into(), value);
            }
        }
        if !self.stop_sequences.is_empty() {
            body.insert("stop".into(), self.stop_sequences.into());
        }
        if !self.tools.is_empty() {
            let tools = self.tools.into_iter().map(Tool::into_openai);
            body.insert("tools".into(), tools.collect());
        }
        if let Some(choice) = self.tool_choice {
            if choice.disable_parallel_tool_use {
                body.insert("parallel_tool_calls".into(), false.into());
            }
            body.insert("tool_choice".into(), choice.into_openai()?);
        }
        Ok(Value::from(body).to_string())
    }
}

impl Tool {
    fn into_openai(self) -> Value {
        let mut function = json!({"name": self.name, "parameters": self.input_schema});
        if let (Some(function), Some(description)) = (function.as_object_mut(), self.description) {
            function.insert("description".into(), description.into());
        }
        json!({"type": "function", "function": function})
    }
}

impl ToolChoice {
    fn into_openai(self) -> Result<Value, Fault> {
        Ok(match self.kind {
            Choice::Auto => "auto".into(),
            Choice::Any => "required".into(),
            Choice::None => "none".into(),
            Choice::Tool => {
                let name = self.name.ok_or_else(|| Fault::invalid("tool_choice.name is missing"))?;
                json!({"type": "function", "function": {"name": name}})
            }
        })
    }
}

pub(super) async fn messages(State(node): State<Arc<Node>>, body: Bytes) -> Result<Response, Refused> {
    let asked: Asked =
        serde_json::from_slice(&body).map_err(|error| Fault::invalid(format!("the body: {error}")))?;
    let (model, streams) = (asked.model.clone(), asked.stream);
    let (_, mut answer) = node.ask(Op::Chat, &asked.into_openai()?).await?;
    let id = format!("msg_{}", random_id());
    if !streams {
        return Ok(Json(whole(answer, &id, &model).await?).into_response());
    }
    // As with OpenAI's: what the node refuses at once has a status of its own.
    let first = match timeout(QUIET, answer.next()).await {
        Ok(event) => event?,
        Err(_) => None,
    };
    let streaming = Streaming { answer, first, blocks: Blocks::begun(&id, &model) };
    let events = stream::unfold(streaming, |mut streaming| async {
        let event = streaming.next().await?;
        Some((Ok::<_, Infallible>(event), streaming))
    });
    let keep_alive = KeepAlive::new().interval(QUIET).text("the node is at work");
    Ok(Sse::new(events).keep_alive(keep_alive).into_response())
}

/// A piece that is more than words: what matters here of `choices[0]` of OpenAI's chunk.
#[derive(Deserialize)]
struct Piece {
    delta: Delta,
}

#[derive(Deserialize)]
struct Delta {
    content: Option<String>,
    reasoning_content: Option<String>,
    #[serde(default)]
    tool_calls: Vec<Call>,
}

#[derive(Deserialize)]
struct Call {
    id: String,
    function: Function,
}

#[derive(Deserialize)]
struct Function {
    name: String,
    arguments: String,
}

impl Piece {
    fn read(json: &str) -> Result<Delta, Error> {
        serde_json::from_str(json).map(|piece: Self| piece.delta).map_err(|_| Error::Protocol)
    }
}

fn stop_reason(end: &End) -> &str {
    match end.finish_reason.as_str() {
        "length" => "max_tokens",
        "tool_calls" => "tool_use",
        _ => "end_turn",
    }
}

fn usage(usage: Option<&Usage>) -> Value {
    let usage = usage.cloned().unwrap_or_default();
    let cached = usage.prompt_tokens_details.cached_tokens;
    json!({"input_tokens": usage.prompt_tokens.saturating_sub(cached), "cache_read_input_tokens": cached,
           "output_tokens": usage.completion_tokens})
}

fn message(id: &str, model: &str, content: &[Value], end: Option<&End>) -> Value {
    json!({"id": id, "type": "message", "role": "assistant", "model": model, "content": content,
           "stop_reason": end.map(stop_reason), "stop_sequence": null,
           "usage": usage(end.and_then(|end| end.usage.as_ref()))})
}

async fn whole(mut answer: Answer, id: &str, model: &str) -> Result<Value, Error> {
    let (mut words, mut thoughts, mut calls) = (String::new(), String::new(), Vec::new());
    loop {
        match answer.next().await?.ok_or(Error::Truncated)? {
            Event::Text(more) => words.push_str(more.as_str()),
            Event::Object(piece) => {
                let delta = Piece::read(piece.as_str())?;
                words.push_str(delta.content.as_deref().unwrap_or_default());
                thoughts.push_str(delta.reasoning_content.as_deref().unwrap_or_default());
                for Call { id, function } in delta.tool_calls {
                    let input: Value =
                        serde_json::from_str(&function.arguments).map_err(|_| Error::Protocol)?;
                    calls.push(json!({"type": "tool_use", "id": id, "name": function.name, "input": input}));
                }
            }
            Event::End(end) => {
                let mut content = Vec::new();
                if !thoughts.is_empty() {
                    content.push(json!({"type": "thinking", "thinking": thoughts, "signature": ""}));
                }
                if !words.is_empty() || calls.is_empty() {
                    content.push(json!({"type": "text", "text": words}));
                }
                content.append(&mut calls);
                return Ok(message(id, model, &content, Some(&end)));
            }
        }
    }
}

/// A stream under way. Dropped with the program's connection, which cancels the answer at the node.
struct Streaming {
    answer: Answer,
    /// The first event, where it came before the stream began.
    first: Option<Event>,
    blocks: Blocks,
}

impl Streaming {
    async fn next(&mut self) -> Option<SseEvent> {
        while self.blocks.ready.is_empty() && !self.blocks.over {
            let event = match self.first.take() {
                Some(event) => Ok(event),
                None => self.answer.next().await.and_then(|event| event.ok_or(Error::Truncated)),
            };
            if let Err(error) = event.and_then(|event| self.blocks.take(&event)) {
                self.blocks.fail(error);
            }
        }
        let event = self.blocks.ready.pop_front()?;
        let name = event.get("type").and_then(Value::as_str).unwrap_or_default();
        Some(SseEvent::default().event(name).data(event.to_string()))
    }
}

/// What kind of block is open.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Open {
    Text,
    Thinking,
}

/// The events of a stream, of the pieces of an answer.
struct Blocks {
    ready: VecDeque<Value>,
    open: Option<Open>,
    index: u32,
    over: bool,
}

impl Blocks {
    fn begun(id: &str, model: &str) -> Self {
        let start = json!({"type": "message_start", "message": message(id, model, &[], None)});
        Self { ready: VecDeque::from([start]), open: None, index: 0, over: false }
    }

    fn take(&mut self, event: &Event) -> Result<(), Error> {
        match event {
            Event::Text(words) => self.say(Open::Text, words.as_str()),
            Event::Object(piece) => {
                let delta = Piece::read(piece.as_str())?;
                self.say(Open::Thinking, delta.reasoning_content.as_deref().unwrap_or_default());
                self.say(Open::Text, delta.content.as_deref().unwrap_or_default());
                for Call { id, function } in delta.tool_calls {
                    self.close();
                    self.start(&json!({"type": "tool_use", "id": id, "name": function.name, "input": {}}));
                    self.delta(&json!({"type": "input_json_delta", "partial_json": function.arguments}));
                    self.stop();
                }
            }
            Event::End(end) => {
                self.close();
                let delta = json!({"stop_reason": stop_reason(end), "stop_sequence": null});
                let usage = usage(end.usage.as_ref());
                self.ready.push_back(json!({"type": "message_delta", "delta": delta, "usage": usage}));
                self.ready.push_back(json!({"type": "message_stop"}));
                self.over = true;
            }
        }
        Ok(())
    }

    /// Ends without `message_stop`: what came is not the whole answer.
    fn fail(&mut self, error: Error) {
        self.ready.push_back(Fault::from(error).to_anthropic_json());
        self.over = true;
    }

    fn say(&mut self, kind: Open, words: &str) {
        if words.is_empty() {
            return;
        }
        if self.open != Some(kind) {
            self.close();
            self.start(&match kind {
                Open::Text => json!({"type": "text", "text": ""}),
                Open::Thinking => json!({"type": "thinking", "thinking": "", "signature": ""}),
            });
            self.open = Some(kind);
        }
        self.delta(&match kind {
            Open::Text => json!({"type": "text_delta", "text": words}),
            Open::Thinking => json!({"type": "thinking_delta", "thinking": words}),
        });
    }

    fn close(&mut self) {
        if self.open.take().is_some() {
            self.stop();
        }
    }

    fn start(&mut self, block: &Value) {
        let index = self.index;
        self.ready.push_back(json!({"type": "content_block_start", "index": index, "content_block": block}));
    }

    fn delta(&mut self, delta: &Value) {
        let index = self.index;
        self.ready.push_back(json!({"type": "content_block_delta", "index": index, "delta": delta}));
    }

    fn stop(&mut self) {
        self.ready.push_back(json!({"type": "content_block_stop", "index": self.index}));
        self.index = self.index.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use fabstir_protocol::seal::Words;

    use super::*;

    fn openai(asked: Value) -> Result<Value, Fault> {
        let asked: Asked =
            serde_json::from_value(asked).map_err(|error| Fault::invalid(error.to_string()))?;
        Ok(serde_json::from_str(&asked.into_openai()?).unwrap())
    }

    #[test]
    fn a_request_becomes_openais() {
        let asked = json!({
            "model": "m", "max_tokens": 5, "system": [{"type": "text", "text": "Be brief."}], "stop_sequences": ["."],
            "temperature": 0.5, "top_k": 3, "metadata": {"user_id": "x"},
            "tools": [{"name": "f", "description": "d", "input_schema": {"type": "object"}}],
            "tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": true},
            "messages": [
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": [
                    {"type": "thinking", "thinking": "hm", "signature": ""},
                    {"type": "text", "text": "Wait."},
                    {"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1}}]},
                {"role": "user", "content": [
                    {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text", "text": "7"}], "is_error": true},
                    {"type": "text", "text": "And?"}]}]});
        let expected = json!({
            "model": "m", "max_tokens": 5, "stop": ["."], "temperature": 0.5, "top_k": 3,
            "tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}],
            "tool_choice": {"type": "function", "function": {"name": "f"}}, "parallel_tool_calls": false,
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Wait.", "tool_calls": [
                    {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{\"x\":1}"}}]},
                {"role": "tool", "tool_call_id": "a", "content": "error: 7"},
                {"role": "user", "content": "And?"}]});
        assert_eq!(openai(asked).unwrap(), expected);
    }

    #[test]
    fn what_would_change_the_answer_is_not_passed_over() {
        let base = json!({"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}]});
        assert!(openai(base.clone()).is_ok());
        for (field, value) in [
            ("thinking", json!({"type": "enabled"})),
            ("messages", json!([{"role": "user", "content": [{"type": "image", "source": {}}]}])),
            (
                "messages",
                json!([{"role": "user", "content": [{"type": "tool_use", "id": "", "name": "", "input": {}}]}]),
            ),
            ("messages", json!([{"role": "system", "content": "Hi"}])),
            ("tool_choice", json!({"type": "tool"})),
            ("max_tokens", Value::Null),
        ] {
            let mut asked = base.clone();
            asked[field] = value;
            assert!(openai(asked.clone()).is_err(), "{asked}");
        }
    }

    #[test]
    fn pieces_become_blocks_in_their_order() {
        let mut blocks = Blocks::begun("id", "m");
        let object = |delta: Value| Event::Object(Words::from(json!({"delta": delta}).to_string()));
        let call = json!([{"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]);
        for event in [
            object(json!({"reasoning_content": "hm"})),
            Event::Text(Words::from("a")),
            Event::Text(Words::from("b")),
            object(json!({"tool_calls": call})),
        ] {
            blocks.take(&event).unwrap();
        }
        let end = End { finish_reason: "tool_calls".into(), code: None, usage: None, dropped_messages: 0 };
        blocks.take(&Event::End(end)).unwrap();
        let told: Vec<String> = blocks
            .ready
            .iter()
            .map(|event| {
                let inner = event.pointer("/delta/type").or_else(|| event.pointer("/content_block/type"));
                let name = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                format!("{} {} {}", name(&event["type"]), event["index"], inner.map(name).unwrap_or_default())
            })
            .collect();
        assert_eq!(
            told,
            [
                "message_start null ",
                "content_block_start 0 thinking",
                "content_block_delta 0 thinking_delta",
                "content_block_stop 0 ",
                "content_block_start 1 text",
                "content_block_delta 1 text_delta",
                "content_block_delta 1 text_delta",
                "content_block_stop 1 ",
                "content_block_start 2 tool_use",
                "content_block_delta 2 input_json_delta",
                "content_block_stop 2 ",
                "message_delta null ",
                "message_stop null ",
            ]
        );
        assert_eq!(blocks.ready[11]["delta"]["stop_reason"], "tool_use");
        assert!(blocks.take(&Event::Object(Words::from("{"))).is_err());
    }
}
