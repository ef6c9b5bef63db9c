//! Names and positions: session ids, indices, nonces.

use std::fmt;

use rand_core::CryptoRng;

/// Position of a frame in its stream. Never repeats, never wraps.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Index(u64);

impl Index {
    /// The position `index`.
    pub const fn new(index: u64) -> Self {
        Self(index)
    }

    /// The position as a number.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The next position, or `None` once the stream is exhausted.
    pub fn next(self) -> Option<Self> {
        self.0.checked_add(1).map(Self)
    }
}

impl fmt::Display for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name that a client gave its session: 1 to 64 graphic ASCII characters.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SessionId(String);

/// A session id must be 1 to 64 graphic ASCII characters.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("a session id is 1 to 64 graphic ASCII characters")]
pub struct InvalidSessionId;

impl SessionId {
    /// Most characters of an id.
    pub const MAX_LEN: usize = 64;

    /// The id as it stands on the wire.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<&str> for SessionId {
    type Error = InvalidSessionId;

    fn try_from(text: &str) -> Result<Self, InvalidSessionId> {
        let well_formed =
            (1..=Self::MAX_LEN).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        well_formed.then(|| Self(text.to_owned())).ok_or(InvalidSessionId)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A 24-byte XChaCha20 nonce. Not `Clone`: one nonce seals one frame.
#[derive(Debug, Eq, PartialEq)]
pub struct Nonce([u8; Self::LEN]);

impl Nonce {
    /// Bytes of a nonce.
    pub const LEN: usize = 24;

    /// A fresh nonce. 192 random bits: the chance that two of 2^64 meet is about 2^-65 (birthday bound).
    pub fn random(rng: &mut impl CryptoRng) -> Self {
        let mut bytes = [0; Self::LEN];
        rng.fill_bytes(&mut bytes);
        Self(bytes)
    }

    /// The bytes, for the wire.
    pub fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

impl From<[u8; Self::LEN]> for Nonce {
    /// A nonce received from the peer.
    fn from(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_id_is_short_graphic_ascii() {
        for good in
            ["1", "test-session", "115792089237316195423570985008687907853269984665640564039457584007"]
        {
            assert_eq!(SessionId::try_from(good).is_ok(), good.len() <= 64, "{good}");
        }
        for bad in ["", " ", "a b", "a\n", "é", "\u{7f}", &"x".repeat(65)] {
            assert!(SessionId::try_from(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_last_index_has_no_next() {
        assert_eq!(Index::new(u64::MAX).next(), None);
    }
}
