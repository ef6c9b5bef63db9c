//! What a node sends.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{StringOrNumber, WirePayload, payload::write_number};
use crate::{
    error::Code,
    v2::{Advertisement, or_default},
};
#[cfg(feature = "schema")]
use crate::{ethereum::Address, id::SessionId};

/// Tokens of a request, as `stream_end` reports them. Not sealed: a v1 client cannot rely on them.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Usage {
    /// Tokens of the prompt as the model saw it.
    pub prompt_tokens: u32,
    /// Tokens of the answer.
    pub completion_tokens: u32,
    /// Both.
    pub total_tokens: u32,
    /// Tokens that fit.
    pub context_window_size: u32,
    /// What the prompt's tokens were.
    #[serde(default, deserialize_with = "or_default")]
    #[cfg_attr(feature = "schema", schemars(transform = crate::schema::or_null))]
    pub prompt_tokens_details: PromptTokensDetails,
    /// SHA-256 of the weights that answered, hex, where the node knows them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_sha256: Option<String>,
    /// Whether the counts are a guess, for want of better ones.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "std::ops::Not::not")]
    #[cfg_attr(feature = "schema", schemars(transform = crate::schema::or_null))]
    pub estimated: bool,
}

/// More about the prompt's tokens, as OpenAI's usage object has it.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PromptTokensDetails {
    /// How many of them did not have to be computed, because an earlier request had them.
    #[serde(default, deserialize_with = "or_default")]
    #[cfg_attr(feature = "schema", schemars(transform = crate::schema::or_null))]
    pub cached_tokens: u32,
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum StreamEndReason {
    /// The answer is whole, as far as v1 can tell.
    Complete,
    /// The client, or a newer connection of the same owner, ended it.
    Cancelled,
    /// It failed on the way; `code` says why.
    Error,
}

/// An `encrypted_chunk`, written straight through: a node makes one for every token.
struct Chunk<'a> {
    session_id: &'a str,
    tokens: u32,
    payload: &'a WirePayload,
    index: u64,
    last: bool,
    id: Option<&'a RawValue>,
}

impl Chunk<'_> {
    /// Bytes around the hex: names, numbers and punctuation.
    const AROUND: usize = 224;

    fn encode(&self) -> Option<String> {
        let id = self.id.map(RawValue::get);
        let hex = self.payload.ciphertext.len().saturating_mul(2);
        let named = self.session_id.len().saturating_add(id.map_or(0, str::len));
        let mut json =
            Vec::with_capacity(Self::AROUND.saturating_add(hex).saturating_add(named).saturating_add(64));
        json.extend_from_slice(b"{\"type\":\"encrypted_chunk\",\"session_id\":\"");
        // Graphic ASCII: two characters of it are not JSON's own.
        for byte in self.session_id.bytes() {
            if matches!(byte, b'"' | b'\\') {
                json.push(b'\\');
            }
            json.push(byte);
        }
        json.extend_from_slice(b"\",\"tokens\":");
        write_number(&mut json, self.tokens.into());
        json.extend_from_slice(b",\"payload\":");
        self.payload.write(&mut json);
        json.extend_from_slice(b",\"index\":");
        write_number(&mut json, self.index);
        if self.last {
            json.extend_from_slice(b",\"final\":true");
        }
        if let Some(id) = id {
            json.extend_from_slice(b",\"id\":");
            json.extend_from_slice(id.as_bytes());
        }
        json.push(b'}');
        String::from_utf8(json).ok()
    }
}

