//! A node on a port of its own, and somebody at the other end of a real socket.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "each test file uses its part of this, and a test is meant to panic"
)]

use std::{path::PathBuf, sync::Arc, time::Duration};

use fabstir_custody::Secret;
use fabstir_engine::{EchoEngine, Engine, LlamaConfig, LlamaEngine};
use fabstir_llm_node::{
    config::{Args, Config},
    crypto::NodeKey,
    listener::Listener,
    metrics,
    node::Node,
    server,
    tls::Tls,
};
use fabstir_protocol::{
    aad::Aad,
    id::SessionId,
    identity::{PrivateKey, PublicKey},
    v1::{ClientHello, ClientSession, Dialect, InitContext, Reply},
};
use futures_util::{SinkExt as _, StreamExt as _};
use rand_core::{CryptoRng, Rng as _};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::timeout,
};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, tungstenite::Message};

/// How long anything may take before a test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn rng() -> impl CryptoRng {
    rand_core::UnwrapErr(getrandom::SysRng)
}

/// Where the default model is.
pub(crate) fn model_path() -> PathBuf {
    let path = std::env::var_os("FABSTIR_TEST_MODEL").map_or_else(
        || {
            let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
            let cache =
                cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache"))).unwrap();
            cache.join("fabstir/models/SmolLM2-135M-Instruct.Q4_1.gguf")
        },
        PathBuf::from,
    );
    assert!(path.is_file(), "{} is missing: run scripts/fetch-model.sh", path.display());
    path
}

/// The default model, ready to answer.
pub(crate) fn llama(max_sequences: u32) -> Arc<LlamaEngine> {
    llama_with(max_sequences, None)
}

/// The same with a chat template of the test's own.
pub(crate) fn llama_with(max_sequences: u32, chat_template: Option<String>) -> Arc<LlamaEngine> {
    let config = LlamaConfig {
        chat_template,
        context_tokens: 512,
        max_sequences: Some(max_sequences),
        threads: Some(1),
        max_waiting: 8,
        prefill_chunk: 128,
        stalled_reader: PATIENCE,
        ..LlamaConfig::new(model_path(), "smollm2")
    };
    Arc::new(LlamaEngine::load(config, |_| {}).unwrap())
}

pub(crate) fn echo() -> Arc<dyn Engine> {
    Arc::new(EchoEngine::new("echo", 2048))
}

/// Says a word every so often.
pub(crate) fn slow_echo(delay: Duration) -> Arc<dyn Engine> {
    Arc::new(EchoEngine::new("echo", 2048).with_delay(delay))
}

/// A running node.
pub(crate) struct TestNode {
    pub(crate) address: std::net::SocketAddr,
    pub(crate) key: PublicKey,
    pub(crate) node: Arc<Node>,
    pub(crate) tls: Option<Arc<Tls>>,
    task: Option<JoinHandle<()>>,
}

/// The settings of a node with a fresh key.
pub(crate) fn settings(flags: &[&str]) -> (Config, Option<NodeKey>, String) {
    let mut bytes = [0; 32];
    rng().fill_bytes(&mut bytes);
    let key = const_hex::encode(bytes);
    let argv = ["node"].iter().chain(flags).map(std::ffi::OsString::from);
    let text = Secret::from(key.as_str());
    let (mut config, sources) = Args::read(argv, &|_| None).unwrap().resolve(Some(text), None).unwrap();
    let node_key = NodeKey::load(sources.current.as_ref().unwrap(), config.test_keys).ok();
    config.inits_per_minute = 60_000.try_into().unwrap();
    config.inits_per_minute_per_address = 60_000.try_into().unwrap();
    config.messages_per_minute = 60_000.try_into().unwrap();
    config.sweep_interval = Duration::from_millis(20);
    (config, node_key, key)
}

impl TestNode {
    pub(crate) async fn start(engine: Arc<dyn Engine>) -> Self {
        Self::with(engine, &[], |_| {}).await
    }

    pub(crate) async fn with(
        engine: Arc<dyn Engine>,
        flags: &[&str],
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let (mut config, key, _) = settings(flags);
        change(&mut config);
        Self::run(config, key, engine).await
    }

