//! The upgrade from HTTP, and what an error of the socket means in WebSocket's own terms.

use axum::{
    body::Body,
    extract::Request,
    http::{StatusCode, header},
    response::Response,
};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error,
        handshake::derive_accept_key,
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};

/// A WebSocket over whatever the request came in by.
pub type Socket = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

/// Sockets are many and mostly idle: small buffers make the difference between some and 134 KiB each. What is read into keeps
/// the size of the largest frame that came, and as much as this.
const READ_BUFFER: usize = 256;
const WRITE_BUFFER: usize = 4096;

/// The answer to an upgrade request, and the future that gives the socket once it was sent. `None` where the
/// request asks for no WebSocket of RFC 6455.
pub fn upgrade(
    mut request: Request,
    max_frame_bytes: usize,
) -> Option<(Response, impl Future<Output = Result<Socket, hyper::Error>>)> {
    let headers = request.headers();
    let has = |name, token: &str| {
        let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|part| part.trim().eq_ignore_ascii_case(token))
    };
    let asked = has(header::CONNECTION, "upgrade")
        && has(header::UPGRADE, "websocket")
        && has(header::SEC_WEBSOCKET_VERSION, "13");
    let key = headers.get(header::SEC_WEBSOCKET_KEY).filter(|_| asked)?;
    let accept = derive_accept_key(key.as_bytes());
    let response = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_ACCEPT, accept)
        .body(Body::empty())
        .ok()?;
    let upgrading = hyper::upgrade::on(&mut request);
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(WRITE_BUFFER)
        .max_write_buffer_size(max_frame_bytes.saturating_mul(4).max(WRITE_BUFFER.saturating_mul(4)))
        .max_message_size(Some(max_frame_bytes))
        .max_frame_size(Some(max_frame_bytes));
    let socket = async move {
        let io = TokioIo::new(upgrading.await?);
        Ok(WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await)
    };
    Some((response, socket))
}

/// How to close after `error`, RFC 6455 section 7.4.1; `None` where there is nobody left to tell.
pub fn close_frame(error: &Error) -> Option<CloseFrame> {
    let close = |code, reason: &'static str| Some(CloseFrame { code, reason: reason.into() });
    match error {
        Error::Capacity(_) => close(CloseCode::Size, "the message is larger than MAX_FRAME_BYTES"),
        Error::Utf8(_) => close(CloseCode::Invalid, "a text message must be UTF-8"),
        Error::Protocol(_) => close(CloseCode::Protocol, "the frame breaks RFC 6455"),
        Error::ConnectionClosed
        | Error::AlreadyClosed
        | Error::Io(_)
        | Error::Tls(_)
        | Error::WriteBufferFull(_)
        | Error::AttackAttempt
        | Error::Url(_)
        | Error::Http(_)
        | Error::HttpFormat(_) => None,
    }
}
