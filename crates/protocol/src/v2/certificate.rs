//! What is signed by long-lived keys: a node's channel key, a client's delegate key, a node's change of identity.

mod delegation;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use self::delegation::{SessionDelegation, SignedDelegation};
use super::{
    eip712::{self, Field, NODE_CHANNEL_KEY, NODE_KEY_ROTATION},
    json::{MOST, integer, read_hex},
};
use crate::{
    ethereum::Address,
    identity::{InvalidSignature, PublicKey, Signature, V},
};

/// Seconds by which the clocks of node and client may differ.
pub const SKEW: u64 = 300;
/// Seconds for which a channel key is certified after it was made.
pub const CHANNEL_KEY_SECONDS: u64 = 25 * 60 * 60;
/// Most seconds that a delegation may last.
pub const MAX_DELEGATION_SECONDS: u64 = 30 * 24 * 60 * 60;

/// Why a certificate is not accepted.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CertificateError {
    /// Not of the form that it must have.
    #[error("the certificate is malformed")]
    Malformed,
    /// Signed by another key than the one that it must be signed by.
    #[error("the certificate's signature is not by the key that it names")]
    Signature,
    /// Its time has not come, or is over.
    #[error("the certificate is not valid at this time: check both clocks")]
    Time,
    /// It lasts longer than it may.
    #[error("the certificate lasts longer than it may")]
    TooLong,
    /// It is for another key.
    #[error("the certificate is for another key")]
    OtherKey,
    /// It is for another node.
    #[error("the certificate is for another node")]
    OtherNode,
    /// The node asks for a newer protocol than this client speaks.
    #[error("the node asks for a newer version of the protocol")]
    Version,
}

impl From<InvalidSignature> for CertificateError {
    fn from(InvalidSignature: InvalidSignature) -> Self {
        Self::Signature
    }
}

/// Whether `now` is in the time of a certificate, give or take [`SKEW`].
fn check_time(not_before: u64, not_after: u64, now: u64) -> Result<(), CertificateError> {
    let begun = now.saturating_add(SKEW) >= not_before;
    let ended = now > not_after.saturating_add(SKEW);
    if begun && !ended && not_before <= not_after { Ok(()) } else { Err(CertificateError::Time) }
}

fn signed_by(signature: &Signature, digest: &[u8; 32], signer: Address) -> Result<(), CertificateError> {
    // Recovery gives somebody for any signature: only the expected address counts.
    if signature.recover(digest)? == signer { Ok(()) } else { Err(CertificateError::Signature) }
}

/// A node's channel key, certified by its identity key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NodeChannelKey {
    /// What handshakes are made with.
    pub public_key: PublicKey,
    /// Unix seconds.
    pub not_before: u64,
    /// Unix seconds.
    pub not_after: u64,
    /// The oldest version that the node speaks.
    pub min_version: u16,
}

/// A [`NodeChannelKey`] and its signature: JSON, every field needed, hex in lower case.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SignedChannelKey {
    #[serde(with = "hex_key")]
    #[cfg_attr(feature = "schema", schemars(with = "PublicKey"))]
    public_key: PublicKey,
    #[serde(deserialize_with = "integer")]
    not_before: u64,
    #[serde(deserialize_with = "integer")]
    not_after: u64,
    min_version: u16,
    #[serde(with = "hex_signature")]
    #[cfg_attr(feature = "schema", schemars(with = "Signature"))]
    signature: Signature,
}

impl NodeChannelKey {
    /// The certificate of a key that is made now.
    pub fn made_at(now: u64, public_key: PublicKey, min_version: u16) -> Self {
        Self {
            public_key,
            not_before: now.saturating_sub(SKEW),
            not_after: now.saturating_add(CHANNEL_KEY_SECONDS),
            min_version,
        }
    }

    /// What the identity key signs.
    pub fn digest(&self, chain_id: u64) -> [u8; 32] {
        let fields = [
            Field::Bytes(&self.public_key),
            Field::Number(self.not_before),
            Field::Number(self.not_after),
            Field::Number(self.min_version.into()),
        ];
        eip712::digest(Some(chain_id), NODE_CHANNEL_KEY, &fields)
    }

    /// Puts a signature of [`NodeChannelKey::digest`] to it.
    pub fn with_signature(self, signature: Signature) -> SignedChannelKey {
        let Self { public_key, not_before, not_after, min_version } = self;
        let signature = signature.with_v(V::Ethereum);
        SignedChannelKey { public_key, not_before, not_after, min_version, signature }
    }
}

