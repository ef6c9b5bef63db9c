//! Clients by hand: sockets that can be dropped at any moment, from any address of loopback, with little memory of their
//! own; and whose keys can be looked for in the node's memory.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context as _, bail};
use fabstir_protocol::{
    id::SessionId,
    identity::{PrivateKey, PublicKey},
    seal::{SessionKey, Words},
    v1::{AnswerOpener, ClientHello, ClientSession, Dialect, InitContext, Reply},
    v2::{
        Advertisement, Answers, AwaitingM2, AwsLc, Cancel, Channel, Flags, FromNode, Goodbye, Hello,
        MAX_BODY, RecordType, Shape, encode,
    },
};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{Message, protocol::frame::coding::CloseCode};

pub(crate) use crate::socket::{PATIENCE, Socket, greeted, source, tcp};
use crate::{
    node::Node,
    rng,
    socket::{binary_of, frame_of},
    unix_now,
};

/// Which version of the protocol a peer speaks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Version {
    One,
    Two,
}

impl Version {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::One => "version 1",
            Self::Two => "version 2",
        }
    }
}

/// What a peer heard.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Heard {
    Words(String),
    /// An answer ended: its finish reason.
    End(String),
    /// The node refused: its code.
    Refused(String),
    Ping,
    /// The node says that it leaves.
    Goodbye,
    Closed,
}

/// An open session.
pub(crate) struct Peer {
    socket: Socket,
    side: Side,
}

enum Side {
    One { session: ClientSession, opener: Option<AnswerOpener>, reason: Option<String> },
    Two(Box<Two>),
}

struct Two {
    channel: Channel,
    answers: Answers,
    requests: u32,
    controls: u32,
}

/// The text of a session init of version 1, and the session that it opens.
pub(crate) fn init(key: &PublicKey) -> anyhow::Result<(String, ClientSession)> {
    let wallet = PrivateKey::random(&mut rng());
    let hello = ClientHello {
        node_key: key,
        client_key: &wallet,
        id: SessionId::try_from(getrandom::u64()?.to_string().as_str())?,
        context: InitContext::default(),
        dialect: Dialect::Deployed,
        timestamp: None,
        claim: true,
    };
    hello.start(&mut rng()).ok().context("an init could not be made")
}

/// A question in a conversation of which the node keeps nothing.
pub(crate) fn question(words: &str, max_tokens: u32) -> Value {
    json!({"messages": [{"role": "user", "content": words}], "max_tokens": max_tokens, "temperature": 0, "seed": 1})
}

impl Peer {
    pub(crate) async fn open(node: &Node, version: Version, from: Ipv4Addr) -> anyhow::Result<Self> {
        let greeted = greeted(node.address, from).await?;
        Self::open_by(greeted, &node.key, version).await
    }

    /// The same by another way to the node.
    pub(crate) async fn open_at(node: &Node, at: SocketAddr, version: Version) -> anyhow::Result<Self> {
        Self::open_by(greeted(at, Ipv4Addr::LOCALHOST).await?, &node.key, version).await
    }

    async fn open_by(greeted: (Socket, String), key: &PublicKey, version: Version) -> anyhow::Result<Self> {
        let (socket, greeting) = greeted;
        match version {
            Version::One => Self::version_1(socket, key).await,
            Version::Two => Self::version_2(socket, &greeting, key).await,
        }
    }

