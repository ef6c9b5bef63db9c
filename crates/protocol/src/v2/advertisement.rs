//! What a node says of itself before anything is sealed, and what a client makes of it.

use serde::{Deserialize, Serialize};

use super::{
    certificate::{CertificateError, SignedChannelKey, SignedRotation, hex_address, hex_key},
    frame::Hint,
    json::{AnObject, integer, object, object_or_none},
};
use crate::{ethereum::Address, identity::PublicKey};

/// This version, as it is advertised.
pub const VERSION: &str = "2";
const NUMBER: u16 = 2;
/// Most versions that a node may advertise, and most characters of each.
const MAX_VERSIONS: usize = 8;
const MAX_VERSION_LEN: usize = 16;

/// The `e2ee` and `node` fields of a node's first frame, and all of `GET /v1/node`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Advertisement {
    /// The versions that this connection may speak.
    #[cfg_attr(feature = "schema", schemars(length(max = MAX_VERSIONS), inner(regex(pattern = "^[!-+\\--~]{1,16}$"))))]
    pub e2ee: Vec<String>,
    /// Who the node says it is; absent where it speaks no encryption.
    #[serde(default, deserialize_with = "object_or_none", skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeIdentity>,
}

/// Who a node says it is.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct NodeIdentity {
    /// Its identity.
    #[serde(with = "hex_address")]
    #[cfg_attr(feature = "schema", schemars(with = "Address"))]
    pub address: Address,
    /// The chain of its EIP-712 domain.
    #[serde(deserialize_with = "integer")]
    pub chain_id: u64,
    /// The static key of handshakes on this connection.
    #[serde(with = "hex_key")]
    #[cfg_attr(feature = "schema", schemars(with = "PublicKey"))]
    pub channel_key: PublicKey,
    /// The identity's word for it.
    #[serde(deserialize_with = "object")]
    pub certificate: SignedChannelKey,
    /// The move from an older identity.
    #[serde(default, deserialize_with = "object_or_none", skip_serializing_if = "Option::is_none")]
    pub rotation: Option<SignedRotation>,
}

/// Why a client does not begin a handshake.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum AdvertisementError {
    /// Not a node's first frame.
    #[error("the node's first frame is not one")]
    Malformed,
    /// Version 2 is not among what the node says it speaks. Whoever carries the frames may have taken it out.
    #[error("the node does not offer version 2 of the protocol")]
    NoVersion2,
    /// The node is another one than the one that was pinned.
    #[error("the node shows another identity, {0}, than the pinned one")]
    OtherIdentity(Address),
    /// The pinned identity says that the node has moved to the one that is shown. For a person to decide.
    #[error("the pinned identity says that the node has moved to {0}")]
    Moved(Address),
    /// See [`CertificateError`].
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

/// A node whose channel key is vouched for by the pinned identity.
#[derive(Clone, Debug)]
pub struct VerifiedNode {
    /// The pinned identity.
    pub address: Address,
    /// When the certificate ends, in unix seconds.
    pub not_after: u64,
    /// The oldest version that the node speaks until then.
    pub min_version: u16,
    pub(super) channel_key: PublicKey,
    pub(super) prologue: Vec<u8>,
}

impl Advertisement {
    /// Reads a node's first frame.
    ///
    /// # Errors
    /// [`AdvertisementError::Malformed`].
    pub fn read(text: &str) -> Result<Self, AdvertisementError> {
        const MALFORMED: AdvertisementError = AdvertisementError::Malformed;
        // A node of before version 2 greets without the list.
        #[derive(Deserialize)]
        struct Greeting {
            r#type: String,
            e2ee: Option<serde::de::IgnoredAny>,
        }
        let AnObject(greeting): AnObject<Greeting> = serde_json::from_str(text).map_err(|_| MALFORMED)?;
        if greeting.r#type != "connected" {
            return Err(MALFORMED);
        }
        if greeting.e2ee.is_none() {
            return Err(AdvertisementError::NoVersion2);
        }
        let AnObject(shown) = serde_json::from_str(text).map_err(|_| MALFORMED)?;
        Ok(shown)
    }

    /// Checks who the node says it is against the pinned identity, at `now` in unix seconds.
    ///
    /// # Errors
    /// [`AdvertisementError`]. None of them is a reason to fall back to an older version.
    pub fn verify(&self, pinned: Address, now: u64) -> Result<VerifiedNode, AdvertisementError> {
        let offered = self.e2ee.iter().any(|version| version == VERSION);
        let node = self.node.as_ref().filter(|_| offered).ok_or(AdvertisementError::NoVersion2)?;
        if node.address != pinned {
            let moved =
                |signed: &SignedRotation| signed.verify(pinned, node.chain_id, now) == Ok(node.address);
            return Err(if node.rotation.as_ref().is_some_and(moved) {
                AdvertisementError::Moved(node.address)
            } else {
                AdvertisementError::OtherIdentity(node.address)
            });
        }
        let certified = node.certificate.verify(pinned, node.chain_id, now)?;
        if certified.public_key != node.channel_key {
            return Err(CertificateError::OtherKey.into());
        }
        if certified.min_version > NUMBER {
            return Err(CertificateError::Version.into());
        }
        let prologue = prologue(&self.e2ee, node.chain_id, pinned).ok_or(AdvertisementError::Malformed)?;
        Ok(VerifiedNode {
            address: pinned,
            not_after: certified.not_after,
            min_version: certified.min_version,
            channel_key: node.channel_key,
            prologue,
        })
    }
}

impl VerifiedNode {
    /// What tells the node which of its channel keys a handshake is for.
    pub fn hint(&self) -> Hint {
        Hint::of(&self.channel_key)
    }

    /// The static key of handshakes.
    pub fn channel_key(&self) -> &PublicKey {
        &self.channel_key
    }
}

/// What both sides must agree on before message 1 opens: a list that somebody shortened on the way breaks it. `None`
/// for a list that cannot be written.
pub fn prologue(versions: &[String], chain_id: u64, node: Address) -> Option<Vec<u8>> {
    let proper = |version: &String| {
        let graphic = version.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',');
        !version.is_empty() && version.len() <= MAX_VERSION_LEN && graphic
    };
    if versions.len() > MAX_VERSIONS || !versions.iter().all(proper) {
        return None;
    }
    let versions = versions.join(",");
    let length = u16::try_from(versions.len()).ok()?;
    let parts: [&[u8]; 5] = [
        b"fabstir-e2ee/2",
        &chain_id.to_be_bytes(),
        node.as_bytes(),
        &length.to_be_bytes(),
        versions.as_bytes(),
    ];
    Some(parts.concat())
}
