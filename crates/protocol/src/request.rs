//! The JSON inside a sealed message: what a client asks. The body of OpenAI's chat completions, as far as it
//! makes sense here; one file reads it for both versions of the protocol.
//!
//! A field that would change the answer and is not served is refused by its name; a field that nobody knows is
//! passed on to engines that may know it.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{self, IgnoredAny, SeqAccess, Visitor, value::SeqAccessDeserializer},
};
use serde_json::{Map, Value};

use crate::{error::RequestError, seal::Words};

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

#[derive(Deserialize)]
struct WireRequest {
    op: Option<Op>,
    /// OpenAI's embeddings call it `input`.
    #[serde(alias = "input")]
    prompt: Option<OneOrMany>,
    messages: Option<Vec<WireMessage>>,
    model: Option<String>,
    max_tokens: Option<u64>,
    max_completion_tokens: Option<u64>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<u32>,
    min_p: Option<f32>,
    repeat_penalty: Option<f32>,
    frequency_penalty: Option<f32>,
    presence_penalty: Option<f32>,
    seed: Option<i64>,
    stop: Option<OneOrMany>,
    logit_bias: Option<BTreeMap<String, f32>>,
    logprobs: Option<bool>,
    top_logprobs: Option<u8>,
    response_format: Option<WireFormat>,
    tools: Option<Vec<Value>>,
    tool_choice: Option<WireChoice>,
    parallel_tool_calls: Option<bool>,
    encoding_format: Option<EmbeddingEncoding>,
    /// The answer is always a stream, and the usage is always told.
    #[serde(rename = "stream")]
    _stream: Option<bool>,
    #[serde(rename = "stream_options")]
    _stream_options: Option<StreamOptions>,
    n: Option<u32>,
    best_of: Option<u32>,
    modalities: Option<Vec<String>>,
    echo: Option<bool>,
    suffix: Option<IgnoredAny>,
    audio: Option<IgnoredAny>,
    functions: Option<IgnoredAny>,
    function_call: Option<IgnoredAny>,
    web_search_options: Option<IgnoredAny>,
    dimensions: Option<IgnoredAny>,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

#[derive(Clone, Copy, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Op {
    Chat,
    Embeddings,
}

#[derive(Deserialize)]
struct StreamOptions {
    #[serde(rename = "include_usage")]
    _include_usage: Option<bool>,
}

/// Read by hand, as [`Content`] is: serde's untagged enums read a copy of the words first, and leave it behind.
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextOr(Self::One, Self::Many))
    }
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum WireFormat {
    Text,
    JsonObject,
    JsonSchema { json_schema: NamedSchema },
}

#[derive(Deserialize)]
struct NamedSchema {
    schema: Value,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum WireChoice {
    Word(ChoiceWord),
    Named { function: FunctionName },
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum ChoiceWord {
    None,
    Auto,
    Required,
}

#[derive(Deserialize)]
struct FunctionName {
    name: String,
}

#[derive(Deserialize)]
struct WireTool {
    #[serde(rename = "type")]
    kind: String,
    function: WireFunction,
}

#[derive(Deserialize)]
struct WireFunction {
    name: String,
    parameters: Option<Value>,
}

#[derive(Deserialize)]
struct WireCall {
    id: String,
    function: CalledFunction,
}

#[derive(Deserialize)]
struct CalledFunction {
    name: String,
    arguments: String,
}

#[derive(Deserialize)]
struct WireMessage {
    role: Role,
    content: Option<Content>,
    #[serde(default)]
    tool_calls: Option<Vec<WireCall>>,
    tool_call_id: Option<String>,
}

enum Content {
    Text(String),
    Parts(Vec<Part>),
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextOr(Self::Text, Self::Parts))
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

#[derive(Deserialize)]
struct Part {
    #[serde(rename = "type")]
    kind: String,
    text: Option<String>,
}

/// What a refusal may name: a client's own words never stand in one.
const FIELDS: &[&str] = &[
    "op",
    "prompt",
    "input",
    "messages",
    "model",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repeat_penalty",
    "frequency_penalty",
    "presence_penalty",
    "seed",
    "stop",
    "logit_bias",
    "logprobs",
    "top_logprobs",
    "response_format",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "encoding_format",
    "stream",
    "stream_options",
    "n",
    "best_of",
    "modalities",
    "echo",
];

/// Most stop texts of a request, and most bytes of each.
const MAX_STOPS: usize = 16;
const MAX_STOP_LEN: usize = 256;
/// Most tokens whose logits a request may move.
const MAX_BIASES: usize = 1024;
/// Most tokens in each place whose probabilities a request may ask for.
const MAX_TOP_LOGPROBS: u8 = 20;
/// Most functions that a request may offer.
const MAX_TOOLS: usize = 128;
/// Most bytes of a function's name, and of a call's id.
const MAX_NAME_LEN: usize = 64;
/// Most texts to embed at once.
const MAX_EMBEDDED: usize = 256;

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
        let mut reader = serde_json::Deserializer::from_str(text);
        let wire: WireRequest = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
            let mut names = FIELDS.iter().copied();
            let at = error.path().iter().next().map(ToString::to_string);
            RequestError::Invalid(names.find(|name| at.as_deref() == Some(*name)).unwrap_or("the request"))
        })?;
        reader.end().map_err(|_| RequestError::Invalid("the request"))?;
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

