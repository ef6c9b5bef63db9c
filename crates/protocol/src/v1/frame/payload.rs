//! A sealed payload as both sides write it.

use serde::{Serialize, Serializer, ser::SerializeStruct as _};
use smallvec::SmallVec;

use crate::{
    aad::{Aad, AadBytes},
    id::Nonce,
};

/// A sealed payload as it is written.
#[derive(Debug)]
pub struct WirePayload {
    pub(super) ciphertext: Ciphertext,
    nonce: Nonce,
    aad: AadBytes,
    index: Option<u64>,
}

/// Ciphertext and tag. Those of a token need no place on the heap.
pub(crate) type Ciphertext = SmallVec<[u8; 128]>;

impl WirePayload {
    pub(crate) fn new(ciphertext: Ciphertext, nonce: Nonce, aad: Aad) -> Self {
        let index = match aad {
            Aad::Chunk(index) => Some(index.as_u64()),
            Aad::Empty | Aad::SessionInit | Aad::Message(_) | Aad::Final => None,
        };
        Self { ciphertext, nonce, aad: aad.into(), index }
    }

    /// The same object as [`Serialize`] writes.
    pub(super) fn write(&self, json: &mut Vec<u8>) {
        for (name, bytes) in [
            (&b"{\"ciphertextHex\":\""[..], self.ciphertext.as_slice()),
            (b"\",\"nonceHex\":\"", self.nonce.as_bytes()),
            (b"\",\"aadHex\":\"", self.aad.as_slice()),
        ] {
            json.extend_from_slice(name);
            write_hex(json, bytes);
        }
        json.push(b'"');
        if let Some(index) = self.index {
            json.extend_from_slice(b",\"index\":");
            write_number(json, index);
        }
        json.push(b'}');
    }
}

impl Serialize for WirePayload {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("WirePayload", 4)?;
        fields.serialize_field("ciphertextHex", &const_hex::encode(&self.ciphertext))?;
        fields.serialize_field("nonceHex", &const_hex::encode(self.nonce.as_bytes()))?;
        fields.serialize_field("aadHex", &const_hex::encode(self.aad.as_slice()))?;
        match self.index {
            Some(index) => fields.serialize_field("index", &index)?,
            None => fields.skip_field("index")?,
        }
        fields.end()
    }
}

fn write_hex(json: &mut Vec<u8>, bytes: &[u8]) {
    let start = json.len();
    json.resize(start.saturating_add(bytes.len().saturating_mul(2)), b'0');
    if let Some(digits) = json.get_mut(start..) {
        // There is room for exactly all of it.
        let _ = const_hex::encode_to_slice(bytes, digits);
    }
}

pub(super) fn write_number(json: &mut Vec<u8>, number: u64) {
    json.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}
