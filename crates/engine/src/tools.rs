//! Functions that the model asks to be called: how each family of models writes that down, and how to read it.

use serde_json::{Map, Value, json};
use zeroize::Zeroize as _;

use crate::{Text, ToolCall, ToolChoice, ToolDefinition};

/// How a model writes a call down. Found in its chat template, which shows the model its own calls.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum ToolSyntax {
    /// `<tool_call>{"name": …, "arguments": {…}}</tool_call>`, once for each call (Hermes, Qwen).
    Tagged,
    /// `[TOOL_CALLS][{"name": …, "arguments": {…}}, …]` (Mistral).
    List,
    /// `{"name": …, "parameters": {…}}` and nothing else (Llama 3).
    Bare,
}

const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";
const LIST: &str = "[TOOL_CALLS]";
const PYTHON: &str = "<|python_tag|>";

impl ToolSyntax {
    /// What a chat template says of it; `None` where it knows no tools.
    pub(crate) fn of(template: &str) -> Option<Self> {
        if !template.contains("tools") {
            None
        } else if template.contains(OPEN) {
            Some(Self::Tagged)
        } else if template.contains(LIST) {
            Some(Self::List)
        } else if template.contains("\"parameters\"") {
            Some(Self::Bare)
        } else {
            None
        }
    }

    /// What the answer begins with when a call is not left to the model.
    pub(crate) fn opening(self) -> &'static str {
        match self {
            Self::Tagged => "<tool_call>\n",
            Self::List => LIST,
            Self::Bare => "",
        }
    }

    fn arguments_key(self) -> &'static str {
        match self {
            Self::Tagged | Self::List => "arguments",
            Self::Bare => "parameters",
        }
    }

    /// The schema of what comes after the opening: one call of one of `definitions`.
    pub(crate) fn schema(self, definitions: &[&ToolDefinition]) -> Option<Value> {
        let key = self.arguments_key();
        let base = if self == Self::List { "#/items/anyOf" } else { "#/anyOf" };
        let calls = definitions.iter().enumerate().map(|(number, definition)| {
            let mut parameters = match &definition.parameters {
                Some(schema) => serde_json::from_str(schema.as_str()).ok()?,
                None => json!({ "type": "object" }),
            };
            move_references(&mut parameters, &format!("{base}/{number}/properties/{key}"));
            Some(json!({
                "type": "object",
                "properties": { "name": { "const": definition.name }, key: parameters },
                "required": ["name", key],
                "additionalProperties": false,
            }))
        });
        let calls: Vec<Value> = calls.collect::<Option<_>>()?;
        let one = json!({ "anyOf": calls });
        Some(match self {
            Self::Tagged | Self::Bare => one,
            Self::List => json!({ "type": "array", "items": one, "minItems": 1, "maxItems": 1 }),
        })
    }
}

/// References within a schema, after the schema has moved to `place` of another one.
fn move_references(schema: &mut Value, place: &str) {
    match schema {
        Value::Object(fields) => fields.iter_mut().for_each(|(name, value)| {
            if let Value::String(target) = value
                && name == "$ref"
                && let Some(path) = target.strip_prefix('#')
            {
                *target = format!("{place}{path}");
            }
            move_references(value, place);
        }),
        Value::Array(items) => items.iter_mut().for_each(|item| move_references(item, place)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The definitions among which a call that must come may choose; `None` where the choice names none of them.
pub(crate) fn eligible<'a>(
    definitions: &'a [ToolDefinition],
    choice: &ToolChoice,
) -> Option<Vec<&'a ToolDefinition>> {
    let chosen: Vec<&ToolDefinition> = match choice {
        ToolChoice::Auto => return Some(Vec::new()),
        ToolChoice::Required => definitions.iter().collect(),
        ToolChoice::Named(name) => definitions.iter().filter(|one| one.name == *name).collect(),
    };
    (!chosen.is_empty()).then_some(chosen)
}

/// What an answer says, once calls are told apart from words.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Said {
    Words(String),
    Call(ToolCall),
}