impl WireRequest {
    fn refuse_unsupported(&self) -> Result<(), RequestError> {
        let speaks = |modalities: &Vec<String>| modalities.iter().any(|modality| modality != "text");
        let refused = [
            ("n", self.n.is_some_and(|n| n != 1)),
            ("best_of", self.best_of.is_some_and(|n| n != 1)),
            ("modalities", self.modalities.as_ref().is_some_and(speaks)),
            ("echo", self.echo == Some(true)),
            ("suffix", self.suffix.is_some()),
            ("audio", self.audio.is_some()),
            ("functions", self.functions.is_some()),
            ("function_call", self.function_call.is_some()),
            ("web_search_options", self.web_search_options.is_some()),
            ("dimensions", self.dimensions.is_some()),
        ];
        let first = refused.into_iter().find_map(|(name, asked)| asked.then_some(name));
        first.map_or(Ok(()), |name| Err(RequestError::Unsupported(name)))
    }

    fn read(mut self) -> Result<PromptRequest, RequestError> {
        let sampling = self.sampling()?;
        let logprobs = self.logprobs()?;
        let stop = many(self.stop.take());
        if stop.len() > MAX_STOPS || stop.iter().any(|text| text.is_empty() || text.len() > MAX_STOP_LEN) {
            return Err(RequestError::Invalid("stop"));
        }
        let format = match self.response_format.take() {
            None | Some(WireFormat::Text) => ResponseFormat::Text,
            Some(WireFormat::JsonObject) => ResponseFormat::JsonObject,
            Some(WireFormat::JsonSchema { json_schema }) => {
                ResponseFormat::JsonSchema(Words::from(json_schema.schema.to_string()))
            }
        };
        let tools = self.tools()?;
        // More than any context holds is capped to it like anything else that is too much.
        let most = self.max_completion_tokens.or(self.max_tokens);
        if most == Some(0) {
            return Err(RequestError::Invalid("max_tokens"));
        }
        let max_tokens = most.map(|most| u32::try_from(most).unwrap_or(u32::MAX));
        let model = self.model.take();
        self.extra.retain(|_, value| !value.is_null());
        let extra = std::mem::take(&mut self.extra);
        let extra = (!extra.is_empty()).then(|| Words::from(Value::Object(extra).to_string()));
        let prompt = self.prompt()?;
        if tools.is_some() && !matches!(prompt, RequestPrompt::Messages(_)) {
            return Err(RequestError::Invalid("tools without messages"));
        }
        Ok(PromptRequest {
            model,
            max_tokens,
            sampling,
            stop,
            logprobs,
            format,
            tools,
            extra,
            ..PromptRequest::new(prompt)
        })
    }

    fn prompt(self) -> Result<RequestPrompt, RequestError> {
        const BOTH: RequestError = RequestError::Invalid("prompt, messages (exactly one of them)");
        if self.op == Some(Op::Embeddings) {
            let texts = many(self.prompt);
            if texts.is_empty() || texts.len() > MAX_EMBEDDED || texts.iter().any(String::is_empty) {
                return Err(RequestError::Invalid("prompt"));
            }
            let texts = texts.into_iter().map(Words::from).collect();
            return Ok(RequestPrompt::Embeddings(texts, self.encoding_format.unwrap_or_default()));
        }
        match (self.prompt, self.messages) {
            (Some(OneOrMany::One(prompt)), None) => Ok(RequestPrompt::Turn(Words::from(prompt))),
            (None, Some(messages)) if !messages.is_empty() => {
                let messages = messages.into_iter().map(WireMessage::read);
                Ok(RequestPrompt::Messages(messages.collect::<Result<_, _>>()?))
            }
            _ => Err(BOTH),
        }
    }

    fn logprobs(&self) -> Result<Option<u8>, RequestError> {
        match (self.logprobs, self.top_logprobs) {
            (Some(true), top) => {
                let top = top.unwrap_or(0);
                if top > MAX_TOP_LOGPROBS {
                    Err(RequestError::Invalid("top_logprobs"))
                } else {
                    Ok(Some(top))
                }
            }
            (_, None | Some(0)) => Ok(None),
            (_, Some(_)) => Err(RequestError::Invalid("top_logprobs without logprobs")),
        }
    }

