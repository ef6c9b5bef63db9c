//! Version 2: a forward-secret channel. docs/protocol.md, part 2.
//!
//! Noise XKpsk3 over secp256k1 with an ML-KEM-768 secret as the pre-shared key, certificates of EIP-712 on both ends,
//! records that are numbered, padded and rekeyed, and resumption by single-use tickets.
//!
//! ```text
//! Advertisement -> VerifiedNode -> AwaitingM2 -> Channel          (the client)
//!                  M1 -> OpenedM1 -> AwaitingM3 -> Greeted        (the node)
//! Ticket -> AwaitingR2 -> Channel;  R1 -> OpenedR1 -> Channel     (resumption)
//! ```

mod advertisement;
mod answers;
mod body;
mod certificate;
mod eip712;
mod frame;
mod handshake;
pub(crate) mod json;
mod kem;
mod noise;
mod record;
mod requests;
mod resume;
mod secret;

pub use advertisement::{Advertisement, AdvertisementError, NodeIdentity, VERSION, VerifiedNode, prologue};
pub use answers::{Answers, FromNode};
pub use body::{
    Ack, Cancel, Claim, End, Fault, Goodbye, Hello, Limits, ModelEntry, Received, Resume, Welcome, decode,
    encode,
};
pub use certificate::{
    CHANNEL_KEY_SECONDS, CertificateError, MAX_DELEGATION_SECONDS, NodeChannelKey, NodeKeyRotation, SKEW,
    SessionDelegation, SignedChannelKey, SignedDelegation, SignedRotation,
};
pub use frame::{Hint, InvalidFrame, Kind, MAX_FRAME_LEN};
pub use handshake::{
    AwaitingM2, AwaitingM3, Channel, ClientIdentity, Greeted, M1, OpenedM1, RESUME_LABEL, Ticket,
};
pub(crate) use json::or_default;
pub use kem::{AwsLc, AwsLcKey, CIPHERTEXT_LEN, ENCAPSULATION_KEY_LEN, Kem, KemSecret};
pub use noise::HandshakeError;
pub use record::{
    Direction, Flags, HEADER_LEN, MAX_BODY, MAX_PLAINTEXT, Opener, REKEY_BYTES, REKEY_RECORDS, Record,
    RecordType, Sealer, Shape, Sid,
};
pub use requests::{FromClient, Requests};
pub use resume::{AwaitingR2, OpenedR1, R1};
