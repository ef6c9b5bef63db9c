//! The node's keys, from where the settings say they are: at the start, and each time that the settings are followed again.

use std::path::Path;

use fabstir_protocol::v2::SignedRotation;

use super::{InvalidNodeKey, Keys, NodeKey, RotationError};
use crate::{
    config::{Config, ConfigError, KeySources},
    node::Node,
    regular,
};

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
    // What was found beside the key's file, and not named: left there by a rotation to a key that is no longer this one.
    if sources.names_the_one_before().is_none()
        && rotation.as_ref().is_some_and(|signed| signed.rotation().to != current.address())
    {
        tracing::warn!(
            event = "key_rotation",
            key = "identity",
            "the statement beside the key's file is of a rotation to another key, and is passed over, as is the key before: \
             remove both files"
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
    // Nobody sits at a service's terminal, and everything else that is to be read again would wait for them.
    if sources.ask() {
        return Ok(Reloaded::Typed);
    }
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
    /// Its password or PIN is typed: it stays what it is until the node starts again.
    Typed,
    /// The key is the one that the node has.
    Same,
    /// The node has another identity.
    Rotated,
}

impl std::fmt::Display for Reloaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Fixed => "it came as a text, or there is none: it stays until the node starts again",
            Self::Typed => {
                "its password or PIN is typed at the terminal: it stays until the node starts again; name a file with it \
                 (HOST_KEYSTORE_PASSWORD_FILE, PKCS11_PIN_FILE) to have it followed while the node runs"
            }
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

pub(crate) fn read_rotation(path: &Path) -> Result<SignedRotation, KeysError> {
    let fault = |reason: String| KeysError::Rotation { path: path.display().to_string(), reason };
    let text = regular::read_text(path).map_err(|error| fault(error.to_string()))?;
    serde_json::from_str(&text).map_err(|_| fault("it is no rotation, as `keys rotate` writes it".into()))
}
