//! What can go wrong, by whose doing.

use std::time::Duration;

/// Why there is no (whole) answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is no WebSocket address.
    #[error("{0:?} is not an address like ws://127.0.0.1:8080/v1/ws")]
    Address(String),
    /// The node cannot be reached.
    #[error("cannot connect to the node: {0}")]
    Connect(String),
    /// The node refused.
    #[error("the node refused: {message} ({code})")]
    Refused {
        /// The code of docs/protocol.md, section 3.
        code: String,
        /// The node's words.
        message: String,
        /// When to try again, where the node says.
        retry_after: Option<Duration>,
    },
    /// The node takes no frame as large as the request.
    #[error("the request is larger than the node takes")]
    TooLarge,
    /// Something that the node sent did not open. The session is closed and its key is wiped.
    #[error("a frame from the node did not open: the session is closed")]
    DidNotOpen,
    /// What the node sent is not of this protocol.
    #[error("the node does not speak this protocol")]
    Protocol,
    /// The answer ended without its sealed end: what came of it is not the whole answer.
    #[error("the answer was cut off")]
    Truncated,
    /// The node said nothing for too long.
    #[error("the node said nothing for {} seconds", .0.as_secs())]
    Silent(Duration),
    /// The session was closed by an earlier error.
    #[error("the session is closed")]
    Closed,
}

impl From<fabstir_protocol::seal::OpenError> for Error {
    fn from(_: fabstir_protocol::seal::OpenError) -> Self {
        Self::DidNotOpen
    }
}
