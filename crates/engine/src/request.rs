//! What an engine is asked.

use std::fmt;

use zeroize::Zeroize;

/// Everything that decides an answer.
#[derive(Debug)]
pub struct Request {
    /// The model asked for; `None` is the default one.
    pub model: Option<String>,
    /// What to answer.
    pub prompt: Prompt,
    /// What to do with a prompt that does not fit the context.
    pub overflow: Overflow,
    /// How the next token is chosen.
    pub sampling: Sampling,
    /// Most answer tokens; capped to what the context has left. `None` asks for all of it.
    pub max_tokens: Option<u32>,
    /// Texts that end the answer; they are not part of it.
    pub stop: Vec<String>,
    /// Opaque number of the asking client, for fair queueing.
    pub client: u64,
    /// Opaque number of those who may share what is computed: nothing of it serves another scope, except the
    /// operator's own words.
    pub scope: u64,
    /// Opaque number of the session with which everything computed for this request goes: [`Engine::forget`](crate::Engine::forget).
    pub session: u64,
    /// Who wrote the leading system message.
    pub system: Author,
    /// For how many of the likeliest tokens in each place of the answer to tell the probabilities; `None` tells
    /// none, 0 only that of the token taken.
    pub logprobs: Option<u8>,
    /// What the answer has to look like.
    pub format: Format,
    /// What the model may ask to be called; `None` calls nothing.
    pub tools: Option<Tools>,
    /// Fields that nobody here knows, a JSON object: for engines that pass requests on.
    pub extra: Option<Text>,
}

impl Request {
    /// A request with everything else at its default, of a client, scope and session numbered 0.
    pub fn new(prompt: Prompt) -> Self {
        Self {
            model: None,
            prompt,
            overflow: Overflow::Refuse,
            sampling: Sampling::default(),
            max_tokens: None,
            stop: Vec::new(),
            client: 0,
            scope: 0,
            session: 0,
            system: Author::Client,
            logprobs: None,
            format: Format::Text,
            tools: None,
            extra: None,
        }
    }
}

/// What an answer has to look like.
#[derive(Debug, Default, Eq, PartialEq)]
pub enum Format {
    /// As the model likes.
    #[default]
    Text,
    /// A JSON object.
    JsonObject,
    /// JSON that meets this JSON Schema (draft 2020-12, as far as llguidance covers it).
    JsonSchema(Text),
}

/// Functions that the asking application offers the model.
#[derive(Debug)]
pub struct Tools {
    /// What there is.
    pub definitions: Vec<ToolDefinition>,
    /// Whether the model has to call one.
    pub choice: ToolChoice,
    /// Whether it may call several in one answer.
    pub parallel: bool,
}

/// One function that the model may ask to be called.
#[derive(Debug)]
pub struct ToolDefinition {
    /// Its name.
    pub name: String,
    /// The whole definition as the client gave it, JSON: `{"type":"function","function":{…}}`.
    pub json: Text,
    /// The JSON Schema of its arguments; `None` takes any object.
    pub parameters: Option<Text>,
}

/// Whether a tool has to be called.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum ToolChoice {
    /// The model decides.
    #[default]
    Auto,
    /// One of them must.
    Required,
    /// This one must.
    Named(String),
}

/// A function that the model asks to be called, with its arguments.
#[derive(Debug, Eq, PartialEq)]
pub struct ToolCall {
    /// What the result refers to.
    pub id: String,
    /// Which function.
    pub name: String,
    /// JSON, as far as the model wrote any.
    pub arguments: Text,
}

/// Texts to put into a space where near means alike.
#[derive(Debug)]
pub struct EmbeddingRequest {
    /// The model asked for; `None` is the default one.
    pub model: Option<String>,
    /// What to embed, each on its own.
    pub inputs: Vec<Text>,
    /// Opaque number of the asking client, for fair queueing.
    pub client: u64,
}

/// Who wrote a system message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Author {
    /// The operator, for everybody: what was computed of it serves all.
    Operator,
    /// The client.
    Client,
}

/// The words to answer.
#[derive(Debug)]
pub enum Prompt {
    /// A conversation, put into the model's own chat template.
    Chat(Vec<Message>),
    /// Text to continue as it stands. No template, no control tokens.
    Raw(Text),
}

/// One turn of a conversation.
#[derive(Debug)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What was said.
    pub content: Text,
    /// What the model asked to be called in this turn.
    pub tool_calls: Vec<ToolCall>,
    /// Of a tool's result: the call that it answers.
    pub tool_call_id: Option<String>,
}

impl Message {
    /// Words and nothing else.
    pub fn new(role: Role, content: impl Into<Text>) -> Self {
        Self { role, content: content.into(), tool_calls: Vec::new(), tool_call_id: None }
    }
}

/// Who speaks in a conversation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    /// Instructions of the operator or application.
    System,
    /// The person who asks.
    User,
    /// The model.
    Assistant,
    /// The result of a tool.
    Tool,
}

impl Role {
    /// The word that chat templates use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }
}

/// What to do with a conversation longer than the context.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Overflow {
    /// Answer with [`Failure::PromptTooLong`](crate::Failure::PromptTooLong).
    Refuse,
    /// Leave out the oldest turns after the leading system message, as few as serve, keeping a quarter of
    /// the context (or `max_tokens`, if that is less) for the answer. The system message and the last
    /// message stay; if those two alone do not fit, the prompt is too long.
    DropOldest,
}

/// How the next token is chosen. What is `None` is the engine's own default.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sampling {
    /// 0 is greedy.
    pub temperature: Option<f32>,
    /// Nucleus; 1 is off.
    pub top_p: Option<f32>,
    /// Most candidates; 0 is off.
    pub top_k: Option<u32>,
    /// Least probability relative to the best; 0 is off.
    pub min_p: Option<f32>,
    /// Divides the logits of tokens seen lately; 1 is off.
    pub repeat_penalty: Option<f32>,
    /// Added against each repetition; 0 is off.
    pub frequency_penalty: Option<f32>,
    /// Added once against a repeated token; 0 is off.
    pub presence_penalty: Option<f32>,
    /// Same seed, same answer (for the same batch arithmetic). `None` draws one at random.
    pub seed: Option<u32>,
    /// Added to the logits of these tokens.
    pub logit_bias: Vec<(u32, f32)>,
}

/// Words a user wrote or will read: wiped on drop, and `{:?}` shows only how many bytes.
#[derive(Eq, PartialEq)]
pub struct Text(String);

impl Text {
    /// The words themselves.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl Drop for Text {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Text({} bytes)", self.0.len())
    }
}
