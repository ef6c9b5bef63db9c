//! docs/asyncapi.json: the WebSocket of a node, in AsyncAPI 3.0.

use schemars::{JsonSchema, Schema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use super::{bound, generator, layout::binaries, node_frames, reference};
use crate::{
    choice::{Choice, Embedding},
    request,
    v1::{EncryptedMessage, EncryptedSessionInit, Ping, PlainPrompt, PlainSessionInit, StreamCancel},
    v2::{Ack, Cancel, End, Fault, Goodbye, Hello, ModelEntry, Resume, Welcome},
};

const ABOUT: &str = "What travels over `/v1/ws`. The rules are in docs/protocol.md, whose sections are named here. The schemas say \
    what a reader takes: they are those of the types that read and write, they say the same by JSON Schema 2020-12 and by \
    draft 7, and fields that they do not know are ignored, but in certificates. What a schema cannot say a reader still asks \
    for: keys that stand there once, integers in digits alone, two spellings that agree. Of a binary message `x-layout` names \
    the parts, and what they hold once they are opened.";

/// The document.
pub fn asyncapi() -> Value {
    let mut generator = generator(SchemaSettings::draft2020_12());
    let asked = client_frames(&mut generator);
    let told = node_frames(&mut generator);
    let mut schemas = bodies(&mut generator);
    let mut messages = Map::new();
    for (kind, schema) in asked.into_iter().chain(told) {
        messages.insert(kind.clone(), text_message(&kind, &schema));
        schemas.insert(kind, schema);
    }
    for (name, message) in binaries() {
        messages.insert(name.to_owned(), message);
    }
    schemas.values_mut().for_each(bound);
    schemas.extend(generator.take_definitions(true));
    schemas.sort_keys();
    let listed = messages
        .keys()
        .map(|name| (name.clone(), json!({ "$ref": format!("#/components/messages/{name}") })));
    let listed: Map<_, _> = listed.collect();
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "fabstir-llm-node: WebSocket",
            "version": env!("CARGO_PKG_VERSION"),
            "description": ABOUT,
            "license": { "name": "MIT OR Apache-2.0" },
        },
        "defaultContentType": "application/json",
        "servers": {
            "local": { "host": "127.0.0.1:8080", "protocol": "ws", "description": "A node as it listens by default." },
        },
        "channels": { "ws": {
            "address": "/v1/ws",
            "title": "Sessions",
            "description": "Text messages are frames of version 1, and the node's greeting; binary messages are version 2's. \
                permessage-deflate is not negotiated. A message over MAX_FRAME_BYTES closes with 1009, text that is not UTF-8 \
                with 1007, a violation of version 2 with 1008.",
            "messages": listed,
            "bindings": { "ws": { "method": "GET", "bindingVersion": "0.1.0" } },
        } },
        "operations": operations(),
        "components": { "messages": messages, "schemas": schemas },
    })
}

fn text_message(kind: &str, schema: &Value) -> Value {
    let description = schema.get("description").and_then(Value::as_str).unwrap_or_default();
    let mut message = json!({
        "name": kind,
        "title": kind,
        "summary": description,
        "contentType": "application/json",
        "payload": reference(kind),
    });
    if let (Some(example), Some(fields)) = (example(kind), message.as_object_mut()) {
        fields.insert("examples".to_owned(), json!([{ "payload": example }]));
    }
    message
}

/// The frames of version 1 that a client sends, each under its `type`.
pub fn client_frames(generator: &mut SchemaGenerator) -> Map<String, Value> {
    let all = [
        ("encrypted_session_init", EncryptedSessionInit::json_schema(generator)),
        ("encrypted_message", EncryptedMessage::json_schema(generator)),
        ("stream_cancel", StreamCancel::json_schema(generator)),
        ("ping", Ping::json_schema(generator)),
        ("session_init", PlainSessionInit::json_schema(generator)),
        ("prompt", PlainPrompt::json_schema(generator)),
    ];
    let typed = |(kind, schema): (&str, Schema)| {
        let kinds = if kind == "prompt" {
            json!({ "enum": ["prompt", "inference"] })
        } else {
            json!({ "const": kind })
        };
        let mut schema = schema.to_value();
        let fields = schema.get("properties").and_then(Value::as_object).into_iter().flatten();
        let fields = fields.map(|(name, form)| (name.clone(), form.clone()));
        let fields: Map<_, _> = std::iter::once(("type".to_owned(), kinds)).chain(fields).collect();
        let needed = schema.get("required").and_then(Value::as_array).cloned().unwrap_or_default();
        let needed: Vec<_> = std::iter::once(Value::from("type")).chain(needed).collect();
        if let Some(schema) = schema.as_object_mut() {
            schema.insert("properties".to_owned(), fields.into());
            schema.insert("required".to_owned(), needed.into());
        }
        (kind.to_owned(), schema)
    };
    all.into_iter().map(typed).collect()
}

