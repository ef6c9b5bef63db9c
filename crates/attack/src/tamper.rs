//! Changes of single frames.

use fabstir_protocol::{
    identity::{PrivateKey, V},
    v2::{AwaitingR2, Resume, Ticket},
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::{
    rng,
    step::{Byte, Edit},
    wire::Frame,
};

/// A text frame with one thing about it changed; `other` is another client's frame of the same place.
pub(crate) fn edit(frame: &Frame, other: &Frame, edit: Edit) -> Frame {
    frame.edited(|json| {
        let payload = |name: &str| format!("/payload/{name}");
        match edit {
            Edit::Flip(field, byte, bit) => {
                if let Some(hex) = json.pointer_mut(&payload(field)) {
                    flip(hex, byte, bit);
                }
            }
            Edit::Empty(field) => set(json, &payload(field), json!("")),
            Edit::FieldOfOther(field) => {
                if let Frame::Text(text) = other
                    && let Ok(theirs) = serde_json::from_str::<Value>(text)
                    && let Some(value) = theirs.pointer(&payload(field))
                {
                    set(json, &payload(field), value.clone());
                }
            }
            Edit::Type(kind) => set(json, "/type", json!(kind)),
            Edit::Number(field, number) => set_top(json, field, json!(number)),
            Edit::Text(field, text) => set_top(json, field, json!(text)),
            Edit::Signature => sign(json),
            Edit::Usage => {
                for field in ["/usage/completion_tokens", "/usage/total_tokens", "/tokens_used"] {
                    set(json, field, json!(7777));
                }
            }
        }
    })
}

fn set(json: &mut Value, pointer: &str, value: Value) {
    if let Some(place) = json.pointer_mut(pointer) {
        *place = value;
    }
}

fn set_top(json: &mut Value, field: &str, value: Value) {
    if let Some(fields) = json.as_object_mut() {
        fields.insert(field.to_owned(), value);
    }
}

fn flip(hex: &mut Value, byte: Byte, bit: u8) {
    let Some(Ok(bytes)) = hex.as_str().map(const_hex::decode) else { return };
    let at = match byte {
        Byte::Front(at) => at,
        Byte::Back(at) => bytes.len().saturating_sub(at.saturating_add(1)),
        Byte::Middle => bytes.len() / 2,
    };
    if let Frame::Binary(flipped) = Frame::Binary(bytes).flipped(at, bit) {
        *hex = json!(const_hex::encode(flipped));
    }
}

/// The attacker signs what somebody else sealed: the guide's signature covers the ciphertext and nothing else.
fn sign(json: &mut Value) {
    let ciphertext = json.pointer("/payload/ciphertextHex").and_then(Value::as_str);
    let Some(Ok(ciphertext)) = ciphertext.map(const_hex::decode) else { return };
    let digest: [u8; 32] = Sha256::digest(ciphertext).into();
    if let Ok(signature) = PrivateKey::random(&mut rng()).sign(&digest) {
        let signature = const_hex::encode(signature.with_v(V::Raw).to_bytes());
        set(json, "/payload/signatureHex", json!(signature));
    }
}

/// An r1 for the ticket that another one names, by somebody who does not know its secret.
pub(crate) fn with_forged_secret(r1: &Frame) -> Option<Frame> {
    let Frame::Binary(bytes) = r1 else { return None };
    let id = bytes.get(2..)?.first_chunk::<32>()?;
    let (forged, _) = AwaitingR2::start(Ticket::of(*id, &[7; 32]), &Resume::default(), &mut rng()).ok()?;
    Some(Frame::Binary(forged))
}
