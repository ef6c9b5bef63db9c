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
    logprobs: Option<Logprobs>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Delta {
    pub(super) content: Option<String>,
    #[serde(alias = "reasoning")]
    pub(super) reasoning_content: Option<String>,
    pub(super) tool_calls: Option<Vec<CallPart>>,
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

/// What a word for the end of an answer means.
pub(super) fn finish_reason(word: &str) -> FinishReason {
    match word {
        "length" => FinishReason::Length,
        "tool_calls" | "function_call" => FinishReason::ToolCalls,
        _ => FinishReason::Stop,
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

    /// Where the prompt does not fit: its tokens and the context's, as far as they are told.
    pub(super) fn too_long(&self) -> Option<(Option<u32>, Option<u32>)> {
        let code = self.code.as_ref().and_then(serde_json::Value::as_str).unwrap_or_default();
        let kind = self.kind.as_deref().unwrap_or_default();
        let message = self.message.to_lowercase();
        let said =
            ["context length", "context size", "maximum context", "context window", "maximum model length"];
        let is = kind == "exceed_context_size_error"
            || code == "context_length_exceeded"
            || said.iter().any(|words| message.contains(words));
        is.then(|| {
            let numbers = numbers(&message);
            let context = self.n_ctx.or_else(|| numbers.first().copied());
            (self.n_prompt_tokens.or_else(|| numbers.get(1).copied()), context)
        })
    }

    /// The field that is to blame, where the server names one that is known.
    pub(super) fn field(&self) -> Option<&'static str> {
        let named = |field: &&&str| self.param.as_deref() == Some(**field);
        FIELDS.iter().find(named).copied()
    }
}

/// Numbers in a text, as vLLM writes the context's length and then the prompt's.
fn numbers(text: &str) -> Vec<u32> {
    text.split(|letter: char| !letter.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
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

    #[test]
    fn each_servers_word_for_a_long_prompt_is_understood() {
        let vllm = br#"{"object":"error","message":"This model's maximum context length is 2048 tokens. However, you requested 2100 tokens.","type":"BadRequestError","code":400}"#;
        assert_eq!(Fault::read(vllm).too_long(), Some((Some(2100), Some(2048))));
        let llama = br#"{"error":{"code":400,"message":"the request exceeds the available context size","type":"exceed_context_size_error","n_prompt_tokens":900,"n_ctx":512}}"#;
        assert_eq!(Fault::read(llama).too_long(), Some((Some(900), Some(512))));
        let openai = br#"{"error":{"message":"too long","code":"context_length_exceeded"}}"#;
        assert_eq!(Fault::read(openai).too_long(), Some((None, None)));
        let other = br#"{"error":{"message":"no","param":"temperature"}}"#;
        assert_eq!((Fault::read(other).too_long(), Fault::read(other).field()), (None, Some("temperature")));
        assert_eq!(Fault::read(b"<html>").field(), None);
    }
}
