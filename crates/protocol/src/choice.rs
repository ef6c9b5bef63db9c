//! What an answer's pieces are when they can be more than words: the objects of OpenAI's chat completions and
//! embeddings, as JSON.

use base64ct::{Base64, Encoding as _};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::request::EmbeddingEncoding;

/// One piece of an answer: `choices[0]` of a `chat.completion.chunk`.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Choice<'a> {
    /// There is one choice: 0.
    index: u32,
    /// What it adds.
    delta: Delta<'a>,
    /// How likely its tokens were, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<Logprobs<'a>>,
    /// `null`: the answer's end says it.
    finish_reason: Option<&'a str>,
}

/// What a piece adds to the answer.
#[derive(Debug, Default, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Delta<'a> {
    /// Words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<&'a str>,
    /// Words that the model says to itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<&'a str>,
    /// Functions that it asks to be called.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(default))]
    pub tool_calls: Vec<Call<'a>>,
}

/// A call of a function, whole.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Call<'a> {
    /// Which call of the answer it is, from 0.
    index: usize,
    /// What its result refers to.
    id: &'a str,
    /// `function`.
    #[serde(rename = "type")]
    kind: &'static str,
    /// What is to be called.
    function: Function<'a>,
}

/// A function, and what it is called with.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
struct Function<'a> {
    /// Which.
    name: &'a str,
    /// With what: JSON, as text.
    arguments: &'a str,
}

/// How likely the tokens of a piece were.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
struct Logprobs<'a> {
    /// One by one.
    content: Vec<TokenProbability<'a>>,
}

/// How likely one token of the piece was.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TokenProbability<'a> {
    /// Its text, as far as it is one.
    token: String,
    /// The logarithm of its probability.
    logprob: f32,
    /// The bytes that it stands for.
    bytes: &'a [u8],
    /// The likeliest tokens in its place.
    #[serde(skip_serializing_if = "Option::is_none")]
    top_logprobs: Option<Vec<Self>>,
}

impl<'a> Choice<'a> {
    /// A piece of the answer.
    pub fn new(delta: Delta<'a>) -> Self {
        Self { index: 0, delta, logprobs: None, finish_reason: None }
    }

    /// The same with the probabilities of its tokens.
    #[must_use]
    pub fn with_logprobs(self, content: Vec<TokenProbability<'a>>) -> Self {
        Self { logprobs: Some(Logprobs { content }), ..self }
    }

    /// The JSON of it.
    pub fn encode(&self) -> Zeroizing<String> {
        encode(self)
    }
}

impl<'a> Call<'a> {
    /// Call number `index` of the answer.
    pub fn new(index: usize, id: &'a str, name: &'a str, arguments: &'a str) -> Self {
        Self { index, id, kind: "function", function: Function { name, arguments } }
    }
}

impl<'a> TokenProbability<'a> {
    /// A token by the bytes that it stands for, which need not be whole characters.
    pub fn new(bytes: &'a [u8], logprob: f32) -> Self {
        let token = String::from_utf8_lossy(bytes).into_owned();
        Self { token, logprob, bytes, top_logprobs: None }
    }

    /// The same with the likeliest tokens in its place.
    #[must_use]
    pub fn with_top(self, top_logprobs: Vec<Self>) -> Self {
        Self { top_logprobs: Some(top_logprobs), ..self }
    }
}

/// One vector of an answer to `embeddings`.
#[derive(Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub(crate) struct Embedding<'a> {
    /// `embedding`.
    object: &'static str,
    /// Which of the texts it is of, from 0.
    index: usize,
    /// The vector, of length 1.
    embedding: Values<'a>,
}

/// The numbers of a vector.
#[derive(Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
enum Values<'a> {
    /// As JSON numbers.
    Float(&'a [f32]),
    /// As base64 of 32-bit floating point numbers, little-endian.
    Base64(String),
}

/// Embedding number `index`, as JSON.
pub fn embedding(index: usize, values: &[f32], encoding: EmbeddingEncoding) -> Zeroizing<String> {
    let embedding = match encoding {
        EmbeddingEncoding::Float => Values::Float(values),
        EmbeddingEncoding::Base64 => {
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            Values::Base64(Base64::encode_string(&bytes))
        }
    };
    encode(&Embedding { object: "embedding", index, embedding })
}

fn encode(object: &impl Serialize) -> Zeroizing<String> {
    // Strings, numbers and lists only: there is nothing here that serde_json can refuse.
    Zeroizing::new(serde_json::to_string(object).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn value(json: &str) -> Value {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn pieces_are_as_openai_has_them() {
        let words = Choice::new(Delta { content: Some("Hi"), ..Delta::default() });
        let words = words.with_logprobs(vec![
            TokenProbability::new(b"Hi", -0.5).with_top(vec![TokenProbability::new(b"\xc3", -1.0)]),
        ]);
        let expected = json!({"index": 0, "delta": {"content": "Hi"}, "finish_reason": null, "logprobs": {"content": [
            {"token": "Hi", "logprob": -0.5, "bytes": [72, 105], "top_logprobs": [
                {"token": "\u{fffd}", "logprob": -1.0, "bytes": [195]}]}]}});
        assert_eq!(value(&words.encode()), expected);
        let calls = vec![Call::new(1, "c", "f", "{}")];
        let call = Choice::new(Delta { tool_calls: calls, ..Delta::default() });
        let expected = json!({"index": 0, "finish_reason": null, "delta": {"tool_calls": [
            {"index": 1, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]}});
        assert_eq!(value(&call.encode()), expected);
    }

    #[test]
    fn embeddings_are_numbers_or_base64_of_them() {
        let plain = embedding(2, &[0.5, -1.0], EmbeddingEncoding::Float);
        assert_eq!(value(&plain), json!({"object": "embedding", "index": 2, "embedding": [0.5, -1.0]}));
        let packed = embedding(0, &[0.5, -1.0], EmbeddingEncoding::Base64);
        assert_eq!(value(&packed)["embedding"], "AAAAPwAAgL8=");
    }
}
