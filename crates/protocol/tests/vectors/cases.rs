//! The form of the files. Bytes are hex, words are text; a frame is the exact text on the wire.

use fabstir_protocol::Code;
use serde::{Deserialize, Serialize};
use serde_json::Value;

#[derive(Deserialize, Serialize)]
pub(crate) struct Accepted {
    pub(crate) about: Vec<String>,
    pub(crate) frames: Vec<FrameCase>,
    pub(crate) sessions: Vec<SessionCase>,
    pub(crate) requests: Vec<RequestCase>,
}

#[derive(Deserialize, Serialize)]
pub(crate) struct FrameCase {
    pub(crate) name: String,
    pub(crate) spec: String,
    pub(crate) frame: String,
    pub(crate) expect: FrameExpect,
}

#[derive(Deserialize, Serialize)]
pub(crate) struct FrameExpect {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) session_id: Option<String>,
    /// What replies repeat, as JSON text.
    pub(crate) id: Option<String>,
    pub(crate) prompt: Option<String>,
}

#[derive(Deserialize, Serialize)]
pub(crate) struct SessionCase {
    pub(crate) name: String,
    pub(crate) spec: String,
    pub(crate) node_private_key: String,
    pub(crate) now: u64,
    pub(crate) require_timestamp_since: Option<u64>,
    pub(crate) given: Given,
    pub(crate) frame: String,
    pub(crate) expect: SessionExpect,
    pub(crate) messages: Vec<MessageCase>,
    pub(crate) answer: AnswerCase,
}

/// What the client had.
#[derive(Deserialize, Serialize)]
pub(crate) struct Given {
    pub(crate) dialect: String,
    /// Whether a client of this project writes exactly this, given the rest.
    pub(crate) canonical: bool,
    pub(crate) claim: bool,
    pub(crate) client_private_key: String,
    pub(crate) ephemeral_private_key: String,
    pub(crate) nonce: String,
    pub(crate) key_material: String,
    pub(crate) sealed_as: String,
    pub(crate) digest: u8,
    pub(crate) session_key: Option<String>,
    pub(crate) session_data: String,
}

#[derive(Deserialize, Serialize)]
pub(crate) struct SessionExpect {
    pub(crate) session_id: String,
    pub(crate) job_id: Option<Value>,
    pub(crate) chain_id: Option<Value>,
    pub(crate) session_key: String,
    pub(crate) address: String,
    pub(crate) verified: bool,
}

#[derive(Deserialize, Serialize)]
pub(crate) struct MessageCase {
    pub(crate) index: u64,
    pub(crate) nonce: String,
    pub(crate) plaintext: String,
    pub(crate) frame: String,
}

#[derive(Deserialize, Serialize)]
pub(crate) struct AnswerCase {
    pub(crate) chunks: Vec<PieceCase>,
    pub(crate) response: PieceCase,
}

#[derive(Deserialize, Serialize)]
pub(crate) struct PieceCase {
    pub(crate) nonce: String,
    pub(crate) plaintext: String,
    pub(crate) frame: String,
}

#[derive(Deserialize, Serialize)]
pub(crate) struct RequestCase {
    pub(crate) name: String,
    pub(crate) spec: String,
    pub(crate) plaintext: String,
    pub(crate) expect: RequestExpect,
}

#[derive(Default, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct RequestExpect {
    pub(crate) prompt: Option<String>,
    pub(crate) messages: Option<Vec<(String, String)>>,
    pub(crate) model: Option<String>,
    pub(crate) max_tokens: Option<u32>,
    pub(crate) temperature: Option<f32>,
    pub(crate) top_p: Option<f32>,
    pub(crate) seed: Option<u32>,
    pub(crate) stop: Vec<String>,
}

#[derive(Deserialize, Serialize)]
pub(crate) struct Rejected {
    pub(crate) about: Vec<String>,
    pub(crate) node: Vec<NodeCase>,
    pub(crate) client: Vec<ClientCase>,
}

#[derive(Clone, Deserialize, Serialize)]
pub(crate) struct NodeCase {
    pub(crate) name: String,
    pub(crate) spec: String,
    pub(crate) node_private_key: String,
    pub(crate) now: u64,
    pub(crate) require_timestamp_since: Option<u64>,
    /// Frames that are accepted first, in order, on the same connection.
    pub(crate) before: Vec<String>,
    pub(crate) frame: String,
    pub(crate) code: Code,
    /// Frames that are accepted afterwards: the refused one changed nothing.
    pub(crate) after: Vec<String>,
}

#[derive(Deserialize, Serialize)]
pub(crate) struct ClientCase {
    pub(crate) name: String,
    pub(crate) spec: String,
    pub(crate) session_id: String,
    pub(crate) session_key: String,
    /// Pieces of one answer that are accepted first, in order.
    pub(crate) before: Vec<String>,
    pub(crate) frame: String,
    pub(crate) code: Code,
    pub(crate) after: Vec<String>,
}

#[derive(Deserialize, Serialize)]
pub(crate) struct Derivations {
    pub(crate) about: Vec<String>,
    pub(crate) keys: Vec<KeyCase>,
    pub(crate) agreements: Vec<AgreementCase>,
    pub(crate) digests: Vec<DigestCase>,
    pub(crate) seals: Vec<SealCase>,
}

#[derive(Deserialize, Serialize)]
pub(crate) struct KeyCase {
    pub(crate) name: String,
    pub(crate) spec: String,
    pub(crate) private_key: String,
    pub(crate) public_key: String,
    pub(crate) uncompressed: String,
    pub(crate) address: String,
    pub(crate) checksum_address: String,
}

#[derive(Deserialize, Serialize)]
pub(crate) struct AgreementCase {
    pub(crate) name: String,
    pub(crate) spec: String,
    pub(crate) private_key: String,
    pub(crate) their_public_key: String,
    pub(crate) point: String,
    pub(crate) key_from_x: String,
    pub(crate) key_from_point: String,
}

#[derive(Deserialize, Serialize)]
pub(crate) struct DigestCase {
    pub(crate) name: String,
    pub(crate) spec: String,
    pub(crate) private_key: String,
    pub(crate) ephemeral_public_key: String,
    pub(crate) node_public_key: String,
    pub(crate) nonce: String,
    pub(crate) aad: String,
    pub(crate) ciphertext: String,
    pub(crate) digest_1: String,
    pub(crate) digest_2: String,
    pub(crate) digest_3: String,
    pub(crate) signature_1: String,
    pub(crate) signature_2: String,
    pub(crate) signature_3: String,
}

#[derive(Deserialize, Serialize)]
pub(crate) struct SealCase {
    pub(crate) name: String,
    pub(crate) spec: String,
    pub(crate) key: String,
    pub(crate) nonce: String,
    pub(crate) aad: String,
    pub(crate) plaintext: String,
    pub(crate) sealed: String,
}
