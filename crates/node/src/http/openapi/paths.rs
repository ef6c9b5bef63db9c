//! The routes, one by one, as `http::router` has them.

use fabstir_protocol::{Code, schema::reference, v2::Advertisement};
use schemars::SchemaGenerator;
use serde_json::{Value, json};

use super::{Operation, challenge_example, header, named};
use crate::{
    crypto::SessionKeyMetrics,
    http::says::{Challenge, Health, Models, Page, Proof, Ready, Version},
};

const ADDRESS: &str = "0x7e5f4552091a69125d5dfcb7b8c2659029395bdf";
const PUBLIC_KEY: &str = "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798";

/// Every path with its methods.
pub(super) fn all(said: &mut SchemaGenerator, asked: &mut SchemaGenerator) -> Value {
    let text = json!({ "schema": { "type": "string" } });
    let about = json!({ "schema": named::<Page>(said), "example": { "served_by": "node", "node": ADDRESS } });
    json!({
        "/v1/ws": { "get": upgrade(), "post": probe() },
        "/health": { "get": health(said) },
        "/ready": { "get": ready(said) },
        "/v1/version": { "get": version(said) },
        "/v1/node": { "get": node(said) },
        "/v1/models": { "get": models(said) },
        "/v1/metrics/session_keys": { "get": session_keys(said) },
        "/metrics": { "get": metrics() },
        "/v1/auth/challenge": { "post": challenge(said, asked) },
        "/openapi.json": { "get": openapi() },
        "/": { "get": page("page", "The chat page", "text/html", &text) },
        "/app.js": { "get": page("pageScript", "Its script", "text/javascript", &text) },
        "/style.css": { "get": page("pageStyle", "Its style", "text/css", &text) },
        "/icon.svg": { "get": page("pageIcon", "Its icon", "image/svg+xml", &text) },
        "/page.json": { "get": page("pageData", "Who serves it", "application/json", &about) },
    })
}

fn upgrade() -> Value {
    let advice = json!({
        "Upgrade": header("What to ask for.", &json!({ "const": "websocket" })),
        "Sec-WebSocket-Version": header("Its version.", &json!({ "const": "13" })),
    });
    let switched = json!({
        "Upgrade": header("A WebSocket.", &json!({ "const": "websocket" })),
        "Connection": header("As RFC 6455 has it.", &json!({ "type": "string" })),
        "Sec-WebSocket-Accept": header("As RFC 6455 has it.", &json!({ "type": "string" })),
    });
    let line = json!({ "text/plain": { "schema": { "type": "string" }, "example": "GET /v1/ws is a WebSocket of RFC 6455\n" } });
    Operation::new(
        "openWebSocket",
        "sessions",
        "Open the WebSocket",
        "An upgrade of RFC 6455; docs/asyncapi.json says what travels after it. An `Origin` that is neither the node's own nor \
            in ALLOWED_ORIGINS is refused.",
    )
    .answers(101, json!({ "description": "The connection is a WebSocket from here on.", "headers": switched }))
    .answers(426, json!({ "description": "No upgrade was asked for.", "headers": advice, "content": line }))
    .refuses(&[Code::OriginNotAllowed])
    .done()
}

fn probe() -> Value {
    const CODES: &[Code] = &[
        Code::MalformedFrame,
        Code::UnknownMessageType,
        Code::MissingSessionId,
        Code::MissingPayload,
        Code::MissingPayloadFields,
        Code::InvalidHexEncoding,
        Code::InvalidNonceSize,
        Code::InvalidPayload,
        Code::DecryptionFailed,
        Code::InvalidSignature,
        Code::PlaintextDisabled,
        Code::ClientNotAllowed,
        Code::OriginNotAllowed,
        Code::SlowConsumer,
        Code::ReplayDetected,
        Code::RequestTooLarge,
        Code::ProtocolTooOld,
        Code::RateLimited,
        Code::EncryptionNotSupported,
        Code::Draining,
    ];
    let ack = json!({
        "type": "session_init_ack", "status": "success", "session_id": "42", "job_id": "7", "chain_id": null,
        "client_address": ADDRESS, "message": "encrypted session opened",
    });
    let frames = json!({ "oneOf": [reference("encrypted_session_init"), reference("session_init")] });
    let plain = json!({ "plain": { "summary": "In the clear", "value": { "type": "session_init", "session_id": "42" } } });
    Operation::new(
        "probeSession",
        "sessions",
        "Try a session init",
        "One session init of version 1 as the body, at most MAX_FRAME_BYTES long and sent within 10 seconds, is answered with \
            the frame that the WebSocket would have answered. What it opens is cleared at once; it counts as seen.",
    )
    .asks(&frames, &plain)
    .says(200, "It would have opened a session.", &reference("session_init_ack"), &ack)
    .refuses(CODES)
    .done()
}

fn health(said: &mut SchemaGenerator) -> Value {
    Operation::new("health", "node", "Is the process alive", "Says nothing of the engine: `/ready` does.")
        .says(200, "It serves HTTP.", &named::<Health>(said), &json!({ "status": "ok" }))
        .refuses(&[])
        .done()
}

fn ready(said: &mut SchemaGenerator) -> Value {
    let example = |status: &str| json!({ "status": status, "waiting": 0, "running": 1, "slots": 4 });
    let form = named::<Ready>(said);
    Operation::new("ready", "node", "Can requests be answered now", "For load balancers.")
        .says(200, "They can.", &form, &example("ready"))
        .says(503, "Not now: the node drains, or its engine is being started.", &form, &example("draining"))
        .refuses(&[])
        .done()
}

