//! What an answer is made of, and who may look on.

use fabstir_protocol::{seal::Words, v1::Usage};

/// Who sent a frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Direction {
    /// This side.
    Sent,
    /// The node.
    Received,
}

/// A frame as it is on the wire.
#[derive(Clone, Copy, Debug)]
pub enum Frame<'a> {
    /// Of version 1, and the first frame of version 2.
    Text(&'a str),
    /// Of version 2.
    Binary(&'a [u8]),
}

/// Called with every frame as it is on the wire.
pub type Capture = Box<dyn FnMut(Direction, Frame<'_>) + Send + Sync>;

/// A step of an answer.
#[derive(Debug)]
pub enum Event {
    /// The next words, authenticated. Empty while the request waits for its turn (version 1).
    Text(Words),
    /// What is more than words, as JSON: `choices[0]` of a chunk with `delta.tool_calls`, `delta.reasoning_content` or
    /// `logprobs`; an embedding; a list of models (version 2).
    Object(Words),
    /// The end.
    End(End),
}

/// How an answer ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct End {
    /// `stop`, `length`, `tool_calls`, `cancelled` or `error`: this was sealed.
    pub finish_reason: String,
    /// What an `error` was. Not sealed in version 1: whoever carries the frames can change it.
    pub code: Option<String>,
    /// Tokens. Sealed in version 2 only.
    pub usage: Option<Usage>,
    /// Messages of the conversation that did not fit, as version 2 says.
    pub dropped_messages: usize,
}
