//! A request of Anthropic's, and how it becomes one of OpenAI's.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::proxy::fault::Fault;

/// The request. A field that is not here is refused by its name: it would change the answer.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    pub(super) model: String,
    max_tokens: u32,
    messages: Vec<Message>,
    system: Option<Content>,
    stop_sequences: Option<Vec<String>>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    top_k: Option<u64>,
    pub(super) stream: Option<bool>,
    tools: Option<Vec<Tool>>,
    #[serde(rename = "thinking")]
    _thinking: Option<Thinking>,
    tool_choice: Option<ToolChoice>,
    /// Who asks, for the servers of its inventor.
    #[serde(rename = "metadata")]
    _metadata: Option<serde::de::IgnoredAny>,
    #[serde(rename = "service_tier")]
    _service_tier: Option<serde::de::IgnoredAny>,
}

/// To think less than a model does of itself is not to be had; not to ask it to is.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Thinking {
    Disabled {},
}

#[derive(Deserialize)]
struct Message {
    role: Speaker,
    content: Content,
}

#[derive(Clone, Copy, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Speaker {
    User,
    Assistant,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Blocks(Vec<Block>),
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Block {
    Text {
        text: String,
    },
    ToolUse {
        id: String,
        name: String,
        input: Value,
    },
    ToolResult {
        tool_use_id: String,
        content: Option<Content>,
        #[serde(default)]
        is_error: bool,
    },
    /// What the model said to itself in an earlier turn: not said to it again.
    Thinking {},
}

#[derive(Deserialize)]
struct Tool {
    name: String,
    description: Option<String>,
    input_schema: Value,
}

