//! Frames as they look on the wire, and what a node reads of them. The only place that knows v1's field names and public hex.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    aad::Aad,
    error::DecodeError,
    id::{Nonce, SessionId},
    identity::{PublicKey, Signature},
    seal::Sealed,
    v1::handshake::{InitContext, SessionInit},
};

mod client;
mod node;
mod payload;
#[cfg(feature = "schema")]
pub(crate) mod schema;

pub use client::Reply;
pub(crate) use client::{encode_init, encode_message};
pub use node::{NodeFrame, StreamEndReason, Usage};
pub(crate) use payload::Ciphertext;
pub use payload::WirePayload;

/// Most bytes of a frame's `id`.
const MAX_ID_LEN: usize = 256;

/// What a reply repeats of the frame that it belongs to.
#[derive(Clone, Debug, Default)]
pub struct Echo {
    /// The session that the frame named, where it named a well-formed one.
    pub session_id: Option<SessionId>,
    /// The frame's `id`, any JSON value, as it was written.
    pub id: Option<Box<RawValue>>,
}

/// A frame that was refused before anything was done.
#[derive(Debug)]
pub struct Refusal {
    /// What the `error` frame repeats.
    pub echo: Echo,
    /// Why.
    pub error: DecodeError,
}

/// A frame that has the outer form of its type. Its payload is not looked at yet.
#[derive(Debug)]
pub struct Inbound<'a> {
    /// What replies repeat.
    pub echo: Echo,
    /// The frame.
    pub frame: ClientFrame<'a>,
}

/// Frames that a client may send.
#[derive(Debug)]
pub enum ClientFrame<'a> {
    /// Opens, or re-keys, an encrypted session.
    SessionInit(SessionId, RawInit<'a>),
    /// A sealed request.
    Message(SessionId, RawSealed<'a>),
    /// Ends the running and queued answers of a session.
    Cancel(SessionId),
    /// Asks for a pong.
    Ping,
    /// Opens a plaintext session.
    PlainInit(SessionId, InitContext),
    /// A request in the clear: the JSON object, or the bare prompt.
    PlainPrompt(SessionId, PlainRequest<'a>),
}

/// A request in the clear.
#[derive(Debug)]
pub enum PlainRequest<'a> {
    /// The words alone.
    Prompt(Cow<'a, str>),
    /// A request object.
    Object(&'a str),
}

/// The payload of a session init, unread.
#[derive(Debug)]
pub struct RawInit<'a>(Option<&'a RawValue>, InitContext);

/// The payload of a sealed message, unread.
#[derive(Debug)]
pub struct RawSealed<'a>(Option<&'a RawValue>);

#[derive(Deserialize)]
struct WireFrame<'a> {
    #[serde(rename = "type", borrow)]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow)]
    session_id: Option<&'a RawValue>,
    #[serde(rename = "sessionId", borrow)]
    session_id_camel: Option<&'a RawValue>,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    job_id: Option<&'a RawValue>,
    #[serde(borrow)]
    chain_id: Option<&'a RawValue>,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
    #[serde(borrow)]
    prompt: Option<&'a RawValue>,
    #[serde(borrow)]
    request: Option<&'a RawValue>,
}

/// A value that some clients write as text and some as a number.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum StringOrNumber {
    /// As a number.
    Number(serde_json::Number),
    /// As text.
    Text(String),
}

impl<'a> Inbound<'a> {
    /// Reads the outer form of a text frame.
    ///
    /// # Errors
    /// A [`Refusal`] that repeats whatever of `session_id` and `id` could be read.
    pub fn decode(text: &'a str) -> Result<Self, Refusal> {
        let malformed = |echo| Refusal { echo, error: DecodeError::Malformed };
        let wire: WireFrame<'a> = object(text).map_err(|_| malformed(Echo::default()))?;
        let mut echo = Echo::default();
        // Whatever else a ping carries, it is answered by a pong and never by an error.
        if wire.kind.as_deref() == Some("ping") {
            return Ok(Self { echo, frame: ClientFrame::Ping });
        }
        if let Some(id) = wire.id {
            if id.get().len() > MAX_ID_LEN {
                return Err(malformed(echo));
            }
            echo.id = Some(id.to_owned());
        }
        let named = match wire.session_id() {
            Ok(named) => named,
            Err(error) => return Err(Refusal { echo, error }),
        };
        echo.session_id.clone_from(&named);
        match ClientFrame::read(wire, named) {
            Ok(frame) => Ok(Self { echo, frame }),
            Err(error) => Err(Refusal { echo, error }),
        }
    }
}

