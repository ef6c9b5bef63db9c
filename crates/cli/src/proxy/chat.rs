//! OpenAI's chat completions, completions and embeddings, of what the node answers.

use std::{collections::BTreeMap, convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Json,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    response::{
        IntoResponse as _, Response, Sse,
        sse::{Event as SseEvent, KeepAlive},
    },
};
use fabstir_client::{Answer, End, Error, Event, Op, Session};
use futures_util::stream;
use serde::Deserialize;
use serde_json::{Map, Value, json, value::RawValue};
use tokio::time::timeout;

use super::{
    fault::Fault,
    nodes::{self, Nodes},
};

/// How long the node may be silent before a stream says that it is still there.
pub(super) const QUIET: Duration = Duration::from_secs(1);

/// What the proxy itself has to know of a request; the rest is the node's to read, and to refuse by name.
#[derive(Deserialize)]
struct Asked {
    model: Option<String>,
    #[serde(default)]
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    messages: Option<serde::de::IgnoredAny>,
    prompt: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: Option<bool>,
}

fn read(body: &[u8]) -> Result<(&str, Asked), Fault> {
    let json = std::str::from_utf8(body).map_err(|_| Fault::invalid("the body is not UTF-8"))?;
    let asked = serde_json::from_str(json).map_err(|error| Fault::invalid(format!("the body: {error}")))?;
    Ok((json, asked))
}

