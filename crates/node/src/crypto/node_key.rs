//! The node's identity key, wherever it is kept.

use std::{
    fmt,
    sync::atomic::{AtomicBool, Ordering},
};

use fabstir_custody::{KeyCustody, KeyFailure, KeySource, KeySourceError, Secret};
use fabstir_protocol::{
    ethereum::Address,
    identity::{Agreed, PrivateKey, PublicKey, Signature},
};
use sha2::{Digest, Sha256};

use crate::metrics;

/// The node's identity key. Never printed; what is in memory of it is wiped on drop.
pub struct NodeKey {
    custody: Box<dyn KeyCustody>,
    address: Address,
    /// Whether its last use failed: a token may be away, and come back.
    away: AtomicBool,
}

/// Whether keys that everybody knows are accepted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TestKeys {
    /// As in production.
    Refused,
    /// `ALLOW_TEST_KEYS=true`.
    Allowed,
}

/// Why there is no node key. Never holds any part of one.
#[derive(Debug, thiserror::Error)]
pub enum InvalidNodeKey {
    /// Its source gives none.
    #[error(transparent)]
    Source(#[from] KeySourceError),
    /// Everybody has it.
    #[error(
        "this private key is published in documentation or test tools, so everybody has it; make your own \
             with `openssl rand -hex 32`, or set ALLOW_TEST_KEYS=true if nothing is at stake"
    )]
    Published,
}

impl NodeKey {
    /// Gets the key from where it is.
    ///
    /// # Errors
    /// [`InvalidNodeKey`], which shows nothing of it.
    pub fn load(source: &KeySource, test_keys: TestKeys) -> Result<Self, InvalidNodeKey> {
        let key = Self::held_by(source.load()?);
        if test_keys == TestKeys::Refused && is_published(&key.address) {
            return Err(InvalidNodeKey::Published);
        }
        tracing::info!(event = "key_load", address = %key.address, place = key.custody.place(), "identity key loaded");
        Ok(key)
    }

    /// The key that somebody holds.
    pub fn held_by(custody: Box<dyn KeyCustody>) -> Self {
        let address = custody.address();
        Self { custody, address, away: AtomicBool::new(false) }
    }

    /// Reads `0x` and 64 hex digits.
    ///
    /// # Errors
    /// [`InvalidNodeKey`], which shows nothing of the text.
    pub fn read(text: &str, test_keys: TestKeys) -> Result<Self, InvalidNodeKey> {
        Self::load(&KeySource::Text(Secret::from(text)), test_keys)
    }

    /// The public half, which clients pin.
    pub fn public(&self) -> &PublicKey {
        self.custody.public_key()
    }

    /// The node's address.
    pub fn address(&self) -> Address {
        self.address
    }

    /// Whether version 1 can be served: some tokens only sign.
    pub fn can_agree(&self) -> bool {
        self.custody.can_agree()
    }

    /// Diffie-Hellman with a client's ephemeral key.
    ///
    /// # Errors
    /// [`KeyFailure`]: the token that holds it is gone.
    pub fn agree(&self, their_key: &PublicKey) -> Result<Agreed, KeyFailure> {
        self.used("agree", self.custody.agree(their_key))
    }

    /// Signs a digest.
    ///
    /// # Errors
    /// [`KeyFailure`].
    pub fn sign(&self, digest: &[u8; 32]) -> Result<Signature, KeyFailure> {
        self.used("sign", self.custody.sign(digest))
    }

    /// Whether its last use failed.
    pub fn is_away(&self) -> bool {
        self.away.load(Ordering::Relaxed)
    }

    /// Uses a key whose last use failed, to see whether it is back.
    ///
    /// # Errors
    /// [`KeyFailure`]: it is not.
    pub fn look_whether_back(&self) -> Result<(), KeyFailure> {
        if self.is_away() {
            self.sign(&Sha256::digest(b"fabstir node key probe").into()).map(|_| ())
        } else {
            Ok(())
        }
    }

    fn used<T>(&self, operation: &'static str, done: Result<T, KeyFailure>) -> Result<T, KeyFailure> {
        metrics::key_operation(operation);
        let address = &self.address;
        tracing::debug!(event = "key_use", %address, operation, "The identity key was used");
        match (&done, self.away.swap(done.is_err(), Ordering::Relaxed)) {
            (Err(error), false) => {
                tracing::error!(event = "key_use", %address, operation, %error, "the identity key does not answer: it is asked again until it does");
            }
            (Ok(_), true) => {
                tracing::warn!(event = "key_use", %address, operation, "the identity key answers again");
            }
            (Err(_), true) | (Ok(_), false) => {}
        }
        done
    }

    /// Proves to whom `challenge` is fresh that this node holds its key (docs/api.md).
    ///
    /// # Errors
    /// [`KeyFailure`].
    pub fn answer_challenge(&self, challenge: &[u8; 32]) -> Result<Signature, KeyFailure> {
        self.sign(&challenge_digest(&self.address, challenge))
    }

