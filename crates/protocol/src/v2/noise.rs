//! The Noise Protocol Framework, revision 34: the objects of its section 5 over secp256k1, ChaCha20-Poly1305 and
//! SHA-256, for the patterns that the channel uses.
//!
//! One state machine runs the full handshake, the resumption and, in the tests, BOLT-8's handshake, whose published
//! vectors hold it to the letter.

mod symmetric;

use std::{fmt, marker::PhantomData, sync::Arc};

use rand_core::CryptoRng;
use zeroize::Zeroizing;

pub(crate) use self::symmetric::CipherState;
use self::symmetric::{SymmetricState, hkdf};
use super::secret::Secret;
use crate::{
    identity::{PrivateKey, PublicKey},
    seal::{OpenError, SealError, Sealed},
};

/// Bytes of a hash, a key and a shared secret.
pub(crate) const LEN: usize = 32;
/// Bytes that sealing adds.
pub(crate) const TAG_LEN: usize = Sealed::TAG_LEN;

/// What a message does, in the words of section 7.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Token {
    E,
    S,
    Ee,
    Es,
    Se,
    Psk,
}

/// A handshake pattern: who says what, the initiator first.
#[derive(Debug)]
pub(crate) struct Pattern {
    /// The whole protocol's name.
    pub(crate) name: &'static str,
    /// Whether the initiator knows the responder's static key beforehand.
    pub(crate) known_responder: bool,
    /// Whether there is a pre-shared key, so that every `e` is mixed into the key too (section 9.2).
    pub(crate) psk: bool,
    pub(crate) messages: &'static [&'static [Token]],
}

/// What a Diffie-Hellman gives: `secp256k1x` and BOLT-8 agree on the point and not on what is taken of it.
pub(crate) trait SharedSecret {
    fn shared(ours: &PrivateKey, theirs: &PublicKey) -> Secret;
}

/// The 32-byte x coordinate, as SEC 1 section 3.3.1 has it and tokens of PKCS#11 return it.
#[derive(Debug)]
pub(crate) enum Secp256k1X {}

impl SharedSecret for Secp256k1X {
    fn shared(ours: &PrivateKey, theirs: &PublicKey) -> Secret {
        Secret::of(ours.agree(theirs).x())
    }
}

/// Who began.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Role {
    Initiator,
    Responder,
}

/// The handshake cannot go on. Says nothing about why, on purpose.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the handshake did not complete")]
pub struct HandshakeError;

impl From<OpenError> for HandshakeError {
    fn from(OpenError: OpenError) -> Self {
        Self
    }
}

impl From<SealError> for HandshakeError {
    fn from(SealError: SealError) -> Self {
        Self
    }
}

/// Section 5.3.
pub(crate) struct HandshakeState<D> {
    symmetric: SymmetricState,
    role: Role,
    pattern: &'static Pattern,
    /// Messages that have gone either way.
    done: usize,
    ours: Option<Arc<PrivateKey>>,
    ephemeral: Option<PrivateKey>,
    their_static: Option<PublicKey>,
    their_ephemeral: Option<PublicKey>,
    psk: Option<Secret>,
    of: PhantomData<D>,
}

/// What a handshake leaves: a key for each direction, what names it, and what more can be derived.
pub(crate) struct Finished {
    pub(crate) send: CipherState,
    pub(crate) receive: CipherState,
    pub(crate) hash: [u8; LEN],
    chaining_key: Secret,
}

impl Finished {
    /// Two more secrets of the chaining key, by a label of their own.
    pub(crate) fn derive(&self, label: &[u8]) -> [Secret; 2] {
        hkdf(&self.chaining_key, &[label, &self.hash].concat())
    }
}

impl<D: SharedSecret> HandshakeState<D> {
    /// `ours` is the static key; `theirs` the responder's, where the pattern says that the initiator knows it.
    pub(crate) fn new(
        pattern: &'static Pattern,
        role: Role,
        prologue: &[u8],
        ours: Option<Arc<PrivateKey>>,
        theirs: Option<PublicKey>,
    ) -> Result<Self, HandshakeError> {
        let mut symmetric = SymmetricState::new(pattern.name);
        symmetric.mix_hash(prologue);
        if pattern.known_responder {
            let key = match role {
                Role::Initiator => theirs,
                Role::Responder => ours.as_ref().map(|ours| ours.public_key()),
            };
            symmetric.mix_hash(&key.ok_or(HandshakeError)?.to_bytes());
        }
        Ok(Self {
            symmetric,
            role,
            pattern,
            done: 0,
            ours,
            ephemeral: None,
            their_static: theirs,
            their_ephemeral: None,
            psk: None,
            of: PhantomData,
        })
    }

    pub(crate) fn set_static(&mut self, key: Arc<PrivateKey>) {
        self.ours = Some(key);
    }

    pub(crate) fn set_psk(&mut self, psk: Secret) {
        self.psk = Some(psk);
    }

    pub(crate) fn their_static(&self) -> Option<PublicKey> {
        self.their_static
    }

