//! Ask a node over an end-to-end encrypted session.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use fabstir_client::{Config, Event, Request, Session, anonymous};
//!
//! let node = "0x7e5f4552091a69125d5dfcb7b8c2659029395bdf".parse()?;
//! let config = Config::new("ws://127.0.0.1:8080/v1/ws", node, anonymous());
//! let session = Session::connect(config).await?;
//! let mut answer = session.ask(&Request::prompt("What is the capital of France?")).await?;
//! while let Some(event) = answer.next().await? {
//!     if let Event::Text(words) = event {
//!         print!("{}", words.as_str());
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! The node's identity is the caller's to know beforehand: who lets the network name it talks to whoever the network
//! likes. Nothing is ever sent in the clear, whatever the node asks for, and nothing but version 2 is spoken unless
//! [`v1`] is asked for by name. A frame that does not open ends the session: its keys are wiped and the error says no
//! more than that. An answer is whole only with its sealed end; anything else is [`Error::Truncated`].

mod answer;
mod config;
mod dial;
mod driver;
mod error;
pub mod probe;
mod request;
mod roots;
mod session;
pub mod v1;

pub use answer::{Capture, Direction, End, Event, Frame};
pub use config::Config;
pub use error::Error;
pub use request::{Request, Turn};
pub use roots::{InvalidCertificate, InvalidRoots, Roots};
pub use session::{Answer, Least, Op, Session};

use std::sync::Arc;

use fabstir_protocol::identity::PrivateKey;
pub use fabstir_protocol::{
    request::Role,
    v1::Usage,
    v2::{ClientIdentity, SessionDelegation, Shape, SignedDelegation},
};

/// Somebody without a wallet: a fresh key, forgotten with the session.
pub fn anonymous() -> ClientIdentity {
    ClientIdentity { key: Arc::new(random_key()), delegation: None }
}

/// A key chosen at random, for who needs no address of their own.
pub fn random_key() -> PrivateKey {
    PrivateKey::random(&mut rng())
}

/// The operating system's generator.
pub(crate) fn rng() -> impl rand_core::CryptoRng {
    rand_core::UnwrapErr(getrandom::SysRng)
}
