//! Version 1: for nodes that have nothing newer, chosen by name. One answer at a time, and no forward secrecy.

use std::{
    collections::HashSet,
    fmt,
    time::{Duration, Instant},
};

use fabstir_protocol::{
    ethereum::Address,
    id::{Nonce, SessionId},
    identity::{PrivateKey, PublicKey},
    seal::Words,
    v1::{AnswerOpener, ClientHello, ClientSession, Dialect, InitContext, Reply, SealedPayload},
    v2::Advertisement,
};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{Message, protocol::frame::coding::CloseCode};

use crate::{
    Direction, End, Error, Event, Frame, Request, Roots,
    answer::Capture,
    dial::{Socket, address, connect, part, refused, unix_now},
    rng,
};

/// How long what a node said before it closed is waited for.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Which node, and how to talk to it.
pub struct Config {
    /// `ws://host:port/v1/ws`, or `wss://`.
    pub url: String,
    /// The node's public key, pinned.
    pub node_key: PublicKey,
    /// Whose certificates are believed where the address is `wss://`.
    pub roots: Roots,
    /// How long connecting and opening the session may take.
    pub connect_timeout: Duration,
    /// How long the node may be silent during an answer. Nodes send empty chunks while a request waits.
    pub silence_timeout: Duration,
    /// Sees every frame as an outsider would.
    pub capture: Option<Capture>,
}

impl Config {
    /// The usual timeouts, nothing captured.
    pub fn new(url: impl Into<String>, node_key: PublicKey) -> Self {
        Self {
            url: url.into(),
            node_key,
            roots: Roots::default(),
            connect_timeout: Duration::from_secs(10),
            silence_timeout: Duration::from_secs(60),
            capture: None,
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("url", &self.url)
            .field("node_key", &self.node_key)
            .finish_non_exhaustive()
    }
}

/// An open session. Dropping it closes the connection, upon which the node wipes its keys and stops what
/// it was answering.
pub struct Client {
    socket: Socket,
    pinned: Address,
    /// `None` once a frame did not open.
    session: Option<ClientSession>,
    /// Of the sealed frames that came. Chunks are numbered anew in every answer, so that those of an earlier one
    /// would open again.
    nonces: HashSet<[u8; Nonce::LEN]>,
    /// An answer was dropped before its end: it is to be cancelled and read to its end first.
    abandoned: bool,
    silence: Duration,
    capture: Option<Capture>,
}

impl Client {
    /// Connects and opens a session, signed by `client_key`.
    ///
    /// # Errors
    /// [`Error::Connect`], [`Error::Refused`], [`Error::Protocol`], [`Error::Silent`].
    pub async fn connect(config: Config, client_key: PrivateKey) -> Result<Self, Error> {
        let url = address(&config.url)?;
        let limit = config.connect_timeout;
        let socket = timeout(limit, connect(&url, &config.roots))
            .await
            .map_err(|_| Error::Connect("it does not answer".into()))??;
        timeout(limit, Self::open(socket, config, client_key)).await.map_err(|_| Error::Silent(limit))?
    }

    async fn open(socket: Socket, config: Config, client_key: PrivateKey) -> Result<Self, Error> {
        let hello = ClientHello {
            node_key: &config.node_key,
            client_key: &client_key,
            id: random_session_id()?,
            context: InitContext::default(),
            dialect: Dialect::Deployed,
            timestamp: Some(unix_now()),
            claim: true,
        };
        let (frame, session) = hello.start(&mut rng()).map_err(|_| Error::Protocol)?;
        let pinned = config.node_key.address();
        let mut client = Self {
            socket,
            pinned,
            session: Some(session),
            nonces: HashSet::new(),
            abandoned: false,
            silence: config.silence_timeout,
            capture: config.capture,
        };
        client.send(frame).await?;
        client.acknowledged().await?;
        Ok(client)
    }

    async fn acknowledged(&mut self) -> Result<(), Error> {
        loop {
            let closed = || Error::Connect("it closed the connection".into());
            match self.receive().await?.ok_or_else(closed)? {
                Reply::Ack { session_id, .. } if self.is_ours(&session_id) => return Ok(()),
                Reply::Error { code, message, retry_after_ms, .. } => {
                    return Err(refused(code, message, retry_after_ms));
                }
                Reply::Pong | Reply::Unknown | Reply::Connected => {}
                Reply::Ack { .. }
                | Reply::Chunk { .. }
                | Reply::Response { .. }
                | Reply::StreamEnd { .. } => {
                    return Err(Error::Protocol);
                }
            }
        }
    }

