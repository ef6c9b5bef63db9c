//! Which node, and how it is reached.

use std::{fmt, time::Duration};

use fabstir_protocol::{
    ethereum::Address,
    v2::{ClientIdentity, Shape},
};

use crate::{Roots, answer::Capture};

/// Which node, who asks, and how.
pub struct Config {
    /// `ws://host:port/v1/ws`, or `wss://`.
    pub url: String,
    /// The node's identity, pinned.
    pub node: Address,
    /// Who asks: a delegate key with its wallet's word, or a fresh key of somebody who stays anonymous.
    pub identity: ClientIdentity,
    /// What TLS believes and shows where the address is `wss://`.
    pub roots: Roots,
    /// How lengths are hidden.
    pub shape: Shape,
    /// How long connecting and opening the session may take.
    pub connect_timeout: Duration,
    /// After how long without any frame a connection counts as lost. Nodes ping every 15 seconds.
    pub silence_timeout: Duration,
    /// How long a lost connection is tried to be replaced.
    pub resume_for: Duration,
    /// After how long a channel gets new keys by a new handshake, on a new connection.
    pub renew_after: Duration,
    /// Sees every frame as an outsider would.
    pub capture: Option<Capture>,
}

impl Config {
    /// The usual times, nothing captured.
    pub fn new(url: impl Into<String>, node: Address, identity: ClientIdentity) -> Self {
        Self {
            url: url.into(),
            node,
            identity,
            roots: Roots::default(),
            shape: Shape::default(),
            connect_timeout: Duration::from_secs(10),
            silence_timeout: Duration::from_secs(45),
            resume_for: Duration::from_secs(60),
            renew_after: Duration::from_secs(60 * 60),
            capture: None,
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config").field("url", &self.url).field("node", &self.node).finish_non_exhaustive()
    }
}
