//! ML-KEM-768 by RustCrypto, which takes its randomness as an argument: the same bytes give the same keys and
//! ciphertexts, here and in any other language.
#![allow(dead_code, reason = "each test crate uses its part of this")]

use fabstir_protocol::v2::{CIPHERTEXT_LEN, ENCAPSULATION_KEY_LEN, HandshakeError, Kem, KemSecret};
use ml_kem::{Decapsulate as _, DecapsulationKey768, EncapsulationKey768, KeyExport as _};
use rand_core::CryptoRng;

/// FIPS 203 from seeds: a key is made of the next 64 bytes of the generator, d and z; a ciphertext of the next 32, m.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Portable {}

/// The key pair of d and z.
pub(crate) fn keygen(seed: [u8; 64]) -> (DecapsulationKey768, [u8; ENCAPSULATION_KEY_LEN]) {
    let key = DecapsulationKey768::from_seed(seed.into());
    let public = key.encapsulation_key().to_bytes().into();
    (key, public)
}

/// The ciphertext and the secret of m; `None` for a key that fails the check of FIPS 203, section 7.2.
pub(crate) fn encapsulate(
    key: &[u8; ENCAPSULATION_KEY_LEN],
    m: [u8; 32],
) -> Option<([u8; CIPHERTEXT_LEN], [u8; 32])> {
    let key = EncapsulationKey768::new(&(*key).into()).ok()?;
    let (ciphertext, secret) = key.encapsulate_deterministic(&m.into());
    Some((ciphertext.into(), secret.into()))
}

/// The secret in a ciphertext.
pub(crate) fn decapsulate(key: &DecapsulationKey768, ciphertext: &[u8; CIPHERTEXT_LEN]) -> [u8; 32] {
    key.decapsulate(&(*ciphertext).into()).into()
}

impl Kem for Portable {
    type DecapsulationKey = DecapsulationKey768;

    fn generate(
        rng: &mut impl CryptoRng,
    ) -> Result<(DecapsulationKey768, [u8; ENCAPSULATION_KEY_LEN]), HandshakeError> {
        let mut seed = [0; 64];
        rng.fill_bytes(&mut seed);
        Ok(keygen(seed))
    }

    fn encapsulate(
        key: &[u8; ENCAPSULATION_KEY_LEN],
        rng: &mut impl CryptoRng,
    ) -> Result<([u8; CIPHERTEXT_LEN], KemSecret), HandshakeError> {
        let mut m = [0; 32];
        rng.fill_bytes(&mut m);
        let (ciphertext, secret) = encapsulate(key, m).ok_or(HandshakeError)?;
        Ok((ciphertext, KemSecret::of(&secret)))
    }

    fn decapsulate(
        key: &DecapsulationKey768,
        ciphertext: &[u8; CIPHERTEXT_LEN],
    ) -> Result<KemSecret, HandshakeError> {
        Ok(KemSecret::of(&decapsulate(key, ciphertext)))
    }
}
