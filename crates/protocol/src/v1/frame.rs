//! Frames as they look on the wire. The only file that knows v1's field names and public hex.

use std::{borrow::Cow, io::Write as _};

use serde::{Deserialize, Serialize, Serializer, ser::SerializeStruct as _};
use serde_json::value::RawValue;
use smallvec::SmallVec;

#[cfg(feature = "schema")]
use crate::ethereum::Address;
use crate::{
    aad::{Aad, AadBytes},
    error::{Code, DecodeError},
    id::{Index, Nonce, SessionId},
    identity::{PublicKey, Signature},
    seal::Sealed,
    v1::handshake::{InitContext, SessionInit},
    v2::{Advertisement, or_default},
};

#[cfg(feature = "schema")]
pub(crate) mod schema;

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

/// A sealed payload as it is written.
#[derive(Debug)]
pub struct WirePayload {
    ciphertext: Ciphertext,
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
    fn write(&self, json: &mut Vec<u8>) {
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

fn write_number(json: &mut Vec<u8>, number: u64) {
    // A vector takes whatever is written.
    let _ = write!(json, "{number}");
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

#[cfg(test)]
mod tests {
    use super::*;

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
