//! The socket under a [`Connection`]: a reader that hands frames in, a writer that takes them out, and the goodbye.

use std::{net::IpAddr, sync::Arc};

use fabstir_protocol::Code;
use futures_util::{
    SinkExt as _, StreamExt as _,
    stream::{SplitSink, SplitStream},
};
use tokio::{sync::mpsc, time::timeout};
use tokio_tungstenite::tungstenite::{
    self, Message,
    protocol::{CloseFrame, frame::coding::CloseCode},
};
use tokio_util::sync::CancellationToken;

use super::Connection;
use crate::{
    answer::{CloseReason, Outgoing},
    metrics,
    node::Node,
    websocket::{self, Socket},
};

/// Silent pings before a peer counts as gone.
const SILENT_PINGS: u32 = 3;

/// Runs one WebSocket to its end.
pub(crate) async fn serve(node: Arc<Node>, socket: Socket, peer: IpAddr) {
    let (sink, mut stream) = socket.split();
    let (mut connection, outgoing) = Connection::new(Arc::clone(&node), peer);
    let gone = connection.gone.clone();
    let writer = tokio::spawn(write(Arc::clone(&node), sink, outgoing, gone.clone()));
    connection.greet().await;
    let why = read(&node, &mut connection, &mut stream).await;
    let goodbye = why.as_ref().and_then(End::close_frame);
    connection.end().await;
    // The connection's senders are gone, so the writer ends as soon as it has written what was left.
    if let Ok(mut sink) = writer.await
        && let Some(frame) = goodbye
    {
        let _ = timeout(node.config.send_timeout, sink.send(Message::Close(Some(frame)))).await;
    }
}

/// Why a connection ended, as far as the peer can be told.
enum End {
    Socket(tungstenite::Error),
    Closed(CloseReason),
}

impl End {
    fn close_frame(&self) -> Option<CloseFrame> {
        match self {
            Self::Socket(error) => websocket::close_frame(error),
            Self::Closed(reason) => Some(reason.close_frame()),
        }
    }
}

impl CloseReason {
    fn close_frame(self) -> CloseFrame {
        let (code, reason) = match self {
            Self::TooManyFailures => (CloseCode::Policy, "too many frames in a row did not open"),
            Self::GoingAway => (CloseCode::Away, "the node is going away"),
            Self::Silent => (CloseCode::Away, "nothing was heard for too long"),
        };
        CloseFrame { code, reason: reason.into() }
    }
}

type Reader = SplitStream<Socket>;
type Writer = SplitSink<Socket, Message>;

/// Reads frames until the socket ends, the peer falls silent or the node is done.
async fn read(node: &Node, connection: &mut Connection, stream: &mut Reader) -> Option<End> {
    let silence = node.config.ping_interval.saturating_mul(SILENT_PINGS);
    let gone = connection.gone.clone();
    loop {
        let idle_drain = node.draining.is_cancelled();
        if idle_drain && !connection.is_busy() {
            return Some(End::Closed(CloseReason::GoingAway));
        }
        let answers = connection.answers.clone();
        let drained = async {
            node.draining.cancelled().await;
            answers.close();
            answers.wait().await;
        };
        let next = tokio::select! {
            biased;
            () = gone.cancelled() => return Some(End::Closed(CloseReason::GoingAway)),
            next = timeout(silence, stream.next()) => next,
            () = drained => continue,
        };
        match next {
            Err(_) => return Some(End::Closed(CloseReason::Silent)),
            Ok(None) => return None,
            Ok(Some(Err(error))) => return Some(End::Socket(error)),
            Ok(Some(Ok(Message::Text(text)))) => connection.receive(text.as_str()).await,
            Ok(Some(Ok(Message::Binary(_)))) => connection.receive_binary().await,
            Ok(Some(Ok(Message::Close(_)))) => return None,
            Ok(Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)))) => {}
        }
    }
}

/// Writes what goes out, and a ping when nothing does. Gives the sink back for the goodbye.
async fn write(
    node: Arc<Node>,
    mut sink: Writer,
    mut outgoing: mpsc::Receiver<Outgoing>,
    gone: CancellationToken,
) -> Writer {
    loop {
        let next = timeout(node.config.ping_interval, outgoing.recv()).await;
        let message = match next {
            Err(_) => Message::Ping(Vec::new().into()),
            Ok(None) => return sink,
            Ok(Some(Outgoing::Frame(text))) => Message::text(text),
            Ok(Some(Outgoing::Close(reason))) => Message::Close(Some(reason.close_frame())),
        };
        let closing = matches!(message, Message::Close(_));
        match timeout(node.config.send_timeout, sink.send(message)).await {
            Ok(Ok(())) if !closing => {}
            Ok(_) => break,
            Err(_) => {
                metrics::slow_consumer();
                tracing::debug!(code = Code::SlowConsumer.as_str(), "closing: the client does not read");
                break;
            }
        }
    }
    gone.cancel();
    sink
}
