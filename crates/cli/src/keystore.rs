//! Ethereum's keystore files: Web3 Secret Storage, version 3.

use std::path::Path;

use aws_lc_rs::{
    cipher::{AES_128, DecryptingKey, DecryptionContext, UnboundCipherKey},
    iv::FixedLength,
    pbkdf2,
};
use fabstir_protocol::identity::PrivateKey;
use serde::Deserialize;
use sha3::{Digest as _, Keccak256};
use zeroize::Zeroizing;

/// What deriving a key may cost at most: 1 GiB of memory, and some seconds.
const MOST_MEMORY: u64 = 1 << 30;
const MOST_ROUNDS: u32 = 10_000_000;

#[derive(Deserialize)]
struct File {
    version: u8,
    #[serde(alias = "Crypto")]
    crypto: Crypto,
}

#[derive(Deserialize)]
struct Crypto {
    cipher: String,
    cipherparams: CipherParams,
    ciphertext: String,
    #[serde(flatten)]
    kdf: Kdf,
    mac: String,
}

#[derive(Deserialize)]
struct CipherParams {
    iv: String,
}

#[derive(Deserialize)]
#[serde(tag = "kdf", content = "kdfparams", rename_all = "lowercase")]
enum Kdf {
    Scrypt { dklen: usize, n: u64, p: u32, r: u32, salt: String },
    Pbkdf2 { dklen: usize, c: u32, prf: String, salt: String },
}

/// Why a keystore gives no key. Says nothing of what is in it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum KeystoreError {
    #[error("it is no keystore of version 3")]
    Form,
    #[error("its key derivation costs more than this program spends")]
    Cost,
    #[error("the password is wrong, or the file was changed")]
    Password,
}

/// The private key in a keystore.
pub(crate) fn open(path: &Path, password: &str) -> Result<PrivateKey, crate::failure::Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| crate::failure::Failure::file(path, error))?;
    read(&text, password).map_err(|error| crate::failure::Failure::file(path, error))
}

fn read(text: &str, password: &str) -> Result<PrivateKey, KeystoreError> {
    let file: File = serde_json::from_str(text).map_err(|_| KeystoreError::Form)?;
    let Crypto { cipher, cipherparams, ciphertext, kdf, mac } = file.crypto;
    if file.version != 3 || cipher != "aes-128-ctr" {
        return Err(KeystoreError::Form);
    }
    let hex = |text: &str| const_hex::decode(text).map_err(|_| KeystoreError::Form);
    let (ciphertext, mac, iv) = (hex(&ciphertext)?, hex(&mac)?, hex(&cipherparams.iv)?);
    let derived = kdf.derive(password)?;
    let (sealing, checking) = derived.split_at(16);
    let expected: [u8; 32] =
        Keccak256::new().chain_update(checking).chain_update(&ciphertext).finalize().into();
    aws_lc_rs::constant_time::verify_slices_are_equal(&expected, &mac)
        .map_err(|_| KeystoreError::Password)?;
    let iv: [u8; 16] = iv.try_into().map_err(|_| KeystoreError::Form)?;
    let key = UnboundCipherKey::new(&AES_128, sealing).and_then(DecryptingKey::ctr);
    let mut secret = Zeroizing::new(ciphertext);
    let context = DecryptionContext::Iv128(FixedLength::from(iv));
    let opened = key.and_then(|key| key.decrypt(&mut secret, context).map(|opened| opened.len()));
    let length = opened.map_err(|_| KeystoreError::Form)?;
    let secret: &[u8; 32] =
        secret.get(..length).and_then(|secret| secret.try_into().ok()).ok_or(KeystoreError::Form)?;
    PrivateKey::try_from(secret).map_err(|_| KeystoreError::Form)
}