fn version(said: &mut SchemaGenerator) -> Value {
    let example = json!({
        "name": "fabstir-llm-node", "version": "0.1.0", "protocols": [2, 1], "engine": "llama.cpp", "encryption": true,
        "plaintext": false, "public_key": PUBLIC_KEY, "address": ADDRESS, "uptime_seconds": 60,
    });
    Operation::new(
        "version",
        "node",
        "What the node is",
        "Not authenticated: pin the address that you know from elsewhere.",
    )
    .says(200, "Name, version, what is served.", &named::<Version<'_>>(said), &example)
    .refuses(&[])
    .done()
}

fn node(said: &mut SchemaGenerator) -> Value {
    let certificate = json!({
        "publicKey": PUBLIC_KEY, "notBefore": 1_800_000_000, "notAfter": 1_800_090_300, "minVersion": 1,
        "signature": format!("{}1b", "00".repeat(64)),
    });
    let example = json!({
        "e2ee": ["2", "1"],
        "node": { "address": ADDRESS, "chainId": 0, "channelKey": PUBLIC_KEY, "certificate": certificate },
    });
    Operation::new(
        "identity",
        "node",
        "Who the node says it is",
        "Its identity and the key of its channels, as the WebSocket's first frame has them. docs/protocol.md, 2.2, says what to \
            check.",
    )
    .says(200, "The identity; without `node` there is no encryption.", &named::<Advertisement>(said), &example)
    .refuses(&[])
    .done()
}

fn models(said: &mut SchemaGenerator) -> Value {
    let model = json!({
        "id": "a-model", "object": "model", "created": 1_800_000_000, "owned_by": "operator", "context_window": 2048,
        "engine": "llama.cpp", "sha256": "ab".repeat(32), "loaded": true,
    });
    let example = json!({ "object": "list", "data": [model] });
    Operation::new(
        "models",
        "node",
        "What may be asked of",
        "OpenAI's list, with what else is known of each.",
    )
    .says(200, "The models.", &named::<Models<'_>>(said), &example)
    .refuses(&[])
    .done()
}

fn session_keys(said: &mut SchemaGenerator) -> Value {
    let example = json!({
        "active_sessions": 1, "total_keys_stored": 1, "memory_usage_estimate_bytes": 1024, "expired_keys_cleaned": 0,
    });
    Operation::new(
        "sessionKeys",
        "node",
        "How many session keys are held",
        "Of version 1; no key, no name of a session. To the node's own machine alone: to others, and through a proxy, there is \
            nothing here.",
    )
    .says(200, "The counts.", &named::<SessionKeyMetrics>(said), &example)
    .refuses(&[Code::NotFound])
    .done()
}

fn metrics() -> Value {
    let page = json!({ "text/plain": {
        "schema": { "type": "string" },
        "example": "# TYPE fabstir_sessions_active gauge\nfabstir_sessions_active 1\n",
    } });
    Operation::new("metrics", "node", "The metrics", "In Prometheus's text format, version 0.0.4. To the node's own machine alone, as above; with METRICS_LISTEN on that address instead.")
        .answers(200, json!({ "description": "The page.", "content": page }))
        .refuses(&[Code::NotFound])
        .done()
}

fn challenge(said: &mut SchemaGenerator, asked: &mut SchemaGenerator) -> Value {
    const CODES: &[Code] = &[
        Code::MalformedFrame,
        Code::MissingPayloadFields,
        Code::InvalidHexEncoding,
        Code::InvalidPayload,
        Code::ChallengeDisabled,
        Code::SlowConsumer,
        Code::RequestTooLarge,
        Code::RateLimited,
        Code::EncryptionNotSupported,
    ];
    let proof =
        json!({ "signature": "01".repeat(64), "recid": 0, "public_key": PUBLIC_KEY, "address": ADDRESS });
    let fresh = json!({ "fresh": { "summary": "32 bytes of your own", "value": challenge_example() } });
    Operation::new(
        "challenge",
        "node",
        "Prove that the node holds its key",
        "The signature is over SHA-256(`fabstir node challenge|` ‖ address (20 bytes) ‖ challenge (32 bytes)). The body is at \
            most 4096 bytes long and sent within 10 seconds; CHALLENGES_PER_MINUTE bounds how often.",
    )
    .asks(&named::<Challenge>(asked), &fresh)
    .says(200, "The proof.", &named::<Proof>(said), &proof)
    .refuses(CODES)
    .done()
}

/// A file of the chat page; in a binary that was built without one, nothing is in it.
fn page(id: &str, summary: &str, media: &str, content: &Value) -> Value {
    let headers = json!({
        "Cache-Control": header("A binary of another day has another.", &json!({ "const": "no-cache" })),
        "Content-Security-Policy": header("What it may load.", &json!({ "type": "string" })),
        "X-Content-Type-Options": header("As `Content-Type` says.", &json!({ "const": "nosniff" })),
    });
    Operation::new(id, "page", summary, "Part of the chat page of web/.")
        .answers(
            200,
            json!({ "description": "The file.", "headers": headers, "content": { media: content } }),
        )
        .refuses(&[])
        .done()
}

fn openapi() -> Value {
    Operation::new("openapi", "node", "This document", "OpenAPI 3.1.")
        .answers(
            200,
            json!({
                "description": "The document.",
                "content": { "application/json": { "schema": { "type": "object", "required": ["openapi"] } } },
            }),
        )
        .refuses(&[])
        .done()
}
