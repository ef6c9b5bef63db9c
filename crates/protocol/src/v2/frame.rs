//! The outermost bytes of a binary frame: `02`, a kind, and what the node needs before it can open anything.

use std::fmt;

use sha2::{Digest, Sha256};

use crate::identity::PublicKey;

/// First byte of every frame.
pub(super) const MAGIC: u8 = 2;
/// Bytes before what is sealed in a record.
pub(super) const HEAD_LEN: usize = 2;
/// Most bytes of a frame: the largest record.
pub const MAX_FRAME_LEN: usize = HEAD_LEN + super::record::MAX_PLAINTEXT + super::noise::TAG_LEN;

/// Not a frame of this version.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not a frame of version 2")]
pub struct InvalidFrame;

/// What a frame is, told by its second byte.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// Message 1 of the handshake.
    M1,
    /// Message 2.
    M2,
    /// Message 3.
    M3,
    /// The first message of a resumption.
    R1,
    /// The second.
    R2,
    /// A record.
    Record,
}

impl Kind {
    const ALL: [(u8, Self); 6] =
        [(1, Self::M1), (2, Self::M2), (3, Self::M3), (4, Self::R1), (5, Self::R2), (6, Self::Record)];

    pub(crate) fn byte(self) -> u8 {
        Self::ALL.into_iter().find_map(|(byte, kind)| (kind == self).then_some(byte)).unwrap_or(0)
    }

    /// The kind of a frame, and what is behind its head.
    ///
    /// # Errors
    /// [`InvalidFrame`].
    pub fn split(frame: &[u8]) -> Result<(Self, &[u8]), InvalidFrame> {
        let ([magic, kind], body) = frame.split_first_chunk::<HEAD_LEN>().ok_or(InvalidFrame)?;
        let known = Self::ALL.into_iter().find_map(|(byte, known)| (byte == *kind).then_some(known));
        known.filter(|_| *magic == MAGIC).map(|kind| (kind, body)).ok_or(InvalidFrame)
    }

    /// The body of a frame that must be of this kind.
    pub(super) fn expect(self, frame: &[u8]) -> Result<&[u8], InvalidFrame> {
        let (kind, body) = Self::split(frame)?;
        if kind == self { Ok(body) } else { Err(InvalidFrame) }
    }

    pub(super) fn head(self) -> [u8; HEAD_LEN] {
        [MAGIC, self.byte()]
    }
}

/// Which channel key a handshake is for: the first bytes of its SHA-256. Not authenticated by itself; under another
/// key message 1 does not open.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct Hint([u8; Self::LEN]);

impl Hint {
    /// Bytes on the wire.
    pub const LEN: usize = 4;

    /// The hint of a channel key.
    pub fn of(key: &PublicKey) -> Self {
        let hash: [u8; 32] = Sha256::digest(key.to_bytes()).into();
        Self(hash.first_chunk().copied().unwrap_or_default())
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

impl From<[u8; Self::LEN]> for Hint {
    fn from(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hint({})", const_hex::encode(self.0))
    }
}
