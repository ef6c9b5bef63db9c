//! Conversations as the registry keeps them: whose they are, who has them, and when they are over.

use std::sync::Arc;

use fabstir_protocol::{ethereum::Address, id::SessionId, v1::Owner};
use tokio::time::Instant;

use super::{ConnectionId, StoreLimits};
use crate::{
    conversation::Conversation,
    ledger::{Client, Counts, SessionLine},
};

/// Whose a conversation is: its wallet's, or its connection's where nobody vouches for one.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) enum ConversationKey {
    Claimed(Address, SessionId),
    Connection(ConnectionId, SessionId),
}

impl ConversationKey {
    pub(super) fn of(owner: Option<Owner>, connection: ConnectionId, id: &SessionId) -> Self {
        match owner {
            Some(Owner::Verified(address)) => Self::Claimed(address, id.clone()),
            Some(Owner::Unclaimed(_)) | None => Self::Connection(connection, id.clone()),
        }
    }

    pub(super) fn session_id(&self) -> &SessionId {
        match self {
            Self::Claimed(_, id) | Self::Connection(_, id) => id,
        }
    }
}

/// Who has a conversation now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Holder {
    Connection(ConnectionId),
    NobodySince(Instant),
}

/// A conversation that may be gone on with.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) number: u64,
    pub(super) conversation: Arc<Conversation>,
    pub(super) holder: Holder,
    pub(super) first_init: Instant,
    pub(super) last_active: Instant,
    pub(super) running: usize,
}

impl Record {
    /// As the operator is shown it, where its connection is gone. What it took is on the accounts of the sessions that it had.
    pub(super) fn line(&self, key: &ConversationKey, now: Instant) -> Option<SessionLine> {
        let (ConversationKey::Claimed(address, id), Holder::NobodySince(_)) = (key, self.holder) else {
            return None;
        };
        let since = |at: Instant| now.saturating_duration_since(at).as_secs();
        Some(SessionLine {
            session_id: id.to_string(),
            version: 1,
            state: "grace".to_owned(),
            client: Client::Wallet(*address).to_string(),
            age_seconds: since(self.first_init),
            idle_seconds: since(self.last_active),
            counts: Counts::default(),
            bytes_in: 0,
            bytes_out: 0,
        })
    }

    pub(super) fn is_expired(&self, limits: &StoreLimits, now: Instant) -> bool {
        let over = |since: Instant, limit| now.saturating_duration_since(since) >= limit;
        let abandoned = matches!(self.holder, Holder::NobodySince(since) if over(since, limits.grace));
        abandoned
            || over(self.first_init, limits.session_max)
            || (self.running == 0 && over(self.last_active, limits.ttl))
    }
}
