//! JSON Schema of what travels as JSON, out of the types that read and write it. With the feature `schema` alone.

use std::borrow::Cow;

use schemars::{
    JsonSchema, Schema, SchemaGenerator, generate::SchemaSettings, json_schema,
    transform::transform_subschemas,
};
use serde_json::{Map, Value, json};

use crate::{
    Code,
    ethereum::Address,
    identity::{PublicKey, Signature},
    v1::NodeFrame,
    v2::Sid,
};

mod asyncapi;
mod layout;

pub use asyncapi::{asyncapi, client_frames};

/// The largest integer that JavaScript holds exactly: protocol.md, part 2.
const MOST: u64 = (1 << 53) - 1;

/// Makes schemas whose shared parts lie under `#/components/schemas`, of what the types read, or of what they write.
/// They say the same by draft 2020-12 and by draft 7.
pub fn generator(settings: SchemaSettings) -> SchemaGenerator {
    settings
        .with(|settings| settings.definitions_path = "/components/schemas".into())
        .with_transform(|schema: &mut Schema| bound_schema(schema))
        .into_generator()
}

/// What the generator does to shared parts alone, done to one that it gave by itself.
pub fn bound(value: &mut Value) {
    if let Ok(schema) = <&mut Schema>::try_from(value) {
        bound_schema(schema);
    }
}

/// Says how large an integer may be: schemars says so of the small ones alone.
fn bound_schema(schema: &mut Schema) {
    let most = match schema.get("format").and_then(Value::as_str) {
        Some("uint32") => Some(u64::from(u32::MAX)),
        Some("uint64" | "uint") => Some(MOST),
        _ => None,
    };
    if let (Some(most), None) = (most, schema.get("maximum")) {
        schema.insert("maximum".to_owned(), most.into());
    }
    transform_subschemas(&mut bound_schema, schema);
}

/// The frames of version 1 that a node sends, each under its `type`.
pub fn node_frames(generator: &mut SchemaGenerator) -> Map<String, Value> {
    let all = NodeFrame::json_schema(generator).to_value();
    let frames = all.get("oneOf").and_then(Value::as_array).cloned().unwrap_or_default();
    let named = |frame: Value| {
        let kind = frame.pointer("/properties/type/const").and_then(Value::as_str).map(str::to_owned);
        kind.map(|kind| (kind, frame))
    };
    frames.into_iter().filter_map(named).collect()
}

/// Of words of which others are read as the last one: which they are is told, and not asked for.
pub(crate) fn any_word(schema: &mut Schema) {
    let words = schema.remove("oneOf").or_else(|| schema.remove("enum"));
    let words = words.iter().flat_map(|words| words.as_array().into_iter().flatten());
    let words: Vec<_> = words.map(|word| word.get("const").unwrap_or(word).clone()).collect();
    schema.insert("type".to_owned(), "string".into());
    schema.insert("examples".to_owned(), words.into());
}

/// The codes, each with what it means.
pub(crate) fn meanings(schema: &mut Schema) {
    let explained = |code: &Code| json!({ "const": code.as_str(), "description": code.meaning() });
    schema.remove("enum");
    schema.insert("oneOf".to_owned(), Code::ALL.iter().map(explained).collect());
}

/// For a field where `null` is as good as nothing.
pub(crate) fn or_null(schema: &mut Schema) {
    if let Some(reference) = schema.remove("$ref") {
        schema.insert("anyOf".to_owned(), json!([{ "$ref": reference }, { "type": "null" }]));
    } else if let Some(Value::String(kind)) = schema.remove("type") {
        schema.insert("type".to_owned(), json!([kind, "null"]));
    }
}

/// A list of two of the same: said in the words that both drafts know.
pub(crate) fn pair(schema: &mut Schema) {
    let first = schema.remove("prefixItems").and_then(|items| items.get(0).cloned());
    schema.insert("items".to_owned(), first.unwrap_or(true.into()));
}

/// Text of a form.
fn text(description: &str, pattern: &str, example: &str) -> Schema {
    json_schema!({ "type": "string", "description": description, "pattern": pattern, "examples": [example] })
}

impl JsonSchema for Address {
    fn schema_name() -> Cow<'static, str> {
        "Address".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let example = "0x7e5f4552091a69125d5dfcb7b8c2659029395bdf";
        text("An address of 20 bytes, in lower case.", "^0x[0-9a-f]{40}$", example)
    }
}

impl JsonSchema for PublicKey {
    fn schema_name() -> Cow<'static, str> {
        "PublicKey".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let example = "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798";
        text("A public key on secp256k1: 33 bytes, compressed.", "^0[23][0-9a-f]{64}$", example)
    }
}

impl JsonSchema for Signature {
    fn schema_name() -> Cow<'static, str> {
        "Signature".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "r, s (low) and v (27 or 28): 65 bytes.",
            "pattern": "^[0-9a-f]{128}1[bc]$",
        })
    }
}

impl JsonSchema for Sid {
    fn schema_name() -> Cow<'static, str> {
        "SessionName".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let example = "93333679b0a302bcf104337c7884ccd7";
        text("The first 16 bytes of the hash of the session's first handshake.", "^[0-9a-f]{32}$", example)
    }
}

/// A reference to a shared part.
pub fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}
