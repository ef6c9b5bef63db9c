//! `GET /openapi.json`: this surface in OpenAPI 3.1, out of the types that answer. docs/openapi.json is the same.

use std::sync::LazyLock;

use fabstir_protocol::{
    Code,
    schema::{bound, client_frames, generator, node_frames, reference},
};
use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use super::says::CONTEXT;

mod paths;

const ABOUT: &str = "What a node says over HTTP. Nothing here asks a model: that goes sealed over the WebSocket, which \
    docs/asyncapi.json describes. A refusal is an `error` frame with the status of its code; a path that is not here is 404 \
    and a method that is not here 405 with `Allow`, both NOT_FOUND. `HEAD` is answered as `GET` without the body. Bodies are \
    read as JSON whatever `Content-Type` says. Fields may be added: ignore those that you do not know.";

/// The document, as it is served.
pub(super) fn text() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| format!("{:#}\n", document()));
    &TEXT
}

fn document() -> Value {
    let mut said = generator(SchemaSettings::draft2020_12().for_serialize());
    let mut asked = generator(SchemaSettings::draft2020_12());
    let frames = node_frames(&mut said);
    let mut schemas: Map<_, _> = frames
        .into_iter()
        .filter(|(kind, _)| ["error", "session_init_ack"].contains(&kind.as_str()))
        .chain(
            client_frames(&mut asked)
                .into_iter()
                .filter(|(kind, _)| ["encrypted_session_init", "session_init"].contains(&kind.as_str())),
        )
        .collect();
    schemas.values_mut().for_each(bound);
    let paths = paths::all(&mut said, &mut asked);
    schemas.extend(asked.take_definitions(true));
    schemas.extend(said.take_definitions(true));
    schemas.sort_keys();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "fabstir-llm-node: HTTP",
            "summary": "Serve a language model over end-to-end encrypted sessions",
            "version": env!("CARGO_PKG_VERSION"),
            "description": ABOUT,
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "servers": [{ "url": "/", "description": "The node that this document is from." }],
        "tags": [
            { "name": "node", "description": "What the node is and how it does." },
            { "name": "sessions", "description": "The way in." },
            { "name": "page", "description": "The chat page. Its script is held in by a Content-Security-Policy." },
        ],
        "security": [],
        "paths": paths,
        "components": { "schemas": schemas },
    })
}

/// One method of one path, put together.
struct Operation {
    fields: Map<String, Value>,
    responses: Map<String, Value>,
}

impl Operation {
    fn new(id: &str, tag: &str, summary: &str, description: &str) -> Self {
        let fields = json!({
            "operationId": id, "tags": [tag], "summary": summary, "description": description,
        });
        let fields = fields.as_object().cloned().unwrap_or_default();
        Self { fields, responses: Map::new() }
    }

    /// Whose body is JSON of a form.
    fn asks(mut self, schema: &Value, examples: &Value) -> Self {
        let content = json!({ "application/json": { "schema": schema, "examples": examples } });
        self.fields.insert("requestBody".to_owned(), json!({ "required": true, "content": content }));
        self
    }

    /// An answer in JSON that nobody may keep.
    fn says(self, status: u16, description: &str, schema: &Value, example: &Value) -> Self {
        let no_store = json!({ "Cache-Control": header("Always.", &json!({ "const": "no-store" })) });
        let content = json!({ "application/json": { "schema": schema, "example": example } });
        self.answers(status, json!({ "description": description, "headers": no_store, "content": content }))
    }

    fn answers(mut self, status: u16, response: Value) -> Self {
        self.responses.insert(status.to_string(), response);
        self
    }

    /// The codes that it may be refused with, each under its status. What `answers` said of a status stays beside it.
    fn refuses(mut self, codes: &[Code]) -> Self {
        let mut all: Vec<Code> = codes.to_vec();
        // There may be no room for the connection, whatever it asks, and a defect anywhere.
        all.extend([Code::NodeBusy, Code::InternalError]);
        for status in all.iter().map(|code| code.http_status()).collect::<std::collections::BTreeSet<_>>() {
            let codes: Vec<_> = all.iter().filter(|code| code.http_status() == status).collect();
            let response = refusal(&codes);
            let key = status.to_string();
            let response = match self.responses.remove(&key) {
                Some(said) => either(said, response),
                None => response,
            };
            self.responses.insert(key, response);
        }
        self.responses.sort_keys();
        self
    }

    fn done(mut self) -> Value {
        self.fields.insert("responses".to_owned(), self.responses.into());
        self.fields.into()
    }
}

fn header(description: &str, schema: &Value) -> Value {
    json!({ "description": description, "schema": schema })
}

/// The `error` frame with one of these codes.
fn refusal(codes: &[&Code]) -> Value {
    let words: Vec<_> = codes.iter().map(|code| code.as_str()).collect();
    let explained: Vec<_> =
        codes.iter().map(|code| format!("{}: {}.", code.as_str(), code.meaning())).collect();
    let examples = codes.iter().map(|code| {
        let frame = json!({ "type": "error", "code": code.as_str(), "message": code.meaning() });
        (code.as_str().to_owned(), json!({ "value": frame }))
    });
    let schema = json!({
        "allOf": [reference("error"), { "type": "object", "properties": { "code": { "enum": words } } }],
    });
    let seconds = json!({ "type": "integer", "minimum": 1 });
    json!({
        "description": explained.join(" "),
        "headers": { "Retry-After": header("When to try again, in seconds, where the node knows.", &seconds) },
        "content": { "application/json": { "schema": schema, "examples": examples.collect::<Map<_, _>>() } },
    })
}

/// Two responses in JSON under one status.
fn either(said: Value, refused: Value) -> Value {
    const SCHEMA: &str = "/content/application~1json/schema";
    const EXAMPLES: &str = "/content/application~1json/examples";
    let text =
        |response: &Value| response.get("description").and_then(Value::as_str).unwrap_or_default().to_owned();
    let (Some(one), Some(other)) = (said.pointer(SCHEMA), refused.pointer(SCHEMA)) else { return said };
    let mut both = refused.clone();
    let schema = json!({ "anyOf": [one, other] });
    let description = format!("{} Or {}", text(&said), text(&refused));
    if let Some(place) = both.pointer_mut(SCHEMA) {
        *place = schema;
    }
    if let (Some(example), Some(examples)) = (
        said.pointer("/content/application~1json/example"),
        both.pointer_mut(EXAMPLES).and_then(Value::as_object_mut),
    ) {
        examples.insert("said".to_owned(), json!({ "value": example }));
    }
    if let Some(fields) = both.as_object_mut() {
        fields.insert("description".to_owned(), description.into());
    }
    both
}

/// A type by reference.
fn named<T: JsonSchema>(generator: &mut SchemaGenerator) -> Value {
    generator.subschema_for::<T>().to_value()
}

/// What a challenge looks like.
fn challenge_example() -> Value {
    json!({ "challenge": "ab".repeat(32), "context": CONTEXT })
}
