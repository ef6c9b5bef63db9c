//! A request on a channel of version 2: what its `op` makes of its body.

use schemars::{JsonSchema as _, Schema, SchemaGenerator};
use serde_json::{Value, json};

use super::wire::WireRequest;
use crate::schema::reference;

/// The body alone, as a sealed message of version 1 holds it too.
pub(crate) fn body(generator: &mut SchemaGenerator) -> Value {
    let mut body = WireRequest::json_schema(generator).to_value();
    // The other name is an alias to the reader, and a field of its own to a schema.
    if let Some(prompt) = body.pointer("/properties/prompt").cloned()
        && let Some(fields) = body.get_mut("properties").and_then(Value::as_object_mut)
    {
        fields.insert("input".to_owned(), prompt);
    }
    body
}

/// `developer`, which is an alias to the reader.
pub(super) fn other_word(role: &mut Schema) {
    if let Some(words) = role.get_mut("oneOf").and_then(Value::as_array_mut) {
        words.push(json!({ "const": "developer", "description": "Instructions, by their newer name." }));
    }
}

/// `{"op", "body"}`.
pub(crate) fn request() -> Value {
    let has = |name: &str, form: Value| json!({ "required": [name], "properties": { name: form } });
    let asks = |form: Value| json!({ "anyOf": [has("prompt", form.clone()), has("input", form)] });
    let lacks = |name: &str| json!({ "properties": { name: { "type": "null" } } });
    let both = |one: Value, other: Value| json!({ "allOf": [one, other] });
    let whole = has("messages", json!({ "type": "array", "minItems": 1 }));
    let no_text = both(lacks("prompt"), lacks("input"));
    let text = || json!({ "type": "string" });
    let words = json!({ "type": "string", "minLength": 1 });
    let list = json!({ "type": "array", "items": words, "minItems": 1, "maxItems": 256 });
    let chat = json!({ "oneOf": [both(whole, no_text), both(asks(text()), lacks("messages"))] });
    let completions = both(asks(text()), lacks("messages"));
    let embeddings = asks(json!({ "anyOf": [words, list] }));
    let operation = |op: &str, title: &str, form: Value| {
        json!({
            "title": title,
            "type": "object",
            "required": ["op", "body"],
            "properties": { "op": { "const": op }, "body": both(reference("RequestBody"), form) },
        })
    };
    json!({
        "title": "Request",
        "description": "What is asked on a channel of version 2: section 2.5.2.",
        "oneOf": [
            operation("chat", "An answer in a conversation", chat),
            operation("completions", "A text that goes on", completions),
            operation("embeddings", "Vectors", embeddings),
            {
                "title": "The list of models",
                "type": "object",
                "required": ["op"],
                "properties": { "op": { "const": "models" } },
            },
        ],
        "examples": [{ "op": "chat", "body": { "messages": [{ "role": "user", "content": "Hello" }], "seed": 1 } }],
    })
}
