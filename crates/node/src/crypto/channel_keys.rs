//! The static keys of channel handshakes: made here, certified by the node's identity, replaced every day, in memory only.

use std::{
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use fabstir_custody::KeyFailure;
use fabstir_protocol::{
    identity::PrivateKey,
    v2::{Advertisement, Hint, NodeChannelKey, NodeIdentity, SignedChannelKey, SignedRotation, prologue},
};
use rand_core::CryptoRng;
use tokio::time::Instant;

use super::{NodeKey, lock};
use crate::metrics;

/// How long a channel key is advertised, and how long it opens handshakes after the next one took its place.
#[derive(Clone, Copy, Debug)]
pub struct ChannelKeyTimes {
    /// From one key to the next.
    pub lifetime: Duration,
    /// For handshakes that were begun with the one before.
    pub overlap: Duration,
}

impl Default for ChannelKeyTimes {
    fn default() -> Self {
        Self { lifetime: Duration::from_secs(24 * 60 * 60), overlap: Duration::from_secs(60 * 60) }
    }
}

/// A channel key and the identity's word for it.
pub struct ChannelKey {
    private: Arc<PrivateKey>,
    hint: Hint,
    certificate: SignedChannelKey,
    made: Instant,
}

impl ChannelKey {
    /// The private half, for handshakes.
    pub fn private(&self) -> &Arc<PrivateKey> {
        &self.private
    }
}

impl fmt::Debug for ChannelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelKey").field("hint", &self.hint).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Keys {
    current: Arc<ChannelKey>,
    previous: Option<(Arc<ChannelKey>, Instant)>,
}

/// The channel keys of one identity: the current one, and for a while the one before.
#[derive(Debug)]
pub struct ChannelKeys {
    identity: fabstir_protocol::ethereum::Address,
    chain_id: u64,
    min_protocol: u16,
    versions: Vec<String>,
    prologue: Vec<u8>,
    times: ChannelKeyTimes,
    keys: Mutex<Keys>,
}

impl ChannelKeys {
    /// A first key for `identity`, certified at `unix` seconds.
    ///
    /// # Errors
    /// [`KeyFailure`]: the identity does not sign.
    pub fn new(
        identity: &NodeKey,
        chain_id: u64,
        min_protocol: u16,
        times: ChannelKeyTimes,
        unix: u64,
        rng: &mut impl CryptoRng,
    ) -> Result<Self, KeyFailure> {
        let versions: Vec<String> =
            ["2", "1"].into_iter().take(if min_protocol < 2 { 2 } else { 1 }).map(str::to_owned).collect();
        let prologue = prologue(&versions, chain_id, identity.address()).unwrap_or_default();
        let current = Arc::new(make(identity, chain_id, min_protocol, unix, rng)?);
        let keys = Mutex::new(Keys { current, previous: None });
        Ok(Self { identity: identity.address(), chain_id, min_protocol, versions, prologue, times, keys })
    }

    /// What the node says of itself to who connects now, and where it moved from.
    pub fn advertisement(&self, rotation: Option<SignedRotation>) -> Advertisement {
        let certificate = lock(&self.keys).current.certificate.clone();
        let node = NodeIdentity {
            address: self.identity,
            chain_id: self.chain_id,
            channel_key: *certificate.public_key(),
            certificate,
            rotation,
        };
        Advertisement { e2ee: self.versions.clone(), node: Some(node) }
    }

    /// The key that a handshake is for.
    pub fn find(&self, hint: Hint, now: Instant) -> Option<Arc<ChannelKey>> {
        let keys = lock(&self.keys);
        let previous = keys.previous.as_ref().filter(|(_, until)| now < *until).map(|(key, _)| key);
        [Some(&keys.current), previous].into_iter().flatten().find(|key| key.hint == hint).map(Arc::clone)
    }

    /// What both sides of a handshake must agree on.
    pub fn prologue(&self) -> &[u8] {
        &self.prologue
    }

    /// Makes the next key when it is time, and wipes the one before when nobody can need it any more.
    ///
    /// # Errors
    /// As [`ChannelKeys::new`].
    pub fn rotate_if_due(
        &self,
        identity: &NodeKey,
        unix: u64,
        now: Instant,
        rng: &mut impl CryptoRng,
    ) -> Result<(), KeyFailure> {
        let made = {
            let mut keys = lock(&self.keys);
            keys.previous.take_if(|(_, until)| now >= *until);
            keys.current.made
        };
        if now.saturating_duration_since(made) < self.times.lifetime {
            return Ok(());
        }
        self.rotate(identity, unix, now, rng)
    }

    /// Makes the next key now. Sessions that are open go on; handshakes with the key before go on for the overlap.
    ///
    /// # Errors
    /// As [`ChannelKeys::new`].
    pub fn rotate(
        &self,
        identity: &NodeKey,
        unix: u64,
        now: Instant,
        rng: &mut impl CryptoRng,
    ) -> Result<(), KeyFailure> {
        let next = Arc::new(make(identity, self.chain_id, self.min_protocol, unix, rng)?);
        let until = now.checked_add(self.times.overlap).unwrap_or(now);
        let mut keys = lock(&self.keys);
        let before = std::mem::replace(&mut keys.current, next);
        keys.previous = Some((before, until));
        drop(keys);
        tracing::info!(event = "key_rotation", key = "channel", "channel key rotated: open sessions go on");
        metrics::rotated("channel");
        Ok(())
    }
}

fn make(
    identity: &NodeKey,
    chain_id: u64,
    min_protocol: u16,
    unix: u64,
    rng: &mut impl CryptoRng,
) -> Result<ChannelKey, KeyFailure> {
    let private = PrivateKey::random(rng);
    let public = private.public_key();
    let certificate = NodeChannelKey::made_at(unix, public, min_protocol);
    let signature = identity.sign(&certificate.digest(chain_id))?;
    Ok(ChannelKey {
        private: Arc::new(private),
        hint: Hint::of(&public),
        certificate: certificate.with_signature(signature),
        made: Instant::now(),
    })
}
