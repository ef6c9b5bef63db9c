//! The pieces of an answer as output items, and the events that tell of them.

use std::collections::VecDeque;

use fabstir_client::{End, Error, Event, Usage};
use serde_json::{Value, json};

use crate::proxy::{
    chat::random_id,
    fault::Fault,
    piece::{Call, Delta},
};

fn usage(usage: &Usage) -> Value {
    json!({"input_tokens": usage.prompt_tokens,
           "input_tokens_details": {"cached_tokens": usage.prompt_tokens_details.cached_tokens},
           "output_tokens": usage.completion_tokens, "output_tokens_details": {"reasoning_tokens": 0},
           "total_tokens": usage.total_tokens})
}

/// What kind of item is open.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Kind {
    Words,
    Thoughts,
}

impl Kind {
    fn id(self) -> String {
        match self {
            Self::Words => format!("msg_{}", random_id()),
            Self::Thoughts => format!("rs_{}", random_id()),
        }
    }

    /// The word that the events of its text begin with.
    fn event(self, step: &str) -> String {
        match self {
            Self::Words => format!("response.output_text.{step}"),
            Self::Thoughts => format!("response.reasoning_text.{step}"),
        }
    }

    fn part(self, text: &str) -> Value {
        match self {
            Self::Words => json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []}),
            Self::Thoughts => json!({"type": "reasoning_text", "text": text}),
        }
    }

    fn item(self, id: &str, status: &str, content: &[Value]) -> Value {
        match self {
            Self::Words => {
                json!({"type": "message", "id": id, "status": status, "role": "assistant", "content": content})
            }
            Self::Thoughts => {
                json!({"type": "reasoning", "id": id, "status": status, "summary": [], "content": content})
            }
        }
    }
}

/// An item whose text is still coming.
struct Open {
    kind: Kind,
    id: String,
    text: String,
}

/// The events of a stream, of the pieces of an answer, and the response as it stands.
pub(super) struct Items {
    pub(super) ready: VecDeque<Value>,
    pub(super) response: Value,
    output: Vec<Value>,
    open: Option<Open>,
    sequence: u64,
    pub(super) over: bool,
}

impl Items {
    pub(super) fn begun(model: &str, echoed: Value) -> Self {
        let mut response = echoed;
        let now = crate::delegate::unix_now();
        for (name, value) in [
            ("id", json!(format!("resp_{}", random_id()))),
            ("object", json!("response")),
            ("created_at", json!(now)),
            ("model", json!(model)),
        ] {
            set(&mut response, name, value);
        }
        let mut items = Self {
            ready: VecDeque::new(),
            response,
            output: Vec::new(),
            open: None,
            sequence: 0,
            over: false,
        };
        items.stands("created", "in_progress", None, Value::Null);
        items.stands("in_progress", "in_progress", None, Value::Null);
        items
    }

    pub(super) fn take(&mut self, event: &Event) -> Result<(), Error> {
        match event {
            Event::Text(words) => self.say(Kind::Words, words.as_str()),
            Event::Object(piece) => {
                let delta = Delta::read(piece.as_str())?;
                self.say(Kind::Thoughts, delta.reasoning_content.as_deref().unwrap_or_default());
                self.say(Kind::Words, delta.content.as_deref().unwrap_or_default());
                for call in delta.tool_calls {
                    self.call(call);
                }
            }
            Event::End(end) => self.end(end),
        }
        Ok(())
    }

    fn end(&mut self, end: &End) {
        let cut = end.finish_reason == "length";
        let status = if cut { "incomplete" } else { "completed" };
        if self.open.is_none() && self.output.is_empty() {
            self.start(Kind::Words);
        }
        self.close(status);
        if let Some(usage) = end.usage.as_ref().map(usage) {
            set(&mut self.response, "usage", usage);
        }
        let details = if cut { json!({"reason": "max_output_tokens"}) } else { Value::Null };
        self.stands(status, status, None, details);
        self.over = true;
    }

    /// Ends with `response.failed`: what came is not the whole answer.
    pub(super) fn fail(&mut self, error: Error) {
        // An item that is half there is none.
        self.open = None;
        let fault = Fault::from(error).to_json();
        let of = |name: &str| fault.get("error").and_then(|error| error.get(name)).cloned();
        let error = json!({"code": of("code"), "message": of("message")});
        self.stands("failed", "failed", Some(error), Value::Null);
        self.over = true;
    }

    fn say(&mut self, kind: Kind, words: &str) {
        if words.is_empty() {
            return;
        }
        if self.open.as_ref().is_none_or(|open| open.kind != kind) {
            self.close("completed");
            self.start(kind);
        }
        let at = self.output.len();
        let Some(open) = &mut self.open else { return };
        open.text.push_str(words);
        let mut delta = json!({"type": kind.event("delta"), "item_id": open.id, "output_index": at, "content_index": 0,
                               "delta": words});
        if kind == Kind::Words {
            set(&mut delta, "logprobs", json!([]));
        }
        self.tell(delta);
    }

    fn start(&mut self, kind: Kind) {
        let (at, id) = (self.output.len(), kind.id());
        let item = kind.item(&id, "in_progress", &[]);
        self.tell(json!({"type": "response.output_item.added", "output_index": at, "item": item}));
        self.tell(json!({"type": "response.content_part.added", "item_id": id, "output_index": at, "content_index": 0,
                         "part": kind.part("")}));
        self.open = Some(Open { kind, id, text: String::new() });
    }

