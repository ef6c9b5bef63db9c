//! A client's delegate key, certified by its wallet.

use super::{CertificateError, MAX_DELEGATION_SECONDS, check_time, signed_by};
use crate::{
    ethereum::Address,
    identity::{PrivateKey, PublicKey, Signature, V},
    v2::eip712::{self, Field, SESSION_DELEGATION},
};

/// A client's delegate key, certified by its wallet: one signature for many sessions.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SessionDelegation {
    /// Who delegates.
    pub wallet: Address,
    /// The key that speaks for the wallet: the static key of handshakes.
    pub delegate_key: PublicKey,
    /// The only node that may be spoken to; `None` is any.
    pub node: Option<Address>,
    /// Unix seconds.
    pub not_before: u64,
    /// Unix seconds.
    pub not_after: u64,
}

impl SessionDelegation {
    /// What the wallet signs.
    pub fn digest(&self) -> [u8; 32] {
        let node = self.node.unwrap_or(ANY_NODE);
        let fields = [
            Field::Address(&self.wallet),
            Field::Bytes(&self.delegate_key),
            Field::Address(&node),
            Field::Number(self.not_before),
            Field::Number(self.not_after),
        ];
        eip712::digest(None, SESSION_DELEGATION, &fields)
    }

    /// The typed data in the form that wallets take (`eth_signTypedData_v4`).
    pub fn typed_data(&self) -> serde_json::Value {
        let field = |name: &str, kind: &str| serde_json::json!({ "name": name, "type": kind });
        serde_json::json!({
            "types": {
                "EIP712Domain": [field("name", "string"), field("version", "string")],
                "SessionDelegation": [
                    field("wallet", "address"),
                    field("delegateKey", "bytes"),
                    field("node", "address"),
                    field("notBefore", "uint64"),
                    field("notAfter", "uint64"),
                ],
            },
            "primaryType": "SessionDelegation",
            "domain": { "name": "Fabstir E2EE", "version": "2" },
            "message": {
                "wallet": self.wallet.to_checksum(),
                "delegateKey": const_hex::encode_prefixed(self.delegate_key.to_bytes()),
                "node": self.node.unwrap_or(ANY_NODE).to_checksum(),
                "notBefore": self.not_before,
                "notAfter": self.not_after,
            },
        })
    }

    /// Signs with the wallet's key.
    ///
    /// # Errors
    /// [`CertificateError::OtherKey`] where it is not that wallet's.
    pub fn sign(self, wallet: &PrivateKey) -> Result<SignedDelegation, CertificateError> {
        let signature = wallet.sign(&self.digest())?;
        self.with_signature(signature)
    }

    /// Puts a signature to it that was made elsewhere.
    ///
    /// # Errors
    /// [`CertificateError::Signature`] where it is not by the wallet.
    pub fn with_signature(self, signature: Signature) -> Result<SignedDelegation, CertificateError> {
        signed_by(&signature, &self.digest(), self.wallet)?;
        Ok(SignedDelegation { delegation: self, signature: signature.with_v(V::Ethereum) })
    }
}

/// Stands for any node.
static ANY_NODE: Address = Address::ZERO;

/// A [`SessionDelegation`] and its signature, as it is sent in message 3.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SignedDelegation {
    delegation: SessionDelegation,
    signature: Signature,
}

impl SignedDelegation {
    /// Bytes on the wire: wallet 20, key 33, node 20, two times 8, signature 65.
    pub const LEN: usize = 154;

    /// What is delegated. Proves nothing before [`SignedDelegation::verify`].
    pub fn delegation(&self) -> &SessionDelegation {
        &self.delegation
    }

    /// The form on the wire.
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let SessionDelegation { wallet, delegate_key, node, not_before, not_after } = &self.delegation;
        let parts: [&[u8]; 6] = [
            wallet.as_bytes(),
            &delegate_key.to_bytes(),
            node.as_ref().unwrap_or(&ANY_NODE).as_bytes(),
            &not_before.to_be_bytes(),
            &not_after.to_be_bytes(),
            &self.signature.to_bytes(),
        ];
        let mut bytes = [0; Self::LEN];
        for (to, from) in bytes.iter_mut().zip(parts.into_iter().flatten()) {
            *to = *from;
        }
        bytes
    }

    /// Whose session this opens: the wallet, if it signed, for the key `delegate`, for the node `node`, for now.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn verify(&self, delegate: &PublicKey, node: Address, now: u64) -> Result<Address, CertificateError> {
        self.check(delegate, node, now)?;
        signed_by(&self.signature, &self.delegation.digest(), self.delegation.wallet)?;
        Ok(self.delegation.wallet)
    }

    /// All of [`SignedDelegation::verify`] but the signature, for one that was verified before.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn check(&self, delegate: &PublicKey, node: Address, now: u64) -> Result<(), CertificateError> {
        let SessionDelegation { delegate_key, node: only, not_before, not_after, .. } = &self.delegation;
        if delegate_key != delegate {
            return Err(CertificateError::OtherKey);
        }
        if only.is_some_and(|only| only != node) {
            return Err(CertificateError::OtherNode);
        }
        if not_after.saturating_sub(*not_before) > MAX_DELEGATION_SECONDS {
            return Err(CertificateError::TooLong);
        }
        check_time(*not_before, *not_after, now)
    }
}

impl TryFrom<&[u8]> for SignedDelegation {
    type Error = CertificateError;

    fn try_from(bytes: &[u8]) -> Result<Self, CertificateError> {
        const MALFORMED: CertificateError = CertificateError::Malformed;
        let (wallet, rest) = bytes.split_first_chunk::<{ Address::LEN }>().ok_or(MALFORMED)?;
        let (key, rest) = rest.split_first_chunk::<{ PublicKey::LEN }>().ok_or(MALFORMED)?;
        let (node, rest) = rest.split_first_chunk::<{ Address::LEN }>().ok_or(MALFORMED)?;
        let (not_before, rest) = rest.split_first_chunk::<8>().ok_or(MALFORMED)?;
        let (not_after, signature) = rest.split_first_chunk::<8>().ok_or(MALFORMED)?;
        let delegation = SessionDelegation {
            wallet: Address::from(*wallet),
            delegate_key: PublicKey::try_from(key.as_slice()).map_err(|_| MALFORMED)?,
            node: Some(Address::from(*node)).filter(|node| *node != ANY_NODE),
            not_before: u64::from_be_bytes(*not_before),
            not_after: u64::from_be_bytes(*not_after),
        };
        let signature = Signature::try_from(signature).map_err(|_| MALFORMED)?;
        // One way to write it on the wire: v as wallets have it.
        if signature.v() != V::Ethereum {
            return Err(MALFORMED);
        }
        Ok(Self { delegation, signature })
    }
}
