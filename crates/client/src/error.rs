//! What can go wrong, by whose doing.

use std::time::Duration;

/// Why there is no (whole) answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The address is no WebSocket address.
    #[error("{0:?} is not an address like ws://127.0.0.1:8080/v1/ws")]
    Address(String),
    /// The node cannot be reached.
    #[error("cannot connect to the node: {0}")]
    Connect(String),
    /// There is no TLS with whoever is at the address.
    #[error("no TLS with the node: {0}")]
    Tls(String),
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
    /// The node is not the one that was pinned, or does not prove to be. Never a reason to speak an older version.
    #[error(transparent)]
    Identity(#[from] fabstir_protocol::v2::AdvertisementError),
    /// The node certifies that it speaks nothing as old as what was asked for: somebody offers it in its name, or a user asks
    /// for what is gone.
    #[error("the node speaks version {least} of the protocol or newer, by its own certificate")]
    TooOld {
        /// What it speaks.
        least: u16,
    },
    /// The handshake did not complete: someone changed it on the way, or the node's keys have just changed.
    #[error("the handshake with the node did not complete")]
    Handshake,
    /// The node takes no request as large as this one.
    #[error("the request is larger than the node takes{}", in_words(*.most))]
    TooLarge {
        /// Most bytes that it takes, where it said so.
        most: Option<u64>,
    },
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
    /// The node has the session no more, and with it the conversation that it kept: it was restarted, or the connection was
    /// gone for too long.
    #[error("the node has lost the session, and what was said in it")]
    SessionLost,
    /// The session was closed: by its user, by the node's goodbye, or by an earlier error.
    #[error("the session is closed")]
    Closed,
}

impl Error {
    /// Whether another attempt to connect may end better.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Connect(_) | Self::Silent(_) | Self::Handshake => true,
            Self::Refused { code, .. } => {
                matches!(
                    code.as_str(),
                    "RESUMPTION_REFUSED" | "HANDSHAKE_FAILED" | "RATE_LIMITED" | "NODE_BUSY" | "DRAINING"
                )
            }
            Self::Address(_)
            | Self::Tls(_)
            | Self::Identity(_)
            | Self::TooOld { .. }
            | Self::TooLarge { .. }
            | Self::DidNotOpen
            | Self::Protocol
            | Self::Truncated
            | Self::SessionLost
            | Self::Closed => false,
        }
    }

    /// The same once more, for the next answer that it ends.
    pub(crate) fn again(&self) -> Self {
        match self {
            Self::DidNotOpen => Self::DidNotOpen,
            Self::Protocol => Self::Protocol,
            Self::SessionLost => Self::SessionLost,
            Self::Refused { code, message, retry_after } => {
                Self::Refused { code: code.clone(), message: message.clone(), retry_after: *retry_after }
            }
            Self::Address(_)
            | Self::Connect(_)
            | Self::Tls(_)
            | Self::Identity(_)
            | Self::TooOld { .. }
            | Self::Handshake
            | Self::TooLarge { .. }
            | Self::Truncated
            | Self::Silent(_)
            | Self::Closed => Self::Truncated,
        }
    }
}

fn in_words(most: Option<u64>) -> String {
    most.map_or_else(String::new, |most| format!(": {most} bytes at most"))
}

impl From<fabstir_protocol::seal::SealError> for Error {
    fn from(_: fabstir_protocol::seal::SealError) -> Self {
        Self::Closed
    }
}

impl From<fabstir_protocol::seal::OpenError> for Error {
    fn from(_: fabstir_protocol::seal::OpenError) -> Self {
        Self::DidNotOpen
    }
}
