//! What can go wrong, and the one map from there to what the peer is told.

use serde::Serialize;

use crate::{
    identity::InvalidSignature,
    seal::{OpenError, SealError},
};

/// A frame does not have the form that its type asks for. Names the blame, never the content.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum DecodeError {
    /// Not JSON, or not of the right shape.
    #[error("the frame is not JSON of the form that its type asks for")]
    Malformed,
    /// Nobody knows this `type`.
    #[error("the frame's type is not known")]
    UnknownType,
    /// No `session_id`.
    #[error("session_id is missing")]
    MissingSessionId,
    /// No `payload`.
    #[error("payload is missing")]
    MissingPayload,
    /// A field of the payload is missing.
    #[error("payload lacks the field {0}")]
    MissingPayloadField(&'static str),
    /// A field is not hex.
    #[error("{0} is not hex")]
    Hex(&'static str),
    /// A nonce is not 24 bytes.
    #[error("a nonce is 24 bytes")]
    NonceSize,
    /// A field has the wrong length or holds something impossible.
    #[error("{0} is not valid")]
    Payload(&'static str),
}

/// A session init was seen before, or is too old to tell.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ReplayError {
    /// This ephemeral key and nonce have opened a session already.
    #[error("this session init was seen before")]
    Init,
    /// This session key was used before by the same owner.
    #[error("this session key was used before")]
    Key,
    /// The timestamp is more than five minutes away, or before the node's start.
    #[error("the session init's timestamp is not of this moment")]
    Stale,
    /// A timestamp is required here.
    #[error("a timestamp is required in the session init")]
    NoTimestamp,
    /// The index of a message is spent.
    #[error("this message index is spent")]
    Index,
    /// The nonce of a message was used before under its key.
    #[error("this nonce was used before")]
    Nonce,
}

/// Why a request inside a sealed message cannot be served.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RequestError {
    /// Not UTF-8.
    #[error("the message is not UTF-8")]
    Utf8,
    /// A field has the wrong type or an impossible value.
    #[error("{0} is not valid in a request")]
    Invalid(&'static str),
    /// A field that would change the answer and is not served here.
    #[error("{0} is not supported")]
    Unsupported(&'static str),
}

/// Why a frame was refused.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Error {
    /// See [`DecodeError`].
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// See [`OpenError`].
    #[error(transparent)]
    Open(#[from] OpenError),
    /// See [`SealError`].
    #[error(transparent)]
    Seal(#[from] SealError),
    /// See [`InvalidSignature`].
    #[error(transparent)]
    Signature(#[from] InvalidSignature),
    /// See [`ReplayError`].
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// See [`RequestError`].
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The key has sealed as much as it may; init again.
    #[error("the session key is spent: init again")]
    KeySpent,
}

/// What the peer is told. Coarser than [`Error`] on purpose; docs/protocol.md section 3 is the same table.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize, serde::Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(transform = crate::schema::meanings))]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[expect(missing_docs, reason = "each is explained once, in Code::meaning, which the docs and a test share")]
pub enum Code {
    MalformedFrame,
    UnknownMessageType,
    MissingSessionId,
    MissingPayload,
    MissingPayloadFields,
    InvalidHexEncoding,
    InvalidNonceSize,
    InvalidPayload,
    DecryptionFailed,
    InvalidSignature,
    ReplayDetected,
    SessionKeyNotFound,
    EncryptionNotSupported,
    PlaintextDisabled,
    ProtocolTooOld,
    ClientNotAllowed,
    RateLimited,
    NodeBusy,
    Draining,
    SlowConsumer,
    ModelNotFound,
    UnsupportedField,
    TokenLimitExceeded,
    #[serde(rename = "INVALID_UTF8")]
    InvalidUtf8,
    EngineFailed,
    EncryptionFailed,
    InternalError,
    HandshakeFailed,
    CertificateInvalid,
    RequestTooLarge,
    AnswerGone,
    ResumptionRefused,
    OriginNotAllowed,
    NotFound,
    ChallengeDisabled,
}

/// What a client does after a code.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Retry {
    /// The same frame will be refused again: mend the client or its settings.
    No,
    /// Open the session anew, then send again.
    Init,
    /// Wait and send the same again.
    Later,
}

impl Retry {
    /// The word that the documentation uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::Init => "after a new init",
            Self::Later => "later",
        }
    }
}

impl From<&Error> for Code {
    // No `_` arm: a new error does not compile until someone picks its code.
    fn from(error: &Error) -> Self {
        match error {
            Error::Decode(decode) => match decode {
                DecodeError::Malformed => Self::MalformedFrame,
                DecodeError::UnknownType => Self::UnknownMessageType,
                DecodeError::MissingSessionId => Self::MissingSessionId,
                DecodeError::MissingPayload => Self::MissingPayload,
                DecodeError::MissingPayloadField(_) => Self::MissingPayloadFields,
                DecodeError::Hex(_) => Self::InvalidHexEncoding,
                DecodeError::NonceSize => Self::InvalidNonceSize,
                DecodeError::Payload(_) => Self::InvalidPayload,
            },
            Error::Open(OpenError) => Self::DecryptionFailed,
            Error::Seal(SealError) => Self::EncryptionFailed,
            Error::Signature(InvalidSignature) => Self::InvalidSignature,
            Error::Replay(_) => Self::ReplayDetected,
            Error::Request(request) => match request {
                RequestError::Utf8 => Self::InvalidUtf8,
                RequestError::Invalid(_) => Self::InvalidPayload,
                RequestError::Unsupported(_) => Self::UnsupportedField,
            },
            Error::KeySpent => Self::SessionKeyNotFound,
        }
    }
}

macro_rules! codes {
    ($($code:ident $text:literal $status:literal $retry:ident $meaning:literal;)*) => {
        impl Code {
            /// Every code, in the order of the documentation.
            pub const ALL: &[Self] = &[$(Self::$code),*];

            /// The word on the wire.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$code => $text),* }
            }

            /// The HTTP status of an answer that is this code.
            pub fn http_status(self) -> u16 {
                match self { $(Self::$code => $status),* }
            }

            /// Whether to try again.
            pub fn retry(self) -> Retry {
                match self { $(Self::$code => Retry::$retry),* }
            }

            /// One sentence for the person who meets it.
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$code => $meaning),* }
            }
        }
    };
}