pub(super) async fn chat(
    State(all): State<Arc<Nodes>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Fault> {
    let body = body?;
    let (json, asked) = read(&body)?;
    if asked.messages.is_none() {
        return Err(Fault::invalid("messages is missing"));
    }
    // With it the node would keep the conversation, one for all the programs that share this session.
    if asked.prompt.is_some() {
        return Err(Fault::invalid("prompt is of another API: send messages"));
    }
    answered(&all, Kind::Chat, json, asked).await
}

pub(super) async fn completions(
    State(all): State<Arc<Nodes>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Fault> {
    let body = body?;
    let (json, asked) = read(&body)?;
    answered(&all, Kind::Text, json, asked).await
}

async fn answered(all: &Nodes, kind: Kind, json: &str, asked: Asked) -> Result<Response, Fault> {
    let op = match kind {
        Kind::Chat => Op::Chat,
        Kind::Text => Op::Completions,
    };
    let nodes::Asked { session, answer, .. } = all.ask(op, json).await?;
    let head = Head::of(kind, &asked, &session);
    if asked.stream != Some(true) {
        let whole = Whole::of(answer).await?;
        return Ok(Json(whole.completion(&head)).into_response());
    }
    let usage = asked.stream_options.and_then(|options| options.include_usage) == Some(true);
    stream(answer, head, usage).await
}

pub(super) async fn embeddings(
    State(all): State<Arc<Nodes>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Fault> {
    let body = body?;
    let (json, asked) = read(&body)?;
    let nodes::Asked { session, mut answer, .. } = all.ask(Op::Embeddings, json).await?;
    let model = asked.model.unwrap_or_else(|| usual_model(&session));
    let mut data: Vec<Box<RawValue>> = Vec::new();
    loop {
        match answer.next().await?.ok_or(Error::Truncated)? {
            Event::Object(one) => {
                data.push(serde_json::from_str(one.as_str()).map_err(|_| Error::Protocol)?);
            }
            Event::Text(_) => return Err(Error::Protocol.into()),
            Event::End(end) => {
                let usage = end.usage.map(
                    |usage| json!({"prompt_tokens": usage.prompt_tokens, "total_tokens": usage.total_tokens}),
                );
                let list = json!({"object": "list", "data": data, "model": model, "usage": usage});
                return Ok(Json(list).into_response());
            }
        }
    }
}

/// Whose shapes an answer has.
#[derive(Clone, Copy)]
enum Kind {
    /// A conversation's.
    Chat,
    /// A text's that goes on.
    Text,
}

/// A name for an answer, and no secret: without random numbers zeros serve as well.
pub(super) fn random_id() -> String {
    let mut random = [0; 12];
    let _ = getrandom::fill(&mut random);
    const_hex::encode(random)
}

pub(super) fn usual_model(session: &Session) -> String {
    session.models().first().map(|model| model.id.clone()).unwrap_or_default()
}

/// What every object of an answer repeats.
struct Head {
    kind: Kind,
    id: String,
    created: u64,
    model: String,
}

impl Head {
    fn of(kind: Kind, asked: &Asked, session: &Session) -> Self {
        let prefix = match kind {
            Kind::Chat => "chatcmpl",
            Kind::Text => "cmpl",
        };
        Self {
            kind,
            id: format!("{prefix}-{}", random_id()),
            created: crate::delegate::unix_now(),
            model: asked.model.clone().unwrap_or_else(|| usual_model(session)),
        }
    }

    fn chunk(&self, choices: &Value) -> Value {
        let object = match self.kind {
            Kind::Chat => "chat.completion.chunk",
            Kind::Text => "text_completion",
        };
        self.object(object, choices)
    }

    fn object(&self, object: &str, choices: &Value) -> Value {
        json!({"id": self.id, "object": object, "created": self.created, "model": self.model, "choices": choices})
    }

    /// The next words of a stream, or its end.
    fn words(&self, words: Option<&str>, finish_reason: Option<&str>) -> Value {
        let choice = match self.kind {
            Kind::Chat => {
                let delta = words.map_or(json!({}), |words| json!({"content": words}));
                json!({"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish_reason})
            }
            Kind::Text => {
                json!({"index": 0, "text": words.unwrap_or_default(), "logprobs": null, "finish_reason": finish_reason})
            }
        };
        self.chunk(&json!([choice]))
    }
}

/// An answer whose words are all there.
#[derive(Default)]
struct Whole {
    content: String,
    reasoning: String,
    calls: BTreeMap<u64, Value>,
    logprobs: Vec<Value>,
    end: Option<End>,
}

impl Whole {
    async fn of(mut answer: Answer) -> Result<Self, Error> {
        let mut whole = Self::default();
        while let Some(event) = answer.next().await? {
            match event {
                Event::Text(words) => whole.content.push_str(words.as_str()),
                Event::Object(choice) => whole.add(choice.as_str()).ok_or(Error::Protocol)?,
                Event::End(end) => whole.end = Some(end),
            }
        }
        Ok(whole)
    }

    /// Takes a piece that is more than words: `choices[0]` of a chunk.
    fn add(&mut self, choice: &str) -> Option<()> {
        let mut choice: Value = serde_json::from_str(choice).ok()?;
        let delta = choice.get_mut("delta")?.as_object_mut()?;
        let words = |delta: &Map<String, Value>, name| {
            delta.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        self.content.push_str(&words(delta, "content"));
        self.reasoning.push_str(&words(delta, "reasoning_content"));
        if let Some(Value::Array(calls)) = delta.remove("tool_calls") {
            for mut call in calls {
                let index = call.as_object_mut()?.remove("index")?.as_u64()?;
                // The node tells each call whole.
                self.calls.insert(index, call);
            }
        }
        if let Some(Value::Array(tokens)) = choice.pointer_mut("/logprobs/content").map(Value::take) {
            self.logprobs.extend(tokens);
        }
        Some(())
    }

    fn completion(self, head: &Head) -> Value {
        let finish_reason = self.end.as_ref().map(|end| end.finish_reason.clone());
        let usage = json!(self.end.as_ref().and_then(|end| end.usage.as_ref()));
        let (object, mut choice) = match head.kind {
            Kind::Chat => ("chat.completion", self.message()),
            Kind::Text => ("text_completion", json!({"index": 0, "text": self.content, "logprobs": null})),
        };
        if let Some(choice) = choice.as_object_mut() {
            choice.insert("finish_reason".into(), json!(finish_reason));
        }
        let mut whole = head.object(object, &json!([choice]));
        if let Some(whole) = whole.as_object_mut() {
            whole.insert("usage".into(), usage);
        }
        whole
    }

    fn message(self) -> Value {
        let mut message = Map::new();
        message.insert("role".into(), "assistant".into());
        let silent = self.content.is_empty() && !self.calls.is_empty();
        message.insert("content".into(), if silent { Value::Null } else { self.content.into() });
        message.insert("refusal".into(), Value::Null);
        if !self.reasoning.is_empty() {
            message.insert("reasoning_content".into(), self.reasoning.into());
        }
        if !self.calls.is_empty() {
            message.insert("tool_calls".into(), self.calls.into_values().collect());
        }
        let logprobs = if self.logprobs.is_empty() {
            Value::Null
        } else {
            json!({"content": self.logprobs, "refusal": null})
        };
        json!({"index": 0, "message": message, "logprobs": logprobs})
    }
}

/// A stream under way. Dropped with the program's connection, which cancels the answer at the node.
struct Streaming {
    answer: Answer,
    /// The first event, where it came before the stream began.
    first: Option<Event>,
    head: Head,
    usage: bool,
    at: At,
}

enum At {
    Role,
    Words,
    Usage(End),
    Done,
    Over,
}

async fn stream(mut answer: Answer, head: Head, usage: bool) -> Result<Response, Fault> {
    // What the node refuses at once has a status of its own; after that there is only the stream to say it in.
    let first = match timeout(QUIET, answer.next()).await {
        Ok(event) => event?,
        Err(_) => None,
    };
    let at = match head.kind {
        Kind::Chat => At::Role,
        Kind::Text => At::Words,
    };
    let streaming = Streaming { answer, first, head, usage, at };
    let events = stream::unfold(streaming, |mut streaming| async {
        let data = streaming.next().await?;
        Some((Ok::<_, Infallible>(SseEvent::default().data(data)), streaming))
    });
    let keep_alive = KeepAlive::new().interval(QUIET).text("the node is at work");
    Ok(Sse::new(events).keep_alive(keep_alive).into_response())
}

impl Streaming {
    /// The next event's data; `None` at the end.
    async fn next(&mut self) -> Option<String> {
        match std::mem::replace(&mut self.at, At::Over) {
            At::Role => {
                self.at = At::Words;
                let delta = json!({"role": "assistant", "content": ""});
                let choice = json!({"index": 0, "delta": delta, "logprobs": null, "finish_reason": null});
                Some(self.head.chunk(&json!([choice])).to_string())
            }
            At::Words => match self.event().await {
                Ok(Event::Text(words)) => {
                    self.at = At::Words;
                    Some(self.head.words(Some(words.as_str()), None).to_string())
                }
                Ok(Event::Object(choice)) => match serde_json::from_str::<Value>(choice.as_str()) {
                    Ok(choice) => {
                        self.at = At::Words;
                        Some(self.head.chunk(&json!([choice])).to_string())
                    }
                    Err(_) => Some(Fault::from(Error::Protocol).to_json().to_string()),
                },
                Ok(Event::End(end)) => {
                    let last = self.head.words(None, Some(&end.finish_reason)).to_string();
                    self.at = if self.usage { At::Usage(end) } else { At::Done };
                    Some(last)
                }
                // Without [DONE]: what came is not the whole answer.
                Err(error) => Some(Fault::from(error).to_json().to_string()),
            },
            At::Usage(end) => {
                self.at = At::Done;
                let mut chunk = self.head.chunk(&json!([]));
                if let Some(chunk) = chunk.as_object_mut() {
                    chunk.insert("usage".into(), json!(end.usage));
                }
                Some(chunk.to_string())
            }
            At::Done => Some("[DONE]".to_owned()),
            At::Over => None,
        }
    }

    async fn event(&mut self) -> Result<Event, Error> {
        match self.first.take() {
            Some(event) => Ok(event),
            None => self.answer.next().await?.ok_or(Error::Truncated),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_answer_is_put_together_of_its_pieces() {
        let mut whole = Whole::default();
        for piece in [
            json!({"index": 0, "delta": {"reasoning_content": "hm"}, "finish_reason": null}),
            json!({"index": 0, "delta": {"content": "Hi"}, "finish_reason": null,
                   "logprobs": {"content": [{"token": "Hi", "logprob": -0.5, "bytes": [72, 105]}]}}),
            json!({"index": 0, "delta": {"tool_calls": [{"index": 1, "id": "b", "type": "function",
                   "function": {"name": "g", "arguments": "{}"}}]}, "finish_reason": null}),
            json!({"index": 0, "delta": {"tool_calls": [{"index": 0, "id": "a", "type": "function",
                   "function": {"name": "f", "arguments": "{}"}}]}, "finish_reason": null}),
        ] {
            whole.add(&piece.to_string()).unwrap();
        }
        assert!(whole.add("[]").is_none() && whole.add("{").is_none());
        let head = Head { kind: Kind::Chat, id: "x".to_owned(), created: 7, model: "m".to_owned() };
        let choice = &whole.completion(&head)["choices"][0];
        assert_eq!(choice["message"]["content"], "Hi");
        assert_eq!(choice["message"]["reasoning_content"], "hm");
        let calls = choice["message"]["tool_calls"].as_array().unwrap();
        assert_eq!(calls.iter().map(|call| &call["id"]).collect::<Vec<_>>(), ["a", "b"]);
        assert!(calls[0].get("index").is_none());
        assert_eq!(choice["logprobs"]["content"][0]["token"], "Hi");
        // Calls alone have no words.
        let mut whole = Whole::default();
        whole.calls.insert(0, json!({}));
        assert_eq!(whole.completion(&head)["choices"][0]["message"]["content"], Value::Null);
    }
}