impl Kdf {
    fn derive(&self, password: &str) -> Result<Zeroizing<[u8; 32]>, KeystoreError> {
        let mut key = Zeroizing::new([0; 32]);
        match self {
            Self::Scrypt { dklen: 32, n, p, r, salt } => {
                let salt = const_hex::decode(salt).map_err(|_| KeystoreError::Form)?;
                let memory = n.saturating_mul(u64::from(*r)).saturating_mul(128);
                if !n.is_power_of_two() || *n < 2 {
                    return Err(KeystoreError::Form);
                }
                if memory.saturating_mul(u64::from(*p)) > MOST_MEMORY {
                    return Err(KeystoreError::Cost);
                }
                let log_n = u8::try_from(n.trailing_zeros()).map_err(|_| KeystoreError::Form)?;
                let params = scrypt::Params::new(log_n, *r, *p).map_err(|_| KeystoreError::Form)?;
                scrypt::scrypt(password.as_bytes(), &salt, &params, &mut *key)
                    .map_err(|_| KeystoreError::Form)?;
            }
            Self::Pbkdf2 { dklen: 32, c, prf, salt } if prf == "hmac-sha256" => {
                let salt = const_hex::decode(salt).map_err(|_| KeystoreError::Form)?;
                let rounds = std::num::NonZeroU32::new(*c).ok_or(KeystoreError::Form)?;
                if *c > MOST_ROUNDS {
                    return Err(KeystoreError::Cost);
                }
                pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, &salt, password.as_bytes(), &mut *key);
            }
            Self::Scrypt { .. } | Self::Pbkdf2 { .. } => return Err(KeystoreError::Form),
        }
        Ok(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The two test vectors of the Web3 Secret Storage definition.
    const PBKDF2: &str = r#"{"crypto":{"cipher":"aes-128-ctr","cipherparams":{"iv":"6087dab2f9fdbbfaddc31a909735c1e6"},"ciphertext":"5318b4d5bcd28de64ee5559e671353e16f075ecae9f99c7a79a38af5f869aa46","kdf":"pbkdf2","kdfparams":{"c":262144,"dklen":32,"prf":"hmac-sha256","salt":"ae3cd4e7013836a3df6bd7241b12db061dbe2c6785853cce422d148a624ce0bd"},"mac":"517ead924a9d0dc3124507e3393d175ce3ff7c1e96529c6c555ce9e51205e9b2"},"id":"3198bc9c-6672-5ab3-d995-4942343ae5b6","version":3}"#;
    const SCRYPT: &str = r#"{"crypto":{"cipher":"aes-128-ctr","cipherparams":{"iv":"83dbcc02d8ccb40e466191a123791e0e"},"ciphertext":"d172bf743a674da9cdad04534d56926ef8358534d458fffccd4e6ad2fbde479c","kdf":"scrypt","kdfparams":{"dklen":32,"n":262144,"p":8,"r":1,"salt":"ab0c7876052600dd703518d6fc3fe8984592145b591fc8fb5c6d43190334ba19"},"mac":"2103ac29920d71da29f15d75b4a16dbe95cfd7ff8faea1056c33131d846e3097"},"id":"3198bc9c-6672-5ab3-d995-4942343ae5b6","version":3}"#;
    const SECRET: &str = "0x7a28b5ba57c53603b0b07b56bba752f7784bf506fa95edc395f5cf6c7514fe9d";

    #[test]
    fn the_published_keystores_open_with_their_password_alone() {
        for text in [PBKDF2, SCRYPT] {
            assert_eq!(read(text, "testpassword").unwrap().to_secret_hex().as_str(), SECRET);
        }
        assert_eq!(read(PBKDF2, "testpasswore").unwrap_err(), KeystoreError::Password);
        assert_eq!(read("{}", "x").unwrap_err(), KeystoreError::Form);
        assert_eq!(read(&SCRYPT.replace("262144", "1073741824"), "x").unwrap_err(), KeystoreError::Cost);
        assert_eq!(read(&PBKDF2.replace("262144", "4000000000"), "x").unwrap_err(), KeystoreError::Cost);
        assert_eq!(read(&SCRYPT.replace("262144", "262143"), "x").unwrap_err(), KeystoreError::Form);
    }
}
