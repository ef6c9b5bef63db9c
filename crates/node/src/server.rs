//! Accepts sockets, hands each to HTTP or WebSocket, and ends in order.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    extract::Request,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::Response,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::JoinHandle,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;

use crate::{
    aside::pause,
    http,
    ledger::WRITE_EVERY,
    limits::{Limit, Party, Share},
    listener::Listener,
    metrics,
    node::Node,
    patient::{Patient, Relieved},
    peer::{Peer, TrustedProxies},
    proxy_protocol::{Caller, ProxyProtocol},
    systemd,
    tls::Tls,
};

/// How long sockets get to say goodbye once everything was cancelled.
const GOODBYE: Duration = Duration::from_secs(5);

/// How often what was measured is put into its buckets.
const SUM_UP_EVERY: Duration = Duration::from_secs(5);

/// How long answers get to let go of their accounts after that.
const SETTLING: Duration = Duration::from_secs(1);

/// How long a socket for which there is no room gets to hear so, and how many hear so at once.
const REFUSAL: Duration = Duration::from_secs(1);
const MOST_REFUSALS: usize = 64;

/// Serves until `node.draining` is cancelled; then takes no new work, lets running answers finish for the time that the
/// settings give (or until `node.stopping`), closes what is left, and wipes every session.
///
/// Who comes meanwhile is told so: a socket of the node's own stays open. One that was passed on is left alone: who
/// comes there waits for the next process.
pub async fn run(listener: impl Into<Listener>, node: Arc<Node>, metrics: PrometheusHandle) {
    let listener = listener.into();
    if node.config.tls.is_some() && listener.tls().is_none() {
        tracing::error!("the settings ask for TLS, and the listener has none: nothing is served");
        return;
    }
    let tasks = TaskTracker::new();
    if let Some(tls) = listener.tls() {
        tasks.spawn(Arc::clone(tls).watch(node.stopping.clone()));
        tls.reload_with(&node.reloads);
    }
    let router = http::router(Arc::clone(&node), metrics.clone(), tasks.clone());
    let sweeper = tasks.spawn(Arc::clone(&node).sweep());
    let writer = tasks.spawn(write_usage(Arc::clone(&node)));
    let keeper = tasks.spawn(sum_up(metrics, node.stopping.clone()));
    while let Some(accepted) = node.draining.run_until_cancelled(listener.accept()).await {
        take((accepted, listener.tls()), &node, &router, &tasks).await;
    }
    let finished = finish(&node);
    tokio::pin!(finished);
    loop {
        tokio::select! {
            biased;
            () = &mut finished => break,
            accepted = listener.accept(), if !listener.is_inherited() => {
                take((accepted, listener.tls()), &node, &router, &tasks).await;
            }
        }
    }
    drop(listener);
    end(&node, &tasks, [sweeper, writer, keeper]).await;
}

async fn take(
    (accepted, tls): (io::Result<(TcpStream, SocketAddr)>, Option<&Arc<Tls>>),
    node: &Arc<Node>,
    router: &Router,
    tasks: &TaskTracker,
) {
    match accepted {
        Ok((socket, peer)) => accept((socket, tls), peer, node, router, tasks),
        Err(error) => pause(&error).await,
    }
}

