//! HTTP beside the port that clients come to: the metrics, and the operator's own socket. Few connections, short ones.

use std::{sync::Arc, time::Duration};

use axum::Router;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::Semaphore,
};

use crate::{http, node::Node};

/// Connections that are served at once; another one is closed.
const MOST: usize = 32;

/// How long a connection may stay.
const LONGEST: Duration = Duration::from_secs(60);

/// Connections of one listener.
#[derive(Clone, Debug)]
pub(crate) struct Aside {
    router: Router,
    places: Arc<Semaphore>,
    header_timeout: Duration,
}

impl Aside {
    pub(crate) fn new(router: Router, header_timeout: Duration) -> Self {
        Self { router, places: Arc::new(Semaphore::new(MOST)), header_timeout }
    }

    /// Serves a connection in a task of its own.
    pub(crate) fn serve(&self, socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else { return };
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.header_timeout)
            .serve_connection(TokioIo::new(socket), TowerToHyperService::new(self.router.clone()));
        tokio::spawn(async move {
            let _ = tokio::time::timeout(LONGEST, connection).await;
            drop(place);
        });
    }
}

/// Serves the metrics on METRICS_LISTEN until the node stops.
pub async fn serve_metrics(listener: TcpListener, node: Arc<Node>, metrics: PrometheusHandle) {
    let aside = Aside::new(http::metrics_router(Arc::clone(&node), metrics), node.config.header_timeout);
    while let Some(accepted) = node.stopping.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((socket, _)) => aside.serve(socket),
            Err(error) => pause(&error).await,
        }
    }
}

/// Out of descriptors, most likely: those that end make room.
pub(crate) async fn pause(error: &std::io::Error) {
    tracing::warn!(%error, "a connection could not be accepted");
    tokio::time::sleep(Duration::from_millis(100)).await;
}
