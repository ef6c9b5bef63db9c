//! The input of a request: a text, or items, which become the messages of a conversation.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::proxy::fault::Fault;

#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Input {
    Text(String),
    Items(Vec<Value>),
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Item {
    Message {
        role: Speaker,
        content: Content,
    },
    FunctionCall {
        call_id: String,
        name: String,
        arguments: String,
    },
    FunctionCallOutput {
        call_id: String,
        output: Content,
    },
    /// What the model said to itself in an earlier turn: not said to it again.
    Reasoning {},
}

#[derive(Clone, Copy, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Speaker {
    User,
    Assistant,
    System,
    /// What `system` is called in this API.
    Developer,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Value>),
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Part {
    InputText { text: String },
    OutputText { text: String },
}

impl Content {
    fn into_words(self) -> Result<String, String> {
        match self {
            Self::Text(text) => Ok(text),
            Self::Parts(parts) => parts
                .into_iter()
                .map(|part| match serde_json::from_value(part) {
                    Ok(Part::InputText { text } | Part::OutputText { text }) => Ok(text),
                    Err(error) => Err(format!("only parts of text are served here: {error}")),
                })
                .collect(),
        }
    }
}

impl Item {
    /// A message needs no `type`.
    fn read(mut item: Value) -> Result<Self, String> {
        if let Some(item) = item.as_object_mut().filter(|item| item.contains_key("role")) {
            item.entry("type").or_insert_with(|| "message".into());
        }
        serde_json::from_value(item).map_err(|error| error.to_string())
    }

    fn add_to(self, messages: &mut Vec<Value>) -> Result<(), String> {
        match self {
            Self::Message { role, content } => {
                let role = match role {
                    Speaker::User => "user",
                    Speaker::Assistant => "assistant",
                    Speaker::System | Speaker::Developer => "system",
                };
                messages.push(json!({"role": role, "content": content.into_words()?}));
            }
            Self::FunctionCall { call_id, name, arguments } => {
                let function = json!({"name": name, "arguments": arguments});
                add_call(messages, json!({"id": call_id, "type": "function", "function": function}));
            }
            Self::FunctionCallOutput { call_id, output } => {
                let output = output.into_words()?;
                messages.push(json!({"role": "tool", "tool_call_id": call_id, "content": output}));
            }
            Self::Reasoning {} => {}
        }
        Ok(())
    }
}

/// Items of one turn are one message there: what was said, and all the calls.
fn add_call(messages: &mut Vec<Value>, call: Value) {
    let said = messages.last_mut().filter(|last| last.get("role").is_some_and(|role| role == "assistant"));
    let Some(said) = said.and_then(Value::as_object_mut) else {
        messages.push(json!({"role": "assistant", "content": null, "tool_calls": [call]}));
        return;
    };
    if let Some(calls) = said.entry("tool_calls").or_insert_with(|| json!([])).as_array_mut() {
        calls.push(call);
    }
}

impl Input {
    pub(super) fn into_messages(self, instructions: Option<String>) -> Result<Vec<Value>, Fault> {
        let mut messages = Vec::new();
        if let Some(instructions) = instructions {
            messages.push(json!({"role": "system", "content": instructions}));
        }
        match self {
            Self::Text(text) => messages.push(json!({"role": "user", "content": text})),
            Self::Items(items) => {
                for (at, item) in items.into_iter().enumerate() {
                    Item::read(item)
                        .and_then(|item| item.add_to(&mut messages))
                        .map_err(|what| Fault::invalid(format!("input[{at}]: {what}")))?;
                }
            }
        }
        Ok(join_leading(messages))
    }
}

/// Instructions and what the input begins with for the system are one message: chat templates know one.
fn join_leading(messages: Vec<Value>) -> Vec<Value> {
    let is_system = |message: &Value| message.get("role").is_some_and(|role| role == "system");
    let leading = messages.iter().take_while(|message| is_system(message)).count();
    if leading < 2 {
        return messages;
    }
    let words = messages.iter().take(leading).filter_map(|message| message.get("content")?.as_str());
    let words = words.collect::<Vec<_>>().join("\n\n");
    let first = json!({"role": "system", "content": words});
    std::iter::once(first).chain(messages.into_iter().skip(leading)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(items: Value, instructions: Option<&str>) -> Result<Vec<Value>, Fault> {
        let input: Input = serde_json::from_value(items).unwrap();
        input.into_messages(instructions.map(str::to_owned))
    }

    #[test]
    fn items_become_messages_and_the_calls_of_a_turn_one() {
        let items = json!([
            {"role": "developer", "content": "In French."},
            {"role": "user", "content": [{"type": "input_text", "text": "How "}, {"type": "input_text", "text": "warm?"}]},
            {"type": "reasoning", "id": "rs_1", "summary": [], "content": []},
            {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant",
             "content": [{"type": "output_text", "text": "Wait.", "annotations": []}]},
            {"type": "function_call", "id": "fc_1", "call_id": "a", "name": "f", "arguments": "{}", "status": "completed"},
            {"type": "function_call", "call_id": "b", "name": "g", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "a", "output": "7"},
            {"type": "function_call_output", "call_id": "b", "output": [{"type": "input_text", "text": "8"}]},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}]);
        let call = |id: &str, name: &str| {
            let function = json!({"name": name, "arguments": "{}"});
            json!({"id": id, "type": "function", "function": function})
        };
        let expected = [
            json!({"role": "system", "content": "Be brief.\n\nIn French."}),
            json!({"role": "user", "content": "How warm?"}),
            json!({"role": "assistant", "content": "Wait.", "tool_calls": [call("a", "f"), call("b", "g")]}),
            json!({"role": "tool", "tool_call_id": "a", "content": "7"}),
            json!({"role": "tool", "tool_call_id": "b", "content": "8"}),
            json!({"role": "assistant", "content": null, "tool_calls": [call("c", "f")]}),
        ];
        assert_eq!(messages(items, Some("Be brief.")).unwrap(), expected);
    }

    #[test]
    fn an_item_that_is_not_served_is_named_by_its_place() {
        for item in [
            json!({"type": "item_reference", "id": "msg_1"}),
            json!({"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}),
            json!({"role": "tool", "content": "x"}),
            json!({"type": "function_call", "call_id": "a", "name": "f"}),
            json!("x"),
        ] {
            let fault = messages(json!([{"role": "user", "content": "Hi"}, item]), None).unwrap_err();
            let said = fault.to_json()["error"]["message"].to_string();
            assert!(said.contains("input[1]"), "{said}");
        }
    }
}
