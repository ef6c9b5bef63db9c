//! From a request to the tokens that the model begins with.

use llama_cpp_2::token::LlamaToken;
use serde_json::{Value, json};

use super::model::Model;
use crate::{
    Author, Failure, Format, Message, Overflow, Prompt, Request, Role, ToolDefinition, Tools,
    constraint::{Constraint, Grammars, InvalidSchema, Word},
    fields,
    prefix::{Owner, WORTH_KEEPING},
    sampler::Token,
    sequence::Prepared,
    template::Piece,
    tools::{self, ToolReader},
};

/// Fewer tokens of a client's system prompt are computed again rather than kept apart.
const WORTH_A_STOP: usize = 64;
/// Bytes of text to one token, beyond which no prompt that fits is to be expected: text of more is first
/// judged by its beginning, so that a huge prompt does not hold up the others while it is tokenised.
const MANY_BYTES_A_TOKEN: usize = 16;

impl Model {
    /// Puts a request into tokens.
    pub(super) fn prepare(&self, request: Request) -> Result<Prepared, Failure> {
        let Request { prompt, overflow, sampling, max_tokens, stop, scope, session, system, .. } = request;
        if let Some(field) =
            request.extra.and_then(|extra| fields::unserved(extra.as_str(), fields::Unknown::Ignored))
        {
            return Err(Failure::Unsupported(field));
        }
        let biased = usize::try_from(self.llama.n_vocab()).unwrap_or(0);
        if sampling
            .logit_bias
            .iter()
            .any(|(token, _)| usize::try_from(*token).map_or(true, |at| at >= biased))
        {
            return Err(Failure::Invalid("logit_bias"));
        }
        let form = self.form(request.format, request.tools)?;
        let chat = match prompt {
            Prompt::Raw(text) => {
                Chat { tokens: self.tokenize(text.as_str().as_bytes(), true, false), ..Chat::default() }
            }
            Prompt::Chat(messages) => self.chat(&messages, &form, overflow, max_tokens)?,
        };
        let prompt_tokens = u32::try_from(chat.tokens.len()).unwrap_or(u32::MAX);
        if chat.tokens.is_empty() || prompt_tokens >= self.context_window {
            return Err(Failure::PromptTooLong { prompt_tokens, context_window: self.context_window });
        }
        let everyones = match system {
            Author::Operator => chat.system_end,
            Author::Client => chat.markup_end,
        };
        Ok(Prepared {
            prompt: chat.tokens,
            dropped_messages: chat.dropped_messages,
            sampling,
            seed: getrandom::u64().map_err(|_| Failure::Engine)?,
            stop,
            max_tokens,
            context_window: self.context_window,
            owner: Owner { scope, session },
            everyones,
            // A stop costs a step. The operator's words are kept once for all; a client's own must be worth it.
            shareable: if everyones >= WORTH_KEEPING || chat.system_end < WORTH_A_STOP {
                everyones
            } else {
                chat.system_end
            },
            logprobs: request.logprobs,
            constraint: form.constraint,
            tools: form.tools,
        })
    }

    /// What a request asks of the form of its answer.
    fn form(&self, format: Format, tools: Option<Tools>) -> Result<Form, Failure> {
        let schema = match format {
            Format::Text => None,
            Format::JsonObject => Some(json!({ "type": "object" })),
            Format::JsonSchema(schema) => {
                let schema = serde_json::from_str(schema.as_str());
                Some(schema.map_err(|_| Failure::Invalid("response_format"))?)
            }
        };
        let Some(Tools { definitions, choice, parallel }) = tools else {
            let constraint = schema.map(|schema| self.constraint(schema, "response_format")).transpose()?;
            return Ok(Form { constraint, ..Form::default() });
        };
        if schema.is_some() {
            // A call does not meet the schema, and an answer that meets it makes no call.
            return Err(Failure::Unsupported("response_format together with tools"));
        }
        let syntax = self.template.tools().ok_or(Failure::Unsupported("tools"))?;
        let eligible = tools::eligible(&definitions, &choice).ok_or(Failure::Invalid("tool_choice"))?;
        let forced = !eligible.is_empty();
        let constraint = if forced {
            let schema = syntax.schema(&eligible).ok_or(Failure::Invalid("tools"))?;
            Some(self.constraint(schema, "tools")?)
        } else {
            None
        };
        let opening = if forced { syntax.opening() } else { "" };
        let most = if parallel { usize::MAX } else { 1 };
        let tools = Some(ToolReader::new(syntax, forced, most, call_id));
        Ok(Form { constraint, tools, opening, definitions })
    }

    fn constraint(&self, schema: Value, field: &'static str) -> Result<Constraint, Failure> {
        let grammars = self.grammars.get_or_init(|| {
            let vocab = self.llama.vocab();
            let words: Vec<Word> = (0..self.llama.n_vocab())
                .map(LlamaToken)
                .map(|token| Word {
                    bytes: vocab.token_to_piece(token, true, None),
                    control: vocab.is_control(token),
                })
                .collect();
            Grammars::new(&words, vocab.eos().0)
        });
        let grammars = grammars.as_ref().ok_or(Failure::Unsupported(field))?;
        grammars.json(schema).map_err(|InvalidSchema| Failure::Unsupported(field))
    }

