//! A client's side: what it sends, and how it reads what a node sends.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    Ciphertext, RawSealed, SealedPayload, StreamEndReason, StringOrNumber, Usage, WirePayload, object,
};
use crate::{
    aad::Aad,
    error::DecodeError,
    id::{Index, Nonce, SessionId},
    seal::Sealed,
    v1::handshake::SessionInit,
};

/// A frame that a node sent, as a client reads it.
#[derive(Debug)]
#[expect(missing_docs, reason = "field for field the frames of docs/protocol.md, sections 1.2 to 1.4")]
pub enum Reply {
    Connected,
    Ack {
        session_id: String,
        client_address: Option<String>,
    },
    Chunk {
        session_id: String,
        tokens: u32,
        last: bool,
        payload: SealedPayload,
    },
    Response {
        session_id: String,
        payload: SealedPayload,
    },
    StreamEnd {
        session_id: String,
        reason: StreamEndReason,
        code: Option<String>,
        usage: Option<Usage>,
    },
    Error {
        session_id: Option<String>,
        code: String,
        message: String,
        retry_after_ms: Option<u64>,
    },
    Pong,
    /// A type that this version does not know; to be ignored.
    Unknown,
}

#[derive(Deserialize)]
struct WireReply<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    session_id: Option<String>,
    client_address: Option<String>,
    tokens: Option<u32>,
    #[serde(rename = "final")]
    last: Option<bool>,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
    reason: Option<StreamEndReason>,
    code: Option<String>,
    message: Option<String>,
    retry_after_ms: Option<u64>,
    usage: Option<Usage>,
}

impl Reply {
    /// Reads a node's text frame.
    ///
    /// # Errors
    /// [`DecodeError`] where it has not the form of its type.
    pub fn decode(text: &str) -> Result<Self, DecodeError> {
        let wire: WireReply<'_> = object(text)?;
        let session_id = wire.session_id.ok_or(DecodeError::MissingSessionId);
        Ok(match wire.kind.as_ref() {
            "connected" => Self::Connected,
            "pong" => Self::Pong,
            "session_init_ack" => Self::Ack { session_id: session_id?, client_address: wire.client_address },
            "encrypted_chunk" => Self::Chunk {
                session_id: session_id?,
                tokens: wire.tokens.unwrap_or_default(),
                last: wire.last.unwrap_or_default(),
                payload: RawSealed(wire.payload).read()?,
            },
            "encrypted_response" => {
                Self::Response { session_id: session_id?, payload: RawSealed(wire.payload).read()? }
            }
            "stream_end" => Self::StreamEnd {
                session_id: session_id?,
                reason: wire.reason.ok_or(DecodeError::Malformed)?,
                code: wire.code,
                usage: wire.usage,
            },
            "error" => Self::Error {
                session_id: session_id.ok(),
                code: wire.code.ok_or(DecodeError::Malformed)?,
                message: wire.message.unwrap_or_default(),
                retry_after_ms: wire.retry_after_ms,
            },
            _ => Self::Unknown,
        })
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WireInitPayload {
    eph_pub_hex: String,
    ciphertext_hex: String,
    signature_hex: String,
    nonce_hex: String,
    aad_hex: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    salt_hex: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    info: Option<&'static str>,
}

/// The text of a client's session init.
pub(crate) fn encode_init(init: &SessionInit) -> String {
    let signature = const_hex::encode(init.signature.to_bytes());
    let payload = WireInitPayload {
        eph_pub_hex: init.ephemeral.to_string(),
        ciphertext_hex: const_hex::encode(&init.sealed.ciphertext),
        signature_hex: signature,
        nonce_hex: const_hex::encode(init.sealed.nonce.as_bytes()),
        aad_hex: const_hex::encode(init.aad.to_string()),
        salt_hex: init.extended.then(|| "00".repeat(32)),
        info: init.extended.then_some(""),
    };
    #[derive(Serialize)]
    #[serde(tag = "type", rename = "encrypted_session_init")]
    struct Frame<'a> {
        session_id: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        job_id: Option<StringOrNumber>,
        #[serde(skip_serializing_if = "Option::is_none")]
        chain_id: Option<serde_json::Number>,
        payload: WireInitPayload,
    }
    let context = init.context.clone();
    let frame =
        Frame { session_id: init.id.as_str(), job_id: context.job_id, chain_id: context.chain_id, payload };
    serde_json::to_string(&frame).unwrap_or_default()
}

/// The text of a client's sealed message.
pub(crate) fn encode_message(id: &SessionId, sealed: &Sealed, index: Index) -> String {
    #[derive(Serialize)]
    #[serde(tag = "type", rename = "encrypted_message")]
    struct Frame<'a> {
        session_id: &'a str,
        payload: WirePayload,
    }
    let nonce = Nonce::from(*sealed.nonce.as_bytes());
    let payload = WirePayload::new(Ciphertext::from_slice(&sealed.ciphertext), nonce, Aad::Message(index));
    serde_json::to_string(&Frame { session_id: id.as_str(), payload }).unwrap_or_default()
}
