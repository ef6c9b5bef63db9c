//! The JSON inside messages and records.

use std::fmt;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{
    json::{AnObject, integer, integer_or_none, object, object_or_none, or_default, read_hex},
    noise::HandshakeError,
    record::{Shape, Sid},
};
use crate::v1::Usage;

/// What a client says of itself, and wants, in message 3.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Hello {
    /// Name and version.
    pub client: String,
    /// How lengths are to be hidden.
    #[serde(default, deserialize_with = "or_default")]
    #[cfg_attr(feature = "schema", schemars(transform = crate::schema::or_null))]
    pub shape: Shape,
    /// Whether it wants to resume.
    #[serde(default, deserialize_with = "or_default")]
    #[cfg_attr(feature = "schema", schemars(transform = crate::schema::or_null))]
    pub ticket: bool,
    /// A session whose ticket was lost with an unfinished resumption.
    #[serde(default, deserialize_with = "object_or_none", skip_serializing_if = "Option::is_none")]
    pub claim: Option<Claim>,
}

/// A session that a client says is its own: granted only to the same static key.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Claim {
    /// The name of the session.
    #[serde(with = "hex_sid")]
    #[cfg_attr(feature = "schema", schemars(with = "Sid"))]
    pub session: Sid,
    /// What came of its answers.
    pub received: Vec<Received>,
}

/// An answer, and the index of its last record that came.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(transform = crate::schema::pair))]
pub struct Received(pub u32, pub u32);

/// What a client says when it resumes.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Resume {
    /// What came of its answers.
    pub received: Vec<Received>,
    /// How lengths are to be hidden.
    #[serde(default, deserialize_with = "or_default")]
    #[cfg_attr(feature = "schema", schemars(transform = crate::schema::or_null))]
    pub shape: Shape,
}

/// The node's first word: from here on the client takes the session as open.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Welcome {
    /// Name and version.
    pub node: String,
    /// How lengths are hidden, both ways.
    pub shape: Shape,
    /// Whether the ticket that both sides can derive is kept.
    pub ticket: bool,
    /// The bounds.
    #[serde(deserialize_with = "object")]
    pub limits: Limits,
    /// What may be asked of.
    pub models: Vec<ModelEntry>,
    /// After a resumption or a claim that was honoured: the requests that the node knows. The client sends the others
    /// again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known: Option<Vec<u32>>,
}

/// The bounds of a session.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Limits {
    /// Most bytes of a request.
    #[serde(deserialize_with = "integer")]
    pub max_request_bytes: u64,
    /// Most requests at once.
    pub max_requests: u32,
    /// How long answers go on being made without a connection.
    #[serde(deserialize_with = "integer")]
    pub grace_seconds: u64,
    /// How long they are kept without one.
    #[serde(deserialize_with = "integer")]
    pub keep_seconds: u64,
    /// How long a ticket lasts without one.
    #[serde(deserialize_with = "integer")]
    pub ticket_seconds: u64,
}

/// A model that may be asked of.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ModelEntry {
    /// Its name in requests.
    pub id: String,
    /// The digest of its file; absent where the node does not know.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    #[cfg_attr(feature = "schema", schemars(transform = crate::schema::or_null))]
    pub sha256: String,
    /// Tokens of prompt and answer together.
    pub context_window: u32,
}

/// The end of an answer.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct End {
    /// `stop`, `length`, `tool_calls` or `cancelled`.
    pub finish_reason: String,
    /// Tokens, and the model's digest.
    pub usage: Usage,
    /// Messages of the conversation that did not fit.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "is_zero")]
    #[cfg_attr(feature = "schema", schemars(transform = crate::schema::or_null))]
    pub dropped_messages: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's form")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// Why there is no answer, or no more of it.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Fault {
    /// A word of docs/protocol.md, part 3.
    pub code: String,
    /// For a person.
    pub message: String,
    /// When to try again.
    #[serde(default, deserialize_with = "integer_or_none", skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// Of a prompt that does not fit: its tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_tokens: Option<u32>,
    /// Of a prompt that does not fit: what would.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_window_size: Option<u32>,
    /// What was used before it went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

/// Names the request that a cancel is about.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Cancel {
    /// The request.
    pub request: u32,
}

/// What came of answers, so that the node need not keep it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Ack {
    /// Answers, each with the index of its last record that came.
    pub received: Vec<Received>,
}

/// Why a session ends.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Goodbye {
    /// A code, or a word for a person.
    #[serde(default, deserialize_with = "or_default")]
    #[cfg_attr(feature = "schema", schemars(transform = crate::schema::or_null))]
    pub reason: String,
}

