//! Keys on secp256k1 and what they do: agree, sign, recover.
//!
//! What a node does for every session is libsecp256k1's: reading points, agreeing, recovering. What it does once is
//! k256's: making public keys, signing (docs/decisions/0009).

mod signature;

use std::{fmt, str::FromStr};

use hkdf::Hkdf;
use k256::ecdsa::{RecoveryId, SigningKey};
use rand_core::CryptoRng;
use secp256k1::{SecretKey, ecdh::shared_secret_point};
use sha2::Sha256;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

pub use self::signature::{InvalidSignature, Signature, V};
use crate::{
    ethereum::Address,
    seal::{OpenError, SessionKey},
};

/// A point on the curve that is not the one at infinity, in the uncompressed form of SEC 1, section 2.3.3.
#[derive(Clone, Copy, Eq, PartialEq)]
pub struct PublicKey([u8; Self::UNCOMPRESSED_LEN]);

/// Not the SEC 1 encoding of a public key on secp256k1.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not a public key on secp256k1")]
pub struct InvalidPublicKey;

impl PublicKey {
    /// Bytes of the compressed form.
    pub const LEN: usize = 33;
    /// Bytes of the uncompressed form.
    pub const UNCOMPRESSED_LEN: usize = 65;

    /// The compressed form: parity, then x.
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        compressed(self.xy())
    }

    /// The x coordinate, which P and -P share.
    pub fn x(&self) -> [u8; 32] {
        x_of(&self.to_bytes())
    }

    /// The Ethereum address of this key.
    pub fn address(&self) -> Address {
        Address::of_point(self.xy())
    }

    /// The uncompressed form: 4, then both coordinates.
    pub fn to_uncompressed_bytes(&self) -> [u8; Self::UNCOMPRESSED_LEN] {
        self.0
    }

    /// Both coordinates, without the byte that says so.
    fn xy(&self) -> &[u8; 64] {
        let [_, xy @ ..] = &self.0;
        xy
    }
}

impl PublicKey {
    /// Whether these bytes may be a point: by their length and their first byte, which costs nothing to see.
    pub fn has_form(bytes: &[u8]) -> bool {
        matches!((bytes.len(), bytes.first()), (33, Some(2 | 3)) | (65, Some(4)))
    }
}

impl From<secp256k1::PublicKey> for PublicKey {
    fn from(key: secp256k1::PublicKey) -> Self {
        Self(key.serialize_uncompressed())
    }
}

impl TryFrom<&[u8]> for PublicKey {
    type Error = InvalidPublicKey;

    /// 33 bytes compressed or 65 uncompressed, SEC 1 section 2.3.4; nothing else.
    fn try_from(bytes: &[u8]) -> Result<Self, InvalidPublicKey> {
        if !Self::has_form(bytes) {
            return Err(InvalidPublicKey);
        }
        secp256k1::PublicKey::from_slice(bytes).map(Self::from).map_err(|_| InvalidPublicKey)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl FromStr for PublicKey {
    type Err = InvalidPublicKey;

    fn from_str(text: &str) -> Result<Self, InvalidPublicKey> {
        Self::try_from(const_hex::decode(text).map_err(|_| InvalidPublicKey)?.as_slice())
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&const_hex::encode(self.to_bytes()))
    }
}

/// A private key: a node's identity, a client's, or an ephemeral one. Wiped on drop, never printed.
pub struct PrivateKey {
    signing: SigningKey,
    agreeing: Scalar,
}

/// The same secret as libsecp256k1 takes it. On the heap, so that moving the key leaves no copies behind; wiped on
/// drop.
struct Scalar(Box<SecretKey>);

impl Scalar {
    fn read(bytes: &[u8; 32]) -> Option<Self> {
        SecretKey::from_secret_bytes(*bytes).ok().map(|scalar| Self(Box::new(scalar)))
    }

