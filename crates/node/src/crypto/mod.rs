//! Keys: the node's own, the sessions', and every log line about them that operators look for.

mod channel_keys;
mod identities;
mod live_session;
mod node_key;
mod session_key_store;

use std::{net::IpAddr, path::Path, sync::Arc};

use fabstir_custody::KeyFailure;
use fabstir_protocol::{
    Error,
    error::DecodeError,
    id::SessionId,
    seal::{OpenError, Plaintext},
    v1::{Established, FormedInit, NotOpened, RawInit, RawSealed, SessionInit},
    v2::SignedRotation,
};
use tokio::time::Instant;

use crate::{
    config::{Config, ConfigError, KeySources},
    node::Node,
};

pub use channel_keys::{ChannelKey, ChannelKeyTimes, ChannelKeys};
pub use identities::{Identities, Identity, IdentitySettings, Keys, RotationError, state};
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

/// Why the node's keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// There is no key where it should be.
    #[error("{setting}: {error}")]
    Key {
        /// What says where it should be.
        setting: &'static str,
        /// Why there is none.
        error: InvalidNodeKey,
    },
    /// The statement of the key before cannot be read.
    #[error("{path}: {reason}")]
    Rotation {
        /// Its file.
        path: String,
        /// Why.
        reason: String,
    },
    /// A token that only signs cannot open version 1's inits.
    #[error("the token signs, and does not agree (ECDH), which version 1 needs: set MIN_PROTOCOL=2")]
    SignsOnly,
}

/// Gets the keys from where they are; `None` where there is none, which is plaintext mode.
///
/// # Errors
/// [`KeysError`].
pub fn load_keys(sources: &KeySources, config: &Config) -> Result<Option<Keys>, KeysError> {
    let Some(source) = &sources.current else { return Ok(None) };
    let load = |setting| {
        move |source: &_| {
            NodeKey::load(source, config.test_keys).map_err(|error| KeysError::Key { setting, error })
        }
    };
    let current = load(sources.setting)(source)?;
    let mut previous = sources.previous.as_ref().map(load("the key before")).transpose()?;
    let mut rotation = sources.rotation.as_deref().map(read_rotation).transpose()?;
    if previous.as_ref().is_some_and(|previous| previous.address() == current.address()) {
        tracing::warn!(
            event = "key_rotation",
            key = "identity",
            "the key before is the current one: a rotation was begun and not finished"
        );
        (previous, rotation) = (None, None);
    }
    if config.min_protocol < 2
        && ![Some(&current), previous.as_ref()].into_iter().flatten().all(NodeKey::can_agree)
    {
        return Err(KeysError::SignsOnly);
    }
    Ok(Some(Keys { current, previous, rotation }))
}

/// Follows the settings once more, and makes what is found the node's identity where it is another one.
///
/// # Errors
/// [`ReloadError`]; nothing changes then.
pub fn reload_keys(node: &Node, sources: &KeySources) -> Result<Reloaded, ReloadError> {
    let Some(sources) = sources.again()? else { return Ok(Reloaded::Fixed) };
    let Some(keys) = load_keys(&sources, &node.config)? else { return Ok(Reloaded::Fixed) };
    let address = keys.current.address();
    let now = node.identity().map(|identity| identity.key.address());
    if now == Some(address) {
        return Ok(Reloaded::Same);
    }
    // What stands in a file is of use only if it is about this move.
    let signed = keys.rotation.filter(|signed| {
        let rotation = signed.rotation();
        Some(rotation.from) == now && rotation.to == address
    });
    node.rotate_identity(keys.current, signed)?;
    Ok(Reloaded::Rotated)
}

/// What came of following the settings once more.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reloaded {
    /// The key came as a text, or there is none: it stays what it is until the node starts again.
    Fixed,
    /// The key is the one that the node has.
    Same,
    /// The node has another identity.
    Rotated,
}

impl std::fmt::Display for Reloaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Fixed => "it came as a text, or there is none: it stays until the node starts again",
            Self::Same => "it is the one that the node has",
            Self::Rotated => "it is another one: the identity key was rotated",
        })
    }
}

/// Why the identity stays what it is.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each is what it holds")]
pub enum ReloadError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Keys(#[from] KeysError),
    #[error(transparent)]
    Rotation(#[from] RotationError),
}

fn read_rotation(path: &Path) -> Result<SignedRotation, KeysError> {
    let fault = |reason: String| KeysError::Rotation { path: path.display().to_string(), reason };
    let text = std::fs::read_to_string(path).map_err(|error| fault(error.to_string()))?;
    serde_json::from_str(&text).map_err(|_| fault("it is no rotation, as `keys rotate` writes it".into()))
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
