//! The socket under a [`Connection`]: a reader that hands frames in, a writer that takes them out, and the goodbye.

use std::{net::IpAddr, sync::Arc, time::Duration};

use fabstir_protocol::Code;
use futures_util::{
    SinkExt as _, StreamExt as _,
    stream::{SplitSink, SplitStream},
};
use tokio::{
    io,
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tokio_tungstenite::tungstenite::{
    self, Message,
    protocol::{CloseFrame, frame::coding::CloseCode},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Connection,
    patience::{Patience, run_out},
};
use crate::{
    answer::{CloseReason, Outgoing},
    channel::Session,
    ledger::EndReason,
    metrics,
    node::Node,
    websocket::{self, Socket},
};

/// Silent pings before a peer counts as gone.
const SILENT_PINGS: u32 = 3;
/// How long somebody who comes while the node drains has to say what for, so as to hear that it drains.
const LATE: Duration = Duration::from_secs(5);
/// How long a peer that did not read is waited for once more.
const LAST_TRY: Duration = Duration::from_secs(1);

/// Runs one WebSocket to its end, and lets go of what it `held` then. Most sockets wait most of the time, each with all of
/// this future: what is not waiting is boxed, and there only while it runs.
pub(crate) fn serve(
    node: Arc<Node>,
    socket: Socket,
    peer: IpAddr,
    held: impl Send,
) -> impl Future<Output = ()> + Send {
    // Here, so that the future has no room for what it does not keep.
    let (sink, stream) = socket.split();
    run(node, sink, stream, peer, held)
}

async fn run(node: Arc<Node>, sink: Writer, mut stream: Reader, peer: IpAddr, held: impl Send) {
    let (mut connection, outgoing) = Connection::new(Arc::clone(&node), peer);
    let gone = connection.gone.clone();
    let writer = tokio::spawn(write(Arc::clone(&node), sink, outgoing, gone.clone()));
    Box::pin(connection.greet()).await;
    let why = read(&node, &mut connection, &mut stream).await;
    connection.end().await;
    // The connection's senders are gone, so the writer ends as soon as it has written what was left.
    let Ok((sink, written)) = writer.await else { return };
    Box::pin(close((sink, written), stream, why, node.config.send_timeout)).await;
    drop(held);
}

/// Says goodbye in WebSocket's own terms.
async fn close((mut sink, written): (Writer, Written), stream: Reader, why: End, patience: Duration) {
    let (goodbye, patience) = match written {
        Written::All => (why.close_frame(), patience),
        // It has had its time. What it is told now it may find when it reads on.
        Written::Stuck => (Some(CloseReason::SlowConsumer.close_frame()), LAST_TRY),
    };
    let last = async {
        match goodbye {
            Some(frame) => sink.send(Message::Close(Some(frame))).await,
            // Sends the answer to the peer's own Close frame (RFC 6455, 5.5.1).
            None => sink.close().await,
        }
    };
    let _ = timeout(patience, last).await;
    if matches!(why, End::Socket(tungstenite::Error::Capacity(_))) {
        // A socket that is closed with bytes unread takes what was sent last with it: the reason, that is.
        if let Ok(mut socket) = sink.reunite(stream) {
            let _ = timeout(LAST_TRY, io::copy(socket.get_mut(), &mut io::sink())).await;
        }
    }
}

/// Why a connection ended, as far as the peer can be told.
enum End {
    /// By the peer.
    Left,
    Socket(tungstenite::Error),
    Closed(CloseReason),
}

impl End {
    fn close_frame(&self) -> Option<CloseFrame> {
        match self {
            Self::Left => None,
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
            Self::Handshake => (CloseCode::Policy, "the handshake did not complete"),
            Self::Broken => (CloseCode::Policy, "a record did not open"),
            Self::Goodbye => (CloseCode::Normal, "the session has ended"),
            Self::NoMessage => (CloseCode::Policy, "no message came in time"),
            Self::NoSession => (CloseCode::Policy, "there was no session for too long"),
            Self::NotAllowed => {
                (CloseCode::Policy, "CLIENT_NOT_ALLOWED: the client may no longer have sessions here")
            }
            Self::Silent => (CloseCode::Away, "nothing was heard for too long"),
            Self::SlowConsumer => (CloseCode::Policy, "SLOW_CONSUMER: the answers were not read in time"),
        };
        CloseFrame { code, reason: reason.into() }
    }
}

type Reader = SplitStream<Socket>;
type Writer = SplitSink<Socket, Message>;

/// Reads frames until the socket ends, the peer falls silent or the node is done.
async fn read(node: &Node, connection: &mut Connection, stream: &mut Reader) -> End {
    let silence = node.config.ping_interval.saturating_mul(SILENT_PINGS);
    let gone = connection.gone.clone();
    let mut patience = Patience::new(Instant::now());
    let mut lists = node.access.changes();
    // Who comes now is told that the node drains in answer to what they ask, and not before.
    let mut waits = node.draining.is_cancelled();
    loop {
        if node.draining.is_cancelled() && !waits && !connection.is_busy() {
            Box::pin(say_goodbye(connection)).await;
            return End::Closed(CloseReason::GoingAway);
        }
        let answers = connection.answers.clone();
        let drained = drained(node, answers.clone(), connection.link.session(), waits);
        let overdue = patience.due(node, connection.has_session(), Instant::now());
        let next = tokio::select! {
            biased;
            () = gone.cancelled() => return End::Closed(CloseReason::GoingAway),
            () = node.stopping.cancelled() => {
                // The answers are cancelled, and say so.
                answers.close();
                let _ = timeout(LAST_TRY, answers.wait()).await;
                Box::pin(say_goodbye(connection)).await;
                return End::Closed(CloseReason::GoingAway);
            }
            _ = lists.changed() => {
                if Box::pin(connection.judge_again()).await {
                    return End::Closed(CloseReason::NotAllowed);
                }
                continue;
            }
            next = timeout(if waits { LATE } else { silence }, stream.next()) => next,
            why = run_out(overdue) => return End::Closed(why),
            () = drained => continue,
        };
        match next {
            Err(_) if waits => return End::Closed(CloseReason::GoingAway),
            Err(_) => return End::Closed(CloseReason::Silent),
            Ok(None) => return End::Left,
            Ok(Some(Err(error))) => return End::Socket(error),
            Ok(Some(Ok(Message::Text(text)))) => {
                patience.hears();
                waits = false;
                metrics::received(text.len());
                Box::pin(connection.receive(text.as_str())).await;
            }
            Ok(Some(Ok(Message::Binary(frame)))) => {
                patience.hears();
                waits = false;
                metrics::received(frame.len());
                Box::pin(connection.receive_binary(&frame)).await;
            }
            Ok(Some(Ok(Message::Close(_)))) => return End::Left,
            Ok(Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)))) => {}
        }
    }
}

