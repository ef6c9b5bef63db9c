//! The two objects below the handshake: section 5.1's, which seals, and section 5.2's, which mixes.

use std::fmt;

use aws_lc_rs::aead::{self, CHACHA20_POLY1305, LessSafeKey, UnboundKey};
use hkdf::Hkdf;
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, Zeroizing};

use super::{LEN, TAG_LEN};
use crate::{
    seal::{OpenError, SealError},
    v2::secret::Secret,
};

/// Section 5.1. A counter and a key; the key is wiped on drop. AWS-LC's context of a key takes twenty times the room of the
/// key, and most channels are silent most of the time: it is made for each record, and freed after it.
pub(crate) struct CipherState {
    key: Secret,
    n: u64,
}

impl CipherState {
    /// The nonce that REKEY uses and nothing else may.
    const REKEY_NONCE: u64 = u64::MAX;

    pub(super) fn new(key: Secret) -> Self {
        Self { key, n: 0 }
    }

    fn cipher(&self) -> Option<LessSafeKey> {
        UnboundKey::new(&CHACHA20_POLY1305, self.key.as_slice()).ok().map(LessSafeKey::new)
    }

    /// A state that starts at `n`, for the vectors and for tests of the limits.
    pub(crate) fn at(key: &[u8; LEN], n: u64) -> Self {
        Self { n, ..Self::new(Secret::of(key)) }
    }

    pub(crate) fn counter(&self) -> u64 {
        self.n
    }

    pub(crate) fn expose_key(&self) -> &[u8; LEN] {
        &self.key
    }

    fn nonce(n: u64) -> aead::Nonce {
        let mut bytes = [0; aead::NONCE_LEN];
        if let Some(counter) = bytes.last_chunk_mut::<8>() {
            *counter = n.to_le_bytes();
        }
        aead::Nonce::assume_unique_for_key(bytes)
    }

    /// Seals `bytes` where they are and returns the tag that goes behind them.
    pub(crate) fn seal(&mut self, aad: &[u8], bytes: &mut [u8]) -> Result<[u8; TAG_LEN], SealError> {
        let tag = self.seal_at(self.n, aad, bytes)?;
        self.n = self.n.checked_add(1).ok_or(SealError)?;
        Ok(tag)
    }

    fn seal_at(&self, n: u64, aad: &[u8], bytes: &mut [u8]) -> Result<[u8; TAG_LEN], SealError> {
        let cipher = self.cipher().filter(|_| n != Self::REKEY_NONCE).ok_or(SealError)?;
        let tag = cipher.seal_in_place_separate_tag(Self::nonce(n), aead::Aad::from(aad), bytes);
        tag.ok().and_then(|tag| tag.as_ref().try_into().ok()).ok_or(SealError)
    }

    /// Opens ciphertext and tag. On failure nothing changes.
    pub(crate) fn open(&mut self, aad: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        let (ciphertext, tag) = sealed.split_last_chunk::<TAG_LEN>().ok_or(OpenError)?;
        let cipher = self.cipher().filter(|_| self.n != Self::REKEY_NONCE).ok_or(OpenError)?;
        let mut bytes = Zeroizing::new(vec![0; ciphertext.len()]);
        let nonce = Self::nonce(self.n);
        let opened = cipher.open_separate_gather(nonce, aead::Aad::from(aad), ciphertext, tag, &mut bytes);
        opened.map_err(|_| OpenError)?;
        self.n = self.n.checked_add(1).ok_or(OpenError)?;
        Ok(bytes)
    }

    /// REKEY of section 4.2: the key becomes what it makes of 32 zeros under the last nonce. The counter stays.
    pub(crate) fn rekey(&mut self) -> Result<(), SealError> {
        let mut next = Secret::zero();
        let cipher = self.cipher().ok_or(SealError)?;
        let nonce = Self::nonce(Self::REKEY_NONCE);
        let _tag = cipher
            .seal_in_place_separate_tag(nonce, aead::Aad::empty(), next.as_mut())
            .map_err(|_| SealError)?;
        let n = self.n;
        *self = Self { n, ..Self::new(next) };
        Ok(())
    }
}

impl fmt::Debug for CipherState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CipherState").field("n", &self.n).finish_non_exhaustive()
    }
}

/// HKDF of section 4.3, which is RFC 5869's with the chaining key as salt and nothing as info.
pub(super) fn hkdf<const N: usize>(chaining_key: &[u8; LEN], input: &[u8]) -> [Secret; N] {
    let mut output = Zeroizing::new([0; 3 * LEN]);
    let wanted = output.get_mut(..N.saturating_mul(LEN)).unwrap_or_default();
    // Fails for more than 255 blocks only.
    let _ = Hkdf::<Sha256>::new(Some(chaining_key), input).expand(&[], wanted);
    let mut parts = output.chunks_exact(LEN);
    std::array::from_fn(|_| {
        let mut part = Secret::zero();
        part.as_mut().copy_from_slice(parts.next().unwrap_or(&[0; LEN]));
        part
    })
}

/// Section 5.2.
pub(super) struct SymmetricState {
    pub(super) chaining_key: Secret,
    pub(super) hash: [u8; LEN],
    cipher: Option<CipherState>,
}

impl SymmetricState {
    pub(super) fn new(name: &str) -> Self {
        let mut hash = [0; LEN];
        match hash.get_mut(..name.len()) {
            Some(start) => start.copy_from_slice(name.as_bytes()),
            None => hash = Sha256::digest(name).into(),
        }
        Self { chaining_key: Secret::of(&hash), hash, cipher: None }
    }

    pub(super) fn mix_key(&mut self, input: &[u8]) {
        let [chaining_key, key] = hkdf(&self.chaining_key, input);
        self.chaining_key = chaining_key;
        self.cipher = Some(CipherState::new(key));
    }

    pub(super) fn mix_hash(&mut self, data: &[u8]) {
        self.hash = Sha256::new().chain_update(self.hash).chain_update(data).finalize().into();
    }

    pub(super) fn mix_key_and_hash(&mut self, input: &[u8]) {
        let [chaining_key, hashed, key] = hkdf(&self.chaining_key, input);
        self.chaining_key = chaining_key;
        self.mix_hash(hashed.as_slice());
        self.cipher = Some(CipherState::new(key));
    }

    pub(super) fn encrypt_and_hash(&mut self, plaintext: &[u8], out: &mut Vec<u8>) -> Result<(), SealError> {
        let start = out.len();
        out.reserve_exact(plaintext.len().saturating_add(TAG_LEN));
        out.extend_from_slice(plaintext);
        if let Some(cipher) = &mut self.cipher {
            let bytes = out.get_mut(start..).unwrap_or_default();
            match cipher.seal(&self.hash, bytes) {
                Ok(tag) => out.extend_from_slice(&tag),
                Err(error) => {
                    bytes.zeroize();
                    return Err(error);
                }
            }
        }
        let sealed = out.get(start..).unwrap_or_default();
        self.hash = Sha256::new().chain_update(self.hash).chain_update(sealed).finalize().into();
        Ok(())
    }

    pub(super) fn decrypt_and_hash(&mut self, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        let plaintext = match &mut self.cipher {
            Some(cipher) => cipher.open(&self.hash, sealed)?,
            None => Zeroizing::new(sealed.to_vec()),
        };
        self.mix_hash(sealed);
        Ok(plaintext)
    }

    /// Bytes that a sealed field has beyond its own.
    pub(super) fn overhead(&self) -> usize {
        if self.cipher.is_some() { TAG_LEN } else { 0 }
    }
}
