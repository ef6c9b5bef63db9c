//! Who the node is: one identity, and for a while the one that it was before.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use fabstir_custody::KeyFailure;
use fabstir_protocol::{
    ethereum::Address,
    v2::{Advertisement, CertificateError, Hint, NodeKeyRotation, SignedRotation},
};
use rand_core::CryptoRng;
use tokio::time::Instant;

use super::{ChannelKey, ChannelKeyTimes, ChannelKeys, NodeKey, lock};
use crate::metrics;

/// Before a key that failed is asked again.
const REST: Duration = Duration::from_secs(10);

/// An identity and the channel keys that it certifies: a channel key belongs to one identity.
#[derive(Debug)]
pub struct Identity {
    /// The key that clients pin.
    pub key: NodeKey,
    /// The static keys of version 2's handshakes.
    pub channel_keys: ChannelKeys,
}

/// The keys that a node starts with.
#[derive(Debug)]
pub struct Keys {
    /// Who it is.
    pub current: NodeKey,
    /// Who it was, where that is not over yet.
    pub previous: Option<NodeKey>,
    /// What the identity before said of this one.
    pub rotation: Option<SignedRotation>,
}

impl From<NodeKey> for Keys {
    fn from(current: NodeKey) -> Self {
        Self { current, previous: None, rotation: None }
    }
}

/// What all identities of a node have in common.
#[derive(Clone, Copy, Debug)]
pub struct IdentitySettings {
    /// The chain of its certificates.
    pub chain_id: u64,
    /// The oldest version that is served.
    pub min_protocol: u16,
    /// How long channel keys live.
    pub channel_keys: ChannelKeyTimes,
    /// How long the identity before goes on beside the next one.
    pub overlap: Duration,
}

/// Why an identity does not take the place of another.
#[derive(Debug, thiserror::Error)]
pub enum RotationError {
    /// Nothing would change.
    #[error("the key is {0}, which is the node's already")]
    Same(Address),
    /// The statement is of other keys, or by nobody who may make it.
    #[error(
        "the rotation does not hold: {0}: KEY_ROTATION_FILE (or the file with .rotation behind the key's) must be what the key \
         before says of this one; take it out where that is over"
    )]
    Statement(CertificateError),
    /// There is none to take the place of.
    #[error("the node has no identity key: it serves plaintext")]
    NoIdentity,
    /// A key does not sign.
    #[error(transparent)]
    Key(#[from] KeyFailure),
}

impl From<CertificateError> for RotationError {
    fn from(error: CertificateError) -> Self {
        Self::Statement(error)
    }
}

#[derive(Debug)]
struct Live {
    current: Arc<Identity>,
    previous: Option<(Arc<Identity>, Instant)>,
    rotation: Option<SignedRotation>,
}

impl Live {
    fn identities(&self, now: Instant) -> impl Iterator<Item = &Arc<Identity>> {
        let previous = self.previous.as_ref().filter(|(_, until)| now < *until).map(|(identity, _)| identity);
        std::iter::once(&self.current).chain(previous)
    }
}

/// The node's identities, in memory only.
#[derive(Debug)]
pub struct Identities {
    settings: IdentitySettings,
    live: Mutex<Live>,
    /// Until when a key that failed is left alone; held by who looks after the keys.
    rests: Mutex<Option<Instant>>,
}

impl Identities {
    /// The identities at the start of the node, at `unix` seconds. Of a rotation the time of the overlap is what is left.
    ///
    /// # Errors
    /// [`RotationError`].
    pub fn new(
        keys: impl Into<Keys>,
        settings: IdentitySettings,
        unix: u64,
        now: Instant,
        rng: &mut impl CryptoRng,
    ) -> Result<Self, RotationError> {
        let Keys { current, previous, rotation } = keys.into();
        if let Some(signed) = &rotation {
            check(signed, previous.as_ref(), current.address(), settings.chain_id, unix)?;
        }
        let begun = rotation.as_ref().map_or(unix, |signed| signed.rotation().not_before);
        let left = settings.overlap.saturating_sub(Duration::from_secs(unix.saturating_sub(begun)));
        let until = now.checked_add(left).unwrap_or(now);
        let previous = match previous.filter(|_| !left.is_zero()) {
            Some(key) => Some((Arc::new(settings.identity(key, unix, rng)?), until)),
            None => None,
        };
        let current = Arc::new(settings.identity(current, unix, rng)?);
        Ok(Self { settings, live: Mutex::new(Live { current, previous, rotation }), rests: Mutex::default() })
    }

    /// Who the node is.
    pub fn current(&self) -> Arc<Identity> {
        Arc::clone(&lock(&self.live).current)
    }

    /// Who may be asked for: the current identity first.
    pub fn live(&self, now: Instant) -> Vec<Arc<Identity>> {
        lock(&self.live).identities(now).map(Arc::clone).collect()
    }