/// Reads calls out of an answer as it comes. What turns out to be no call is words.
#[derive(Debug)]
pub(crate) struct ToolReader {
    syntax: ToolSyntax,
    /// Text that is or may become a call.
    held: String,
    inside: bool,
    /// Whether the opening of the call at hand is not the model's own.
    opened_for_it: bool,
    /// Whether words other than white space came before.
    spoke: bool,
    calls: usize,
    most: usize,
    new_id: fn() -> String,
}

impl ToolReader {
    /// `forced`: the opening was said for the model. `most`: how many calls to take.
    pub(crate) fn new(syntax: ToolSyntax, forced: bool, most: usize, new_id: fn() -> String) -> Self {
        Self {
            syntax,
            held: String::new(),
            inside: forced,
            opened_for_it: forced,
            spoke: false,
            calls: 0,
            most,
            new_id,
        }
    }

    /// Whether there may be no more calls.
    pub(crate) fn is_through(&self) -> bool {
        self.calls >= self.most
    }

    /// Takes in more of the answer.
    pub(crate) fn push(&mut self, text: &str) -> Vec<Said> {
        self.held.push_str(text);
        let mut said = Vec::new();
        match self.syntax {
            ToolSyntax::Tagged => while self.read_tagged(&mut said) {},
            ToolSyntax::List => self.read_until(LIST, &mut said),
            ToolSyntax::Bare => self.read_bare(&mut said),
        }
        said
    }

    /// What is left at the end of the answer.
    pub(crate) fn finish(&mut self) -> Vec<Said> {
        let mut said = Vec::new();
        let rest = std::mem::take(&mut self.held);
        if self.inside {
            self.take_calls(&rest, "", &mut said);
        } else {
            self.speak(rest, &mut said);
        }
        said
    }

    /// Takes one step through the held text. False when more text is needed.
    fn read_tagged(&mut self, said: &mut Vec<Said>) -> bool {
        if !self.inside {
            self.read_until(OPEN, said);
            return self.inside;
        }
        let Some(at) = self.held.find(CLOSE) else { return false };
        let rest = self.held.split_off(at.saturating_add(CLOSE.len()));
        let call = std::mem::replace(&mut self.held, rest);
        self.inside = false;
        self.take_calls(call.get(..at).unwrap_or_default(), CLOSE, said);
        true
    }

    /// Lets words pass up to `opening`, and holds back what may be the begin of one.
    fn read_until(&mut self, opening: &str, said: &mut Vec<Said>) {
        if self.inside {
            return;
        }
        if let Some(at) = self.held.find(opening) {
            let rest = self.held.split_off(at.saturating_add(opening.len()));
            let mut words = std::mem::replace(&mut self.held, rest);
            words.truncate(at);
            self.inside = true;
            return self.speak(words, said);
        }
        let begins = |length: &usize| {
            opening.is_char_boundary(*length) && self.held.ends_with(opening.get(..*length).unwrap_or(" "))
        };
        let kept = (1..opening.len()).rev().find(begins).unwrap_or(0);
        let rest = self.held.split_off(self.held.len().saturating_sub(kept));
        let words = std::mem::replace(&mut self.held, rest);
        self.speak(words, said);
    }

    fn read_bare(&mut self, said: &mut Vec<Said>) {
        if self.inside {
            return;
        }
        let beginning = self.held.trim_start();
        let may_open = beginning.is_empty() || PYTHON.starts_with(beginning);
        if !self.spoke && (beginning.starts_with('{') || beginning.starts_with(PYTHON)) {
            self.inside = true;
        } else if self.spoke || !may_open {
            let words = std::mem::take(&mut self.held);
            self.speak(words, said);
        }
    }