/// Frames that a node sends: docs/protocol.md, sections 1.2 to 1.4.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum NodeFrame<'a> {
    /// The first frame: what the node is, and speaks.
    Connected {
        /// Name and version, for a person; a client does not ask for it.
        #[cfg_attr(feature = "schema", schemars(default))]
        message: &'a str,
        /// For clients of version 2.
        #[serde(flatten)]
        advertisement: Option<Advertisement>,
    },
    /// A session is open.
    SessionInitAck {
        /// `success`.
        status: &'a str,
        /// The session.
        #[cfg_attr(feature = "schema", schemars(with = "SessionId"))]
        session_id: &'a str,
        /// As the init had it.
        job_id: Option<StringOrNumber>,
        /// As the init had it, or the node's own.
        chain_id: Option<serde_json::Number>,
        /// Whose session it is; absent where it is not sealed.
        #[serde(skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "schema", schemars(with = "Option<Address>"))]
        client_address: Option<String>,
        /// For a person.
        message: &'a str,
        /// That nothing is sealed, where nothing is.
        #[serde(skip_serializing_if = "Option::is_none")]
        warning: Option<&'a str>,
        /// The init's `id`, as it was.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a RawValue>,
    },
    /// The next words of an answer, sealed.
    EncryptedChunk {
        /// The session.
        #[cfg_attr(feature = "schema", schemars(with = "SessionId"))]
        session_id: &'a str,
        /// Tokens of these words; 0 of none.
        tokens: u32,
        /// The words.
        payload: WirePayload,
        /// Which chunk of its answer it is, from 0: the same number as the payload's.
        index: u64,
        /// The last one, without words.
        #[serde(rename = "final", skip_serializing_if = "std::ops::Not::not")]
        #[cfg_attr(feature = "schema", schemars(default))]
        last: bool,
        /// The message's `id`, as it was.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a RawValue>,
    },
    /// How an answer ended, sealed.
    EncryptedResponse {
        /// The session.
        #[cfg_attr(feature = "schema", schemars(with = "SessionId"))]
        session_id: &'a str,
        /// The finish reason: `stop`, `length`, `tool_calls`, `cancelled` or `error`.
        payload: WirePayload,
        /// The message's `id`, as it was.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a RawValue>,
    },
    /// The next words of an answer, in the clear.
    StreamChunk {
        /// The session.
        #[cfg_attr(feature = "schema", schemars(with = "SessionId"))]
        session_id: &'a str,
        /// The words.
        content: &'a str,
        /// Tokens of these words.
        tokens: u32,
        /// The prompt's `id`, as it was.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a RawValue>,
    },
    /// How an answer ended, in the clear: nothing to rely on.
    StreamEnd {
        /// The session.
        #[cfg_attr(feature = "schema", schemars(with = "SessionId"))]
        session_id: &'a str,
        /// Whether it is whole.
        reason: StreamEndReason,
        /// `stop`, `length`, `tool_calls`, `cancelled` or `error`.
        finish_reason: &'a str,
        /// Tokens of the answer.
        tokens_used: u32,
        /// What went wrong.
        #[serde(skip_serializing_if = "Option::is_none")]
        code: Option<Code>,
        /// What it took.
        usage: Usage,
        /// Messages of the conversation that no longer fit and are forgotten.
        #[serde(skip_serializing_if = "Option::is_none")]
        dropped_messages: Option<usize>,
        /// The message's `id`, as it was.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a RawValue>,
    },
    /// The answer to a ping.
    Pong,
    /// A refusal.
    Error {
        /// Why: part 3 of docs/protocol.md.
        code: Code,
        /// For a person.
        message: &'a str,
        /// When to try again, in milliseconds.
        #[serde(skip_serializing_if = "Option::is_none")]
        retry_after_ms: Option<u64>,
        /// Of a prompt that does not fit: its tokens.
        #[serde(skip_serializing_if = "Option::is_none")]
        prompt_tokens: Option<u32>,
        /// Of a prompt that does not fit: how many would.
        #[serde(skip_serializing_if = "Option::is_none")]
        context_window_size: Option<u32>,
        /// The session that the frame named.
        #[serde(skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "schema", schemars(with = "Option<SessionId>"))]
        session_id: Option<&'a str>,
        /// The frame's `id`, as it was.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a RawValue>,
    },
}

impl NodeFrame<'_> {
    /// The text that goes on the wire.
    pub fn encode(&self) -> String {
        if let NodeFrame::EncryptedChunk { session_id, tokens, payload, index, last, id } = self
            && let Some(text) =
                (Chunk { session_id, tokens: *tokens, payload, index: *index, last: *last, id: *id }).encode()
        {
            return text;
        }
        // Strings, numbers and raw JSON only: there is nothing here that serde_json can refuse.
        serde_json::to_string(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        aad::Aad,
        id::{Index, Nonce},
        v1::frame::Ciphertext,
    };

    /// What is written straight through is what serde would write.
    #[test]
    fn a_chunk_is_written_as_serde_would_write_it() {
        let id = RawValue::from_string(r#"{"a": [1, "\u00e9"]}"#.to_owned()).unwrap();
        for (session_id, length, last, id) in
            [("1", 20, false, None), (r#"a"b\c"#, 16, true, Some(&*id)), ("x", 500, false, Some(&*id))]
        {
            for index in [0, 9, u64::MAX] {
                let payload = WirePayload::new(
                    Ciphertext::from_elem(0xab, length),
                    Nonce::from([7; 24]),
                    Aad::Chunk(Index::new(index)),
                );
                let frame = NodeFrame::EncryptedChunk { session_id, tokens: 3, payload, index, last, id };
                assert_eq!(frame.encode(), serde_json::to_string(&frame).unwrap());
            }
        }
    }
}
