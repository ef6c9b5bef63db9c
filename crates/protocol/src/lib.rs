//! End-to-end encryption for inference over WebSocket: the protocol core.
//!
//! Nothing here does I/O, spawns, logs or reads a clock. Bytes go in, states and bytes come out; time and
//! randomness are arguments. What is on the wire is specified in docs/protocol.md, and every rule there is
//! one function here.
//!
//! The states of a session are types, and a step consumes the state before it:
//!
//! ```text
//! text -> Inbound -> SessionInit -> Opened -> Established -> Session     (the node)
//!                    ClientHello -> ClientSession                        (the client)
//! ```
//!
//! A session exists only after its signature was checked; a [`seal::Plaintext`] exists only after its tag
//! was.
//!
//! ```
//! use fabstir_protocol::identity::PrivateKey;
//! use fabstir_protocol::v1::{ClientFrame, ClientHello, Dialect, Inbound, InitContext, Owner};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut rng = rand_core::UnwrapErr(getrandom::SysRng);
//! let (node, client) = (PrivateKey::random(&mut rng), PrivateKey::random(&mut rng));
//!
//! // The client opens a session with a node whose public key it knows ...
//! let hello = ClientHello {
//!     node_key: &node.public_key(),
//!     client_key: &client,
//!     id: "42".try_into()?,
//!     context: InitContext::default(),
//!     dialect: Dialect::Deployed,
//!     timestamp: None,
//!     claim: true,
//! };
//! let (init, mut ours) = hello.start(&mut rng)?;
//!
//! // ... the node opens the init, checks who signed it ...
//! let Ok(Inbound { frame: ClientFrame::SessionInit(id, raw), .. }) = Inbound::decode(&init) else {
//!     unreachable!()
//! };
//! let mut established = raw.read(id)?.open(&node)?.authenticate()?;
//! assert_eq!(established.owner, Owner::Verified(client.address()));
//!
//! // ... and from then on both seal and open.
//! let text = ours.message(b"hello", &mut rng)?;
//! let Ok(Inbound { frame: ClientFrame::Message(_, raw), .. }) = Inbound::decode(&text) else {
//!     unreachable!()
//! };
//! let payload = raw.read()?;
//! assert_eq!(established.session.open(&payload)?.as_bytes(), b"hello");
//! assert!(established.session.open(&payload).is_err(), "a message opens once");
//! # Ok(())
//! # }
//! ```

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects, clippy::as_conversions))]

pub mod aad;
pub mod choice;
pub mod error;
pub mod ethereum;
pub mod id;
pub mod identity;
pub mod request;
#[cfg(feature = "schema")]
pub mod schema;
pub mod seal;
pub mod v1;
pub mod v2;

pub use error::{Code, Error};
