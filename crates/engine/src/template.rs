//! A conversation in the words that its model was trained on: the chat template inside the GGUF.
//!
//! The template is Jinja, written by whoever made the file, so it runs with fuel. What users say must not be
//! able to speak as the template does: the template is rendered with a random marker in the place of every
//! content, and the text around the markers alone is tokenised with control tokens. Of functions and calls, the
//! words of letters, digits, `_` and `-` alone stand as they are, for templates look at them; every other string
//! is a marker too.

use std::io::{self, Write};

use minijinja::{
    Environment, ErrorKind, Value, context,
    syntax::SyntaxConfig,
    value::{Kwargs, Serde},
};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde::Serialize as _;
use serde_json::{
    Serializer, Value as Json, json,
    ser::{Formatter, PrettyFormatter},
};

use crate::{Failure, Message, ToolDefinition, tools::ToolSyntax};

/// Instructions that a template may use up. The largest in the wild take a few thousand.
const FUEL: u64 = 1_000_000;

/// What a model without a template gets: ChatML.
const CHATML: &str = "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n\
                      {% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// A piece of a rendered conversation.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Piece {
    /// The template's own words, in which control tokens count.
    Markup(String),
    /// What message number so-and-so says.
    Content(usize),
    /// Other words of the client's: of a function's description, of a call's arguments.
    Extra(String),
}

/// A model's chat template.
pub(crate) struct Template {
    environment: Environment<'static>,
    bos: String,
    eos: String,
    tools: Option<ToolSyntax>,
}

/// The GGUF's chat template is not Jinja.
#[derive(Debug, thiserror::Error)]
#[error("the model's chat template cannot be read: {0}")]
pub struct InvalidTemplate(minijinja::Error);

impl Template {
    /// `source` is the GGUF's `tokenizer.chat_template`.
    pub(crate) fn new(source: Option<String>, bos: String, eos: String) -> Result<Self, InvalidTemplate> {
        let mut environment = Environment::new();
        environment.set_fuel(Some(FUEL));
        if let Ok(syntax) = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build() {
            environment.set_syntax(syntax);
        }
        environment.set_unknown_method_callback(unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<Value, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_filter("tojson", to_json);
        let source = source.unwrap_or_else(|| CHATML.to_owned());
        let tools = ToolSyntax::of(&source);
        environment.add_template_owned("chat", source).map_err(InvalidTemplate)?;
        Ok(Self { environment, bos, eos, tools })
    }

    /// How the model asks for functions to be called, where its template knows any.
    pub(crate) fn tools(&self) -> Option<ToolSyntax> {
        self.tools
    }

    /// The conversation in pieces, ready for the answer to begin. `marker` is a random word.
    pub(crate) fn render(
        &self,
        messages: &[&Message],
        tools: &[ToolDefinition],
        marker: &str,
    ) -> Result<Vec<Piece>, Failure> {
        let mut marked = Marked { marker, contents: messages.len(), extras: Vec::new() };
        let turns: Vec<Json> = (0..)
            .zip(messages)
            .map(|(number, message)| marked.turn(number, message))
            .collect::<Result<_, _>>()?;
        let tools: Vec<Json> = tools
            .iter()
            .map(|tool| Ok(marked.shield(serde_json::from_str(tool.json.as_str())?)))
            .collect::<Result<_, serde_json::Error>>()
            .map_err(|_| Failure::Invalid("tools"))?;
        let offered = if tools.is_empty() { Value::UNDEFINED } else { Value::from(Serde(&tools)) };
        let values = context! {
            messages => Value::from(Serde(&turns)),
            tools => offered,
            add_generation_prompt => true,
            bos_token => &self.bos,
            eos_token => &self.eos,
        };
        let template = self.environment.get_template("chat").map_err(|_| Failure::Template)?;
        let rendered = template.render(values).map_err(|_| Failure::Template)?;
        let pieces = marked.split(&rendered)?;
        // A template that leaves the question out would have the model answer something else.
        let asked = messages.len().checked_sub(1).ok_or(Failure::Template)?;
        let says_nothing = messages.last().is_some_and(|last| says_nothing(last));
        if says_nothing || pieces.contains(&Piece::Content(asked)) {
            Ok(pieces)
        } else {
            Err(Failure::Template)
        }
    }
}

/// Whether a turn consists of calls alone.
fn says_nothing(message: &Message) -> bool {
    message.content.as_str().is_empty() && !message.tool_calls.is_empty()
}

/// The client's words with markers in their place.
struct Marked<'a> {
    marker: &'a str,
    /// How many messages there are; numbers from there on are `extras`.
    contents: usize,
    extras: Vec<String>,
}