#[derive(Deserialize)]
struct ToolChoice {
    #[serde(rename = "type")]
    kind: Choice,
    name: Option<String>,
    #[serde(default)]
    disable_parallel_tool_use: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Choice {
    Auto,
    Any,
    None,
    Tool,
}

impl Content {
    /// The words of blocks that may hold nothing else.
    fn into_words(self) -> Result<String, Fault> {
        let blocks = match self {
            Self::Text(text) => return Ok(text),
            Self::Blocks(blocks) => blocks,
        };
        let words = blocks.into_iter().map(|block| match block {
            Block::Text { text } => Ok(text),
            Block::ToolUse { .. } | Block::ToolResult { .. } | Block::Thinking {} => {
                Err(Fault::invalid("only text blocks may stand here"))
            }
        });
        words.collect()
    }
}

impl Message {
    /// One message of Anthropic's may be several of OpenAI's: results of tools stand alone there.
    fn into_openai(self, messages: &mut Vec<Value>) -> Result<(), Fault> {
        let role = match self.role {
            Speaker::User => "user",
            Speaker::Assistant => "assistant",
        };
        let blocks = match self.content {
            Content::Text(text) => {
                messages.push(json!({"role": role, "content": text}));
                return Ok(());
            }
            Content::Blocks(blocks) => blocks,
        };
        let (mut words, mut calls) = (String::new(), Vec::new());
        for block in blocks {
            match block {
                Block::Text { text } => words.push_str(&text),
                Block::ToolUse { id, name, input } if self.role == Speaker::Assistant => {
                    let function = json!({"name": name, "arguments": input.to_string()});
                    calls.push(json!({"id": id, "type": "function", "function": function}));
                }
                Block::ToolResult { tool_use_id, content, is_error } if self.role == Speaker::User => {
                    let result = content.map_or_else(|| Ok(String::new()), Content::into_words)?;
                    let result = if is_error { format!("error: {result}") } else { result };
                    messages.push(json!({"role": "tool", "tool_call_id": tool_use_id, "content": result}));
                }
                Block::ToolUse { .. } | Block::ToolResult { .. } => {
                    return Err(Fault::invalid("tool_use is the assistant's, tool_result the user's"));
                }
                Block::Thinking {} => {}
            }
        }
        if !words.is_empty() || !calls.is_empty() {
            let mut message = json!({"role": role, "content": words});
            if let Some(message) = message.as_object_mut().filter(|_| !calls.is_empty()) {
                message.insert("tool_calls".into(), calls.into());
            }
            messages.push(message);
        }
        Ok(())
    }
}

impl Asked {
    pub(super) fn into_openai(self) -> Result<String, Fault> {
        let mut messages = Vec::new();
        if let Some(system) = self.system {
            messages.push(json!({"role": "system", "content": system.into_words()?}));
        }
        for message in self.messages {
            message.into_openai(&mut messages)?;
        }
        let mut body = Map::new();
        body.insert("model".into(), self.model.into());
        body.insert("messages".into(), messages.into());
        body.insert("max_tokens".into(), self.max_tokens.into());
        let numbers = [
            ("temperature", json!(self.temperature)),
            ("top_p", json!(self.top_p)),
            ("top_k", json!(self.top_k)),
        ];
        for (name, value) in numbers {
            if !value.is_null() {
                body.insert(name.into(), value);
            }
        }
        if let Some(stop) = self.stop_sequences.filter(|stop| !stop.is_empty()) {
            body.insert("stop".into(), stop.into());
        }
        if let Some(tools) = self.tools.filter(|tools| !tools.is_empty()) {
            let tools = tools.into_iter().map(Tool::into_openai);
            body.insert("tools".into(), tools.collect());
        }
        if let Some(choice) = self.tool_choice {
            if choice.disable_parallel_tool_use {
                body.insert("parallel_tool_calls".into(), false.into());
            }
            body.insert("tool_choice".into(), choice.into_openai()?);
        }
        Ok(Value::from(body).to_string())
    }
}

impl Tool {
    fn into_openai(self) -> Value {
        let mut function = json!({"name": self.name, "parameters": self.input_schema});
        if let (Some(function), Some(description)) = (function.as_object_mut(), self.description) {
            function.insert("description".into(), description.into());
        }
        json!({"type": "function", "function": function})
    }
}

impl ToolChoice {
    fn into_openai(self) -> Result<Value, Fault> {
        Ok(match self.kind {
            Choice::Auto => "auto".into(),
            Choice::Any => "required".into(),
            Choice::None => "none".into(),
            Choice::Tool => {
                let name = self.name.ok_or_else(|| Fault::invalid("tool_choice.name is missing"))?;
                json!({"type": "function", "function": {"name": name}})
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn openai(asked: Value) -> Result<Value, Fault> {
        let asked: Asked =
            serde_json::from_value(asked).map_err(|error| Fault::invalid(error.to_string()))?;
        Ok(serde_json::from_str(&asked.into_openai()?).unwrap())
    }

    #[test]
    fn a_request_becomes_openais() {
        let asked = json!({
            "model": "m", "max_tokens": 5, "system": [{"type": "text", "text": "Be brief."}], "stop_sequences": ["."],
            "temperature": 0.5, "top_k": 3, "metadata": {"user_id": "x"},
            "tools": [{"name": "f", "description": "d", "input_schema": {"type": "object"}}],
            "tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": true},
            "messages": [
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": [
                    {"type": "thinking", "thinking": "hm", "signature": ""},
                    {"type": "text", "text": "Wait."},
                    {"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1}}]},
                {"role": "user", "content": [
                    {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text", "text": "7"}], "is_error": true},
                    {"type": "text", "text": "And?"}]}]});
        let expected = json!({
            "model": "m", "max_tokens": 5, "stop": ["."], "temperature": 0.5, "top_k": 3,
            "tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}],
            "tool_choice": {"type": "function", "function": {"name": "f"}}, "parallel_tool_calls": false,
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Wait.", "tool_calls": [
                    {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{\"x\":1}"}}]},
                {"role": "tool", "tool_call_id": "a", "content": "error: 7"},
                {"role": "user", "content": "And?"}]});
        assert_eq!(openai(asked).unwrap(), expected);
    }

    #[test]
    fn what_would_change_the_answer_is_not_passed_over() {
        let base = json!({"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}]});
        let mut plain = base.clone();
        for (field, value) in [
            ("thinking", json!({"type": "disabled"})),
            ("stream", Value::Null),
            ("tools", Value::Null),
            ("stop_sequences", json!([])),
        ] {
            plain[field] = value;
        }
        assert_eq!(openai(plain).unwrap(), base);
        for (field, value) in [
            ("thinking", json!({"type": "enabled"})),
            ("messages", json!([{"role": "user", "content": [{"type": "image", "source": {}}]}])),
            (
                "messages",
                json!([{"role": "user", "content": [{"type": "tool_use", "id": "", "name": "", "input": {}}]}]),
            ),
            ("messages", json!([{"role": "system", "content": "Hi"}])),
            ("tool_choice", json!({"type": "tool"})),
            ("max_tokens", Value::Null),
        ] {
            let mut asked = base.clone();
            asked[field] = value;
            assert!(openai(asked.clone()).is_err(), "{asked}");
        }
    }
}
