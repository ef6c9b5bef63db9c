//! The chat page, from the user's own machine: its script comes from here, and the node has no hand in it.
//!
//! The page seals by itself. What it sends to `/v1/ws` is carried to the node as it is, so this needs no token: who is on this
//! machine learns and can do by it no more than by a connection to the node.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{CONNECTION, HOST, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE},
    },
    response::{IntoResponse as _, Response},
    routing::get,
};
use fabstir_client::{Error, Roots, probe};
use fabstir_page::Served;
use fabstir_protocol::ethereum::Address;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{io::copy_bidirectional, time::timeout};
use url::Url;

use super::fault::Fault;
use crate::failure::Failure;

/// How long the node may take to answer the upgrade.
const PATIENCE: Duration = Duration::from_secs(10);

/// The node that the page talks to: the first of them.
pub(super) struct Way {
    pub(super) url: Url,
    pub(super) roots: Roots,
    pub(super) node: Address,
}

pub(super) fn routes(way: Way) -> Router {
    let node = Some(way.node.to_string());
    Router::new()
        .route("/v1/ws", get(carry))
        .with_state(Arc::new(way))
        .merge(fabstir_page::routes(Served::ByProxy, move || node.clone()))
}

/// Carries a WebSocket to the node, byte by byte.
async fn carry(State(way): State<Arc<Way>>, mut request: Request) -> Response {
    let key = websocket_key(request.headers()).cloned();
    let (Some(key), Some(here)) = (key, request.extensions_mut().remove::<hyper::upgrade::OnUpgrade>())
    else {
        return Fault::invalid("GET /v1/ws is a WebSocket (RFC 6455)").into_response();
    };
    let reached = timeout(PATIENCE, upgraded(&way, &key)).await;
    let mut answer = match reached.unwrap_or(Err(Error::Silent(PATIENCE))) {
        Ok(answer) => answer,
        Err(error) => return Fault::from(Failure::from(error)).into_response(),
    };
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        // A refusal, in the node's words.
        return answer.map(Body::new);
    }
    let accept = answer.headers().get(SEC_WEBSOCKET_ACCEPT).cloned();
    let there = hyper::upgrade::on(&mut answer);
    tokio::spawn(async move {
        let (Ok(here), Ok(there)) = (here.await, there.await) else { return };
        // How it ends is said by the ends themselves.
        let _ = copy_bidirectional(&mut TokioIo::new(here), &mut TokioIo::new(there)).await;
    });
    let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    if let Some(accept) = accept {
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    response
}

/// Of a request for a WebSocket, and for no other protocol.
fn websocket_key(headers: &HeaderMap) -> Option<&HeaderValue> {
    let protocol = headers.get(UPGRADE)?;
    headers.get(SEC_WEBSOCKET_KEY).filter(|_| protocol.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// The node's answer to the same request, without the browser's origin and without extensions.
async fn upgraded(way: &Way, key: &HeaderValue) -> Result<hyper::Response<hyper::body::Incoming>, Error> {
    let failed = |error: hyper::Error| Error::Connect(error.to_string());
    let stream = probe::stream(&way.url, &way.roots).await?;
    let (mut send, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    tokio::spawn(connection.with_upgrades());
    let authority = way.url.authority().to_owned();
    let request = hyper::Request::get(way.url.path())
        .header(HOST, authority)
        .header(CONNECTION, "upgrade")
        .header(UPGRADE, "websocket")
        .header(SEC_WEBSOCKET_VERSION, "13")
        .header(SEC_WEBSOCKET_KEY, key)
        .body(Body::empty())
        .map_err(|error| Error::Connect(error.to_string()))?;
    send.send_request(request).await.map_err(failed)
}
