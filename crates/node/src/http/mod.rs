//! The HTTP surface. Every refusal is the same JSON frame that a WebSocket would carry.

mod arrival;
mod challenge;
mod local;
mod openapi;
mod says;
mod socket;
mod status;

use std::{error::Error as _, io, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use fabstir_protocol::{Code, v1::NodeFrame};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio_util::task::TaskTracker;

use crate::{limits::milliseconds, metrics, node::Node};

/// How long a request's body may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// What every handler may use.
#[derive(Clone, Debug)]
struct Shared {
    node: Arc<Node>,
    metrics: PrometheusHandle,
    tasks: TaskTracker,
}

/// The routes.
pub(crate) fn router(node: Arc<Node>, metrics: PrometheusHandle, tasks: TaskTracker) -> Router {
    let shared = Shared { node: Arc::clone(&node), metrics, tasks };
    let owner = Arc::clone(&node);
    let identity = move || owner.identity().map(|identity| identity.key.address().to_string());
    Router::new()
        .merge(fabstir_page::routes(fabstir_page::Served::ByNode, identity))
        .route("/v1/ws", get(socket::upgrade).post(socket::probe))
        .route("/health", get(status::health))
        .route("/ready", get(status::ready))
        .route("/v1/version", get(status::version))
        .route("/v1/node", get(status::identity))
        .route("/v1/models", get(status::models))
        .merge(measured(node.config.metrics_listen.is_some()).route_layer(middleware::from_fn(local::only)))
        .route("/v1/auth/challenge", post(challenge::answer))
        .route("/openapi.json", get(status::openapi))
        .fallback(async || refusal(Code::NotFound))
        .method_not_allowed_fallback(async || {
            (StatusCode::METHOD_NOT_ALLOWED, frame(Code::NotFound, None)).into_response()
        })
        .layer(middleware::from_fn_with_state(shared.clone(), arrival::admit))
        .with_state(shared)
}

/// The routes of METRICS_LISTEN.
pub(crate) fn metrics_router(node: Arc<Node>, metrics: PrometheusHandle) -> Router {
    measured(false).fallback(async || refusal(Code::NotFound)).with_state(Shared {
        node,
        metrics,
        tasks: TaskTracker::new(),
    })
}

/// What is counted; without the metrics where they are served `elsewhere` alone.
fn measured(elsewhere: bool) -> Router<Shared> {
    let router = Router::new().route("/v1/metrics/session_keys", get(status::session_keys));
    if elsewhere { router } else { router.route("/metrics", get(status::prometheus)) }
}

/// A response that is a code.
fn refusal(code: Code) -> Response {
    refusal_after(code, None)
}

fn refusal_after(code: Code, retry_after: Option<Duration>) -> Response {
    metrics::refused(code);
    let status = StatusCode::from_u16(code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, frame(code, retry_after)).into_response();
    // Nobody knows when there will be room: who comes back at once finds none.
    let busy = (code == Code::NodeBusy).then_some(Duration::from_secs(1));
    say_when(response.headers_mut(), retry_after.or(busy));
    response
}

/// In whole seconds, as HTTP has it.
fn say_when(headers: &mut HeaderMap, retry_after: Option<Duration>) {
    if let Some(wait) = retry_after {
        let seconds = wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0)).max(1);
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
}

/// Answers a connection for which there is no room, whatever it asks.
pub(crate) async fn say_busy(mut socket: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    metrics::refused(Code::NodeBusy);
    let status = Code::NodeBusy.http_status();
    let body = refusal_text(Code::NodeBusy, None);
    let answer = format!(
        "HTTP/1.1 {status} Service Unavailable\r\ncontent-type: application/json\r\nconnection: close\r\n\
         retry-after: 1\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    socket.write_all(answer.as_bytes()).await?;
    socket.shutdown().await?;
    tokio::io::copy(&mut socket, &mut tokio::io::sink()).await.map(drop)
}

fn frame(code: Code, retry_after: Option<Duration>) -> Response {
    json_text(refusal_text(code, retry_after))
}

fn refusal_text(code: Code, retry_after: Option<Duration>) -> String {
    let retry_after_ms = retry_after.map(milliseconds);
    let frame = NodeFrame::Error {
        code,
        message: code.meaning(),
        retry_after_ms,
        prompt_tokens: None,
        context_window_size: None,
        session_id: None,
        id: None,
    };
    frame.encode()
}

fn json_text(text: String) -> Response {
    ([(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")], text).into_response()
}

fn json(value: &impl Serialize) -> Response {
    serde_json::to_string(value).map_or_else(|_| refusal(Code::InternalError), json_text)
}

/// Whether a body ended before its end, or in chunks that are none.
fn is_broken(error: &axum::Error) -> bool {
    std::iter::successors(error.source(), |&cause| cause.source()).any(|cause| cause.is::<hyper::Error>())
}

/// A body of at most `limit` bytes that arrives in time.
async fn body(body: Body, limit: usize) -> Result<Bytes, Response> {
    match tokio::time::timeout(BODY_TIMEOUT, axum::body::to_bytes(body, limit)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) if is_broken(&error) => Err(refusal(Code::MalformedFrame)),
        Ok(Err(_)) => Err(refusal(Code::RequestTooLarge)),
        Err(_) => Err(refusal(Code::SlowConsumer)),
    }
}
