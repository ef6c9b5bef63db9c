//! The form of version 2's files. Bytes are hex, JSON that travels is the exact text, numbers of 64 bits are decimal
//! text: JavaScript's JSON would round them.

use serde::{Deserialize, Serialize};

#[derive(Deserialize, Serialize)]
pub(crate) struct Handshakes {
    pub(crate) about: Vec<String>,
    pub(crate) cases: Vec<HandshakeCase>,
}

#[derive(Clone, Deserialize, Serialize)]
pub(crate) struct HandshakeCase {
    pub(crate) name: String,
    pub(crate) now: u64,
    // What the node has.
    pub(crate) node_identity_key: String,
    pub(crate) node_address: String,
    pub(crate) chain_id: String,
    pub(crate) versions: Vec<String>,
    pub(crate) channel_key: String,
    pub(crate) channel_public_key: String,
    pub(crate) node_ephemeral_key: String,
    pub(crate) kem_m: String,
    // What it says first.
    pub(crate) connected: String,
    // What the client has.
    pub(crate) client_static_key: String,
    pub(crate) client_static_public_key: String,
    pub(crate) client_ephemeral_key: String,
    pub(crate) kem_seed: String,
    /// Empty for none.
    pub(crate) delegation: String,
    /// Whose it is.
    pub(crate) wallet: Option<String>,
    pub(crate) hello: String,
    // What comes of it.
    pub(crate) prologue: String,
    pub(crate) m1: String,
    pub(crate) m2: String,
    pub(crate) kem_secret: String,
    pub(crate) m3_payload_length: usize,
    pub(crate) m3: String,
    /// After each message.
    pub(crate) states: Vec<StateCase>,
    pub(crate) end: EndCase,
}

#[derive(Clone, Deserialize, Serialize)]
pub(crate) struct StateCase {
    pub(crate) ck: String,
    pub(crate) h: String,
}

/// What a handshake leaves.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct EndCase {
    pub(crate) h: String,
    pub(crate) sid: String,
    pub(crate) to_node_key: String,
    pub(crate) to_client_key: String,
    pub(crate) ticket_id: String,
    pub(crate) ticket_psk: String,
}

#[derive(Deserialize, Serialize)]
pub(crate) struct Resumptions {
    pub(crate) about: Vec<String>,
    pub(crate) cases: Vec<ResumeCase>,
}

#[derive(Clone, Deserialize, Serialize)]
pub(crate) struct ResumeCase {
    pub(crate) name: String,
    /// The case whose ticket it is; null for one out of nowhere.
    pub(crate) after: Option<String>,
    pub(crate) ticket_id: String,
    pub(crate) ticket_psk: String,
    pub(crate) client_ephemeral_key: String,
    pub(crate) node_ephemeral_key: String,
    pub(crate) resume: String,
    pub(crate) welcome: String,
    pub(crate) prologue: String,
    pub(crate) r1: String,
    pub(crate) r2: String,
    /// After each message.
    pub(crate) states: Vec<StateCase>,
    pub(crate) end: EndCase,
}

#[derive(Deserialize, Serialize)]
pub(crate) struct Records {
    pub(crate) about: Vec<String>,
    pub(crate) frames: Vec<FrameCase>,
    pub(crate) runs: Vec<RunCase>,
    /// Under which nothing is sealed and nothing opens.
    pub(crate) reserved_counter: String,
}

/// A record before it is sealed.
#[derive(Clone, Deserialize, Serialize)]
pub(crate) struct RecordCase {
    pub(crate) r#type: String,
    pub(crate) last: bool,
    pub(crate) more: bool,
    pub(crate) request: u32,
    pub(crate) index: u32,
    /// Text, and how often it stands there.
    pub(crate) body: String,
    pub(crate) body_times: usize,
}

/// Where a record travels.
#[derive(Clone, Deserialize, Serialize)]
pub(crate) struct PlaceCase {
    pub(crate) direction: String,
    pub(crate) sid: String,
    pub(crate) key: String,
    pub(crate) counter: String,
}

#[derive(Deserialize, Serialize)]
pub(crate) struct FrameCase {
    pub(crate) name: String,
    #[serde(flatten)]
    pub(crate) place: PlaceCase,
    pub(crate) shape: String,
    #[serde(flatten)]
    pub(crate) record: RecordCase,
    pub(crate) aad: String,
    pub(crate) plaintext_length: usize,
    /// Null where it is long.
    pub(crate) plaintext: Option<String>,
    pub(crate) frame: Option<String>,
    pub(crate) frame_sha256: String,
    /// The key of the next record.
    pub(crate) key_after: String,
}

#[derive(Deserialize, Serialize)]
pub(crate) struct RunCase {
    pub(crate) name: String,
    #[serde(flatten)]
    pub(crate) place: PlaceCase,
    pub(crate) steps: Vec<StepCase>,
}

