//! The JSON inside sealed frames: what a client says of its session, and what it asks. The only file that
//! reads it.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, Visitor},
};
use zeroize::Zeroizing;

use crate::{
    error::{DecodeError, RequestError},
    ethereum::Address,
    identity::PublicKey,
    seal::{Plaintext, SessionKey, Words},
    v1::frame::StringOrNumber,
};

/// What the sealed part of a session init says.
#[derive(Debug)]
pub struct SessionData {
    /// The client's name for the job that it pays for.
    pub job_id: Option<StringOrNumber>,
    /// The model that the client has in mind; informative.
    pub model_name: Option<String>,
    /// The key for the session's frames; the agreed key serves where it is absent.
    pub(crate) session_key: Option<SessionKey>,
    /// Who the client says it is.
    pub(crate) recovery_public_key: Option<PublicKey>,
    /// Who the client says it is.
    pub(crate) client_address: Option<Address>,
    /// When the init was made, unix seconds.
    pub timestamp: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireSessionData {
    #[serde(alias = "job_id")]
    job_id: Option<StringOrNumber>,
    #[serde(alias = "model_name")]
    model_name: Option<String>,
    #[serde(alias = "price_per_token")]
    #[expect(
        dead_code,
        reason = "read so that a wrong type is refused; the price is not the node's business"
    )]
    price_per_token: Option<StringOrNumber>,
    #[serde(alias = "session_key")]
    session_key: Option<SecretHex>,
    #[serde(alias = "recovery_public_key")]
    recovery_public_key: Option<String>,
    #[serde(alias = "client_address")]
    client_address: Option<String>,
    timestamp: Option<u64>,
}

impl TryFrom<&Plaintext> for SessionData {
    type Error = DecodeError;

    fn try_from(plaintext: &Plaintext) -> Result<Self, DecodeError> {
        let bytes = plaintext.as_bytes();
        if !bytes.trim_ascii_start().starts_with(b"{") {
            return Err(DecodeError::Payload("session data"));
        }
        let wire: WireSessionData =
            serde_json::from_slice(bytes).map_err(|_| DecodeError::Payload("session data"))?;
        let session_key = match wire.session_key {
            Some(mut hex) => {
                Some(SessionKey::take(&mut hex.0).map_err(|_| DecodeError::Payload("sessionKey"))?)
            }
            None => None,
        };
        let recovery_public_key = match wire.recovery_public_key {
            Some(text) => Some(compressed_key(&text).ok_or(DecodeError::Payload("recoveryPublicKey"))?),
            None => None,
        };
        let client_address = match wire.client_address {
            Some(text) => Some(text.parse().map_err(|_| DecodeError::Payload("clientAddress"))?),
            None => None,
        };
        Ok(Self {
            job_id: wire.job_id,
            model_name: wire.model_name,
            session_key,
            recovery_public_key,
            client_address,
            timestamp: wire.timestamp,
        })
    }
}

fn compressed_key(hex: &str) -> Option<PublicKey> {
    let bytes: [u8; PublicKey::LEN] = const_hex::decode(hex).ok()?.try_into().ok()?;
    PublicKey::try_from(bytes.as_slice()).ok()
}

/// 32 secret bytes read from hex without ever being a string of their own.
struct SecretHex(Zeroizing<[u8; 32]>);

impl<'de> Deserialize<'de> for SecretHex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct HexVisitor;
        impl Visitor<'_> for HexVisitor {
            type Value = SecretHex;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("64 hex digits")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<SecretHex, E> {
                let digits = text.strip_prefix("0x").unwrap_or(text);
                let mut bytes = Zeroizing::new([0; 32]);
                let read = base16ct::mixed::decode(digits, &mut *bytes);
                let whole = matches!(read, Ok(read) if read.len() == 32);
                if whole { Ok(SecretHex(bytes)) } else { Err(E::custom("not 64 hex digits")) }
            }
        }
        deserializer.deserialize_str(HexVisitor)
    }
}

/// A request as the client sealed it.
#[derive(Debug)]
pub struct PromptRequest {
    /// What to answer.
    pub prompt: RequestPrompt,
    /// The model asked for.
    pub model: Option<String>,
    /// Most tokens of the answer.
    pub max_tokens: Option<u32>,
    /// How tokens are chosen.
    pub sampling: SamplingFields,
    /// Texts that end the answer.
    pub stop: Vec<String>,
}

/// The two forms of a request.
#[derive(Debug)]
pub enum RequestPrompt {
    /// The next turn of the conversation that the node keeps.
    Turn(Words),
    /// A whole conversation; the node keeps nothing of it.
    Messages(Vec<RequestMessage>),
}

/// One message of a stateless request.
#[derive(Debug)]
pub struct RequestMessage {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: Words,
}

/// Who speaks.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions.
    #[serde(alias = "developer")]
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
    /// A tool's result.
    Tool,
}

