//! `fabstir proxy`: OpenAI's API on this machine. What programs ask of it goes sealed to the node, over one session of
//! version 2 that all of them share; nothing leaves this machine in the clear, and nobody but this machine's user is
//! listened to.
//!
//! [`guard`] says who may ask, [`chat`] and [`responses`] answer in OpenAI's shapes, [`messages`] in Anthropic's, [`fault`]
//! says what went wrong in any of them.

mod chat;
mod fault;
mod guard;
mod messages;
mod models;
mod piece;
mod responses;

use std::{
    io::{self, Write as _},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    middleware,
    routing::{get, post},
};
use fabstir_client::{Answer, Op, Session};
use fabstir_protocol::ethereum::Address;
use tokio::{net::TcpListener, sync::Mutex};
use zeroize::Zeroizing;

use crate::{
    args::{Connection, Proxy},
    connect::Prepared,
    failure::{Exit, Failure},
    keys,
};
use fault::Fault;

/// Longest body that is read; the node's own bound is lower, and says so in words.
const MAX_BODY: usize = 32 << 20;
/// How long one session is used: what lets this machine speak for its wallet lasts a day.
const LONGEST_SESSION: Duration = Duration::from_secs(12 * 60 * 60);

pub(crate) async fn run(proxy: Proxy) -> Result<Exit, Failure> {
    if !proxy.listen.ip().is_loopback() {
        let what = "the proxy is for this machine alone, for what reaches it is not sealed yet: --listen 127.0.0.1:8787";
        return Err(Failure::new(Exit::Usage, what));
    }
    let token_file = keys::config_file("proxy.token")?;
    let token = if proxy.no_auth { None } else { Some(token(&token_file)?) };
    let Some(node) = proxy.node.filter(|_| !proxy.env) else {
        let mut out = io::stdout().lock();
        writeln!(out, "export OPENAI_BASE_URL=http://{}/v1", proxy.listen)?;
        let token = token.as_deref().map_or("none", |token| token.as_str());
        writeln!(out, "export OPENAI_API_KEY={token}")?;
        writeln!(out, "export ANTHROPIC_BASE_URL=http://{}", proxy.listen)?;
        writeln!(out, "export ANTHROPIC_API_KEY={token}")?;
        return Ok(Exit::Ok);
    };
    let connection = Connection { node, how: proxy.how };
    if connection.how.protocol != 2 {
        return Err(Failure::new(Exit::Usage, "the proxy speaks version 2 alone: leave --protocol out"));
    }
    if connection.how.capture.is_some() {
        return Err(Failure::new(Exit::Usage, "--capture shows one session: use it with ask or chat"));
    }
    // What is wrong with the node or the way to it is said now, and not to the first program that asks.
    let node = tokio::select! {
        node = Node::reach(connection) => Arc::new(node?),
        _ = tokio::signal::ctrl_c() => return Ok(Exit::Interrupted),
    };
    let cannot = |error| Failure::new(Exit::Usage, format!("cannot listen on {}: {error}", proxy.listen));
    let listener = TcpListener::bind(proxy.listen).await.map_err(cannot)?;
    let address = listener.local_addr().map_err(cannot)?;
    writeln!(io::stdout().lock(), "http://{address}/v1")?;
    let mut err = io::stderr().lock();
    // Where nobody listens there is nobody to tell.
    let _ = writeln!(err, "sealed to {}; its operator can read what is asked", node.address.to_checksum());
    let _ = if token.is_some() {
        writeln!(err, "the token is in {}", token_file.display())
    } else {
        writeln!(err, "without a token: every program of this machine may ask in your name")
    };
    drop(err);

    let routes = routes(Arc::clone(&node), guard::Guard::new(address, token));
    let ended = tokio::select! {
        served = axum::serve(listener, routes) => served.map(|()| Exit::Ok).map_err(cannot),
        _ = tokio::signal::ctrl_c() => Ok(Exit::Interrupted),
    };
    // Who opens one now may take long: nobody waits for that.
    let held = node.session.try_lock().ok().and_then(|mut held| held.take());
    if let Some((session, _)) = held {
        session.close().await;
    }
    ended
}

fn routes(node: Arc<Node>, guard: guard::Guard) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(chat::chat))
        .route("/v1/completions", post(chat::completions))
        .route("/v1/responses", post(responses::responses))
        .route("/v1/messages", post(messages::messages))
        .route("/v1/embeddings", post(chat::embeddings))
        .route("/v1/models", get(models::list))
        // A name may have slashes in it.
        .route("/v1/models/{*id}", get(models::one))
        .fallback(async || Fault::not_found())
        .layer(middleware::from_fn_with_state(Arc::new(guard), guard::check))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(node)
}

/// The node, and the session with it that all requests share.
struct Node {
    connection: Connection,
    address: Address,
    /// With the time from when a new one takes its place.
    session: Mutex<Option<(Session, Instant)>>,
}

impl Node {
    async fn reach(connection: Connection) -> Result<Self, Failure> {
        let prepared = Prepared::from(&connection).await?;
        let address = prepared.address();
        let session = prepared.session().await?;
        Ok(Self { connection, address, session: Mutex::new(Some(dated(session))) })
    }

    /// The session; a new one where the last has ended.
    async fn session(&self) -> Result<Session, Failure> {
        let mut held = self.session.lock().await;
        let now = Instant::now();
        if let Some((session, _)) = held.as_ref().filter(|(session, until)| session.is_open() && now < *until)
        {
            return Ok(session.clone());
        }
        let session = Prepared::from(&self.connection).await?.session().await?;
        // Answers that run in the old one have it until they end.
        *held = Some(dated(session.clone()));
        Ok(session)
    }

    /// Asks once, in whatever session there is.
    async fn ask(&self, op: Op, json: &str) -> Result<(Session, Answer), Fault> {
        let session = self.session().await?;
        match session.ask_json(op, json).await {
            Ok(answer) => Ok((session, answer)),
            // It ended before the question was sent: nothing is asked twice.
            Err(_) => {
                let session = self.session().await?;
                let answer = session.ask_json(op, json).await?;
                Ok((session, answer))
            }
        }
    }
}

fn dated(session: Session) -> (Session, Instant) {
    let now = Instant::now();
    (session, now.checked_add(LONGEST_SESSION).unwrap_or(now))
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
