//! Ethereum's keystore files: Web3 Secret Storage, version 3.

use aws_lc_rs::{
    cipher::{AES_128, DecryptingKey, DecryptionContext, EncryptingKey, UnboundCipherKey},
    iv::FixedLength,
    pbkdf2,
};
use fabstir_protocol::{ethereum::Address, identity::PrivateKey};
use rand_core::CryptoRng;
use serde::{Deserialize, Serialize};
use sha3::{Digest as _, Keccak256};
use zeroize::Zeroizing;

use crate::Secret;

/// What deriving a key may cost at most: 1 GiB of memory, and some seconds.
const MOST_MEMORY: u64 = 1 << 30;
const MOST_ROUNDS: u32 = 10_000_000;

/// The only cipher that keystores are written with.
const CIPHER: &str = "aes-128-ctr";

#[derive(Deserialize, Serialize)]
struct File {
    #[serde(default)]
    address: Option<String>,
    #[serde(alias = "Crypto")]
    crypto: Crypto,
    #[serde(default)]
    id: Option<String>,
    version: u8,
}

#[derive(Deserialize, Serialize)]
struct Crypto {
    cipher: String,
    cipherparams: CipherParams,
    ciphertext: String,
    #[serde(flatten)]
    kdf: Kdf,
    mac: String,
}

#[derive(Deserialize, Serialize)]
struct CipherParams {
    iv: String,
}

#[derive(Deserialize, Serialize)]
#[serde(tag = "kdf", content = "kdfparams", rename_all = "lowercase")]
enum Kdf {
    Scrypt { dklen: usize, n: u64, p: u32, r: u32, salt: String },
    Pbkdf2 { dklen: usize, c: u32, prf: String, salt: String },
}

/// Why a keystore gives no key. Says nothing of what is in it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum KeystoreError {
    /// Another file, or a broken one.
    #[error("it is no keystore of version 3")]
    Form,
    /// Made to keep who opens it busy.
    #[error("its key derivation costs more than this program spends")]
    Cost,
    /// The check value is another one.
    #[error("the password is wrong, or the file was changed")]
    Password,
    /// What it says of itself is not so.
    #[error(
        "its `address` is another key's than the one that it holds: take the keystore that was meant, or correct that line"
    )]
    Address,
}

/// What opening a keystore shall cost.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Cost {
    /// As wallets have it: 256 MiB of memory and a second.
    Standard,
    /// As wallets have it for phones: 4 MiB.
    Light,
}

impl Cost {
    fn log_n(self) -> u8 {
        match self {
            Self::Standard => 18,
            Self::Light => 12,
        }
    }

    /// p for r = 8.
    fn parallel(self) -> u32 {
        match self {
            Self::Standard => 1,
            Self::Light => 6,
        }
    }
}

/// Whether bytes are a keystore by their looks: JSON with a `crypto` part.
pub fn is_keystore(bytes: &[u8]) -> bool {
    serde_json::from_slice::<File>(bytes).is_ok()
}

