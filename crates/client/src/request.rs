//! What is asked.

use serde::Serialize;
use zeroize::Zeroizing;

/// A request. What is not set is the node's choice.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(default)]
pub struct Request {
    /// The next turn of the conversation that the node keeps with this session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// A whole conversation, of which the node keeps nothing. Instead of `prompt`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<Turn>,
    /// The model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Most tokens of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// 0 is greedy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f32>,
    /// Nucleus.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f32>,
    /// The same seed gives the same answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u32>,
    /// Texts that end the answer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stop: Vec<String>,
}

/// One message of a conversation.
#[derive(Clone, Debug, Serialize)]
pub struct Turn {
    /// `system`, `user` or `assistant`.
    pub role: &'static str,
    /// What is said.
    pub content: String,
}

impl Request {
    /// The next turn of the session's conversation.
    pub fn prompt(words: impl Into<String>) -> Self {
        Self { prompt: Some(words.into()), ..Self::default() }
    }

    /// A conversation that the node keeps nothing of.
    pub fn messages(messages: Vec<Turn>) -> Self {
        Self { messages, ..Self::default() }
    }

    pub(crate) fn to_json(&self) -> Zeroizing<String> {
        // Strings and numbers: serde_json has nothing to refuse here.
        Zeroizing::new(serde_json::to_string(self).unwrap_or_default())
    }
}
