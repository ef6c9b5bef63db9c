//! What the node is and how it does.

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
};
use fabstir_protocol::v2::Advertisement;

use super::{
    Shared, json, openapi,
    says::{Health, Model, Models, Ready, Version},
};
use crate::{metrics, node::NodeStanding};

/// `GET /health`: the process serves HTTP.
pub(super) async fn health() -> Response {
    json(&Health { status: "ok" })
}

/// `GET /ready`: requests can be answered now.
pub(super) async fn ready(State(shared): State<Shared>) -> Response {
    let engine = shared.node.engine.status();
    let (code, status) = match shared.node.standing() {
        NodeStanding::Serving => (StatusCode::OK, "ready"),
        NodeStanding::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
        NodeStanding::EngineNotReady => (StatusCode::SERVICE_UNAVAILABLE, "engine not ready"),
        NodeStanding::KeyNotReady => (StatusCode::SERVICE_UNAVAILABLE, "key not ready"),
    };
    // An engine without a bound names a number that JavaScript cannot hold.
    let slots = u32::try_from(engine.slots).unwrap_or(u32::MAX);
    let body = Ready { status, waiting: engine.waiting, running: engine.running, slots };
    (code, json(&body)).into_response()
}

/// `GET /v1/version`.
pub(super) async fn version(State(shared): State<Shared>) -> Response {
    let node = &shared.node;
    let identity = node.identity();
    json(&Version {
        name: env!("CARGO_PKG_NAME"),
        version: env!("CARGO_PKG_VERSION"),
        protocols: match (identity.is_some(), node.config.min_protocol) {
            (true, 1) => &[2, 1],
            (true, _) => &[2],
            (false, _) => &[1],
        },
        engine: node.engine.models().first().map_or("none", |model| model.engine),
        encryption: identity.is_some(),
        plaintext: node.serves_plaintext(),
        public_key: identity.as_ref().map(|identity| identity.key.public().to_string()),
        address: identity.as_ref().map(|identity| identity.key.address().to_string()),
        uptime_seconds: node.clock.uptime().as_secs(),
    })
}

/// `GET /v1/node`: what a WebSocket's first frame says of the node, for people and for who pins.
pub(super) async fn identity(State(shared): State<Shared>) -> Response {
    let none = || Advertisement { e2ee: Vec::new(), node: None };
    let shown = shared.node.identities.as_ref().map_or_else(none, |identities| identities.advertisement());
    ([(header::CACHE_CONTROL, "no-store")], json(&shown)).into_response()
}

/// `GET /v1/models`, in OpenAI's form with the digest beside it.
pub(super) async fn models(State(shared): State<Shared>) -> Response {
    let created = shared.node.clock.unix_at_start();
    let data = shared.node.engine.models().iter().map(|info| Model {
        id: &info.name,
        object: "model",
        created,
        owned_by: "operator",
        context_window: info.context_window,
        engine: info.engine,
        sha256: &info.digest,
        loaded: shared.node.engine.is_loaded(&info.name),
    });
    json(&Models { object: "list", data: data.collect() })
}

/// `GET /v1/metrics/session_keys`.
pub(super) async fn session_keys(State(shared): State<Shared>) -> Response {
    json(&shared.node.sessions.metrics())
}

/// `GET /metrics`.
pub(super) async fn prometheus(State(shared): State<Shared>) -> Response {
    let page = metrics::render(&shared.node, &shared.metrics);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page).into_response()
}

/// `GET /openapi.json`.
pub(super) async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], openapi::text()).into_response()
}