    /// Reads calls, and takes for words what is none, with its `closing` as far as that came.
    fn take_calls(&mut self, text: &str, closing: &str, said: &mut Vec<Said>) {
        let opened_for_it = std::mem::take(&mut self.opened_for_it);
        let json = text.trim().trim_start_matches(PYTHON);
        let calls = match serde_json::from_str(json) {
            Ok(Value::Array(calls)) if self.syntax == ToolSyntax::List => calls,
            Ok(call) => vec![call],
            Err(_) => Vec::new(),
        };
        let read: Option<Vec<ToolCall>> = calls.into_iter().map(|call| self.call(call)).collect();
        match read {
            Some(calls) if !calls.is_empty() => {
                let left = self.most.saturating_sub(self.calls);
                self.calls = self.calls.saturating_add(calls.len());
                said.extend(calls.into_iter().take(left).map(Said::Call));
            }
            _ => {
                let opening = if self.syntax == ToolSyntax::Tagged && !opened_for_it { OPEN } else { "" };
                self.speak(format!("{opening}{text}{closing}"), said);
            }
        }
    }

    fn call(&self, call: Value) -> Option<ToolCall> {
        let Value::Object(mut fields) = call else { return None };
        let Some(Value::String(name)) = fields.remove("name") else { return None };
        let arguments = fields.remove("arguments").or_else(|| fields.remove("parameters"));
        let arguments = arguments.unwrap_or_else(|| Value::Object(Map::new()));
        // Some models write the JSON of the arguments as a string.
        let arguments = arguments.as_str().map_or_else(|| arguments.to_string(), str::to_owned);
        Some(ToolCall { id: (self.new_id)(), name, arguments: Text::from(arguments) })
    }

    /// White space around calls is the syntax's, not the answer's.
    fn speak(&mut self, words: String, said: &mut Vec<Said>) {
        let blank = words.trim().is_empty();
        if words.is_empty() || (blank && (self.calls > 0 || self.inside)) {
            return;
        }
        self.spoke |= !blank;
        said.push(Said::Words(words));
    }
}

