//! What is asked.

use std::fmt;

use serde::Serialize;
use zeroize::Zeroizing;

/// A request. What is not set is the node's choice.
#[derive(Clone, Default, Serialize)]
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
#[derive(Clone, Serialize)]
pub struct Turn {
    /// `system`, `user` or `assistant`.
    pub role: &'static str,
    /// What is said.
    pub content: String,
}

/// `{:?}` shows how much was said, and not what.
impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("prompt_bytes", &self.prompt.as_ref().map(String::len))
            .field("messages", &self.messages)
            .field("model", &self.model)
            .field("max_tokens", &self.max_tokens)
            .finish_non_exhaustive()
    }
}

/// `{:?}` shows who spoke and how much was said, and not what.
impl fmt::Debug for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turn").field("role", &self.role).field("content_bytes", &self.content.len()).finish()
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_does_not_print() {
        let mut request = Request::messages(vec![Turn { role: "user", content: "secret".into() }]);
        request.prompt = Some("secret".into());
        let shown = format!("{request:?}");
        assert!(!shown.contains("secret") && shown.contains("content_bytes: 6"), "{shown}");
    }
}