    /// Sends a request; the answer is read from what comes back. One at a time.
    ///
    /// # Errors
    /// [`Error::Closed`] after a frame did not open, [`Error::Connect`] where the connection is gone.
    pub async fn ask(&mut self, request: &Request) -> Result<Answer<'_>, Error> {
        if self.abandoned {
            Answer { client: self, opener: None, ended: None, draining: true, began: true, done: false }
                .cancel()
                .await?;
        }
        let session = self.session.as_mut().ok_or(Error::Closed)?;
        let frame = session.message(request.to_json().as_bytes(), &mut rng()).map_err(|_| Error::Closed)?;
        let opener = session.answer();
        // From here on some of it may be on its way, even if this future is dropped.
        self.abandoned = true;
        self.send(frame).await?;
        Ok(Answer {
            client: self,
            opener: Some(opener),
            ended: None,
            draining: false,
            began: false,
            done: false,
        })
    }

    /// Says goodbye. The node wipes the session's key.
    pub async fn close(mut self) {
        self.session = None;
        part(&mut self.socket).await;
    }

    /// Keeps the connection alive while there is nothing to ask; returns once it has ended. May be dropped
    /// at any time.
    pub async fn idle(&mut self) -> Error {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => self.saw(Direction::Received, text.as_str()),
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_) | Message::Binary(_))) => {}
                Some(Ok(Message::Close(_)) | Err(_)) | None => {
                    self.session = None;
                    return Error::Closed;
                }
            }
        }
    }

    /// Whether frames can still be opened.
    pub fn is_open(&self) -> bool {
        self.session.is_some()
    }

    fn is_ours(&self, session_id: &str) -> bool {
        self.session.as_ref().is_some_and(|session| session.id().as_str() == session_id)
    }

    /// Remembers a sealed frame; fails for one that came before.
    fn seen(&mut self, payload: &SealedPayload) -> Result<(), Error> {
        let new = self.nonces.insert(*payload.sealed.nonce.as_bytes());
        new.then_some(()).ok_or(Error::DidNotOpen)
    }

    fn saw(&mut self, direction: Direction, frame: &str) {
        if let Some(capture) = &mut self.capture {
            capture(direction, Frame::Text(frame));
        }
    }

    async fn send(&mut self, frame: String) -> Result<(), Error> {
        self.saw(Direction::Sent, &frame);
        let Err(error) = self.socket.send(Message::text(frame)).await else { return Ok(()) };
        // A node that closes the connection says why, and that may have come before the failure to send.
        match timeout(LAST_WORDS, self.receive()).await {
            Ok(Err(error @ Error::TooLarge { .. })) => Err(error),
            Ok(_) | Err(_) => Err(Error::Connect(error.to_string())),
        }
    }

    /// The next frame; `None` when the connection has ended.
    async fn receive(&mut self) -> Result<Option<Reply>, Error> {
        // Pings keep the connection, and say nothing of the answer.
        let silent = Error::Silent(self.silence);
        let deadline = Instant::now().checked_add(self.silence);
        loop {
            let left = deadline.map_or(self.silence, |at| at.saturating_duration_since(Instant::now()));
            let Ok(next) = timeout(left, self.socket.next()).await else { return Err(silent) };
            match next {
                Some(Ok(Message::Text(text))) => {
                    self.saw(Direction::Received, text.as_str());
                    refuse_if_too_old(text.as_str(), self.pinned)?;
                    return Reply::decode(text.as_str()).map(Some).map_err(|_| Error::Protocol);
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Binary(_))) => return Err(Error::Protocol),
                Some(Ok(Message::Close(Some(frame)))) if frame.code == CloseCode::Size => {
                    return Err(Error::TooLarge { most: None });
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => return Ok(None),
            }
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("session", &self.session).finish_non_exhaustive()
    }
}

/// An answer as it comes. Dropped before its end, it is cancelled by the next [`Client::ask`], or by dropping
/// the client.
#[derive(Debug)]
pub struct Answer<'a> {
    client: &'a mut Client,
    opener: Option<AnswerOpener>,
    /// The sealed finish reason, once it came.
    ended: Option<String>,
    /// The words are of no interest any more, only the end.
    draining: bool,
    began: bool,
    done: bool,
}

