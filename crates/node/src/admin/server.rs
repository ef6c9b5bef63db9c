//! The node's side: who may ask, and what is answered.

use std::{sync::Arc, sync::atomic::Ordering};

use axum::{
    Router,
    extract::{Query, State},
    http::StatusCode,
    response::{IntoResponse as _, Response},
    routing::{MethodFilter, on},
};
use jiff::civil::Date;
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Deserialize;
use tokio::time::Instant;

use super::{AdminAnswer, AdminRequest, AdminSocket, Status};
use crate::{
    aside::{Aside, pause},
    audit, metrics,
    node::{Node, NodeStanding},
    reload::reload,
};

/// Serves the operator until the process ends: a node that drains can still be asked how far it is.
pub async fn serve(socket: AdminSocket, node: Arc<Node>, metrics: PrometheusHandle) {
    let own = rustix::process::geteuid().as_raw();
    let aside = Aside::new(router(Arc::clone(&node), metrics), node.config.header_timeout);
    loop {
        match socket.listener.accept().await {
            Ok((peer, _)) => match peer.peer_cred().map(|cred| cred.uid()) {
                Ok(user) if is_operator(user, own) => aside.serve(peer),
                user => audit::no_operator(user.ok()),
            },
            Err(error) => pause(&error).await,
        }
    }
}

/// Whether the process at the other end is of the node's own user, or of root. The socket's mode says so too; where it
/// was changed, this still holds.
fn is_operator(user: u32, own: u32) -> bool {
    user == own || user == 0
}

/// What every handler may use.
#[derive(Clone)]
struct Desk {
    node: Arc<Node>,
    metrics: PrometheusHandle,
}

fn router(node: Arc<Node>, metrics: PrometheusHandle) -> Router {
    let routes = AdminRequest::ALL.into_iter().fold(Router::new(), |router, request| {
        let route = request.route();
        let method = if route.method == "POST" { MethodFilter::POST } else { MethodFilter::GET };
        let handler =
            async move |State(desk): State<Desk>, query: Query<Asked>| respond(&desk, request, query.0).await;
        router.route(route.path, on(method, handler))
    });
    routes
        .fallback(async || refuse(StatusCode::NOT_FOUND, "there is no such request"))
        .with_state(Desk { node, metrics })
}

/// What stands behind the question mark.
#[derive(Deserialize)]
struct Asked {
    day: Option<String>,
}

async fn respond(desk: &Desk, request: AdminRequest, asked: Asked) -> Response {
    let request = match (request, asked.day.as_deref().map(str::parse::<Date>)) {
        (AdminRequest::Usage(_), Some(Ok(day))) => AdminRequest::Usage(Some(day)),
        (AdminRequest::Usage(_), Some(Err(_))) => {
            return refuse(StatusCode::BAD_REQUEST, "a day looks like 2026-11-25");
        }
        (request, _) => request,
    };
    say(StatusCode::OK, &answer(desk, request).await)
}

async fn answer(Desk { node, metrics: handle }: &Desk, request: AdminRequest) -> AdminAnswer {
    match request {
        AdminRequest::Status => AdminAnswer::Status(status(node)),
        AdminRequest::Sessions => {
            let mut lines = node.sessions.lines_in_grace(Instant::now());
            lines.extend(node.ledger.sessions());
            AdminAnswer::Sessions(lines)
        }
        AdminRequest::Usage(day) => AdminAnswer::Usage(node.ledger.usage(day)),
        AdminRequest::Metrics => AdminAnswer::Metrics(metrics::render(node, handle)),
        AdminRequest::Drain => {
            audit::operator("drain");
            node.draining.cancel();
            AdminAnswer::Draining { seconds: node.config.drain.as_secs() }
        }
        AdminRequest::Reload => {
            audit::operator("reload");
            AdminAnswer::Reloaded(reload(node).await)
        }
    }
}

fn status(node: &Node) -> Status {
    let engine = node.engine.status();
    let state = match node.standing() {
        NodeStanding::Serving => "serving",
        NodeStanding::Draining => "draining",
        NodeStanding::EngineNotReady => "engine not ready",
        NodeStanding::KeyNotReady => "key not ready",
    };
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        state: state.to_owned(),
        pid: std::process::id(),
        uptime_seconds: node.clock.uptime().as_secs(),
        address: node.identity().map(|identity| identity.key.address().to_string()),
        models: node.engine.models().iter().map(|model| model.name.clone()).collect(),
        connections: node.connections.load(Ordering::Relaxed),
        sessions: node.ledger.sessions().len(),
        waiting: engine.waiting,
        running: engine.running,
        engine_restarts: engine.restarts,
    }
}

fn refuse(status: StatusCode, message: &str) -> Response {
    say(status, &AdminAnswer::Refused { message: message.to_owned() })
}

fn say(status: StatusCode, answer: &AdminAnswer) -> Response {
    (status, axum::Json(answer)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operator_is_the_nodes_own_user_or_root() {
        assert!(is_operator(1000, 1000) && is_operator(0, 1000));
        assert!(!is_operator(1001, 1000) && !is_operator(1000, 0));
    }

    #[test]
    fn no_two_requests_have_one_route() {
        let routes = AdminRequest::ALL.map(|request| request.route().path);
        let different: std::collections::HashSet<_> = routes.iter().collect();
        assert_eq!(different.len(), routes.len());
    }
}
