//! `fabstir proxy`: OpenAI's API on this machine. What programs ask of it goes sealed to a node, over one session of
//! version 2 with each that all of them share; nothing leaves this machine in the clear, and nobody but this machine's user is
//! listened to.
//!
//! [`nodes`] says which node is asked, [`guard`] who may ask, [`chat`] and [`responses`] answer in OpenAI's shapes, [`messages`] in Anthropic's, [`fault`]
//! says what went wrong in any of them. [`page`] is the chat page, which seals by itself.

mod chat;
mod fault;
mod guard;
mod messages;
mod models;
mod nodes;
mod page;
mod piece;
mod responses;

use std::{
    io::{self, Write as _},
    net::SocketAddr,
    path::Path,
    sync::Arc,
};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::Uri,
    middleware,
    routing::{get, post},
};
use tokio::net::TcpListener;
use url::Url;
use zeroize::Zeroizing;

use crate::{
    args::{Access, Connection, Proxy},
    failure::{Exit, Failure},
    identity::Pin,
    keys,
};
use fault::Fault;
use nodes::Nodes;

/// Longest body that is read; the node's own bound is lower, and says so in words.
const MAX_BODY: usize = 32 << 20;

pub(crate) async fn run(proxy: Proxy) -> Result<Exit, Failure> {
    if !proxy.listen.ip().is_loopback() {
        let what = "the proxy is for this machine alone, for what reaches it is not sealed yet: --listen 127.0.0.1:8787";
        return Err(Failure::new(Exit::Usage, what));
    }
    let token_file = keys::config_file("proxy.token")?;
    let token = if proxy.no_auth { None } else { Some(token(&token_file)?) };
    if proxy.env || proxy.node.is_empty() {
        print_settings(proxy.listen, token.as_deref().map(String::as_str))?;
        return Ok(Exit::Ok);
    }
    let connections = connections(proxy.node, &proxy.node_key, &proxy.how)?;
    // What is wrong with the node or the way to it is said now, and not to the first program that asks.
    let nodes = tokio::select! {
        nodes = Nodes::reach(connections) => Arc::new(nodes?),
        _ = tokio::signal::ctrl_c() => return Ok(Exit::Interrupted),
    };
    let cannot = |error| Failure::new(Exit::Usage, format!("cannot listen on {}: {error}", proxy.listen));
    let listener = TcpListener::bind(proxy.listen).await.map_err(cannot)?;
    let address = listener.local_addr().map_err(cannot)?;
    writeln!(io::stdout().lock(), "http://{address}/v1")?;
    let mut err = io::stderr().lock();
    // Where nobody listens there is nobody to tell.
    for node in nodes.addresses() {
        let _ = writeln!(err, "sealed to {}; its operator can read what is asked", node.to_checksum());
    }
    let _ = writeln!(err, "a chat page, sealed as well: http://{address}/");
    let _ = if token.is_some() {
        writeln!(err, "the token is in {}", token_file.display())
    } else {
        writeln!(err, "without a token: every program of this machine may ask in your name")
    };
    drop(err);

    let guard = Arc::new(guard::Guard::new(address, token));
    let here = middleware::from_fn_with_state(Arc::clone(&guard), guard::check_here);
    let page = page::routes(nodes.first()?).layer(here);
    let routes = routes(Arc::clone(&nodes), guard).merge(page);
    let ended = tokio::select! {
        served = axum::serve(listener, routes) => served.map(|()| Exit::Ok).map_err(cannot),
        _ = tokio::signal::ctrl_c() => Ok(Exit::Interrupted),
    };
    nodes.close().await;
    ended
}

/// The settings by which clients find the proxy, for a shell to read.
fn print_settings(listen: SocketAddr, token: Option<&str>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let token = token.unwrap_or("none");
    writeln!(out, "export OPENAI_BASE_URL=http://{listen}/v1")?;
    writeln!(out, "export OPENAI_API_KEY={token}")?;
    writeln!(out, "export ANTHROPIC_BASE_URL=http://{listen}")?;
    writeln!(out, "export ANTHROPIC_API_KEY={token}")
}

/// The n-th key belongs to the n-th node; the nodes without one must be known.
fn connections(nodes: Vec<Url>, keys: &[Pin], how: &Access) -> Result<Vec<Connection>, Failure> {
    let usage = |what| Err(Failure::new(Exit::Usage, what));
    if how.protocol != 2 {
        return usage("the proxy speaks version 2 alone: leave --protocol out");
    }
    if how.capture.is_some() {
        return usage("--capture shows one session: use it with ask or chat");
    }
    if keys.len() > nodes.len() {
        return usage("there are more --node-key than --node: the n-th key belongs to the n-th node");
    }
    let keys = keys.iter().copied().map(Some).chain(std::iter::repeat(None));
    let connections = nodes.into_iter().zip(keys);
    Ok(connections.map(|(node, node_key)| Connection { node, node_key, how: how.clone() }).collect())
}

fn routes(nodes: Arc<Nodes>, guard: Arc<guard::Guard>) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(chat::chat))
        .route("/v1/completions", post(chat::completions))
        .route("/v1/responses", post(responses::responses))
        .route("/v1/messages", post(messages::messages))
        .route("/v1/embeddings", post(chat::embeddings))
        .route("/v1/models", get(models::list))
        // A name may have slashes in it.
        .route("/v1/models/{*id}", get(models::one))
        .fallback(async |uri: Uri| guard::in_shape(uri.path(), Fault::not_found()))
        .method_not_allowed_fallback(async |uri: Uri| guard::in_shape(uri.path(), Fault::wrong_method()))
        .layer(middleware::from_fn_with_state(guard, guard::check))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(nodes)
}

/// The token by which programs show that they are this user's: made at first use, the same for every proxy after that.
fn token(file: &Path) -> Result<Zeroizing<String>, Failure> {
    if !file.exists() {
        let mut random = Zeroizing::new([0; 32]);
        getrandom::fill(random.as_mut_slice())
            .map_err(|error| Failure::new(Exit::Usage, format!("no random numbers: {error}")))?;
        let text = Zeroizing::new(format!("fabstir-{}\n", *Zeroizing::new(const_hex::encode(*random))));
        keys::write_once(file, text.as_bytes())?;
    }
    let text = keys::read_secret(file)?;
    let token = text.trim();
    if token.len() < 32 || !token.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        return Err(Failure::file(file, "this is no token; remove it, and a new one is made"));
    }
    Ok(Zeroizing::new(token.to_owned()))
}
