//! What Ethereum adds to secp256k1: addresses and the prefix of signed messages.

use std::{fmt, str::FromStr};

use sha3::{Digest, Keccak256};

/// The last 20 bytes of the Keccak-256 of an uncompressed public key.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Address([u8; Self::LEN]);

/// An address must be 40 hex digits, with or without `0x`.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("an address is 40 hex digits, with or without 0x, and with the right checksum if the case is mixed")]
pub struct InvalidAddress;

impl Address {
    /// Bytes of an address.
    pub const LEN: usize = 20;

    /// The address that nobody has a key for.
    pub const ZERO: Self = Self([0; Self::LEN]);

    /// The address of an uncompressed point, given without its leading 04.
    pub(crate) fn of_point(xy: &[u8; 64]) -> Self {
        let hash: [u8; 32] = Keccak256::digest(xy).into();
        let mut bytes = [0; Self::LEN];
        bytes.copy_from_slice(hash.last_chunk::<{ Self::LEN }>().unwrap_or(&[0; Self::LEN]));
        Self(bytes)
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// The mixed-case form of EIP-55, whose case is a checksum.
    pub fn to_checksum(&self) -> String {
        let lower = const_hex::encode(self.0);
        let hash = const_hex::encode(<[u8; 32]>::from(Keccak256::digest(lower.as_bytes())));
        let cased = lower
            .chars()
            .zip(hash.chars())
            .map(|(digit, nibble)| if nibble >= '8' { digit.to_ascii_uppercase() } else { digit });
        "0x".chars().chain(cased).collect()
    }
}

impl From<[u8; Self::LEN]> for Address {
    fn from(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }
}

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let digits = text.strip_prefix("0x").unwrap_or(text);
        let mut bytes = [0; Self::LEN];
        if digits.len() != 40 {
            return Err(InvalidAddress);
        }
        const_hex::decode_to_slice(digits, &mut bytes).map_err(|_| InvalidAddress)?;
        let address = Self(bytes);
        let mixed =
            digits.bytes().any(|b| b.is_ascii_lowercase()) && digits.bytes().any(|b| b.is_ascii_uppercase());
        let checked = !mixed || address.to_checksum().strip_prefix("0x") == Some(digits);
        checked.then_some(address).ok_or(InvalidAddress)
    }
}

/// `0x` and 40 lower-case digits, as on the wire and in the logs.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&const_hex::encode_prefixed(self.0))
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self})")
    }
}

/// EIP-191, version 0x45: what `personal_sign` of 32 bytes really signs.
pub fn personal_message_digest(message: &[u8; 32]) -> [u8; 32] {
    Keccak256::new().chain_update(b"\x19Ethereum Signed Message:\n32").chain_update(message).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_eip_55() {
        for text in [
            "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
            "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
            "0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB",
            "0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb",
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_checksum(), text);
            assert_eq!(address.to_string(), text.to_lowercase());
        }
    }

    #[test]
    fn a_broken_checksum_is_no_address() {
        assert!("0x5aaeb6053F3E94C9b9A09f33669435E7Ef1BeAed".parse::<Address>().is_err());
        assert!("0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAe".parse::<Address>().is_err());
        assert!("".parse::<Address>().is_err());
    }
}
