//! What a node remembers so that one init opens one session. Holds 16-byte HMACs under a secret of the
//! process, never keys or nonces, and sees of a key its digest alone: it is asked on threads whose stacks stay. The clock is an argument: unix seconds, since timestamps
//! are compared with it, that only go forward.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fmt,
    net::IpAddr,
};

use hmac::{Hmac, KeyInit, Mac};
use rand_core::CryptoRng;
use sha2::Sha256;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::{
    error::ReplayError,
    v1::handshake::{Established, Owner, TIMESTAMP_WINDOW},
};

/// Keys the HMACs of one process, so that what is remembered says nothing outside of it.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct ProcessSecret([u8; 32]);

type Mark = [u8; 16];

impl ProcessSecret {
    /// A new one, at start.
    pub fn random(rng: &mut impl CryptoRng) -> Self {
        let mut secret = Self([0; 32]);
        rng.fill_bytes(&mut secret.0);
        secret
    }

    fn mark(&self, label: &[u8], parts: &[&[u8]]) -> Mark {
        let mut bytes = [0; 16];
        if let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.0) {
            mac.update(label);
            for part in parts {
                mac.update(part);
            }
            let tag: [u8; 32] = mac.finalize().into_bytes().into();
            if let Some(half) = tag.first_chunk() {
                bytes = *half;
            }
        }
        bytes
    }

    fn init(&self, established: &Established) -> Mark {
        self.mark(b"init", &[&established.once])
    }

    fn key(&self, established: &Established) -> Mark {
        let (kind, address) = match &established.owner {
            Owner::Verified(address) => (b"v", address),
            Owner::Unclaimed(address) => (b"u", address),
        };
        self.mark(b"key", &[kind, address.as_bytes(), established.key_digest.as_bytes()])
    }
}

impl fmt::Debug for ProcessSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProcessSecret(..)")
    }
}

/// Where inits come from, as far as their number is bounded: one IPv4 address or one IPv6 /64.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Network(IpAddr);

impl From<IpAddr> for Network {
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(v4) => IpAddr::V4(v4),
            IpAddr::V6(v6) => {
                let [a, b, c, d, ..] = v6.segments();
                IpAddr::from([a, b, c, d, 0, 0, 0, 0])
            }
        })
    }
}

/// No more inits can be remembered, so no new one is accepted.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the memory of session inits is full")]
pub struct MemoryFull;

/// An init was seen, or cannot be remembered.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotRemembered {
    /// Seen before.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// Full.
    #[error(transparent)]
    Full(#[from] MemoryFull),
}

/// How much an [`InitMemory`] holds and for how long.
#[derive(Clone, Copy, Debug)]
pub struct InitMemoryLimits {
    /// Inits in all.
    pub total: usize,
    /// Inits of one network.
    pub per_network: usize,
    /// Seconds that an init is remembered after its conversation is gone: the TTL of session keys.
    pub keep_seconds: u64,
}

impl InitMemoryLimits {
    /// The bounds of docs/protocol.md, section 1.5.
    pub fn standard(session_key_ttl_seconds: u64) -> Self {
        Self { total: 1_048_576, per_network: 65_536, keep_seconds: session_key_ttl_seconds }
    }
}

/// Least seconds that an init is remembered.
const LEAST_SECONDS: u64 = 600;
/// Seconds that an init is remembered past its timestamp: the last second in which it would be fresh, and one.
const PAST_TIMESTAMP_SECONDS: u64 = TIMESTAMP_WINDOW + 1;

/// A conversation, as far as this memory tells them apart. The caller never uses a number twice.
pub type ConversationNumber = u64;

struct Entry {
    key: Mark,
    network: Network,
    /// Not to be forgotten before this, whatever becomes of its conversation.
    not_before: u64,
}

/// The memory of verified inits. Bounded; nothing live is ever dropped to make room.
pub struct InitMemory {
    secret: ProcessSecret,
    limits: InitMemoryLimits,
    inits: HashMap<Mark, Entry>,
    keys: HashSet<Mark>,
    held: HashMap<ConversationNumber, Vec<Mark>>,
    by_expiry: BTreeSet<(u64, Mark)>,
    per_network: HashMap<Network, usize>,
}

impl InitMemory {
    /// An empty memory.
    pub fn new(secret: ProcessSecret, limits: InitMemoryLimits) -> Self {
        Self {
            secret,
            limits,
            inits: HashMap::new(),
            keys: HashSet::new(),
            held: HashMap::new(),
            by_expiry: BTreeSet::new(),
            per_network: HashMap::new(),
        }
    }

    /// Whether an init is new, so far: what was seen is not to be counted for whoever sent it first.
    ///
    /// # Errors
    /// [`ReplayError`].
    pub fn refuse_seen(&mut self, established: &Established, now: u64) -> Result<(), ReplayError> {
        self.unseen(established, now).map(|_| ())
    }

    fn unseen(&mut self, established: &Established, now: u64) -> Result<(Mark, Mark), ReplayError> {
        self.forget_expired(now);
        let (init, key) = (self.secret.init(established), self.secret.key(established));
        if self.inits.contains_key(&init) {
            return Err(ReplayError::Init);
        }
        if self.keys.contains(&key) { Err(ReplayError::Key) } else { Ok((init, key)) }
    }

    /// Remembers an init, if it is new, for as long as `conversation` lives and the TTL after it. Check and
    /// insert are this one step.
    ///
    /// # Errors
    /// [`NotRemembered`]; the memory is then as it was.
    pub fn admit(
        &mut self,
        established: &Established,
        conversation: ConversationNumber,
        network: Network,
        now: u64,
    ) -> Result<(), NotRemembered> {
        let (init, key) = self.unseen(established, now)?;
        let of_network = self.per_network.get(&network).copied().unwrap_or(0);
        if self.inits.len() >= self.limits.total || of_network >= self.limits.per_network {
            return Err(MemoryFull.into());
        }
        let stamped = established.data.timestamp.map_or(0, |at| at.saturating_add(PAST_TIMESTAMP_SECONDS));
        let not_before = now.saturating_add(LEAST_SECONDS).max(stamped);
        self.inits.insert(init, Entry { key, network, not_before });
        self.keys.insert(key);
        self.held.entry(conversation).or_default().push(init);
        self.per_network.insert(network, of_network.saturating_add(1));
        Ok(())
    }

    /// Starts the time after which the inits of a conversation that is gone may be forgotten.
    pub fn conversation_ended(&mut self, conversation: ConversationNumber, now: u64) {
        let kept_until = now.saturating_add(self.limits.keep_seconds);
        for init in self.held.remove(&conversation).unwrap_or_default() {
            if let Some(entry) = self.inits.get(&init) {
                self.by_expiry.insert((kept_until.max(entry.not_before), init));
            }
        }
    }

    /// Forgets what may be forgotten.
    pub fn forget_expired(&mut self, now: u64) {
        while let Some((expiry, init)) = self.by_expiry.first().copied()
            && expiry <= now
        {
            self.by_expiry.pop_first();
            if let Some(entry) = self.inits.remove(&init) {
                self.keys.remove(&entry.key);
                self.count_down(entry.network);
            }
        }
    }

    /// Inits that are remembered.
    pub fn len(&self) -> usize {
        self.inits.len()
    }

    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.inits.is_empty()
    }

    fn count_down(&mut self, network: Network) {
        if let Some(count) = self.per_network.get_mut(&network) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.per_network.remove(&network);
            }
        }
    }
}

impl fmt::Debug for InitMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InitMemory").field("inits", &self.inits.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
