//! One request to one server, and what its refusal means.

use std::time::Duration;

use reqwest::{Response, StatusCode, header::CONTENT_TYPE};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::Missed;
use crate::{
    Failure,
    upstream::{Shared, body::Body, events::Fault, pool::Lease},
};

/// Most bytes of a refusal.
const MAX_FAULT: usize = 64 << 10;

/// Sends a request to a server; an answer that begins well is the result.
pub(super) async fn ask(shared: &Shared, server: &Lease<'_>, body: Body) -> Result<Response, Missed> {
    let json = body.json;
    let request = shared
        .client
        .post(server.path(body.path))
        .header(CONTENT_TYPE, "application/json")
        .body(bytes::Bytes::from_owner(json));
    let Ok(Ok(response)) = timeout(shared.config.silence, request.send()).await else {
        server.failed();
        return Err(Missed::Elsewhere(Failure::Engine));
    };
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let fault = Fault::read(&read(response, MAX_FAULT, shared.config.silence).await.unwrap_or_default());
    tracing::debug!(status = status.as_u16(), "the server refuses a request");
    Err(refusal(status, &fault, server))
}

/// What a refusal means.
fn refusal(status: StatusCode, fault: &Fault, server: &Lease<'_>) -> Missed {
    if let Some(told) = fault.too_long() {
        return Missed::TooLong(told);
    }
    match status {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => Missed::Elsewhere(Failure::Busy),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            tracing::error!(status = status.as_u16(), "the server does not accept the API key");
            Missed::Elsewhere(Failure::Engine)
        }
        StatusCode::NOT_FOUND => Missed::Elsewhere(Failure::Unsupported("model")),
        StatusCode::NOT_IMPLEMENTED => Missed::Elsewhere(Failure::Unsupported("the operation")),
        _ if status.is_client_error() => {
            Missed::Final(Failure::Invalid(fault.field().unwrap_or("a field that the server refuses")))
        }
        StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT => {
            server.failed();
            Missed::Elsewhere(Failure::Engine)
        }
        // Some servers say so of a request that they cannot take: that does not make them unwell.
        _ => Missed::Elsewhere(Failure::Engine),
    }
}

/// A whole body, if it is not too large.
pub(super) async fn read(
    mut response: Response,
    limit: usize,
    silence: Duration,
) -> Option<Zeroizing<Vec<u8>>> {
    let mut body = Zeroizing::new(Vec::new());
    while let Some(bytes) = timeout(silence, response.chunk()).await.ok()?.ok()? {
        body.extend_from_slice(&bytes);
        if body.len() > limit {
            return None;
        }
    }
    Some(body)
}
