//! The client's half of docs/protocol.md, part 1, written a second time over the bare primitives, so that what
//! checks the crate is not made by it. HKDF is spelled out over HMAC; recovery ids are found by trial.

use chacha20poly1305::{
    KeyInit as _, XChaCha20Poly1305,
    aead::{Aead, Payload},
};
use hmac::{Hmac, Mac};
use k256::{
    AffinePoint, ProjectivePoint, Scalar, SecretKey,
    ecdsa::{RecoveryId, Signature, SigningKey, VerifyingKey},
    elliptic_curve::{
        PrimeField,
        group::Group,
        sec1::{FromSec1Point, ToSec1Point},
    },
};
use sha2::{Digest, Sha256};
use sha3::Keccak256;

use super::{fixed, hex};

/// Which bytes of the agreed point are the key material, in the words of the vectors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Material {
    X,
    Point,
}

pub(crate) fn point_of(private: &[u8; 32]) -> AffinePoint {
    (ProjectivePoint::generator() * scalar(private)).to_affine()
}

fn scalar(bytes: &[u8; 32]) -> Scalar {
    Option::from(Scalar::from_repr((*bytes).into())).unwrap()
}

pub(crate) fn compressed(point: &AffinePoint) -> [u8; 33] {
    point.to_sec1_point(true).as_bytes().try_into().unwrap()
}

pub(crate) fn uncompressed(point: &AffinePoint) -> [u8; 65] {
    point.to_sec1_point(false).as_bytes().try_into().unwrap()
}

pub(crate) fn public(private: &[u8; 32]) -> [u8; 33] {
    compressed(&point_of(private))
}

pub(crate) fn parse(sec1: &[u8]) -> AffinePoint {
    let point = k256::Sec1Point::from_bytes(sec1).unwrap();
    Option::from(AffinePoint::from_sec1_point(&point)).unwrap()
}

pub(crate) fn agree(private: &[u8; 32], their_sec1: &[u8]) -> [u8; 33] {
    compressed(&(ProjectivePoint::from(parse(their_sec1)) * scalar(private)).to_affine())
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

/// RFC 5869, one block: a salt of zeros, empty info, 32 bytes.
pub(crate) fn hkdf(ikm: &[u8]) -> [u8; 32] {
    hmac(&hmac(&[0; 32], &[ikm]), &[&[1]])
}

pub(crate) fn derive(point: &[u8; 33], material: Material) -> [u8; 32] {
    match material {
        Material::X => hkdf(&point[1..]),
        Material::Point => hkdf(point),
    }
}

pub(crate) fn seal(key: &[u8; 32], nonce: &[u8; 24], aad: &[u8], msg: &[u8]) -> Vec<u8> {
    XChaCha20Poly1305::new(key.into()).encrypt(nonce.into(), Payload { msg, aad }).unwrap()
}

pub(crate) fn open(key: &[u8; 32], nonce: &[u8; 24], aad: &[u8], msg: &[u8]) -> Option<Vec<u8>> {
    XChaCha20Poly1305::new(key.into()).decrypt(nonce.into(), Payload { msg, aad }).ok()
}

pub(crate) fn address(point: &AffinePoint) -> [u8; 20] {
    let hash: [u8; 32] = Keccak256::digest(&uncompressed(point)[1..]).into();
    std::array::from_fn(|i| hash[12 + i])
}

pub(crate) fn address_text(private: &[u8; 32]) -> String {
    format!("0x{}", hex(address(&point_of(private))))
}

pub(crate) fn digest_plain(ciphertext: &[u8]) -> [u8; 32] {
    Sha256::digest(ciphertext).into()
}

pub(crate) fn digest_personal(ciphertext: &[u8]) -> [u8; 32] {
    let mut text = b"\x19Ethereum Signed Message:\n32".to_vec();
    text.extend(digest_plain(ciphertext));
    Keccak256::digest(text).into()
}

pub(crate) fn digest_bound(eph: &[u8; 33], node: &[u8; 33], nonce: &[u8; 24], aad: &[u8]) -> [u8; 32] {
    let mut parts: Vec<&[u8]> = vec![b"E2EEv1", eph, node, &[0; 32], nonce, b""];
    if !aad.is_empty() {
        parts.push(aad);
    }
    Sha256::digest(parts.join(&b'|')).into()
}

/// r, s and a recovery id of 0 or 1: RFC 6979, low s.
pub(crate) fn sign(private: &[u8; 32], digest: &[u8; 32]) -> [u8; 65] {
    let key = SigningKey::from(SecretKey::from_bytes(private.into()).unwrap());
    let (signature, _) = key.sign_prehash_recoverable(digest);
    let low = signature.normalize_s();
    let own = |id: &u8| recover(digest, &low, *id).is_some_and(|key| key == point_of(private));
    let id = (0..2).find(own).unwrap();
    let mut bytes = [id; 65];
    bytes[..64].copy_from_slice(&low.to_bytes());
    bytes
}

pub(crate) fn recover(digest: &[u8; 32], signature: &Signature, id: u8) -> Option<AffinePoint> {
    let id = RecoveryId::from_byte(id)?;
    Some(*VerifyingKey::recover_from_prehash(digest, signature, id).ok()?.as_affine())
}

/// The order of the group.
pub(crate) const ORDER: &str = "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141";
/// The prime of the field.
pub(crate) const FIELD: &str = "fffffffffffffffffffffffffffffffffffffffffffffffffffffffefffffc2f";

/// n - s, and the other recovery id: the same signature as Ethereum refuses it.
pub(crate) fn with_high_s(signature: &[u8; 65]) -> [u8; 65] {
    let low = Signature::from_slice(&signature[..64]).unwrap();
    let high = Signature::from_scalars(low.r(), -low.s()).unwrap();
    let mut bytes = [signature[64] ^ 1; 65];
    bytes[..64].copy_from_slice(&high.to_bytes());
    bytes
}

/// An object whose fields keep their order and may repeat; values are JSON.
#[derive(Clone, Debug, Default)]
pub(crate) struct Object(Vec<(String, String)>);

impl Object {
    pub(crate) fn with(mut self, name: &str, json: impl Into<String>) -> Self {
        self.0.push((name.to_owned(), json.into()));
        self
    }

    pub(crate) fn with_text(self, name: &str, text: &str) -> Self {
        self.with(name, serde_json::to_string(text).unwrap())
    }

    pub(crate) fn set(mut self, name: &str, json: impl Into<String>) -> Self {
        let json = json.into();
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, value)) => *value = json,
            None => self.0.push((name.to_owned(), json)),
        }
        self
    }

    pub(crate) fn set_text(self, name: &str, text: &str) -> Self {
        self.set(name, serde_json::to_string(text).unwrap())
    }

    pub(crate) fn map_text(self, name: &str, change: impl FnOnce(String) -> String) -> Self {
        let text = self.text(name);
        self.set_text(name, &change(text))
    }

    pub(crate) fn text(&self, name: &str) -> String {
        let (_, json) = self.0.iter().find(|(known, _)| known == name).unwrap();
        serde_json::from_str(json).unwrap()
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(known, _)| known == name)
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        self.0.retain(|(known, _)| known != name);
        self
    }

    pub(crate) fn json(&self) -> String {
        let fields: Vec<String> = self.0.iter().map(|(name, json)| format!("\"{name}\":{json}")).collect();
        format!("{{{}}}", fields.join(","))
    }
}

