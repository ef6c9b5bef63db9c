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
mod tests {
    use super::*;
    use crate::{
        id::SessionId,
        identity::PrivateKey,
        v1::{ClientFrame, ClientHello, Dialect, Inbound, handshake::InitContext},
    };

    fn rng() -> impl CryptoRng {
        rand_core::UnwrapErr(getrandom::SysRng)
    }

    struct Fixture {
        node: PrivateKey,
        client: PrivateKey,
        memory: InitMemory,
    }

    impl Fixture {
        fn new(limits: InitMemoryLimits) -> Self {
            let (node, client) = (PrivateKey::random(&mut rng()), PrivateKey::random(&mut rng()));
            Self { node, client, memory: InitMemory::new(ProcessSecret::random(&mut rng()), limits) }
        }

        fn init(&self, timestamp: Option<u64>) -> String {
            let hello = ClientHello {
                node_key: &self.node.public_key(),
                client_key: &self.client,
                id: SessionId::try_from("1").unwrap(),
                context: InitContext::default(),
                dialect: Dialect::Deployed,
                timestamp,
                claim: true,
            };
            hello.start(&mut rng()).unwrap().0
        }

        fn established(&self, frame: &str) -> Established {
            let ClientFrame::SessionInit(id, raw) = Inbound::decode(frame).unwrap().frame else {
                panic!("an init was expected")
            };
            raw.read(id).unwrap().open(&self.node).unwrap().authenticate().unwrap()
        }

        fn admit(&mut self, frame: &str, conversation: u64, now: u64) -> Result<(), NotRemembered> {
            let established = self.established(frame);
            self.memory.admit(&established, conversation, here(), now)
        }
    }

    fn here() -> Network {
        Network::from(IpAddr::from([127, 0, 0, 1]))
    }

    fn hour() -> InitMemoryLimits {
        InitMemoryLimits::standard(3600)
    }

    #[test]
    fn what_is_printed_of_a_memory_is_how_much_it_holds() {
        let secret = ProcessSecret([7; 32]);
        let memory = InitMemory::new(secret, InitMemoryLimits::standard(3600));
        assert_eq!(format!("{memory:?}"), "InitMemory { inits: 0, .. }");
    }

    #[test]
    fn an_init_opens_one_session_while_its_conversation_lives_and_the_ttl_after() {
        let mut fixture = Fixture::new(hour());
        let frame = fixture.init(None);
        fixture.admit(&frame, 1, 0).unwrap();
        assert_eq!(fixture.admit(&frame, 2, 1_000_000), Err(ReplayError::Init.into()));
        fixture.memory.conversation_ended(1, 1_000_000);
        assert_eq!(fixture.admit(&frame, 2, 1_003_599), Err(ReplayError::Init.into()));
        assert_eq!(fixture.admit(&frame, 2, 1_003_600), Ok(()));
    }

    #[test]
    fn an_init_is_remembered_for_ten_minutes_whatever_the_ttl() {
        let mut fixture = Fixture::new(InitMemoryLimits { keep_seconds: 1, ..hour() });
        let frame = fixture.init(None);
        fixture.admit(&frame, 1, 0).unwrap();
        fixture.memory.conversation_ended(1, 0);
        assert_eq!(fixture.admit(&frame, 2, 599), Err(ReplayError::Init.into()));
        assert_eq!(fixture.admit(&frame, 2, 600), Ok(()));
    }

    #[test]
    fn an_init_is_remembered_for_five_minutes_past_its_timestamp() {
        let mut fixture = Fixture::new(InitMemoryLimits { keep_seconds: 1, ..hour() });
        let frame = fixture.init(Some(1000));
        fixture.admit(&frame, 1, 0).unwrap();
        fixture.memory.conversation_ended(1, 0);
        assert_eq!(fixture.established(&frame).check_time(1300, None), Ok(()), "it is still fresh");
        assert_eq!(fixture.admit(&frame, 2, 1300), Err(ReplayError::Init.into()));
        assert_eq!(fixture.admit(&frame, 2, 1301), Ok(()));
    }

    #[test]
    fn a_full_memory_refuses_the_new_and_keeps_the_old() {
        let mut fixture = Fixture::new(InitMemoryLimits { per_network: 1, ..hour() });
        let (first, second) = (fixture.init(None), fixture.init(None));
        fixture.admit(&first, 1, 0).unwrap();
        assert_eq!(fixture.admit(&second, 2, 0), Err(MemoryFull.into()));
        assert_eq!(fixture.admit(&first, 3, 0), Err(ReplayError::Init.into()));
        let elsewhere = Network::from(IpAddr::from([127, 0, 0, 2]));
        let established = fixture.established(&second);
        assert_eq!(fixture.memory.admit(&established, 2, elsewhere, 0), Ok(()));
    }

    #[test]
    fn what_is_forgotten_makes_room_for_others_of_its_network() {
        let mut fixture = Fixture::new(InitMemoryLimits { per_network: 1, keep_seconds: 1, ..hour() });
        let (first, second) = (fixture.init(None), fixture.init(None));
        fixture.admit(&first, 1, 0).unwrap();
        fixture.memory.conversation_ended(1, 0);
        assert_eq!(fixture.admit(&second, 2, 599), Err(MemoryFull.into()));
        assert_eq!(fixture.admit(&second, 2, 600), Ok(()));
        assert_eq!(fixture.memory.len(), 1);
    }

    #[test]
    fn what_is_forgotten_makes_room_for_itself_alone() {
        let mut fixture = Fixture::new(InitMemoryLimits { per_network: 2, keep_seconds: 1, ..hour() });
        for conversation in [1, 2] {
            let frame = fixture.init(None);
            fixture.admit(&frame, conversation, 0).unwrap();
        }
        fixture.memory.conversation_ended(1, 0);
        let (third, fourth) = (fixture.init(None), fixture.init(None));
        assert_eq!(fixture.admit(&third, 3, 600), Ok(()));
        assert_eq!(fixture.admit(&fourth, 4, 600), Err(MemoryFull.into()));
        for conversation in [2, 3] {
            fixture.memory.conversation_ended(conversation, 600);
        }
        fixture.memory.forget_expired(10_000);
        assert!(fixture.memory.is_empty() && fixture.memory.per_network.is_empty());
    }

    #[test]
    fn to_ask_whether_an_init_is_new_takes_no_note_of_it() {
        let mut fixture = Fixture::new(hour());
        let frame = fixture.init(None);
        let established = fixture.established(&frame);
        for _ in 0..2 {
            assert_eq!(fixture.memory.refuse_seen(&established, 0), Ok(()));
        }
        fixture.admit(&frame, 1, 0).unwrap();
        assert_eq!(fixture.memory.refuse_seen(&established, 0), Err(ReplayError::Init));
    }

    #[test]
    fn one_ipv6_network_is_a_64() {
        let net = |text: &str| Network::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(net("2001:db8::1"), net("2001:db8::ffff:1"));
        assert_ne!(net("2001:db8::1"), net("2001:db8:0:1::1"));
        assert_eq!(net("::ffff:10.0.0.1"), net("10.0.0.1"));
        assert_ne!(net("10.0.0.1"), net("10.0.0.2"));
    }
}