    pub(crate) async fn run(config: Config, key: Option<NodeKey>, engine: Arc<dyn Engine>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let public =
            key.as_ref().map_or_else(|| PrivateKey::random(&mut rng()).public_key(), |key| *key.public());
        let metrics = metrics::start().unwrap();
        let tls = config.tls.as_ref().map(Tls::load).transpose().unwrap();
        let node = Node::new(config, key, engine).unwrap();
        let listener = Listener::new(listener, tls.clone());
        let task = tokio::spawn(server::run(listener, Arc::clone(&node), metrics));
        Self { address, key: public, node, tls, task: Some(task) }
    }

    pub(crate) async fn connect(&self) -> Peer {
        let (socket, _) =
            tokio_tungstenite::connect_async(format!("ws://{}/v1/ws", self.address)).await.unwrap();
        let mut peer = Peer { socket, node_key: self.key };
        assert_eq!(peer.receive().await["type"], "connected");
        peer
    }

    /// Drains, and waits for the end.
    pub(crate) async fn stop(mut self) {
        self.node.draining.cancel();
        let task = self.task.take().unwrap();
        timeout(PATIENCE, task).await.expect("the node stops in time").unwrap();
    }

    /// One HTTP request by hand: status and body.
    pub(crate) async fn http(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> (u16, String) {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut socket = TcpStream::connect(self.address).await.unwrap();
        let mut request = format!("{method} {path} HTTP/1.1\r\nhost: node\r\nconnection: close\r\n");
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str(&format!("content-length: {}\r\n\r\n{body}", body.len()));
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        timeout(PATIENCE, socket.read_to_end(&mut answer)).await.unwrap().unwrap();
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
        (status, body)
    }

    pub(crate) async fn get_json(&self, path: &str) -> Value {
        let (_, body) = self.http("GET", path, &[], "").await;
        // A chunked body has its sizes around it; the JSON is from the first brace to the last.
        let (from, to) = (body.find('{').unwrap(), body.rfind('}').unwrap());
        serde_json::from_str(&body[from..=to]).unwrap()
    }
}

/// Somebody at the other end of a socket, with or without good intentions.
pub(crate) struct Peer {
    pub(crate) socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    pub(crate) node_key: PublicKey,
}

/// A session as its client holds it.
pub(crate) struct Opened {
    pub(crate) session: ClientSession,
    pub(crate) ack: Value,
    pub(crate) init: String,
}

pub(crate) fn wallet() -> PrivateKey {
    PrivateKey::random(&mut rng())
}

/// The text of an init, and the session that it opens.
pub(crate) fn init(
    node_key: &PublicKey,
    wallet: &PrivateKey,
    id: &str,
    dialect: Dialect,
    claim: bool,
) -> (String, ClientSession) {
    let hello = ClientHello {
        node_key,
        client_key: wallet,
        id: SessionId::try_from(id).unwrap(),
        context: InitContext::default(),
        dialect,
        timestamp: None,
        claim,
    };
    hello.start(&mut rng()).unwrap()
}

/// Changes the payload of a frame.
pub(crate) fn edit(frame: &str, change: impl FnOnce(&mut Value)) -> String {
    let mut json: Value = serde_json::from_str(frame).unwrap();
    change(&mut json);
    json.to_string()
}

/// Flips one bit of a hex field.
pub(crate) fn flip(field: &mut Value, byte: usize, bit: u8) {
    let mut bytes = const_hex::decode(field.as_str().unwrap()).unwrap();
    bytes[byte] ^= 1 << bit;
    *field = json!(const_hex::encode(bytes));
}

/// A message frame sealed as `sealed_as` that says it is `claimed`.
pub(crate) fn message_frame(
    session: &ClientSession,
    id: &str,
    sealed_as: Aad,
    claimed: &str,
    words: &str,
) -> String {
    let sealed = session.seal_as(sealed_as, words.as_bytes(), &mut rng()).unwrap();
    json!({"type": "encrypted_message", "session_id": id, "payload": {
        "ciphertextHex": const_hex::encode(&sealed.ciphertext),
        "nonceHex": const_hex::encode(sealed.nonce.as_bytes()),
        "aadHex": const_hex::encode(claimed),
    }})
    .to_string()
}

/// An answer as it came in.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    pub(crate) text: String,
    /// What each chunk held.
    pub(crate) pieces: Vec<String>,
    pub(crate) chunks: usize,
    pub(crate) finish_reason: String,
    pub(crate) end: Value,
    pub(crate) frames: Vec<Value>,
}

