//! Ask a node over an end-to-end encrypted session.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use fabstir_client::{Client, Config, Event, Request};
//!
//! let node_key = "02c6047f9441ed7d6d3045406e95c07cd85c778e4b8cef3ca7abac09b95c709ee5".parse()?;
//! let wallet = fabstir_client::random_key();
//! let mut client = Client::connect(Config::new("ws://127.0.0.1:8080/v1/ws", node_key), wallet).await?;
//! let mut answer = client.ask(&Request::prompt("What is the capital of France?")).await?;
//! while let Some(event) = answer.next().await? {
//!     if let Event::Text(words) = event {
//!         print!("{}", words.as_str());
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! The node's key is the caller's to know beforehand: who lets the network name it talks to whoever the
//! network likes. Nothing is ever sent in the clear, whatever the node asks for. A frame that does not open
//! ends the session: its key is wiped and the error says no more than that.

mod client;
mod error;
mod request;

pub use client::{Answer, Client, Config, Direction, End, Event};
pub use error::Error;
pub use request::{Request, Turn};

use fabstir_protocol::identity::PrivateKey;
pub use fabstir_protocol::{request::Role, v1::Usage};

/// A key chosen at random, for who needs no address of their own.
pub fn random_key() -> PrivateKey {
    PrivateKey::random(&mut rng())
}

/// The operating system's generator.
pub(crate) fn rng() -> impl rand_core::CryptoRng {
    rand_core::UnwrapErr(getrandom::SysRng)
}
