//! How much of the node one client or one network may have, and what is told of it when that is too much.
//!
//! Two kinds: [`Shares`] of what there is a number of (connections, sessions, requests in flight), given back on drop,
//! and rates ([`Limiter`], [`Debts`]), which say how long to wait. Of room nobody can say when there will be some.

use std::{net::IpAddr, sync::Arc, time::Duration};

use fabstir_protocol::{Code, ethereum::Address, v1::Network};

use crate::{config::Config, metrics};

mod buckets;
mod shares;

pub use buckets::{Debts, Limiter};
pub use shares::{Share, Shares};

/// The limits, by the names that the metric knows them under.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(missing_docs, reason = "each is the setting of the same name, or a row of docs/operating.md")]
pub enum Limit {
    Connections,
    ConnectionsPerNetwork,
    FirstMessage,
    IdleConnection,
    InitsPerNetwork,
    InitsPerAddress,
    RememberedInits,
    Sessions,
    SessionsPerConnection,
    SessionsPerAddress,
    AnonymousSessionsPerNetwork,
    RequestsPerAddress,
    QueuedMessages,
    QueuedMemory,
    MessagesPerSession,
    TokensPerAddress,
    Challenges,
}

impl Limit {
    /// The label of the metric.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::ConnectionsPerNetwork => "connections_per_network",
            Self::FirstMessage => "first_message",
            Self::IdleConnection => "idle_connection",
            Self::InitsPerNetwork => "inits_per_network",
            Self::RememberedInits => "remembered_inits",
            Self::InitsPerAddress => "inits_per_address",
            Self::Sessions => "sessions",
            Self::SessionsPerConnection => "sessions_per_connection",
            Self::SessionsPerAddress => "sessions_per_address",
            Self::AnonymousSessionsPerNetwork => "anonymous_sessions_per_network",
            Self::QueuedMessages => "queued_messages",
            Self::QueuedMemory => "queued_mib",
            Self::RequestsPerAddress => "requests_per_address",
            Self::MessagesPerSession => "messages_per_session",
            Self::TokensPerAddress => "tokens_per_address",
            Self::Challenges => "challenges",
        }
    }
}

/// A refusal as it is told: of a limit that was hit, or whatever else.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Hit {
    /// RATE_LIMITED, or NODE_BUSY where it is room.
    pub code: Code,
    /// How long to wait, where that can be said.
    pub wait: Option<Duration>,
}

impl From<Code> for Hit {
    fn from(code: Code) -> Self {
        Self { code, wait: None }
    }
}

impl Hit {
    fn rate(limit: Limit, wait: Duration) -> Self {
        metrics::limit_hit(limit);
        Self { code: Code::RateLimited, wait: Some(wait) }
    }

    pub(crate) fn room(limit: Limit) -> Self {
        metrics::limit_hit(limit);
        Self { code: Code::NodeBusy, wait: None }
    }
}

/// A wait as it is told: never shorter than it is, so that who waits so long gets in.
pub fn milliseconds(wait: Duration) -> u64 {
    u64::try_from(wait.as_micros().div_ceil(1000)).unwrap_or(u64::MAX).max(1)
}

/// For whom something counts.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Party {
    /// A wallet that was proved.
    Address(Address),
    /// Where somebody comes from of whom nothing is proved.
    Network(Network),
    /// This machine: the operator, or a proxy that is not in TRUSTED_PROXIES and hides everybody behind it. It may have
    /// all the room there is, or the first clients of such a proxy would lock the others out; its rates count.
    Local,
}

impl Party {
    /// Who is at `peer`, by the address that was proved.
    pub fn of(proved: Option<Address>, peer: IpAddr) -> Self {
        match proved {
            Some(address) => Self::Address(address),
            None if peer.to_canonical().is_loopback() => Self::Local,
            None => Self::Network(Network::from(peer)),
        }
    }
}

/// Every limit of a client or a network, and how far each is used.
#[derive(Debug)]
pub struct Limits {
    inits: Limiter<Network>,
    inits_of_address: Limiter<Address>,
    challenges: Limiter<Network>,
    /// By the session's number.
    messages: Limiter<u64>,
    tokens: Option<Debts<Party>>,
    connections: Shares<Party>,
    sessions: Shares<Party>,
    requests: Shares<Party>,
    most_connections: usize,
    most_sessions: usize,
    most_anonymous: usize,
    most_requests: usize,
}

impl Limits {
    /// None used yet.
    pub fn new(config: &Config) -> Self {
        Self {
            inits: Limiter::per_minute(config.inits_per_minute),
            inits_of_address: Limiter::per_minute(config.inits_per_minute_per_address),
            challenges: Limiter::per_minute(config.challenges_per_minute),
            messages: Limiter::per_minute(config.messages_per_minute),
            tokens: config.tokens_per_minute.map(Debts::per_minute),
            connections: Shares::default(),
            sessions: Shares::default(),
            requests: Shares::default(),
            most_connections: config.max_connections_per_network,
            most_sessions: config.max_sessions_per_address,
            most_anonymous: config.max_anonymous_sessions_per_network,
            most_requests: config.max_requests_per_address,
        }
    }