impl SignedChannelKey {
    /// The certified key.
    pub fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    /// What is certified, if it is by `identity` and of this time.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn verify(
        &self,
        identity: Address,
        chain_id: u64,
        now: u64,
    ) -> Result<NodeChannelKey, CertificateError> {
        if self.not_before > MOST || self.not_after > MOST {
            return Err(CertificateError::Malformed);
        }
        let key = NodeChannelKey {
            public_key: self.public_key,
            not_before: self.not_before,
            not_after: self.not_after,
            min_version: self.min_version,
        };
        signed_by(&self.signature, &key.digest(chain_id), identity)?;
        check_time(self.not_before, self.not_after, now)?;
        let most = CHANNEL_KEY_SECONDS.saturating_add(SKEW);
        if self.not_after.saturating_sub(self.not_before) > most {
            return Err(CertificateError::TooLong);
        }
        Ok(key)
    }
}

/// A node's move from one identity to another, signed by the one that is left.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NodeKeyRotation {
    /// The identity that clients have pinned.
    pub from: Address,
    /// The one to pin instead.
    pub to: Address,
    /// Unix seconds.
    pub not_before: u64,
}

/// A [`NodeKeyRotation`] and its signature.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SignedRotation {
    #[serde(with = "hex_address")]
    #[cfg_attr(feature = "schema", schemars(with = "Address"))]
    from: Address,
    #[serde(with = "hex_address")]
    #[cfg_attr(feature = "schema", schemars(with = "Address"))]
    to: Address,
    #[serde(deserialize_with = "integer")]
    not_before: u64,
    #[serde(with = "hex_signature")]
    #[cfg_attr(feature = "schema", schemars(with = "Signature"))]
    signature: Signature,
}

impl NodeKeyRotation {
    /// What the old identity signs.
    pub fn digest(&self, chain_id: u64) -> [u8; 32] {
        let fields = [Field::Address(&self.from), Field::Address(&self.to), Field::Number(self.not_before)];
        eip712::digest(Some(chain_id), NODE_KEY_ROTATION, &fields)
    }

    /// Puts a signature of [`NodeKeyRotation::digest`] to it.
    pub fn with_signature(self, signature: Signature) -> SignedRotation {
        let Self { from, to, not_before } = self;
        SignedRotation { from, to, not_before, signature: signature.with_v(V::Ethereum) }
    }
}

impl SignedRotation {
    /// What is said. Proves nothing before [`SignedRotation::verify`].
    pub fn rotation(&self) -> NodeKeyRotation {
        NodeKeyRotation { from: self.from, to: self.to, not_before: self.not_before }
    }

    /// The new identity, if the pinned one says so. To be shown to a person, never followed silently.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn verify(&self, pinned: Address, chain_id: u64, now: u64) -> Result<Address, CertificateError> {
        if self.not_before > MOST {
            return Err(CertificateError::Malformed);
        }
        if self.from != pinned {
            return Err(CertificateError::OtherKey);
        }
        signed_by(&self.signature, &self.rotation().digest(chain_id), pinned)?;
        check_time(self.not_before, u64::MAX, now)?;
        Ok(self.to)
    }
}

struct Shown(&'static str);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in lower-case hex was expected", self.0)
    }
}

macro_rules! hex_field {
    ($module:ident, $type:ty, $what:literal, $prefix:literal, $length:expr, |$value:ident| $write:expr, |$bytes:ident| $read:expr) => {
        pub(super) mod $module {
            use std::borrow::Cow;

            use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

            #[allow(clippy::wildcard_imports, unused_imports, reason = "a macro's modules")]
            use super::*;

            pub(in crate::v2) fn serialize<S: Serializer>($value: &$type, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(&$write)
            }

            pub(in crate::v2) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<$type, D::Error> {
                let text = Cow::<str>::deserialize(from)?;
                let read = read_hex::<{ $length }>(&text, $prefix).and_then(|$bytes| $read);
                read.ok_or_else(|| D::Error::custom(Shown($what)))
            }
        }
    };
}

hex_field!(
    hex_key,
    PublicKey,
    "a public key",
    "",
    PublicKey::LEN,
    |key| const_hex::encode(key.to_bytes()),
    |bytes| PublicKey::try_from(bytes.as_slice()).ok()
);
hex_field!(hex_address, Address, "an address", "0x", Address::LEN, |address| address.to_string(), |bytes| {
    Some(Address::from(bytes))
});
hex_field!(
    hex_signature,
    Signature,
    "a signature",
    "",
    Signature::LEN,
    |signature| const_hex::encode(signature.to_bytes()),
    |bytes| Signature::try_from(bytes.as_slice()).ok().filter(|signature| signature.v() == V::Ethereum)
);
