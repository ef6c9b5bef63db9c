//! Frames as whoever carries them sees them: which way, of what kind, the how-manieth.

use fabstir_protocol::v2;
use serde_json::Value;
use tokio_tungstenite::tungstenite::Message;

/// A frame.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Frame {
    /// Of version 1, and a node's first frame.
    Text(String),
    /// Of version 2.
    Binary(Vec<u8>),
}

/// Which way a frame goes.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Way {
    /// From the client.
    ToNode,
    /// From the node.
    ToClient,
}

impl Way {
    /// The other one.
    #[must_use]
    pub fn back(self) -> Self {
        match self {
            Self::ToNode => Self::ToClient,
            Self::ToClient => Self::ToNode,
        }
    }
}

/// What a frame is, by what can be seen of it.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[expect(missing_docs, reason = "the names of docs/protocol.md")]
pub enum Kind {
    Greeting,
    M1,
    M2,
    M3,
    R1,
    R2,
    Record,
    Init,
    Ack,
    Message,
    Chunk,
    Response,
    StreamEnd,
    Other,
}

impl Frame {
    /// What it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Binary(bytes) => match v2::Kind::split(bytes) {
                Ok((v2::Kind::M1, _)) => Kind::M1,
                Ok((v2::Kind::M2, _)) => Kind::M2,
                Ok((v2::Kind::M3, _)) => Kind::M3,
                Ok((v2::Kind::R1, _)) => Kind::R1,
                Ok((v2::Kind::R2, _)) => Kind::R2,
                Ok((v2::Kind::Record, _)) => Kind::Record,
                Err(_) => Kind::Other,
            },
            Self::Text(text) => {
                let json: Value = serde_json::from_str(text).unwrap_or_default();
                match json.get("type").and_then(Value::as_str) {
                    Some("connected") => Kind::Greeting,
                    Some("encrypted_session_init") => Kind::Init,
                    Some("session_init_ack") => Kind::Ack,
                    Some("encrypted_message") => Kind::Message,
                    Some("encrypted_chunk") => Kind::Chunk,
                    Some("encrypted_response") => Kind::Response,
                    Some("stream_end") => Kind::StreamEnd,
                    Some(_) | None => Kind::Other,
                }
            }
        }
    }

    /// The same frame without its last bytes.
    #[must_use]
    pub fn first(&self, length: usize) -> Self {
        match self {
            Self::Binary(bytes) => Self::Binary(bytes.iter().copied().take(length).collect()),
            Self::Text(text) => Self::Text(text.chars().take(length).collect()),
        }
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        match self {
            Self::Binary(bytes) => bytes.len(),
            Self::Text(text) => text.len(),
        }
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The same frame with one bit of it the other way round. A text that is none any more stays as it was, and so does
    /// a frame that is too short.
    #[must_use]
    pub fn flipped(&self, byte: usize, bit: u8) -> Self {
        let flip = |mut bytes: Vec<u8>| {
            if let Some(one) = bytes.get_mut(byte) {
                *one ^= 1_u8.wrapping_shl(bit.into());
            }
            bytes
        };
        match self {
            Self::Binary(bytes) => Self::Binary(flip(bytes.clone())),
            Self::Text(text) => {
                let bytes = flip(text.clone().into_bytes());
                String::from_utf8(bytes).map_or_else(|_| self.clone(), Self::Text)
            }
        }
    }

    /// The JSON of a text frame, changed.
    #[must_use]
    pub fn edited(&self, change: impl FnOnce(&mut Value)) -> Self {
        let Self::Text(text) = self else { return self.clone() };
        let Ok(mut json) = serde_json::from_str::<Value>(text) else { return self.clone() };
        change(&mut json);
        Self::Text(json.to_string())
    }

    /// A frame of a WebSocket, where it is one that says something.
    pub(crate) fn of(message: Message) -> Option<Self> {
        match message {
            Message::Text(text) => Some(Self::Text(text.as_str().to_owned())),
            Message::Binary(bytes) => Some(Self::Binary(bytes.to_vec())),
            Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_) => None,
        }
    }
}

impl From<Frame> for Message {
    fn from(frame: Frame) -> Self {
        match frame {
            Frame::Text(text) => Self::text(text),
            Frame::Binary(bytes) => Self::binary(bytes),
        }
    }
}

/// Where a frame stands: the how-manieth of its kind in its direction, on the how-manieth connection. All from 0.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Place {
    /// The client's first connection is 0.
    pub connection: usize,
    /// Which way.
    pub way: Way,
    /// What.
    pub kind: Kind,
    /// The how-manieth of these.
    pub nth: usize,
}

impl Place {
    /// A place on the client's first connection.
    pub const fn new(way: Way, kind: Kind, nth: usize) -> Self {
        Self { connection: 0, way, kind, nth }
    }

    /// The same on another connection.
    #[must_use]
    pub const fn on(self, connection: usize) -> Self {
        Self { connection, ..self }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { connection, way, kind, nth } = self;
        let way = match way {
            Way::ToNode => "to the node",
            Way::ToClient => "to the client",
        };
        write!(f, "{kind:?} {nth} {way}, connection {connection}")
    }
}

/// A frame that was seen, and where.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Where.
    pub place: Place,
    /// The frame as its sender sent it.
    pub frame: Frame,
}

/// Frames in the order in which they were seen.
pub type Recording = Vec<Seen>;

/// The frame at a place of a recording.
pub(crate) fn find(recording: &[Seen], place: Place) -> Option<Frame> {
    recording.iter().find(|seen| seen.place == place).map(|seen| seen.frame.clone())
}