    /// The channel key that a handshake is for, and whose it is.
    pub fn find(&self, hint: Hint, now: Instant) -> Option<(Arc<Identity>, Arc<ChannelKey>)> {
        let live = self.live(now);
        live.into_iter().find_map(|identity| {
            let key = identity.channel_keys.find(hint, now)?;
            Some((identity, key))
        })
    }

    /// What the node says of itself to who connects now.
    pub fn advertisement(&self) -> Advertisement {
        let live = lock(&self.live);
        live.current.channel_keys.advertisement(live.rotation.clone())
    }

    /// Makes `next` the node's identity. The one before goes on beside it for the overlap, for sessions and for clients that
    /// still pin it; of a rotation before that one nothing goes on. `signed` is what the identity before says of it, where that
    /// was said elsewhere.
    ///
    /// # Errors
    /// [`RotationError`]; nothing changes then.
    pub fn rotate(
        &self,
        next: NodeKey,
        signed: Option<SignedRotation>,
        unix: u64,
        now: Instant,
        rng: &mut impl CryptoRng,
    ) -> Result<Address, RotationError> {
        let (from, to) = (self.current(), next.address());
        if from.key.address() == to {
            return Err(RotationError::Same(to));
        }
        let signed = match signed {
            Some(signed) => {
                check(&signed, Some(&from.key), to, self.settings.chain_id, unix)?;
                signed
            }
            None => state(&from.key, to, self.settings.chain_id, unix)?,
        };
        let next = Arc::new(self.settings.identity(next, unix, rng)?);
        let until = now.checked_add(self.settings.overlap).unwrap_or(now);
        let mut live = lock(&self.live);
        let before = std::mem::replace(&mut live.current, next);
        live.previous = Some((before, until));
        live.rotation = Some(signed);
        drop(live);
        metrics::rotated("identity");
        tracing::warn!(
            event = "key_rotation",
            key = "identity",
            from = %from.key.address(),
            to = %to,
            overlap_seconds = self.settings.overlap.as_secs(),
            "identity key rotated: open sessions go on, clients are shown the new one"
        );
        Ok(to)
    }

    /// Makes channel keys anew where it is time, and forgets the identity before when its time is over. Whoever comes while
    /// another still waits for a token goes away again.
    ///
    /// # Errors
    /// [`KeyFailure`]: the channel keys before go on.
    pub fn sweep(&self, unix: u64, now: Instant, rng: &mut impl CryptoRng) -> Result<(), KeyFailure> {
        let over = lock(&self.live).previous.take_if(|(_, until)| now >= *until);
        if let Some((identity, _)) = over {
            let address = identity.key.address();
            tracing::info!(event = "key_rotation", key = "identity", %address, "the overlap is over: the identity before is forgotten");
        }
        let Ok(mut rests) = self.rests.try_lock() else { return Ok(()) };
        if rests.is_some_and(|until| now < until) {
            return Ok(());
        }
        let mut look_after = |identity: &Arc<Identity>| {
            identity.key.look_whether_back()?;
            identity.channel_keys.rotate_if_due(&identity.key, unix, now, rng)
        };
        // One that is away does not hold the other up.
        let faults: Vec<KeyFailure> =
            self.live(now).iter().filter_map(|identity| look_after(identity).err()).collect();
        *rests = if faults.is_empty() { None } else { now.checked_add(REST) };
        faults.into_iter().next().map_or(Ok(()), Err)
    }
}

impl IdentitySettings {
    fn identity(&self, key: NodeKey, unix: u64, rng: &mut impl CryptoRng) -> Result<Identity, KeyFailure> {
        let channel_keys =
            ChannelKeys::new(&key, self.chain_id, self.min_protocol, self.channel_keys, unix, rng)?;
        Ok(Identity { key, channel_keys })
    }
}

/// What `from` says of its successor.
///
/// # Errors
/// [`KeyFailure`].
pub fn state(from: &NodeKey, to: Address, chain_id: u64, unix: u64) -> Result<SignedRotation, KeyFailure> {
    let rotation = NodeKeyRotation { from: from.address(), to, not_before: unix };
    let signature = from.sign(&rotation.digest(chain_id))?;
    Ok(rotation.with_signature(signature))
}

/// Whether a node would start with `keys`.
///
/// # Errors
/// [`RotationError`]
pub fn check_rotation(keys: &Keys, chain_id: u64, unix: u64) -> Result<(), RotationError> {
    let Some(signed) = &keys.rotation else { return Ok(()) };
    Ok(check(signed, keys.previous.as_ref(), keys.current.address(), chain_id, unix)?)
}

fn check(
    signed: &SignedRotation,
    from: Option<&NodeKey>,
    to: Address,
    chain_id: u64,
    unix: u64,
) -> Result<(), CertificateError> {
    let from = from.map_or_else(|| signed.rotation().from, NodeKey::address);
    if signed.verify(from, chain_id, unix)? == to { Ok(()) } else { Err(CertificateError::OtherNode) }
}