/// Returns when the node drains and everything that was asked for here is answered; not for who came during the drain.
async fn drained(node: &Node, answers: TaskTracker, channel: Option<Arc<Session>>, came_late: bool) {
    if came_late {
        return std::future::pending().await;
    }
    node.draining.cancelled().await;
    answers.close();
    answers.wait().await;
    if let Some(session) = &channel {
        session.finished().await;
    }
}

/// Tells a client of version 2 in a sealed record that its session ends: nobody else can say that in the node's name.
async fn say_goodbye(connection: &Connection) {
    if let Some(session) = connection.link.session() {
        let _ = timeout(LAST_TRY, session.finished()).await;
        session.say_goodbye("the node is going away", EndReason::Drain);
        let _ = timeout(LAST_TRY, session.finished()).await;
    }
}

/// How a writer ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Written {
    All,
    /// The peer did not read.
    Stuck,
}

/// Writes what goes out, and a ping every so often: what a busy peer is sent does not tell whether it is there.
/// Gives the sink back for the goodbye.
async fn write(
    node: Arc<Node>,
    mut sink: Writer,
    mut outgoing: mpsc::Receiver<Outgoing>,
    gone: CancellationToken,
) -> (Writer, Written) {
    let mut pings = interval(node.config.ping_interval);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    pings.reset();
    let written = loop {
        let message = tokio::select! {
            next = outgoing.recv() => match next {
                None => return (sink, Written::All),
                Some(Outgoing::Frame(text)) => Message::text(text),
                Some(Outgoing::Record(frame)) => Message::binary(frame),
                Some(Outgoing::Close(reason)) => Message::Close(Some(reason.close_frame())),
            },
            _ = pings.tick() => Message::Ping(Vec::new().into()),
        };
        let closing = matches!(message, Message::Close(_));
        metrics::sent(message.len());
        match timeout(node.config.send_timeout, sink.send(message)).await {
            Ok(Ok(())) if !closing => {}
            Ok(_) => break Written::All,
            Err(_) => {
                metrics::slow_consumer();
                tracing::debug!(code = Code::SlowConsumer.as_str(), "closing: the client does not read");
                break Written::Stuck;
            }
        }
    };
    gone.cancel();
    (sink, written)
}