    /// A connection of the network of `peer`.
    ///
    /// # Errors
    /// [`Hit`] where the network has as many as it may.
    pub fn connection(&self, peer: IpAddr) -> Result<Share<Party>, Hit> {
        let party = Party::of(None, peer);
        let most = if party == Party::Local { usize::MAX } else { self.most_connections };
        self.connections.take(party, most).ok_or_else(|| Hit::room(Limit::ConnectionsPerNetwork))
    }

    /// A session.
    ///
    /// # Errors
    /// [`Hit`] where the party has as many as it may.
    pub fn session(&self, party: Party) -> Result<Share<Party>, Hit> {
        let (most, limit) = match party {
            Party::Address(_) => (self.most_sessions, Limit::SessionsPerAddress),
            Party::Network(_) => (self.most_anonymous, Limit::AnonymousSessionsPerNetwork),
            Party::Local => (usize::MAX, Limit::AnonymousSessionsPerNetwork),
        };
        self.sessions.take(party, most).ok_or_else(|| Hit::room(limit))
    }

    /// A request in flight.
    ///
    /// # Errors
    /// [`Hit`] where the party has as many as it may.
    pub fn request(&self, party: Party) -> Result<Share<Party>, Hit> {
        let most = if party == Party::Local { usize::MAX } else { self.most_requests };
        self.requests.take(party, most).ok_or_else(|| Hit::room(Limit::RequestsPerAddress))
    }

    /// Counts an init or a handshake, before anything is computed for it.
    ///
    /// # Errors
    /// [`Hit`] where the network sends too many.
    pub fn init(&self, peer: IpAddr) -> Result<(), Hit> {
        self.inits.check(&Network::from(peer)).map_err(|wait| Hit::rate(Limit::InitsPerNetwork, wait))
    }

    /// Counts an init or a handshake whose sender proved an address.
    ///
    /// # Errors
    /// [`Hit`] where the address sends too many.
    pub fn init_of(&self, address: Address) -> Result<(), Hit> {
        self.inits_of_address.check(&address).map_err(|wait| Hit::rate(Limit::InitsPerAddress, wait))
    }

    /// Counts a challenge.
    ///
    /// # Errors
    /// [`Hit`] where the network sends too many.
    pub fn challenge(&self, peer: IpAddr) -> Result<(), Hit> {
        self.challenges.check(&Network::from(peer)).map_err(|wait| Hit::rate(Limit::Challenges, wait))
    }

    /// Counts a message of the session of this number, whose answer would be on `party`'s account.
    ///
    /// # Errors
    /// [`Hit`] where the session sends too many, or the party has used more tokens than it may.
    pub fn message(&self, session: u64, party: Party) -> Result<(), Hit> {
        self.messages.check(&session).map_err(|wait| Hit::rate(Limit::MessagesPerSession, wait))?;
        let Some(tokens) = &self.tokens else { return Ok(()) };
        tokens.check(&party).map_err(|wait| Hit::rate(Limit::TokensPerAddress, wait))
    }

    /// Forgets who has been quiet.
    pub fn shrink(&self) {
        self.inits.shrink();
        self.inits_of_address.shrink();
        self.challenges.shrink();
        self.messages.shrink();
        if let Some(tokens) = &self.tokens {
            tokens.shrink();
        }
    }
}

/// Whose account the tokens of an answer are on.
#[derive(Clone, Debug)]
pub struct Meter {
    limits: Arc<Limits>,
    party: Party,
    charged: u32,
}

impl Meter {
    /// For one answer.
    pub fn new(limits: &Arc<Limits>, party: Party) -> Self {
        Self { limits: Arc::clone(limits), party, charged: 0 }
    }

    /// Charges what was not yet, of `used` tokens in all. As the answer is made: whoever hangs up has had what was made.
    pub fn reads(&mut self, used: u32) {
        let more = used.saturating_sub(self.charged);
        self.charged = self.charged.max(used);
        if let Some(tokens) = self.limits.tokens.as_ref().filter(|_| more > 0) {
            tokens.charge(&self.party, more);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_never_told_shorter_than_it_is() {
        assert_eq!(milliseconds(Duration::from_micros(1_500_001)), 1501);
        assert_eq!(milliseconds(Duration::from_nanos(1)), 1);
        assert_eq!(milliseconds(Duration::ZERO), 1);
    }

    #[test]
    fn who_proves_nothing_counts_by_network_and_this_machine_by_itself() {
        let party = |peer: &str| Party::of(None, peer.parse().unwrap());
        assert_eq!(party("2001:db8::1"), party("2001:db8::ffff:2"), "a /64 is one");
        assert_ne!(party("2001:db8::1"), party("2001:db8:0:1::1"));
        assert_eq!(party("::ffff:192.0.2.1"), party("192.0.2.1"));
        for local in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(party(local), Party::Local);
        }
    }
}