    fn tools(&mut self) -> Result<Option<ToolFields>, RequestError> {
        let tools = self.tools.take().unwrap_or_default();
        let choice = match self.tool_choice.take() {
            Some(WireChoice::Word(ChoiceWord::None)) => return Ok(None),
            None | Some(WireChoice::Word(ChoiceWord::Auto)) => ToolChoiceField::Auto,
            Some(WireChoice::Word(ChoiceWord::Required)) => ToolChoiceField::Required,
            Some(WireChoice::Named { function }) => ToolChoiceField::Named(function.name),
        };
        if tools.is_empty() {
            let asked = choice != ToolChoiceField::Auto;
            return if asked { Err(RequestError::Invalid("tool_choice without tools")) } else { Ok(None) };
        }
        if tools.len() > MAX_TOOLS {
            return Err(RequestError::Invalid("tools"));
        }
        let functions = tools.into_iter().map(FunctionField::read).collect::<Result<_, _>>()?;
        Ok(Some(ToolFields { functions, choice, parallel: self.parallel_tool_calls.unwrap_or(true) }))
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
            logit_bias: self.logit_bias()?,
        })
    }

    fn logit_bias(&self) -> Result<Vec<(u32, f32)>, RequestError> {
        const INVALID: RequestError = RequestError::Invalid("logit_bias");
        let Some(biases) = &self.logit_bias else { return Ok(Vec::new()) };
        if biases.len() > MAX_BIASES {
            return Err(INVALID);
        }
        let read = biases.iter().map(|(token, bias)| {
            let token = token.parse().map_err(|_| INVALID)?;
            if (-100.0..=100.0).contains(bias) { Ok((token, *bias)) } else { Err(INVALID) }
        });
        read.collect()
    }
}

fn many(texts: Option<OneOrMany>) -> Vec<String> {
    match texts {
        None => Vec::new(),
        Some(OneOrMany::One(text)) => vec![text],
        Some(OneOrMany::Many(texts)) => texts,
    }
}