impl Peer {
    pub(crate) async fn send(&mut self, frame: impl Into<String>) {
        self.socket.send(Message::text(frame.into())).await.unwrap();
    }

    /// The next text frame. Panics when the connection has ended.
    pub(crate) async fn receive(&mut self) -> Value {
        self.next().await.expect("the connection is open")
    }

    /// The next text frame, or `None` when the connection has ended.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        let socket = &mut self.socket;
        // One deadline for all of it: a node that only pings says nothing.
        let text = async move {
            loop {
                match socket.next().await {
                    Some(Ok(Message::Text(text))) => return Some(text),
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                    Some(Ok(_) | Err(_)) | None => return None,
                }
            }
        };
        let text = timeout(PATIENCE, text).await.expect("the node says something in time")?;
        Some(serde_json::from_str(text.as_str()).unwrap())
    }

    /// The code that the connection is closed with.
    pub(crate) async fn close_code(&mut self) -> Option<u16> {
        let socket = &mut self.socket;
        let code = async move {
            loop {
                match socket.next().await {
                    Some(Ok(Message::Close(frame))) => return frame.map(|frame| frame.code.into()),
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return None,
                }
            }
        };
        timeout(PATIENCE, code).await.expect("the node closes in time")
    }

    /// What the node says to a frame: the code of its refusal, or the type of its answer.
    pub(crate) async fn outcome(&mut self, frame: impl Into<String>) -> String {
        self.send(frame).await;
        let reply = self.receive().await;
        let word = if reply["type"] == "error" { &reply["code"] } else { &reply["type"] };
        word.as_str().unwrap().to_owned()
    }

    pub(crate) async fn open_as(&mut self, wallet: &PrivateKey, id: &str, dialect: Dialect) -> Opened {
        let (init, session) = init(&self.node_key, wallet, id, dialect, true);
        self.send(init.clone()).await;
        let ack = self.receive().await;
        assert_eq!(ack["type"], "session_init_ack", "{ack}");
        Opened { session, ack, init }
    }

    pub(crate) async fn open(&mut self, id: &str) -> Opened {
        self.open_as(&wallet(), id, Dialect::Deployed).await
    }

    /// Asks and hears the answer to its end.
    pub(crate) async fn ask(&mut self, session: &mut ClientSession, words: &str) -> Heard {
        let frame = session.message(words.as_bytes(), &mut rng()).unwrap();
        self.send(frame).await;
        self.hear(session).await
    }

    /// How an answer ended: its `stream_end`, or the error in its place.
    pub(crate) async fn hear_or_error(&mut self, _session: &ClientSession) -> Value {
        loop {
            let frame = self.receive().await;
            if frame["type"] == "stream_end" || frame["type"] == "error" {
                return frame;
            }
        }
    }

    /// Hears an answer to its end, opening everything in order.
    pub(crate) async fn hear(&mut self, session: &ClientSession) -> Heard {
        let mut heard = Heard::default();
        let mut answer = Some(session.answer());
        loop {
            let frame = self.receive().await;
            match Reply::decode(&frame.to_string()).unwrap() {
                Reply::Chunk { payload, .. } => {
                    let opened = session.open_chunk(answer.as_mut().unwrap(), &payload).unwrap();
                    let piece = std::str::from_utf8(opened.as_bytes()).unwrap();
                    heard.text.push_str(piece);
                    heard.pieces.push(piece.to_owned());
                    heard.chunks += 1;
                }
                Reply::Response { payload, .. } => {
                    let opened = session.open_final(answer.take().unwrap(), &payload).unwrap();
                    heard.finish_reason = String::from_utf8(opened.as_bytes().to_vec()).unwrap();
                }
                Reply::StreamEnd { .. } => {
                    heard.end = frame;
                    return heard;
                }
                other => panic!("not part of an answer: {other:?}"),
            }
            heard.frames.push(frame);
        }
    }
}

/// Waits for something that happens in its own time.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "never came: {what}");
        tokio::task::yield_now().await;
    }
}
