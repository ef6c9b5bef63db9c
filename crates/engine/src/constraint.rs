//! Answers that keep to a form: JSON that meets a schema.
//!
//! The grammar is checked lazily. A token is sampled as always, and only when the grammar does not take it are
//! all tokens held against the grammar and another one sampled among those that remain. That changes nothing of
//! the distribution: accepting a draw that is allowed, and else drawing among the allowed, is drawing among the
//! allowed. Most tokens of a model that was asked for JSON are allowed at once.

use std::{fmt, sync::Arc};

use llguidance::{
    Matcher, ParserFactory,
    api::{ParserLimits, TopLevelGrammar},
    earley::SlicedBiasComputer,
    toktrie::{ApproximateTokEnv, InferenceCapabilities, SimpleVob, TokEnv, TokRxInfo, TokTrie},
};
use serde_json::{Value, json};

use crate::sampler::Token;

/// What compiling a schema and one token's mask may cost, in llguidance's units: some milliseconds each. The
/// schema is a stranger's, and the thread that computes for everybody waits for it.
const LIMITS: ParserLimits = ParserLimits {
    max_items_in_row: 2000,
    initial_lexer_fuel: 500_000,
    step_lexer_fuel: 200_000,
    step_max_items: 50_000,
    max_lexer_states: 50_000,
    max_grammar_size: 100_000,
    precompute_large_lexemes: false,
    // The error would carry the schema and the answer so far.
    verbose_errors: false,
};

/// Most bytes of a schema. What compiles it goes as deep as its references do, on a stack that has an end, while all
/// others wait.
const MAX_SCHEMA: usize = 64 << 10;

/// A model's vocabulary, ready to be held against grammars.
pub(crate) struct Grammars(ParserFactory);

/// A form that an answer has to keep, and how far the answer is.
pub(crate) struct Constraint(Matcher);

/// The schema is not one, or asks for what cannot be checked.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the schema cannot be turned into a grammar")]
pub(crate) struct InvalidSchema;

/// The tokens that may come next. Never empty.
pub(crate) struct Mask(SimpleVob);

/// One word of a vocabulary.
#[derive(Debug)]
pub(crate) struct Word {
    pub(crate) bytes: Vec<u8>,
    /// Whether it is a control token, which stands for no text.
    pub(crate) control: bool,
}

impl Grammars {
    /// `words` is the vocabulary in the order of its tokens, `end` the token that ends an answer.
    pub(crate) fn new(words: &[Word], end: Token) -> Option<Self> {
        let spelled: Vec<Vec<u8>> = words.iter().map(Word::spelled).collect();
        let end = u32::try_from(end).ok()?;
        let info = TokRxInfo {
            vocab_size: u32::try_from(words.len()).ok()?,
            tok_eos: end,
            tok_bos: None,
            tok_pad: None,
            tok_unk: None,
            tok_end_of_turn: None,
        };
        let vocabulary: TokEnv = Arc::new(ApproximateTokEnv::new(TokTrie::from(&info, &spelled)));
        let slices = SlicedBiasComputer::json_slices();
        let mut factory = ParserFactory::new(&vocabulary, InferenceCapabilities::default(), &slices).ok()?;
        factory.quiet();
        *factory.limits_mut() = LIMITS;
        Some(Self(factory))
    }

    /// JSON that meets `schema`, on one line: white space of its own choosing leads small models astray.
    pub(crate) fn json(&self, schema: Value) -> Result<Constraint, InvalidSchema> {
        // JSON Schema's `true` is the schema that everything meets.
        let mut schema = if schema == Value::Bool(true) { json!({}) } else { schema };
        if schema.to_string().len() > MAX_SCHEMA {
            return Err(InvalidSchema);
        }
        let options = json!({ "whitespace_flexible": false, "item_separator": ", ", "key_separator": ": " });
        schema.as_object_mut().ok_or(InvalidSchema)?.insert("x-guidance".to_owned(), options);
        let parser = self.0.create_parser(TopLevelGrammar::from_json_schema(schema));
        let matcher = Matcher::new(parser);
        if matcher.is_error() { Err(InvalidSchema) } else { Ok(Constraint(matcher)) }
    }
}

