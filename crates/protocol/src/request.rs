//! The JSON inside a sealed message: what a client asks. The body of OpenAI's chat completions, as far as it
//! makes sense here; one file reads it for both versions of the protocol.
//!
//! A field that would change the answer and is not served is refused by its name; a field that nobody knows is
//! passed on to engines that may know it.

use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Value, value::RawValue};

use crate::{error::RequestError, seal::Words, v2::json::AnObject};

#[cfg(feature = "schema")]
pub(crate) mod schema;
mod wire;

use wire::{FIELDS, Op, WireRequest};

/// What a request on a channel of version 2 asks for.
#[derive(Debug)]
pub enum Operation {
    /// An answer in a conversation.
    Chat(PromptRequest),
    /// A text that goes on.
    Completions(PromptRequest),
    /// Vectors.
    Embeddings(PromptRequest),
    /// The list of models.
    Models,
}

impl Operation {
    /// Reads `{"op", "body"}`.
    ///
    /// # Errors
    /// [`RequestError`].
    pub fn read(json: &[u8]) -> Result<Self, RequestError> {
        #[derive(Deserialize)]
        struct Wire<'a> {
            op: String,
            #[serde(borrow)]
            body: Option<&'a RawValue>,
        }
        const INVALID: RequestError = RequestError::Invalid("the request");
        let text = std::str::from_utf8(json).map_err(|_| RequestError::Utf8)?;
        let AnObject(Wire { op, body }) = serde_json::from_str(text).map_err(|_| INVALID)?;
        let body = body.map_or("{}", RawValue::get);
        match op.as_str() {
            "chat" => PromptRequest::read_as(Op::Chat, body).map(Self::Chat),
            "completions" => PromptRequest::read_as(Op::Completions, body).map(Self::Completions),
            "embeddings" => PromptRequest::read_as(Op::Embeddings, body).map(Self::Embeddings),
            "models" => Ok(Self::Models),
            _ => Err(RequestError::Unsupported("op")),
        }
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
    /// For how many of the likeliest tokens in each place to tell the probabilities.
    pub logprobs: Option<u8>,
    /// What the answer has to look like.
    pub format: ResponseFormat,
    /// The functions that the model may ask to be called.
    pub tools: Option<ToolFields>,
    /// Fields that nobody here knows: a JSON object.
    pub extra: Option<Words>,
}

/// What is to be answered.
#[derive(Debug)]
pub enum RequestPrompt {
    /// The next turn of the conversation that the node keeps.
    Turn(Words),
    /// A whole conversation; the node keeps nothing of it.
    Messages(Vec<RequestMessage>),
    /// Texts to embed.
    Embeddings(Vec<Words>, EmbeddingEncoding),
}

/// How the numbers of an embedding are written.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum EmbeddingEncoding {
    /// As JSON numbers.
    #[default]
    Float,
    /// As base64 of 32-bit floating point numbers, little-endian.
    Base64,
}

/// What an answer has to look like.
#[derive(Debug, Default, Eq, PartialEq)]
pub enum ResponseFormat {
    /// As the model likes.
    #[default]
    Text,
    /// A JSON object.
    JsonObject,
    /// JSON that meets this schema.
    JsonSchema(Words),
}

/// Functions that the asking application offers the model.
#[derive(Debug)]
pub struct ToolFields {
    /// What there is.
    pub functions: Vec<FunctionField>,
    /// Whether one has to be called.
    pub choice: ToolChoiceField,
    /// Whether several may be called in one answer.
    pub parallel: bool,
}

/// One function.
#[derive(Debug)]
pub struct FunctionField {
    /// Its name: letters, digits, `_` and `-`, at most 64.
    pub name: String,
    /// The whole definition, JSON.
    pub json: Words,
    /// The JSON Schema of its arguments.
    pub parameters: Option<Words>,
}

/// Whether a function has to be called.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ToolChoiceField {
    /// The model decides.
    Auto,
    /// One of them must.
    Required,
    /// This one must.
    Named(String),
}

/// A call that the model made earlier in the conversation.
#[derive(Debug)]
pub struct CallField {
    /// What its result refers to.
    pub id: String,
    /// Which function.
    pub name: String,
    /// JSON.
    pub arguments: Words,
}

/// One message of a stateless request.
#[derive(Debug)]
pub struct RequestMessage {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: Words,
    /// What the model asked to be called in this turn.
    pub tool_calls: Vec<CallField>,
    /// Of a function's result: the call that it answers.
    pub tool_call_id: Option<String>,
}

/// Who speaks.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(transform = schema::other_word))]
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
    pub logit_bias: Vec<(u32, f32)>,
}

impl PromptRequest {
    /// A bare prompt with everything at its default.
    pub fn bare(prompt: Words) -> Self {
        Self::new(RequestPrompt::Turn(prompt))
    }

    fn new(prompt: RequestPrompt) -> Self {
        Self {
            prompt,
            model: None,
            max_tokens: None,
            sampling: SamplingFields::default(),
            stop: Vec::new(),
            logprobs: None,
            format: ResponseFormat::Text,
            tools: None,
            extra: None,
        }
    }

    /// Whether it is the next turn of a conversation that the node keeps.
    pub fn is_turn(&self) -> bool {
        matches!(self.prompt, RequestPrompt::Turn(_))
    }

    /// Whether the answer has to be told in objects, because it can be more than words.
    pub fn asks_for_objects(&self) -> bool {
        let embeds = matches!(self.prompt, RequestPrompt::Embeddings(..));
        self.logprobs.is_some() || self.tools.is_some() || embeds
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
        Self::read_wire(text, None)
    }

    fn read_as(op: Op, text: &str) -> Result<Self, RequestError> {
        let request = Self::read_wire(text, Some(op))?;
        match (op, &request.prompt) {
            // A text to go on with is not a conversation.
            (Op::Completions, RequestPrompt::Messages(_)) => Err(RequestError::Invalid("messages")),
            _ => Ok(request),
        }
    }

    fn read_wire(text: &str, op: Option<Op>) -> Result<Self, RequestError> {
        let mut reader = serde_json::Deserializer::from_str(text);
        let mut wire: WireRequest = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
            let mut names = FIELDS.iter().copied();
            let at = error.path().iter().next().map(ToString::to_string);
            RequestError::Invalid(names.find(|name| at.as_deref() == Some(*name)).unwrap_or("the request"))
        })?;
        reader.end().map_err(|_| RequestError::Invalid("the request"))?;
        if op.is_none() && wire.op == Some(Op::Completions) {
            return Err(RequestError::Unsupported("op"));
        }
        wire.op = op.or(wire.op);
        wire.refuse_unsupported()?;
        wire.read()
    }

    fn is_request(text: &str) -> bool {
        #[derive(Deserialize)]
        struct Probe {
            prompt: Option<IgnoredAny>,
            messages: Option<IgnoredAny>,
            op: Option<Value>,
        }
        // Duplicate keys make the probe fail: then `read` must refuse, not take the JSON for words.
        text.trim_ascii_start().starts_with('{')
            && match serde_json::from_str::<Probe>(text) {
                Ok(probe) => {
                    let embeds = probe.op.is_some_and(|op| op == "embeddings");
                    embeds || probe.prompt.is_some() || probe.messages.is_some()
                }
                Err(error) => error.is_data(),
            }
    }
}

#[cfg(test)]
mod tests;
