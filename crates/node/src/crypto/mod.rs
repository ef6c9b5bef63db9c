//! Keys: the node's own, the sessions', and every log line about them that operators look for.

mod channel_keys;
mod live_session;
mod node_key;
mod session_key_store;

use std::{net::IpAddr, sync::Arc};

use fabstir_protocol::{
    Error,
    error::DecodeError,
    id::SessionId,
    seal::Plaintext,
    v1::{Established, RawInit, RawSealed},
};

use crate::node::Node;

pub use channel_keys::{ChannelKey, ChannelKeyTimes, ChannelKeys};
pub use live_session::{LiveSession, SealedMessage};
pub use node_key::{InvalidNodeKey, NodeKey, TestKeys};
pub(crate) use session_key_store::lock;
pub use session_key_store::{
    ConnectionId, OpenRefused, Running, SessionKeyMetrics, SessionKeyStore, StoreLimits,
};

/// Says at start whether there is a key, in the words that operators look for.
pub fn announce(key: Option<&NodeKey>) {
    match key {
        Some(key) => {
            tracing::info!(address = %key.address(), public_key = %key.public(), event = "key_load", "Private key loaded successfully");
        }
        None => tracing::warn!(
            event = "key_load",
            "HOST_PRIVATE_KEY not found: sessions are NOT encrypted, everybody on the way can read them. \
             Encrypted frames are refused. Set HOST_PRIVATE_KEY to serve encrypted sessions"
        ),
    }
}

/// Opens and authenticates a session init, as far as that needs no memory of other inits. `None` where there is no
/// key.
///
/// # Errors
/// See [`fabstir_protocol::Error`].
pub async fn open_init(
    node: &Arc<Node>,
    id: SessionId,
    raw: RawInit<'_>,
    peer: IpAddr,
) -> Option<Result<Established, Error>> {
    let established = match raw.read(id) {
        Ok(init) => {
            let open = move |key: &NodeKey| Ok(init.open(key.private())?.authenticate()?);
            node.with_key(open).await?
        }
        Err(error) => Err(error),
    };
    match &established {
        Ok(established) => tracing::info!(
            event = "encrypted_session_init",
            "Client address recovered: {}",
            established.owner.address()
        ),
        Err(error) => decryption_failed("encrypted_session_init", error, peer),
    }
    Some(established)
}

/// Opens a message under a session's key.
///
/// # Errors
/// See [`fabstir_protocol::Error`].
pub fn open_message(
    live: &LiveSession,
    raw: RawSealed<'_>,
    peer: IpAddr,
) -> Result<(Plaintext, SealedMessage), Error> {
    tracing::debug!(event = "decryption", session_id = %live.id(), "Decrypting encrypted_message");
    let opened = raw.read().map_err(Error::from).and_then(|payload| live.open(&payload));
    match &opened {
        Ok(_) => tracing::info!(
            event = "decryption",
            session_id = %live.id(),
            "Encrypted message decrypted successfully"
        ),
        Err(error) => decryption_failed("decryption", error, peer),
    }
    opened
}

fn decryption_failed(event: &'static str, error: &Error, peer: IpAddr) {
    if *error == Error::Decode(DecodeError::NonceSize) {
        tracing::info!(event, %peer, "Decryption failed: invalid nonce size");
    } else {
        tracing::info!(event, %peer, "Decryption failed: {error}");
    }
}