impl Constraint {
    /// Whether `token` may come next.
    pub(crate) fn allows(&mut self, token: Token) -> bool {
        u32::try_from(token).is_ok_and(|token| matches!(self.0.validate_tokens(&[token]), Ok(1)))
    }

    /// Whether the answer may end here.
    pub(crate) fn may_end(&mut self) -> bool {
        matches!(self.0.is_accepting(), Ok(true))
    }

    /// Whether there is nothing more to say.
    pub(crate) fn is_through(&self) -> bool {
        self.0.is_stopped()
    }

    /// The tokens that may come next; `None` where nothing may, or it costs too much to know.
    pub(crate) fn mask(&mut self) -> Option<Mask> {
        self.0.compute_mask().ok().filter(|mask| mask.num_set() > 0).map(Mask)
    }

    /// Takes note of a token that came. False where the grammar does not take it.
    pub(crate) fn accept(&mut self, token: Token) -> bool {
        u32::try_from(token).is_ok_and(|token| self.0.consume_token(token).is_ok())
    }
}

impl Mask {
    pub(crate) fn allows(&self, token: Token) -> bool {
        usize::try_from(token).is_ok_and(|token| token < self.0.len() && self.0[token])
    }
}

impl Word {
    fn spelled(&self) -> Vec<u8> {
        let marker = self.control.then_some(TokTrie::SPECIAL_TOKEN_MARKER);
        marker.into_iter().chain(self.bytes.iter().copied()).collect()
    }
}

impl fmt::Debug for Grammars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Grammars(..)")
    }
}