    /// The next message's tokens, if it is this side that writes.
    fn turn(&self, writes: bool) -> Result<&'static [Token], HandshakeError> {
        let initiator = self.done.is_multiple_of(2);
        let ours = initiator == (self.role == Role::Initiator);
        let tokens = self.pattern.messages.get(self.done).copied();
        tokens.filter(|_| ours == writes).ok_or(HandshakeError)
    }

    fn mix_ephemeral(&mut self, key: &PublicKey) {
        let bytes = key.to_bytes();
        self.symmetric.mix_hash(&bytes);
        if self.pattern.psk {
            self.symmetric.mix_key(&bytes);
        }
    }

    /// A Diffie-Hellman named as the initiator's key, then the responder's.
    fn agree(&mut self, token: Token) -> Result<(), HandshakeError> {
        let (static_of_ours, static_of_theirs) = match (token, self.role) {
            (Token::Es, Role::Initiator) | (Token::Se, Role::Responder) => (false, true),
            (Token::Es, Role::Responder) | (Token::Se, Role::Initiator) => (true, false),
            (Token::Ee | Token::E | Token::S | Token::Psk, _) => (false, false),
        };
        let ours = if static_of_ours { self.ours.as_deref() } else { self.ephemeral.as_ref() };
        let theirs = if static_of_theirs { self.their_static } else { self.their_ephemeral };
        let (Some(ours), Some(theirs)) = (ours, theirs) else { return Err(HandshakeError) };
        let shared = D::shared(ours, &theirs);
        self.symmetric.mix_key(shared.as_slice());
        Ok(())
    }

    fn mix_psk(&mut self) -> Result<(), HandshakeError> {
        let psk = self.psk.take().ok_or(HandshakeError)?;
        self.symmetric.mix_key_and_hash(psk.as_slice());
        Ok(())
    }

    /// The next message with `payload`, behind what is in `out` already.
    pub(crate) fn write(
        &mut self,
        payload: &[u8],
        out: &mut Vec<u8>,
        rng: &mut impl CryptoRng,
    ) -> Result<(), HandshakeError> {
        for token in self.turn(true)? {
            match token {
                Token::E => {
                    let key = PrivateKey::random(rng);
                    let public = key.public_key();
                    self.ephemeral = Some(key);
                    out.extend_from_slice(&public.to_bytes());
                    self.mix_ephemeral(&public);
                }
                Token::S => {
                    let public = self.ours.as_ref().ok_or(HandshakeError)?.public_key();
                    self.symmetric.encrypt_and_hash(&public.to_bytes(), out)?;
                }
                Token::Ee | Token::Es | Token::Se => self.agree(*token)?,
                Token::Psk => self.mix_psk()?,
            }
        }
        self.symmetric.encrypt_and_hash(payload, out)?;
        self.done = self.done.saturating_add(1);
        Ok(())
    }

    /// The next message's payload. What comes first costs least: a length, then a point, then one agreement. After
    /// an error the handshake must be dropped.
    pub(crate) fn read(&mut self, mut message: &[u8]) -> Result<Zeroizing<Vec<u8>>, HandshakeError> {
        for token in self.turn(false)? {
            match token {
                Token::E => {
                    let key = PublicKey::try_from(take(&mut message, PublicKey::LEN)?);
                    let key = key.map_err(|_| HandshakeError)?;
                    self.their_ephemeral = Some(key);
                    self.mix_ephemeral(&key);
                }
                Token::S => {
                    let length = PublicKey::LEN.saturating_add(self.symmetric.overhead());
                    let key = self.symmetric.decrypt_and_hash(take(&mut message, length)?)?;
                    let key = PublicKey::try_from(key.as_slice()).map_err(|_| HandshakeError)?;
                    self.their_static = Some(key);
                }
                Token::Ee | Token::Es | Token::Se => self.agree(*token)?,
                Token::Psk => self.mix_psk()?,
            }
        }
        let payload = self.symmetric.decrypt_and_hash(message)?;
        self.done = self.done.saturating_add(1);
        Ok(payload)
    }

    /// Split, once every message has gone.
    pub(crate) fn finish(self) -> Result<Finished, HandshakeError> {
        if self.done != self.pattern.messages.len() {
            return Err(HandshakeError);
        }
        let [first, second] = hkdf(&self.symmetric.chaining_key, &[]);
        let (first, second) = (CipherState::new(first), CipherState::new(second));
        let (send, receive) = match self.role {
            Role::Initiator => (first, second),
            Role::Responder => (second, first),
        };
        let SymmetricState { chaining_key, hash, .. } = self.symmetric;
        Ok(Finished { send, receive, hash, chaining_key })
    }
}

impl<D> fmt::Debug for HandshakeState<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandshakeState")
            .field("pattern", &self.pattern.name)
            .field("done", &self.done)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Finished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Finished(..)")
    }
}

fn take<'a>(message: &mut &'a [u8], length: usize) -> Result<&'a [u8], HandshakeError> {
    let (taken, rest) = message.split_at_checked(length).ok_or(HandshakeError)?;
    *message = rest;
    Ok(taken)
}

#[cfg(test)]
mod tests;