    /// The tokens of a conversation, without as few of its oldest turns as it takes to fit.
    fn chat(
        &self,
        messages: &[Message],
        form: &Form,
        overflow: Overflow,
        max_tokens: Option<u32>,
    ) -> Result<Chat, Failure> {
        let contents: Vec<Vec<Token>> =
            messages.iter().map(|message| self.content(message)).collect::<Result<_, Failure>>()?;
        let marker = format!("z{:016x}z", getrandom::u64().map_err(|_| Failure::Engine)?);
        let quarter = self.context_window / 4;
        let room = max_tokens.map_or(quarter, |most| most.min(quarter)).max(1);
        let limit = usize::try_from(self.context_window.saturating_sub(room)).unwrap_or(usize::MAX);
        // Once something has to go, a quarter more goes with it: else the next turn would have to drop again, and
        // whatever is dropped, everything behind it is computed anew.
        let spacious = limit.saturating_sub(limit / 4);
        let first = usize::from(messages.first().is_some_and(|message| message.role == Role::System));
        let mut dropped: usize = 0;
        loop {
            let kept = |number: &usize| *number < first || *number >= first.saturating_add(dropped);
            let numbers: Vec<usize> = (0..messages.len()).filter(kept).collect();
            let chat = self.render(messages, form, &contents, &numbers, &marker);
            let droppable = overflow == Overflow::DropOldest && numbers.len() > first.saturating_add(1);
            match chat {
                Ok(chat)
                    if chat.tokens.len() <= if dropped == 0 { limit } else { spacious } || !droppable =>
                {
                    return Ok(Chat { dropped_messages: dropped, ..chat });
                }
                // Some templates want turns to alternate: what they refuse with half a pair gone, they take
                // with the whole pair gone.
                Err(failure) if !droppable || dropped == 0 => return Err(failure),
                Ok(_) | Err(_) => dropped = dropped.saturating_add(1),
            }
        }
    }

    fn render(
        &self,
        messages: &[Message],
        form: &Form,
        contents: &[Vec<Token>],
        numbers: &[usize],
        marker: &str,
    ) -> Result<Chat, Failure> {
        let turns: Vec<&Message> = numbers.iter().filter_map(|number| messages.get(*number)).collect();
        let mut chat = Chat::default();
        let (mut system_seen, mut others_begin) = (false, false);
        for piece in self.template.render(&turns, &form.definitions, marker)? {
            match piece {
                Piece::Markup(text) => {
                    // Templates that write the BOS themselves would otherwise make two of it.
                    let bos = chat.tokens.is_empty() && self.wants_bos(&text);
                    chat.tokens.extend(self.tokenize(text.as_bytes(), bos, true));
                    // What a function is called stands in the markup: of that, nothing is everybody's.
                    if others_begin || !form.definitions.is_empty() {
                        continue;
                    }
                    chat.system_end = chat.tokens.len();
                    if !system_seen {
                        chat.markup_end = chat.tokens.len();
                    }
                }
                Piece::Content(turn) => {
                    let content = numbers.get(turn).and_then(|number| contents.get(*number));
                    chat.tokens.extend_from_slice(content.ok_or(Failure::Template)?);
                    let is_system = turns.get(turn).is_some_and(|turn| turn.role == Role::System);
                    others_begin |= !is_system || system_seen;
                    system_seen |= is_system;
                }
                Piece::Extra(text) => {
                    chat.tokens.extend(self.tokenize(text.as_bytes(), false, false));
                    others_begin = true;
                }
            }
        }
        chat.tokens.extend(self.tokenize(form.opening.as_bytes(), false, true));
        Ok(chat)
    }

    fn wants_bos(&self, text: &str) -> bool {
        let vocab = self.llama.vocab();
        vocab.should_add_bos() && !text.as_bytes().starts_with(&vocab.token_to_piece(vocab.bos(), true, None))
    }

    /// The tokens of what somebody said. Control tokens in it are text like any other.
    fn content(&self, message: &Message) -> Result<Vec<Token>, Failure> {
        let text = message.content.as_str();
        let window = usize::try_from(self.context_window).unwrap_or(usize::MAX);
        let mut many = window.saturating_mul(MANY_BYTES_A_TOKEN);
        if text.len() > many {
            while !text.is_char_boundary(many) {
                many = many.saturating_sub(1);
            }
            let beginning =
                self.tokenize(text.get(..many).unwrap_or_default().as_bytes(), false, false).len();
            if beginning > window {
                let whole = beginning.saturating_mul(text.len()).checked_div(many).unwrap_or(beginning);
                let prompt_tokens = u32::try_from(whole).unwrap_or(u32::MAX);
                return Err(Failure::PromptTooLong { prompt_tokens, context_window: self.context_window });
            }
        }
        Ok(self.tokenize(text.as_bytes(), false, false))
    }
}

/// What an answer has to look like, and how it is read.
#[derive(Debug, Default)]
struct Form {
    constraint: Option<Constraint>,
    tools: Option<ToolReader>,
    /// What the answer begins with before the model has a word.
    opening: &'static str,
    /// The functions that the model hears of.
    definitions: Vec<ToolDefinition>,
}

/// A name for a call, by which its result refers to it.
fn call_id() -> String {
    format!("call_{:016x}", getrandom::u64().unwrap_or_default())
}

/// A conversation in tokens.
#[derive(Debug, Default)]
struct Chat {
    tokens: Vec<Token>,
    dropped_messages: usize,
    /// Where the template's own opening words end.
    markup_end: usize,
    /// Where the first content begins that is not a leading system message.
    system_end: usize,
}
