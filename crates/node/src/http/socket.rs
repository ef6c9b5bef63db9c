//! `/v1/ws`: the upgrade to WebSocket, and the one-frame probe by POST.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use fabstir_protocol::Code;

use super::{Shared, arrival::Held, body, json_text, refusal, say_when};
use crate::{
    answer::Outgoing,
    config::OwnTls,
    connection::{self, Connection},
    peer::Peer,
    server::OpenConnection,
    websocket,
};

/// `GET /v1/ws`.
pub(super) async fn upgrade(State(shared): State<Shared>, request: Request) -> Response {
    if let Err(code) = admit(&shared, request.headers()) {
        return refusal(code);
    }
    let Some(Peer(peer)) = request.extensions().get().copied() else { return refusal(Code::InternalError) };
    let open = request.extensions().get::<Arc<OpenConnection>>().map(Arc::clone);
    let held = request.extensions().get::<Held>().map(Arc::clone);
    let Some((response, socket)) = websocket::upgrade(request, shared.node.config.max_frame_bytes) else {
        let advice = [(header::UPGRADE, "websocket"), (header::SEC_WEBSOCKET_VERSION, "13")];
        return (StatusCode::UPGRADE_REQUIRED, advice, "GET /v1/ws is a WebSocket of RFC 6455\n")
            .into_response();
    };
    shared.tasks.clone().spawn(async move {
        match socket.await {
            Ok(socket) => {
                if let Some(open) = &open {
                    open.becomes_websocket();
                }
                // A task of its own, with room for what a WebSocket needs and for no upgrade.
                shared.tasks.spawn(connection::serve(shared.node, socket, peer, (open, held)));
            }
            Err(error) => tracing::debug!(%error, "the upgrade did not complete"),
        }
    });
    response
}

/// `POST /v1/ws`: one session init in, the frame that a WebSocket would have answered out. Nothing stays of it but
/// that it was seen.
pub(super) async fn probe(State(shared): State<Shared>, request: Request) -> Response {
    if let Err(code) = admit(&shared, request.headers()) {
        return refusal(code);
    }
    let Some(Peer(peer)) = request.extensions().get().copied() else { return refusal(Code::InternalError) };
    let bytes = match body(request.into_body(), shared.node.config.max_frame_bytes).await {
        Ok(bytes) => bytes,
        Err(refused) => return refused,
    };
    let Ok(text) = std::str::from_utf8(&bytes) else { return refusal(Code::MalformedFrame) };
    let (mut connection, mut outgoing) = Connection::new(Arc::clone(&shared.node), peer);
    connection.probe(text).await;
    let reply = outgoing.try_recv();
    connection.end().await;
    match reply {
        Ok(Outgoing::Frame(text)) => respond(text),
        // A frame alone is answered by a frame.
        Ok(Outgoing::Close(_) | Outgoing::Record(_)) | Err(_) => refusal(Code::InternalError),
    }
}

fn admit(shared: &Shared, headers: &HeaderMap) -> Result<(), Code> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let origin = headers.get(header::ORIGIN).map(|value| value.to_str().unwrap_or("null"));
    let tls = if shared.node.config.tls.is_some() { OwnTls::Yes } else { OwnTls::No };
    if shared.node.config.allowed_origins.admit(origin, text(header::HOST), tls) {
        return Ok(());
    }
    Err(Code::OriginNotAllowed)
}

/// A frame with the status and the headers that go with it: those of its code, if it is an error.
fn respond(frame: String) -> Response {
    #[derive(serde::Deserialize)]
    struct Outcome {
        #[serde(rename = "type")]
        kind: String,
        code: Option<Code>,
        retry_after_ms: Option<u64>,
    }
    let outcome = serde_json::from_str::<Outcome>(&frame).ok().filter(|outcome| outcome.kind == "error");
    let retry_after = outcome.as_ref().and_then(|outcome| outcome.retry_after_ms).map(Duration::from_millis);
    let code = outcome.and_then(|outcome| outcome.code);
    let status =
        code.and_then(|code| StatusCode::from_u16(code.http_status()).ok()).unwrap_or(StatusCode::OK);
    let mut response = (status, json_text(frame)).into_response();
    say_when(response.headers_mut(), retry_after);
    response
}
