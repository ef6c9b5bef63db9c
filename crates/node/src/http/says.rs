//! What is said and asked over HTTP, type by type; docs/openapi.json is made of them.

use fabstir_protocol::{ethereum::Address, identity::PublicKey};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The process serves HTTP.
#[derive(JsonSchema, Serialize)]
pub(super) struct Health {
    /// `ok`.
    #[schemars(extend("const" = "ok"))]
    pub(super) status: &'static str,
}

/// Whether requests can be answered now, and how busy the engine is.
#[derive(JsonSchema, Serialize)]
pub(super) struct Ready {
    /// `ready` with 200; why not, with 503.
    #[schemars(extend("enum" = ["ready", "draining", "engine not ready", "key not ready"]))]
    pub(super) status: &'static str,
    /// Requests that wait for the engine.
    pub(super) waiting: usize,
    /// Requests that are being answered.
    pub(super) running: usize,
    /// Requests that may be answered at once: 4294967295 is as many as come.
    pub(super) slots: u32,
}

/// What the node is.
#[derive(JsonSchema, Serialize)]
pub(super) struct Version<'a> {
    /// The program.
    pub(super) name: &'a str,
    /// Its version.
    pub(super) version: &'a str,
    /// The versions of the protocol that are served, the newest first.
    pub(super) protocols: &'a [u32],
    /// Who computes: `llama.cpp`, `upstream`, `echo`, or `none`.
    pub(super) engine: &'a str,
    /// Whether there is a key, and so encryption.
    pub(super) encryption: bool,
    /// Whether frames in the clear are served.
    pub(super) plaintext: bool,
    /// The node's identity key; absent where it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<PublicKey>")]
    pub(super) public_key: Option<String>,
    /// Its address; absent where it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Address>")]
    pub(super) address: Option<String>,
    /// Seconds since the start.
    pub(super) uptime_seconds: u64,
}

/// What the chat page is told of who serves it; fabstir-page writes it.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "describes what is written elsewhere")]
pub(super) struct Page {
    /// `node`.
    #[schemars(extend("const" = "node"))]
    served_by: String,
    /// The node's address, where it has one.
    node: Option<Address>,
}

/// The models that may be asked of, in OpenAI's form.
#[derive(JsonSchema, Serialize)]
pub(super) struct Models<'a> {
    /// `list`.
    #[schemars(extend("const" = "list"))]
    pub(super) object: &'a str,
    /// One by one; a request that names none gets the first.
    pub(super) data: Vec<Model<'a>>,
}

/// A model.
#[derive(JsonSchema, Serialize)]
pub(super) struct Model<'a> {
    /// Its name in requests.
    pub(super) id: &'a str,
    /// `model`.
    #[schemars(extend("const" = "model"))]
    pub(super) object: &'a str,
    /// When the node started, in unix seconds.
    pub(super) created: u64,
    /// `operator`.
    pub(super) owned_by: &'a str,
    /// Tokens of prompt and answer together.
    pub(super) context_window: u32,
    /// Who computes: `llama.cpp`, `upstream` or `echo`.
    pub(super) engine: &'a str,
    /// SHA-256 of the weights, hex; empty where the node has no file of them.
    #[schemars(regex(pattern = "^([0-9a-f]{64})?$"))]
    pub(super) sha256: &'a str,
    /// Whether it is in memory.
    pub(super) loaded: bool,
}

/// What a challenge is bound to.
pub(super) const CONTEXT: &str = "fabstir-node/1";

/// What is to be signed.
#[derive(Deserialize, JsonSchema)]
pub(super) struct Challenge {
    /// 32 fresh bytes, hex.
    #[schemars(required, regex(pattern = "^(0x)?[0-9a-fA-F]{64}$"))]
    pub(super) challenge: Option<String>,
    /// `fabstir-node/1`; without it the challenge is one of old clients, which are served with CHALLENGE=legacy alone.
    #[schemars(extend("enum" = [CONTEXT, null]))]
    pub(super) context: Option<String>,
}

/// That the node holds its key.
#[derive(JsonSchema, Serialize)]
pub(super) struct Proof {
    /// r and s, 32 bytes each, hex.
    #[schemars(regex(pattern = "^[0-9a-f]{128}$"))]
    pub(super) signature: String,
    /// The parity of R's y, by which the key is recovered.
    #[schemars(range(max = 1))]
    pub(super) recid: u8,
    /// The node's identity key.
    #[schemars(with = "PublicKey")]
    pub(super) public_key: String,
    /// Its address.
    #[schemars(with = "Address")]
    pub(super) address: String,
}
