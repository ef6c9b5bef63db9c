//! The guide's protocol to the letter, without what was mended: a node and a client that an attack succeeds against. The
//! suite must find that, or its silence about the real ones says nothing. Not for any other use.
//!
//! What the node does wrong: it takes an init as often as it comes, and one session's key on any connection; it has no
//! memory of indices and nonces; it takes the aad from the frame; one key serves both directions; whoever signed the
//! ciphertext is the client. The client: it takes pieces in any order and number, and whatever came for the whole.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use fabstir_protocol::{
    aad::Aad,
    id::{Index, Nonce, SessionId},
    identity::{KeyMaterial, PrivateKey, PublicKey},
    seal::{Sealed, SessionKey},
    v1::{ClientFrame, ClientHello, Dialect, Inbound, InitContext},
};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
    time::timeout,
};
use tokio_tungstenite::{WebSocketStream, accept_async, connect_async};

use crate::{
    rng,
    run::Ledger,
    step::Class,
    talk::{Heard, Said, Target},
    wire::{Frame, Kind},
};

/// The classes in which this must fall.
pub const FALLS: [Class; 10] = [
    Class::Replay,
    Class::Reorder,
    Class::Drop,
    Class::Duplicate,
    Class::Truncate,
    Class::Splice,
    Class::Reflect,
    Class::Swap,
    Class::Elsewhere,
    Class::Inject,
];

/// A node after the letter of the guide, on loopback. Dropping it ends it.
#[derive(Debug)]
pub struct Reference {
    target: Target,
    prompts: Arc<Mutex<Vec<String>>>,
    task: AbortHandle,
}

impl Drop for Reference {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Debug)]
struct Node {
    key: PrivateKey,
    sessions: Mutex<HashMap<String, SessionKey>>,
    prompts: Arc<Mutex<Vec<String>>>,
}

impl Reference {
    /// Listens.
    ///
    /// # Errors
    /// Where there is no port.
    pub async fn start() -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("ws://{}/v1/ws", listener.local_addr()?);
        let key = PrivateKey::random(&mut rng());
        let target = Target { url, identity: key.address(), key: Some(key.public_key()) };
        let prompts: Arc<Mutex<Vec<String>>> = Arc::default();
        let node = Arc::new(Node { key, sessions: Mutex::default(), prompts: Arc::clone(&prompts) });
        let task = tokio::spawn(serve(listener, node)).abort_handle();
        Ok(Self { target, prompts, task })
    }

    /// How to reach it.
    pub fn target(&self) -> Target {
        self.target.clone()
    }

    /// What it has begun to answer.
    pub fn ledger(&self) -> Ledger {
        let prompts = Arc::clone(&self.prompts);
        Ledger::new(move |text| lock(&prompts).iter().filter(|prompt| prompt.contains(text)).count())
    }
}

