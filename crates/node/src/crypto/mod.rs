//! Keys: the node's own, the sessions', and every log line about them that operators look for.

mod channel_keys;
mod identities;
mod live_session;
mod loading;
mod lock;
mod node_key;
mod session_key_store;

use std::{net::IpAddr, sync::Arc};

use fabstir_custody::KeyFailure;
use fabstir_protocol::{
    Error,
    error::DecodeError,
    id::SessionId,
    seal::{OpenError, Plaintext},
    v1::{Established, FormedInit, NotOpened, RawInit, RawSealed, SessionInit},
};
use tokio::time::Instant;

use crate::node::Node;

pub use channel_keys::{ChannelKey, ChannelKeyTimes, ChannelKeys};
pub use identities::{Identities, Identity, IdentitySettings, Keys, RotationError, check_rotation, state};
pub use live_session::{LiveSession, SealedMessage};
pub(crate) use loading::read_rotation;
pub use loading::{KeysError, ReloadError, Reloaded, load_keys, reload_keys};
pub(crate) use lock::lock;
pub use node_key::{InvalidNodeKey, NodeKey, TestKeys};
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

/// Reads the form of a session init, which costs nothing.
///
/// # Errors
/// See [`fabstir_protocol::Error`].
pub fn read_init(raw: RawInit<'_>, id: SessionId, peer: IpAddr) -> Result<FormedInit, Error> {
    raw.form(id).inspect_err(|error| decryption_failed("encrypted_session_init", error, peer))
}

/// Opens and authenticates a session init, as far as that needs no memory of other inits. `None` where there is no
/// key, or it cannot be used.
///
/// # Errors
/// See [`fabstir_protocol::Error`].
pub async fn open_init(
    node: &Arc<Node>,
    formed: FormedInit,
    peer: IpAddr,
) -> Option<Result<Established, Error>> {
    let identities = Arc::clone(node.identities.as_ref()?);
    let established = match formed.point() {
        Ok(init) => node.on_pool(move || open_with_each(&identities, init)).await?.ok()?,
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

/// Tries each live identity: one agreement for each of them, and no more.
fn open_with_each(
    identities: &Identities,
    init: SessionInit,
) -> Result<Result<Established, Error>, KeyFailure> {
    let (mut init, mut refused) = (init, Error::from(OpenError));
    for identity in identities.live(Instant::now()) {
        let agreed = identity.key.agree(init.ephemeral()).inspect_err(|error| {
            tracing::error!(event = "key_use", %error, "the identity key cannot be used: no session can be opened");
        })?;
        match init.open_agreed(&agreed, identity.key.public()) {
            Ok(opened) => return Ok(opened.authenticate().map_err(Error::from)),
            Err(NotOpened { error, init: Some(whole) }) => (init, refused) = (*whole, error),
            Err(NotOpened { error, init: None }) => return Ok(Err(error)),
        }
    }
    Ok(Err(refused))
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
