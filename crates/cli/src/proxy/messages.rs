//! Anthropic's Messages API, of what the node answers: its requests become OpenAI's, and the pieces of an answer content
//! blocks.

mod asked;

use std::{collections::VecDeque, convert::Infallible, sync::Arc};

use axum::{
    Json,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    response::{
        IntoResponse, Response, Sse,
        sse::{Event as SseEvent, KeepAlive},
    },
};
use fabstir_client::{Answer, End, Error, Event, Op, Usage};
use futures_util::stream;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{
    chat::{QUIET, random_id},
    fault::Fault,
    nodes::{self, Nodes},
    piece::{Call, Delta},
};
use asked::Asked;

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

pub(super) async fn messages(
    State(all): State<Arc<Nodes>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refused> {
    let asked: Asked =
        serde_json::from_slice(&body?).map_err(|error| Fault::invalid(format!("the body: {error}")))?;
    let (model, streams) = (asked.model.clone(), asked.stream == Some(true));
    let nodes::Asked { mut answer, .. } = all.ask(Op::Chat, &asked.into_openai()?).await?;
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

/// The arguments of a call, an object; a function without parameters may be called with nothing.
fn input(arguments: &str) -> Result<Value, Error> {
    if arguments.trim().is_empty() {
        return Ok(json!({}));
    }
    let input = serde_json::from_str(arguments).ok().filter(Value::is_object);
    input.ok_or(Error::Protocol)
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
                let delta = Delta::read(piece.as_str())?;
                words.push_str(delta.content.as_deref().unwrap_or_default());
                thoughts.push_str(delta.reasoning_content.as_deref().unwrap_or_default());
                for Call { id, function } in delta.tool_calls {
                    let input = input(&function.arguments)?;
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
                let delta = Delta::read(piece.as_str())?;
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

    #[test]
    fn the_input_of_a_call_is_an_object() {
        assert_eq!(input("").unwrap(), json!({}));
        assert_eq!(input(r#"{"x":1}"#).unwrap(), json!({"x": 1}));
        assert!(input("\"x\"").is_err() && input("{\"x").is_err());
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
