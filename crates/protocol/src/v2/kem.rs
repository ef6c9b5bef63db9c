//! ML-KEM-768 (FIPS 203), behind a trait, so that the vectors can come from an implementation that takes a seed.

use std::fmt;

use aws_lc_rs::kem::{self, Ciphertext, ML_KEM_768};
use rand_core::CryptoRng;

use super::{
    noise::{HandshakeError, LEN},
    secret::Secret,
};

/// Bytes of an encapsulation key.
pub const ENCAPSULATION_KEY_LEN: usize = 1184;
/// Bytes of a ciphertext.
pub const CIPHERTEXT_LEN: usize = 1088;

/// A shared secret of the key encapsulation. Wiped on drop.
pub struct KemSecret(pub(super) Secret);

impl KemSecret {
    /// Takes 32 bytes.
    pub fn of(bytes: &[u8; LEN]) -> Self {
        Self(Secret::of(bytes))
    }

    /// The secret, for tests that run one implementation against another.
    #[doc(hidden)]
    pub fn expose(&self) -> &[u8; LEN] {
        &self.0
    }
}

impl fmt::Debug for KemSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KemSecret(..)")
    }
}

/// An implementation of ML-KEM-768.
pub trait Kem {
    /// What opens a ciphertext.
    type DecapsulationKey;

    /// A new key pair: what stays, and what is sent.
    ///
    /// # Errors
    /// [`HandshakeError`] where the implementation fails.
    fn generate(
        rng: &mut impl CryptoRng,
    ) -> Result<(Self::DecapsulationKey, [u8; ENCAPSULATION_KEY_LEN]), HandshakeError>;

    /// A secret for the owner of `key`, and its ciphertext.
    ///
    /// # Errors
    /// [`HandshakeError`] for a key that fails the check of FIPS 203, section 7.2.
    fn encapsulate(
        key: &[u8; ENCAPSULATION_KEY_LEN],
        rng: &mut impl CryptoRng,
    ) -> Result<([u8; CIPHERTEXT_LEN], KemSecret), HandshakeError>;

    /// The secret in `ciphertext`. A wrong ciphertext gives another secret, and no error.
    ///
    /// # Errors
    /// [`HandshakeError`] where the implementation fails.
    fn decapsulate(
        key: &Self::DecapsulationKey,
        ciphertext: &[u8; CIPHERTEXT_LEN],
    ) -> Result<KemSecret, HandshakeError>;
}

/// AWS-LC's, which draws its own randomness.
#[derive(Clone, Copy, Debug)]
pub enum AwsLc {}

/// AWS-LC's private half. It wipes what it frees.
pub struct AwsLcKey(kem::DecapsulationKey);

impl fmt::Debug for AwsLcKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AwsLcKey(..)")
    }
}

impl AwsLcKey {
    /// A key of somebody else's making, for tests that run one implementation against another.
    #[doc(hidden)]
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, HandshakeError> {
        kem::DecapsulationKey::new(&ML_KEM_768, bytes).map(Self).map_err(|_| HandshakeError)
    }
}

impl Kem for AwsLc {
    type DecapsulationKey = AwsLcKey;

    fn generate(_: &mut impl CryptoRng) -> Result<(AwsLcKey, [u8; ENCAPSULATION_KEY_LEN]), HandshakeError> {
        let key = kem::DecapsulationKey::generate(&ML_KEM_768).map_err(|_| HandshakeError)?;
        let public = key.encapsulation_key().and_then(|public| Ok(public.key_bytes()?.as_ref().try_into()));
        let public = public.map_err(|_| HandshakeError)?.map_err(|_| HandshakeError)?;
        Ok((AwsLcKey(key), public))
    }

    fn encapsulate(
        key: &[u8; ENCAPSULATION_KEY_LEN],
        _: &mut impl CryptoRng,
    ) -> Result<([u8; CIPHERTEXT_LEN], KemSecret), HandshakeError> {
        if !is_reduced(key) {
            return Err(HandshakeError);
        }
        let key = kem::EncapsulationKey::new(&ML_KEM_768, key).map_err(|_| HandshakeError)?;
        let (ciphertext, secret) = key.encapsulate().map_err(|_| HandshakeError)?;
        let ciphertext = ciphertext.as_ref().try_into().map_err(|_| HandshakeError)?;
        Ok((ciphertext, shared(&secret)?))
    }

    fn decapsulate(key: &AwsLcKey, ciphertext: &[u8; CIPHERTEXT_LEN]) -> Result<KemSecret, HandshakeError> {
        let secret = key.0.decapsulate(Ciphertext::from(ciphertext.as_slice()));
        shared(&secret.map_err(|_| HandshakeError)?)
    }
}

fn shared(secret: &kem::SharedSecret) -> Result<KemSecret, HandshakeError> {
    secret.as_ref().try_into().map(KemSecret::of).map_err(|_| HandshakeError)
}

/// The modulus check of FIPS 203, section 7.2: every coefficient, 12 bits each, is below q. All but the last 32 bytes
/// are coefficients. Public bytes, so time may tell.
fn is_reduced(key: &[u8; ENCAPSULATION_KEY_LEN]) -> bool {
    const Q: u16 = 3329;
    let (coefficients, _seed) = key.split_at(ENCAPSULATION_KEY_LEN.saturating_sub(32));
    coefficients.chunks_exact(3).all(|three| {
        let [first, second, third] = [0, 1, 2].map(|at| u16::from(three.get(at).copied().unwrap_or(0xff)));
        let low = first | ((second & 0x0f) << 8);
        let high = (second >> 4) | (third << 4);
        low < Q && high < Q
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// AWS-LC looks for itself, and so would hide what is wrong here.
    #[test]
    fn a_key_is_reduced_if_each_coefficient_of_it_is() {
        let with = |at: usize, three: [u8; 3]| {
            let mut key = [0; ENCAPSULATION_KEY_LEN];
            key[at..at + 3].copy_from_slice(&three);
            key
        };
        // 3328 is 0xd00, 3329 is 0xd01, and 0xe00 is above either in its upper bits alone.
        for at in [0, 576, ENCAPSULATION_KEY_LEN - 35] {
            for three in [[0, 0, 0], [0x00, 0x0d, 0xd0], [0xff, 0x0c, 0x00], [0x00, 0xf0, 0xcf]] {
                assert!(is_reduced(&with(at, three)), "{three:x?} at {at}");
            }
            for three in [[0x01, 0x0d, 0x00], [0x00, 0x0e, 0x00], [0x00, 0x10, 0xd0], [0x00, 0x00, 0xe0]] {
                assert!(!is_reduced(&with(at, three)), "{three:x?} at {at}");
            }
        }
        // The seed is no coefficient.
        assert!(is_reduced(&with(ENCAPSULATION_KEY_LEN - 3, [0xff; 3])));
    }
}