impl FunctionField {
    fn read(definition: Value) -> Result<Self, RequestError> {
        const INVALID: RequestError = RequestError::Invalid("tools");
        let json = Words::from(definition.to_string());
        let tool: WireTool = serde_json::from_value(definition).map_err(|_| INVALID)?;
        if tool.kind != "function" {
            return Err(RequestError::Unsupported("a tool that is not a function"));
        }
        let WireFunction { name, parameters } = tool.function;
        let part = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if name.is_empty() || name.len() > MAX_NAME_LEN || !name.bytes().all(part) {
            return Err(INVALID);
        }
        let parameters = parameters.map(|schema| Words::from(schema.to_string()));
        Ok(Self { name, json, parameters })
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
        let calls = self.tool_calls.unwrap_or_default();
        let too_long = |id: &String| id.len() > MAX_NAME_LEN;
        if calls.iter().any(|call| too_long(&call.id)) || self.tool_call_id.as_ref().is_some_and(too_long) {
            return Err(RequestError::Invalid("tool_call_id"));
        }
        let tool_calls = calls.into_iter().map(|WireCall { id, function }| CallField {
            id,
            name: function.name,
            arguments: Words::from(function.arguments),
        });
        Ok(RequestMessage {
            role: self.role,
            content: Words::from(content),
            tool_calls: tool_calls.collect(),
            tool_call_id: self.tool_call_id,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(text: &str) -> String {
        match PromptRequest::read(text.as_bytes()).unwrap().prompt {
            RequestPrompt::Turn(words) => words.as_str().to_owned(),
            RequestPrompt::Messages(_) | RequestPrompt::Embeddings(..) => {
                panic!("a bare prompt was expected")
            }
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
        assert_eq!(refused(r#"{"prompt":"a","functions":[]}"#), RequestError::Unsupported("functions"));
        assert_eq!(
            refused(r#"{"prompt":"a","top_logprobs":2}"#),
            RequestError::Invalid("top_logprobs without logprobs")
        );
        assert_eq!(refused(r#"{"prompt":"a","logit_bias":{"x":1}}"#), RequestError::Invalid("logit_bias"));
        assert_eq!(refused(r#"{"prompt":"a","logit_bias":{"1":101}}"#), RequestError::Invalid("logit_bias"));
        assert_eq!(
            refused(r#"{"prompt":["a"]}"#),
            RequestError::Invalid("prompt, messages (exactly one of them)")
        );
        assert_eq!(refused(r#"{"op":"embeddings","prompt":[]}"#), RequestError::Invalid("prompt"));
        assert_eq!(refused(r#"{"prompt":"a","n":2}"#), RequestError::Unsupported("n"));
        for (field, wrong) in [
            ("max_tokens", "-1"),
            ("max_tokens", "0"),
            ("max_tokens", "1.5"),
            ("max_tokens", "\"5\""),
            ("top_k", "-1"),
            ("temperature", "\"hot\""),
            ("seed", "1.5"),
            ("logprobs", "5"),
            ("stop", "5"),
            ("response_format", "{\"type\":\"xml\"}"),
            ("response_format", "\"json\""),
            ("messages", "[{\"role\":\"narrator\",\"content\":\"a\"}]"),
            ("encoding_format", "\"hex\""),
            ("tool_choice", "\"perhaps\""),
            ("op", "\"sing\""),
        ] {
            let json = format!("{{\"prompt\":\"a\",\"{field}\":{wrong}}}");
            assert_eq!(refused(&json), RequestError::Invalid(field), "{json}");
        }
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

    const TOOL: &str = r#"{"type":"function","function":{"name":"look_up","parameters":{"type":"object"}}}"#;

    fn with_tools(fields: &str) -> Result<Option<ToolFields>, RequestError> {
        let json = format!(r#"{{"messages":[{{"role":"user","content":"a"}}],{fields}}}"#);
        PromptRequest::read(json.as_bytes()).map(|request| request.tools)
    }

    #[test]
    fn functions_are_read_with_their_choice() {
        let read = |choice: &str| with_tools(&format!(r#""tools":[{TOOL}]{choice}"#));
        let auto = read("").unwrap().unwrap();
        assert_eq!(
            (auto.functions[0].name.as_str(), auto.choice, auto.parallel),
            ("look_up", ToolChoiceField::Auto, true)
        );
        assert_eq!(auto.functions[0].parameters.as_ref().unwrap().as_str(), r#"{"type":"object"}"#);
        let one = read(r#","tool_choice":"required","parallel_tool_calls":false"#).unwrap().unwrap();
        assert_eq!((one.choice, one.parallel), (ToolChoiceField::Required, false));
        let named =
            read(r#","tool_choice":{"type":"function","function":{"name":"look_up"}}"#).unwrap().unwrap();
        assert_eq!(named.choice, ToolChoiceField::Named("look_up".into()));
        assert!(read(r#","tool_choice":"none""#).unwrap().is_none());
        assert!(with_tools(r#""tools":[]"#).unwrap().is_none());
        let error = with_tools(r#""tool_choice":"required""#).unwrap_err();
        assert_eq!(error, RequestError::Invalid("tool_choice without tools"));
        let error = with_tools(r#""tools":[{"type":"function","function":{"name":"a b"}}]"#).unwrap_err();
        assert_eq!(error, RequestError::Invalid("tools"));
        let json = format!(r#"{{"prompt":"a","tools":[{TOOL}]}}"#);
        assert_eq!(
            PromptRequest::read(json.as_bytes()).unwrap_err(),
            RequestError::Invalid("tools without messages")
        );
    }

    #[test]
    fn calls_and_their_results_are_part_of_a_conversation() {
        let json = r#"{"messages":[
            {"role":"assistant","content":null,"tool_calls":[{"id":"c1","type":"function","function":{"name":"f","arguments":"{}"}}]},
            {"role":"tool","tool_call_id":"c1","content":"42"}]}"#;
        let RequestPrompt::Messages(messages) = PromptRequest::read(json.as_bytes()).unwrap().prompt else {
            panic!("messages were expected")
        };
        assert_eq!(messages[0].tool_calls[0].name, "f");
        assert_eq!(messages[1].tool_call_id.as_deref(), Some("c1"));
    }

    #[test]
    fn a_form_for_the_answer_is_read() {
        let format = |json: &str| {
            let json = format!(r#"{{"prompt":"a","response_format":{json}}}"#);
            PromptRequest::read(json.as_bytes()).map(|request| request.format)
        };
        assert_eq!(format(r#"{"type":"text"}"#), Ok(ResponseFormat::Text));
        assert_eq!(format(r#"{"type":"json_object"}"#), Ok(ResponseFormat::JsonObject));
        let schema = ResponseFormat::JsonSchema(Words::from(r#"{"type":"null"}"#));
        assert_eq!(
            format(
                r#"{"type":"json_schema","json_schema":{"name":"x","schema":{"type":"null"},"strict":true}}"#
            ),
            Ok(schema)
        );
    }

    #[test]
    fn what_nobody_knows_is_passed_on() {
        let read = |json: &str| PromptRequest::read(json.as_bytes()).unwrap().extra;
        let known = r#"{"prompt":"a","stream":true,"stream_options":{"include_usage":true},"thinking":null}"#;
        assert!(read(known).is_none());
        assert_eq!(
            read(r#"{"prompt":"a","reasoning_effort":"low"}"#).unwrap().as_str(),
            r#"{"reasoning_effort":"low"}"#
        );
    }
}
