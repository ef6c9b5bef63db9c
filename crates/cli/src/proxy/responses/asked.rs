//! A request of OpenAI's Responses API, and how it becomes one of chat completions.

use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Map, Value, json};

use super::input;
use crate::proxy::fault::Fault;

/// The request. A field that is not here is refused by its name: it would change the answer.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Asked {
    pub(super) model: Option<String>,
    pub(super) stream: Option<bool>,
    input: Option<input::Input>,
    instructions: Option<String>,
    max_output_tokens: Option<u32>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    tools: Option<Vec<Value>>,
    tool_choice: Option<Value>,
    parallel_tool_calls: Option<bool>,
    text: Option<Text>,
    metadata: Option<Map<String, Value>>,
    truncation: Option<String>,
    background: Option<bool>,
    /// Nothing is kept, whatever is asked for here: the answer says so.
    #[serde(rename = "store")]
    _store: Option<bool>,
    // What is served only where it is not asked for.
    include: Option<Vec<IgnoredAny>>,
    reasoning: Option<Map<String, Value>>,
    top_logprobs: Option<u32>,
    previous_response_id: Option<IgnoredAny>,
    conversation: Option<IgnoredAny>,
    prompt: Option<IgnoredAny>,
    max_tool_calls: Option<IgnoredAny>,
    // For the servers of its inventor: who asks, at what price, and how the events are to be padded.
    #[serde(rename = "user")]
    _user: Option<IgnoredAny>,
    #[serde(rename = "safety_identifier")]
    _safety_identifier: Option<IgnoredAny>,
    #[serde(rename = "prompt_cache_key")]
    _prompt_cache_key: Option<IgnoredAny>,
    #[serde(rename = "prompt_cache_retention")]
    _prompt_cache_retention: Option<IgnoredAny>,
    #[serde(rename = "service_tier")]
    _service_tier: Option<IgnoredAny>,
    #[serde(rename = "stream_options")]
    _stream_options: Option<IgnoredAny>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    format: Option<Format>,
    verbosity: Option<String>,
}

#[derive(Clone, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Format {
    Text {},
    JsonObject {},
    JsonSchema { name: String, schema: Value, strict: Option<bool>, description: Option<String> },
}

