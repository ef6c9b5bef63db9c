//! The request field by field, as OpenAI's API has it.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{self, IgnoredAny, SeqAccess, Visitor, value::SeqAccessDeserializer},
};
use serde_json::{Map, Value};

use super::super::{EmbeddingEncoding, Role};
use crate::v2::json::{AnObject, object, object_or_none, objects_or_none};

/// What is asked: the body of OpenAI's chat completions, completions or embeddings. Fields that nobody knows are passed
/// on to engines that may know them.
#[derive(Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "RequestBody"))]
pub(in crate::request) struct WireRequest {
    /// What a sealed message of version 1 asks for; on a channel of version 2 the request's own `op` counts.
    pub(in crate::request) op: Option<Op>,
    /// The next turn of a conversation that the node keeps, a text to go on with, or what to embed. OpenAI's embeddings
    /// call it `input`.
    #[serde(alias = "input")]
    pub(super) prompt: Option<OneOrMany>,
    /// A whole conversation, of which the node keeps nothing.
    #[serde(default, deserialize_with = "objects_or_none")]
    pub(super) messages: Option<Vec<WireMessage>>,
    /// Which of the node's models is asked; absent, the first.
    pub(super) model: Option<String>,
    /// Most tokens of the answer.
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub(super) max_tokens: Option<u64>,
    /// Most tokens of the answer, by its newer name, which counts where both are there.
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub(super) max_completion_tokens: Option<u64>,
    /// How freely tokens are chosen.
    #[cfg_attr(feature = "schema", schemars(range(min = 0, max = 2)))]
    pub(super) temperature: Option<f32>,
    /// The likeliest tokens that make up this probability.
    #[cfg_attr(feature = "schema", schemars(range(min = 0, max = 1)))]
    pub(super) top_p: Option<f32>,
    /// This many of the likeliest tokens.
    pub(super) top_k: Option<u32>,
    /// Tokens that are at least this part as likely as the likeliest.
    #[cfg_attr(feature = "schema", schemars(range(min = 0, max = 1)))]
    pub(super) min_p: Option<f32>,
    /// How much less likely a token is that was there; 1 is not at all.
    #[cfg_attr(feature = "schema", schemars(range(min = 0.01, max = 10)))]
    pub(super) repeat_penalty: Option<f32>,
    /// The same by how often it was there.
    #[cfg_attr(feature = "schema", schemars(range(min = -2, max = 2)))]
    pub(super) frequency_penalty: Option<f32>,
    /// The same by whether it was there.
    #[cfg_attr(feature = "schema", schemars(range(min = -2, max = 2)))]
    pub(super) presence_penalty: Option<f32>,
    /// The same seed, model and settings give the same answer; -1 is one at random.
    #[cfg_attr(feature = "schema", schemars(range(min = -1, max = 4_294_967_295_i64)))]
    pub(super) seed: Option<i64>,
    /// Texts that end the answer: at most 16, each of 1 to 256 bytes.
    pub(super) stop: Option<OneOrMany>,
    /// What is added to the logits of tokens, by their numbers in this model: -100 to 100.
    #[cfg_attr(feature = "schema", schemars(extend("maxProperties" = super::MAX_BIASES)))]
    pub(super) logit_bias: Option<BTreeMap<String, f32>>,
    /// Whether to tell how likely each token was.
    pub(super) logprobs: Option<bool>,
    /// Of how many of the likeliest tokens in each place to tell it, with `logprobs`.
    #[cfg_attr(feature = "schema", schemars(range(max = 20)))]
    pub(super) top_logprobs: Option<u8>,
    /// What the answer has to look like.
    #[serde(default, deserialize_with = "object_or_none")]
    pub(super) response_format: Option<WireFormat>,
    /// Functions that the model may ask to be called.
    #[cfg_attr(feature = "schema", schemars(with = "Option<Vec<WireTool>>", length(max = 128)))]
    pub(super) tools: Option<Vec<Value>>,
    /// Whether a function has to be called.
    pub(super) tool_choice: Option<WireChoice>,
    /// Whether several may be called in one answer: by default they may.
    pub(super) parallel_tool_calls: Option<bool>,
    /// How the numbers of an embedding are written.
    pub(super) encoding_format: Option<EmbeddingEncoding>,
    /// Changes nothing: the answer is always a stream.
    #[serde(rename = "stream")]
    pub(super) _stream: Option<bool>,
    /// Changes nothing: the usage is always told.
    #[serde(default, rename = "stream_options", deserialize_with = "object_or_none")]
    pub(super) _stream_options: Option<StreamOptions>,
    /// One answer is given.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 1)))]
    pub(super) n: Option<u32>,
    /// One answer is given.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 1)))]
    pub(super) best_of: Option<u32>,
    /// `text` alone is served.
    #[cfg_attr(feature = "schema", schemars(with = "Option<Vec<TextAlone>>"))]
    pub(super) modalities: Option<Vec<String>>,
    /// Not served.
    #[cfg_attr(feature = "schema", schemars(extend("enum" = [false, null])))]
    pub(super) echo: Option<bool>,
    /// Not served.
    #[cfg_attr(feature = "schema", schemars(with = "Option<()>"))]
    pub(super) suffix: Option<IgnoredAny>,
    /// Not served.
    #[cfg_attr(feature = "schema", schemars(with = "Option<()>"))]
    pub(super) audio: Option<IgnoredAny>,
    /// Not served: `tools` is.
    #[cfg_attr(feature = "schema", schemars(with = "Option<()>"))]
    pub(super) functions: Option<IgnoredAny>,
    /// Not served: `tool_choice` is.
    #[cfg_attr(feature = "schema", schemars(with = "Option<()>"))]
    pub(super) function_call: Option<IgnoredAny>,
    /// Not served.
    #[cfg_attr(feature = "schema", schemars(with = "Option<()>"))]
    pub(super) web_search_options: Option<IgnoredAny>,
    /// Not served.
    #[cfg_attr(feature = "schema", schemars(with = "Option<()>"))]
    pub(super) dimensions: Option<IgnoredAny>,
    #[serde(flatten)]
    pub(super) extra: Map<String, Value>,
}