/// The make of a client.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Make {
    GuideRust,
    GuideTypescript,
    Deployed,
}

impl Make {
    pub(crate) const ALL: [Self; 3] = [Self::GuideRust, Self::GuideTypescript, Self::Deployed];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::GuideRust => "guide-rust",
            Self::GuideTypescript => "guide-typescript",
            Self::Deployed => "deployed",
        }
    }
}

/// Everything that decides an init.
#[derive(Clone, Debug)]
pub(crate) struct Recipe {
    pub(crate) make: Make,
    pub(crate) node: [u8; 32],
    pub(crate) client: [u8; 32],
    pub(crate) ephemeral: [u8; 32],
    pub(crate) nonce: [u8; 24],
    pub(crate) material: Material,
    /// What it is sealed as.
    pub(crate) aad: &'static str,
    /// Which of the three digests is signed.
    pub(crate) digest: u8,
    /// Added to the recovery id.
    pub(crate) v: u8,
    pub(crate) own_key: Option<[u8; 32]>,
    pub(crate) data: Vec<u8>,
    pub(crate) session_id: String,
}

pub(crate) fn node_key() -> [u8; 32] {
    fixed("node")
}

pub(crate) fn client_key() -> [u8; 32] {
    fixed("client")
}

/// The sealed data as this project's clients write it.
pub(crate) fn session_data(make: Make, key: Option<&[u8; 32]>, claim: Option<&[u8; 32]>) -> Object {
    let mut data = Object::default().with_text("jobId", "0").with_text("modelName", "default");
    if let Some(key) = key {
        data = data.with_text("sessionKey", &hex(key));
    }
    match (claim, make) {
        (None, _) => data,
        (Some(client), Make::Deployed) => data.with_text("recoveryPublicKey", &hex(public(client))),
        (Some(client), _) => data.with_text("clientAddress", &address_text(client)),
    }
}

impl Recipe {
    /// The init that `make` writes, with a claim, under keys and a nonce that hang on `name`.
    pub(crate) fn new(make: Make, name: &str) -> Self {
        let own_key = (make != Make::GuideTypescript).then(|| fixed(&format!("{name}|session key")));
        let (material, aad, digest, v) = match make {
            Make::GuideRust => (Material::X, "session_init", 1, 0),
            Make::GuideTypescript => (Material::Point, "session_init", 2, 27),
            Make::Deployed => (Material::X, "", 3, 0),
        };
        Self {
            make,
            node: node_key(),
            client: client_key(),
            ephemeral: fixed(&format!("{name}|ephemeral")),
            nonce: fixed(&format!("{name}|nonce")),
            material,
            aad,
            digest,
            v,
            own_key,
            data: Vec::new(),
            session_id: "42".to_owned(),
        }
        .claiming(true)
    }

