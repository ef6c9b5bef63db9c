//! Version 1: JSON text frames, a session key chosen by the client, one key for both directions.
//!
//! Without forward secrecy: who steals the node's key later opens what was recorded. Kept for the clients
//! that are deployed. docs/protocol.md, part 1.

mod data;
mod frame;
mod handshake;
mod replay;
mod session;

pub use data::SessionData;
#[cfg(feature = "schema")]
pub(crate) use frame::schema::{
    EncryptedMessage, EncryptedSessionInit, Ping, PlainPrompt, PlainSessionInit, StreamCancel,
};
pub use frame::{
    ClientFrame, Echo, FormedInit, Inbound, NodeFrame, PlainRequest, RawInit, RawSealed, Refusal, Reply,
    SealedPayload, StreamEndReason, StringOrNumber, Usage, WirePayload,
};
pub use handshake::{ClientHello, Dialect, Established, InitContext, NotOpened, Opened, Owner, SessionInit};
pub use replay::{
    ConversationNumber, InitMemory, InitMemoryLimits, MemoryFull, Network, NotRemembered, ProcessSecret,
};
pub use session::{AnswerOpener, AnswerSealer, ClientSession, Session};