impl fmt::Debug for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Constraint(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The printable characters, one token each, some words, and the end as the last of them.
    fn grammars() -> (Grammars, Vec<Word>) {
        let characters = (b' '..=b'~').map(|byte| vec![byte]);
        let words = ["\": ", "{\"", "\"}", "true", "city"].map(|word| word.as_bytes().to_vec());
        let mut words: Vec<Word> =
            characters.chain(words).map(|bytes| Word { bytes, control: false }).collect();
        words.push(Word { bytes: b"<|end|>".to_vec(), control: true });
        let end = Token::try_from(words.len()).unwrap() - 1;
        (Grammars::new(&words, end).unwrap(), words)
    }

    fn say(constraint: &mut Constraint, words: &[Word], text: &str) -> bool {
        text.bytes().all(|byte| {
            let token = words.iter().position(|word| word.bytes == [byte]).unwrap();
            let token = Token::try_from(token).unwrap();
            constraint.allows(token) && constraint.accept(token)
        })
    }

    fn city() -> Value {
        json!({
            "type": "object", "additionalProperties": false, "required": ["city"],
            "properties": { "city": { "enum": ["Paris", "Rome"] } },
        })
    }

    #[test]
    fn what_meets_the_schema_is_taken_and_nothing_else() {
        let (grammars, words) = grammars();
        let mut constraint = grammars.json(city()).unwrap();
        assert!(say(&mut constraint, &words, "{\"city\": \"Rome\""));
        assert!(!constraint.may_end());
        assert!(say(&mut constraint, &words, "}"));
        assert!(constraint.may_end() && constraint.is_through());
        for wrong in ["[", "{\"town", "{\"city\": \"London", "{}"] {
            assert!(!say(&mut grammars.json(city()).unwrap(), &words, wrong), "{wrong}");
        }
    }

    #[test]
    fn the_mask_is_the_tokens_that_are_allowed() {
        let (grammars, words) = grammars();
        let mut constraint = grammars.json(city()).unwrap();
        let mask = constraint.mask().unwrap();
        let tokens = 0..Token::try_from(words.len()).unwrap();
        for token in tokens {
            assert_eq!(mask.allows(token), constraint.allows(token), "token {token}");
        }
        assert!(!mask.allows(-1) && !mask.allows(1_000_000));
    }

    #[test]
    fn schemas_that_are_none_or_cost_too_much_are_refused() {
        let (grammars, _) = grammars();
        let properties = (0..200_000).map(|number| (format!("p{number}"), json!({})));
        let many: serde_json::Map<String, Value> = properties.collect();
        for schema in [
            json!(false),
            json!({"type": "nothing"}),
            json!({"type": "string", "format": "no-such-format"}),
            json!({"$ref": "#/$defs/missing"}),
            json!({"type": "object", "properties": many}),
        ] {
            let beginning: String = schema.to_string().chars().take(60).collect();
            assert_eq!(grammars.json(schema).err(), Some(InvalidSchema), "{beginning}");
        }
    }

    /// The deepest that the bound on the length lets through, on a stack like the engine's.
    #[test]
    fn references_in_a_long_line_are_no_danger() {
        let compile = |links: usize, link: fn(usize) -> Value| {
            let chain = (0..links).map(|number| (format!("d{number}"), link(number + 1)));
            let mut chain: serde_json::Map<String, Value> = chain.collect();
            chain.insert(format!("d{links}"), json!({}));
            let schema = json!({"$ref": "#/$defs/d0", "$defs": chain});
            assert!(schema.to_string().len() <= MAX_SCHEMA, "{links}");
            let (grammars, _) = grammars();
            drop(grammars.json(schema));
        };
        let work = move || {
            compile(1500, |next| json!({"items": {"$ref": format!("#/$defs/d{next}")}}));
            compile(1800, |next| json!({"$ref": format!("#/$defs/d{next}")}));
            compile(1000, |next| json!({"allOf": [{"not": {"$ref": format!("#/$defs/d{next}")}}]}));
        };
        std::thread::Builder::new().stack_size(64 << 20).spawn(work).unwrap().join().unwrap();
    }

    #[test]
    fn a_reference_within_the_schema_is_followed() {
        let (grammars, words) = grammars();
        let schema = json!({"$ref": "#/anyOf/0", "anyOf": [{"$ref": "#/$defs/yes"}], "$defs": {"yes": {"const": true}}});
        let mut constraint = grammars.json(schema).unwrap();
        assert!(say(&mut constraint, &words, "true") && constraint.may_end());
    }

    #[test]
    fn the_keywords_that_bound_numbers_texts_and_lists_are_kept_to() {
        let (grammars, words) = grammars();
        for (schema, right, wrong) in [
            (json!(true), "[true]", "truth"),
            (json!({"type": "integer", "multipleOf": 7}), "21", "22"),
            (json!({"type": "number", "multipleOf": 0.5}), "1.5", "1.3"),
            (json!({"type": "integer", "minimum": 3, "maximum": 12}), "12", "13"),
            (json!({"type": "string", "format": "date"}), "\"2026-02-03\"", "\"2026-13-03\""),
            (
                json!({"type": "string", "format": "uuid"}),
                "\"00000000-0000-4000-8000-000000000000\"",
                "\"x\"",
            ),
            (json!({"type": "string", "pattern": "^a+$"}), "\"aa\"", "\"ab\""),
            (json!({"type": "string", "maxLength": 2}), "\"ab\"", "\"abc\""),
            (json!({"type": "array", "items": {"type": "null"}, "maxItems": 1}), "[null]", "[null, null]"),
        ] {
            let mut constraint = grammars.json(schema.clone()).unwrap();
            assert!(say(&mut constraint, &words, right) && constraint.may_end(), "{schema}: {right}");
            let mut constraint = grammars.json(schema.clone()).unwrap();
            assert!(!(say(&mut constraint, &words, wrong) && constraint.may_end()), "{schema}: {wrong}");
        }
    }
}
