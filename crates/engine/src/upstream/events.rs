//! What a server answers: server-sent events with the objects of OpenAI's API. Pure: bytes in, events out.

use serde::Deserialize;
use zeroize::Zeroizing;

use crate::{FinishReason, TokenLogprobs, Usage};

/// Longest line of a stream.
const MAX_LINE: usize = 4 << 20;

/// Cuts a stream of server-sent events (WHATWG HTML, 9.2) into the data of each.
#[derive(Debug, Default)]
pub(super) struct Events {
    held: Zeroizing<Vec<u8>>,
    /// How much of what is held has no line end.
    searched: usize,
}

/// One event.
#[derive(Debug)]
pub(super) enum Event {
    Piece(Box<Piece>),
    /// `[DONE]`.
    Done,
}

/// The stream is not what it should be.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the server's answer is no stream of events")]
pub(super) struct NotAStream;

impl Events {
    /// Takes in more of the stream.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
    }

    /// The next event that is whole.
    pub(super) fn next(&mut self) -> Result<Option<Event>, NotAStream> {
        loop {
            let fresh = self.held.get(self.searched..).unwrap_or_default();
            let Some(at) = fresh.iter().position(|byte| *byte == b'\n') else {
                self.searched = self.held.len();
                return if self.searched > MAX_LINE { Err(NotAStream) } else { Ok(None) };
            };
            let end = self.searched.saturating_add(at).saturating_add(1);
            let line: Zeroizing<Vec<u8>> = Zeroizing::new(self.held.drain(..end).collect());
            self.searched = 0;
            let Some(data) = line.strip_prefix(b"data:") else { continue };
            let data = data.trim_ascii();
            if data == b"[DONE]" {
                return Ok(Some(Event::Done));
            }
            let piece = serde_json::from_slice(data).map_err(|_| NotAStream)?;
            return Ok(Some(Event::Piece(Box::new(piece))));
        }
    }
}

