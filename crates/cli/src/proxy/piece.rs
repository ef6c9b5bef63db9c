//! A piece of an answer that is more than words, as the APIs beside OpenAI's chat completions need it.

use fabstir_client::Error;
use serde::Deserialize;

/// What matters there of `choices[0]` of OpenAI's chunk.
#[derive(Deserialize)]
struct Piece {
    delta: Delta,
}

#[derive(Deserialize)]
pub(super) struct Delta {
    pub(super) content: Option<String>,
    pub(super) reasoning_content: Option<String>,
    #[serde(default)]
    pub(super) tool_calls: Vec<Call>,
}

/// A call, which the node tells whole.
#[derive(Deserialize)]
pub(super) struct Call {
    pub(super) id: String,
    pub(super) function: Function,
}

#[derive(Deserialize)]
pub(super) struct Function {
    pub(super) name: String,
    pub(super) arguments: String,
}

impl Delta {
    pub(super) fn read(json: &str) -> Result<Self, Error> {
        serde_json::from_str(json).map(|piece: Piece| piece.delta).map_err(|_| Error::Protocol)
    }
}