impl WireFrame<'_> {
    /// The session that the frame names, in either spelling.
    fn session_id(&self) -> Result<Option<SessionId>, DecodeError> {
        let read = |value: &RawValue| -> Result<SessionId, DecodeError> {
            let text: Cow<'_, str> = typed(value)?;
            SessionId::try_from(text.as_ref()).map_err(|_| DecodeError::Malformed)
        };
        let ids = (self.session_id.map(read).transpose()?, self.session_id_camel.map(read).transpose()?);
        match ids {
            (Some(one), Some(other)) if one != other => Err(DecodeError::Malformed),
            (one, other) => Ok(one.or(other)),
        }
    }

    fn context(&self) -> Result<InitContext, DecodeError> {
        Ok(InitContext {
            job_id: self.job_id.map(typed).transpose()?,
            chain_id: self.chain_id.map(typed).transpose()?,
        })
    }
}

/// A field's value. Fields are read one by one, so that a wrong one still lets the others be repeated.
fn typed<'a, T: Deserialize<'a>>(value: &'a RawValue) -> Result<T, DecodeError> {
    serde_json::from_str(value.get()).map_err(|_| DecodeError::Malformed)
}

impl<'a> ClientFrame<'a> {
    fn read(wire: WireFrame<'a>, named: Option<SessionId>) -> Result<Self, DecodeError> {
        let context = wire.context()?;
        let kind = wire.kind.ok_or(DecodeError::Malformed)?;
        let named = named.ok_or(DecodeError::MissingSessionId);
        match kind.as_ref() {
            "encrypted_session_init" => Ok(Self::SessionInit(named?, RawInit(wire.payload, context))),
            "encrypted_message" => Ok(Self::Message(named?, RawSealed(wire.payload))),
            "stream_cancel" => Ok(Self::Cancel(named?)),
            "session_init" => Ok(Self::PlainInit(named?, context)),
            "prompt" | "inference" => {
                let id = named?;
                let request = match (wire.request, wire.prompt) {
                    (Some(object), _) if object.get().starts_with('{') => PlainRequest::Object(object.get()),
                    (None, Some(prompt)) => {
                        let words: String =
                            serde_json::from_str(prompt.get()).map_err(|_| DecodeError::Malformed)?;
                        PlainRequest::Prompt(Cow::Owned(words))
                    }
                    (Some(_), _) => return Err(DecodeError::Malformed),
                    (None, None) => return Err(DecodeError::MissingPayload),
                };
                Ok(Self::PlainPrompt(id, request))
            }
            _ => Err(DecodeError::UnknownType),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireInit<'a> {
    #[serde(borrow)]
    eph_pub_hex: Option<Cow<'a, str>>,
    #[serde(borrow)]
    ciphertext_hex: Option<Cow<'a, str>>,
    #[serde(borrow)]
    signature_hex: Option<Cow<'a, str>>,
    #[serde(borrow)]
    nonce_hex: Option<Cow<'a, str>>,
    #[serde(borrow)]
    aad_hex: Option<Cow<'a, str>>,
    #[serde(borrow)]
    salt_hex: Option<Cow<'a, str>>,
    #[serde(borrow)]
    info: Option<Cow<'a, str>>,
}

impl RawInit<'_> {
    /// Reads the payload: presence, hex, lengths, the signature's form, and the point last, since it costs
    /// most.
    ///
    /// # Errors
    /// See [`crate::Error`]; nothing has been computed with the node's key yet.
    pub fn read(self, id: SessionId) -> Result<SessionInit, crate::Error> {
        self.form(id)?.point()
    }

    /// Reads the payload but for the point: nothing that costs anything.
    ///
    /// # Errors
    /// See [`crate::Error`].
    pub fn form(self, id: SessionId) -> Result<FormedInit, crate::Error> {
        let Self(payload, context) = self;
        let wire: WireInit<'_> = payload_object(payload)?;
        let ephemeral = bytes("ephPubHex", wire.eph_pub_hex)?;
        let sealed = sealed(wire.ciphertext_hex, wire.nonce_hex)?;
        let signature = bytes("signatureHex", wire.signature_hex)?;
        let aad = match bytes("aadHex", wire.aad_hex)?.as_slice() {
            [] => Aad::Empty,
            b"session_init" => Aad::SessionInit,
            _ => return Err(crate::seal::OpenError.into()),
        };
        let extended = wire.salt_hex.is_some() || wire.info.is_some();
        let salt = wire.salt_hex.map(|salt| hex("saltHex", &salt)).transpose()?;
        if salt.is_some_and(|salt| salt != [0; 32]) {
            return Err(DecodeError::Payload("saltHex").into());
        }
        if wire.info.is_some_and(|info| !info.is_empty()) {
            return Err(DecodeError::Payload("info").into());
        }
        let signature = Signature::try_from(signature.as_slice())?;
        if !PublicKey::has_form(&ephemeral) {
            return Err(DecodeError::Payload("ephPubHex").into());
        }
        Ok(FormedInit { id, context, ephemeral, sealed, aad, signature, extended })
    }
}

/// An init whose payload has the right form. Whether its key is a point of the curve is not known yet.
#[derive(Debug)]
pub struct FormedInit {
    id: SessionId,
    context: InitContext,
    ephemeral: Vec<u8>,
    sealed: Sealed,
    aad: Aad,
    signature: Signature,
    extended: bool,
}

impl FormedInit {
    /// Reads the point.
    ///
    /// # Errors
    /// Where it is none.
    pub fn point(self) -> Result<SessionInit, crate::Error> {
        let Self { id, context, ephemeral, sealed, aad, signature, extended } = self;
        let ephemeral =
            PublicKey::try_from(ephemeral.as_slice()).map_err(|_| DecodeError::Payload("ephPubHex"))?;
        Ok(SessionInit { id, context, ephemeral, sealed, aad, signature, extended })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireSealed<'a> {
    #[serde(borrow)]
    ciphertext_hex: Option<Cow<'a, str>>,
    #[serde(borrow)]
    nonce_hex: Option<Cow<'a, str>>,
    #[serde(borrow)]
    aad_hex: Option<Cow<'a, str>>,
}

/// A sealed payload and the aad that its sender claims, which is compared and never used.
#[derive(Debug)]
pub struct SealedPayload {
    /// What opens, or does not.
    pub sealed: Sealed,
    pub(crate) claimed_aad: Vec<u8>,
}

impl RawSealed<'_> {
    /// Reads the payload.
    ///
    /// # Errors
    /// What is missing, is not hex, or has the wrong size.
    pub fn read(self) -> Result<SealedPayload, DecodeError> {
        let wire: WireSealed<'_> = payload_object(self.0)?;
        SealedPayload::from_wire(wire)
    }
}

impl SealedPayload {
    fn from_wire(wire: WireSealed<'_>) -> Result<Self, DecodeError> {
        let sealed = sealed(wire.ciphertext_hex, wire.nonce_hex)?;
        let claimed_aad = bytes("aadHex", wire.aad_hex)?;
        Ok(Self { sealed, claimed_aad })
    }
}

fn object<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, DecodeError> {
    // serde's derive reads a struct from an array too; the protocol has objects only.
    if !text.trim_ascii_start().starts_with('{') {
        return Err(DecodeError::Malformed);
    }
    serde_json::from_str(text).map_err(|_| DecodeError::Malformed)
}

fn payload_object<'a, T: Deserialize<'a>>(payload: Option<&'a RawValue>) -> Result<T, DecodeError> {
    object(payload.ok_or(DecodeError::MissingPayload)?.get())
}

fn sealed(ciphertext: Option<Cow<'_, str>>, nonce: Option<Cow<'_, str>>) -> Result<Sealed, DecodeError> {
    let ciphertext = bytes("ciphertextHex", ciphertext)?;
    let nonce: [u8; Nonce::LEN] = bytes("nonceHex", nonce)?.try_into().map_err(|_| DecodeError::NonceSize)?;
    Ok(Sealed { nonce: Nonce::from(nonce), ciphertext })
}

fn bytes(field: &'static str, text: Option<Cow<'_, str>>) -> Result<Vec<u8>, DecodeError> {
    hex(field, &text.ok_or(DecodeError::MissingPayloadField(field))?)
}

fn hex(field: &'static str, text: &str) -> Result<Vec<u8>, DecodeError> {
    const_hex::decode(text).map_err(|_| DecodeError::Hex(field))
}