/// Records that differ in their index only.
#[derive(Deserialize, Serialize)]
pub(crate) struct StepCase {
    pub(crate) times: u32,
    pub(crate) shape: String,
    /// The first of them.
    #[serde(flatten)]
    pub(crate) record: RecordCase,
    /// The last of them; null where it is long.
    pub(crate) last_frame: Option<String>,
    pub(crate) last_frame_sha256: String,
    pub(crate) key_after: String,
    pub(crate) counter_after: String,
}

#[derive(Deserialize, Serialize)]
pub(crate) struct TypedData {
    pub(crate) about: Vec<String>,
    pub(crate) signed: Vec<SignedCase>,
    pub(crate) delegations: Vec<DelegationCase>,
}

#[derive(Deserialize, Serialize)]
pub(crate) struct SignedCase {
    pub(crate) name: String,
    pub(crate) primary_type: String,
    pub(crate) domain: DomainCase,
    pub(crate) fields: Vec<FieldCase>,
    pub(crate) private_key: String,
    pub(crate) signer: String,
    pub(crate) domain_separator: String,
    pub(crate) struct_hash: String,
    pub(crate) digest: String,
    pub(crate) signature: String,
    /// JSON text, or the hex of a delegation's bytes.
    pub(crate) wire: String,
    /// Of a delegation: what a wallet is asked to sign, as JSON text. Null where JSON would round its numbers.
    pub(crate) typed_data: Option<String>,
}

#[derive(Deserialize, Serialize)]
pub(crate) struct DomainCase {
    pub(crate) name: String,
    pub(crate) version: String,
    /// Null where the domain has none.
    pub(crate) chain_id: Option<String>,
}

/// A field of the type, and the message's value: decimal text, or hex with `0x`.
#[derive(Clone, Deserialize, Serialize)]
pub(crate) struct FieldCase {
    pub(crate) name: String,
    pub(crate) r#type: String,
    pub(crate) value: String,
}

#[derive(Deserialize, Serialize)]
pub(crate) struct DelegationCase {
    pub(crate) name: String,
    pub(crate) wire: String,
    /// The static key of message 3.
    pub(crate) delegate: String,
    pub(crate) node: String,
    pub(crate) now: u64,
    pub(crate) wallet: String,
}

#[derive(Deserialize, Serialize)]
pub(crate) struct Advertisements {
    pub(crate) about: Vec<String>,
    pub(crate) accepted: Vec<ShownCase>,
    pub(crate) rejected: Vec<RefusedCase>,
    pub(crate) rotations: Vec<RotationCase>,
}

#[derive(Deserialize, Serialize)]
pub(crate) struct ShownCase {
    pub(crate) name: String,
    pub(crate) pinned: String,
    pub(crate) now: u64,
    pub(crate) frame: String,
    pub(crate) channel_key: String,
    pub(crate) hint: String,
    pub(crate) not_after: u64,
    pub(crate) min_version: u16,
    pub(crate) prologue: String,
}

#[derive(Deserialize, Serialize)]
pub(crate) struct RefusedCase {
    pub(crate) name: String,
    pub(crate) pinned: String,
    pub(crate) now: u64,
    pub(crate) frame: String,
    pub(crate) error: String,
}

#[derive(Deserialize, Serialize)]
pub(crate) struct RotationCase {
    pub(crate) name: String,
    pub(crate) pinned: String,
    pub(crate) chain_id: String,
    pub(crate) now: u64,
    pub(crate) rotation: String,
    /// The new identity, or null.
    pub(crate) to: Option<String>,
    pub(crate) error: Option<String>,
}

#[derive(Deserialize, Serialize)]
pub(crate) struct Rejected {
    pub(crate) about: Vec<String>,
    pub(crate) m1: Vec<MessageCase>,
    pub(crate) m2: Vec<MessageCase>,
    pub(crate) m3: Vec<MessageCase>,
    pub(crate) r1: Vec<MessageCase>,
    pub(crate) r2: Vec<MessageCase>,
    pub(crate) records: Vec<BadRecordCase>,
    pub(crate) delegations: Vec<BadDelegationCase>,
    pub(crate) orders: Vec<OrderCase>,
}

#[derive(Deserialize, Serialize)]
pub(crate) struct MessageCase {
    pub(crate) why: String,
    /// The handshake, or the resumption, whose place the frame takes.
    pub(crate) case: String,
    pub(crate) frame: String,
    pub(crate) refused_at: String,
    /// Of a delegation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

#[derive(Deserialize, Serialize)]
pub(crate) struct BadRecordCase {
    pub(crate) why: String,
    #[serde(flatten)]
    pub(crate) place: PlaceCase,
    pub(crate) frame: String,
}

#[derive(Deserialize, Serialize)]
pub(crate) struct BadDelegationCase {
    pub(crate) why: String,
    pub(crate) wire: String,
    pub(crate) delegate: String,
    pub(crate) node: String,
    pub(crate) now: u64,
    pub(crate) error: String,
}

#[derive(Clone, Deserialize, Serialize)]
pub(crate) struct OrderCase {
    pub(crate) why: String,
    /// `node` or `client`.
    pub(crate) reader: String,
    /// Requests that the client has sent.
    pub(crate) sent: Vec<u32>,
    /// All but the last are taken.
    pub(crate) records: Vec<RecordCase>,
}