/// What is sealed, each under the name of its type.
fn bodies(generator: &mut SchemaGenerator) -> Map<String, Value> {
    fn named<T: JsonSchema>(generator: &mut SchemaGenerator) -> (String, Value) {
        (T::schema_name().into_owned(), T::json_schema(generator).to_value())
    }
    let mut all: Map<_, _> = [
        named::<Hello>(generator),
        named::<Resume>(generator),
        named::<Welcome>(generator),
        named::<End>(generator),
        named::<Fault>(generator),
        named::<Cancel>(generator),
        named::<Ack>(generator),
        named::<Goodbye>(generator),
        named::<Choice<'_>>(generator),
        named::<Embedding<'_>>(generator),
    ]
    .into_iter()
    .collect();
    let mut models = <Vec<ModelEntry>>::json_schema(generator).to_value();
    if let Some(fields) = models.as_object_mut() {
        fields.insert("description".to_owned(), "What may be asked of.".into());
    }
    all.insert("Models".to_owned(), models);
    all.insert("RequestBody".to_owned(), request::schema::body(generator));
    all.insert("Request".to_owned(), request::schema::request());
    all
}

/// What is said, and what comes back. The node is the application: it receives what clients send.
fn operations() -> Value {
    let channel = || json!({ "$ref": "#/channels/ws" });
    let messages = |names: &[&str]| -> Value {
        names.iter().map(|name| json!({ "$ref": format!("#/channels/ws/messages/{name}") })).collect()
    };
    let sends = |title: &str, names: &[&str]| json!({ "action": "send", "title": title, "channel": channel(), "messages": messages(names) });
    let takes = |title: &str, names: &[&str], replies: &[&str]| {
        let mut operation =
            json!({ "action": "receive", "title": title, "channel": channel(), "messages": messages(names) });
        if let (false, Some(fields)) = (replies.is_empty(), operation.as_object_mut()) {
            fields.insert("reply".to_owned(), json!({ "channel": channel(), "messages": messages(replies) }));
        }
        operation
    };
    json!({
        "greet": sends("The node says what it is", &["connected"]),
        "shakeHands": takes("Version 2: a handshake begins", &["m1"], &["m2", "error"]),
        "openChannel": takes("Version 2: a handshake ends, and the welcome comes", &["m3"], &["record", "error"]),
        "resume": takes("Version 2: a session goes on", &["r1"], &["r2", "error"]),
        "ask": takes("Version 2: requests, cancels, acks, goodbyes", &["record"], &[]),
        "answer": sends("Version 2: answers", &["record"]),
        "openSession": takes("Version 1: a session opens", &["encrypted_session_init"], &["session_init_ack", "error"]),
        "askSealed": takes(
            "Version 1: a sealed request",
            &["encrypted_message"],
            &["encrypted_chunk", "encrypted_response", "stream_end", "error"],
        ),
        "openPlain": takes("Version 1: a session in the clear", &["session_init"], &["session_init_ack", "error"]),
        "askPlain": takes("Version 1: a request in the clear", &["prompt"], &["stream_chunk", "stream_end", "error"]),
        "cancel": takes("Version 1: answers end early", &["stream_cancel"], &["stream_end"]),
        "ping": takes("Anybody: is the line alive", &["ping"], &["pong"]),
    })
}

/// What a frame looks like.
fn example(kind: &str) -> Option<Value> {
    let payload =
        |aad: &str| json!({ "ciphertextHex": "00".repeat(21), "nonceHex": "00".repeat(24), "aadHex": aad });
    Some(match kind {
        "encrypted_message" => {
            json!({ "type": kind, "session_id": "42", "id": 1, "payload": payload("6d6573736167655f30") })
        }
        "stream_cancel" => json!({ "type": kind, "session_id": "42" }),
        "ping" | "pong" => json!({ "type": kind }),
        "session_init" => json!({ "type": kind, "session_id": "42" }),
        "prompt" => json!({ "type": kind, "session_id": "42", "prompt": "Hello" }),
        "session_init_ack" => json!({
            "type": kind, "status": "success", "session_id": "42", "job_id": "7", "chain_id": null,
            "client_address": "0x7e5f4552091a69125d5dfcb7b8c2659029395bdf", "message": "encrypted session opened",
        }),
        "encrypted_response" => {
            json!({ "type": kind, "session_id": "42", "id": 1, "payload": payload("66696e616c") })
        }
        "stream_chunk" => json!({ "type": kind, "session_id": "42", "content": "Hello", "tokens": 1 }),
        "stream_end" => json!({
            "type": kind, "session_id": "42", "id": 1, "reason": "complete", "finish_reason": "stop", "tokens_used": 8,
            "usage": { "prompt_tokens": 27, "completion_tokens": 8, "total_tokens": 35, "context_window_size": 2048 },
        }),
        "error" => json!({
            "type": kind, "code": "NODE_BUSY", "message": crate::Code::NodeBusy.meaning(), "session_id": "42", "id": 1,
        }),
        _ => return None,
    })
}
