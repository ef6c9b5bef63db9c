//! Channels of version 2: what the node does with the binary frames of a connection.
//!
//! A session owns its answers; a connection lends it a socket. When the socket is lost the answers go on for a
//! while, and a resumption lends the session another one.

mod answer;
mod link;
mod pump;
mod run;
mod session;
mod sessions;

pub(crate) use link::{Link, LinkError, granted};
pub use session::Client;
pub(crate) use session::Session;
pub use sessions::{ChannelLimits, Sessions};