impl Answer<'_> {
    /// The next step; `None` after the end.
    ///
    /// # Errors
    /// [`Error::Refused`] before the first words, [`Error::DidNotOpen`], [`Error::Truncated`],
    /// [`Error::Silent`]. The answer is over then.
    pub async fn next(&mut self) -> Result<Option<Event>, Error> {
        if self.done {
            return Ok(None);
        }
        let event = self.read().await;
        match &event {
            Ok(Event::Text(_) | Event::Object(_)) => {}
            Ok(Event::End(_)) | Err(Error::Refused { .. }) => self.finish(),
            Err(_) => {
                // Whatever it was, what comes now cannot be told from an attack.
                self.client.session = None;
                self.finish();
                part(&mut self.client.socket).await;
            }
        }
        event.map(Some)
    }

    /// Ends the answer at the node, and waits until the node says so.
    ///
    /// # Errors
    /// As [`Answer::next`].
    pub async fn cancel(&mut self) -> Result<Option<End>, Error> {
        if self.done {
            return Ok(None);
        }
        let Some(session) = &self.client.session else { return Err(Error::Closed) };
        let frame =
            serde_json::json!({"type": "stream_cancel", "session_id": session.id().as_str()}).to_string();
        self.client.send(frame).await?;
        loop {
            match self.next().await {
                Ok(Some(Event::Text(_) | Event::Object(_))) => {}
                Ok(Some(Event::End(end))) => return Ok(Some(end)),
                Ok(None) | Err(Error::Refused { .. }) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    fn finish(&mut self) {
        self.done = true;
        self.client.abandoned = false;
    }

    async fn read(&mut self) -> Result<Event, Error> {
        loop {
            match self.client.receive().await?.ok_or(Error::Truncated)? {
                Reply::Chunk { session_id, payload, .. } if self.client.is_ours(&session_id) => {
                    self.began = true;
                    self.client.seen(&payload)?;
                    let session = self.client.session.as_ref().ok_or(Error::Closed)?;
                    let Some(opener) = &mut self.opener else { continue };
                    let plaintext = session.open_chunk(opener, &payload)?;
                    let words = std::str::from_utf8(plaintext.as_bytes()).map_err(|_| Error::DidNotOpen)?;
                    return Ok(Event::Text(Words::from(words)));
                }
                Reply::Response { session_id, payload } if self.client.is_ours(&session_id) => {
                    self.client.seen(&payload)?;
                    let session = self.client.session.as_ref().ok_or(Error::Closed)?;
                    let Some(opener) = self.opener.take() else { continue };
                    let plaintext = session.open_final(opener, &payload)?;
                    let reason = std::str::from_utf8(plaintext.as_bytes()).map_err(|_| Error::DidNotOpen)?;
                    self.ended = Some(reason.to_owned());
                }
                Reply::StreamEnd { session_id, code, usage, .. } if self.client.is_ours(&session_id) => {
                    let finish_reason =
                        self.ended.take().or_else(|| self.draining.then(|| "cancelled".to_owned()));
                    let finish_reason = finish_reason.ok_or(Error::Truncated)?;
                    return Ok(Event::End(End { finish_reason, code, usage, dropped_messages: 0 }));
                }
                Reply::Error { code, message, retry_after_ms, .. } => {
                    let error = refused(code, message, retry_after_ms);
                    return Err(if self.began && !self.draining { Error::Truncated } else { error });
                }
                Reply::Chunk { .. }
                | Reply::Response { .. }
                | Reply::StreamEnd { .. }
                | Reply::Ack { .. } => {
                    return Err(Error::Protocol);
                }
                Reply::Connected | Reply::Pong | Reply::Unknown => {}
            }
        }
    }
}

/// A node's first frame may certify that the node no longer speaks this version. Nodes of before version 2 say nothing of it.
fn refuse_if_too_old(text: &str, pinned: Address) -> Result<(), Error> {
    let Ok(shown) = Advertisement::read(text) else { return Ok(()) };
    match shown.verify(pinned, unix_now()) {
        Ok(node) if node.min_version > 1 => Err(Error::TooOld { least: node.min_version }),
        Ok(_) | Err(_) => Ok(()),
    }
}

fn random_session_id() -> Result<SessionId, Error> {
    let number = getrandom::u64().map_err(|_| Error::Protocol)?;
    SessionId::try_from(number.to_string().as_str()).map_err(|_| Error::Protocol)
}
