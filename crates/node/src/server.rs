//! Accepts sockets, hands each to HTTP or WebSocket, and ends in order.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Router, extract::Request};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use crate::{http, metrics, node::Node};

/// How long sockets get to say goodbye once everything was cancelled.
const GOODBYE: Duration = Duration::from_secs(5);

/// How long a socket for which there is no room gets to hear so, and how many hear so at once.
const REFUSAL: Duration = Duration::from_secs(1);
const MOST_REFUSALS: usize = 64;

/// Where a request came from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub(crate) IpAddr);

/// Serves until `node.draining` is cancelled; then takes nothing new, lets running answers finish for the
/// time that the settings give (or until `node.stopping`), closes what is left, and wipes every session.
pub async fn run(listener: TcpListener, node: Arc<Node>, metrics: PrometheusHandle) {
    let tasks = TaskTracker::new();
    tasks.spawn(metrics::keep_up(metrics.clone(), node.stopping.clone()));
    let router = http::router(Arc::clone(&node), metrics, tasks.clone());
    let sweeper = tasks.spawn(Arc::clone(&node).sweep());
    while let Some(accepted) = node.draining.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((socket, peer)) => accept(socket, peer, &node, &router, &tasks),
            Err(error) => {
                // Out of descriptors, most likely: the sockets that end make room.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    drain(&node, &tasks, sweeper).await;
}

fn accept(socket: TcpStream, peer: SocketAddr, node: &Arc<Node>, router: &Router, tasks: &TaskTracker) {
    let open = OpenConnection::count(node);
    if open.number > node.config.max_connections {
        tracing::debug!(%peer, "refused: MAX_CONNECTIONS are open");
        refuse(socket, tasks);
        return;
    }
    // Frames are small and each is awaited by somebody.
    let _ = socket.set_nodelay(true);
    let router = router.clone();
    let node = Arc::clone(node);
    tasks.spawn(async move {
        let open = Arc::new(open);
        let service = router.map_request(move |mut request: Request<hyper::body::Incoming>| {
            request.extensions_mut().insert(Peer(peer.ip()));
            // An upgraded socket outlives this task; it counts until it is gone.
            request.extensions_mut().insert(Arc::clone(&open));
            request.map(axum::body::Body::new)
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(node.config.header_timeout)
            .serve_connection(TokioIo::new(socket), TowerToHyperService::new(service))
            .with_upgrades();
        tokio::pin!(connection);
        let result = tokio::select! {
            result = connection.as_mut() => result,
            () = node.draining.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = result {
            tracing::debug!(%peer, %error, "connection ended");
        }
    });
}

/// Says that the node is full, in the words of every other refusal. A socket that was never read from would take its
/// answer with it when it is closed, so what the peer says is read for a moment; of too many at once none is.
fn refuse(socket: TcpStream, tasks: &TaskTracker) {
    static REFUSALS: AtomicUsize = AtomicUsize::new(0);
    if REFUSALS.load(Ordering::Relaxed) >= MOST_REFUSALS {
        return;
    }
    REFUSALS.fetch_add(1, Ordering::Relaxed);
    tasks.spawn(async move {
        let _ = timeout(REFUSAL, http::say_busy(socket)).await;
        REFUSALS.fetch_sub(1, Ordering::Relaxed);
    });
}

/// An open socket, counted.
#[derive(Debug)]
pub(crate) struct OpenConnection {
    node: Arc<Node>,
    number: usize,
}

impl OpenConnection {
    fn count(node: &Arc<Node>) -> Self {
        let number = node.connections.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        Self { node: Arc::clone(node), number }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.node.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn drain(node: &Arc<Node>, tasks: &TaskTracker, sweeper: tokio::task::JoinHandle<()>) {
    tracing::info!(
        seconds = node.config.drain.as_secs(),
        connections = node.connections.load(Ordering::Relaxed),
        "draining: running answers may finish, nothing new is taken"
    );
    let idle = async {
        while node.connections.load(Ordering::Relaxed) > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let finished = timeout(node.config.drain, node.stopping.run_until_cancelled(idle)).await;
    if !matches!(finished, Ok(Some(()))) {
        tracing::warn!("not every answer finished in time: the rest is cancelled");
    }
    node.stopping.cancel();
    tasks.close();
    if timeout(GOODBYE, tasks.wait()).await.is_err() {
        tracing::warn!("some sockets did not close in time");
    }
    sweeper.abort();
    node.sessions.wipe();
    node.channels.wipe();
    tracing::info!("stopped: every session key is wiped");
}