    /// What clients of before the context expect: a signature over any 32 bytes, hashed once. Whoever holds
    /// a transaction of a chain that hashes twice can have it signed this way.
    ///
    /// # Errors
    /// As [`NodeKey::answer_challenge`].
    pub fn answer_legacy_challenge(&self, challenge: &[u8; 32]) -> Result<Signature, KeyFailure> {
        self.sign(&Sha256::digest(challenge).into())
    }
}

fn challenge_digest(address: &Address, challenge: &[u8; 32]) -> [u8; 32] {
    Sha256::new()
        .chain_update(b"fabstir node challenge|")
        .chain_update(address.as_bytes())
        .chain_update(challenge)
        .finalize()
        .into()
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeKey").field("address", &self.address).finish_non_exhaustive()
    }
}

/// Addresses of keys that stand in documentation and in the defaults of Ethereum's test tools.
const PUBLISHED: &[&str] = &[
    // Hardhat and Anvil: "test test test test test test test test test test test junk".
    "0xf39fd6e51aad88f6f4ce6ab8827279cfffb92266",
    "0x70997970c51812dc3a010c7d01b50e0d17dc79c8",
    "0x3c44cdddb6a900fa2b585dd299e03d12fa4293bc",
    "0x90f79bf6eb2c4f870365e785982e1f101e93b906",
    "0x15d34aaf54267db7d7c367839aaf71a00a2c6a65",
    "0x9965507d1a55bcc2695c58ba16fb37d819b0a4dc",
    "0x976ea74026e726554db657fa54763abd0c3a0aa9",
    "0x14dc79964da2c08b23698b3d3cc7ca32193d9955",
    "0x23618e81e3f5cdf7f54c3d65f7fbc0abf5b21e8f",
    "0xa0ee7a142d267c1f36714e4a8f75612f20a79720",
    // Ganache with --deterministic.
    "0x90f8bf6a479f320ead074411a4b0e7944ea8c9c1",
    "0xffcf8fdee72ac11b5c542428b35eef5769c409f0",
    "0x22d491bde2303f2f43325b2108d26f1eaba1e32b",
    "0xe11ba2b4d45eaed5996cd0823791e0c93114882d",
    "0xd03ea8624c8c5987235048901fb614fdca89b117",
    // The example that runs through the specification, repeated to 32 bytes.
    "0x1be31a94361a391bbafb2a4ccd704f57dc04d4bb",
];

fn is_published(address: &Address) -> bool {
    // The scalars 1 to 64 are the other classics.
    let small = (1..=64_u8).any(|last| {
        let mut scalar = [0; 32];
        scalar[31] = last;
        PrivateKey::try_from(&scalar).is_ok_and(|key| key.address() == *address)
    });
    small || PUBLISHED.iter().any(|known| known.parse() == Ok(*address))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HARDHAT: &str = "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";
    const GANACHE: &str = "0x4f3edf983ac636a65a842ce7c78d9aa706d3b113bce9c46f30d7d21715b23b1d";
    const GUIDE: &str = "0x1234567890abcdef1234567890abcdef1234567890abcdef1234567890abcdef";
    const ONE: &str = "0000000000000000000000000000000000000000000000000000000000000001";

    #[test]
    fn published_keys_are_refused_unless_allowed() {
        for key in [HARDHAT, GANACHE, GUIDE, ONE] {
            let refused = NodeKey::read(key, TestKeys::Refused);
            assert!(matches!(refused, Err(InvalidNodeKey::Published)), "{key}");
            assert!(NodeKey::read(key, TestKeys::Allowed).is_ok());
        }
    }

    #[test]
    fn a_malformed_key_is_refused_and_not_shown() {
        let secret = "0xdeadbeefcafe";
        for text in ["", "0x", secret, &"0".repeat(64), &"f".repeat(64), &"g".repeat(64), &"1".repeat(63)] {
            let error = NodeKey::read(text, TestKeys::Refused).unwrap_err();
            let shown = format!("{error} {error:?}");
            assert!(text.len() < 4 || !shown.contains(text.trim_start_matches("0x")), "{shown}");
        }
    }

    #[test]
    fn a_challenge_is_signed_with_its_context() {
        let key = NodeKey::read(HARDHAT, TestKeys::Allowed).unwrap();
        let signature = key.answer_challenge(&[7; 32]).unwrap();
        assert_eq!(signature.recover(&challenge_digest(&key.address(), &[7; 32])), Ok(key.address()));
        assert_ne!(signature.recover(&Sha256::digest([7; 32]).into()), Ok(key.address()));
    }

    #[test]
    fn the_key_does_not_print() {
        let key = NodeKey::read(HARDHAT, TestKeys::Allowed).unwrap();
        let expected = "NodeKey { address: Address(0xf39fd6e51aad88f6f4ce6ab8827279cfffb92266), .. }";
        assert_eq!(format!("{key:?}"), expected);
    }
}
