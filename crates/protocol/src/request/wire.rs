//! The request as it stands in the JSON, and how it becomes a [`PromptRequest`].

use serde_json::Value;

use super::{
    CallField, FunctionField, PromptRequest, RequestMessage, RequestPrompt, ResponseFormat, SamplingFields,
    ToolChoiceField, ToolFields,
};
use crate::{error::RequestError, seal::Words, v2::json::AnObject};

mod fields;

use fields::{
    ChoiceWord, Content, OneOrMany, WireCall, WireChoice, WireFormat, WireFunction, WireMessage, WireTool,
};
pub(super) use fields::{Op, WireRequest};

/// What a refusal may name: a client's own words never stand in one.
pub(super) const FIELDS: &[&str] = &[
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

impl WireRequest {
    pub(super) fn refuse_unsupported(&self) -> Result<(), RequestError> {
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

    pub(super) fn read(mut self) -> Result<PromptRequest, RequestError> {
        let sampling = self.sampling()?;
        let logprobs = self.logprobs()?;
        let stop = many(self.stop.take());
        if stop.len() > MAX_STOPS || stop.iter().any(|text| text.is_empty() || text.len() > MAX_STOP_LEN) {
            return Err(RequestError::Invalid("stop"));
        }
        let format = match self.response_format.take() {
            None | Some(WireFormat::Text) => ResponseFormat::Text,
            Some(WireFormat::JsonObject { schema: Some(_) }) => {
                return Err(RequestError::Unsupported("response_format json_object with a schema"));
            }
            Some(WireFormat::JsonObject { schema: None }) => ResponseFormat::JsonObject,
            Some(WireFormat::JsonSchema { json_schema }) => {
                ResponseFormat::JsonSchema(Words::from(json_schema.schema.to_string()))
            }
        };
        let tools = self.tools()?;
        // More than any context holds is capped to it like anything else that is too much.
        let most = self.max_completion_tokens.or(self.max_tokens);
        if most == Some(0) {
            let newer = self.max_completion_tokens.is_some();
            return Err(RequestError::Invalid(if newer { "max_completion_tokens" } else { "max_tokens" }));
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
        let AnObject(tool): AnObject<WireTool> = serde_json::from_value(definition).map_err(|_| INVALID)?;
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
