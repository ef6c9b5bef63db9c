//! Where private keys are kept, and how they are used there.
//!
//! A node or a wallet needs two things of its key: to agree with somebody's public key, and to sign a digest. Whether
//! the key lies in this process's memory or in a hardware token is nobody else's business: both are a [`KeyCustody`].
//!
//! [`KeySource`] says where the key comes from, [`KeySource::load`] gets it. What is read on the way (a file, the output of a
//! command, a password) is wiped; the key itself ends in a [`LockedKey`], a page of its own that is locked into
//! memory, left out of core dumps and wiped on drop. A token's key never leaves the token.
//!
//! ```
//! use fabstir_custody::{KeyCustody, KeySource, Secret};
//!
//! let source = KeySource::Text(Secret::from("0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d"));
//! let key = source.load()?;
//! let signature = key.sign(&[7; 32])?;
//! assert_eq!(signature.recover(&[7; 32])?, key.public_key().address());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod command;
mod environment;
mod hardening;
mod keystore;
mod locked;
mod pkcs11;
mod secret;
mod source;

use std::fmt;

use fabstir_protocol::{
    ethereum::Address,
    identity::{Agreed, PublicKey, Signature},
};

pub use environment::take_from_environment;
pub use hardening::{Hardening, harden};
pub use keystore::{Cost, KeystoreError, is_keystore, open_keystore, write_keystore};
pub use locked::{LockedKey, LockedKeyError};
pub use pkcs11::{InvalidUri, Pin, Pkcs11Uri, Token, TokenError, TokenKey};
pub use secret::{
    Secret, SecretFileError, make_parent, put_secret_beside, read_credential, read_secret_file,
    replace_secret_file, write_secret_file,
};
pub use source::{KeySource, KeySourceError, Password};

/// Who holds a private key and uses it for its owner.
pub trait KeyCustody: fmt::Debug + Send + Sync {
    /// The public half.
    fn public_key(&self) -> &PublicKey;

    /// Diffie-Hellman with `their_key`; from a token its x coordinate alone.
    ///
    /// # Errors
    /// [`KeyFailure`].
    fn agree(&self, their_key: &PublicKey) -> Result<Agreed, KeyFailure>;

    /// Signs a digest, with a low s and what is needed for recovery.
    ///
    /// # Errors
    /// [`KeyFailure`].
    fn sign(&self, digest: &[u8; 32]) -> Result<Signature, KeyFailure>;

    /// Whether [`KeyCustody::agree`] works at all: some tokens only sign.
    fn can_agree(&self) -> bool {
        true
    }

    /// Where it is kept, for people: nothing secret.
    fn place(&self) -> String;

    /// The Ethereum address of the public half.
    fn address(&self) -> Address {
        self.public_key().address()
    }
}

/// The key could not be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFailure {
    /// The token that holds it does not do what was asked.
    #[error("the key's token failed: {0}")]
    Token(TokenError),
    /// What came out is not by this key.
    #[error("the key's holder gave a signature that is not by this key")]
    Signature,
    /// The key's memory does not hold a key any more.
    #[error("the key is gone")]
    Gone,
}

impl From<TokenError> for KeyFailure {
    fn from(error: TokenError) -> Self {
        Self::Token(error)
    }
}