/// What a request is.
#[derive(Clone, Copy, Deserialize, Eq, PartialEq)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub(in crate::request) enum Op {
    /// An answer in a conversation.
    Chat,
    /// A text that goes on.
    Completions,
    /// Vectors.
    Embeddings,
}

/// The one modality that there is.
#[cfg(feature = "schema")]
#[derive(schemars::JsonSchema)]
#[schemars(rename_all = "lowercase", inline)]
enum TextAlone {
    #[expect(dead_code, reason = "a schema, no value")]
    Text,
}

/// How a stream is told.
#[derive(Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub(super) struct StreamOptions {
    /// Changes nothing: the usage is always told.
    #[serde(rename = "include_usage")]
    _include_usage: Option<bool>,
}

/// A text, or a list of them.
// Read by hand, as [`Content`] is: serde's untagged enums read a copy of the words first, and leave it behind.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(untagged))]
pub(super) enum OneOrMany {
    /// A text.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextOr(Self::One, Self::Many))
    }
}

/// What the answer has to look like.
#[derive(Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "ResponseFormat"))]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum WireFormat {
    /// As the model likes.
    Text,
    /// A JSON object.
    JsonObject {
        /// Not served: `json_schema` is. (It is llama-server's way to say so.)
        #[cfg_attr(feature = "schema", schemars(with = "Option<()>"))]
        schema: Option<IgnoredAny>,
    },
    /// JSON that meets a schema.
    JsonSchema {
        /// The schema, and its name.
        #[serde(deserialize_with = "object")]
        json_schema: NamedSchema,
    },
}

/// A schema with a name around it.
#[derive(Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub(super) struct NamedSchema {
    /// JSON Schema, as far as a grammar can be made of it.
    pub(super) schema: Value,
}

