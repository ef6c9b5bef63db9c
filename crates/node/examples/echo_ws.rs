//! Says every message back, behind the node's own upgrade: what WebSocket conformance suites need. Nothing here is
//! encrypted, and nothing of it is in the node's binary. Called with `rude` it leaves a Close frame unanswered, which
//! such a suite must notice.

use axum::{
    Router,
    extract::Request,
    response::{IntoResponse as _, Response},
    routing::get,
};
use fabstir_llm_node::websocket::{self, Socket};
use futures_util::{SinkExt, StreamExt as _};
use tokio::net::TcpListener;
use tokio_tungstenite::tungstenite::Message;

/// What conformance suites send at most, 16 MiB, and room for it.
const MAX_FRAME_BYTES: usize = 32 << 20;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    say(&format!("listening address={}", listener.local_addr()?));
    let router = Router::new().route("/v1/ws", get(upgrade)).route("/", get(upgrade));
    Ok(axum::serve(listener, router).await?)
}

async fn upgrade(request: Request) -> Response {
    let Some((response, socket)) = websocket::upgrade(request, MAX_FRAME_BYTES) else {
        return axum::http::StatusCode::UPGRADE_REQUIRED.into_response();
    };
    tokio::spawn(async move {
        // Who goes away during the upgrade is nobody to answer.
        if let Ok(socket) = socket.await {
            echo(socket).await;
        }
    });
    response
}

/// Reads and closes as the node does.
async fn echo(mut socket: Socket) {
    let last = loop {
        let message = match socket.next().await {
            Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => message,
            // The answers to them go out with the next flush, or with the end.
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {
                if socket.flush().await.is_err() {
                    return;
                }
                continue;
            }
            Some(Ok(Message::Close(_))) | None if is_rude() => return,
            Some(Ok(Message::Close(_))) | None => break None,
            Some(Err(error)) => break websocket::close_frame(&error),
        };
        if socket.send(message).await.is_err() {
            return;
        }
    };
    // A peer that does not hear how it ends has ended all the same.
    let _ = match last {
        Some(frame) => socket.send(Message::Close(Some(frame))).await,
        // Sends the answer to the peer's own Close frame.
        None => SinkExt::close(&mut socket).await,
    };
}

fn is_rude() -> bool {
    std::env::args().nth(1).as_deref() == Some("rude")
}

#[expect(clippy::print_stdout, reason = "whoever started this reads where it listens")]
fn say(words: &str) {
    println!("{words}");
}