    fn agree(&self, their_key: &PublicKey) -> Agreed {
        // A `PublicKey` is a point on the curve, so this is never refused.
        let mut agreed = Agreed::nothing();
        if let Ok(point) = secp256k1::PublicKey::from_slice(&their_key.0) {
            let mut xy = shared_secret_point(&point, &self.0);
            compress(&xy, &mut agreed.0);
            xy.zeroize();
        }
        agreed
    }
}

/// Diffie-Hellman with a secret whose owner keeps it elsewhere than in a [`PrivateKey`]: in a locked page, say.
///
/// # Errors
/// [`InvalidPrivateKey::Range`].
pub fn agree(secret: &[u8; 32], their_key: &PublicKey) -> Result<Agreed, InvalidPrivateKey> {
    Scalar::read(secret).map(|scalar| scalar.agree(their_key)).ok_or(InvalidPrivateKey::Range)
}

impl Drop for Scalar {
    fn drop(&mut self) {
        self.0.non_secure_erase();
    }
}

/// Why a text is not a private key. Never holds any part of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidPrivateKey {
    /// Empty, as a failed command substitution leaves it.
    #[error("the private key is empty")]
    Empty,
    /// Not 64 hex digits.
    #[error("a private key is 64 hex digits, with or without 0x")]
    Form,
    /// Zero, or not below the order of the group.
    #[error("the private key is zero or not below the group order of secp256k1")]
    Range,
}

impl PrivateKey {
    /// A key chosen at random.
    pub fn random(rng: &mut impl CryptoRng) -> Self {
        loop {
            let mut bytes = Zeroizing::new([0; 32]);
            rng.fill_bytes(&mut *bytes);
            if let Ok(key) = Self::try_from(&*bytes) {
                return key;
            }
        }
    }

    /// The public half.
    pub fn public_key(&self) -> PublicKey {
        let point = self.signing.verifying_key().to_sec1_point(false);
        let mut bytes = [0; PublicKey::UNCOMPRESSED_LEN];
        if let Some(known) = point.as_bytes().first_chunk::<{ PublicKey::UNCOMPRESSED_LEN }>() {
            bytes = *known;
        }
        PublicKey(bytes)
    }

    /// The Ethereum address of this key.
    pub fn address(&self) -> Address {
        self.public_key().address()
    }

    /// Diffie-Hellman with `their_key` (SEC 1 section 3.3.1, cofactor 1).
    pub fn agree(&self, their_key: &PublicKey) -> Agreed {
        self.agreeing.agree(their_key)
    }

    /// Signs a digest: RFC 6979, low s.
    ///
    /// # Errors
    /// None that can be met in practice: the type of the ECDSA crate allows for one.
    pub fn sign(&self, digest: &[u8; 32]) -> Result<Signature, InvalidSignature> {
        let (signature, recovery) = self.signing.sign_prehash_recoverable(digest);
        let low = signature.normalize_s();
        let flipped = low != signature;
        let recovery = RecoveryId::new(recovery.is_y_odd() ^ flipped, recovery.is_x_reduced());
        Signature::from_parts(low, recovery, V::Raw)
    }

    /// The secret as `0x` and 64 digits, for the file that its owner asked for.
    pub fn to_secret_hex(&self) -> Zeroizing<String> {
        let bytes = Zeroizing::new(<[u8; 32]>::from(self.signing.to_bytes()));
        let mut text = Zeroizing::new(String::with_capacity(66));
        text.push_str("0x");
        text.push_str(&Zeroizing::new(base16ct::lower::encode_string(&*bytes)));
        text
    }
}

impl TryFrom<&[u8; 32]> for PrivateKey {
    type Error = InvalidPrivateKey;

    fn try_from(bytes: &[u8; 32]) -> Result<Self, InvalidPrivateKey> {
        let signing = SigningKey::from_slice(bytes).map_err(|_| InvalidPrivateKey::Range)?;
        let agreeing = Scalar::read(bytes).ok_or(InvalidPrivateKey::Range)?;
        Ok(Self { signing, agreeing })
    }
}

impl FromStr for PrivateKey {
    type Err = InvalidPrivateKey;

    /// Reads hex without branches or table look-ups that depend on the digits.
    fn from_str(text: &str) -> Result<Self, InvalidPrivateKey> {
        let text = text.trim();
        if text.is_empty() {
            return Err(InvalidPrivateKey::Empty);
        }
        let digits = text.strip_prefix("0x").unwrap_or(text);
        let mut bytes = Zeroizing::new([0; 32]);
        let read = base16ct::mixed::decode(digits, &mut *bytes).map_err(|_| InvalidPrivateKey::Form)?.len();
        if read != 32 {
            return Err(InvalidPrivateKey::Form);
        }
        Self::try_from(&*bytes)
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(..)")
    }
}

