//! Accepts sockets, hands each to HTTP or WebSocket, and ends in order.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Router, extract::Request, http::HeaderMap};
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

use crate::{
    http,
    limits::{Limit, Party, Share},
    metrics,
    node::Node,
    patient::{Patient, Relieved},
    peer::{Peer, TrustedProxies},
};

/// How long sockets get to say goodbye once everything was cancelled.
const GOODBYE: Duration = Duration::from_secs(5);

/// How long a socket for which there is no room gets to hear so, and how many hear so at once.
const REFUSAL: Duration = Duration::from_secs(1);
const MOST_REFUSALS: usize = 64;

/// Serves until `node.draining` is cancelled; then takes nothing new, lets running answers finish for the
/// time that the settings give (or until `node.stopping`), closes what is left, and wipes every session.
pub async fn run(listener: TcpListener, node: Arc<Node>, metrics: PrometheusHandle) {
    let tasks = TaskTracker::new();
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
    let Some(open) = OpenConnection::count(node, peer.ip()) else {
        tracing::debug!(%peer, "refused: MAX_CONNECTIONS or MAX_CONNECTIONS_PER_NETWORK are open");
        refuse(socket, tasks);
        return;
    };
    // Frames are small and each is awaited by somebody.
    let _ = socket.set_nodelay(true);
    let router = router.clone();
    let node = Arc::clone(node);
    tasks.spawn(async move {
        let stream = Patient::new(socket, node.config.send_timeout, open.relieved.clone());
        let open = Arc::new(open);
        let proxies = node.config.trusted_proxies.clone();
        let service = router.map_request(move |mut request: Request<hyper::body::Incoming>| {
            warn_of_ignored(&proxies, peer.ip(), request.headers());
            let sender = proxies.sender(peer.ip(), request.headers());
            request.extensions_mut().insert(Peer(sender));
            // An upgraded socket outlives this task; it counts until it is gone.
            request.extensions_mut().insert(Arc::clone(&open));
            request.map(axum::body::Body::new)
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(node.config.header_timeout)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
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

/// Says once that somebody names whom they speak for, and is not believed: all who come that way count as one.
fn warn_of_ignored(proxies: &TrustedProxies, peer: IpAddr, headers: &HeaderMap) {
    static WARNED: AtomicBool = AtomicBool::new(false);
    if proxies.ignores(peer, headers) && !WARNED.swap(true, Ordering::Relaxed) {
        tracing::warn!(
            %peer,
            "a request says that it was forwarded, by somebody who is not in TRUSTED_PROXIES: it counts as that one's own. \
             If this is your proxy, add its address there"
        );
    }
}

/// An open socket, counted.
#[derive(Debug)]
pub(crate) struct OpenConnection {
    node: Arc<Node>,
    /// Of its network's; a trusted proxy's sockets are everybody's, and each request counts for who sent it.
    of_network: Option<Share<Party>>,
    relieved: Relieved,
}

impl OpenConnection {
    /// One more, if there may be.
    fn count(node: &Arc<Node>, peer: IpAddr) -> Option<Self> {
        let number = node.connections.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let mut open = Self { node: Arc::clone(node), of_network: None, relieved: Relieved::default() };
        if number > node.config.max_connections {
            metrics::limit_hit(Limit::Connections);
            return None;
        }
        if !node.config.trusted_proxies.trusts(peer) {
            open.of_network = Some(node.limits.connection(peer).ok()?);
        }
        Some(open)
    }

    /// Whether it counts for the network at its other end.
    pub(crate) fn is_counted(&self) -> bool {
        self.of_network.is_some()
    }

    /// The socket is a WebSocket from here on.
    pub(crate) fn becomes_websocket(&self) {
        self.relieved.relieve();
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

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use fabstir_engine::EchoEngine;

    use super::*;
    use crate::config::Args;

    fn node(flags: &[&str]) -> Arc<Node> {
        let argv = ["node"].iter().chain(flags).map(OsString::from);
        let (config, key) = Args::read(argv, &|_: &str| None).unwrap().resolve(|_| None).unwrap();
        Node::new(config, key, Arc::new(EchoEngine::new("echo", 64)))
    }

    fn count(node: &Arc<Node>, peer: &str) -> Option<OpenConnection> {
        OpenConnection::count(node, peer.parse().unwrap())
    }

    #[test]
    fn sockets_count_for_their_network_and_those_of_a_trusted_proxy_for_nobody() {
        let node = node(&["--max-connections-per-network", "1", "--trusted-proxies", "192.0.2.9"]);
        let first = count(&node, "192.0.2.1").unwrap();
        assert!(count(&node, "192.0.2.1").is_none());
        let _other = count(&node, "192.0.2.2").unwrap();
        let _proxied = (count(&node, "192.0.2.9").unwrap(), count(&node, "192.0.2.9").unwrap());
        drop(first);
        count(&node, "192.0.2.1").unwrap();
        // What was refused is counted no more.
        assert_eq!(node.connections.load(Ordering::Relaxed), 3);
    }
}