/// A tool in its flat form.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Tool {
    Function { name: String, description: Option<String>, parameters: Option<Value>, strict: Option<bool> },
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Choice {
    Word(String),
    Named(Named),
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Named {
    Function { name: String },
}

fn unserved(what: &str) -> Fault {
    Fault::invalid(format!("{what} is not served here"))
}

impl Asked {
    pub(super) fn read(body: &[u8]) -> Result<Self, Fault> {
        let asked: Self =
            serde_json::from_slice(body).map_err(|error| Fault::invalid(format!("the body: {error}")))?;
        asked.refuse_unserved()?;
        Ok(asked)
    }

    fn refuse_unserved(&self) -> Result<(), Fault> {
        // What was said before lies with the program alone.
        for (name, asked) in [
            ("previous_response_id", self.previous_response_id.is_some()),
            ("conversation", self.conversation.is_some()),
        ] {
            if asked {
                let what = format!("{name} is not served here: nothing is kept, so send the whole input");
                return Err(Fault::invalid(what));
            }
        }
        let verbose = |text: &Text| text.verbosity.as_deref().is_some_and(|verbosity| verbosity != "medium");
        let refused = [
            ("background", self.background == Some(true)),
            ("prompt", self.prompt.is_some()),
            ("max_tool_calls", self.max_tool_calls.is_some()),
            ("include", self.include.as_ref().is_some_and(|include| !include.is_empty())),
            ("top_logprobs", self.top_logprobs.is_some_and(|top| top > 0)),
            ("reasoning", self.reasoning.as_ref().is_some_and(|asked| asked.values().any(|v| !v.is_null()))),
            ("truncation", self.truncation.as_deref().is_some_and(|truncation| truncation != "disabled")),
            ("text.verbosity", self.text.as_ref().is_some_and(verbose)),
        ];
        let first = refused.into_iter().find_map(|(name, asked)| asked.then_some(name));
        first.map_or(Ok(()), |name| Err(unserved(name)))
    }

    /// What of the request every answer repeats.
    pub(super) fn echoed(&self) -> Value {
        let format = self.text.as_ref().and_then(|text| text.format.as_ref());
        json!({
            "background": false, "instructions": self.instructions, "max_output_tokens": self.max_output_tokens,
            "max_tool_calls": null, "metadata": self.metadata.clone().unwrap_or_default(),
            "parallel_tool_calls": self.parallel_tool_calls.unwrap_or(true), "previous_response_id": null,
            "reasoning": {"effort": null, "summary": null}, "service_tier": "default", "store": false,
            "temperature": self.temperature, "text": {"format": format.map_or(json!({"type": "text"}), Format::echoed)},
            "tool_choice": self.tool_choice.clone().unwrap_or_else(|| "auto".into()),
            "tools": self.tools.clone().unwrap_or_default(), "top_logprobs": 0, "top_p": self.top_p,
            "truncation": "disabled", "user": null,
        })
    }

    pub(super) fn into_chat(self) -> Result<String, Fault> {
        let Some(asked) = self.input else { return Err(Fault::invalid("input is missing")) };
        let mut body = Map::new();
        body.insert("messages".into(), asked.into_messages(self.instructions)?.into());
        let plain = [
            ("model", json!(self.model)),
            ("max_tokens", json!(self.max_output_tokens)),
            ("temperature", json!(self.temperature)),
            ("top_p", json!(self.top_p)),
            ("parallel_tool_calls", json!(self.parallel_tool_calls)),
        ];
        for (name, value) in plain {
            if !value.is_null() {
                body.insert(name.into(), value);
            }
        }
        if let Some(tools) = self.tools.filter(|tools| !tools.is_empty()) {
            let tools = tools.into_iter().map(Tool::into_chat).collect::<Result<Vec<_>, _>>()?;
            body.insert("tools".into(), tools.into());
        }
        if let Some(choice) = self.tool_choice {
            let choice = serde_json::from_value::<Choice>(choice);
            let choice = choice.map_err(|_| unserved("tool_choice of another kind than a function"))?;
            body.insert("tool_choice".into(), choice.into_chat());
        }
        if let Some(format) = self.text.and_then(|text| text.format).and_then(Format::into_chat) {
            body.insert("response_format".into(), format);
        }
        Ok(Value::from(body).to_string())
    }
}

/// `object` with the fields that are there.
fn with(mut object: Value, fields: [(&str, Value); 2]) -> Value {
    if let Some(object) = object.as_object_mut() {
        for (name, value) in fields {
            if !value.is_null() {
                object.insert(name.into(), value);
            }
        }
    }
    object
}

impl Format {
    fn echoed(&self) -> Value {
        match self {
            Self::Text {} => json!({"type": "text"}),
            Self::JsonObject {} => json!({"type": "json_object"}),
            Self::JsonSchema { name, schema, strict, description } => json!({
                "type": "json_schema", "name": name, "schema": schema, "strict": strict, "description": description}),
        }
    }

    fn into_chat(self) -> Option<Value> {
        match self {
            Self::Text {} => None,
            Self::JsonObject {} => Some(json!({"type": "json_object"})),
            Self::JsonSchema { name, schema, strict, description } => {
                let form = json!({"name": name, "schema": schema});
                let form = with(form, [("strict", json!(strict)), ("description", json!(description))]);
                Some(json!({"type": "json_schema", "json_schema": form}))
            }
        }
    }
}

impl Tool {
    fn into_chat(tool: Value) -> Result<Value, Fault> {
        let Self::Function { name, description, parameters, strict } = serde_json::from_value(tool)
            .map_err(|error| Fault::invalid(format!("tools, functions alone: {error}")))?;
        let function =
            json!({"name": name, "parameters": parameters.unwrap_or_else(|| json!({"type": "object"}))});
        let function = with(function, [("description", json!(description)), ("strict", json!(strict))]);
        Ok(json!({"type": "function", "function": function}))
    }
}

impl Choice {
    fn into_chat(self) -> Value {
        match self {
            Self::Word(word) => word.into(),
            Self::Named(Named::Function { name }) => json!({"type": "function", "function": {"name": name}}),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chat(asked: &Value) -> Result<Value, Fault> {
        Ok(serde_json::from_str(&Asked::read(asked.to_string().as_bytes())?.into_chat()?).unwrap())
    }

    #[test]
    fn a_request_becomes_one_of_chat_completions() {
        let asked = json!({
            "model": "m", "instructions": "Be brief.", "input": "Hi", "max_output_tokens": 5, "temperature": 0.5,
            "top_p": 0.9, "parallel_tool_calls": false, "store": true, "stream": true, "metadata": {"a": "b"},
            "tools": [{"type": "function", "name": "f", "description": "d", "parameters": {"type": "object"}, "strict": true}],
            "tool_choice": {"type": "function", "name": "f"},
            "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": true}}});
        let expected = json!({
            "model": "m", "max_tokens": 5, "temperature": 0.5, "top_p": 0.9, "parallel_tool_calls": false,
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
            "tools": [{"type": "function", "function":
                {"name": "f", "description": "d", "parameters": {"type": "object"}, "strict": true}}],
            "tool_choice": {"type": "function", "function": {"name": "f"}},
            "response_format": {"type": "json_schema", "json_schema":
                {"name": "n", "schema": {"type": "object"}, "strict": true}}});
        assert_eq!(chat(&asked).unwrap(), expected);
        let echoed = Asked::read(asked.to_string().as_bytes()).unwrap().echoed();
        assert_eq!((&echoed["store"], &echoed["metadata"]["a"]), (&json!(false), &json!("b")));
        assert_eq!(echoed["tools"], asked["tools"]);
        assert_eq!(echoed["text"]["format"]["schema"], json!({"type": "object"}));
    }

    #[test]
    fn what_would_change_the_answer_is_refused_by_its_name() {
        let base = json!({"input": "Hi"});
        let plain = json!({
            "input": "Hi", "background": false, "include": [], "reasoning": {"effort": null}, "top_logprobs": 0,
            "truncation": "disabled", "previous_response_id": null, "conversation": null, "tools": [], "user": "x",
            "text": {"format": {"type": "text"}, "verbosity": "medium"}, "stream_options": {"include_obfuscation": false}});
        assert_eq!(chat(&plain).unwrap(), chat(&base).unwrap());
        for (field, value) in [
            ("previous_response_id", json!("resp_1")),
            ("conversation", json!({"id": "conv_1"})),
            ("background", json!(true)),
            ("include", json!(["message.output_text.logprobs"])),
            ("reasoning", json!({"effort": "low"})),
            ("top_logprobs", json!(3)),
            ("truncation", json!("auto")),
            ("prompt", json!({"id": "p"})),
            ("max_tool_calls", json!(1)),
            ("text", json!({"verbosity": "low"})),
            ("tools", json!([{"type": "web_search"}])),
            ("tool_choice", json!({"type": "allowed_tools", "mode": "auto", "tools": []})),
            ("seed", json!(1)),
            ("input", Value::Null),
        ] {
            let mut asked = base.clone();
            asked[field] = value;
            let said = chat(&asked).unwrap_err().to_json()["error"]["message"].to_string();
            assert!(said.contains(field), "{field}: {said}");
        }
    }
}
