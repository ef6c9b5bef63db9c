//! One established session, on either side. Does no I/O, spawns nothing, reads no clock.

use std::{collections::HashSet, fmt, sync::Arc};

use rand_core::CryptoRng;
use zeroize::Zeroize as _;

use crate::{
    aad::{Aad, AadBytes},
    error::{Error, ReplayError},
    id::{Index, Nonce, SessionId},
    seal::{OpenError, Plaintext, SealError, Sealed, SessionKey},
    v1::frame::{self, Ciphertext, SealedPayload, WirePayload},
};

/// The node's side: a key, what was opened under it, and nothing else.
pub struct Session {
    key: Arc<SessionKey>,
    /// `None` once the last index is spent.
    next: Option<Index>,
    nonces: HashSet<[u8; Nonce::LEN]>,
    opened: u32,
}

impl Session {
    /// Messages that one key may open; then the client makes a new init. Bounds the memory of nonces.
    pub const MAX_MESSAGES: u32 = 65_536;

    /// `init_nonce`: the nonce of the init, where the agreed key itself serves as session key.
    pub(crate) fn new(key: SessionKey, init_nonce: Option<Nonce>) -> Self {
        let nonces = init_nonce.iter().map(|nonce| *nonce.as_bytes()).collect();
        Self { key: Arc::new(key), next: Some(Index::default()), nonces, opened: 0 }
    }

    /// Opens the client's next message. A frame that does not open changes nothing.
    ///
    /// # Errors
    /// [`Error::Open`], [`Error::Replay`] for a spent index or nonce, [`Error::KeySpent`].
    pub fn open(&mut self, payload: &SealedPayload) -> Result<Plaintext, Error> {
        let index = Aad::message_index(&payload.claimed_aad).ok_or(OpenError)?;
        let next = self.next.filter(|_| self.opened < Self::MAX_MESSAGES).ok_or(Error::KeySpent)?;
        if index < next {
            return Err(ReplayError::Index.into());
        }
        let nonce = payload.sealed.nonce.as_bytes();
        if self.nonces.contains(nonce) {
            return Err(ReplayError::Nonce.into());
        }
        let plaintext = self.key.open(&payload.sealed, Aad::Message(index))?;
        self.next = index.next();
        self.nonces.insert(*nonce);
        self.opened = self.opened.saturating_add(1);
        Ok(plaintext)
    }

    /// Seals the answer to the message opened last; it keeps the key alive until it ends.
    pub fn answer(&self) -> AnswerSealer {
        AnswerSealer { key: Arc::clone(&self.key), next: Some(Index::default()) }
    }

    /// How many holders the key has: this session and its running answers.
    pub fn key_holders(&self) -> usize {
        Arc::strong_count(&self.key)
    }

    /// Bytes that this session really holds.
    pub fn memory_usage(&self) -> usize {
        let nonces = self.nonces.capacity().saturating_mul(Nonce::LEN.saturating_add(1));
        size_of::<Self>().saturating_add(size_of::<SessionKey>()).saturating_add(nonces)
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("opened", &self.opened).finish_non_exhaustive()
    }
}

/// Seals the chunks of one answer, in order, under the key that opened its message.
pub struct AnswerSealer {
    key: Arc<SessionKey>,
    next: Option<Index>,
}

impl AnswerSealer {
    /// Seals the next piece of the answer.
    ///
    /// # Errors
    /// [`SealError`].
    pub fn chunk(&mut self, text: &str, rng: &mut impl CryptoRng) -> Result<(u64, WirePayload), SealError> {
        let index = self.next.ok_or(SealError)?;
        self.next = index.next();
        Ok((index.as_u64(), self.seal(Aad::Chunk(index), text, rng)?))
    }

    /// Seals the end of the answer: its finish reason.
    ///
    /// # Errors
    /// [`SealError`].
    pub fn finish(self, reason: &str, rng: &mut impl CryptoRng) -> Result<WirePayload, SealError> {
        self.seal(Aad::Final, reason, rng)
    }