/// JSON in a buffer that is wiped and does not grow.
pub fn encode(value: &impl Serialize) -> Zeroizing<Vec<u8>> {
    let mut json = Zeroizing::new(Vec::with_capacity(4096));
    // Fails for maps whose keys are not text: there are none.
    let _ = serde_json::to_writer(&mut *json, value);
    json
}

/// Reads JSON of a form.
///
/// # Errors
/// [`HandshakeError`], which shows nothing of it.
pub fn decode<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, HandshakeError> {
    serde_json::from_slice(json).map(|AnObject(value)| value).map_err(|_| HandshakeError)
}

pub(super) mod hex_sid {
    use std::borrow::Cow;

    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    use super::{Sid, read_hex};

    pub(in crate::v2) fn serialize<S: Serializer>(sid: &Sid, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&sid.to_string())
    }

    pub(in crate::v2) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Sid, D::Error> {
        let text = Cow::<str>::deserialize(from)?;
        let bytes = read_hex::<{ Sid::LEN }>(&text, "");
        bytes.map(Sid).ok_or_else(|| D::Error::custom("16 bytes in lower-case hex were expected"))
    }
}

/// Most bytes of a handshake payload with its padding.
pub(super) const MAX_PAYLOAD: usize = 4096;
const SMALLEST_PAYLOAD: usize = 512;

/// Payload parts behind their lengths, and zeros up to a bucket.
pub(super) fn pad(parts: &[&[u8]]) -> Result<Zeroizing<Vec<u8>>, HandshakeError> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_PAYLOAD));
    for part in parts {
        let length = u16::try_from(part.len()).map_err(|_| HandshakeError)?;
        if bytes.len().saturating_add(part.len()).saturating_add(2) > MAX_PAYLOAD {
            return Err(HandshakeError);
        }
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(part);
    }
    let padded = bytes.len().max(SMALLEST_PAYLOAD).next_power_of_two();
    bytes.resize(padded, 0);
    Ok(bytes)
}

/// The `N` parts of a padded payload.
pub(super) fn unpad<const N: usize>(bytes: &[u8]) -> Result<[&[u8]; N], HandshakeError> {
    let proper = bytes.len().is_power_of_two() && (SMALLEST_PAYLOAD..=MAX_PAYLOAD).contains(&bytes.len());
    let mut rest = if proper { bytes } else { return Err(HandshakeError) };
    let mut parts: [&[u8]; N] = [&[]; N];
    for part in &mut parts {
        let (length, behind) = rest.split_first_chunk::<2>().ok_or(HandshakeError)?;
        let length = usize::from(u16::from_be_bytes(*length));
        (*part, rest) = behind.split_at_checked(length).ok_or(HandshakeError)?;
    }
    let padded = rest.iter().all(|byte| *byte == 0);
    // The smallest bucket that serves, so that a payload has one form.
    let used = bytes.len().saturating_sub(rest.len());
    let least = used.max(SMALLEST_PAYLOAD).next_power_of_two() == bytes.len();
    if padded && least { Ok(parts) } else { Err(HandshakeError) }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_as_long_as_it_may_be_and_no_longer() {
        let most = vec![7; MAX_PAYLOAD - 2];
        let padded = pad(&[&most]).unwrap();
        assert_eq!((padded.len(), unpad::<1>(&padded).unwrap()), (MAX_PAYLOAD, [most.as_slice()]));
        assert!(pad(&[&most, &[]]).is_err());
        // Of a proper form but for its length.
        let mut longer = vec![0; 2 * MAX_PAYLOAD];
        longer[..2].copy_from_slice(&u16::try_from(MAX_PAYLOAD).unwrap().to_be_bytes());
        assert!(unpad::<1>(&longer).is_err());
    }

    #[test]
    fn a_payload_is_in_the_smallest_bucket_that_serves() {
        let padded = pad(&[b"a", b""]).unwrap();
        assert_eq!((padded.len(), unpad::<2>(&padded).unwrap()), (SMALLEST_PAYLOAD, [b"a".as_slice(), b""]));
        for length in [SMALLEST_PAYLOAD / 2, SMALLEST_PAYLOAD + 1, 2 * SMALLEST_PAYLOAD] {
            assert!(unpad::<2>(&vec![0; length]).is_err(), "{length}");
        }
        let mut odd = padded.to_vec();
        *odd.last_mut().unwrap() = 1;
        assert!(unpad::<2>(&odd).is_err(), "padding that is not zero");
    }
}
