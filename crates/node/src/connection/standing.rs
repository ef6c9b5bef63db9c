//! For whom a connection's sessions count, and what becomes of them when their owners may no longer have any.

use std::time::Duration;

use fabstir_protocol::{
    Code,
    id::SessionId,
    v1::{Echo, Owner},
};
use tokio::time::{Instant, timeout};

use super::Connection;
use crate::limits::{Hit, Party, Share};

/// How long the answers of somebody who is shown out get to say how they ended.
const LAST_WORDS: Duration = Duration::from_secs(1);

impl Connection {
    /// For whom what `owner` asks counts. An address that nobody vouches for is had for nothing.
    pub(super) fn party(&self, owner: Option<Owner>) -> Party {
        let proved = match owner {
            Some(Owner::Verified(address)) => Some(address),
            Some(Owner::Unclaimed(_)) | None => None,
        };
        Party::of(proved, self.peer)
    }

    /// Room for a session of `owner`, unless it goes on with one that has it.
    pub(super) fn room_for(&self, owner: Option<Owner>, id: &SessionId) -> Result<Option<Share<Party>>, Hit> {
        if self.node.sessions.continues(owner, self.id, id, Instant::now()) {
            return Ok(None);
        }
        self.node.limits.session(self.party(owner)).map(Some)
    }

    /// Whether there is a session, or is about to be one.
    pub(super) fn has_session(&self) -> bool {
        self.link.has_begun() || self.is_busy() || !self.node.sessions.of_connection(self.id).is_empty()
    }

    /// Ends the sessions whose owners are no longer admitted, and tells their client. True where none is left.
    pub(super) async fn judge_again(&mut self) -> bool {
        let live = self.node.sessions.of_connection(self.id);
        let is_out = |owner: Owner| !self.node.access.admits_owner(&owner);
        let out: Vec<_> = live.iter().filter(|live| live.owner().is_some_and(is_out)).collect();
        if out.is_empty() {
            return false;
        }
        for session in &out {
            self.node.sessions.end(self.id, session.id(), Instant::now());
            tracing::info!(event = "session_key", session_id = %session.id(), "session ended: its client is no longer allowed");
        }
        let none_is_left = out.len() == live.len();
        if none_is_left {
            // Cancelled, and say so.
            self.answers.close();
            let _ = timeout(LAST_WORDS, self.answers.wait()).await;
        }
        for session in &out {
            let echo = Echo { session_id: Some(session.id().clone()), id: None };
            self.refuse(&echo, Code::ClientNotAllowed.into()).await;
        }
        none_is_left
    }
}