impl Marked<'_> {
    fn turn(&mut self, number: usize, message: &Message) -> Result<Json, Failure> {
        let content =
            if says_nothing(message) { String::new() } else { format!("{}{number:08}", self.marker) };
        let mut turn = json!({ "role": message.role.as_str(), "content": content });
        let Some(fields) = turn.as_object_mut() else { return Err(Failure::Template) };
        if let Some(id) = &message.tool_call_id {
            fields.insert("tool_call_id".to_owned(), self.shield(Json::from(id.as_str())));
        }
        if !message.tool_calls.is_empty() {
            let calls = message.tool_calls.iter().map(|call| {
                let arguments = call.arguments.as_str();
                // Templates write the arguments themselves and want an object; what is none stays a string.
                let arguments = serde_json::from_str(arguments).unwrap_or_else(|_| Json::from(arguments));
                self.shield(json!({
                    "type": "function",
                    "id": call.id,
                    "function": { "name": call.name, "arguments": arguments },
                }))
            });
            let calls: Vec<Json> = calls.collect();
            fields.insert("tool_calls".to_owned(), Json::from(calls));
        }
        Ok(turn)
    }

    /// Puts markers in the place of all words that could hold a control token.
    fn shield(&mut self, value: Json) -> Json {
        match value {
            Json::String(text) => Json::String(self.shield_text(text)),
            Json::Array(items) => items.into_iter().map(|item| self.shield(item)).collect(),
            Json::Object(fields) => {
                fields.into_iter().map(|(name, value)| (self.shield_text(name), self.shield(value))).collect()
            }
            plain @ (Json::Null | Json::Bool(_) | Json::Number(_)) => plain,
        }
    }

    fn shield_text(&mut self, text: String) -> String {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if text.bytes().all(plain) {
            return text;
        }
        let number = self.contents.saturating_add(self.extras.len());
        self.extras.push(text);
        format!("{}{number:08}", self.marker)
    }

    fn split(&self, rendered: &str) -> Result<Vec<Piece>, Failure> {
        let mut parts = rendered.split(self.marker);
        let first = parts.next().unwrap_or_default();
        let mut quoted = first.ends_with('"');
        let mut pieces = vec![Piece::Markup(first.to_owned())];
        for part in parts {
            let (number, markup) = part.split_at_checked(8).ok_or(Failure::Template)?;
            let number: usize = number.parse().map_err(|_| Failure::Template)?;
            pieces.push(match number.checked_sub(self.contents) {
                None => Piece::Content(number),
                Some(extra) => {
                    let text = self.extras.get(extra).ok_or(Failure::Template)?;
                    Piece::Extra(if quoted { escaped(text) } else { text.clone() })
                }
            });
            quoted = markup.ends_with('"');
            pieces.push(Piece::Markup(markup.to_owned()));
        }
        pieces.retain(|piece| *piece != Piece::Markup(String::new()));
        Ok(pieces)
    }
}

/// Text as it stands between the quotes of a JSON string.
fn escaped(text: &str) -> String {
    let quoted = Json::from(text).to_string();
    quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default().to_owned()
}

/// Jinja's `tojson` as transformers defines it for chat templates: Python's `json.dumps`, nothing escaped for
/// HTML.
fn to_json(value: &Value, options: Kwargs) -> Result<String, minijinja::Error> {
    let failed = |_| minijinja::Error::from(ErrorKind::BadSerialization);
    let indent: Option<usize> = options.get("indent")?;
    for ignored in ["ensure_ascii", "separators", "sort_keys"] {
        let _: Option<Value> = options.get(ignored)?;
    }
    options.assert_all_used()?;
    let mut json = Vec::new();
    match indent {
        Some(width) => {
            let width = " ".repeat(width.min(16));
            let pretty = PrettyFormatter::with_indent(width.as_bytes());
            value.serialize(&mut Serializer::with_formatter(&mut json, pretty)).map_err(failed)?;
        }
        None => value.serialize(&mut Serializer::with_formatter(&mut json, OneLine)).map_err(failed)?,
    }
    String::from_utf8(json).map_err(|_| ErrorKind::BadSerialization.into())
}

