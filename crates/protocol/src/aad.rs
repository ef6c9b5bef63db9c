//! What a frame is authenticated as.

use std::{fmt, io::Write as _};

use crate::id::Index;

/// What a frame is authenticated *as* (docs/protocol.md, section 1.6).
///
/// The receiver builds the value it expects and opens against that. A value sent by the peer is
/// compared, never used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Aad {
    /// Nothing: the session init of deployed clients, whose signature covers the context instead.
    Empty,
    /// The session init of the specification.
    SessionInit,
    /// A client's message at its index.
    Message(Index),
    /// A piece of an answer at its index.
    Chunk(Index),
    /// The end of an answer.
    Final,
}

impl Aad {
    /// The index of a client's message, where `bytes` are exactly what [`Aad::Message`] would print.
    pub fn message_index(bytes: &[u8]) -> Option<Index> {
        let digits = std::str::from_utf8(bytes).ok()?.strip_prefix("message_")?;
        let canonical =
            digits.bytes().all(|b| b.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
        canonical.then(|| digits.parse().ok())?.map(Index::new)
    }
}

impl fmt::Display for Aad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => Ok(()),
            Self::SessionInit => f.write_str("session_init"),
            Self::Message(index) => write!(f, "message_{index}"),
            Self::Chunk(index) => write!(f, "chunk_{index}"),
            Self::Final => f.write_str("final"),
        }
    }
}

/// The bytes of an [`Aad`], without a place on the heap: one is made for every token.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct AadBytes {
    bytes: [u8; Self::MOST],
    len: usize,
}

impl AadBytes {
    /// `message_` and the largest index.
    const MOST: usize = 28;

    pub(crate) fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl From<Aad> for AadBytes {
    fn from(aad: Aad) -> Self {
        let mut bytes = [0; Self::MOST];
        let mut left: &mut [u8] = &mut bytes;
        // What has room for the longest has room for all.
        let written = write!(left, "{aad}");
        let len = if written.is_ok() { Self::MOST.saturating_sub(left.len()) } else { 0 };
        Self { bytes, len }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_bytes_are_what_it_prints() {
        let last = Index::new(u64::MAX);
        for aad in [Aad::Empty, Aad::SessionInit, Aad::Message(last), Aad::Chunk(last), Aad::Final] {
            assert_eq!(AadBytes::from(aad).as_slice(), aad.to_string().as_bytes());
        }
    }

    #[test]
    fn only_canonical_message_indices_are_read() {
        assert_eq!(Aad::message_index(b"message_0"), Some(Index::new(0)));
        assert_eq!(Aad::message_index(b"message_18446744073709551615"), Some(Index::new(u64::MAX)));
        let refused = [
            "",
            "message_",
            "message_00",
            "message_01",
            "message_+1",
            "message_-1",
            "message_ 1",
            "message_1 ",
            "Message_1",
            "chunk_1",
            "message_18446744073709551616",
            "message_1\0",
            "message_١",
        ];
        for text in refused {
            assert_eq!(Aad::message_index(text.as_bytes()), None, "{text:?}");
        }
    }
}