impl Drop for ToolReader {
    fn drop(&mut self) {
        self.held.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(syntax: ToolSyntax, forced: bool, pieces: &[&str]) -> (String, Vec<(String, String)>) {
        let mut reader = ToolReader::new(syntax, forced, usize::MAX, || "id".to_owned());
        let mut said: Vec<Said> = pieces.iter().flat_map(|piece| reader.push(piece)).collect();
        said.extend(reader.finish());
        let (mut words, mut calls) = (String::new(), Vec::new());
        for one in said {
            match one {
                Said::Words(more) => words.push_str(&more),
                Said::Call(call) => calls.push((call.name, call.arguments.as_str().to_owned())),
            }
        }
        (words, calls)
    }

    fn call(name: &str, arguments: &str) -> (String, String) {
        (name.to_owned(), arguments.to_owned())
    }

    #[test]
    fn each_family_is_told_by_its_template() {
        assert_eq!(ToolSyntax::of("{{ messages }}"), None);
        assert_eq!(ToolSyntax::of("{% if tools %}<tool_call>"), Some(ToolSyntax::Tagged));
        assert_eq!(ToolSyntax::of("{% if tools %}[TOOL_CALLS]"), Some(ToolSyntax::List));
        assert_eq!(ToolSyntax::of("{% if tools %}{\"name\": n, \"parameters\": p}"), Some(ToolSyntax::Bare));
        assert_eq!(ToolSyntax::of("{% if tools %}in words of its own"), None);
    }

    #[test]
    fn calls_in_each_syntax_are_read() {
        let tagged = "I look.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>\n<tool_call>{\"name\":\"g\"}</tool_call>";
        let both = vec![call("f", "{\"a\":1}"), call("g", "{}")];
        assert_eq!(read(ToolSyntax::Tagged, false, &[tagged]), ("I look.\n".into(), both.clone()));
        let list = "[TOOL_CALLS][{\"name\":\"f\",\"arguments\":{\"a\":1}},{\"name\":\"g\",\"arguments\":{}}]";
        assert_eq!(read(ToolSyntax::List, false, &[list]), (String::new(), both));
        let bare = " {\"name\": \"f\", \"parameters\": {\"a\": 1}}";
        assert_eq!(read(ToolSyntax::Bare, false, &[bare]), (String::new(), vec![call("f", "{\"a\":1}")]));
    }

    #[test]
    fn a_call_that_was_opened_for_the_model_needs_no_close() {
        let json = "{\"name\": \"f\", \"arguments\": {}}";
        assert_eq!(read(ToolSyntax::Tagged, true, &[json]), (String::new(), vec![call("f", "{}")]));
    }

    #[test]
    fn no_more_calls_are_taken_than_there_may_be() {
        let mut reader = ToolReader::new(ToolSyntax::List, false, 1, || "id".to_owned());
        assert!(reader.push("[TOOL_CALLS][{\"name\":\"f\"},{\"name\":\"g\"}]").is_empty());
        assert!(!reader.is_through());
        assert_eq!(reader.finish().len(), 1);
        assert!(reader.is_through());
    }

    #[test]
    fn what_only_looks_like_a_call_is_words() {
        for text in
            ["<tool_call>nonsense</tool_call>", "a < b <tool", "no call at all", "<tool_call>[1]</tool_call>"]
        {
            assert_eq!(read(ToolSyntax::Tagged, false, &[text]), (text.to_owned(), Vec::new()));
        }
        let text = "{\"answer\": 42}";
        assert_eq!(read(ToolSyntax::Bare, false, &[text]), (text.to_owned(), Vec::new()));
        assert_eq!(
            read(ToolSyntax::Bare, false, &["Say {", "\"name\"}"]),
            ("Say {\"name\"}".into(), Vec::new())
        );
    }

    #[test]
    fn what_is_cut_off_in_a_call_is_told_as_it_came() {
        let cut = "<tool_call>{\"name\": \"f\", \"arg";
        assert_eq!(read(ToolSyntax::Tagged, false, &[cut]), (cut.to_owned(), Vec::new()));
        let after_the_opening = "{\"name\": \"f\", \"arg";
        assert_eq!(
            read(ToolSyntax::Tagged, true, &[after_the_opening]),
            (after_the_opening.to_owned(), Vec::new())
        );
    }

    #[test]
    fn references_of_a_schema_follow_it() {
        let definition = ToolDefinition {
            name: "f".into(),
            json: "{}".into(),
            parameters: Some(r##"{"type":"object","properties":{"a":{"$ref":"#/$defs/x"}},"$defs":{"x":{"type":"null"}}}"##.into()),
        };
        let schema = ToolSyntax::Tagged.schema(&[&definition]).unwrap();
        let moved = schema.pointer("/anyOf/0/properties/arguments/properties/a/$ref").unwrap();
        let target = moved.as_str().and_then(|path| path.strip_prefix('#')).unwrap();
        assert_eq!(schema.pointer(target), Some(&json!({"type": "null"})));
    }

    proptest! {
        #[test]
        fn the_cut_into_pieces_changes_nothing(text in "(<tool_call>|</tool_call>|\\{\"name\":\"f\"\\}|[<a é\n]){0,8}", cut in 1_usize..5) {
            let characters: Vec<char> = text.chars().collect();
            let pieces: Vec<String> = characters.chunks(cut).map(|piece| piece.iter().collect()).collect();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let whole = read(ToolSyntax::Tagged, false, &[&text]);
            let (words, calls) = read(ToolSyntax::Tagged, false, &pieces);
            prop_assert_eq!(calls, whole.1);
            // White space between calls may pass or not, as the cut falls.
            let visible = |words: &str| words.split_whitespace().collect::<String>();
            prop_assert_eq!(visible(&words), visible(&whole.0));
        }
    }
}
