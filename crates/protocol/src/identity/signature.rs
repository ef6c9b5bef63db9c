//! ECDSA signatures with the recovery id that Ethereum adds: SEC 1, sections 4.1.3 and 4.1.6.

use k256::{
    ecdsa::{RecoveryId, Signature as EcdsaSignature},
    elliptic_curve::scalar::IsHigh,
};
use secp256k1::ecdsa;

use super::PublicKey;
use crate::ethereum::Address;

/// A signature from which the signer's public key can be recovered; s is low (EIP-2).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Signature {
    rs: EcdsaSignature,
    recovery: RecoveryId,
    v: V,
}

/// How the recovery id was written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum V {
    /// 0 or 1.
    Raw,
    /// 27 or 28, as Ethereum's wallets write it.
    Ethereum,
}

/// The signature is malformed, has a high s, or was not made by the claimed signer.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the signature is not valid for the claimed signer")]
pub struct InvalidSignature;

impl Signature {
    /// Bytes on the wire: r, s, v.
    pub const LEN: usize = 65;

    pub(super) fn from_parts(
        rs: EcdsaSignature,
        recovery: RecoveryId,
        v: V,
    ) -> Result<Self, InvalidSignature> {
        // k256 recovers from a high s without complaint; two encodings of one signature are one too many.
        let high = bool::from(rs.s().is_high()) || recovery.is_x_reduced();
        if high { Err(InvalidSignature) } else { Ok(Self { rs, recovery, v }) }
    }

    /// The signature `r ‖ s` over `digest` as a token makes it, which knows neither low s nor recovery.
    ///
    /// # Errors
    /// [`InvalidSignature`] where it is not by `signer`.
    pub fn of_token(rs: &[u8; 64], digest: &[u8; 32], signer: Address) -> Result<Self, InvalidSignature> {
        let rs = EcdsaSignature::from_slice(rs).map_err(|_| InvalidSignature)?.normalize_s();
        let by_signer = |odd| {
            let signature = Self::from_parts(rs, RecoveryId::new(odd, false), V::Raw).ok()?;
            (signature.recover(digest) == Ok(signer)).then_some(signature)
        };
        by_signer(false).or_else(|| by_signer(true)).ok_or(InvalidSignature)
    }

    /// How v was written.
    pub fn v(&self) -> V {
        self.v
    }

    /// Whose signature over `digest` this is. There is always somebody: it proves nothing by itself.
    ///
    /// # Errors
    /// [`InvalidSignature`] where no key could have made it.
    pub fn recover(&self, digest: &[u8; 32]) -> Result<Address, InvalidSignature> {
        let recovery = ecdsa::RecoveryId::from_u8_masked(self.recovery.to_byte());
        let signature = ecdsa::RecoverableSignature::from_compact(&self.rs.to_bytes(), recovery);
        let key = signature.and_then(|signature| signature.recover(secp256k1::Message::from_digest(*digest)));
        key.map(|key| PublicKey::from(key).address()).map_err(|_| InvalidSignature)
    }

    /// r, s, v as on the wire.
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let v = match self.v {
            V::Raw => self.recovery.to_byte(),
            V::Ethereum => self.recovery.to_byte().saturating_add(27),
        };
        let mut bytes = [v; Self::LEN];
        if let Some(rs) = bytes.first_chunk_mut::<64>() {
            *rs = self.rs.to_bytes().into();
        }
        bytes
    }

    /// The same signature with v written as wallets do.
    #[must_use]
    pub fn with_v(self, v: V) -> Self {
        Self { v, ..self }
    }
}

impl TryFrom<&[u8]> for Signature {
    type Error = InvalidSignature;

    fn try_from(bytes: &[u8]) -> Result<Self, InvalidSignature> {
        let (rs, v) = match bytes {
            [rs @ .., v] if rs.len() == 64 => (rs, *v),
            _ => return Err(InvalidSignature),
        };
        let (odd, v) = match v {
            0 | 1 => (v == 1, V::Raw),
            27 | 28 => (v == 28, V::Ethereum),
            _ => return Err(InvalidSignature),
        };
        let rs = EcdsaSignature::from_slice(rs).map_err(|_| InvalidSignature)?;
        Self::from_parts(rs, RecoveryId::new(odd, false), v)
    }
}