/// The point that both sides of a Diffie-Hellman know: its parity, then x. On the heap, so that handing it on leaves no
/// copies behind; wiped on drop.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Agreed(Box<[u8; PublicKey::LEN]>);

/// Stands for a parity where only x is known.
const X_ALONE: u8 = 1;

/// Which bytes of the agreed point go into the key derivation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum KeyMaterial {
    /// The 32-byte x coordinate, as SEC 1 has it.
    X,
    /// The 33-byte compressed point, as JavaScript's libraries return it.
    Point,
}

impl Agreed {
    /// What a hardware token gives of the point (PKCS #11's `CKM_ECDH1_DERIVE` without a derivation): x alone.
    pub fn from_x(x: &[u8; 32]) -> Self {
        let mut agreed = Self::nothing();
        let [parity, known @ ..] = &mut *agreed.0;
        *parity = X_ALONE;
        known.copy_from_slice(x);
        agreed
    }

    fn nothing() -> Self {
        Self(Box::new([0; PublicKey::LEN]))
    }

    /// Whether both are points with the same x, compared in the same time whatever they are.
    pub fn has_x_of(&self, other: &Self) -> bool {
        bool::from(subtle::ConstantTimeEq::ct_eq(self.x().as_slice(), other.x().as_slice()))
    }

    /// The x coordinate; all zero where there is no point, which no honest key can meet.
    pub(crate) fn x(&self) -> &[u8; 32] {
        let [_, x @ ..] = &*self.0;
        x
    }

    /// The compressed point, which BOLT-8 hashes.
    #[cfg(test)]
    pub(crate) fn point(&self) -> &[u8; PublicKey::LEN] {
        &self.0
    }

    /// HKDF-SHA256 (RFC 5869) without salt and with empty info, 32 bytes.
    ///
    /// # Errors
    /// None that can be met in practice: 32 bytes are far below HKDF's limit, and an output of zeros is as
    /// likely as guessing the key. A whole point where only x is known.
    pub fn derive(&self, material: KeyMaterial) -> Result<SessionKey, OpenError> {
        let [parity, x @ ..] = &*self.0;
        match (material, *parity) {
            (KeyMaterial::X, X_ALONE | 2 | 3) => expand(x),
            (KeyMaterial::Point, 2 | 3) => expand(&*self.0),
            // No point: nothing may be derived from it.
            (KeyMaterial::X | KeyMaterial::Point, _) => Err(OpenError),
        }
    }

    /// The same for each point that it may have been: two where only x is known.
    pub(crate) fn derive_each(
        &self,
        material: KeyMaterial,
    ) -> impl Iterator<Item = Result<SessionKey, OpenError>> {
        let [parity, ..] = *self.0;
        let parities = match (material, parity) {
            (KeyMaterial::Point, X_ALONE) => [Some(2), Some(3)],
            (KeyMaterial::X | KeyMaterial::Point, _) => [Some(parity), None],
        };
        parities.into_iter().flatten().map(move |parity| {
            let mut point = Self::nothing();
            point.0.copy_from_slice(&*self.0);
            let [first, ..] = &mut *point.0;
            *first = parity;
            point.derive(material)
        })
    }
}

fn expand(ikm: &[u8]) -> Result<SessionKey, OpenError> {
    let mut bytes = Zeroizing::new([0; SessionKey::LEN]);
    Hkdf::<Sha256>::new(None, ikm).expand(&[], &mut *bytes).map_err(|_| OpenError)?;
    SessionKey::take(&mut bytes).map_err(|_| OpenError)
}

impl fmt::Debug for Agreed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Agreed(..)")
    }
}

fn compressed(xy: &[u8; 64]) -> [u8; PublicKey::LEN] {
    let mut bytes = [0; PublicKey::LEN];
    compress(xy, &mut bytes);
    bytes
}

fn compress(xy: &[u8; 64], bytes: &mut [u8; PublicKey::LEN]) {
    let (x, y) = xy.split_at(32);
    let [parity, rest @ ..] = bytes;
    *parity = 2 | (y.last().copied().unwrap_or(0) & 1);
    rest.copy_from_slice(x);
}

fn x_of(compressed: &[u8; PublicKey::LEN]) -> [u8; 32] {
    let [_, x @ ..] = *compressed;
    x
}