/// A `chat.completion.chunk`, or an error in its place.
#[derive(Debug, Deserialize)]
pub(super) struct Piece {
    #[serde(default)]
    pub(super) choices: Vec<Choice>,
    pub(super) usage: Option<WireUsage>,
    pub(super) error: Option<Fault>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Choice {
    #[serde(default)]
    pub(super) delta: Delta,
    /// Of `/completions`.
    pub(super) text: Option<String>,
    pub(super) finish_reason: Option<String>,
    #[serde(default)]
    pub(super) index: u32,
    logprobs: Option<Logprobs>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Delta {
    pub(super) content: Option<String>,
    /// Some servers write both, the one a copy of the other.
    reasoning_content: Option<String>,
    reasoning: Option<String>,
    pub(super) tool_calls: Option<Vec<CallPart>>,
}

impl Delta {
    /// What the model says to itself.
    pub(super) fn reasoning(&mut self) -> Option<String> {
        let (one, other) = (self.reasoning_content.take(), self.reasoning.take());
        one.or(other).filter(|words| !words.is_empty())
    }
}

/// A part of a call: the first names the function, the others add to its arguments.
#[derive(Debug, Deserialize)]
pub(super) struct CallPart {
    pub(super) index: Option<usize>,
    pub(super) id: Option<String>,
    pub(super) function: Option<FunctionPart>,
}

#[derive(Debug, Deserialize)]
pub(super) struct FunctionPart {
    pub(super) name: Option<String>,
    pub(super) arguments: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Logprobs {
    content: Option<Vec<TokenProbability>>,
}

#[derive(Debug, Deserialize)]
struct TokenProbability {
    token: String,
    logprob: f32,
    bytes: Option<Vec<u8>>,
    #[serde(default)]
    top_logprobs: Vec<Self>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct WireUsage {
    #[serde(default)]
    prompt_tokens: u32,
    #[serde(default)]
    completion_tokens: u32,
    prompt_tokens_details: Option<PromptDetails>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
struct PromptDetails {
    cached_tokens: Option<u32>,
}

impl WireUsage {
    pub(super) fn read(self) -> Usage {
        Usage {
            prompt_tokens: self.prompt_tokens,
            cached_tokens: self.prompt_tokens_details.and_then(|details| details.cached_tokens).unwrap_or(0),
            completion_tokens: self.completion_tokens,
            estimated: false,
        }
    }
}

impl Choice {
    /// The probabilities of this piece's tokens.
    pub(super) fn logprobs(&mut self) -> Vec<TokenLogprobs> {
        let tokens = self.logprobs.take().and_then(|logprobs| logprobs.content).unwrap_or_default();
        tokens.into_iter().map(TokenProbability::read).collect()
    }
}

impl TokenProbability {
    fn read(self) -> TokenLogprobs {
        let spelled = |one: Self| (one.bytes.unwrap_or_else(|| one.token.into_bytes()), one.logprob);
        let top = self.top_logprobs.into_iter().map(spelled).collect();
        let bytes = self.bytes.unwrap_or_else(|| self.token.into_bytes());
        TokenLogprobs { bytes, logprob: self.logprob, top }
    }
}

/// What a word for the end of an answer means; `None` for an answer that was broken off.
pub(super) fn finish_reason(word: &str) -> Option<FinishReason> {
    match word {
        "length" => Some(FinishReason::Length),
        "tool_calls" | "function_call" => Some(FinishReason::ToolCalls),
        "abort" | "error" | "cancelled" => None,
        _ => Some(FinishReason::Stop),
    }
}

/// An error as servers put it. Its words are never logged or passed on: they may quote the prompt.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Fault {
    #[serde(default)]
    message: String,
    #[serde(rename = "type")]
    kind: Option<String>,
    code: Option<serde_json::Value>,
    param: Option<String>,
    n_prompt_tokens: Option<u32>,
    n_ctx: Option<u32>,
}

/// Fields that a server may blame.
const FIELDS: &[&str] = &[
    "frequency_penalty",
    "logit_bias",
    "logprobs",
    "max_tokens",
    "messages",
    "min_p",
    "model",
    "parallel_tool_calls",
    "presence_penalty",
    "response_format",
    "seed",
    "stop",
    "temperature",
    "tool_choice",
    "tools",
    "top_k",
    "top_logprobs",
    "top_p",
];

impl Fault {
    /// Reads the body of a refusal: `{"error": {…}}`, or the fault itself.
    pub(super) fn read(body: &[u8]) -> Self {
        #[derive(Deserialize)]
        struct Wrapped {
            error: Fault,
        }
        let wrapped = serde_json::from_slice::<Wrapped>(body).map(|wrapped| wrapped.error);
        wrapped.or_else(|_| serde_json::from_slice(body)).unwrap_or_default()
    }

    /// Where the request does not fit: the tokens of its prompt and of the context, as far as they are told.
    pub(super) fn too_long(&self) -> Option<TooLong> {
        let code = self.code.as_ref().and_then(serde_json::Value::as_str).unwrap_or_default();
        let kind = self.kind.as_deref().unwrap_or_default();
        let message = self.message.to_lowercase();
        let said =
            ["context length", "context size", "maximum context", "context window", "maximum model length"];
        let is = kind == "exceed_context_size_error"
            || code == "context_length_exceeded"
            || said.iter().any(|words| message.contains(words));
        is.then(|| TooLong {
            prompt: self.n_prompt_tokens.or_else(|| {
                ["your request has", "you requested", "the prompt contains", "prompt has"]
                    .iter()
                    .find_map(|words| number_after(&message, words))
            }),
            context: self.n_ctx.or_else(|| {
                ["context length is", "context size is", "context length of", "context length:"]
                    .iter()
                    .find_map(|words| number_after(&message, words))
            }),
            // The prompt fits, and the answer that was asked for does not.
            answer_alone: message.contains("max_tokens") && message.contains("too large"),
        })
    }

    /// The field that is to blame, where the server names one that is known.
    pub(super) fn field(&self) -> Option<&'static str> {
        let named = |field: &&&str| self.param.as_deref() == Some(**field);
        FIELDS.iter().find(named).copied()
    }
}

/// What does not fit a server's context.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct TooLong {
    pub(super) prompt: Option<u32>,
    pub(super) context: Option<u32>,
    pub(super) answer_alone: bool,
}

/// The number that a text has next after some words.
fn number_after(text: &str, words: &str) -> Option<u32> {
    let (_, rest) = text.split_once(words)?;
    let digits = rest.trim_start().split(|letter: char| !letter.is_ascii_digit()).next()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words(stream: &[u8], cut: usize) -> (String, bool) {
        let mut events = Events::default();
        let (mut text, mut done) = (String::new(), false);
        for bytes in stream.chunks(cut) {
            events.push(bytes);
            while let Some(event) = events.next().unwrap() {
                match event {
                    Event::Piece(piece) => {
                        let choice = piece.choices.into_iter().next();
                        text.push_str(&choice.and_then(|choice| choice.delta.content).unwrap_or_default());
                    }
                    Event::Done => done = true,
                }
            }
        }
        (text, done)
    }

    const STREAM: &str = ": a comment\r\n\r\nevent: x\ndata: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"Pa\"}}]}\r\n\r\n\
        data:{\"choices\":[{\"delta\":{\"content\":\"ris é\"},\"finish_reason\":\"stop\"}]}\n\ndata: {\"choices\":[],\"usage\":{}}\n\ndata: [DONE]\n\n";

    proptest! {
        #[test]
        fn the_cut_into_packets_changes_nothing(cut in 1_usize..200) {
            prop_assert_eq!(words(STREAM.as_bytes(), cut), ("Paris é".to_owned(), true));
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let mut events = Events::default();
            events.push(&bytes);
            while let Ok(Some(_)) = events.next() {}
            let _ = Fault::read(&bytes).too_long();
        }
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let mut events = Events::default();
        events.push(&vec![b'x'; MAX_LINE + 1]);
        assert_eq!(events.next().unwrap_err(), NotAStream);
    }

    fn too_long(prompt: Option<u32>, context: Option<u32>, answer_alone: bool) -> Option<TooLong> {
        Some(TooLong { prompt, context, answer_alone })
    }

    #[test]
    fn each_servers_word_for_a_long_prompt_is_understood() {
        let vllm = br#"{"object":"error","message":"This model's maximum context length is 2048 tokens. However, you requested 2100 tokens.","type":"BadRequestError","code":400}"#;
        assert_eq!(Fault::read(vllm).too_long(), too_long(Some(2100), Some(2048), false));
        let answer = br#"{"error":{"message":"'max_tokens' or 'max_completion_tokens' is too large: 512. This model's maximum context length is 2048 tokens and your request has 1600 input tokens (512 > 2048 - 1600)."}}"#;
        assert_eq!(Fault::read(answer).too_long(), too_long(Some(1600), Some(2048), true));
        let llama = br#"{"error":{"code":400,"message":"the request exceeds the available context size","type":"exceed_context_size_error","n_prompt_tokens":900,"n_ctx":512}}"#;
        assert_eq!(Fault::read(llama).too_long(), too_long(Some(900), Some(512), false));
        let openai = br#"{"error":{"message":"too long","code":"context_length_exceeded"}}"#;
        assert_eq!(Fault::read(openai).too_long(), too_long(None, None, false));
        let other = br#"{"error":{"message":"no","param":"temperature"}}"#;
        assert_eq!((Fault::read(other).too_long(), Fault::read(other).field()), (None, Some("temperature")));
        assert_eq!(Fault::read(b"<html>").field(), None);
    }
}