    fn seal(&self, aad: Aad, text: &str, rng: &mut impl CryptoRng) -> Result<WirePayload, SealError> {
        let nonce = Nonce::random(rng);
        let mut bytes = Ciphertext::with_capacity(text.len().saturating_add(Sealed::TAG_LEN));
        bytes.extend_from_slice(text.as_bytes());
        match self.key.seal_in_place(&nonce, AadBytes::from(aad).as_slice(), &mut bytes) {
            Ok(tag) => {
                bytes.extend_from_slice(&tag);
                Ok(WirePayload::new(bytes, nonce, aad))
            }
            Err(error) => {
                bytes.zeroize();
                Err(error)
            }
        }
    }
}

impl fmt::Debug for AnswerSealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnswerSealer").field("next", &self.next).finish_non_exhaustive()
    }
}

/// The client's side of a session.
pub struct ClientSession {
    id: SessionId,
    key: SessionKey,
    next: Option<Index>,
}

impl ClientSession {
    pub(crate) fn new(id: SessionId, key: SessionKey) -> Self {
        Self { id, key, next: Some(Index::default()) }
    }

    /// A session under a known key, for tests that read the vectors.
    #[doc(hidden)]
    pub fn with_key(id: SessionId, key: SessionKey) -> Self {
        Self::new(id, key)
    }

    /// The session's name.
    pub fn id(&self) -> &SessionId {
        &self.id
    }

    /// The text of the frame that carries `plaintext` as the next message.
    ///
    /// # Errors
    /// [`Error::KeySpent`] after the last index, [`Error::Seal`].
    pub fn message(&mut self, plaintext: &[u8], rng: &mut impl CryptoRng) -> Result<String, Error> {
        let index = self.next.ok_or(Error::KeySpent)?;
        self.next = index.next();
        let sealed = self.key.seal(Nonce::random(rng), Aad::Message(index), plaintext)?;
        Ok(frame::encode_message(&self.id, &sealed, index))
    }

    /// Starts reading the answer to a message.
    pub fn answer(&self) -> AnswerOpener {
        AnswerOpener { next: Some(Index::default()) }
    }

    /// Opens the next piece of an answer, at the position that is due and no other.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open_chunk(
        &self,
        answer: &mut AnswerOpener,
        payload: &SealedPayload,
    ) -> Result<Plaintext, OpenError> {
        let index = answer.next.ok_or(OpenError)?;
        let plaintext = self.open(payload, Aad::Chunk(index))?;
        answer.next = index.next();
        Ok(plaintext)
    }

    /// Opens the end of an answer: its finish reason.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open_final(&self, _answer: AnswerOpener, payload: &SealedPayload) -> Result<Plaintext, OpenError> {
        self.open(payload, Aad::Final)
    }

    fn open(&self, payload: &SealedPayload, aad: Aad) -> Result<Plaintext, OpenError> {
        // The aad on the wire only ever confirms the one that is due.
        if payload.claimed_aad != AadBytes::from(aad).as_slice() {
            return Err(OpenError);
        }
        self.key.open(&payload.sealed, aad)
    }

    /// The raw key, for tests that look for it in a node's memory.
    #[doc(hidden)]
    pub fn expose_key(&self) -> &[u8; SessionKey::LEN] {
        self.key.expose()
    }

    /// Seals anything as anything, for tests that play an attacker who holds the key.
    #[doc(hidden)]
    pub fn seal_as(&self, aad: Aad, plaintext: &[u8], rng: &mut impl CryptoRng) -> Result<Sealed, SealError> {
        self.key.seal(Nonce::random(rng), aad, plaintext)
    }
}

impl fmt::Debug for ClientSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientSession").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Where in an answer its reader stands.
#[derive(Debug)]
pub struct AnswerOpener {
    next: Option<Index>,
}