codes! {
    MalformedFrame "MALFORMED_FRAME" 400 No "the frame is not JSON of the form that its type asks for";
    UnknownMessageType "UNKNOWN_MESSAGE_TYPE" 400 No "the frame's type is not known here";
    MissingSessionId "MISSING_SESSION_ID" 400 No "session_id is missing";
    MissingPayload "MISSING_PAYLOAD" 400 No "payload is missing";
    MissingPayloadFields "MISSING_PAYLOAD_FIELDS" 400 No "a field of the payload is missing";
    InvalidHexEncoding "INVALID_HEX_ENCODING" 400 No "a field is not hex";
    InvalidNonceSize "INVALID_NONCE_SIZE" 400 No "a nonce is 24 bytes";
    InvalidPayload "INVALID_PAYLOAD" 400 No "a length, a point, a key or a field of the sealed data is not valid";
    DecryptionFailed "DECRYPTION_FAILED" 400 Init "nothing opened; the cause is not told";
    InvalidSignature "INVALID_SIGNATURE" 401 No "the signature is malformed, has a high s, or is not by the claimed address";
    ReplayDetected "REPLAY_DETECTED" 409 Init "an index, a nonce, a key or an init was used before, or its timestamp is stale";
    SessionKeyNotFound "SESSION_KEY_NOT_FOUND" 404 Init "this connection holds no live key under that id";
    EncryptionNotSupported "ENCRYPTION_NOT_SUPPORTED" 501 No "the node has no private key: it serves plaintext only";
    PlaintextDisabled "PLAINTEXT_DISABLED" 403 No "the node serves encrypted sessions only";
    ProtocolTooOld "PROTOCOL_TOO_OLD" 426 No "the node no longer serves this version of the protocol";
    ClientNotAllowed "CLIENT_NOT_ALLOWED" 403 No "the client is not on the allow-list, or is on the deny-list";
    RateLimited "RATE_LIMITED" 429 Later "too much in too short a time; retry_after_ms says how long to wait";
    NodeBusy "NODE_BUSY" 503 Later "a bound of the node is reached";
    Draining "DRAINING" 503 Later "the node is going away; try another or come back";
    SlowConsumer "SLOW_CONSUMER" 408 Later "the connection did not send its request or read its answers in time";
    ModelNotFound "MODEL_NOT_FOUND" 404 No "the model is not served here";
    UnsupportedField "UNSUPPORTED_FIELD" 400 No "a field of the request is not supported";
    TokenLimitExceeded "TOKEN_LIMIT_EXCEEDED" 413 No "the prompt does not fit the context; prompt_tokens and context_window_size say by how much";
    InvalidUtf8 "INVALID_UTF8" 400 No "the opened message is not UTF-8";
    EngineFailed "ENGINE_FAILED" 502 Later "the engine failed and is being started again";
    EncryptionFailed "ENCRYPTION_FAILED" 500 Init "the answer could not be sealed";
    InternalError "INTERNAL_ERROR" 500 Later "a defect of the node";
    HandshakeFailed "HANDSHAKE_FAILED" 400 Init "the channel's handshake did not complete";
    CertificateInvalid "CERTIFICATE_INVALID" 401 No "a certificate is malformed, expired, revoked or for somebody else";
    RequestTooLarge "REQUEST_TOO_LARGE" 413 No "the request is larger than the node takes";
    AnswerGone "ANSWER_GONE" 410 No "the answer is no longer kept";
    ResumptionRefused "RESUMPTION_REFUSED" 409 Init "the ticket or claim is unknown, spent or expired";
    OriginNotAllowed "ORIGIN_NOT_ALLOWED" 403 No "pages of this origin may not connect";
    NotFound "NOT_FOUND" 404 No "there is nothing at this path";
    ChallengeDisabled "CHALLENGE_DISABLED" 403 No "challenges of this form are switched off";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wire_word_and_the_serialized_word_are_one() {
        for code in Code::ALL {
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
        }
    }
}