/// Writes the usage down every so often.
async fn write_usage(node: Arc<Node>) {
    let mut ticks = tokio::time::interval(WRITE_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while node.stopping.run_until_cancelled(ticks.tick()).await.is_some() {
        write_now(&node).await;
    }
}

/// Puts what was measured into its buckets every so often: the recorder keeps it one by one until then, and would for
/// ever where nobody reads the metrics.
async fn sum_up(metrics: PrometheusHandle, stopping: CancellationToken) {
    let mut ticks = tokio::time::interval(SUM_UP_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stopping.run_until_cancelled(ticks.tick()).await.is_some() {
        metrics.run_upkeep();
    }
}

async fn write_now(node: &Arc<Node>) {
    let ledger = Arc::clone(&node.ledger);
    let _ = tokio::task::spawn_blocking(move || ledger.write()).await;
}

fn accept(
    (socket, tls): (TcpStream, Option<&Arc<Tls>>),
    peer: SocketAddr,
    node: &Arc<Node>,
    router: &Router,
    tasks: &TaskTracker,
) {
    let tls = tls.map(Arc::clone);
    let protocol = node.config.proxy_protocol;
    if !protocol.admits(peer, &node.config.trusted_proxies) {
        return;
    }
    let Some(mut open) = OpenConnection::count(node, peer.ip()) else {
        tracing::debug!(%peer, "refused: MAX_CONNECTIONS or MAX_CONNECTIONS_PER_NETWORK are open");
        tasks.spawn(refuse((socket, tls), peer, protocol));
        return;
    };
    // Frames are small and each is awaited by somebody.
    let _ = socket.set_nodelay(true);
    let router = router.clone();
    let node = Arc::clone(node);
    // Who comes while the node drains gets one answer: a connection that is shut down before it has asked gets none.
    let late = node.draining.is_cancelled();
    tasks.spawn(async move {
        let (mut socket, limit) = (socket, node.config.header_timeout);
        let begun = protocol.begin(&mut socket, peer, limit);
        let Some(caller) = unless_draining(begun, (&node, late)).await else { return };
        if !open.is_of(caller) {
            tracing::debug!(peer = %caller.address, "refused: MAX_CONNECTIONS_PER_NETWORK are open");
            drop(open);
            return refuse((socket, tls), caller.address, ProxyProtocol::Off).await;
        }
        let Some(tls) = tls else { return converse(socket, caller, open, router, (&node, late)).await };
        let shaken = tls.accept(socket, caller.address, limit);
        if let Some(inside) = unless_draining(shaken, (&node, late)).await {
            converse(inside, caller, open, router, (&node, late)).await;
        }
    });
}

/// What a connection begins with, unless the node drains meanwhile.
async fn unless_draining<T>(
    beginning: impl Future<Output = Option<T>>,
    (node, late): (&Node, bool),
) -> Option<T> {
    tokio::select! {
        begun = beginning => begun,
        () = node.draining.cancelled(), if !late => None,
    }
}

/// The only answer on its connection, unless that becomes a WebSocket.
fn last(mut response: Response) -> Response {
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Speaks HTTP on one connection to its end, or to its upgrade.
async fn converse(
    io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    caller: Caller,
    open: OpenConnection,
    router: Router,
    (node, late): (&Node, bool),
) {
    let stream = Patient::new(io, node.config.send_timeout, open.relieved.clone());
    let open = Arc::new(open);
    let (proxies, peer) = (node.config.trusted_proxies.clone(), caller.address);
    let service = router.map_request(move |mut request: Request<hyper::body::Incoming>| {
        warn_of_ignored(&proxies, peer.ip(), request.headers());
        let forwarded = || proxies.sender(peer.ip(), request.headers());
        let sender = if caller.may_forward { forwarded() } else { peer.ip() };
        request.extensions_mut().insert(Peer(sender));
        // An upgraded socket outlives this task; it counts until it is gone.
        request.extensions_mut().insert(Arc::clone(&open));
        request.map(axum::body::Body::new)
    });
    let service = service.map_response(move |response| if late { last(response) } else { response });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(node.config.header_timeout)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
        .with_upgrades();
    tokio::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = node.draining.cancelled(), if !late => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%peer, %error, "connection ended");
    }
}

/// Says that the node is full, in the words of every other refusal. A socket that was never read from would take its
/// answer with it when it is closed, so what the peer says is read for a moment; of too many at once none is.
async fn refuse((mut socket, tls): (TcpStream, Option<Arc<Tls>>), peer: SocketAddr, protocol: ProxyProtocol) {
    static REFUSALS: AtomicUsize = AtomicUsize::new(0);
    if REFUSALS.load(Ordering::Relaxed) >= MOST_REFUSALS {
        return;
    }
    REFUSALS.fetch_add(1, Ordering::Relaxed);
    let _ = timeout(REFUSAL, async {
        protocol.begin(&mut socket, peer, REFUSAL).await?;
        match tls {
            None => http::say_busy(socket).await.ok(),
            Some(tls) => http::say_busy(tls.accept(socket, peer, REFUSAL).await?).await.ok(),
        }
    })
    .await;
    REFUSALS.fetch_sub(1, Ordering::Relaxed);
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

    /// Counts it for the network of who a proxy said it is of, if there is room.
    fn is_of(&mut self, caller: Caller) -> bool {
        let (node, named) = (&self.node, caller.address.ip());
        if self.of_network.is_none() && !node.config.trusted_proxies.trusts(named) {
            self.of_network = node.limits.connection(named).ok();
            return self.of_network.is_some();
        }
        true
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

/// Waits until every answer has ended, as long as the settings say.
async fn finish(node: &Arc<Node>) {
    tracing::info!(
        event = "drain",
        seconds = node.config.drain.as_secs(),
        connections = node.connections.load(Ordering::Relaxed),
        "draining: running answers may finish, nothing new is taken"
    );
    systemd::stopping();
    let idle = async {
        tokio::time::sleep(node.config.drain_at_least).await;
        while node.connections.load(Ordering::Relaxed) > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let finished = timeout(node.config.drain, node.stopping.run_until_cancelled(idle));
    if !matches!(systemd::at_work("draining", finished).await, Ok(Some(()))) {
        tracing::warn!("not every answer finished in time: the rest is cancelled");
    }
}

async fn end(node: &Arc<Node>, tasks: &TaskTracker, forever: [JoinHandle<()>; 3]) {
    node.stopping.cancel();
    tasks.close();
    if timeout(GOODBYE, tasks.wait()).await.is_err() {
        tracing::warn!("some sockets did not close in time");
    }
    forever.iter().for_each(JoinHandle::abort);
    node.sessions.wipe();
    node.channels.wipe();
    // What answers cost is known when they have let go of their accounts.
    let settled = async {
        while !node.ledger.is_settled() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    if timeout(SETTLING, settled).await.is_err() {
        tracing::warn!("some answers did not end in time: the usage is written without them");
    }
    write_now(node).await;
    tracing::info!(
        event = "stop",
        uptime_seconds = node.clock.uptime().as_secs(),
        "stopped: every session key is wiped"
    );
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use fabstir_engine::EchoEngine;

    use super::*;
    use crate::config::Args;

    fn node(flags: &[&str]) -> Arc<Node> {
        let argv = ["node"].iter().chain(flags).map(OsString::from);
        let (config, _) = Args::read(argv, &|_: &str| None).unwrap().resolve(None, None).unwrap();
        Node::new(config, None::<crate::crypto::NodeKey>, Arc::new(EchoEngine::new("echo", 64))).unwrap()
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