async fn serve(listener: TcpListener, node: Arc<Node>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((socket, _)) = accepted else { continue };
                connections.spawn(connection(socket, Arc::clone(&node)));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(socket: TcpStream, node: Arc<Node>) -> Option<()> {
    let mut socket = accept_async(socket).await.ok()?;
    say(&mut socket, &json!({"type": "connected", "message": "the guide's node, unmended"})).await?;
    while let Some(Ok(message)) = socket.next().await {
        let Some(Frame::Text(text)) = Frame::of(message) else { continue };
        let json: Value = serde_json::from_str(&text).unwrap_or_default();
        let frames = match Frame::Text(text.clone()).kind() {
            Kind::Init => node.init(&text, &json).map(|ack| vec![ack]),
            Kind::Message => node.message(&json),
            Kind::Greeting
            | Kind::M1
            | Kind::M2
            | Kind::M3
            | Kind::R1
            | Kind::R2
            | Kind::Record
            | Kind::Ack
            | Kind::Chunk
            | Kind::Response
            | Kind::StreamEnd
            | Kind::Other => None,
        };
        let refused = || vec![json!({"type": "error", "code": "REFUSED", "message": "refused"})];
        for frame in frames.unwrap_or_else(refused) {
            say(&mut socket, &frame).await?;
        }
    }
    Some(())
}

async fn say(socket: &mut WebSocketStream<TcpStream>, frame: &Value) -> Option<()> {
    socket.send(Frame::Text(frame.to_string()).into()).await.ok()
}

impl Node {
    fn init(&self, text: &str, json: &Value) -> Option<Value> {
        let ClientFrame::SessionInit(id, raw) = Inbound::decode(text).ok()?.frame else { return None };
        let id: SessionId = id;
        let opened = raw.read(id.clone()).ok()?.open(&self.key).ok()?;
        let client = opened.authenticate().ok()?.owner.address();
        let ephemeral: PublicKey = json.pointer("/payload/ephPubHex")?.as_str()?.parse().ok()?;
        let key = self.key.agree(&ephemeral).derive(KeyMaterial::Point).ok()?;
        lock(&self.sessions).insert(id.as_str().to_owned(), key);
        Some(json!({
            "type": "session_init_ack", "status": "success",
            "session_id": id.as_str(), "client_address": client.to_string(),
        }))
    }

    fn message(&self, json: &Value) -> Option<Vec<Value>> {
        let id = json.get("session_id")?.as_str()?;
        let sessions = lock(&self.sessions);
        let key = sessions.get(id)?;
        let prompt = open(key, json)?;
        lock(&self.prompts).push(prompt.clone());
        let mut frames = Vec::new();
        for (index, word) in (0..).zip(prompt.split_inclusive(' ')) {
            let mut frame = sealed(key, id, "encrypted_chunk", Aad::Chunk(Index::new(index)), word)?;
            frame.as_object_mut()?.insert("index".into(), json!(index));
            frames.push(frame);
        }
        frames.push(sealed(key, id, "encrypted_response", Aad::Final, "stop")?);
        frames.push(json!({"type": "stream_end", "session_id": id, "reason": "complete"}));
        Some(frames)
    }
}

fn sealed(key: &SessionKey, id: &str, kind: &str, aad: Aad, words: &str) -> Option<Value> {
    let nonce = Nonce::random(&mut rng());
    let Sealed { nonce, ciphertext } = key.seal(nonce, aad, words.as_bytes()).ok()?;
    Some(json!({
        "type": kind,
        "session_id": id,
        "payload": {
            "ciphertextHex": const_hex::encode(ciphertext),
            "nonceHex": const_hex::encode(nonce.as_bytes()),
            "aadHex": const_hex::encode(aad.to_string()),
        },
    }))
}

/// Opens a frame as what it says it is.
fn open(key: &SessionKey, json: &Value) -> Option<String> {
    let field = |name: &str| {
        let hex = json.pointer(&format!("/payload/{name}")).and_then(Value::as_str)?;
        const_hex::decode(hex).ok()
    };
    let nonce: [u8; Nonce::LEN] = field("nonceHex")?.try_into().ok()?;
    let sealed = Sealed { nonce: Nonce::from(nonce), ciphertext: field("ciphertextHex")? };
    let aad = said_to_be(std::str::from_utf8(&field("aadHex")?).ok()?)?;
    let plaintext = key.open(&sealed, aad).ok()?;
    String::from_utf8(plaintext.as_bytes().to_vec()).ok()
}

fn said_to_be(text: &str) -> Option<Aad> {
    let numbered = |prefix: &str| text.strip_prefix(prefix)?.parse().ok().map(Index::new);
    match text {
        "" => Some(Aad::Empty),
        "session_init" => Some(Aad::SessionInit),
        "final" => Some(Aad::Final),
        _ => numbered("message_").map(Aad::Message).or_else(|| numbered("chunk_").map(Aad::Chunk)),
    }
}

/// The client after the letter of the guide.
pub(crate) async fn ask(
    url: &str,
    node: Option<&PublicKey>,
    wallet: &PrivateKey,
    silence: Duration,
    questions: &[String],
    heard: &mut Heard,
) -> Result<(), String> {
    let failed = |what: &str| what.to_owned();
    let number = getrandom::u64().map_err(|_| failed("no randomness"))?.to_string();
    let hello = ClientHello {
        node_key: node.ok_or_else(|| failed("no key"))?,
        client_key: wallet,
        id: SessionId::try_from(number.as_str()).map_err(|_| failed("no id"))?,
        context: InitContext::default(),
        dialect: Dialect::GuideTypescript,
        timestamp: None,
        claim: false,
    };
    let (init, session) = hello.start(&mut rng()).map_err(|_| failed("no init"))?;
    let key = SessionKey::take(&mut session.expose_key().to_owned()).map_err(|_| failed("no key"))?;
    let (mut socket, _) = connect_async(url).await.map_err(|error| error.to_string())?;
    let mut send = Vec::from([(init, Kind::Ack)]);
    for (index, question) in (0..).zip(questions) {
        let frame = sealed(&key, &number, "encrypted_message", Aad::Message(Index::new(index)), question);
        send.push((frame.ok_or_else(|| failed("not sealed"))?.to_string(), Kind::StreamEnd));
    }
    for (frame, until) in send {
        socket.send(Frame::Text(frame).into()).await.map_err(|error| error.to_string())?;
        let mut text = String::new();
        loop {
            let next = timeout(silence, socket.next()).await.map_err(|_| failed("silence"))?;
            let Some(Ok(message)) = next else { break };
            let Some(frame @ Frame::Text(_)) = Frame::of(message) else { continue };
            let kind = frame.kind();
            let Frame::Text(words) = &frame else { continue };
            let json: Value = serde_json::from_str(words).map_err(|_| failed("not JSON"))?;
            if kind == until {
                break;
            }
            match (kind, json.get("type").and_then(Value::as_str)) {
                (Kind::Chunk, _) => text.push_str(&open(&key, &json).ok_or_else(|| failed("not opened"))?),
                (Kind::Response, _) => drop(open(&key, &json).ok_or_else(|| failed("not opened"))?),
                (_, Some("error")) => return Err(failed("the node refused")),
                _ => {}
            }
        }
        if until == Kind::StreamEnd && text.is_empty() {
            return Err(failed("nothing came"));
        }
        if until == Kind::StreamEnd {
            heard.push(Ok(Said { text: text.trim().to_owned(), reason: "stop".into(), tokens: None }));
        }
    }
    let _ = socket.close(None).await;
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