/// How tokens are chosen, where the request says so.
#[derive(Clone, Debug, Default, PartialEq)]
#[expect(missing_docs, reason = "the names of the OpenAI chat-completions reference")]
pub struct SamplingFields {
    pub temperature: Option<f32>,
    pub top_p: Option<f32>,
    pub top_k: Option<u32>,
    pub min_p: Option<f32>,
    pub repeat_penalty: Option<f32>,
    pub frequency_penalty: Option<f32>,
    pub presence_penalty: Option<f32>,
    pub seed: Option<u32>,
}

#[derive(Deserialize)]
struct WireRequest {
    prompt: Option<String>,
    messages: Option<Vec<WireMessage>>,
    model: Option<String>,
    max_tokens: Option<u32>,
    max_completion_tokens: Option<u32>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<u32>,
    min_p: Option<f32>,
    repeat_penalty: Option<f32>,
    frequency_penalty: Option<f32>,
    presence_penalty: Option<f32>,
    seed: Option<i64>,
    stop: Option<Stop>,
    n: Option<u32>,
    tools: Option<IgnoredAny>,
    tool_choice: Option<IgnoredAny>,
    response_format: Option<IgnoredAny>,
    logit_bias: Option<IgnoredAny>,
    logprobs: Option<LogProbs>,
    top_logprobs: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum LogProbs {
    Switch(bool),
    #[expect(dead_code, reason = "the completions form, refused whatever it says")]
    Count(u32),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Stop {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
struct WireMessage {
    role: Role,
    content: Option<Content>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Deserialize)]
struct Part {
    #[serde(rename = "type")]
    kind: String,
    text: Option<String>,
}

/// Most stop texts of a request, and most bytes of each.
const MAX_STOPS: usize = 16;
const MAX_STOP_LEN: usize = 256;

impl PromptRequest {
    /// A bare prompt with everything at its default.
    pub fn bare(prompt: Words) -> Self {
        Self {
            prompt: RequestPrompt::Turn(prompt),
            model: None,
            max_tokens: None,
            sampling: SamplingFields::default(),
            stop: Vec::new(),
        }
    }

    /// Reads an opened message: a JSON object with `prompt` or `messages` is a request, anything else is a
    /// bare prompt.
    ///
    /// # Errors
    /// [`RequestError`]: not UTF-8, a field of the wrong type or out of range, or one that is not served.
    pub fn read(plaintext: &[u8]) -> Result<Self, RequestError> {
        let text = std::str::from_utf8(plaintext).map_err(|_| RequestError::Utf8)?;
        if !Self::is_request(text) {
            return Ok(Self::bare(Words::from(text)));
        }
        let wire: WireRequest =
            serde_json::from_str(text).map_err(|_| RequestError::Invalid("the request"))?;
        wire.refuse_unsupported()?;
        wire.read()
    }

    fn is_request(text: &str) -> bool {
        #[derive(Deserialize)]
        struct Probe {
            prompt: Option<IgnoredAny>,
            messages: Option<IgnoredAny>,
        }
        // Duplicate keys make the probe fail: then `read` must refuse, not take the JSON for words.
        text.trim_ascii_start().starts_with('{')
            && match serde_json::from_str::<Probe>(text) {
                Ok(probe) => probe.prompt.is_some() || probe.messages.is_some(),
                Err(error) => error.is_data(),
            }
    }
}

impl WireRequest {
    fn refuse_unsupported(&self) -> Result<(), RequestError> {
        let logprobs = matches!(self.logprobs, Some(LogProbs::Switch(true) | LogProbs::Count(_)));
        let refused = [
            ("n", self.n.is_some_and(|n| n != 1)),
            ("tools", self.tools.is_some()),
            ("tool_choice", self.tool_choice.is_some()),
            ("response_format", self.response_format.is_some()),
            ("logit_bias", self.logit_bias.is_some()),
            ("logprobs", logprobs),
            ("top_logprobs", self.top_logprobs.is_some()),
        ];
        let first = refused.into_iter().find_map(|(name, asked)| asked.then_some(name));
        first.map_or(Ok(()), |name| Err(RequestError::Unsupported(name)))
    }

    fn read(self) -> Result<PromptRequest, RequestError> {
        let sampling = self.sampling()?;
        let stop = match self.stop {
            None => Vec::new(),
            Some(Stop::One(text)) => vec![text],
            Some(Stop::Many(texts)) => texts,
        };
        if stop.len() > MAX_STOPS || stop.iter().any(|text| text.is_empty() || text.len() > MAX_STOP_LEN) {
            return Err(RequestError::Invalid("stop"));
        }
        let prompt = match (self.prompt, self.messages) {
            (Some(prompt), None) => RequestPrompt::Turn(Words::from(prompt)),
            (None, Some(messages)) if !messages.is_empty() => RequestPrompt::Messages(
                messages.into_iter().map(WireMessage::read).collect::<Result<_, _>>()?,
            ),
            _ => return Err(RequestError::Invalid("prompt or messages: one of them, not both,")),
        };
        let max_tokens = self.max_completion_tokens.or(self.max_tokens);
        Ok(PromptRequest { prompt, model: self.model, max_tokens, sampling, stop })
    }

    fn sampling(&self) -> Result<SamplingFields, RequestError> {
        let in_range = |name, value: Option<f32>, low: f32, high: f32| match value {
            Some(value) if !(low..=high).contains(&value) => Err(RequestError::Invalid(name)),
            value => Ok(value),
        };
        let seed = match self.seed {
            // The convention of llama.cpp's server: -1 draws one at random.
            None | Some(-1) => None,
            Some(seed) => Some(u32::try_from(seed).map_err(|_| RequestError::Invalid("seed"))?),
        };
        Ok(SamplingFields {
            temperature: in_range("temperature", self.temperature, 0.0, 2.0)?,
            top_p: in_range("top_p", self.top_p, 0.0, 1.0)?,
            top_k: self.top_k,
            min_p: in_range("min_p", self.min_p, 0.0, 1.0)?,
            repeat_penalty: in_range("repeat_penalty", self.repeat_penalty, 0.01, 10.0)?,
            frequency_penalty: in_range("frequency_penalty", self.frequency_penalty, -2.0, 2.0)?,
            presence_penalty: in_range("presence_penalty", self.presence_penalty, -2.0, 2.0)?,
            seed,
        })
    }
}

impl WireMessage {
    fn read(self) -> Result<RequestMessage, RequestError> {
        let content = match self.content {
            None => String::new(),
            Some(Content::Text(text)) => text,
            Some(Content::Parts(parts)) => {
                let mut text = String::new();
                for part in parts {
                    if part.kind != "text" {
                        return Err(RequestError::Unsupported("a content part that is not text"));
                    }
                    text.push_str(&part.text.ok_or(RequestError::Invalid("a content part"))?);
                }
                text
            }
        };
        Ok(RequestMessage { role: self.role, content: Words::from(content) })
    }
}

impl SessionKey {
    /// The sealed data of a client's init, with this key in it.
    pub(crate) fn session_data_json(
        key: Option<&Self>,
        claim: ClaimFields<'_>,
        timestamp: Option<u64>,
    ) -> Zeroizing<String> {
        let mut json = Zeroizing::new(String::with_capacity(512));
        json.push_str("{\"jobId\":\"0\",\"modelName\":\"default\"");
        if let Some(key) = key {
            json.push_str(",\"sessionKey\":\"");
            json.push_str(&Zeroizing::new(base16ct::lower::encode_string(key.expose())));
            json.push('"');
        }
        match claim {
            ClaimFields::None => {}
            ClaimFields::Address(address) => {
                json.push_str(",\"clientAddress\":\"");
                json.push_str(&address.to_string());
                json.push('"');
            }
            ClaimFields::PublicKey(key) => {
                json.push_str(",\"recoveryPublicKey\":\"");
                json.push_str(&key.to_string());
                json.push('"');
            }
        }
        if let Some(timestamp) = timestamp {
            json.push_str(",\"timestamp\":");
            json.push_str(&timestamp.to_string());
        }
        json.push('}');
        json
    }
}

/// Which claim a client makes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ClaimFields<'a> {
    /// None: the node then knows only an address that nobody vouches for.
    None,
    /// `clientAddress`.
    Address(&'a Address),
    /// `recoveryPublicKey`.
    PublicKey(&'a PublicKey),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(text: &str) -> String {
        match PromptRequest::read(text.as_bytes()).unwrap().prompt {
            RequestPrompt::Turn(words) => words.as_str().to_owned(),
            RequestPrompt::Messages(_) => panic!("a bare prompt was expected"),
        }
    }

    #[test]
    fn anything_that_is_no_request_is_a_bare_prompt() {
        for text in ["hello", "", "{", "{}", "[1]", "{\"question\": 1}", "\"prompt\"", "null"] {
            assert_eq!(turn(text), text);
        }
        assert_eq!(turn("{\"prompt\":\"hi\",\"stream\":true,\"thinking\":null}"), "hi");
    }

    #[test]
    fn a_request_with_a_wrong_field_is_refused_by_name() {
        let refused = |text: &str| PromptRequest::read(text.as_bytes()).unwrap_err();
        assert_eq!(refused(r#"{"prompt":"a","temperature":9}"#), RequestError::Invalid("temperature"));
        assert_eq!(refused(r#"{"prompt":"a","tools":[]}"#), RequestError::Unsupported("tools"));
        assert_eq!(refused(r#"{"prompt":"a","n":2}"#), RequestError::Unsupported("n"));
        assert_eq!(refused(r#"{"prompt":"a","max_tokens":-1}"#), RequestError::Invalid("the request"));
        assert_eq!(refused(r#"{"prompt":"a","prompt":"b"}"#), RequestError::Invalid("the request"));
        assert_eq!(PromptRequest::read(b"\xff").unwrap_err(), RequestError::Utf8);
    }

    #[test]
    fn content_parts_of_text_are_joined() {
        let json = r#"{"messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}]}"#;
        let request = PromptRequest::read(json.as_bytes()).unwrap();
        let RequestPrompt::Messages(messages) = request.prompt else { panic!("messages were expected") };
        assert_eq!(messages[0].content.as_str(), "ab");
    }
}
