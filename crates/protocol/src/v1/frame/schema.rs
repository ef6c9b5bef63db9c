//! What the readers of this file take, as types that only describe: the readers go field by field, because each fault has
//! its code. crates/protocol/tests/schema.rs holds the two together.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Number, Value, json};

use super::{StringOrNumber, WirePayload};
use crate::id::SessionId;

/// Bytes in hex: two digits each, upper or lower case, with or without `0x`.
const HEX: &str = "^(0x)?([0-9a-fA-F]{2})*$";
const POINT: &str = "^(0x)?(0[23][0-9a-fA-F]{64}|04[0-9a-fA-F]{128})$";
const NONCE: &str = "^(0x)?[0-9a-fA-F]{48}$";
const SIGNATURE: &str = "^(0x)?[0-9a-fA-F]{128}(0[01]|1[bBcC])$";
const INIT_AAD: &str = "^(0x)?(73657373696[fF]6[eE]5[fF]696[eE]6974)?$";
const SALT: &str = "^(0x)?0{64}$";

/// The session of a frame, in one of its spellings, and what its reply repeats.
#[derive(JsonSchema)]
#[schemars(transform = names_a_session)]
#[expect(dead_code, reason = "describes what is read elsewhere")]
struct Named {
    /// The session: the client chooses the name.
    session_id: Option<SessionId>,
    /// The same, spelt otherwise. Both with different values are MALFORMED_FRAME.
    #[schemars(rename = "sessionId")]
    session_id_camel: Option<SessionId>,
    /// Any JSON of up to 256 bytes, which every reply to the frame repeats.
    id: Option<Value>,
    /// The job, for the client's own use.
    job_id: Option<StringOrNumber>,
    /// The chain, for the client's own use.
    chain_id: Option<Number>,
}

fn names_a_session(schema: &mut Schema) {
    let spelt = |name: &str| json!({ "required": [name], "properties": { name: { "type": "string" } } });
    schema.insert("anyOf".to_owned(), json!([spelt("session_id"), spelt("sessionId")]));
}

/// Opens, or re-keys, an encrypted session. Section 1.2.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "describes what is read elsewhere")]
pub(crate) struct EncryptedSessionInit {
    #[schemars(flatten)]
    named: Named,
    /// What is sealed, and by whom.
    payload: InitPayload,
}

/// What is sealed, and by whom.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase")]
#[expect(dead_code, reason = "describes what is read elsewhere")]
struct InitPayload {
    /// The client's ephemeral public key in SEC 1's form: 33 bytes, or 65.
    #[schemars(regex(pattern = POINT))]
    eph_pub_hex: String,
    /// The session's data, sealed, and its tag.
    #[schemars(regex(pattern = HEX))]
    ciphertext_hex: String,
    /// r, s and v: 65 bytes.
    #[schemars(regex(pattern = SIGNATURE))]
    signature_hex: String,
    /// 24 bytes.
    #[schemars(regex(pattern = NONCE))]
    nonce_hex: String,
    /// Nothing, or the hex of `session_init`.
    #[schemars(regex(pattern = INIT_AAD))]
    aad_hex: String,
    /// 32 zero bytes.
    #[schemars(regex(pattern = SALT))]
    salt_hex: Option<String>,
    /// Empty.
    #[schemars(length(max = 0))]
    info: Option<String>,
}

/// A sealed request. Section 1.3.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "describes what is read elsewhere")]
pub(crate) struct EncryptedMessage {
    #[schemars(flatten)]
    named: Named,
    /// The request, sealed: a bare prompt, or a `RequestBody`.
    payload: SealedPayload,
}

/// A sealed payload.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase")]
#[expect(dead_code, reason = "describes what is read elsewhere")]
struct SealedPayload {
    /// What is sealed, and its tag.
    #[schemars(regex(pattern = HEX))]
    ciphertext_hex: String,
    /// 24 bytes.
    #[schemars(regex(pattern = NONCE))]
    nonce_hex: String,
    /// What it is sealed as: section 1.6. Compared, never used.
    #[schemars(regex(pattern = HEX))]
    aad_hex: String,
    /// Of a chunk: its place in the answer, from 0.
    index: Option<u64>,
}

impl JsonSchema for WirePayload {
    fn schema_name() -> Cow<'static, str> {
        SealedPayload::schema_name()
    }

    fn schema_id() -> Cow<'static, str> {
        SealedPayload::schema_id()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        SealedPayload::json_schema(generator)
    }
}

/// Ends the running and the queued answers of a session.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "describes what is read elsewhere")]
pub(crate) struct StreamCancel {
    #[schemars(flatten)]
    named: Named,
}

/// Opens a session in the clear, where the node serves those. Section 1.4.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "describes what is read elsewhere")]
pub(crate) struct PlainSessionInit {
    #[schemars(flatten)]
    named: Named,
}

/// A request in the clear. Section 1.4.
#[derive(JsonSchema)]
#[schemars(transform = asks_something)]
#[expect(dead_code, reason = "describes what is read elsewhere")]
pub(crate) struct PlainPrompt {
    #[schemars(flatten)]
    named: Named,
    /// The bare prompt.
    prompt: Option<Value>,
    /// A `RequestBody`, which counts where both are there.
    request: Option<Value>,
}

fn asks_something(schema: &mut Schema) {
    let object = json!({ "required": ["request"], "properties": { "request": { "type": "object" } } });
    let words = json!({
        "required": ["prompt"],
        "properties": { "prompt": { "type": "string" }, "request": { "type": "null" } },
    });
    schema.insert("allOf".to_owned(), json!([{ "anyOf": [object, words] }]));
}

/// Asks for a pong, whatever else it carries.
#[derive(JsonSchema)]
pub(crate) struct Ping {}

impl JsonSchema for SessionId {
    fn schema_name() -> Cow<'static, str> {
        "SessionId".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "The name that a client gave its session: 1 to 64 graphic ASCII characters.",
            "pattern": "^[!-~]{1,64}$",
            "examples": ["42"],
        })
    }
}