/// A space after each comma and colon.
struct OneLine;

impl Formatter for OneLine {
    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.begin_array_value(writer, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

impl std::fmt::Debug for Template {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Template").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Role, Text, ToolCall};

    const MARK: &str = "zMARKz";

    fn messages(roles: &[Role]) -> Vec<Message> {
        roles.iter().map(|role| Message::new(*role, "<|im_end|>")).collect()
    }

    fn render(
        template: &Template,
        messages: &[Message],
        tools: &[ToolDefinition],
    ) -> Result<Vec<Piece>, Failure> {
        template.render(&messages.iter().collect::<Vec<_>>(), tools, MARK)
    }

    fn template(source: Option<&str>) -> Template {
        Template::new(source.map(str::to_owned), "<s>".into(), "</s>".into()).unwrap()
    }

    #[test]
    fn what_users_say_is_not_in_the_markup() {
        let pieces = render(&template(None), &messages(&[Role::System, Role::User]), &[]).unwrap();
        let expected = [
            Piece::Markup("<|im_start|>system\n".into()),
            Piece::Content(0),
            Piece::Markup("<|im_end|>\n<|im_start|>user\n".into()),
            Piece::Content(1),
            Piece::Markup("<|im_end|>\n<|im_start|>assistant\n".into()),
        ];
        assert_eq!(pieces, expected);
    }

    #[test]
    fn python_methods_and_exceptions_work() {
        let source = "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}\
                      {% for m in messages %}[{{ m['role'].upper() }}] {{ m['content'].strip() }}{% endfor %}";
        let pieces = render(&template(Some(source)), &messages(&[Role::User]), &[]).unwrap();
        assert_eq!(pieces, [Piece::Markup("<s>[USER] ".into()), Piece::Content(0)]);
        let refused = render(&template(Some(source)), &messages(&[Role::System, Role::User]), &[]);
        assert_eq!(refused, Err(Failure::Template));
    }

    #[test]
    fn a_template_that_never_ends_runs_out_of_fuel() {
        let source = "{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}";
        assert_eq!(render(&template(Some(source)), &messages(&[Role::User]), &[]), Err(Failure::Template));
    }

    #[test]
    fn a_template_that_drops_the_question_is_refused() {
        assert_eq!(render(&template(Some("hello")), &messages(&[Role::User]), &[]), Err(Failure::Template));
        assert_eq!(render(&template(None), &[], &[]), Err(Failure::Template));
    }

    #[test]
    fn what_clients_say_of_functions_is_not_in_the_markup() {
        let source = "{% for tool in tools %}{{ tool | tojson }}{% endfor %}<tool_call>\
                      {% for m in messages %}{{ m.content }}{% for call in m.tool_calls %}{{ call.function.arguments | tojson }}\
                      {% endfor %}{% endfor %}";
        let json =
            r#"{"type": "function", "function": {"name": "look_up", "description": "say \"<|im_end|>\""}}"#;
        let tool = ToolDefinition { name: "look_up".into(), json: json.into(), parameters: None };
        let call = ToolCall {
            id: "1".into(),
            name: "look_up".into(),
            arguments: Text::from(r#"{"<s>": ["a b", 1]}"#),
        };
        let said = Message { tool_calls: vec![call], ..Message::new(Role::Assistant, "") };
        let asked = Message { tool_call_id: Some("1".into()), ..Message::new(Role::Tool, "[INST]") };
        let pieces = render(&template(Some(source)), &[said, asked], &[tool]).unwrap();
        let expected = [
            Piece::Markup(r#"{"type": "function", "function": {"name": "look_up", "description": ""#.into()),
            Piece::Extra(r#"say \"<|im_end|>\""#.into()),
            Piece::Markup("\"}}<tool_call>{\"".into()),
            Piece::Extra("<s>".into()),
            Piece::Markup("\": [\"".into()),
            Piece::Extra("a b".into()),
            Piece::Markup("\", 1]}".into()),
            Piece::Content(1),
        ];
        assert_eq!(pieces, expected);
    }
}
