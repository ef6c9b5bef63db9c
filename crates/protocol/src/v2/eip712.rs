//! EIP-712: digests of typed data, for the three things that are signed in version 2.

use sha3::{Digest, Keccak256};

use crate::{ethereum::Address, identity::PublicKey};

const NAME: &str = "Fabstir E2EE";
const VERSION: &str = "2";

/// `encodeType` of each struct, as wallets show it.
pub(crate) const NODE_CHANNEL_KEY: &str =
    "NodeChannelKey(bytes publicKey,uint64 notBefore,uint64 notAfter,uint16 minVersion)";
pub(crate) const SESSION_DELEGATION: &str =
    "SessionDelegation(address wallet,bytes delegateKey,address node,uint64 notBefore,uint64 notAfter)";
pub(crate) const NODE_KEY_ROTATION: &str = "NodeKeyRotation(address from,address to,uint64 notBefore)";

/// A value as `encodeData` takes it: 32 bytes each.
pub(crate) enum Field<'a> {
    Number(u64),
    Address(&'a Address),
    Bytes(&'a PublicKey),
}

impl Field<'_> {
    fn word(&self) -> [u8; 32] {
        match self {
            Self::Number(number) => word(&number.to_be_bytes()),
            Self::Address(address) => word(address.as_bytes()),
            Self::Bytes(key) => keccak(&[&key.to_bytes()]),
        }
    }
}

/// Right-aligned in a word.
fn word(bytes: &[u8]) -> [u8; 32] {
    let mut word = [0; 32];
    let start = word.len().saturating_sub(bytes.len());
    if let Some(end) = word.get_mut(start..) {
        end.copy_from_slice(bytes);
    }
    word
}

fn keccak(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Keccak256::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize().into()
}

/// The digest that is signed. Without a chain the domain has no `chainId`: wallets refuse one that is not the
/// active chain's.
pub(crate) fn digest(chain_id: Option<u64>, encode_type: &str, fields: &[Field<'_>]) -> [u8; 32] {
    let (name, version) = (keccak(&[NAME.as_bytes()]), keccak(&[VERSION.as_bytes()]));
    let domain = match chain_id {
        Some(chain) => keccak(&[
            &keccak(&[b"EIP712Domain(string name,string version,uint256 chainId)"]),
            &name,
            &version,
            &word(&chain.to_be_bytes()),
        ]),
        None => keccak(&[&keccak(&[b"EIP712Domain(string name,string version)"]), &name, &version]),
    };
    let mut hash = Keccak256::new();
    hash.update(keccak(&[encode_type.as_bytes()]));
    for field in fields {
        hash.update(field.word());
    }
    let message: [u8; 32] = hash.finalize().into();
    keccak(&[b"\x19\x01", &domain, &message])
}