    fn close(&mut self, status: &str) {
        let Some(Open { kind, id, text }) = self.open.take() else { return };
        let (at, part) = (self.output.len(), kind.part(&text));
        let mut done = json!({"type": kind.event("done"), "item_id": id, "output_index": at, "content_index": 0,
                              "text": text});
        if kind == Kind::Words {
            set(&mut done, "logprobs", json!([]));
        }
        self.tell(done);
        self.tell(json!({"type": "response.content_part.done", "item_id": id, "output_index": at, "content_index": 0,
                         "part": part}));
        self.finish(kind.item(&id, status, &[part]));
    }

    fn call(&mut self, Call { id: call_id, function }: Call) {
        self.close("completed");
        let (at, id) = (self.output.len(), format!("fc_{}", random_id()));
        let item = |status: &str, arguments: &str| {
            json!({"type": "function_call", "id": id, "call_id": call_id, "name": function.name,
                   "arguments": arguments, "status": status})
        };
        self.tell(json!({"type": "response.output_item.added", "output_index": at, "item": item("in_progress", "")}));
        self.tell(
            json!({"type": "response.function_call_arguments.delta", "item_id": id, "output_index": at,
                         "delta": function.arguments}),
        );
        self.tell(json!({"type": "response.function_call_arguments.done", "item_id": id, "output_index": at,
                         "name": function.name, "arguments": function.arguments}));
        self.finish(item("completed", &function.arguments));
    }

    fn finish(&mut self, item: Value) {
        let at = self.output.len();
        self.tell(json!({"type": "response.output_item.done", "output_index": at, "item": item}));
        self.output.push(item);
    }

    /// Says how the response as a whole stands.
    fn stands(&mut self, event: &str, status: &str, error: Option<Value>, incomplete: Value) {
        for (name, value) in [
            ("status", json!(status)),
            ("error", json!(error)),
            ("incomplete_details", incomplete),
            ("output", json!(self.output)),
        ] {
            set(&mut self.response, name, value);
        }
        if self.response.get("usage").is_none() {
            set(&mut self.response, "usage", Value::Null);
        }
        let response = self.response.clone();
        self.tell(json!({"type": format!("response.{event}"), "response": response}));
    }

    fn tell(&mut self, mut event: Value) {
        set(&mut event, "sequence_number", self.sequence.into());
        self.sequence = self.sequence.saturating_add(1);
        self.ready.push_back(event);
    }
}

fn set(object: &mut Value, name: &str, value: Value) {
    if let Some(object) = object.as_object_mut() {
        object.insert(name.to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use fabstir_protocol::seal::Words;

    use super::*;

    fn object(delta: &Value) -> Event {
        Event::Object(Words::from(json!({"delta": delta}).to_string()))
    }

    fn end(finish_reason: &str) -> Event {
        let usage = Usage { prompt_tokens: 3, completion_tokens: 2, total_tokens: 5, ..Usage::default() };
        Event::End(End {
            finish_reason: finish_reason.into(),
            code: None,
            usage: Some(usage),
            dropped_messages: 0,
        })
    }

    fn told(items: &Items) -> Vec<String> {
        let name = |event: &Value| {
            let kind = event["type"].as_str().unwrap().trim_start_matches("response.").to_owned();
            event.get("output_index").map_or(kind.clone(), |at| format!("{at} {kind}"))
        };
        items.ready.iter().map(name).collect()
    }

    #[test]
    fn pieces_become_items_in_their_order() {
        let mut items = Items::begun("m", json!({"store": false}));
        let call = json!([{"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]);
        for event in [
            object(&json!({"reasoning_content": "hm"})),
            Event::Text(Words::from("a")),
            Event::Text(Words::from("b")),
            object(&json!({"tool_calls": call})),
            end("tool_calls"),
        ] {
            items.take(&event).unwrap();
        }
        let expected = [
            "created",
            "in_progress",
            "0 output_item.added",
            "0 content_part.added",
            "0 reasoning_text.delta",
            "0 reasoning_text.done",
            "0 content_part.done",
            "0 output_item.done",
            "1 output_item.added",
            "1 content_part.added",
            "1 output_text.delta",
            "1 output_text.delta",
            "1 output_text.done",
            "1 content_part.done",
            "1 output_item.done",
            "2 output_item.added",
            "2 function_call_arguments.delta",
            "2 function_call_arguments.done",
            "2 output_item.done",
            "completed",
        ];
        assert_eq!(told(&items), expected);
        assert!((0_u64..).zip(&items.ready).all(|(at, event)| event["sequence_number"] == at));
        let response = &items.ready.back().unwrap()["response"];
        assert_eq!(response["output"][1]["content"][0]["text"], "ab");
        assert_eq!(response["output"][2]["call_id"], "c");
        assert_eq!((&response["usage"]["total_tokens"], &response["store"]), (&json!(5), &json!(false)));
        assert!(items.take(&Event::Object(Words::from("{"))).is_err());
    }

    #[test]
    fn an_answer_that_is_cut_off_is_never_said_to_be_complete() {
        let mut items = Items::begun("m", json!({}));
        items.take(&Event::Text(Words::from("a"))).unwrap();
        items.take(&end("length")).unwrap();
        assert_eq!(told(&items).last().unwrap(), "incomplete");
        assert_eq!(items.response["incomplete_details"]["reason"], "max_output_tokens");
        assert_eq!(items.response["output"][0]["status"], "incomplete");

        let mut items = Items::begun("m", json!({}));
        items.take(&Event::Text(Words::from("a"))).unwrap();
        items.fail(Error::Truncated);
        assert_eq!(told(&items).last().unwrap(), "failed");
        assert_eq!(items.response["error"]["code"], "truncated");
        assert_eq!(items.response["output"], json!([]));
        // Nothing said is a message without words.
        let mut items = Items::begun("m", json!({}));
        items.take(&end("stop")).unwrap();
        assert_eq!(items.response["output"][0]["content"][0]["text"], "");
    }
}