    /// Writes the data anew, with or without a claim.
    pub(crate) fn claiming(self, claim: bool) -> Self {
        let data = self.plain_data(claim).json();
        self.with_data(data)
    }

    pub(crate) fn keyed(mut self, key: Option<[u8; 32]>) -> Self {
        self.own_key = key;
        self
    }

    pub(crate) fn with_data(mut self, data: impl Into<Vec<u8>>) -> Self {
        self.data = data.into();
        self
    }

    pub(crate) fn plain_data(&self, claim: bool) -> Object {
        session_data(self.make, self.own_key.as_ref(), claim.then_some(&self.client))
    }

    pub(crate) fn agreed_key(&self) -> [u8; 32] {
        derive(&agree(&self.ephemeral, &public(&self.node)), self.material)
    }

    pub(crate) fn session_key(&self) -> [u8; 32] {
        self.own_key.unwrap_or_else(|| self.agreed_key())
    }

    pub(crate) fn ciphertext(&self) -> Vec<u8> {
        seal(&self.agreed_key(), &self.nonce, self.aad.as_bytes(), &self.data)
    }

    pub(crate) fn digest(&self) -> [u8; 32] {
        match self.digest {
            1 => digest_plain(&self.ciphertext()),
            2 => digest_personal(&self.ciphertext()),
            _ => {
                let (eph, node) = (public(&self.ephemeral), public(&self.node));
                digest_bound(&eph, &node, &self.nonce, self.aad.as_bytes())
            }
        }
    }

    pub(crate) fn signature(&self) -> [u8; 65] {
        let mut signature = sign(&self.client, &self.digest());
        signature[64] += self.v;
        signature
    }

    pub(crate) fn payload(&self) -> Object {
        // As written by the guide's TypeScript, whose wallets prefix signatures.
        let prefix = if self.make == Make::GuideTypescript { "0x" } else { "" };
        let payload = Object::default()
            .with_text("ephPubHex", &hex(public(&self.ephemeral)))
            .with_text("ciphertextHex", &hex(self.ciphertext()))
            .with_text("signatureHex", &format!("{prefix}{}", hex(self.signature())))
            .with_text("nonceHex", &hex(self.nonce))
            .with_text("aadHex", &hex(self.aad));
        match self.make {
            Make::Deployed => payload.with_text("saltHex", &hex([0; 32])).with_text("info", ""),
            Make::GuideRust | Make::GuideTypescript => payload,
        }
    }

    pub(crate) fn frame_with(&self, payload: &Object) -> Object {
        Object::default()
            .with_text("type", "encrypted_session_init")
            .with_text("session_id", &self.session_id)
            .with("payload", payload.json())
    }

    pub(crate) fn frame(&self) -> String {
        self.frame_with(&self.payload()).json()
    }

    /// Changes the payload, and writes the frame.
    pub(crate) fn changed(&self, change: impl FnOnce(Object) -> Object) -> String {
        self.frame_with(&change(self.payload())).json()
    }

    pub(crate) fn message(&self, index: impl std::fmt::Display, nonce: &[u8; 24], text: &[u8]) -> Object {
        message(&self.session_id, &self.session_key(), &format!("message_{index}"), nonce, text)
    }
}

/// A sealed payload.
pub(crate) fn sealed(key: &[u8; 32], aad: &str, nonce: &[u8; 24], text: &[u8]) -> Object {
    Object::default()
        .with_text("ciphertextHex", &hex(seal(key, nonce, aad.as_bytes(), text)))
        .with_text("nonceHex", &hex(nonce))
        .with_text("aadHex", &hex(aad))
}

pub(crate) fn message(id: &str, key: &[u8; 32], aad: &str, nonce: &[u8; 24], text: &[u8]) -> Object {
    message_with(id, &sealed(key, aad, nonce, text))
}

pub(crate) fn message_with(id: &str, payload: &Object) -> Object {
    Object::default()
        .with_text("type", "encrypted_message")
        .with_text("session_id", id)
        .with("payload", payload.json())
}

pub(crate) fn chunk(id: &str, key: &[u8; 32], index: u64, nonce: &[u8; 24], text: &str) -> Object {
    let payload = sealed(key, &format!("chunk_{index}"), nonce, text.as_bytes());
    chunk_with(id, &payload, index)
}

pub(crate) fn chunk_with(id: &str, payload: &Object, index: u64) -> Object {
    Object::default()
        .with_text("type", "encrypted_chunk")
        .with_text("session_id", id)
        .with("tokens", "1")
        .with("payload", payload.clone().with("index", index.to_string()).json())
        .with("index", index.to_string())
}

pub(crate) fn response(id: &str, key: &[u8; 32], nonce: &[u8; 24], text: &str) -> Object {
    response_with(id, &sealed(key, "final", nonce, text.as_bytes()))
}

pub(crate) fn response_with(id: &str, payload: &Object) -> Object {
    Object::default()
        .with_text("type", "encrypted_response")
        .with_text("session_id", id)
        .with("payload", payload.json())
}
