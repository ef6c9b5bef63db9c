//! A node that does what a test tells it to, one connection after the other. Tests only.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part of this")]

use std::net::{SocketAddr, TcpListener};

use fabstir_protocol::{
    Code,
    identity::{PrivateKey, PublicKey},
    v1::{AnswerSealer, ClientFrame, Inbound, NodeFrame, Session, StreamEndReason, Usage},
};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::{WebSocketStream, accept_async, tungstenite::Message};

pub fn rng() -> impl rand_core::CryptoRng {
    rand_core::UnwrapErr(getrandom::SysRng)
}

/// A node on a thread of its own, which ends with the test.
pub struct Node {
    pub public_key: PublicKey,
    pub address: SocketAddr,
}

impl Node {
    pub fn start<F: Future<Output = ()>>(script: impl Fn(Peer) -> F + Send + 'static) -> Self {
        Self::with_key(PrivateKey::random(&mut rng()), script)
    }

    pub fn with_key<F: Future<Output = ()>>(
        key: PrivateKey,
        script: impl Fn(Peer) -> F + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let (address, public_key) = (listener.local_addr().unwrap(), key.public_key());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    if let Some(peer) = Peer::accept(stream, &key).await {
                        script(peer).await;
                    }
                }
            });
        });
        Self { public_key, address }
    }

    pub fn url(&self) -> String {
        format!("ws://{}/v1/ws", self.address)
    }
}

/// The client that connected, its session open.
pub struct Peer {
    socket: WebSocketStream<TcpStream>,
    session: Session,
    id: String,
}

#[derive(Debug)]
pub enum Asked {
    Request(serde_json::Value),
    Cancel,
    Gone,
}

impl Peer {
    async fn accept(stream: TcpStream, key: &PrivateKey) -> Option<Self> {
        let mut socket = accept_async(stream).await.ok()?;
        let Some(Ok(Message::Text(text))) = socket.next().await else { return None };
        let Ok(Inbound { frame: ClientFrame::SessionInit(id, raw), .. }) = Inbound::decode(&text) else {
            panic!("not an init: {text}")
        };
        let Ok(established) = raw.read(id).unwrap().open(key) else {
            let error = error_frame(Code::DecryptionFailed);
            let _ = socket.send(Message::text(error)).await;
            return None;
        };
        let established = established.authenticate().unwrap();
        let id = established.id.as_str().to_owned();
        let ack = NodeFrame::SessionInitAck {
            status: "success",
            session_id: &id,
            job_id: None,
            chain_id: None,
            client_address: Some(established.owner.address().to_string()),
            message: "session",
            warning: None,
            id: None,
        };
        socket.send(Message::text(ack.encode())).await.ok()?;
        Some(Self { socket, session: established.session, id })
    }

    pub async fn asked(&mut self) -> Asked {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => match Inbound::decode(&text).unwrap().frame {
                    ClientFrame::Message(_, raw) => {
                        let plaintext = self.session.open(&raw.read().unwrap()).unwrap();
                        return Asked::Request(serde_json::from_slice(plaintext.as_bytes()).unwrap());
                    }
                    ClientFrame::Cancel(_) => return Asked::Cancel,
                    ClientFrame::SessionInit(..)
                    | ClientFrame::Ping
                    | ClientFrame::PlainInit(..)
                    | ClientFrame::PlainPrompt(..) => panic!("unexpected {text}"),
                },
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                _ => return Asked::Gone,
            }
        }
    }

    pub async fn request(&mut self) -> Option<serde_json::Value> {
        match self.asked().await {
            Asked::Request(request) => Some(request),
            Asked::Cancel => panic!("a cancel where a request was due"),
            Asked::Gone => None,
        }
    }

    pub fn sealer(&self) -> AnswerSealer {
        self.session.answer()
    }

    pub fn chunk(&self, sealer: &mut AnswerSealer, text: &str) -> String {
        let (index, payload) = sealer.chunk(text, &mut rng()).unwrap();
        let frame = NodeFrame::EncryptedChunk {
            session_id: &self.id,
            tokens: 1,
            payload,
            index,
            last: false,
            id: None,
        };
        frame.encode()
    }

    pub fn finish(&self, sealer: AnswerSealer, reason: &str) -> String {
        let payload = sealer.finish(reason, &mut rng()).unwrap();
        NodeFrame::EncryptedResponse { session_id: &self.id, payload, id: None }.encode()
    }

    pub fn end(&self, reason: StreamEndReason) -> String {
        let usage = Usage {
            prompt_tokens: 3,
            completion_tokens: 2,
            total_tokens: 5,
            context_window_size: 4096,
            ..Usage::default()
        };
        let frame = NodeFrame::StreamEnd {
            session_id: &self.id,
            reason,
            finish_reason: "stop",
            tokens_used: 2,
            code: None,
            usage,
            dropped_messages: None,
            id: None,
        };
        frame.encode()
    }

    pub async fn send(&mut self, frame: String) {
        // The client may have left on purpose.
        let _ = self.socket.send(Message::text(frame)).await;
    }

    pub async fn refuse(&mut self, code: Code) {
        self.send(error_frame(code)).await;
    }

    /// A whole answer.
    pub async fn answer(&mut self, pieces: &[&str]) {
        let mut sealer = self.sealer();
        for piece in pieces {
            let frame = self.chunk(&mut sealer, piece);
            self.send(frame).await;
        }
        let (last, end) = (self.finish(sealer, "stop"), self.end(StreamEndReason::Complete));
        self.send(last).await;
        self.send(end).await;
    }
}

fn error_frame(code: Code) -> String {
    let frame = NodeFrame::Error {
        code,
        message: "no",
        retry_after_ms: None,
        prompt_tokens: None,
        context_window_size: None,
        session_id: None,
        id: None,
    };
    frame.encode()
}

/// `frame` with one digit of its ciphertext changed.
pub fn tampered(frame: &str) -> String {
    let at = frame.find("ciphertextHex\":\"").unwrap() + "ciphertextHex\":\"".len();
    let other = if &frame[at..=at] == "0" { "1" } else { "0" };
    format!("{}{other}{}", &frame[..at], &frame[at + 1..])
}
