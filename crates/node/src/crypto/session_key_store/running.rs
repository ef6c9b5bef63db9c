//! Who is at work: it keeps a conversation from expiring.

use std::sync::Arc;

use tokio::time::Instant;

use super::{
    ConnectionId, SessionKeyStore,
    records::{ConversationKey, Record},
};
use crate::crypto::{LiveSession, lock};

impl SessionKeyStore {
    /// Marks a session as at work, from an opened message until its answer has ended.
    pub fn begin(
        self: &Arc<Self>,
        live: Arc<LiveSession>,
        connection: ConnectionId,
        now: Instant,
    ) -> Running {
        let key = ConversationKey::of(live.owner, connection, &live.id);
        self.update(&key, live.number, |record| {
            record.running = record.running.saturating_add(1);
            record.last_active = now;
        });
        Running { store: Arc::clone(self), live, key }
    }

    /// Takes note that a frame of the session has opened.
    pub fn touch(&self, live: &LiveSession, connection: ConnectionId, now: Instant) {
        let key = ConversationKey::of(live.owner, connection, &live.id);
        self.update(&key, live.number, |record| record.last_active = now);
    }

    fn update(&self, key: &ConversationKey, number: u64, change: impl FnOnce(&mut Record)) {
        let mut inner = lock(&self.inner);
        if let Some(record) = inner.records.get_mut(key).filter(|record| record.number == number) {
            change(record);
        }
    }
}

/// A message whose answer has not ended. Keeps its conversation from expiring, and its key alive.
#[derive(Debug)]
pub struct Running {
    store: Arc<SessionKeyStore>,
    live: Arc<LiveSession>,
    key: ConversationKey,
}

impl Running {
    /// The session that is at work.
    pub fn live(&self) -> &Arc<LiveSession> {
        &self.live
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.store.update(&self.key, self.live.number, |record| {
            record.running = record.running.saturating_sub(1);
            record.last_active = Instant::now();
        });
    }
}
