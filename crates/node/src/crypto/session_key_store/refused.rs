//! Why the registry takes a session in or does not.

use fabstir_protocol::{Error, error::ReplayError, identity::InvalidSignature, v1::NotRemembered};

use crate::limits::Limit;

/// Why a session was not opened.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum OpenRefused {
    /// The protocol says no.
    Protocol(OpenFault),
    /// A bound is reached.
    Full(Limit),
}

/// What the protocol has against an init that is in itself in order.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum OpenFault {
    /// The id is held by another owner on this connection.
    OtherOwner,
    /// Seen before.
    Replay(ReplayError),
}

impl From<OpenFault> for Error {
    fn from(fault: OpenFault) -> Self {
        match fault {
            OpenFault::OtherOwner => InvalidSignature.into(),
            OpenFault::Replay(replay) => replay.into(),
        }
    }
}

impl From<NotRemembered> for OpenRefused {
    fn from(refused: NotRemembered) -> Self {
        match refused {
            NotRemembered::Replay(replay) => Self::Protocol(OpenFault::Replay(replay)),
            NotRemembered::Full(_) => Self::Full(Limit::RememberedInits),
        }
    }
}