    async fn version_1(mut socket: Socket, key: &PublicKey) -> anyhow::Result<Self> {
        let (frame, session) = init(key)?;
        socket.send(Message::text(frame)).await?;
        loop {
            match frame_of(&mut socket).await?.context("closed before the ack")? {
                Message::Text(text) => match Reply::decode(text.as_str())? {
                    Reply::Ack { .. } => break,
                    Reply::Error { code, .. } => bail!("refused: {code}"),
                    Reply::Connected | Reply::Pong | Reply::Unknown => {}
                    Reply::Chunk { .. } | Reply::Response { .. } | Reply::StreamEnd { .. } => {
                        bail!("an answer before the ack")
                    }
                },
                Message::Close(_) => bail!("closed before the ack"),
                Message::Binary(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
        Ok(Self { socket, side: Side::One { session, opener: None, reason: None } })
    }

    async fn version_2(mut socket: Socket, greeting: &str, key: &PublicKey) -> anyhow::Result<Self> {
        let shown = Advertisement::read(greeting)?.verify(key.address(), unix_now())?;
        let failed = |_| anyhow::anyhow!("the handshake did not complete");
        let (m1, waiting) = AwaitingM2::<AwsLc>::start(&shown, &mut rng()).map_err(failed)?;
        socket.send(Message::binary(m1)).await?;
        let m2 = binary_of(&mut socket).await?;
        let hello = Hello { client: "reliability".into(), shape: Shape::Off, ticket: true, claim: None };
        let (m3, mut channel) =
            waiting.finish(&m2, &fabstir_client::anonymous(), &hello, &mut rng()).map_err(failed)?;
        socket.send(Message::binary(m3)).await?;
        let welcome = binary_of(&mut socket).await?;
        let mut answers = Answers::default();
        let record = channel.opener.open(&welcome).ok().context("the welcome did not open")?;
        match answers.take(record).ok().context("the welcome is out of place")? {
            FromNode::Welcome(welcome) => channel.sealer.set_shape(welcome.shape),
            FromNode::Fault(fault, _) | FromNode::Failed(_, fault) => bail!("refused: {}", fault.code),
            FromNode::Text(..)
            | FromNode::Event(..)
            | FromNode::End(..)
            | FromNode::Goodbye(_)
            | FromNode::Nothing => bail!("no welcome"),
        }
        let two = Two { channel, answers, requests: 0, controls: 0 };
        Ok(Self { socket, side: Side::Two(Box::new(two)) })
    }

    /// Sends a request.
    pub(crate) async fn say(&mut self, request: &Value) -> anyhow::Result<()> {
        let body = match self.side {
            Side::One { .. } => request.to_string(),
            Side::Two(_) => json!({"op": "chat", "body": request}).to_string(),
        };
        self.say_bytes(body.as_bytes()).await
    }

    /// Sends whatever it is as a request.
    pub(crate) async fn say_bytes(&mut self, body: &[u8]) -> anyhow::Result<()> {
        let frames = match &mut self.side {
            Side::One { session, opener, reason } => {
                *opener = Some(session.answer());
                *reason = None;
                let text = session.message(body, &mut rng());
                vec![Message::text(text.ok().context("the session is spent")?)]
            }
            Side::Two(two) => {
                two.requests = two.requests.saturating_add(1);
                two.answers.expect(two.requests);
                let (request, sealer) = (two.requests, &mut two.channel.sealer);
                let (mut frames, parts) = (Vec::new(), body.chunks(MAX_BODY).collect::<Vec<_>>());
                let parts = if parts.is_empty() { vec![body] } else { parts };
                for (at, part) in parts.iter().enumerate() {
                    let last = at.saturating_add(1) == parts.len();
                    let flags = if last { Flags::LAST } else { Flags::NONE };
                    let index = u32::try_from(at)?;
                    let sealed = sealer.seal(RecordType::Request, flags, request, index, part);
                    frames.push(Message::binary(sealed.ok().context("the channel is spent")?));
                }
                frames
            }
        };
        for frame in frames {
            timeout(PATIENCE, self.socket.send(frame)).await.context("the node does not read")??;
        }
        Ok(())
    }

    /// The next thing that comes.
    pub(crate) async fn hear(&mut self) -> anyhow::Result<Heard> {
        loop {
            let Some(message) = frame_of(&mut self.socket).await? else { return Ok(Heard::Closed) };
            let heard = match (&mut self.side, message) {
                (_, Message::Ping(_)) => {
                    // The answer to it goes out with the next flush.
                    if self.socket.flush().await.is_err() {
                        return Ok(Heard::Closed);
                    }
                    Some(Heard::Ping)
                }
                (_, Message::Close(Some(frame))) if frame.code == CloseCode::Away => Some(Heard::Goodbye),
                (_, Message::Close(_)) => Some(Heard::Closed),
                (Side::One { session, opener, reason }, Message::Text(text)) => {
                    old_words(session, opener, reason, text.as_str())?
                }
                (Side::Two(two), Message::Binary(frame)) => {
                    let heard = two.hear(&frame)?;
                    two.acknowledge(&mut self.socket).await?;
                    heard
                }
                (
                    Side::One { .. } | Side::Two(_),
                    Message::Text(_) | Message::Binary(_) | Message::Pong(_) | Message::Frame(_),
                ) => None,
            };
            if let Some(heard) = heard {
                return Ok(heard);
            }
        }
    }

    /// The rest of an answer: its words, and how it ended.
    pub(crate) async fn rest(&mut self) -> anyhow::Result<(String, Heard)> {
        let mut words = String::new();
        loop {
            match self.hear().await? {
                Heard::Words(more) => words.push_str(&more),
                Heard::Ping => {}
                last @ (Heard::End(_) | Heard::Refused(_) | Heard::Goodbye | Heard::Closed) => {
                    return Ok((words, last));
                }
            }
        }
    }

    /// Asks, and hears the whole answer.
    pub(crate) async fn ask(&mut self, request: &Value) -> anyhow::Result<String> {
        self.say(request).await?;
        match self.rest().await? {
            (words, Heard::End(_)) => Ok(words),
            (_, other) => bail!("no whole answer: {other:?}"),
        }
    }

    /// Ends the answer that runs, and nothing else.
    pub(crate) async fn cancel(&mut self) -> anyhow::Result<()> {
        let message = match &mut self.side {
            Side::One { session, .. } => Message::text(
                json!({"type": "stream_cancel", "session_id": session.id().as_str()}).to_string(),
            ),
            Side::Two(two) => {
                let cancel = Cancel { request: two.requests };
                Message::binary(two.control(RecordType::Cancel, Flags::NONE, &cancel)?)
            }
        };
        Ok(self.socket.send(message).await?)
    }

    /// Says goodbye, in version 2.
    pub(crate) async fn goodbye(&mut self) -> anyhow::Result<()> {
        if let Side::Two(two) = &mut self.side {
            let frame = two.control(RecordType::Goodbye, Flags::LAST, &Goodbye::default())?;
            self.socket.send(Message::binary(frame)).await?;
        }
        Ok(())
    }

    /// Closes in order.
    pub(crate) async fn close(mut self) -> anyhow::Result<()> {
        self.goodbye().await?;
        self.socket.close(None).await?;
        // What is left unread when a socket goes makes the kernel reset the connection.
        let _ = timeout(PATIENCE, async { while let Some(Ok(_)) = self.socket.next().await {} }).await;
        Ok(())
    }

    /// The session's secrets, by what they are.
    pub(crate) fn secrets(&self) -> Vec<(&'static str, [u8; 32])> {
        match &self.side {
            Side::One { session, .. } => vec![("session key", *session.expose_key())],
            Side::Two(two) => {
                let Channel { sealer, opener, ticket, .. } = &two.channel;
                let mut secrets = vec![("key to the node", *sealer.expose_key())];
                secrets.extend(opener.expose_key().map(|key| ("key to the client", *key)));
                secrets.push(("ticket secret", *ticket.expose_psk()));
                secrets
            }
        }
    }

    /// Messages that look like this session's, and do not open.
    pub(crate) fn messages_that_do_not_open(&mut self, count: usize) -> Vec<String> {
        let Side::One { session, .. } = &mut self.side else { return Vec::new() };
        let mut other = ClientSession::with_key(session.id().clone(), SessionKey::random(&mut rng()));
        (0..count).filter_map(|_| other.message(b"x", &mut rng()).ok()).collect()
    }

    /// The socket, for what no client does.
    pub(crate) fn socket(&mut self) -> &mut Socket {
        &mut self.socket
    }

    /// The socket itself, for what no client does.
    pub(crate) fn into_socket(self) -> Socket {
        self.socket
    }
}

impl Two {
    fn control(
        &mut self,
        kind: RecordType,
        flags: Flags,
        body: &impl serde::Serialize,
    ) -> anyhow::Result<Vec<u8>> {
        let index = self.controls;
        self.controls = index.saturating_add(1);
        self.channel.sealer.seal(kind, flags, 0, index, &encode(body)).ok().context("the channel is spent")
    }

    fn hear(&mut self, frame: &[u8]) -> anyhow::Result<Option<Heard>> {
        let record = self.channel.opener.open(frame).ok().context("a record did not open")?;
        Ok(match self.answers.take(record).ok().context("a record is out of place")? {
            FromNode::Text(_, words) => Some(Heard::Words(words.as_str().to_owned())),
            FromNode::End(_, end) => Some(Heard::End(end.finish_reason)),
            FromNode::Failed(_, fault) | FromNode::Fault(fault, _) => Some(Heard::Refused(fault.code)),
            FromNode::Goodbye(_) => Some(Heard::Goodbye),
            FromNode::Event(..) | FromNode::Welcome(_) | FromNode::Nothing => None,
        })
    }

    async fn acknowledge(&mut self, socket: &mut Socket) -> anyhow::Result<()> {
        if let Some(ack) = self.answers.due_ack() {
            let frame = self.control(RecordType::Ack, Flags::NONE, &ack)?;
            // Who has gone in the meantime is found out by the next read.
            let _ = socket.send(Message::binary(frame)).await;
        }
        Ok(())
    }
}

fn old_words(
    session: &ClientSession,
    opener: &mut Option<AnswerOpener>,
    reason: &mut Option<String>,
    text: &str,
) -> anyhow::Result<Option<Heard>> {
    Ok(match Reply::decode(text)? {
        Reply::Chunk { payload, .. } => {
            let Some(opener) = opener else { return Ok(None) };
            let plaintext = session.open_chunk(opener, &payload)?;
            let words = Words::from(std::str::from_utf8(plaintext.as_bytes())?);
            Some(Heard::Words(words.as_str().to_owned()))
        }
        Reply::Response { payload, .. } => {
            let Some(opener) = opener.take() else { return Ok(None) };
            let plaintext = session.open_final(opener, &payload)?;
            *reason = Some(std::str::from_utf8(plaintext.as_bytes())?.to_owned());
            None
        }
        Reply::StreamEnd { .. } => Some(Heard::End(reason.take().unwrap_or_else(|| "cancelled".to_owned()))),
        Reply::Error { code, .. } => Some(Heard::Refused(code)),
        Reply::Ack { .. } | Reply::Connected | Reply::Pong | Reply::Unknown => None,
    })
}