/// Whether a function has to be called.
#[derive(Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "ToolChoice"))]
#[serde(untagged)]
pub(super) enum WireChoice {
    /// A word.
    Word(ChoiceWord),
    /// This one must.
    Named {
        /// Which.
        #[serde(deserialize_with = "object")]
        function: FunctionName,
    },
}

/// Whether a function has to be called, in a word.
#[derive(Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub(super) enum ChoiceWord {
    /// None may.
    None,
    /// The model decides.
    Auto,
    /// One of them must.
    Required,
}

/// A function by its name.
#[derive(Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub(super) struct FunctionName {
    /// The name.
    pub(super) name: String,
}

/// A function that the model may ask to be called.
#[derive(Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "Tool"))]
pub(super) struct WireTool {
    /// `function`: other tools are not served.
    #[serde(rename = "type")]
    #[cfg_attr(feature = "schema", schemars(extend("const" = "function")))]
    pub(super) kind: String,
    /// The function.
    #[serde(deserialize_with = "object")]
    pub(super) function: WireFunction,
}

/// The definition of a function.
#[derive(Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "FunctionDefinition"))]
pub(super) struct WireFunction {
    /// Letters, digits, `_` and `-`, at most 64.
    #[cfg_attr(feature = "schema", schemars(regex(pattern = r"^[A-Za-z0-9_-]{1,64}$")))]
    pub(super) name: String,
    /// JSON Schema of its arguments.
    pub(super) parameters: Option<Value>,
}

/// A call that the model made earlier in the conversation.
#[derive(Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "EarlierCall"))]
pub(super) struct WireCall {
    /// What its result refers to: at most 64 bytes.
    #[cfg_attr(feature = "schema", schemars(length(max = 64)))]
    pub(super) id: String,
    /// Which function, and with what.
    #[serde(deserialize_with = "object")]
    pub(super) function: CalledFunction,
}

/// A function, and what it was called with.
#[derive(Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub(super) struct CalledFunction {
    /// Which.
    pub(super) name: String,
    /// With what: JSON, as text.
    pub(super) arguments: String,
}

/// One message of a conversation.
#[derive(Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "Message"))]
pub(super) struct WireMessage {
    /// Who speaks.
    pub(super) role: Role,
    /// What is said.
    pub(super) content: Option<Content>,
    /// What the model asked to be called in this turn.
    #[serde(default, deserialize_with = "objects_or_none")]
    pub(super) tool_calls: Option<Vec<WireCall>>,
    /// Of a function's result: the call that it answers.
    #[cfg_attr(feature = "schema", schemars(length(max = 64)))]
    pub(super) tool_call_id: Option<String>,
}

/// A text, or the parts of one.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(untagged))]
pub(super) enum Content {
    /// A text.
    Text(String),
    /// Parts, joined without anything between.
    Parts(Vec<Part>),
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextOr(Self::Text, |parts| Self::Parts(AnObject::values(parts))))
    }
}

/// Reads a text, or a list, and says what to make of either.
struct TextOr<T, V>(fn(String) -> V, fn(Vec<T>) -> V);

impl<'de, T: Deserialize<'de>, V> Visitor<'de> for TextOr<T, V> {
    type Value = V;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text or a list")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<V, E> {
        Ok((self.0)(text.to_owned()))
    }

    fn visit_string<E: de::Error>(self, text: String) -> Result<V, E> {
        Ok((self.0)(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<V, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(list)).map(self.1)
    }
}

/// A part of what is said.
#[derive(Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "TextPart"))]
pub(super) struct Part {
    /// `text`: other parts are not served.
    #[serde(rename = "type")]
    #[cfg_attr(feature = "schema", schemars(extend("const" = "text")))]
    pub(super) kind: String,
    /// The words.
    #[cfg_attr(feature = "schema", schemars(required))]
    pub(super) text: Option<String>,
}