/// The secret in a keystore. The password may be empty.
///
/// # Errors
/// [`KeystoreError`].
pub fn open_keystore(text: &[u8], password: &[u8]) -> Result<Zeroizing<[u8; 32]>, KeystoreError> {
    let file: File = serde_json::from_slice(text).map_err(|_| KeystoreError::Form)?;
    let Crypto { cipher, cipherparams, ciphertext, kdf, mac } = file.crypto;
    if file.version != 3 || cipher != CIPHER {
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
    let held = PrivateKey::try_from(secret).map_err(|_| KeystoreError::Form)?.address();
    // Nothing vouches for the line, but whoever looks for a key by its address trusts it.
    let said = file.address.as_deref().map(|said| said.strip_prefix("0x").unwrap_or(said));
    let said = said.filter(|said| !said.is_empty());
    if said.is_some_and(|said| !said.eq_ignore_ascii_case(&const_hex::encode(held.as_bytes()))) {
        return Err(KeystoreError::Address);
    }
    Ok(Zeroizing::new(*secret))
}

/// A secret as a keystore under `password`, and the address that it is the key of.
///
/// # Errors
/// [`KeystoreError::Form`] where the bytes are no private key.
pub fn write_keystore(
    secret: &[u8; 32],
    password: &[u8],
    cost: Cost,
    rng: &mut impl CryptoRng,
) -> Result<(Secret, Address), KeystoreError> {
    let address = PrivateKey::try_from(secret).map_err(|_| KeystoreError::Form)?.address();
    let (mut salt, mut id) = ([0; 32], [0; 16]);
    rng.fill_bytes(&mut salt);
    rng.fill_bytes(&mut id);
    let n = 1 << cost.log_n();
    let kdf = Kdf::Scrypt { dklen: 32, n, p: cost.parallel(), r: 8, salt: const_hex::encode(salt) };
    let derived = kdf.derive(password)?;
    let (sealing, checking) = derived.split_at(16);
    let mut sealed = *secret;
    let key = UnboundCipherKey::new(&AES_128, sealing).and_then(EncryptingKey::ctr);
    let context = key.and_then(|key| key.encrypt(&mut sealed)).map_err(|_| KeystoreError::Form)?;
    let iv: &[u8] = (&context).try_into().map_err(|_| KeystoreError::Form)?;
    let mac = Keccak256::new().chain_update(checking).chain_update(sealed).finalize();
    let crypto = Crypto {
        cipher: CIPHER.to_owned(),
        cipherparams: CipherParams { iv: const_hex::encode(iv) },
        ciphertext: const_hex::encode(sealed),
        kdf,
        mac: const_hex::encode(mac),
    };
    let id = uuid::Builder::from_random_bytes(id).into_uuid().to_string();
    let address_digits = const_hex::encode(address.as_bytes());
    let file = File { address: Some(address_digits), crypto, id: Some(id), version: 3 };
    let text = serde_json::to_string(&file).map_err(|_| KeystoreError::Form)?;
    Ok((Secret::from(text), address))
}

impl Kdf {
    fn derive(&self, password: &[u8]) -> Result<Zeroizing<[u8; 32]>, KeystoreError> {
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
                scrypt::scrypt(password, &salt, &params, &mut *key).map_err(|_| KeystoreError::Form)?;
            }
            Self::Pbkdf2 { dklen: 32, c, prf, salt } if prf == "hmac-sha256" => {
                let salt = const_hex::decode(salt).map_err(|_| KeystoreError::Form)?;
                let rounds = std::num::NonZeroU32::new(*c).ok_or(KeystoreError::Form)?;
                if *c > MOST_ROUNDS {
                    return Err(KeystoreError::Cost);
                }
                pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, &salt, password, &mut *key);
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

    fn read(text: &str, password: &str) -> Result<String, KeystoreError> {
        open_keystore(text.as_bytes(), password.as_bytes()).map(|secret| const_hex::encode_prefixed(*secret))
    }

    #[test]
    fn the_published_keystores_open_with_their_password_alone() {
        for text in [PBKDF2, SCRYPT] {
            assert_eq!(read(text, "testpassword").unwrap(), SECRET);
        }
        assert_eq!(read(PBKDF2, "testpasswore").unwrap_err(), KeystoreError::Password);
        assert_eq!(read("{}", "x").unwrap_err(), KeystoreError::Form);
        assert_eq!(read(&SCRYPT.replace("262144", "1073741824"), "x").unwrap_err(), KeystoreError::Cost);
        assert_eq!(read(&PBKDF2.replace("262144", "4000000000"), "x").unwrap_err(), KeystoreError::Cost);
        assert_eq!(read(&SCRYPT.replace("262144", "262143"), "x").unwrap_err(), KeystoreError::Form);
    }

    #[test]
    fn what_is_written_opens_with_its_password_alone_and_the_empty_one_is_one() {
        let rng = &mut rand_core::UnwrapErr(getrandom::SysRng);
        for password in ["", "correct horse", "\u{e9}\0"] {
            let (text, address) = write_keystore(&[0x5a; 32], password.as_bytes(), Cost::Light, rng).unwrap();
            let text = text.as_text().unwrap();
            assert!(is_keystore(text.as_bytes()) && !text.contains(&"5a".repeat(16)));
            assert!(text.contains(&const_hex::encode(address.as_bytes())));
            assert_eq!(read(text, password).unwrap(), format!("0x{}", "5a".repeat(32)));
            assert_eq!(read(text, "another").unwrap_err(), KeystoreError::Password);
        }
        assert!(!is_keystore(b"0x59c6995e"));
    }

    #[test]
    fn a_keystore_that_says_it_holds_another_key_is_refused() {
        let rng = &mut rand_core::UnwrapErr(getrandom::SysRng);
        let (text, address) = write_keystore(&[0x5a; 32], b"", Cost::Light, rng).unwrap();
        let digits = const_hex::encode(address.as_bytes());
        let saying = |said: &str| read(&text.as_text().unwrap().replace(&digits, said), "");
        for same in [address.to_checksum(), digits.to_uppercase(), String::new()] {
            assert!(saying(&same).is_ok(), "{same}");
        }
        for other in ["7".repeat(40), digits.chars().rev().collect(), "0x".to_owned() + &digits[1..]] {
            assert_eq!(saying(&other).unwrap_err(), KeystoreError::Address, "{other}");
        }
    }
}
